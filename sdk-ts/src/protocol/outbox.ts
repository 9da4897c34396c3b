/**
 * Pushes of one document that are not on the server's disk yet, in causal order.
 *
 * Pushes are pipelined and go back N: a refusal makes the server pass over every later push of the same generation,
 * so the outbox sends the refused one and all behind it again, under a higher generation. What is not acked survives
 * disconnects; the server answers what it already has with an ack.
 * @module
 */

import { codeOf, isRetryable } from "../wire/codes.js";

/** Most pushes that wait in one outbox. */
export const OUTBOX_PUSHES_MAX = 65_536;
/** Most bytes of changes that wait in one outbox. */
export const OUTBOX_BYTES_MAX = 64 * 1024 * 1024;

/** Changes that are pushed together. */
export interface Push {
  /** Its number in this outbox, counted from 1. */
  readonly number: bigint;
  /** The changes, in causal order. */
  readonly changes: readonly Uint8Array[];
  /** Bytes of all changes. */
  readonly bytes: number;
}

/** What a refusal means: it is about a push that was sent anew since; the outbox sends again; it holds. */
export type Refusal = "stale" | "resends" | "blocks";

interface Entry {
  readonly push: Push;
  generation: number;
  /** Its ack was told before: it is sent once more to be certain. */
  readonly isTold?: boolean;
}

/** The outbox. Its first `sent` entries are in flight, each under the generation that it names. */
export class Outbox {
  private entries: Entry[] = [];
  private sent = 0;
  /**
   * Pushes that are acked, each with its last position, which the member has not come to: if the connection ends
   * before it does, an older copy of the log, put back meanwhile, might lack them without anybody's noticing.
   */
  private ahead: { readonly seq: bigint; readonly push: Push }[] = [];
  private generation = 1;
  private lastNumber = 0n;
  private notBeforeMs = 0;
  /** Nothing is sent while earlier pushes are in flight: their answers decide what comes next. */
  private settle = false;
  private total = 0;
  private flying = 0;
  /** The number of the code for which nothing is sent until the application decides. */
  blocked: number | undefined;

  /** Whether a push of so many bytes has room. */
  hasRoom(bytes: number): boolean {
    return this.entries.length + this.ahead.length < OUTBOX_PUSHES_MAX && this.total + bytes <= OUTBOX_BYTES_MAX;
  }

  /** Adds a push behind all others and returns its number. The caller has checked that there is room. */
  add(changes: readonly Uint8Array[]): bigint {
    this.lastNumber += 1n;
    const bytes = changes.reduce((sum, change) => sum + change.length, 0);
    this.total += bytes;
    this.entries.push({ push: { number: this.lastNumber, changes, bytes }, generation: 0 });
    return this.lastNumber;
  }

  /** Pushes that are not acked, the first to be sent first. */
  get unacked(): readonly Push[] {
    return this.entries.map((entry) => entry.push);
  }

  /** How many pushes are not acked. */
  get length(): number {
    return this.entries.length;
  }

  /** Pushes that are sent and not answered. */
  get inFlight(): number {
    return this.sent;
  }

  /** Bytes of their changes. */
  get bytesInFlight(): number {
    return this.flying;
  }

  /** When the next push may be sent as far as this document is concerned; `undefined` if there is none. */
  get wakesAtMs(): number | undefined {
    const wants = this.blocked === undefined && this.sent < this.entries.length && !(this.settle && this.sent > 0);
    return wants ? this.notBeforeMs : undefined;
  }

  /** Bytes of the push that would be sent next. */
  get nextBytes(): number {
    return this.entries[this.sent]?.push.bytes ?? 0;
  }

  /** Marks the next push as sent. */
  send(nowMs: number): { push: Push; generation: number } | undefined {
    const entry = this.entries[this.sent];
    if (entry === undefined || (this.wakesAtMs ?? Number.POSITIVE_INFINITY) > nowMs) return undefined;
    entry.generation = this.generation;
    this.sent += 1;
    this.flying += entry.push.bytes;
    this.settle = false;
    return { push: entry.push, generation: entry.generation };
  }

  /**
   * A push is on disk, and its last position `ahead` of what the member has come to, if it is. Tells whether its ack is
   * the first. `undefined` if it is not in flight.
   */
  acked(number: bigint, ahead?: bigint): { push: Push; isNews: boolean } | undefined {
    const at = this.sentIndex(number);
    const entry = at === undefined ? undefined : this.entries.splice(at, 1)[0];
    if (entry === undefined) return undefined;
    const { push, isTold } = entry;
    this.sent -= 1;
    this.flying -= push.bytes;
    if (ahead === undefined) this.total -= push.bytes;
    else this.ahead.push({ seq: ahead, push });
    return { push, isNews: isTold !== true };
  }

  /** The member has come to this position: what is acked up to it is part of what it resumes from. */
  passed(seq: bigint): void {
    while (this.ahead[0] !== undefined && this.ahead[0].seq <= seq) this.total -= this.ahead.shift()!.push.bytes;
  }

  /** A push was not taken. */
  refused(number: bigint, generation: number, code: number, notBeforeMs: number): Refusal {
    const at = this.sentIndex(number);
    if (at === undefined || this.entries[at]?.generation !== generation) return "stale";
    this.takeBack(at);
    this.generation = Math.max(this.generation, generation) + 1;
    this.notBeforeMs = notBeforeMs;
    const name = codeOf(code)?.name;
    if (name === "missing_dependencies" || name === "sequence_gap") {
      // What an earlier push brings is not there yet: its answer has to come first. With no earlier push, the outbox
      // does not hold what the server lacks.
      if (at > 0) this.settle = true;
      else this.blocked = code;
    } else if (!isRetryable(code)) {
      this.blocked = code;
    }
    return this.blocked === undefined ? "resends" : "blocks";
  }

  /** The connection is gone, or the stream is opened anew: what is unacked, or acked ahead of the member, is sent again. */
  rewind(): void {
    this.takeBack(0);
    this.entries.unshift(...this.ahead.splice(0).map(({ push }) => ({ push, generation: 0, isTold: true })));
    this.generation += 1;
    this.notBeforeMs = 0;
    this.settle = false;
  }

  /** Ends a block by putting pushes before everything else; with none, what is there is tried again as it is. */
  supply(pushes: readonly (readonly Uint8Array[])[]): void {
    this.blocked = undefined;
    if (pushes.length === 0) return;
    this.takeBack(0);
    this.generation += 1;
    const behind = this.entries;
    this.entries = [];
    for (const changes of pushes) this.add(changes);
    this.entries.push(...behind);
  }

  /** Ends a block by giving back the refused push and all behind it, which may be built upon it. */
  giveBack(): Push[] {
    this.blocked = undefined;
    const given = this.entries.splice(this.sent);
    for (const { push } of given) this.total -= push.bytes;
    return given.filter((entry) => entry.isTold !== true).map((entry) => entry.push);
  }

  private sentIndex(number: bigint): number | undefined {
    const at = this.entries.findIndex((entry) => entry.push.number === number);
    return at >= 0 && at < this.sent ? at : undefined;
  }

  /** Everything from this entry on is no longer in flight. */
  private takeBack(index: number): void {
    for (const entry of this.entries.slice(index, this.sent)) this.flying -= entry.push.bytes;
    this.sent = Math.min(this.sent, index);
  }
}
