/** What a client does with everything that a server can say: tokens, refusals, documents that begin anew. */

import type { Doc } from "@automerge/automerge/slim";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { automerge, createClient } from "../../src/index.js";
import type { AutomergeModule, AuthRequest, Client, ClientOptions, Document, EtherPlyError } from "../../src/index.js";
import { genesis } from "../../src/document/genesis.js";
import { CONNECT_TIMEOUT_MS } from "../../src/connection.js";
import { ANSWER_MS, QUIET_MS, TICK_MS } from "../../src/protocol/session.js";
import { merged } from "../../src/store/store.js";
import type { Store, Stored } from "../../src/index.js";
import { toHex, utf8 } from "../../src/wire/bytes.js";
import { RENEW_MS_MIN } from "../../src/renewal.js";
import { cursor, fakeServer } from "./fake.js";
import type { Peer } from "./fake.js";

interface Board {
  cards: string[];
  poison?: boolean;
}
const initial: Board = { cards: [] };
const push = (text: string) => (doc: Board) => void doc.cards.push(text);

let A: AutomergeModule;
beforeAll(async () => {
  A = await automerge();
});

const clients: Client[] = [];
afterEach(() => Promise.all(clients.splice(0).map((client) => client.close())));

function setup(options: Partial<ClientOptions> = {}): { client: Client; next: () => Promise<Peer>; errors: EtherPlyError[] } {
  const { factory, next } = fakeServer();
  const client = createClient({ url: "ws://fake", webSocket: factory, backoff: { baseMs: 1, capMs: 2 }, ...options });
  clients.push(client);
  const errors: EtherPlyError[] = [];
  client.onError((error) => errors.push(error));
  return { client, next, errors };
}

/** Waits until this holds of a document. */
function until<T extends object>(document: Document<T>, holds: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (!holds()) return;
      offs.forEach((off) => off());
      resolve();
    };
    const offs = [document.subscribe((doc) => doc, look), document.onStatus(look)];
    look();
  });
}

/** Acks a push of `count` changes behind `after`. */
async function acks(peer: Peer, handle: number, after: number, epoch = 1): Promise<readonly Uint8Array[]> {
  const { body, tail } = await peer.hears("push");
  const count = body.lengths.length;
  const positions = body.lengths.map((_, index) => BigInt(after + index + 1));
  peer.say("ack", handle, { push: body.push, afterSeq: BigInt(after), cursor: cursor(after + count, epoch), positions });
  let at = 0;
  return body.lengths.map((length) => tail.slice(at, (at += length)));
}

async function refuses(peer: Peer, handle: number, code: number, message = "no"): Promise<void> {
  const { body } = await peer.hears("push");
  const { push: number, generation } = body;
  peer.say("refused", handle, { push: number, generation, index: 0, code, retryAfterMs: 0, clockComplete: true, clock: [], message });
}

/** A document with its genesis acked, as the one on handle 5. */
async function live(peer: Peer, document: Document<Board>): Promise<void> {
  await peer.welcome();
  await peer.opens(5);
  await acks(peer, 5, 0);
  await document.ready();
  await until(document, () => document.status.state === "live");
}

describe("tokens", () => {
  it("are asked for, sent, renewed before their end, and asked for again when they ended", async () => {
    const asked: AuthRequest[] = [];
    const auth = (request: AuthRequest): string => `token ${asked.push(request)}`;
    const { client, next, errors } = setup({ auth });
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await peer.welcome();
    const open = await peer.opens(5);
    expect(open.body.token).toBe("token 1");
    await acks(peer, 5, 0);
    peer.say("rightsChanged", 5, { request: 0, rights: 7, code: 0, expiresAtMs: BigInt(Date.now() + 50) });
    const renewal = await peer.hears("renew");
    expect(renewal.body.token).toBe("token 2");
    const rights = { request: renewal.body.request, rights: 7, code: 0, expiresAtMs: 0n };
    peer.say("rightsChanged", 5, rights);
    await board.ready();
    expect(board.status).toMatchObject({ state: "live", writable: true });

    // The end of a token is not the end: edits are taken, and wait for the next one.
    peer.say("rightsChanged", 5, { request: 0, rights: 0, code: 207, expiresAtMs: 0n });
    expect(board.status).toMatchObject({ state: "connecting", writable: true, error: undefined });
    const edit = board.change(push("x")).durable();
    expect((await peer.hears("push")).body.push).toBe(2n);
    peer.say("refused", 5, { push: 2n, generation: 1, index: 0, code: 207, retryAfterMs: 0, clockComplete: true, clock: [], message: "" });
    expect((await peer.hears("renew")).body.token).toBe("token 3");
    peer.say("rightsChanged", 5, rights);
    await acks(peer, 5, 1);
    await edit;
    expect(board.status).toMatchObject({ state: "live", writable: true, error: undefined, savedOnServer: true });
    expect(asked.map(({ documentId, reason }) => `${documentId} ${reason}`)).toEqual(["b open", "b renew", "b expired"]);
    expect(errors).toEqual([]);
  });

  it("that had ended already are asked for again on the same connection, and one asking is under way at a time", async () => {
    const asked: string[] = [];
    const auth = ({ reason }: AuthRequest): string => `token ${asked.push(reason)}`;
    const { client, next, errors } = setup({ auth, environment: instant });
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    peer.say("rightsChanged", 5, { request: 0, rights: 0, code: 207, expiresAtMs: 0n });
    peer.say("rightsChanged", 5, { request: 0, rights: 0, code: 207, expiresAtMs: 0n });
    for (const token of ["token 2", "token 3"]) {
      const { body } = await peer.hears("renew");
      expect(body.token).toBe(token);
      if (token === "token 2") {
        peer.say("error", 5, { request: body.request, code: 207, kind: 13, retryAfterMs: 0, message: "" });
        expect(board.status).toMatchObject({ state: "connecting", writable: true });
      } else peer.say("rightsChanged", 5, { request: body.request, rights: 7, code: 0, expiresAtMs: 0n });
    }
    expect(board.status).toMatchObject({ state: "live", error: undefined });
    expect([asked, errors, peer.isClosed]).toEqual([["open", "expired", "expired"], [], false]);
  });

  it("that auth refuses are final: edits that waited for one are told, kept, and go out after another login", async () => {
    let isLoggedIn = true;
    const auth = (): string | null => (isLoggedIn ? "a token" : null);
    const { client, next, errors } = setup({ auth });
    const board = client.document<Board>("b", { initial });
    let peer = await next();
    await live(peer, board);
    isLoggedIn = false;
    const edit = board.change(push("x")).durable();
    edit.catch(() => undefined);
    peer.say("rightsChanged", 5, { request: 0, rights: 0, code: 208, expiresAtMs: 0n });
    await refuses(peer, 5, 208);
    await expect(edit).rejects.toMatchObject({ code: "auth_refused", retryable: false });
    expect(board.status).toMatchObject({ state: "refused", error: { code: "auth_refused" }, writable: false, pending: 1 });
    expect(board.refused?.changes.length).toBe(1);
    expect(new Set(errors.map(({ code }) => code))).toEqual(new Set(["auth_refused"]));
    isLoggedIn = true;
    client.disconnect();
    client.reconnect();
    peer = await next();
    await peer.welcome();
    await peer.opens(6, { cursor: cursor(1), resume: 1 });
    await acks(peer, 6, 1);
    await until(board, () => board.status.savedOnServer);
    expect(board.status).toMatchObject({ state: "live", error: undefined, writable: true });
  });

  it("that the server does not take leave what there was, and are told", async () => {
    const { client, next, errors } = setup({ auth: () => "a token" });
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    peer.say("rightsChanged", 5, { request: 0, rights: 7, code: 0, expiresAtMs: BigInt(Date.now() + 50) });
    const { body } = await peer.hears("renew");
    peer.say("error", 5, { request: body.request, code: 206, kind: 13, retryAfterMs: 0, message: "" });
    expect(board.status).toMatchObject({ state: "live", writable: true });
    expect(errors.map(({ code }) => code)).toEqual(["token_invalid"]);
  });

  it("that do not come are asked for again, and a refusal that is final is told", async () => {
    let tries = 0;
    const auth = (): string => {
      tries += 1;
      if (tries === 1) throw new Error("the login service is away");
      return "a token";
    };
    const { client, next, errors } = setup({ auth, environment: eager });
    const board = client.document<Board>("b");
    const peer = await next();
    await peer.welcome();
    const open = await peer.hears("open");
    expect([open.body.token, tries, errors[0]?.code]).toEqual(["a token", 2, undefined]);
    const told = { request: open.body.request, kind: 10, retryAfterMs: 0, message: "not for you" };
    const ready = board.ready();
    peer.say("error", 0, { ...told, code: 204 });
    await expect(ready).rejects.toMatchObject({ code: "forbidden", number: 204, retryable: false });
    expect(board.status).toMatchObject({ state: "refused", ready: false });
    await expect(board.ready()).rejects.toMatchObject({ code: "forbidden" });
  });
});

/** Time in which every wait for a token is over at once. */
const instant = {
  now: () => 0,
  random: () => 0,
  after(ms: number, act: () => void) {
    if (ms !== RENEW_MS_MIN) return () => undefined;
    let isOver = false;
    queueMicrotask(() => void (isOver || act()));
    return () => void (isOver = true);
  },
};

/** Time that does not pass, with timers that are over at once; but not those that look after a connection. */
const eager = {
  now: () => 0,
  random: () => 0,
  after(ms: number, act: () => void) {
    if (ms !== 1_000 && ms !== 2_000) return () => undefined;
    let isOver = false;
    // The session's own tick has the same time and would spin: it is told by what it leads to.
    if (!act.toString().includes("tick")) queueMicrotask(() => void (isOver || act()));
    return () => void (isOver = true);
  },
};

describe("refused edits", () => {
  it("are kept, told, exported, sent again, and can be taken back", async () => {
    const { client, next, errors } = setup();
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    const durable = board.change(push("one")).durable();
    board.change(push("two"));
    await refuses(peer, 5, 210, "the document is full");
    await expect(durable).rejects.toMatchObject({ code: "document_too_large" });
    expect(errors.map(({ code }) => code)).toEqual(["document_too_large"]);
    expect(board.current?.cards).toEqual(["one", "two"]);
    expect(board.status).toMatchObject({ savedOnServer: false, pending: 2, error: { code: "document_too_large" } });
    expect(board.refused?.changes.length).toBe(2);
    const [begun] = A.applyChanges(A.init<Board>(), [genesis(A, initial)!]);
    expect(A.loadIncremental(begun, board.exportRefused()!).cards).toEqual(["one", "two"]);

    await peer.hears("push");
    board.retryRefused();
    await refuses(peer, 5, 210);
    expect((await peer.hears("push")).body.generation).toBeGreaterThan(1);
    expect(board.discardRefused().length).toBe(2);
    expect(board.current?.cards).toEqual([]);
    expect(board.status).toMatchObject({ savedOnServer: true, pending: 0, error: undefined });
    board.change(push("three"));
    const [change] = await acks(peer, 5, 1);
    expect(A.decodeChange(change!).seq).toBe(1);
    await until(board, () => board.status.savedOnServer);
  });

  it("of a read-only stream go out when it may write again", async () => {
    const { client, next } = setup();
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    board.change(push("one"));
    await refuses(peer, 5, 313);
    peer.say("rightsChanged", 5, { request: 0, rights: 5, code: 313, expiresAtMs: 0n });
    expect(board.status.writable).toBe(false);
    peer.say("rightsChanged", 5, { request: 0, rights: 7, code: 0, expiresAtMs: 0n });
    await acks(peer, 5, 1);
    await until(board, () => board.status.savedOnServer);
  });

  it("that the server only cannot take now go out by themselves", async () => {
    const { client, next, errors } = setup();
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    const edit = board.change(push("one"));
    await refuses(peer, 5, 213);
    await acks(peer, 5, 1);
    await edit.durable();
    expect(errors).toEqual([]);
  });
});

/** Somebody else's document of which one change is to be taken out. */
function story(): { base: Doc<Board>; poisoned: Doc<Board> } {
  const [base] = A.applyChanges(A.init<Board>(), [genesis(A, initial)!]);
  const good = A.change(base, (doc) => void doc.cards.push("theirs"));
  const kept = A.clone(good);
  return { base: kept, poisoned: A.change(good, (doc) => void (doc.poison = true)) };
}

/** A board with one edit that was acked and one that was not, whose document begins anew: a change of it is due. */
async function begunAnew(): Promise<{ board: Document<Board>; peer: Peer; errors: EtherPlyError[] }> {
  const { client, next, errors } = setup();
  const board = client.document<Board>("b", { initial });
  let peer = await next();
  await live(peer, board);
  board.change(push("acked"));
  await acks(peer, 5, 1);
  await until(board, () => board.status.savedOnServer);
  board.change(push("not acked"));
  peer.hangUp();
  peer = await next();
  await peer.welcome();
  await peer.opens(6, { resume: 4, cursor: cursor(1, 2) });
  return { board, peer, errors };
}

function sends(peer: Peer, handle: number, doc: Doc<Board>, epoch: number): void {
  const changes = A.getAllChanges(doc);
  const lengths = changes.map((change) => change.length);
  peer.say("changes", handle, { afterSeq: 0n, cursor: cursor(changes.length, epoch), lengths }, changes);
}

describe("a document that comes in several pieces", () => {
  /** Ten changes, in the order in which they were made. */
  function log(): Uint8Array[] {
    let [doc] = A.applyChanges(A.init<Board>(), [genesis(A, initial)!]);
    for (let card = 1; card < 10; card += 1) doc = A.change(doc, (board) => void board.cards.push(`${card}`));
    return A.getAllChanges(doc);
  }
  function piece(peer: Peer, changes: readonly Uint8Array[], from: number, to: number): void {
    const part = changes.slice(from, to);
    peer.say("changes", 5, { afterSeq: BigInt(from), cursor: cursor(to), lengths: part.map(({ length }) => length) }, part);
  }
  const applied = (board: Document<Board>): number => board["content"]?.history().length ?? 0;

  it("is put together when all of them are there, and from then on as they come", async () => {
    const changes = log();
    const { client, next } = setup();
    const board = client.document<Board>("b");
    const peer = await next();
    await peer.welcome();
    await peer.opens(5, { cursor: cursor(6) });
    await vi.waitUntil(() => board["content"] !== undefined);
    for (const from of [0, 2]) {
      piece(peer, changes, from, from + 2);
      expect([applied(board), board.status.ready]).toEqual([0, false]);
    }
    piece(peer, changes, 4, 6);
    await board.ready();
    expect([applied(board), board.status.state]).toEqual([6, "live"]);
    piece(peer, changes, 6, 8);
    await until(board, () => board.current?.cards.length === 7);
    piece(peer, changes, 8, 10);
    await until(board, () => board.current?.cards.length === 9);
  });

  it("is there as far as it came when the connection is lost before, and goes on from there", async () => {
    const changes = log();
    const { client, next } = setup();
    const board = client.document<Board>("b", { initial });
    let peer = await next();
    await peer.welcome();
    await peer.opens(5, { cursor: cursor(6) });
    await vi.waitUntil(() => board["content"] !== undefined);
    piece(peer, changes, 0, 4);
    expect(applied(board)).toBe(0);
    peer.hangUp();
    await board.ready();
    expect(board.current?.cards).toEqual(["1", "2", "3"]);
    peer = await next();
    await peer.welcome();
    const asked = await peer.opens(5, { resume: 1, cursor: cursor(6) });
    expect(asked.body.cursor).toEqual(cursor(4));
    piece(peer, changes, 4, 6);
    await until(board, () => board.status.state === "live");
    expect(board.current?.cards).toHaveLength(5);
  });
});

describe("a document that begins anew", () => {
  it("loses what was taken out and keeps own edits, acked or not", async () => {
    const { base, poisoned } = story();
    const { client, next, errors } = setup();
    const board = client.document<Board>("b", { initial });
    let peer = await next();
    await peer.welcome();
    await peer.opens(5, { cursor: cursor(3) });
    sends(peer, 5, poisoned, 1);
    await board.ready();
    expect(board.current).toEqual({ cards: ["theirs"], poison: true });
    board.change(push("acked"));
    await acks(peer, 5, 3);
    const open = board.change(push("not acked"));
    const durable = open.durable();
    peer.hangUp();
    peer = await next();
    await peer.welcome();
    const asked = await peer.opens(6, { resume: 4, cursor: cursor(2, 2) });
    expect(asked.body.cursor).toEqual(cursor(4));
    board.change(push("while it begins anew"));
    expect(board.current?.cards).toEqual(["theirs", "acked", "not acked", "while it begins anew"]);
    sends(peer, 6, base, 2);
    const cards = ["theirs", "acked", "not acked", "while it begins anew"];
    await until(board, () => board.current?.poison === undefined);
    expect(board.current).toEqual({ cards });
    expect(board.status.pending).toBe(3);
    const made = await acks(peer, 6, 2, 2);
    await durable;
    const [theirs] = A.applyChanges(base, [...made]);
    expect(A.toJS(theirs)).toEqual({ cards });
    expect(errors).toEqual([]);
  });

  it("after a squash holds what was acked already, and gets only the rest", async () => {
    const { board, peer } = await begunAnew();
    const actor = toHex(utf8("squashed")) + "00".repeat(8);
    const squashed = A.from<Board & Record<string, unknown>>({ cards: ["acked"] }, { actor });
    sends(peer, 6, squashed, 2);
    const [change] = await acks(peer, 6, 1, 2);
    expect(change).toBeDefined();
    await until(board, () => board.status.savedOnServer);
    expect(board.current).toEqual({ cards: ["acked", "not acked"] });
  });

  it("from a history that has nothing in common with this one, and is no squash, gets what was acked as well", async () => {
    const { board, peer, errors } = await begunAnew();
    // Somebody else began it, without having heard of this one.
    sends(peer, 6, A.from<Board & Record<string, unknown>>({ cards: ["theirs"] }), 2);
    expect(await acks(peer, 6, 1, 2)).toHaveLength(2);
    await until(board, () => board.status.savedOnServer);
    expect([...(board.current?.cards ?? [])].sort()).toEqual(["acked", "not acked", "theirs"]);
    expect(errors).toEqual([]);
  });

  it("as a fresh actor where this one is not taken any more, and not for ever", async () => {
    const { client, next, errors } = setup();
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    const begun = A.load<Board>(board.save());
    const actors = new Set<string>();
    board.change(push("mine"));
    for (let round = 0; round <= 4; round += 1) {
      const { body, tail } = await peer.hears("push");
      actors.add(A.decodeChange(tail.slice()).actor);
      const { push: number, generation } = body;
      peer.say("refused", 5, { push: number, generation, index: 0, code: 315, retryAfterMs: 0, clockComplete: true, clock: [], message: "" });
      if (round === 4) break;
      await peer.hears("close");
      peer.say("close", 5, { code: 0, message: "" });
      await peer.opens(5, { cursor: cursor(1) });
      sends(peer, 5, begun, 1);
    }
    expect(actors.size).toBe(5);
    expect(board.current?.cards).toEqual(["mine"]);
    expect(errors.map(({ code }) => code)).toEqual(["actor_excluded"]);
    expect(board.refused?.error.code).toBe("actor_excluded");
  });
});

describe("a document that begins anew with an edit whose ack was lost", () => {
  it("counts the edit as saved", async () => {
    const { client, next } = setup();
    const board = client.document<Board>("b", { initial });
    let peer = await next();
    await live(peer, board);
    const durable = board.change(push("mine")).durable();
    await peer.hears("push");
    const all = A.load<Board>(board.save());
    peer.hangUp();
    peer = await next();
    await peer.welcome();
    await peer.opens(6, { resume: 4, cursor: cursor(2, 2) });
    sends(peer, 6, all, 2);
    await durable;
    expect(board.current).toEqual({ cards: ["mine"] });
    expect(board.status).toMatchObject({ state: "live", pending: 0, savedOnServer: true });
  });
});

describe("history", () => {
  it("says who, when, what and where, and shows the document as it was", async () => {
    const { client, next } = setup();
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    board.change(push("mine"), { message: "the first card" });
    const [mine] = await acks(peer, 5, 1);
    await until(board, () => board.status.savedOnServer);
    const theirs = A.change(A.load<Board>(board.save()), { time: 1_700_000_000 }, push("theirs"));
    const change = A.getLastLocalChange(theirs)!;
    peer.say("changes", 5, { afterSeq: 2n, cursor: cursor(3), lengths: [change.length] }, [change]);
    await until(board, () => board.current?.cards.length === 2);
    board.change(push("not saved"));
    const [begun, first, second, third, ...rest] = board.history();
    expect(rest).toEqual([]);
    expect(begun).toMatchObject({ isMine: false, time: undefined, position: 1n, deps: [], isSaved: true });
    expect(first).toMatchObject({ hash: A.decodeChange(mine!).hash, isMine: true, message: "the first card", position: 2n });
    expect(second).toMatchObject({ actor: A.getActorId(theirs), isMine: false, position: 3n, message: undefined });
    expect(second?.time).toEqual(new Date(1_700_000_000_000));
    expect(third).toMatchObject({ isMine: true, isSaved: false, position: undefined, deps: expect.arrayContaining([second!.hash]) as string[] });
    expect([0, 1, 2n, 3, 99].map((place) => board.at(place).cards?.length)).toEqual([undefined, 0, 1, 2, 2]);
    expect(board.at([first!.hash])).toEqual({ cards: ["mine"] });
    expect(board.at(board.history().slice(-1).map(({ hash }) => hash)).cards.length).toBe(3);
    for (const wrong of [-1, 1.5, ["0".repeat(64)], ["x"]] as const) {
      expect(() => board.at(wrong)).toThrow(expect.objectContaining({ code: "bad_argument" }));
    }
    // The copy is what it was.
    expect(board.current?.cards).toEqual(["mine", "theirs", "not saved"]);
  });

  it("goes back behind a snapshot, whose positions are not known, and own changes among others' are told apart", async () => {
    const { client, next } = setup();
    const board = client.document<Board>("b");
    const peer = await next();
    await peer.welcome();
    await peer.opens(5, { resume: 2, cursor: cursor(2) });
    const [base] = A.applyChanges(A.init<Board>(), [genesis(A, initial)!]);
    const saved = A.change(base, push("kept"));
    const bytes = A.save(saved);
    peer.say("snapshot", 5, { cursor: cursor(2), totalBytes: BigInt(bytes.length), offset: 0n }, [bytes]);
    await board.ready();
    expect(board.history().map(({ position, isSaved }) => [position, isSaved])).toEqual([[undefined, true], [undefined, true]]);
    expect(board.at(2).cards).toEqual(["kept"]);
    expect(() => board.at(1)).toThrow(expect.objectContaining({ code: "position_unknown" }));
    board.change(push("mine"));
    const { body } = await peer.hears("push");
    peer.say("ack", 5, { push: body.push, afterSeq: 3n, cursor: cursor(4), positions: [4n] });
    let theirs = saved;
    const changes = ["a", "b"].map((card) => A.getLastLocalChange((theirs = A.change(theirs, push(card))))!);
    peer.say("changes", 5, { afterSeq: 2n, cursor: cursor(5), lengths: changes.map((change) => change.length) }, changes);
    await until(board, () => board.current?.cards.length === 4);
    const placed = board.history().filter(({ position }) => position !== undefined);
    expect(new Map(placed.map(({ hash, position }) => [hash, position]))).toEqual(
      new Map([[A.decodeChange(changes[0]!).hash, 3n], [A.decodeChange(changes[1]!).hash, 5n], [placed.find(({ isMine }) => isMine)!.hash, 4n]]),
    );
    expect([3, 4, 5].map((place) => board.at(place).cards.length)).toEqual([2, 3, 4]);
  });
});

describe("another log", () => {
  it("is reconciled: each side gets what it lacks", async () => {
    const { client, next } = setup();
    const board = client.document<Board>("b", { initial });
    let peer = await next();
    await live(peer, board);
    board.change(push("lost by the server"));
    await acks(peer, 5, 1);
    peer.hangUp();
    peer = await next();
    await peer.welcome();
    await peer.opens(6, { resume: 3, cursor: cursor(1, 9) });
    const first = A.decodeChange(genesis(A, initial)!);
    const hash = Uint8Array.from(first.hash.match(/../g)!.map((byte) => Number.parseInt(byte, 16)));
    const actor = new TextEncoder().encode("etherply genesis");
    peer.say("reconcile", 6, { cursor: cursor(1, 9), more: false, clock: [{ actor, seq: 1n, hash }] });
    const clock = await peer.hears("reconcile");
    expect(clock.body.clock.map(({ seq }) => seq)).toEqual([1n, 1n]);
    expect(clock.body.cursor).toEqual(cursor(2));
    peer.say("changes", 6, { afterSeq: 0n, cursor: cursor(1, 9), lengths: [] });
    const [change] = await acks(peer, 6, 1, 9);
    expect(A.decodeChange(change!).seq).toBe(1);
    await until(board, () => board.status.state === "live" && board.status.savedOnServer);
  });
});

describe("a connection", () => {
  it("ends where the server breaks the protocol or says that it is of no use", async () => {
    for (const [act, code] of [
      [(peer: Peer) => peer.babble(new Uint8Array(3)), "frame_malformed"],
      [(peer: Peer) => peer.say("pong", 0, { nonce: 1n }), "protocol_violation"],
      [(peer: Peer) => peer.say("error", 0, { request: 0, code: 101, kind: 0, retryAfterMs: 0, message: "" }), "unsupported_protocol"],
    ] as const) {
      const { client, next } = setup();
      client.room("r");
      const peer = await next();
      peer.open();
      await peer.hears("hello");
      act(peer);
      await peer.ended();
      expect(client.status).toMatchObject({ state: "refused", error: { code } });
    }
  });

  it("is made again after a gap, from where the copy ends", async () => {
    const { client, next } = setup();
    const board = client.document<Board>("b", { initial });
    const peer = await next();
    await live(peer, board);
    peer.say("changes", 5, { afterSeq: 7n, cursor: cursor(8), lengths: [] });
    await peer.ended();
    const again = await next();
    await again.welcome();
    expect((await again.hears("open")).body.cursor).toEqual(cursor(1));
  });

  it("is given up when the server says nothing any more, and made again", async () => {
    let nowMs = 0;
    const timers = new Set<{ atMs: number; act: () => void }>();
    /** Lets time pass, a timer after the other. */
    const pass = (ms: number): void => {
      const endMs = nowMs + ms;
      for (;;) {
        const [first] = [...timers].sort((one, other) => one.atMs - other.atMs);
        if (first === undefined || first.atMs > endMs) break;
        timers.delete(first);
        nowMs = Math.max(nowMs, first.atMs);
        first.act();
      }
      nowMs = endMs;
    };
    const environment = {
      now: () => nowMs,
      random: () => 0.5,
      after(ms: number, act: () => void) {
        const timer = { atMs: nowMs + ms, act };
        timers.add(timer);
        return () => void timers.delete(timer);
      },
    };
    const { client, next } = setup({ environment });
    client.room("r");
    const peer = await next();
    await peer.welcome();
    await peer.opens(5);
    pass(QUIET_MS + TICK_MS);
    peer.say("pong", 0, { nonce: 0n });
    pass(QUIET_MS - TICK_MS);
    expect([peer.isClosed, client.status.state]).toEqual([false, "live"]);
    pass(ANSWER_MS + 3 * TICK_MS);
    expect([peer.isClosed, client.status.state]).toEqual([true, "connecting"]);
    const again = await next();
    pass(CONNECT_TIMEOUT_MS);
    expect(again.isClosed).toBe(true);
    pass(10);
    const last = await next();
    await last.welcome();
    expect(client.status.state).toBe("live");
  });

  it("keeps to the limits that the server announces", async () => {
    const { client, next } = setup();
    const room = client.room("r");
    const peer = await next();
    await peer.welcome([{ limit: 9, value: 10n }, { limit: 11, value: 10n }]);
    await peer.opens(5);
    room.presence.set("12345678");
    expect((await peer.hears("presenceSet")).tail.length).toBe(10);
    expect(() => room.presence.set("123456789")).toThrow(expect.objectContaining({ code: "presence_too_large" }));
    room.broadcast("t", "12345678");
    expect((await peer.hears("broadcastSend")).tail.length).toBe(10);
    expect(() => room.broadcast("t", "123456789")).toThrow(expect.objectContaining({ code: "broadcast_too_large" }));
    expect(() => room.broadcast("x".repeat(129), "")).toThrow(expect.objectContaining({ code: "broadcast_too_large" }));
  });
});

describe("presence and messages", () => {
  it("that are set before a store was read are shown once it is", async () => {
    let kept: Stored | undefined;
    const store: Store = {
      document: () => ({
        read: () => Promise.resolve(kept),
        write: (batch) => {
          const { stored, taken } = merged(kept, batch);
          kept = stored;
          return Promise.resolve(taken);
        },
        remove: () => Promise.resolve(),
        close: () => undefined,
      }),
    };
    const { client, next } = setup({ store });
    const board = client.document<Board>("b", { initial });
    board.presence.set("here");
    const peer = await next();
    await peer.welcome();
    await peer.opens(5);
    await acks(peer, 5, 0);
    expect(new TextDecoder().decode((await peer.hears("presenceSet")).tail)).toBe('"here"');
    await until(board, () => board.status.savedLocally && board.status.savedOnServer);
  });

  it("of others come and go, one's own is passed over, and what is no JSON", async () => {
    const { client, next } = setup();
    const room = client.room("r");
    const seen: string[][] = [];
    room.presence.subscribe((others) => seen.push(others.map(({ state }) => String(state))));
    const peer = await next();
    await peer.welcome();
    const asked = await peer.opens(5);
    expect(asked.body.rights).toBe(4);
    const member = (byte: number): Uint8Array => new Uint8Array(16).fill(byte);
    const entry = (byte: number, text: string) => ({ member: member(byte), state: new TextEncoder().encode(text) });
    peer.say("presenceUpdate", 5, { version: 1n, full: true, entries: [entry(1, '"a"'), entry(7, '"me"'), entry(2, "{")] });
    peer.say("presenceUpdate", 5, { version: 2n, full: false, entries: [entry(3, '"c"')] });
    peer.say("presenceLeave", 5, { version: 3n, members: [member(1)] });
    expect(seen).toEqual([["a"], ["a", "c"], ["c"]]);
    const heard: unknown[] = [];
    room.onBroadcast("t", ({ from, payload }) => heard.push([from.slice(0, 2), payload]));
    peer.say("broadcast", 5, { index: 1n, member: member(1), topic: "t" }, [new TextEncoder().encode("[1]")]);
    peer.say("broadcast", 5, { index: 2n, member: member(1), topic: "other" }, [new TextEncoder().encode("[2]")]);
    peer.say("broadcast", 5, { index: 3n, member: member(1), topic: "t" }, [new TextEncoder().encode("no")]);
    expect(heard).toEqual([["01", [1]]]);
    peer.hangUp();
    expect(room.presence.others).toEqual([]);
    expect(() => room.broadcast("t", 1)).toThrow(expect.objectContaining({ code: "not_connected" }));
  });
});

it("a WebSocket that cannot send is told of, and the client tries another", async () => {
  const { factory, next } = fakeServer();
  const client = createClient({ url: "ws://fake", webSocket: factory, backoff: { baseMs: 1, capMs: 2 } });
  const board = client.document("boards/mute", { initial: { cards: [] } });
  const mute = await next();
  mute.send = () => {
    throw new TypeError("mask is not a function");
  };
  const told: unknown[] = [];
  board.onStatus(({ error }) => void (error !== undefined && told.push(error)));
  mute.open();
  const peer = await next();
  expect(mute.isClosed).toBe(true);
  expect(told[0]).toMatchObject({ code: "connection_failed", cause: { name: "TypeError" } });
  expect(String(told[0])).toContain("cannot send: TypeError: mask is not a function");
  await peer.welcome();
  await peer.opens(1);
  expect(await board.ready()).toEqual({ cards: [] });
  await client.close();
});
