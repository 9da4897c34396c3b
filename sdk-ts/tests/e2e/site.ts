/** A web site with the package as it is published, and a real browser that looks at it. */

import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { build } from "esbuild";
import type { Browser, Page } from "playwright-core";
import { launch } from "./chromium.js";
import { SDK, unpack } from "./pack.js";

const HTML = `<!doctype html><meta charset="utf-8"><textarea disabled></textarea><output></output><script type="module" src="/page.js"></script>`;

/** Bundles the page of the tests below `directory`, and gives the folder. */
async function bundle(directory: string): Promise<string> {
  const modules = unpack(directory);
  await build({
    entryPoints: { page: join(SDK, "tests/e2e/page.ts") },
    bundle: true,
    format: "esm",
    splitting: true,
    minify: true,
    target: "es2022",
    alias: { "@etherply/sdk": join(modules, "dist/index.js") },
    outdir: join(directory, "site"),
    logLevel: "error",
  });
  return join(directory, "site");
}

/** The site and the browser. */
export class Site {
  private constructor(
    readonly browser: Browser,
    private readonly pages: Server,
  ) {}

  /** Bundles and serves the pages below `directory`, and starts a browser with these flags besides. */
  static async start(directory: string, ...args: readonly string[]): Promise<Site> {
    const site = await bundle(directory);
    const pages = createServer((request, response) => {
      const path = join(site, new URL(request.url ?? "/", "http://page").pathname);
      const isFile = path.endsWith(".js") && existsSync(path);
      response.setHeader("content-type", isFile ? "text/javascript" : "text/html");
      response.end(isFile ? readFileSync(path) : HTML);
    });
    pages.listen(0, "127.0.0.1");
    await once(pages, "listening");
    const browser = await launch(...args);
    return new Site(browser, pages);
  }

  async close(): Promise<void> {
    await this.browser.close();
    this.pages.close();
  }

  /** Where the pages are. */
  get origin(): string {
    return `http://127.0.0.1:${(this.pages.address() as AddressInfo).port}`;
  }

  /** The page's address for a user and a server. */
  address(subject: string, url: string, ...flags: readonly ("memory" | "patient" | "guard")[]): string {
    return `${this.origin}/?subject=${subject}&server=${encodeURIComponent(url)}${flags.map((flag) => `&${flag}`).join("")}`;
  }
}

/** Waits until the page shows this text. */
export const shows = (page: Page, text: string) =>
  page.waitForFunction((wanted) => document.querySelector("textarea")?.value === wanted, text);
/** Waits until its line of status begins with this. */
export const says = async (page: Page, text: string): Promise<void> => {
  const line = page.locator("output");
  try {
    await page.waitForFunction((wanted) => document.querySelector("output")?.textContent?.startsWith(wanted), text);
  } catch (cause) {
    throw new Error(`the page says "${(await line.textContent()) ?? ""}", not "${text}"`, { cause });
  }
};
/** Types text at one end of what is there. */
export const type = (page: Page, text: string, at: "start" | "end") =>
  page.evaluate(
    ([added, where]) => {
      const area = document.querySelector("textarea")!;
      area.value = where === "start" ? added + area.value : area.value + added;
      area.dispatchEvent(new Event("input"));
    },
    [text, at] as const,
  );
