/** What happens to a page in a real browser: the network comes back, nobody looks at it, it is frozen, it is left. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { Proxy, TestServer } from "../integration/server.js";
import { says, shows, Site, type } from "./site.js";

const directory = mkdtempSync(join(tmpdir(), "etherply-lifecycle-"));
let server: TestServer;
let proxy: Proxy;
let site: Site;

beforeAll(async () => {
  site = await Site.start(directory);
});
beforeEach(async () => {
  server = await new TestServer().start();
  proxy = await new Proxy(() => server.port).start();
});
afterEach(async () => {
  await Promise.all(site.browser.contexts().map((context) => context.close()));
  await proxy.close();
  await server.remove();
});
afterAll(async () => {
  await site?.close();
  rmSync(directory, { recursive: true, force: true });
});

type Flag = Parameters<Site["address"]>[2];

async function open(subject: string, url: string, ...flags: readonly NonNullable<Flag>[]): Promise<Page> {
  const context = await site.browser.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(subject, error));
  await page.goto(site.address(subject, url, ...flags));
  await page.waitForSelector("textarea:enabled");
  return page;
}

/** Nobody looks at the page, or somebody does again. A browser without a screen has no tabs to switch between. */
const looks = (page: Page, state: "hidden" | "visible"): Promise<void> =>
  page.evaluate((now) => {
    Object.defineProperty(document, "visibilityState", { value: now, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);

/** A page that lost its connection and could have another, and how many there were. */
async function waiting(): Promise<{ readonly page: Page; readonly before: number }> {
  const page = await open("ada", proxy.url, "patient");
  await says(page, "live");
  proxy.cut();
  await says(page, "offline");
  proxy.mend();
  const before = proxy.connections;
  return { page, before };
}

describe("a page that waits an hour before it tries again", () => {
  it("is connected at once when the network is back", async () => {
    const { page, before } = await waiting();
    // The browser itself tells the page.
    await page.context().setOffline(true);
    await type(page, "hello", "end");
    await says(page, "offline kept unsaved");
    expect(proxy.connections).toBe(before);
    await page.context().setOffline(false);
    await says(page, "live kept saved");
    expect(proxy.connections).toBe(before + 1);
  });

  it("is connected at once when somebody looks at it again, and not before", async () => {
    const { page, before } = await waiting();
    await looks(page, "hidden");
    await type(page, "hello", "end");
    await says(page, "offline kept unsaved");
    expect(proxy.connections).toBe(before);
    await looks(page, "visible");
    await says(page, "live kept saved");
    expect(proxy.connections).toBe(before + 1);
  });
});

describe("a page that nobody looks at", () => {
  it("stays connected, hears of edits, and is seen by the others", async () => {
    const ada = await open("ada", proxy.url);
    const ben = await open("ben", server.url);
    await says(ben, "live kept saved 1");
    await looks(ada, "hidden");
    await type(ben, "hello", "end");
    await shows(ada, "hello");
    await says(ben, "live kept saved 1");
    await looks(ada, "visible");
    expect(proxy.connections).toBe(1);
  });

  it("leaves when the browser freezes it, and comes back with what it missed", async () => {
    const ada = await open("ada", server.url);
    const ben = await open("ben", server.url);
    await says(ben, "live kept saved 1");
    // A browser without a screen freezes no page by itself.
    await ada.evaluate(() => document.dispatchEvent(new Event("freeze")));
    await says(ada, "offline");
    await says(ben, "live kept saved 0");
    await type(ben, "hello", "end");
    await says(ben, "live kept saved 0");
    await ada.evaluate(() => document.dispatchEvent(new Event("resume")));
    await says(ben, "live kept saved 1");
    await shows(ada, "hello");
    await says(ada, "live kept saved 1");
  });

  it("leaves when another page is shown in its place, and is back when the user goes back", async () => {
    const ada = await open("ada", server.url);
    const ben = await open("ben", server.url);
    await says(ben, "live kept saved 1");
    await ada.goto("about:blank");
    await says(ben, "live kept saved 0");
    await type(ben, "hello", "end");
    await ada.goBack();
    await says(ben, "live kept saved 1");
    await shows(ada, "hello");
  });
});

describe("a page that is left", () => {
  /** Whether the browser asks before it closes the page, which then stays. */
  async function asks(page: Page): Promise<boolean> {
    const asked = new Promise<boolean>((resolve) => {
      page.once("dialog", (dialog) => void dialog.dismiss().then(() => resolve(dialog.type() === "beforeunload")));
      page.once("close", () => resolve(false));
    });
    await page.close({ runBeforeUnload: true });
    return asked;
  }
  /** Browsers ask only where somebody did something. */
  async function write(page: Page, text: string): Promise<void> {
    await page.click("textarea");
    await page.keyboard.type(text);
  }

  it("asks while edits are kept nowhere, and not once the server has them", async () => {
    const page = await open("ada", proxy.url, "memory", "guard");
    await says(page, "live");
    proxy.cut();
    await says(page, "offline");
    await write(page, "a");
    await says(page, "offline unkept unsaved");
    expect(await asks(page)).toBe(true);
    proxy.mend();
    await says(page, "live unkept saved");
    expect(await asks(page)).toBe(false);
  });

  it("does not ask where the store has them, nor where it was not told to", async () => {
    const kept = await open("ada", proxy.url, "guard");
    const careless = await open("ben", proxy.url, "memory");
    for (const page of [kept, careless]) await says(page, "live");
    proxy.cut();
    for (const page of [kept, careless]) {
      await says(page, "offline");
      await write(page, "a");
    }
    await says(kept, "offline kept unsaved");
    await says(careless, "offline unkept unsaved");
    expect(await asks(kept)).toBe(false);
    expect(await asks(careless)).toBe(false);
  });

  it("asks where the store has no room, loses nothing, and keeps everything once there is some", async () => {
    const context = await site.browser.newContext();
    const page = await context.newPage();
    const session = await context.newCDPSession(page);
    await session.send("Storage.overrideQuotaForOrigin", { origin: site.origin, quotaSize: 1 });
    await page.goto(site.address("ada", proxy.url, "guard"));
    await page.waitForSelector("textarea:enabled");
    await says(page, "live unkept saved");
    proxy.cut();
    await says(page, "offline");
    await write(page, "a");
    await page.waitForFunction(() => document.title.includes("store_failed"));
    await says(page, "offline unkept unsaved");
    expect(await asks(page)).toBe(true);
    await session.send("Storage.overrideQuotaForOrigin", { origin: site.origin });
    await says(page, "offline kept unsaved");
    await page.reload();
    await page.waitForSelector("textarea:enabled");
    await shows(page, "a");
    proxy.mend();
    await says(page, "live kept saved");
  });
});
