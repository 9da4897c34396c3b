/** Undo takes back one's own edits and nobody else's. */

import type { Doc } from "@automerge/automerge/slim";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { automerge } from "../../src/automerge.js";
import type { AutomergeModule } from "../../src/automerge.js";
import { Content } from "../../src/document/content.js";
import { UNDO_GROUP_MS, UNDO_MAX } from "../../src/document/undo.js";
import type { Stream } from "../../src/protocol/stream.js";

let A: AutomergeModule;
beforeAll(async () => {
  A = await automerge();
});

interface Board {
  title: string;
  cards: { title: string; done?: boolean }[];
  text: string;
  count: number;
  votes?: unknown;
}
type Edit = (doc: Board) => void;

/** A side with undo whose stream leads nowhere. */
class Side {
  readonly content: Content<Board>;
  private nowMs = 0;

  constructor(base: Uint8Array) {
    const outbox = { hasRoom: () => true, unacked: [] };
    const stream = { outbox, push: () => undefined, cursor: undefined } as unknown as Stream;
    const nothing = (): void => undefined;
    this.content = new Content<Board>(A, stream, {
      changed: nothing,
      began: nothing,
      failed: nothing,
      made: nothing,
      isOurs: () => true,
      isElsewhere: () => false,
    });
    this.content.receiveSnapshot(base, 0n);
    this.content.apply();
  }

  edit(edit: Edit, waitMs = UNDO_GROUP_MS + 1): this {
    this.nowMs += waitMs;
    this.content.edit(edit, { message: undefined, bytesMax: 1 << 20, nowMs: this.nowMs });
    return this;
  }

  /** Somebody else edits, and this side hears of it. */
  hear(edit: Edit): this {
    const theirs = A.change(A.clone(this.content.doc as Doc<Board>), edit);
    this.content.receive(A.getChangesSince(theirs, A.getHeads(this.content.doc)), 0n, 1n);
    this.content.apply();
    return this;
  }

  undo(): this {
    this.content.reverse("undo", { bytesMax: 1 << 20, nowMs: this.nowMs });
    return this;
  }

  redo(): this {
    this.content.reverse("redo", { bytesMax: 1 << 20, nowMs: this.nowMs });
    return this;
  }

  get value(): Board {
    return A.toJS(this.content.doc as Doc<Board>);
  }
}

function begin(): Side {
  const votes = new A.Counter(5);
  const cards = [{ title: "one" }, { title: "two" }];
  const doc = A.from<Board & Record<string, unknown>>({ title: "t", cards, text: "hello", count: 1, votes });
  return new Side(A.save(doc));
}

const edits = (): Edit[] => [
  (doc) => void (doc.title += "!"),
  (doc) => void (doc.count += 1),
  (doc) => void doc.cards.push({ title: "new", done: false }),
  (doc) => void doc.cards.splice(0, 1),
  (doc) => {
    if (doc.cards[0] !== undefined) doc.cards[0].done = true;
  },
  (doc) => A.splice(doc as never, ["text"], Math.min(2, doc.text.length), 1, "XY"),
  (doc) => void (doc.votes as { increment(by: number): void }).increment(2),
];

describe("undo", () => {
  it("and redo lead back and forth, whatever was edited", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(6), { minLength: 1, maxLength: 8 }), (chosen) => {
        const side = begin();
        const values = [side.value];
        for (const index of chosen) values.push(side.edit(edits()[index]!).value);
        const steps = [...values].reverse().slice(1);
        const there = chosen.length;
        for (let undone = 0; undone < there; undone += 1) {
          if (!side.content.undo.state.canUndo) break;
          side.undo();
        }
        expect(side.value).toEqual(values[0]);
        expect(steps.at(-1)).toEqual(values[0]);
        while (side.content.undo.state.canRedo) side.redo();
        expect(side.value).toEqual(values.at(-1));
        while (side.content.undo.state.canUndo) side.undo();
        expect(side.value).toEqual(values[0]);
      }),
      { numRuns: 40 },
    );
  });

  it("keeps what others did meanwhile", () => {
    const side = begin()
      .edit((doc) => A.splice(doc as never, ["text"], 5, 0, " world"))
      .hear((doc) => A.splice(doc as never, ["text"], 0, 0, ">> "));
    expect(side.undo().value.text).toBe(">> hello");
    expect(side.redo().value.text).toBe(">> hello world");
    const cards = begin()
      .edit((doc) => void doc.cards.push({ title: "mine" }))
      .hear((doc) => void doc.cards.unshift({ title: "theirs" }));
    expect(cards.undo().value.cards.map(({ title }) => title)).toEqual(["theirs", "one", "two"]);
  });

  it("passes over values that others overwrote since", () => {
    const side = begin()
      .edit((doc) => void (doc.title = "mine"))
      .hear((doc) => void (doc.title = "theirs"));
    expect(side.undo().value.title).toBe("theirs");
    const card = begin()
      .edit((doc) => void doc.cards.push({ title: "mine" }))
      .hear((doc) => void (doc.cards[2]!.done = true));
    expect(card.undo().value.cards[2]).toEqual({ title: "mine", done: true });
    const counter = begin()
      .edit((doc) => void (doc.votes as { increment(by: number): void }).increment(2))
      .hear((doc) => void (doc.votes as { increment(by: number): void }).increment(10));
    expect(Number(counter.undo().value.votes)).toBe(15);
  });

  it("takes edits back together that follow each other quickly", () => {
    const type = (text: string): Edit => (doc) => A.splice(doc as never, ["text"], doc.text.length, 0, text);
    const side = begin().edit(type(" w")).edit(type("or"), 10).edit(type("ld"), UNDO_GROUP_MS);
    side.edit(type("!"), UNDO_GROUP_MS + 1);
    expect(side.undo().value.text).toBe("hello world");
    expect(side.undo().value.text).toBe("hello");
    expect(side.redo().value.text).toBe("hello world");
    side.edit(type("?"), 1);
    expect(side.content.undo.state.canRedo).toBe(false);
    expect(side.undo().value.text).toBe("hello world");
  });

  it("is bounded", () => {
    const side = begin();
    for (let n = 0; n < UNDO_MAX + 1; n += 1) side.edit((doc) => void (doc.count = n + 10));
    for (let n = 0; n < UNDO_MAX; n += 1) side.undo();
    expect(side.value.count).toBe(10);
    expect(side.content.undo.state.canUndo).toBe(false);
  });
});
