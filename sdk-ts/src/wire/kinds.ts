/**
 * The kinds of frames: number, who sends it, whether bytes follow its archive, and its fields in the wire's order.
 *
 * What each field means is said where the server's side is defined (`wire/src/kinds.rs`); names are the same in
 * camel case. A kind is frozen once released.
 * @module
 */

import { bool, bytes, fixed, list, option, struct, text, u16, u32, u64, u8 } from "./layout.js";
import type { Layout, ValueOf } from "./layout.js";

/** A place in a document's log: its epoch, the position of the last change that counts as seen, the chain there. */
export const cursor = struct({ epoch: u64, seq: u64, chain: fixed(32) });
/** A place in a document's log: its epoch, the position of the last change that counts as seen, the chain there. */
export type Cursor = ValueOf<typeof cursor>;

const clockEntry = struct({ actor: bytes, seq: u64, hash: fixed(32) });
/** What a side has of one actor: number and hash of its last change. */
export type ClockEntry = ValueOf<typeof clockEntry>;

const limitEntry = struct({ limit: u16, value: u64 });
const presenceEntry = struct({ member: fixed(16), state: bytes });
/** A member's session and the state that it set. */
export type PresenceEntry = ValueOf<typeof presenceEntry>;

interface KindOf<T> {
  readonly number: number;
  readonly hasTail: boolean;
  readonly layout: Layout<T>;
}

function kind<F extends Readonly<Record<string, unknown>>>(
  number: number,
  fields: F,
  hasTail = false,
): KindOf<ValueOf<ReturnType<typeof struct<F>>>> {
  return { number, hasTail, layout: struct(fields) as Layout<ValueOf<ReturnType<typeof struct<F>>>> };
}

/** Every kind, by its name. */
export const KINDS = {
  hello: kind(1, { protocolMin: u8, protocolMax: u8, capabilities: u64, agent: text }), // to the server
  welcome: kind(2, { // to the client
    protocol: u8,
    capabilities: u64,
    session: fixed(16),
    serverTimeMs: u64,
    agent: text,
    limits: list(limitEntry),
  }),
  open: kind(10, { // to the server
    request: u32,
    rights: u16,
    document: text,
    token: option(text),
    cursor: option(cursor),
  }),
  opened: kind(11, { request: u32, rights: u16, resume: u8, expiresAtMs: u64, cursor }), // to the client
  close: kind(12, { code: u16, message: text }), // both ways
  renew: kind(13, { request: u32, token: text }), // to the server
  rightsChanged: kind(14, { request: u32, rights: u16, code: u16, expiresAtMs: u64 }), // to the client
  snapshot: kind(20, { cursor, totalBytes: u64, offset: u64 }, true), // to the client
  changes: kind(21, { afterSeq: u64, cursor, lengths: list(u32) }, true), // to the client
  push: kind(30, { push: u64, generation: u32, lengths: list(u32) }, true), // to the server
  ack: kind(31, { push: u64, afterSeq: u64, cursor, positions: list(u64) }), // to the client
  refused: kind(32, { // to the client
    push: u64,
    generation: u32,
    index: u32,
    code: u16,
    retryAfterMs: u32,
    clockComplete: bool,
    clock: list(clockEntry),
    message: text,
  }, true),
  reconcile: kind(33, { cursor, more: bool, clock: list(clockEntry) }), // both ways
  presenceSet: kind(40, { ttlMs: u32 }, true), // to the server
  presenceUpdate: kind(41, { version: u64, full: bool, entries: list(presenceEntry) }), // to the client
  presenceLeave: kind(42, { version: u64, members: list(fixed(16)) }), // both ways
  broadcastSend: kind(50, { topic: text }, true), // to the server
  broadcast: kind(51, { index: u64, member: fixed(16), topic: text }, true), // to the client
  broadcastGap: kind(52, { first: u64, last: u64 }), // to the client
  ping: kind(60, { nonce: u64 }), // both ways
  pong: kind(61, { nonce: u64 }), // both ways
  error: kind(62, { request: u32, code: u16, kind: u16, retryAfterMs: u32, message: text }), // to the client
  goingAway: kind(63, { code: u16, retryAfterMs: u32, retryJitterMs: u32, message: text }), // to the client
} as const;

/** The name of a kind. */
export type KindName = keyof typeof KINDS;
/** The fields of a kind. */
export type BodyOf<K extends KindName> = ValueOf<(typeof KINDS)[K]["layout"]>;

const BY_NUMBER: ReadonlyMap<number, KindName> = new Map(
  (Object.keys(KINDS) as KindName[]).map((name) => [KINDS[name].number, name]),
);

/** The kind with this number, `undefined` for one of a newer server. */
export function kindOf(number: number): KindName | undefined {
  return BY_NUMBER.get(number);
}

/** Values of `opened.resume`: how a member is brought up to date. */
export const RESUME = {
  /** No cursor was given: the document is sent from its beginning. */
  start: 0,
  /** The cursor fits: what lies after it is sent. */
  cursor: 1,
  /** A snapshot comes first, then what lies after it. */
  snapshot: 2,
  /** The cursor belongs to another log: both sides compare their clocks. */
  reconcile: 3,
  /** The copy that the cursor belongs to is to be thrown away. */
  reset: 4,
} as const;
