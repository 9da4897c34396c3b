/** `docs/quickstart.md`: its commands and its files as they stand there, in a fresh copy of the repository. */

import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, expect, it } from "vitest";
import { binary } from "../integration/server.js";
import { launch, Service } from "./chromium.js";
import { SDK } from "./pack.js";

/** When something that never comes is given up. */
const PATIENCE_MS = 60_000;
const ROOT = join(SDK, "..");

interface Block {
  readonly terminal: string | undefined;
  readonly file: string | undefined;
  readonly text: string;
}

/** The blocks of the page that say in which terminal they are typed, or in which file they stand, in order. */
function blocks(): Block[] {
  const page = readFileSync(join(ROOT, "docs/quickstart.md"), "utf8");
  return [...page.matchAll(/^```\w+ (?:terminal=(\d)|file=(\S+))\n(.*?)^```$/gms)].map(([, terminal, file, text = ""]) => ({
    terminal,
    file,
    text,
  }));
}

/** A port that is free now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

const directory = realpathSync(mkdtempSync(join(tmpdir(), "etherply-quickstart-")));
const services: Service[] = [];
let browser: Browser | undefined;
afterAll(async () => {
  await browser?.close();
  for (const service of services) await service.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** Copies what git has of the SDK: a user has no more. */
function clone(): string {
  const folder = join(directory, "etherply");
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "sdk-ts"], { cwd: ROOT });
  for (const name of listed.toString().split("\0").filter((each) => each !== "")) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    cpSync(join(ROOT, name), join(folder, name));
  }
  return folder;
}

/** Puts a `cargo` in front of the other: it does not build, and runs the server that is built. */
function standIn(): string {
  const folder = join(directory, "bin");
  mkdirSync(folder);
  const script = `#!/bin/sh\n[ "$*" = "run --release" ] || { echo "not expected: cargo $*" >&2; exit 1; }\nexec "${binary()}"\n`;
  writeFileSync(join(folder, "cargo"), script);
  chmodSync(join(folder, "cargo"), 0o755);
  return `${folder}${delimiter}${process.env["PATH"] ?? ""}`;
}

const cards = (page: Page) => page.locator("li").allTextContents();
const says = (page: Page, text: string) => page.locator("p", { hasText: text }).waitFor();
const add = async (page: Page, title: string): Promise<void> => {
  await page.locator("input").fill(title);
  await page.locator("input").press("Enter");
};
const show = async (pages: readonly Page[], ...wanted: readonly string[]): Promise<void> => {
  for (const page of pages) await expect.poll(() => cards(page).then((shown) => shown.sort()), { timeout: PATIENCE_MS }).toEqual(wanted);
};

it("a new user gets from a clone to two pages that share a board", { timeout: 10 * PATIENCE_MS }, async () => {
  const all = blocks();
  const [server, ...rest] = all.filter(({ terminal }) => terminal === "1");
  const typed = all.filter(({ terminal }) => terminal === "2");
  const files = all.filter(({ file }) => file !== undefined);
  expect([rest.length, typed.length, files.length], "the page has the blocks that this test knows").toEqual([0, 3, 2]);

  const folder = clone();
  const port = await freePort();
  const env = { PATH: standIn(), ETHERPLY_LISTEN: `127.0.0.1:${port}`, ETHERPLY_CONTROL: "127.0.0.1:0" };
  const serve = async (): Promise<Service> => {
    const service = new Service("bash", ["-ec", server!.text], { cwd: folder, env });
    services.push(service);
    await service.says(new RegExp(`127\\.0\\.0\\.1:${port}`));
    return service;
  };
  const first = await serve();

  const page = typed.pop()!;
  const commands = typed.map(({ text }) => text).join("");
  const said = execFileSync("bash", ["-ec", `${commands}\npwd`], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  const board = said.toString().trim().split("\n").at(-1)!;
  for (const { file, text } of files) writeFileSync(join(board, file!), text);

  const vite = new Service("bash", ["-ec", page.text], { cwd: board });
  services.push(vite);
  const [, address = ""] = await vite.says(/Local:\s+(http:\S+)/);
  // The page says port 4180, where somebody else's server may be.
  browser = await launch(`--host-resolver-rules=MAP localhost:4180 127.0.0.1:${port}`);
  const open = async (): Promise<Page> => {
    const context = await browser!.newContext();
    context.setDefaultTimeout(PATIENCE_MS);
    const opened = await context.newPage();
    await opened.goto(address);
    await says(opened, "live, everything is saved");
    return opened;
  };
  const [one, other] = [await open(), await open()];
  await add(one, "a");
  await show([one, other], "a");
  await add(other, "b");
  await show([one, other], "a", "b");
  await Promise.all([says(one, "live, everything is saved"), says(other, "live, everything is saved")]);

  await first.stop("SIGINT");
  await Promise.all([says(one, "offline"), says(other, "offline")]);
  await add(one, "c");
  await add(other, "d");
  await Promise.all([says(one, "offline, not saved"), says(other, "offline, not saved")]);
  await show([one], "a", "b", "c");
  await one.reload();
  await show([one], "a", "b", "c");
  await serve();
  await show([one, other], "a", "b", "c", "d");
  await Promise.all([says(one, "live, everything is saved"), says(other, "live, everything is saved")]);
});
