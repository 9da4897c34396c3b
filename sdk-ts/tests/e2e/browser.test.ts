/** Two pages in a real browser, with the package as it is published: the network goes, the server is killed. */

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, it } from "vitest";
import { Proxy, TestServer } from "../integration/server.js";
import { SDK, unpack } from "./pack.js";

const HTML = `<!doctype html><meta charset="utf-8"><textarea disabled></textarea><output></output><script type="module" src="/page.js"></script>`;

const directory = mkdtempSync(join(tmpdir(), "etherply-e2e-"));
const server = new TestServer();
let proxy: Proxy;
let pages: Server;
let browser: Browser;

/** Bundles the page with the package as it is published. */
async function bundle(): Promise<string> {
  const modules = unpack(directory);
  const entry = join(SDK, "tests/e2e/page.ts");
  await build({
    entryPoints: { page: entry },
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

beforeAll(async () => {
  await server.start();
  proxy = await new Proxy(() => server.port).start();
  const site = await bundle();
  pages = createServer((request, response) => {
    const path = join(site, new URL(request.url ?? "/", "http://page").pathname);
    const isFile = path.endsWith(".js") && existsSync(path);
    response.setHeader("content-type", isFile ? "text/javascript" : "text/html");
    response.end(isFile ? readFileSync(path) : HTML);
  });
  pages.listen(0, "127.0.0.1");
  await once(pages, "listening");
  browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
  });
});

afterAll(async () => {
  await browser?.close();
  pages?.close();
  await proxy?.close();
  await server.remove();
  rmSync(directory, { recursive: true, force: true });
});

async function open(subject: string, url: string): Promise<Page> {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(subject, error));
  await page.goto(address(subject, url));
  await page.waitForSelector("textarea:enabled");
  return page;
}

function address(subject: string, url: string): string {
  return `http://127.0.0.1:${(pages.address() as AddressInfo).port}/?subject=${subject}&server=${encodeURIComponent(url)}`;
}

const shows = (page: Page, text: string) =>
  page.waitForFunction((wanted) => document.querySelector("textarea")?.value === wanted, text);
const says = (page: Page, text: string) =>
  page.waitForFunction((wanted) => document.querySelector("output")?.textContent?.startsWith(wanted), text);
const type = (page: Page, text: string, at: "start" | "end") =>
  page.evaluate(
    ([added, where]) => {
      const area = document.querySelector("textarea")!;
      area.value = where === "start" ? added + area.value : area.value + added;
      area.dispatchEvent(new Event("input"));
    },
    [text, at] as const,
  );

it("two pages converge though one was offline and reloaded, and the server was killed", async () => {
  const ada = await open("ada", proxy.url);
  const ben = await open("ben", server.url);
  await says(ada, "live kept saved 1");
  await says(ben, "live kept saved 1");
  await type(ada, "hello", "end");
  await shows(ben, "hello");

  proxy.cut();
  await says(ada, "offline");
  await type(ada, " from ada", "end");
  await says(ada, "offline kept unsaved");
  await type(ben, "ben says ", "start");
  await says(ben, "live kept saved");
  await server.kill();
  await says(ben, "offline");
  await type(ben, "[", "start");

  // The page is loaded again while there is neither network nor server.
  await ada.goto(address("ada", proxy.url));
  await ada.waitForSelector("textarea:enabled");
  await shows(ada, "hello from ada");
  await type(ada, "]", "end");
  await says(ada, "offline kept unsaved");

  await server.start();
  proxy.mend();
  const all = "[ben says hello from ada]";
  await Promise.all([shows(ada, all), shows(ben, all)]);
  await Promise.all([says(ada, "live kept saved 1"), says(ben, "live kept saved 1")]);
});
