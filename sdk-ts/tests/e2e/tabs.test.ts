/** Several pages of one user in a real browser: one WebSocket, whatever becomes of the page that has it. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { TestServer } from "../integration/server.js";
import { says, shows, Site, type } from "./site.js";

const directory = mkdtempSync(join(tmpdir(), "etherply-tabs-"));
const server = new TestServer();
let site: Site;
/** Pages in the order in which they made a connection: the last one has it. */
const leaders: Page[] = [];

beforeAll(async () => {
  await server.start();
  site = await Site.start(directory);
});
afterAll(async () => {
  await site?.close();
  await server.remove();
  rmSync(directory, { recursive: true, force: true });
});

async function open(context: BrowserContext): Promise<Page> {
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(error));
  page.on("websocket", () => leaders.push(page));
  await page.goto(site.address("ada", server.url));
  await page.waitForSelector("textarea:enabled");
  return page;
}

it("share one WebSocket, and lose nothing when the page that has it is closed, crashes, or goes elsewhere", async () => {
  const context = await site.browser.newContext();
  const elsewhere = await open(await site.browser.newContext());
  let pages = [await open(context), await open(context), await open(context), await open(context)];
  // Each page of a user sees the others and the one elsewhere; that one sees one member.
  for (const page of pages) await says(page, "live kept saved 4");
  await says(elsewhere, "live kept saved 1");
  expect(await server.metric("etherply_connections_active")).toBe(2);
  expect(await server.metric("etherply_connections_accepted_total")).toBe(2);

  let text = "";
  let connections = 2;
  for (const end of ["close", "crash", "navigate"] as const) {
    const leader = leaders.at(-1)!;
    const rest = pages.filter((page) => page !== leader);
    expect(pages).toContain(leader);
    for (const page of pages) {
      await type(page, `${pages.indexOf(page)}`, "end");
      text += `${pages.indexOf(page)}`;
      for (const other of pages) await shows(other, text);
    }
    // The next letter of everybody is under way when the leader ends.
    const typed = rest.map((page, index) => type(page, "abc"[index]!, "start"));
    if (end === "close") await leader.close();
    else if (end === "crash") await crash(context, leader);
    else await leader.goto("about:blank");
    await Promise.all(typed);
    pages = rest;
    connections += 1;
    for (const page of pages) await says(page, `live kept saved ${pages.length}`);
    text = await pages[0]!.locator("textarea").inputValue();
    expect([...text].sort().join("")).toContain("abc".slice(0, rest.length));
    for (const page of [...pages, elsewhere]) await shows(page, text);
    await says(elsewhere, "live kept saved 1");
    expect(await server.metric("etherply_connections_active")).toBe(2);
    expect(await server.metric("etherply_connections_accepted_total")).toBe(connections);
  }
  // What is there without the letters is everything that was typed in order.
  expect([...text].filter((letter) => /[0-9]/.test(letter)).join("")).toBe("0123" + "012" + "01");
  expect([...text].filter((letter) => /[abc]/.test(letter)).length).toBe(3 + 2 + 1);
}, 180_000);

/** Ends a page as a fault in it does. */
async function crash(context: BrowserContext, page: Page): Promise<void> {
  const session = await context.newCDPSession(page);
  const crashed = page.waitForEvent("crash");
  session.send("Page.crash").catch(() => undefined);
  await crashed;
}
