/** The protocol's parts without a connection: positions, the outbox, waits. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Backoff, BACKOFF_PROOF_MS, both, RECONNECT } from "../../src/protocol/backoff.js";
import { Outbox, OUTBOX_BYTES_MAX, OUTBOX_PUSHES_MAX } from "../../src/protocol/outbox.js";
import { OwnPresence } from "../../src/protocol/presence.js";
import { LogError, Progress } from "../../src/protocol/progress.js";
import { Stream } from "../../src/protocol/stream.js";
import type { Cursor } from "../../src/wire/kinds.js";

function cursor(seq: number, epoch = 1n): Cursor {
  return { epoch, seq: BigInt(seq), chain: new Uint8Array(32).fill(seq % 256) };
}
const at = (seq: number): Progress => new Progress(cursor(seq));

describe("progress", () => {
  it("keeps own changes ahead until those before them are there", () => {
    const progress = at(0);
    progress.ack(2n, cursor(3));
    progress.ack(3n, cursor(5));
    expect(progress.seq).toBe(0n);
    progress.changes(0n, cursor(1), 1);
    expect(progress.seq).toBe(1n);
    progress.changes(1n, cursor(2), 1);
    expect(progress.resume).toEqual(cursor(5));
  });

  it("refuses gaps, other epochs, and ranges that cannot be", () => {
    for (const wrong of [
      () => at(3).changes(4n, cursor(5), 1),
      () => at(3).changes(3n, cursor(4, 2n), 1),
      () => at(3).changes(3n, cursor(4), 2),
      () => at(3).changes(5n, cursor(4), 0),
      () => at(3).ack(5n, cursor(4)),
    ]) {
      expect(wrong).toThrow(LogError);
    }
    const progress = at(3);
    progress.changes(1n, cursor(2), 1);
    expect(progress.seq).toBe(3n);
    progress.ack(9n, cursor(9));
    expect(progress.seq).toBe(3n);
  });

  it("forgets own ranges with the connection, and all with an epoch or a newer snapshot", () => {
    const progress = at(0);
    progress.ack(2n, cursor(3));
    progress.disconnected();
    progress.changes(0n, cursor(2), 2);
    expect(progress.seq).toBe(2n);
    progress.snapshot(cursor(1));
    expect(progress.seq).toBe(2n);
    progress.snapshot(cursor(7));
    expect(progress.seq).toBe(7n);
    progress.snapshot(cursor(2, 2n));
    expect(progress.resume).toEqual(cursor(2, 2n));
    progress.restart(5n);
    expect([progress.resume, progress.epoch]).toEqual([undefined, 5n]);
  });

  it("reaches the end in whatever order acks and changes come", () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 30 }), fc.infiniteStream(fc.nat()), (own, order) => {
        const progress = at(0);
        const acks = own.flatMap((isOwn, index) => (isOwn ? [index] : []));
        const others = own.flatMap((isOwn, index) => (isOwn ? [] : [index]));
        // The server sends others' changes in order; a frame covers own positions before it as well.
        let sent = 0;
        while (acks.length + others.length > 0) {
          const takesAck = others.length === 0 || (acks.length > 0 && order.next().value % 2 === 0);
          if (takesAck) {
            const [ack] = acks.splice(order.next().value % acks.length, 1);
            progress.ack(BigInt(ack!), cursor(ack! + 1));
          } else {
            const next = others.shift()!;
            progress.changes(BigInt(sent), cursor(next + 1), 1);
            sent = next + 1;
          }
        }
        expect(progress.resume).toEqual(cursor(own.length));
      }),
    );
  });
});

describe("outbox", () => {
  const CODES = { overloaded: 213, storage: 212, forked: 308, missing: 306 };
  const filled = (pushes: number): Outbox => {
    const outbox = new Outbox();
    for (let index = 0; index < pushes; index += 1) outbox.add([new Uint8Array(3).fill(index)]);
    return outbox;
  };
  const sendAll = (outbox: Outbox, nowMs = 0): (readonly [bigint, number])[] => {
    const all: (readonly [bigint, number])[] = [];
    for (let sent = outbox.send(nowMs); sent !== undefined; sent = outbox.send(nowMs)) {
      all.push([sent.push.number, sent.generation]);
    }
    return all;
  };

  it("sends again from a refusal under a higher generation", () => {
    const outbox = filled(4);
    expect(sendAll(outbox)).toEqual([[1n, 1], [2n, 1], [3n, 1], [4n, 1]]);
    expect(outbox.refused(2n, 1, CODES.overloaded, 0)).toBe("resends");
    expect([outbox.inFlight, outbox.bytesInFlight]).toEqual([1, 3]);
    expect(sendAll(outbox)).toEqual([[2n, 2], [3n, 2], [4n, 2]]);
    expect(outbox.refused(3n, 1, CODES.overloaded, 0)).toBe("stale");
    expect(outbox.acked(1n)).toMatchObject({ push: { number: 1n }, isNews: true });
    expect(outbox.acked(1n)).toBeUndefined();
    expect(outbox.length).toBe(3);
  });

  it("sends again what was acked ahead of the member, if the connection ends before it comes there", () => {
    const outbox = filled(3);
    sendAll(outbox);
    // Others' changes stand before these two, and have not come.
    for (const [number, seq] of [[1n, 5n], [2n, 7n]] as const) expect(outbox.acked(number, seq)?.isNews).toBe(true);
    outbox.passed(5n);
    outbox.rewind();
    expect(sendAll(outbox).map(([number]) => number)).toEqual([2n, 3n]);
    expect(outbox.acked(2n)?.isNews).toBe(false);
    expect(outbox.acked(3n)?.isNews).toBe(true);
    expect([outbox.length, outbox.bytesInFlight, outbox.hasRoom(OUTBOX_BYTES_MAX)]).toEqual([0, 0, true]);
  });

  it("gives back what was never acked, and keeps room for what is acked ahead", () => {
    const outbox = filled(2);
    sendAll(outbox);
    outbox.acked(1n, 9n);
    expect(outbox.hasRoom(OUTBOX_BYTES_MAX - 6)).toBe(true);
    expect(outbox.hasRoom(OUTBOX_BYTES_MAX - 5)).toBe(false);
    outbox.rewind();
    expect(outbox.giveBack().map((push) => push.number)).toEqual([2n]);
    expect(outbox.hasRoom(OUTBOX_BYTES_MAX)).toBe(true);
  });

  it("takes the newer generation back with a late refusal of the older", () => {
    const outbox = filled(3);
    sendAll(outbox);
    outbox.refused(3n, 1, CODES.overloaded, 0);
    expect(sendAll(outbox)).toEqual([[3n, 2]]);
    expect(outbox.refused(1n, 1, CODES.storage, 0)).toBe("resends");
    expect(sendAll(outbox)).toEqual([[1n, 3], [2n, 3], [3n, 3]]);
  });

  it("keeps the time to wait, and blocks on what it cannot mend", () => {
    const outbox = filled(3);
    sendAll(outbox);
    outbox.refused(1n, 1, CODES.overloaded, 50);
    expect(outbox.wakesAtMs).toBe(50);
    expect([sendAll(outbox, 49).length, sendAll(outbox, 50).length]).toEqual([0, 3]);
    expect(outbox.refused(2n, 2, CODES.forked, 0)).toBe("blocks");
    expect([outbox.send(99), outbox.length]).toEqual([undefined, 3]);
    expect(outbox.giveBack().map((push) => push.number)).toEqual([2n, 3n]);
    expect([outbox.blocked, outbox.length]).toEqual([undefined, 1]);
  });

  it("waits for earlier answers where dependencies are missing, and then for the application", () => {
    const outbox = filled(2);
    sendAll(outbox);
    expect(outbox.refused(2n, 1, CODES.missing, 0)).toBe("resends");
    expect(sendAll(outbox)).toEqual([]);
    outbox.acked(1n);
    expect(sendAll(outbox)).toEqual([[2n, 2]]);
    expect(outbox.refused(2n, 2, CODES.missing, 0)).toBe("blocks");
    outbox.supply([[new Uint8Array(1)], [new Uint8Array(1)]]);
    expect(sendAll(outbox)).toEqual([[3n, 4], [4n, 4], [2n, 4]]);
  });

  it("sends everything that is not acked again on another connection", () => {
    const outbox = filled(3);
    sendAll(outbox);
    outbox.acked(2n);
    outbox.rewind();
    expect([outbox.inFlight, outbox.bytesInFlight]).toEqual([0, 0]);
    expect(sendAll(outbox)).toEqual([[1n, 2], [3n, 2]]);
  });

  it("has room up to its limits", () => {
    const large = new Outbox();
    large.add([new Uint8Array(OUTBOX_BYTES_MAX - 1)]);
    expect([large.hasRoom(0), large.hasRoom(1), large.hasRoom(2)]).toEqual([true, true, false]);
    const many = new Outbox();
    for (let index = 0; index < OUTBOX_PUSHES_MAX - 1; index += 1) many.add([]);
    expect(many.hasRoom(1)).toBe(true);
    many.add([]);
    expect(many.hasRoom(1)).toBe(false);
  });

  it("loses and doubles nothing, whatever the server does", () => {
    const step = fc.constantFrom("send", "ack", "refuse", "cut");
    fc.assert(
      fc.property(fc.array(fc.tuple(step, fc.nat()), { maxLength: 80 }), (steps) => {
        const outbox = filled(6);
        const acked = new Set<bigint>();
        let flying: (readonly [bigint, number])[] = [];
        for (const [what, pick] of steps) {
          if (what === "send") flying.push(...sendAll(outbox));
          if (what === "cut") (outbox.rewind(), (flying = []));
          const chosen = flying[pick % Math.max(1, flying.length)];
          if (chosen === undefined) continue;
          if (what === "refuse") outbox.refused(chosen[0], chosen[1], CODES.overloaded, 0);
          if (what === "ack") {
            const push = outbox.acked(chosen[0])?.push;
            if (push !== undefined) {
              expect(acked.has(push.number)).toBe(false);
              acked.add(push.number);
            }
          }
        }
        const left = outbox.unacked.map((push) => push.number);
        expect([...acked, ...left].sort()).toEqual([1n, 2n, 3n, 4n, 5n, 6n]);
        expect([...left].sort()).toEqual(left);
      }),
    );
  });
});

describe("backoff", () => {
  it("doubles its spans up to the cap, and begins anew only after a connection that held", () => {
    const backoff = new Backoff(100, 1_000);
    const wait = (): number | undefined => backoff.waitMs(RECONNECT, 0, 1);
    expect([1, 2, 3, 4, 5, 6].map(wait)).toEqual([100, 200, 400, 800, 1_000, 1_000]);
    expect(backoff.waitMs(RECONNECT, 0, 0)).toBe(0);
    for (const [heldMs, waitMs] of [[BACKOFF_PROOF_MS - 1, 1_000], [BACKOFF_PROOF_MS, 100], [BACKOFF_PROOF_MS + 1, 200]] as const) {
      backoff.ready(0);
      if (heldMs > BACKOFF_PROOF_MS) {
        backoff.waitMs(RECONNECT, heldMs, 1);
        expect(wait()).toBe(waitMs);
      } else expect(backoff.waitMs(RECONNECT, heldMs, 1)).toBe(waitMs);
    }
  });

  it("keeps what the server asks for, and stops where it is of no use", () => {
    const asked = both({ kind: "reconnect", afterMs: 2_000, jitterMs: 0 }, { kind: "reconnect", afterMs: 1, jitterMs: 5_000 });
    expect(new Backoff(100, 1_000).waitMs(asked, 0, 0)).toBe(2_000);
    expect(new Backoff(100, 1_000).waitMs(asked, 0, 1)).toBe(7_000);
    expect(new Backoff().waitMs(both(asked, { kind: "stop" }), 0, 1)).toBeUndefined();
  });
});

describe("a stream", () => {
  it("begins anew where own changes were acked in an epoch that is over, and nothing else was received", () => {
    for (const [epoch, resets] of [[1n, 0], [2n, 1]] as const) {
      let reset = 0;
      const nothing = (): void => undefined;
      const told = { opened: nothing, acked: nothing, disconnected: nothing, reset: () => (reset += 1) };
      const host = { pump: nothing, send: nothing, pack: (changes: readonly Uint8Array[]) => [[...changes]] };
      const stream = new Stream("d", 7, undefined, told as never, host as never, 1_000);
      const opened = (at: Cursor) => stream.opened({ request: 1, rights: 7, resume: 0, expiresAtMs: 0n, cursor: at });
      opened(cursor(5));
      stream.push([new Uint8Array(3)]);
      stream.outbox.send(0);
      const ack = { push: 1n, afterSeq: 5n, cursor: cursor(6), positions: [6n] };
      stream.take({ kind: "ack", stream: 1, body: ack, tail: new Uint8Array(0) }, 0);
      stream.disconnected();
      opened(cursor(9, epoch));
      expect(reset).toBe(resets);
    }
  });
});

describe("own presence", () => {
  it("is due when it is set, on another connection, and before its time is over", () => {
    const own = new OwnPresence(10_000);
    expect(own.due(0)).toBeUndefined();
    own.set(new Uint8Array([1]));
    expect(own.due(0)).toEqual({ state: new Uint8Array([1]), ttlMs: 10_000 });
    expect([own.due(4_999), own.due(5_000)?.ttlMs, own.due(5_001)]).toEqual([undefined, 10_000, undefined]);
    own.renew();
    expect(own.due(5_002)).toBeDefined();
    own.set(undefined);
    expect(own.due(99_999)).toBeUndefined();
  });
});
