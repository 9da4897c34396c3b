/**
 * How far a member has come in a document's log: its resume cursor, and what it wrote itself further ahead.
 *
 * The server never sends a member the changes that it pushed on this connection: their ack names the range in which
 * they stand, and may arrive before changes of others that come earlier in the log.
 * @module
 */

import type { Cursor } from "../wire/kinds.js";

/** Most ranges of own changes ahead of the cursor. */
export const OWN_RANGES_MAX = 65_536;

/** Positions that do not fit what the member has. Resuming from the cursor mends it. */
export class LogError extends Error {}

interface Own {
  afterSeq: bigint;
  cursor: Cursor;
}

const NO_CHAIN = new Uint8Array(32);

/** A cursor before the first position of an epoch. */
export function beginning(epoch: bigint): Cursor {
  return { epoch, seq: 0n, chain: NO_CHAIN };
}

/** A cursor that does not borrow the bytes of a frame. */
export function owned(cursor: Cursor): Cursor {
  return { ...cursor, chain: cursor.chain.slice() };
}

/** The part of a document's log that a member has. Own ranges are sorted, and begin beyond the cursor. */
export class Progress {
  private own: Own[] = [];

  constructor(private cursor: Cursor = beginning(0n)) {}

  /** Where the member resumes; `undefined` before it has anything. */
  get resume(): Cursor | undefined {
    return this.cursor.seq > 0n ? this.cursor : undefined;
  }

  /** The last position up to which nothing is missing. */
  get seq(): bigint {
    return this.cursor.seq;
  }

  /** The epoch of the log that this is about. */
  get epoch(): bigint {
    return this.cursor.epoch;
  }

  /** Begins anew before the first position of an epoch. */
  restart(epoch: bigint): void {
    this.cursor = beginning(epoch);
    this.own = [];
  }

  /** Forgets own changes ahead of the cursor: on another connection the server sends them like any other. */
  disconnected(): void {
    this.own = [];
  }

  /** A snapshot was received that covers everything up to `cursor`. */
  snapshot(cursor: Cursor): void {
    if (cursor.epoch !== this.cursor.epoch) {
      this.cursor = cursor;
      this.own = [];
    } else if (cursor.seq > this.cursor.seq) {
      this.advance(cursor);
    }
  }

  /** Others' changes were received for the range after `afterSeq`. Throws a {@link LogError}. */
  changes(afterSeq: bigint, cursor: Cursor, count: number): void {
    this.check(afterSeq, cursor, count);
    if (afterSeq > this.cursor.seq) {
      throw new LogError(`the server left out the changes from ${this.cursor.seq + 1n} to ${afterSeq}`);
    }
    if (cursor.seq > this.cursor.seq) this.advance(cursor);
  }

  /** A push was acked that added the range after `afterSeq`; an empty range adds nothing. */
  ack(afterSeq: bigint, cursor: Cursor): void {
    if (cursor.seq === afterSeq) return;
    this.check(afterSeq, cursor, 0);
    if (cursor.seq <= this.cursor.seq) return;
    if (afterSeq <= this.cursor.seq) {
      this.advance(cursor);
      return;
    }
    const found = this.own.findIndex((own) => own.afterSeq >= afterSeq);
    const at = found < 0 ? this.own.length : found;
    const before = this.own[at - 1];
    if (before?.cursor.seq === afterSeq) before.cursor = cursor;
    else if (this.own.length < OWN_RANGES_MAX) this.own.splice(at, 0, { afterSeq, cursor });
    else throw new LogError("too many acks came without the changes that stand before them");
  }

  private check(afterSeq: bigint, cursor: Cursor, count: number): void {
    if (cursor.epoch !== this.cursor.epoch) {
      throw new LogError(`the document's epoch became ${cursor.epoch} without being opened anew`);
    }
    if (cursor.seq < afterSeq || BigInt(count) > cursor.seq - afterSeq) {
      throw new LogError(`a range from ${afterSeq} to ${cursor.seq} cannot hold ${count} changes`);
    }
  }

  /** Moves the cursor, and on over own ranges that it now touches. */
  private advance(cursor: Cursor): void {
    this.cursor = cursor;
    let reached = 0;
    for (const own of this.own) {
      if (own.afterSeq > this.cursor.seq) break;
      if (own.cursor.seq > this.cursor.seq) this.cursor = own.cursor;
      reached += 1;
    }
    this.own.splice(0, reached);
  }
}
