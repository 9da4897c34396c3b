/** Stores that fail: edits go on, nothing that was made is lost, and nothing is said to be kept that is not. */

import "fake-indexeddb/auto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "vitest";
import { world } from "../../src/environment.js";
import { indexedDbStore } from "../../src/index.js";
import type { Client, EtherPlyError, Environment, Store } from "../../src/index.js";
import { fileStore } from "../../src/node/index.js";
import { KEEP_RETRY_MS } from "../../src/store/keeper.js";
import { client, closeAll, saved, until } from "./clients.js";
import { Proxy, TestServer } from "./server.js";

interface Board {
  cards: string[];
}
const initial: Board = { cards: [] };
const push = (text: string) => (doc: Board) => void doc.cards.push(text);
const directory = mkdtempSync(join(tmpdir(), "etherply-failing-"));
/** Tries the store again soon. */
const environment: Environment = { ...world, after: (ms, act) => world.after(ms === KEEP_RETRY_MS ? 20 : ms, act) };

const server = new TestServer();
let proxy: Proxy;
let name = 0;
const fresh = (): string => `failing/${(name += 1)}`;

beforeAll(() => server.start());
beforeEach(async () => {
  proxy = await new Proxy(() => server.port).start();
});
afterEach(async () => {
  await closeAll();
  await proxy.close();
});
afterAll(async () => {
  await server.remove();
  rmSync(directory, { recursive: true, force: true });
});

/** A client with this store, and what goes wrong. */
function setup(store: Store): { client: Client; errors: [EtherPlyError["code"], string][]; failed: Promise<void> } {
  const made = client(proxy.url, { store, environment });
  const errors: [EtherPlyError["code"], string][] = [];
  const failed = new Promise<void>((resolve) => {
    made.onError(({ code }, id) => {
      errors.push([code, id]);
      resolve();
    });
  });
  return { client: made, errors, failed };
}

/** What is there without a network. */
async function kept(id: string, store: Store): Promise<readonly string[]> {
  proxy.cut();
  const again = client(proxy.url, { store }).document<Board>(id);
  return (await again.ready()).cards;
}

it("a place that cannot be written costs nothing but what would be kept there, until it can be", async () => {
  const place = join(directory, "place");
  writeFileSync(place, "no directory");
  const store = (): Store => fileStore({ directory: place, subject: "ada" });
  const id = fresh();
  const { client: first, errors, failed } = setup(store());
  const board = first.document<Board>(id, { initial });
  await board.ready();
  await failed;
  await board.change(push("online")).durable();
  expect(board.status).toMatchObject({ savedLocally: false, savedOnServer: true, error: undefined });
  proxy.cut();
  await until(board, ({ status }) => status.state !== "live");
  board.change(push("offline"));
  expect(board.status).toMatchObject({ savedLocally: false, pending: 1 });
  expect(first.isSaved).toBe(false);
  expect(new Set(errors.map(String))).toEqual(new Set([`store_failed,${id}`]));

  rmSync(place);
  await until(board, ({ status }) => status.savedLocally);
  expect(first.isSaved).toBe(true);
  await first.close();
  expect(await kept(id, store())).toEqual(["online", "offline"]);
});

it("a disk that is full in the middle of a batch loses neither that one nor those behind it", async () => {
  const place = join(directory, "full");
  const store = (): Store => fileStore({ directory: place, subject: "ada" });
  const id = fresh();
  const { client: first, errors, failed } = setup(store());
  const board = first.document<Board>(id, { initial });
  await board.ready();
  await board.change(push("before")).durable();
  await until(board, ({ status }) => status.savedLocally);

  const handle = await open(join(directory, "any"), "w");
  const files = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  const { appendFile } = files;
  let isFull = true;
  files.appendFile = async function (this: FileHandle, data, ...rest) {
    if (!isFull) return appendFile.call(this, data, ...rest);
    const bytes = data as Uint8Array;
    await appendFile.call(this, bytes.subarray(0, bytes.length / 2), ...rest);
    throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
  };
  try {
    board.change(push("while it is full"));
    await failed;
    expect(board.status.savedLocally).toBe(false);
    expect(errors[0]).toEqual(["store_failed", id]);
    isFull = false;
    await until(board, ({ status }) => status.savedLocally);
    board.change(push("after"));
    await saved(board);
    await until(board, ({ status }) => status.savedLocally);
  } finally {
    files.appendFile = appendFile;
  }
  await first.close();
  expect(await kept(id, store())).toEqual(["before", "while it is full", "after"]);
});

it("a database that gives up its transactions has nothing of them, and everything once it does not", async () => {
  const store = (): Store => indexedDbStore({ subject: "ada", name: "failing" });
  const id = fresh();
  const { put } = IDBObjectStore.prototype;
  IDBObjectStore.prototype.put = function (this: IDBObjectStore, ...of) {
    const request = put.apply(this, of);
    // As for want of room.
    this.transaction.abort();
    return request;
  };
  const { client: first, errors, failed } = setup(store());
  let board;
  try {
    board = first.document<Board>(id, { initial });
    await board.ready();
    await failed;
    proxy.cut();
    await until(board, ({ status }) => status.state !== "live");
    board.change(push("mine"));
    expect(board.status.savedLocally).toBe(false);
    expect(first.isSaved).toBe(false);
    expect(errors[0]).toEqual(["store_failed", id]);
  } finally {
    IDBObjectStore.prototype.put = put;
  }
  await until(board, ({ status }) => status.savedLocally);
  await first.close();
  expect(await kept(id, store())).toEqual(["mine"]);
});

it("an edit that a failing store does not have when its document is closed is told", async () => {
  const place = join(directory, "never");
  writeFileSync(place, "no directory");
  const id = fresh();
  const { client: first, errors } = setup(fileStore({ directory: place, subject: "ada" }));
  proxy.cut();
  const board = first.document<Board>(id, { initial });
  await board.ready();
  const edit = board.change(push("mine")).durable();
  const rejected = expect(edit).rejects.toMatchObject({ code: "closed" });
  await first.close();
  await rejected;
  expect(errors.at(-1)).toEqual(["store_failed", id]);
});
