/** A document's parts that need Automerge and no server: how it begins, and edits that are made again elsewhere. */

import type { Doc } from "@automerge/automerge/slim";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { automerge } from "../../src/automerge.js";
import type { AutomergeModule } from "../../src/automerge.js";
import { genesis } from "../../src/document/genesis.js";
import { align, equal } from "../../src/document/sequence.js";
import { transplant } from "../../src/document/transplant.js";
import { toHex } from "../../src/wire/bytes.js";
import { GENESIS_ACTOR } from "../../src/wire/limits.js";

let A: AutomergeModule;
beforeAll(async () => {
  A = await automerge();
});

describe("genesis", () => {
  it("is the same for the same content, whatever the order of keys", () => {
    const at = new Date(0);
    const one = genesis(A, { title: "t", cards: [{ b: 1, a: null }], at, n: 1.5, done: false, raw: new Uint8Array([1]) });
    const other = genesis(A, { raw: new Uint8Array([1]), done: false, n: 1.5, at, cards: [{ a: null, b: 1 }], title: "t" });
    expect(toHex(one!)).toBe(toHex(other!));
    expect(A.decodeChange(one!)).toMatchObject({ actor: GENESIS_ACTOR, seq: 1, time: 0, deps: [], message: null });
    // Pinned: other versions of this package, and other clients, begin the same document.
    expect(A.decodeChange(genesis(A, { cards: [] })!).hash).toBe("ecca447c824bf8f9a0cfe26a9817063da7dd511785379d554302bce0018d5fdf");
    expect(genesis(A, {})).toBeUndefined();
  });

  it("refuses what is no plain data, by its place", () => {
    class Card {}
    const loop: { self?: unknown } = {};
    loop.self = loop;
    for (const [wrong, place] of [
      [{ a: [undefined] }, "initial.a[0]"],
      [{ f: () => 1 }, "initial.f"],
      [{ card: new Card() }, "initial.card"],
      [loop, "initial.self"],
      [{ raw: new Uint8Array(64 * 1024) }, "bytes"],
    ] as const) {
      expect(() => genesis(A, wrong)).toThrow(expect.objectContaining({ code: "initial_invalid", message: expect.stringContaining(place) as string }));
    }
    expect(genesis(A, { raw: new Uint8Array(63 * 1024) })).toBeDefined();
  });
});

describe("elements of another version", () => {
  it("are found again in order, each once, and hold the same", () => {
    const list = fc.array(fc.nat(3), { maxLength: 14 });
    fc.assert(
      fc.property(list, list, (before, now) => {
        const places = align(before, now, equal).filter((place) => place >= 0);
        expect(places).toEqual([...new Set(places)].sort((a, b) => a - b));
        align(before, now, equal).forEach((place, index) => {
          if (place >= 0) expect(now[place]).toBe(before[index]);
        });
      }),
    );
    expect(align([1, 2, 3], [1, 9, 2, 3], equal)).toEqual([0, 2, 3]);
  });
});

interface Board {
  cards: { title: string; done?: boolean }[];
  text: string;
  tags: string[];
  meta?: Record<string, unknown>;
}

describe("edits that are made again", () => {
  type Edit = (doc: Board) => void;
  const begin = (): Doc<Board> =>
    A.from<Board & Record<string, unknown>>({ cards: [{ title: "one" }, { title: "two" }], text: "hello world", tags: ["a", "b"] });
  /** What `edit` did to a copy is done to another, in which `others` happened. */
  const replay = (edit: Edit, others: Edit, base: () => Doc<Board> = begin): { result: Board; failed: string[] } => {
    const origin = base();
    const before = A.getHeads(origin);
    const edited = A.change(A.clone(origin), edit);
    const patches = A.diff(edited as Doc<unknown>, before, A.getHeads(edited));
    let target = A.change(base === begin ? A.clone(origin) : base(), others);
    let failed: string[] = [];
    target = A.change(target, (doc) => {
      failed = transplant(A, patches, { before: A.view(edited, before), after: edited, target: doc, keepsOthers: false });
    });
    return { result: A.toJS(target), failed };
  };

  it("lead to the same where nothing else happened", () => {
    const edits: Edit[] = [
      (doc) => void doc.cards.push({ title: "three", done: true }),
      (doc) => void doc.cards.splice(0, 1),
      (doc) => void (doc.cards[1]!.done = true),
      (doc) => A.splice(doc as never, ["text"], 5, 1, ", "),
      (doc) => void (doc.text = "other"),
      (doc) => void doc.tags.unshift("0"),
      (doc) => void (doc.tags[1] = "B"),
      (doc) => void (doc.meta = { deep: { list: [1, [2, "x"], { y: null }], when: new Date(5), raw: new Uint8Array([7]) } }),
      (doc) => void delete (doc as Partial<Board>).meta,
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...edits), { maxLength: 8 }), (chosen) => {
        const all: Edit = (doc) => {
          for (const each of chosen) if (doc.cards.length > 1 && doc.tags.length > 1) each(doc);
        };
        const { result, failed } = replay(all, () => undefined);
        expect(failed).toEqual([]);
        expect(result).toEqual(A.toJS(A.change(begin(), all)));
      }),
      { numRuns: 60 },
    );
  });

  it("find their places among what others did", () => {
    const { result, failed } = replay(
      (doc) => {
        A.splice(doc as never, ["text"], 11, 0, "!");
        doc.cards[1]!.done = true;
        doc.tags.push("c");
        doc.cards.splice(0, 1);
      },
      (doc) => {
        A.splice(doc as never, ["text"], 0, 5, "goodbye");
        doc.cards.unshift({ title: "zero" });
        doc.cards[2]!.title = "TWO";
        doc.tags.splice(0, 1);
      },
    );
    expect(failed).toEqual([]);
    expect(result).toEqual({
      text: "goodbye world!",
      cards: [{ title: "zero" }, { title: "TWO", done: true }],
      tags: ["b", "c"],
    });
  });

  it("find them in a document that was begun anew, with other ids", () => {
    const { result, failed } = replay((doc) => {
      doc.cards[1]!.title += "!";
      doc.cards.push({ title: "three" });
    }, () => undefined, () => A.from({ cards: [{ title: "one" }, { title: "two" }], text: "", tags: [] }));
    expect(failed).toEqual([]);
    expect(result.cards).toEqual([{ title: "one" }, { title: "two!" }, { title: "three" }]);
  });

  it("say what could not be done", () => {
    const { result, failed } = replay(
      (doc) => {
        doc.cards[0]!.done = true;
        doc.tags.push("c");
      },
      (doc) => void doc.cards.splice(0, 1),
    );
    expect(failed).toEqual(["what it edits is gone from the document"]);
    expect(result.tags).toEqual(["a", "b", "c"]);
  });
});
