/** Documents between clients of a real server, with the network cut and the server killed. */

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { EtherPlyError } from "../../src/index.js";
import { client, closeAll, saved, until } from "./clients.js";
import { Proxy, TestServer } from "./server.js";

interface Board {
  cards: { title: string }[];
  note?: string;
  picture?: Uint8Array;
}
const initial: Board = { cards: [] };

const server = new TestServer();
let name = 0;
const fresh = (): string => `boards/${(name += 1)}`;

beforeAll(() => server.start());
afterEach(closeAll);
afterAll(() => server.remove());

describe("two clients", () => {
  it("see each other's edits, and an edit is durable", async () => {
    const id = fresh();
    const [ada, ben] = [client(server.url), client(server.url)].map((each) => each.document<Board>(id, { initial }));
    await Promise.all([ada!.ready(), ben!.ready()]);
    const seen: number[] = [];
    ben!.subscribe((doc) => doc.cards, (cards) => seen.push(cards.length));
    await ada!.change((doc) => void doc.cards.push({ title: "hi" }), { message: "a card" }).durable();
    expect(ada!.status).toMatchObject({ state: "live", savedOnServer: true, pending: 0, writable: true });
    await until(ben!, ({ current }) => current?.cards.length === 1);
    expect(seen).toEqual([1]);
    ben!.change((doc) => void (doc.cards[0]!.title = "ho"));
    await until(ada!, ({ current }) => current?.cards[0]?.title === "ho");
    expect(ada!.current).toEqual({ cards: [{ title: "ho" }] });
  });

  it("that begin one document at once do not hide each other's cards", async () => {
    const id = fresh();
    const proxies = await Promise.all([0, 1].map(() => new Proxy(() => server.port).start()));
    for (const proxy of proxies) proxy.cut();
    const boards = proxies.map((proxy) => client(proxy.url).document<Board>(id, { initial }));
    await Promise.all(boards.map((board) => board.ready()));
    boards.forEach((board, index) => board.change((doc) => void doc.cards.push({ title: `of ${index}` })));
    for (const proxy of proxies) proxy.mend();
    await Promise.all(boards.map((board) => until(board, ({ current }) => current?.cards.length === 2)));
    await Promise.all(boards.map(saved));
    expect(boards[0]!.current).toEqual(boards[1]!.current);
    await closeAll();
    await Promise.all(proxies.map((proxy) => proxy.close()));
  });

  it("that begin it differently end with one beginning and both edits", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    proxy.cut();
    const late = client(proxy.url).document<Board>(id, { initial: { cards: [], note: "of a newer version" } });
    await late.ready();
    const edit = late.change((doc) => void doc.cards.push({ title: "late" }));
    const early = client(server.url).document<Board>(id, { initial });
    await early.ready();
    await early.change((doc) => void doc.cards.push({ title: "early" })).durable();
    proxy.mend();
    await edit.durable();
    await until(early, ({ current }) => current?.cards.length === 2);
    await until(late, ({ current }) => current?.cards.length === 2);
    expect(late.current).toEqual(early.current);
    expect(late.current?.note).toBeUndefined();
    await closeAll();
    await proxy.close();
  });

  it("share several documents over one connection", async () => {
    const proxy = await new Proxy(() => server.port).start();
    const one = client(proxy.url);
    const boards = Array.from({ length: 20 }, () => one.document<Board>(fresh(), { initial }));
    await Promise.all(boards.map((board) => board.ready()));
    await Promise.all(boards.map((board) => board.change((doc) => void doc.cards.push({ title: "x" })).durable()));
    expect(proxy.connections).toBe(1);
    await closeAll();
    await proxy.close();
  });
});

describe("a cut network", () => {
  it("loses nothing, in either direction, however often", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    const ada = client(proxy.url).document<Board>(id, { initial });
    const ben = client(server.url).document<Board>(id, { initial });
    await Promise.all([ada.ready(), ben.ready()]);
    for (let round = 0; round < 5; round += 1) {
      ada.change((doc) => void doc.cards.push({ title: `a${round} before` }));
      proxy.cut();
      ada.change((doc) => void doc.cards.push({ title: `a${round} offline` }));
      await until(ada, ({ status }) => status.state !== "live");
      expect(ada.status.savedOnServer).toBe(false);
      await ben.change((doc) => void doc.cards.push({ title: `b${round}` })).durable();
      proxy.mend();
      await saved(ada);
    }
    await until(ada, ({ current }) => current?.cards.length === 15);
    await until(ben, ({ current }) => current?.cards.length === 15);
    expect(ada.current).toEqual(ben.current);
    await closeAll();
    await proxy.close();
  });

  it("does not settle what waits for the server, and a signal does", async () => {
    const proxy = await new Proxy(() => server.port).start();
    const ada = client(proxy.url).document<Board>(fresh(), { initial });
    await ada.ready();
    await saved(ada);
    proxy.cut();
    const edit = ada.change((doc) => void (doc.note = "later"));
    const gaveUp = new AbortController();
    const waits = edit.durable({ signal: gaveUp.signal });
    gaveUp.abort();
    await expect(waits).rejects.toMatchObject({ code: "aborted" });
    const durable = edit.durable();
    proxy.mend();
    await durable;
    expect(ada.status.savedOnServer).toBe(true);
    await closeAll();
    await proxy.close();
  });
});

describe("a server that is killed", () => {
  it("has everything that it acknowledged, and gets the rest", async () => {
    const own = await new TestServer().start();
    const id = fresh();
    const [ada, ben] = [client(own.url), client(own.url)].map((each) => each.document<Board>(id, { initial }));
    await Promise.all([ada!.ready(), ben!.ready()]);
    await ada!.change((doc) => void doc.cards.push({ title: "acknowledged" })).durable();
    for (let n = 0; n < 50; n += 1) ada!.change((doc) => void doc.cards.push({ title: `in flight ${n}` }));
    await own.kill();
    await until(ada!, ({ status }) => status.state === "offline");
    ada!.change((doc) => void doc.cards.push({ title: "while it was away" }));
    ben!.change((doc) => void (doc.note = "me too"));
    await own.start();
    await Promise.all([saved(ada!), saved(ben!)]);
    for (const board of [ada!, ben!]) {
      await until(board, ({ current }) => current?.cards.length === 52 && current.note === "me too");
    }
    expect(ada!.current).toEqual(ben!.current);
    await closeAll();
    await own.remove();
  });

  it("that stops tells clients when to come back", async () => {
    const own = await new TestServer().start();
    const ada = client(own.url).document<Board>(fresh(), { initial });
    await ada.ready();
    await own.kill("SIGTERM");
    await until(ada, ({ status }) => status.state === "offline");
    await own.start();
    await saved(ada);
    await closeAll();
    await own.remove();
  });
});

describe("presence and messages", () => {
  it("go between a document and a room of the same name, and presence is shown again after a cut", async () => {
    const id = fresh();
    const proxy = await new Proxy(() => server.port).start();
    const room = client(proxy.url).room(id);
    const board = client(server.url).document<Board>(id, { initial });
    room.presence.set({ name: "ada" });
    const sees = (count: number): Promise<void> =>
      new Promise((resolve) => {
        const look = (): void => {
          if (board.presence.others.length === count) (off(), resolve());
        };
        const off = board.presence.subscribe(look);
        look();
      });
    await board.ready();
    await sees(1);
    expect(board.presence.others.map(({ state }) => state)).toEqual([{ name: "ada" }]);
    const heard = new Promise((resolve) => board.onBroadcast("ping", resolve));
    room.broadcast("ping", { n: 1 });
    expect(await heard).toMatchObject({ topic: "ping", payload: { n: 1 }, from: board.presence.others[0]!.id });
    proxy.cut();
    await sees(0);
    proxy.mend();
    await sees(1);
    room.presence.leave();
    await sees(0);
    await closeAll();
    await proxy.close();
  });
});

describe("what is asked wrongly", () => {
  it("throws before anything is done", async () => {
    const one = client(server.url);
    expect(() => one.document("")).toThrow(expect.objectContaining({ code: "document_id_invalid" }));
    expect(() => one.document("a\u0000b")).toThrow(expect.objectContaining({ code: "document_id_invalid" }));
    const board = one.document<Board>(fresh(), { initial });
    expect(() => board.change(() => undefined)).toThrow(expect.objectContaining({ code: "not_ready" }));
    await board.ready();
    expect(board.change(() => undefined).hash).toBeUndefined();
    expect(() =>
      board.change((doc) => {
        doc.note = "gone";
        throw new Error("mine");
      }),
    ).toThrow("mine");
    expect(board.current).toEqual(initial);
    const picture = new Uint8Array(1024 * 1024);
    expect(() => board.change((doc) => void (doc.picture = picture))).toThrow(expect.objectContaining({ code: "change_too_large" }));
    expect(board.current).toEqual(initial);
    await board.change((doc) => void (doc.note = "small")).durable();
    const reader = client(server.url).document<Board>(board.id, { access: "read" });
    await reader.ready();
    expect(() => reader.change((doc) => void (doc.note = "no"))).toThrow(EtherPlyError);
    expect(() => reader.change((doc) => void (doc.note = "no"))).toThrow(expect.objectContaining({ code: "read_only" }));
    await board.close();
    expect(() => board.change(() => undefined)).toThrow(expect.objectContaining({ code: "closed" }));
    await expect(board.ready()).rejects.toMatchObject({ code: "closed" });
  });
});
