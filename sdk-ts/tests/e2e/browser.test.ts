/** Two pages in a real browser, with the package as it is published: the network goes, the server is killed. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, it } from "vitest";
import { Proxy, TestServer } from "../integration/server.js";
import { says, shows, Site, type } from "./site.js";

const directory = mkdtempSync(join(tmpdir(), "etherply-e2e-"));
const server = new TestServer();
let proxy: Proxy;
let site: Site;

beforeAll(async () => {
  await server.start();
  proxy = await new Proxy(() => server.port).start();
  site = await Site.start(directory);
});

afterAll(async () => {
  await site?.close();
  await proxy?.close();
  await server.remove();
  rmSync(directory, { recursive: true, force: true });
});

async function open(subject: string, url: string): Promise<Page> {
  const context = await site.browser.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(subject, error));
  await page.goto(site.address(subject, url));
  await page.waitForSelector("textarea:enabled");
  return page;
}

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
  await ada.goto(site.address("ada", proxy.url));
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
