/** The example `examples/text-editor`, as its one command starts it: two people write in one text. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { binary, Proxy, TestServer } from "../integration/server.js";
import { launch, Service } from "./chromium.js";
import { SDK } from "./pack.js";

const EXAMPLE = join(SDK, "examples/text-editor");
/** When something that never comes is given up. */
const PATIENCE_MS = 60_000;
const PAGE = /^page\s+(\S+)/;

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser?.close());

async function open(url: string): Promise<Page> {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(error));
  await page.goto(url);
  await page.waitForSelector(".cm-content");
  return page;
}

const text = (page: Page): Promise<string> =>
  page.evaluate(() => [...document.querySelectorAll(".cm-line")].map((line) => {
    const copy = line.cloneNode(true) as Element;
    copy.querySelectorAll(".caret, .cm-placeholder, .cm-widgetBuffer").forEach((widget) => widget.remove());
    return copy.textContent;
  }).join("\n"));
const shows = async (page: Page, wanted: string): Promise<void> => {
  await expect.poll(() => text(page), { timeout: PATIENCE_MS, interval: 20 }).toBe(wanted);
};
const stands = (page: Page, state: string, saved: boolean) =>
  page.waitForSelector(`.standing[data-state="${state}"][data-saved="${saved}"]`);
const caretOf = (page: Page) => page.waitForSelector(".caret-name");
const faces = (page: Page, count: number) =>
  page.waitForFunction((wanted) => document.querySelectorAll(".face").length === wanted, count);
/** Presses a button until there is nothing left that it could do. */
async function pressAll(page: Page, label: string): Promise<void> {
  const button = page.getByLabel(label);
  while (await button.isEnabled()) await button.click();
}

it("two people write at once, offline too, and while the server is killed", { timeout: 5 * PATIENCE_MS }, async () => {
  const server = await new TestServer().start();
  const proxy = await new Proxy(() => server.port).start();
  const example = new Service("node", ["start.mjs"], { cwd: EXAMPLE, env: { ETHERPLY_URL: proxy.url, PORT: "0" } });
  try {
    const [, url = ""] = await example.says(PAGE);
    const [ada, ben] = await Promise.all([open(`${url}#texts/e2e`), open(`${url}#texts/e2e`)]);
    await Promise.all([stands(ada, "live", true), stands(ben, "live", true), faces(ada, 2), faces(ben, 2)]);

    await ada.keyboard.type("Dear Ben,");
    await ada.keyboard.press("Enter");
    await shows(ben, "Dear Ben,\n");
    await ben.keyboard.press("Control+End");
    await Promise.all([caretOf(ada), caretOf(ben)]);

    // Both at once, in different lines.
    await ada.keyboard.press("Control+Home");
    await Promise.all([ada.keyboard.type("My "), ben.keyboard.type("hello 👋")]);
    await Promise.all([shows(ada, "My Dear Ben,\nhello 👋"), shows(ben, "My Dear Ben,\nhello 👋")]);
    const drawn = await ada.evaluate(() => {
      const caret = document.querySelector(".caret")!;
      return { line: caret.closest(".cm-line")?.textContent?.startsWith("hello"), name: caret.textContent?.length };
    });
    expect(drawn.line, "Ben's caret is in the line that he writes").toBe(true);
    expect(drawn.name).toBeGreaterThan(2);

    // Undo takes back all that Ada did, and nothing of Ben's. How much one step takes depends on the time between keys.
    await pressAll(ada, "Undo");
    await Promise.all([shows(ada, "hello 👋"), shows(ben, "hello 👋")]);
    await pressAll(ada, "Redo");
    await Promise.all([shows(ada, "My Dear Ben,\nhello 👋"), shows(ben, "My Dear Ben,\nhello 👋")]);

    proxy.cut();
    await Promise.all([stands(ada, "offline", true), stands(ben, "offline", true)]);
    await ada.locator(".cm-content").focus();
    await ada.keyboard.press("Control+Home");
    await ada.keyboard.type("(1) ");
    await ben.keyboard.type(", Ada");
    await Promise.all([stands(ada, "offline", false), stands(ben, "offline", false)]);
    await server.kill();
    // Ada's page is loaded again while there is neither network nor server.
    await ada.reload();
    await shows(ada, "(1) My Dear Ben,\nhello 👋");
    await server.start();
    proxy.mend();
    const all = "(1) My Dear Ben,\nhello 👋, Ada";
    await Promise.all([shows(ada, all), shows(ben, all), stands(ada, "live", true), stands(ben, "live", true)]);
    await Promise.all([faces(ada, 2), faces(ben, 2)]);

    // Both in the middle of the same line.
    await server.kill();
    await ada.keyboard.press("Control+End");
    await ada.keyboard.press("Backspace");
    await ben.keyboard.type("!");
    await server.start();
    const merged = "(1) My Dear Ben,\nhello 👋, Ad!";
    await Promise.all([shows(ada, merged), shows(ben, merged), stands(ada, "live", true), stands(ben, "live", true)]);
  } finally {
    await example.stop();
    await proxy.close();
    await server.remove();
  }
});

it("its one command starts the server too, and ends it", { timeout: 5 * PATIENCE_MS }, async () => {
  const data = mkdtempSync(join(tmpdir(), "etherply-example-"));
  const env = { ETHERPLY_BIN: binary(), ETHERPLY_DATA: data, ETHERPLY_LISTEN: "127.0.0.1:0", ETHERPLY_CONTROL: "127.0.0.1:0", ETHERPLY_CORES: "1", PORT: "0" };
  const example = new Service("node", ["start.mjs"], { cwd: EXAMPLE, env });
  try {
    const [, url = ""] = await example.says(PAGE);
    const page = await open(url);
    await stands(page, "live", true);
    await expect.poll(() => text(page), { timeout: PATIENCE_MS }).toContain("# Welcome");
  } finally {
    await example.stop();
    rmSync(data, { recursive: true, force: true });
  }
});
