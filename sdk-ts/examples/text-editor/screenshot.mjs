/**
 * Makes the picture of this example for the repository's README: two people in one text, one by day and one by night.
 *
 * `node screenshot.mjs FILE.png`, with the variables of `start.mjs`.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const file = process.argv[2] ?? "text-editor.png";
const WIDTH = 640;
const HEIGHT = 690;

const data = mkdtempSync(join(tmpdir(), "etherply-screenshot-"));
const env = { ETHERPLY_DATA: data, ETHERPLY_LISTEN: "127.0.0.1:0", ETHERPLY_CONTROL: "127.0.0.1:0", PORT: "0", ...process.env };
const example = spawn("node", ["start.mjs"], { cwd: fileURLToPath(new URL(".", import.meta.url)), env, stdio: ["ignore", "pipe", "inherit"] });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu"],
});
try {
  let url;
  for await (const line of createInterface(example.stdout)) if ((url = line.match(/^page\s+(\S+)/)?.[1]) !== undefined) break;
  const open = async (colorScheme, name, colour) => {
    const context = await browser.newContext({ colorScheme, viewport: { width: WIDTH, height: HEIGHT }, deviceScaleFactor: 1.25 });
    await context.addInitScript((person) => sessionStorage.setItem("person", person), JSON.stringify({ name, colour }));
    const page = await context.newPage();
    await page.goto(url);
    await page.waitForSelector(".cm-content");
    return page;
  };
  const red = await open("light", "Red", "#e5484d");
  const green = await open("dark", "Green", "#30a46c");
  const blue = await open("light", "Blue", "#0090ff");
  const at = async (page, text, keys) => {
    await page.locator(".cm-line", { hasText: text }).first().click();
    await page.keyboard.press("End");
    for (const key of keys) await page.keyboard.press(key);
  };
  await blue.getByText("twice").dblclick();
  await at(red, "side by side", ["Enter", "Enter"]);
  await red.keyboard.type("Two people write this line at the same time");
  await at(green, "Welcome", []);
  for (const page of [red, green]) await page.waitForFunction(() => document.querySelectorAll(".caret").length === 2);
  for (const page of [red, green]) await page.waitForSelector('.standing[data-saved="true"]');
  const shots = await Promise.all([red, green].map((page) => page.screenshot()));
  const both = await browser.newPage({ viewport: { width: 2 * WIDTH + 24, height: HEIGHT }, deviceScaleFactor: 1.25 });
  const images = shots.map((shot) => `<img width="${WIDTH}" src="data:image/png;base64,${shot.toString("base64")}">`);
  await both.setContent(`<style>body{margin:0;display:flex;gap:24px}img{border-radius:14px}</style>${images.join("")}`);
  await both.screenshot({ path: file, omitBackground: true });
} finally {
  await browser.close();
  example.kill();
  await once(example, "exit");
  rmSync(data, { recursive: true, force: true });
}
