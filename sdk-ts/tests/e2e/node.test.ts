/** The package as it is published, in plain Node, as a module and by `require`. */

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { TestServer } from "../integration/server.js";
import { unpack } from "./pack.js";

const directory = mkdtempSync(join(tmpdir(), "etherply-node-"));
const server = new TestServer();

const program = (imports: string): string => `${imports}
(async () => {
  const store = fileStore({ directory: process.argv[3], subject: "ada" });
  const client = createClient({ url: process.argv[2], webSocket: WebSocket, store });
  const board = client.document("boards/node", { initial: { cards: [] } });
  await board.ready();
  await board.change((doc) => { doc.cards.push("hi"); }).durable();
  const cards = board.current.cards.length;
  await client.close();
  console.log(JSON.stringify({ cards, hooks: typeof useDocument, error: typeof EtherPlyError }));
})();
`;

beforeAll(async () => {
  await server.start();
  unpack(directory);
  const names = "{ createClient, EtherPlyError }";
  writeFileSync(
    join(directory, "program.mjs"),
    program(`import ${names} from "@etherply/sdk";
import { fileStore } from "@etherply/sdk/node";
import { useDocument } from "@etherply/sdk/react";
import { WebSocket } from "ws";`),
  );
  writeFileSync(
    join(directory, "program.cjs"),
    program(`const ${names} = require("@etherply/sdk");
const { fileStore } = require("@etherply/sdk/node");
const { useDocument } = require("@etherply/sdk/react");
const { WebSocket } = require("ws");`),
  );
});
afterAll(async () => {
  await server.remove();
  rmSync(directory, { recursive: true, force: true });
});

it("says so, and goes on, where two copies are loaded: one as a module, one by require", async () => {
  const load = `import { createClient as one } from "@etherply/sdk";
import { createRequire } from "node:module";
import { WebSocket } from "ws";
const { createClient: other } = createRequire(import.meta.url)("@etherply/sdk");
const of = { url: process.argv[2], webSocket: WebSocket };
const clients = process.argv[3] === "both" ? [one(of), other(of)] : [one(of), one(of)];
for (const client of clients) await client.document("boards/copies", { initial: { cards: [] } }).ready();
for (const client of clients) await client.close();
`;
  writeFileSync(join(directory, "copies.mjs"), load);
  const run = (which: string): Promise<{ stderr: string }> =>
    promisify(execFile)(process.execPath, ["copies.mjs", server.url, which], { cwd: directory });
  expect((await run("one")).stderr).toBe("");
  expect((await run("both")).stderr).toMatch(/two copies of @etherply\/sdk are loaded \[two_copies\]/);
});

it.each([
  ["program.mjs", 1],
  ["program.cjs", 2],
])("%s edits a document and ends by itself", async (file, cards) => {
  const { stdout } = await promisify(execFile)(process.execPath, [file, server.url, join(directory, "kept")], { cwd: directory });
  expect(JSON.parse(stdout)).toEqual({ cards, hooks: "function", error: "function" });
});
