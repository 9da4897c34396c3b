/** Several tabs of one browser: one connection to a real server, whatever becomes of the tab that has it. */

import "fake-indexeddb/auto";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { indexedDbStore } from "../../src/index.js";
import type { Client, Document, Member } from "../../src/index.js";
import { client, closeAll, saved, until } from "./clients.js";
import { Proxy, TestServer } from "./server.js";
import { Origin } from "./tabs.js";
import type { Tab } from "./tabs.js";

interface Board {
  cards: string[];
}
const initial: Board = { cards: [] };
const push = (text: string) => (doc: Board) => void doc.cards.push(text);

const server = new TestServer();
let proxy: Proxy;
let origin: Origin;
let name = 0;
const fresh = (): string => `tabs/${(name += 1)}`;

interface Opened {
  readonly tab: Tab;
  readonly client: Client;
}

/** A tab of this browser. */
function open(subject = "ada"): Opened {
  const tab = origin.tab();
  const made = client(proxy.url, { store: indexedDbStore({ subject }), environment: tab.environment });
  return { tab, client: made };
}
const leads = ({ tab }: Opened): boolean => tab.holds((held) => held.endsWith("]"));

/** Waits until this holds of who is here. */
function sees(document: Document<Board>, holds: (others: readonly Member<unknown>[]) => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (!holds(document.presence.others)) return;
      off();
      resolve();
    };
    const off = document.presence.subscribe(look);
    look();
  });
}

beforeAll(() => server.start());
beforeEach(async () => {
  origin = new Origin();
  proxy = await new Proxy(() => server.port).start();
});
afterEach(async () => {
  await closeAll();
  await proxy.close();
});
afterAll(() => server.remove());

describe("tabs that share a store", () => {
  it("share one connection, and everybody sees every edit, which is durable wherever it was made", async () => {
    const id = fresh();
    const tabs = [open(), open(), open()];
    const boards = tabs.map((tab) => tab.client.document<Board>(id, { initial }));
    const elsewhere = client(server.url).document<Board>(id, { initial });
    await Promise.all([...boards, elsewhere].map((board) => board.ready()));
    for (const [index, board] of boards.entries()) await board.change(push(`tab ${index}`)).durable();
    await elsewhere.change(push("elsewhere")).durable();
    for (const board of [...boards, elsewhere]) await until(board, ({ current }) => current?.cards.length === 4);
    await Promise.all(boards.map(saved));
    expect(boards.map(({ current }) => current)).toEqual(boards.map(() => elsewhere.current));
    expect(boards.map(({ status }) => status)).toEqual(boards.map(() => expect.objectContaining({ state: "live", writable: true, pending: 0 })));
    expect([proxy.connections, tabs.filter(leads).length]).toEqual([1, 1]);
    expect(boards.map((board) => board.history().filter(({ isMine }) => isMine).length)).toEqual([1, 1, 1]);
  });

  it("go on with the next one when the tab with the connection is closed or crashes in the middle of edits", async () => {
    const id = fresh();
    const tabs = [open(), open(), open(), open()];
    const boards = tabs.map((tab) => tab.client.document<Board>(id, { initial }));
    const elsewhere = client(server.url).document<Board>(id, { initial });
    await Promise.all([...boards, elsewhere].map((board) => board.ready()));
    await Promise.all(boards.map(saved));
    let size = 0;
    for (const end of ["close", "crash", "crash"] as const) {
      await origin.granted(() => tabs.some(leads));
      const first = tabs.findIndex(leads);
      for (let n = 0; n < 10; n += 1) boards.forEach((board, index) => board.change(push(`${tabs.length} ${index}/${n}`)));
      size += 10 * boards.length;
      const [[leader], [board]] = [tabs.splice(first, 1), boards.splice(first, 1)];
      if (end === "close") await leader!.client.close();
      else {
        // What it made has to be somewhere else before it ends: in one of the others.
        await until(boards[0]!, ({ current }) => board!.current!.cards.every((card) => current!.cards.includes(card)));
        leader!.tab.crash();
        await leader!.client.close();
      }
      boards.forEach((each, index) => each.change(push(`after ${tabs.length} ${index}`)));
      size += boards.length;
    }
    await Promise.all(boards.map(saved));
    for (const board of [...boards, elsewhere]) await until(board, ({ current }) => new Set(current?.cards).size === size);
    expect(elsewhere.current?.cards.length).toBe(size);
    expect(boards.map(({ current }) => current)).toEqual(boards.map(() => elsewhere.current));
  });

  it("hear each other while there is no network, and everything goes out after a reload of all of them", async () => {
    const id = fresh();
    proxy.cut();
    const tabs = [open(), open()];
    const boards = tabs.map((tab) => tab.client.document<Board>(id, { initial }));
    await Promise.all(boards.map((board) => board.ready()));
    boards.forEach((board, index) => board.change(push(`tab ${index}`)));
    for (const board of boards) await until(board, ({ current }) => current?.cards.length === 2);
    expect(boards[0]!.current).toEqual(boards[1]!.current);
    expect(boards.map(({ status }) => status.pending)).toEqual([3, 3]);
    await Promise.all(boards.map((board) => until(board, ({ status }) => status.savedLocally)));
    await Promise.all(tabs.map((tab) => tab.client.close()));
    const again = [open(), open()].map((tab) => tab.client.document<Board>(id, { initial }));
    await Promise.all(again.map((board) => board.ready()));
    proxy.mend();
    await Promise.all(again.map(saved));
    const elsewhere = client(server.url).document<Board>(id, { initial });
    await elsewhere.ready();
    await until(elsewhere, ({ current }) => current?.cards.length === 2);
    expect(elsewhere.current).toEqual(again[0]!.current);
  });

  it("open what only one of them uses, and close it with it", async () => {
    const [first, second] = [open(), open()];
    const own = first.client.document<Board>(fresh(), { initial });
    await own.ready();
    await saved(own);
    const id = fresh();
    const board = second.client.document<Board>(id, { initial });
    await board.ready();
    await board.change(push("of the second tab only")).durable();
    // The first one uses it now as well, and then not any more: the second one goes on.
    const shared = first.client.document<Board>(id, { initial });
    await shared.ready();
    await until(shared, ({ current }) => current?.cards.length === 1);
    await shared.change(push("of the first")).durable();
    await shared.close();
    await until(board, ({ current }) => current?.cards.length === 2);
    await board.change(push("after it was closed there")).durable();
    expect(proxy.connections).toBe(1);
  });

  it("are one member to others, with what was set last, and see each other", async () => {
    const id = fresh();
    const tabs = [open(), open()];
    const boards = tabs.map((tab) => tab.client.document<Board>(id, { initial }));
    const elsewhere = client(server.url).document<Board>(id, { initial });
    await Promise.all([...boards, elsewhere].map((board) => board.ready()));
    await Promise.all([...boards, elsewhere].map(saved));
    const states = (others: readonly Member<unknown>[]): string => others.map(({ state }) => String(state)).sort().join(" ");
    elsewhere.presence.set("ben");
    boards[0]!.presence.set("ada 0");
    await sees(elsewhere, (others) => states(others) === "ada 0");
    boards[1]!.presence.set("ada 1");
    await sees(elsewhere, (others) => states(others) === "ada 1");
    await sees(boards[0]!, (others) => states(others) === "ada 1 ben");
    await sees(boards[1]!, (others) => states(others) === "ada 0 ben");
    const heard = [boards[0]!, elsewhere].map((board) => new Promise((resolve) => board.onBroadcast("ping", resolve)));
    boards[1]!.broadcast("ping", 1);
    expect(await Promise.all(heard)).toEqual([0, 1].map(() => expect.objectContaining({ topic: "ping", payload: 1 })));
    // A tab that is gone does not show anything, and the other one shows again what it showed.
    const second = tabs.findIndex((tab) => !leads(tab));
    tabs[second]!.tab.crash();
    await sees(boards[1 - second]!, (others) => states(others) === "ben");
    await sees(elsewhere, (others) => states(others) === `ada ${1 - second}`);
  });

  it("of another subject, or to be separate, have a connection of their own", async () => {
    const id = fresh();
    const own = client(proxy.url, { store: indexedDbStore({ subject: "ada" }), environment: origin.tab().environment, tabs: "separate" });
    const boards = [open("ada").client, open("ben").client, own].map((each) => each.document<Board>(id, { initial }));
    await Promise.all(boards.map((board) => board.ready()));
    await Promise.all(boards.map((board, index) => board.change(push(`${index}`)).durable()));
    for (const board of boards) await until(board, ({ current }) => current?.cards.length === 3);
    expect(proxy.connections).toBe(3);
  });

  it("that went away, as a page in the back/forward cache, come back with what they missed and what they made", async () => {
    const id = fresh();
    const tabs = [open(), open()];
    const boards = tabs.map((tab) => tab.client.document<Board>(id, { initial }));
    await Promise.all(boards.map((board) => board.ready()));
    await Promise.all(boards.map(saved));
    for (const away of [tabs.findIndex((tab) => !leads(tab)), tabs.findIndex(leads)]) {
      const [gone, there] = [boards[away]!, boards[1 - away]!];
      const size = there.current!.cards.length;
      tabs[away]!.client.disconnect();
      gone.change(push(`${away} while it was away`));
      await there.change(push(`${away} while the other was away`)).durable();
      expect(gone.status).toMatchObject({ state: "offline", pending: 1 });
      tabs[away]!.client.reconnect();
      for (const board of boards) await until(board, ({ current }) => current?.cards.length === size + 2);
      await Promise.all(boards.map(saved));
    }
    expect(boards[0]!.current).toEqual(boards[1]!.current);
  });
});
