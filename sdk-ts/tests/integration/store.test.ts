/** Edits that outlive a page or a program, in IndexedDB and in files. */

import "fake-indexeddb/auto";
import { appendFileSync, mkdtempSync, readdirSync, rmSync, truncateSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { indexedDbStore } from "../../src/index.js";
import type { Store } from "../../src/index.js";
import { fileStore } from "../../src/node/index.js";
import { client, closeAll, saved, until } from "./clients.js";
import { Proxy, TestServer } from "./server.js";

interface Board {
  cards: string[];
}
const initial: Board = { cards: [] };
const push = (text: string) => (doc: Board) => void doc.cards.push(text);

const server = new TestServer();
const directory = mkdtempSync(join(tmpdir(), "etherply-store-"));
let name = 0;
const fresh = (): string => `kept/${(name += 1)}`;

beforeAll(() => server.start());
afterEach(closeAll);
afterAll(async () => {
  await server.remove();
  rmSync(directory, { recursive: true, force: true });
});

const stores: [string, (subject: string) => Store][] = [
  ["IndexedDB", (subject) => indexedDbStore({ subject })],
  ["files", (subject) => fileStore({ directory, subject })],
];

describe.each(stores)("in %s", (_, store) => {
  it("edits made offline come through after a reload, once each", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    const first = client(proxy.url, { store: store("ada") });
    const board = first.document<Board>(id, { initial });
    await board.ready();
    await board.change(push("online")).durable();
    proxy.cut();
    await until(board, ({ status }) => status.state !== "live");
    board.change(push("offline 1"));
    expect(board.status.savedLocally).toBe(false);
    board.change(push("offline 2"));
    await until(board, ({ status }) => status.savedLocally);
    expect(board.status).toMatchObject({ savedOnServer: false, pending: 2 });
    await first.close();

    // The page is loaded again, still without a network.
    const second = client(proxy.url, { store: store("ada") });
    const again = second.document<Board>(id, { initial });
    await again.ready();
    expect(again.current).toEqual({ cards: ["online", "offline 1", "offline 2"] });
    expect(again.status.pending).toBe(2);
    again.change(push("offline 3"));
    const other = client(server.url).document<Board>(id, { initial });
    await other.ready();
    expect(other.current?.cards).toEqual(["online"]);
    proxy.mend();
    await saved(again);
    await until(other, ({ current }) => current?.cards.length === 4);
    expect(other.current).toEqual(again.current);
    await second.close();

    // Everything was acknowledged: nothing is left to be sent, and the copy is there at once.
    proxy.cut();
    const third = client(proxy.url, { store: store("ada") }).document<Board>(id, { initial });
    await third.ready();
    expect(third.current).toEqual(other.current);
    expect(third.status).toMatchObject({ pending: 0, savedOnServer: true });
    await closeAll();
    await proxy.close();
  });

  it("a document that was begun offline is begun once", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    proxy.cut();
    const first = client(proxy.url, { store: store("ada") });
    const board = first.document<Board>(id, { initial });
    await board.ready();
    board.change(push("mine"));
    await first.close();
    const other = client(server.url).document<Board>(id, { initial });
    await other.ready();
    await other.change(push("theirs")).durable();
    const again = client(proxy.url, { store: store("ada") }).document<Board>(id, { initial });
    await again.ready();
    proxy.mend();
    await saved(again);
    await until(other, ({ current }) => current?.cards.length === 2);
    await until(again, ({ current }) => current?.cards.length === 2);
    expect(again.current).toEqual(other.current);
    await closeAll();
    await proxy.close();
  });

  it("another subject does not get them", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    proxy.cut();
    const board = client(proxy.url, { store: store("ada") }).document<Board>(id, { initial });
    await board.ready();
    board.change(push("ada's"));
    await closeAll();
    const bens = client(proxy.url, { store: store("ben") }).document<Board>(id, { initial });
    await bens.ready();
    expect(bens.current).toEqual(initial);
    await closeAll();
    await proxy.close();
  });

  it("a long history is kept as one copy, and read again", async () => {
    const id = fresh();
    const first = client(server.url, { store: store("ada") });
    const board = first.document<Board>(id, { initial });
    await board.ready();
    for (let n = 0; n < 1_200; n += 1) board.change(push(`${n}`));
    await saved(board);
    await first.close();
    const kept = await store("ada").document(id).read();
    expect(kept?.version).toBeGreaterThan(0);
    expect(kept?.rows.length).toBeLessThan(1_200);
    const again = client(server.url, { store: store("ada") }).document<Board>(id, { initial });
    await again.ready();
    expect(again.current?.cards.length).toBe(1_200);
  });
});

describe("two tabs with one store", () => {
  it("lose nothing of each other", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    const tabs = [0, 1].map(() => client(proxy.url, { store: indexedDbStore({ subject: "ada" }) }));
    const boards = tabs.map((tab) => tab.document<Board>(id, { initial }));
    await Promise.all(boards.map((board) => board.ready()));
    await Promise.all(boards.map(saved));
    proxy.cut();
    for (let n = 0; n < 600; n += 1) boards.forEach((board, tab) => board.change(push(`${tab}/${n}`)));
    await Promise.all(boards.map((board) => until(board, ({ status }) => status.savedLocally)));
    await closeAll();
    const after = client(proxy.url, { store: indexedDbStore({ subject: "ada" }) }).document<Board>(id, { initial });
    await after.ready();
    expect(after.current?.cards.length).toBe(1_200);
    proxy.mend();
    await saved(after);
    await closeAll();
    await proxy.close();
  });
});

describe("a file", () => {
  it("that was torn keeps everything before the tear", async () => {
    const torn = mkdtempSync(join(tmpdir(), "etherply-torn-"));
    const store = fileStore({ directory: torn, subject: "ada" });
    const document = store.document("d");
    const row = (hash: string) => ({ hash, change: new Uint8Array([1, 2, 3]), mine: true, epoch: 0n });
    const batch = (hash: string) => ({ rows: [row(hash)], settled: [], cursor: undefined, replaces: false });
    for (const hash of ["a", "b", "c"]) await document.write(batch(hash));
    document.close();
    const [file] = readdirSync(torn);
    const path = join(torn, file!);
    const whole = statSync(path).size;
    const read = async (): Promise<string[] | undefined> =>
      (await fileStore({ directory: torn, subject: "ada" }).document("d").read())?.rows.map(({ hash }) => hash);
    expect(await read()).toEqual(["a", "b", "c"]);
    appendFileSync(path, new Uint8Array([9, 9, 9, 9, 9]));
    expect(await read()).toEqual(["a", "b", "c"]);
    truncateSync(path, whole - 1);
    expect(await read()).toEqual(["a", "b"]);
    await store.document("d").remove();
    expect(await read()).toBeUndefined();
    rmSync(torn, { recursive: true });
  });
});
