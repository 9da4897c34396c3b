/** The application that every fresh project builds, and what two browsers have to see of it. */

import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { expect } from "vitest";

/** The hooks, without JSX: `wasm` is an expression for where the WebAssembly comes from, and `imports` what that needs. */
export const application = (wasm = "undefined", imports = ""): string => `${imports}
import { createElement as h } from "react";
import { createRoot } from "react-dom/client";
import { createClient, indexedDbStore } from "@etherply/sdk";
import { EtherPlyProvider, useDocument, usePresence, useSyncStatus } from "@etherply/sdk/react";

const server = new URLSearchParams(location.search).get("server");
const wasm = ${wasm};
const client = createClient({ url: server, store: indexedDbStore({ subject: "me" }), ...(wasm === undefined ? {} : { wasm: String(wasm) }) });
const board = { id: "boards/bundled", initial: { cards: [] } };

function Board() {
  const [cards, change] = useDocument(board, (doc) => doc.cards);
  const { state, savedOnServer } = useSyncStatus(board);
  const { others } = usePresence(board.id);
  return h("main", null,
    h("button", { onClick: () => change((doc) => void doc.cards.push("card")) }, "Add"),
    h("output", null, [state, savedOnServer ? "saved" : "unsaved", cards?.length ?? "none", others.length].join(" ")));
}

createRoot(document.getElementById("app")).render(h(EtherPlyProvider, { client }, h(Board)));
`;

/** A page that loads a script. */
export const page = (script: string): string =>
  `<!doctype html><meta charset="utf-8"><div id="app"></div><script type="module" src="${script}"></script>\n`;

const TYPES: Readonly<Record<string, string>> = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

/** Serves a folder as any server of files does. */
export async function serve(folder: string): Promise<Server> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://page");
    const file = join(folder, pathname === "/" ? "index.html" : pathname);
    if (!existsSync(file)) return void response.writeHead(404).end();
    response.setHeader("content-type", TYPES[extname(file)] ?? "application/octet-stream").end(readFileSync(file));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

/** The address of a server of files. */
export const addressOf = (server: Server): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;

const says = (page: Page, text: string) =>
  page.waitForFunction((wanted) => document.querySelector("output")?.textContent === wanted, text);

/** Two browsers add a card each, and see that of the other. Gives the paths of the files that they asked for. */
export async function works(browser: Browser, address: string, url: string): Promise<ReadonlySet<string>> {
  const problems: string[] = [];
  const asked = new Set<string>();
  const open = async (): Promise<Page> => {
    const context = await browser.newContext();
    // When something that never comes is given up.
    context.setDefaultTimeout(60_000);
    const opened = await context.newPage();
    opened.on("request", (request) => asked.add(new URL(request.url()).pathname));
    opened.on("pageerror", (error) => problems.push(String(error)));
    opened.on("console", (message) => void (message.type() === "error" && problems.push(message.text())));
    await opened.goto(`${address}?server=${encodeURIComponent(url)}`);
    await opened.waitForSelector("output");
    return opened;
  };
  const [one, other] = await Promise.all([open(), open()]);
  try {
    await Promise.all([says(one, "live saved 0 0"), says(other, "live saved 0 0")]);
  } catch (cause) {
    throw new Error(`it says ${await one.textContent("output")}; ${problems.join("; ")}`, { cause });
  }
  await one.click("button");
  await Promise.all([says(one, "live saved 1 0"), says(other, "live saved 1 0")]);
  await other.click("button");
  await Promise.all([says(one, "live saved 2 0"), says(other, "live saved 2 0")]);
  // Its icon is the only thing that a page may not find.
  expect(problems.filter((problem) => !problem.includes("404"))).toEqual([]);
  await one.context().close();
  await other.context().close();
  return asked;
}
