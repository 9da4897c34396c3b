/** What the types let through, and what they do not. Nothing here runs. */

import { expectTypeOf, test } from "vitest";
import { createClient } from "../../src/index.js";
import type { Change, Client, DocumentStatus, ErrorCode, EtherPlyError, Member, Presence } from "../../src/index.js";
import { useDocument, usePresence, useSuspenseDocument, useSyncStatus, useUndo } from "../../src/react/index.js";
import { fileStore } from "../../src/node/index.js";
import type { Store } from "../../src/index.js";

interface Board {
  cards: { title: string }[];
  due?: Date;
}
const client: Client = createClient({ url: "ws://127.0.0.1" });
const board = client.document<Board>("boards/1", { initial: { cards: [] } });

test("a document has the type that it was asked for", async () => {
  expectTypeOf(board.current).branded.toEqualTypeOf<Readonly<Board> | undefined>();
  expectTypeOf((await board.ready()).cards).toEqualTypeOf<{ title: string }[]>();
  board.change((doc) => {
    expectTypeOf(doc).toEqualTypeOf<Board>();
    doc.cards.push({ title: "hi" });
    // @ts-expect-error: a card has a title
    doc.cards.push({ name: "hi" });
  });
  // @ts-expect-error: an edit is not asynchronous, or its types are not those of the document
  client.document<Board>("boards/1", { initial: { cards: "none" } });
  // @ts-expect-error: a document is no plain value
  client.document<string>("boards/1");
});

test("a selector says what its listener gets", () => {
  board.subscribe(
    (doc) => doc.cards.length,
    (count, before) => {
      expectTypeOf(count).toEqualTypeOf<number>();
      expectTypeOf(before).toEqualTypeOf<number | undefined>();
    },
  );
  // @ts-expect-error: the document has no lists
  board.subscribe((doc) => doc.lists, () => undefined);
});

test("an edit tells when it is on the server's disk", () => {
  const change = board.change((doc) => void doc.cards.pop(), { message: "one less" });
  expectTypeOf(change).toEqualTypeOf<Change>();
  expectTypeOf(change.durable({ signal: AbortSignal.timeout(1) })).toEqualTypeOf<Promise<void>>();
  expectTypeOf(board.undo()).toEqualTypeOf<Change | undefined>();
});

test("status cannot be written, and its states are four", () => {
  expectTypeOf(board.status).toEqualTypeOf<DocumentStatus>();
  expectTypeOf(board.status.state).toEqualTypeOf<"connecting" | "live" | "offline" | "refused">();
  // @ts-expect-error: it is read only
  board.status.state = "live";
});

test("presence and messages are what JSON can hold", () => {
  expectTypeOf(board.presence).toEqualTypeOf<Presence>();
  board.presence.set({ cursor: [1, 2], name: undefined });
  // @ts-expect-error: JSON has no functions
  board.presence.set({ cursor: () => 1 });
  // @ts-expect-error: JSON has no dates
  board.broadcast("ping", new Date());
});

test("codes of errors are a closed list", () => {
  expectTypeOf<EtherPlyError["code"]>().toEqualTypeOf<ErrorCode>();
  expectTypeOf<"read_only">().toExtend<ErrorCode>();
  expectTypeOf<"read-only">().not.toExtend<ErrorCode>();
});

test("hooks say undefined until the document is there, and the suspending one does not", () => {
  const ref = { id: "boards/1", initial: { cards: [] } };
  const [cards, change] = useDocument(ref, (doc: Board) => doc.cards);
  expectTypeOf(cards).toEqualTypeOf<{ title: string }[] | undefined>();
  expectTypeOf(change((doc) => void doc.cards.pop())).toEqualTypeOf<Change | undefined>();
  expectTypeOf(useSuspenseDocument<Board>("boards/1")[0]).toEqualTypeOf<Board>();
  expectTypeOf(useSyncStatus("boards/1")).toEqualTypeOf<DocumentStatus>();
  expectTypeOf(useSyncStatus()).not.toHaveProperty("pending");
  expectTypeOf(usePresence<{ name: string }>("boards/1").others).toEqualTypeOf<readonly Member<{ name: string }>[]>();
  expectTypeOf(useUndo("boards/1").canUndo).toEqualTypeOf<boolean>();
});

test("stores fit the client", () => {
  expectTypeOf(fileStore({ directory: "d", subject: "me" })).toExtend<Store>();
  // @ts-expect-error: what is kept belongs to somebody
  fileStore({ directory: "d" });
});
