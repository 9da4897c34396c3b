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
/** See {@link cursor}. */
export type Cursor = ValueOf<typeof cursor>;

const clockEntry = struct({ actor: bytes, seq: u64, hash: fixed(32) });
/** What a side has of one actor: number and hash of its last change. */
export type ClockEntry = ValueOf<typeof clockEntry>;

const limitEntry = struct({ limit: u16, value: u64 });
const presenceEntry = struct({ member: fixed(16), state: bytes });
/** A member's session and the state that it set. */
export type PresenceEntry = ValueOf<typeof presenceEntry>;

/** Which side sends a kind. */
export type Direction = "toServer" | "toClient" | "both";

interface KindOf<T> {
  readonly number: number;
  readonly direction: Direction;
  readonly hasTail: boolean;
  readonly layout: Layout<T>;
}

function kind<F extends Readonly<Record<string, unknown>>>(
  number: number,
  direction: Direction,
  hasTail: boolean,
  fields: F,
): KindOf<ValueOf<ReturnType<typeof struct<F>>>> {
  return { number, direction, hasTail, layout: struct(fields) as Layout<ValueOf<ReturnType<typeof struct<F>>>> };
}

/** Every kind, by its name. */
export const KINDS = {
  hello: kind(1, "toServer", false, { protocolMin: u8, protocolMax: u8, capabilities: u64, agent: text }),
  welcome: kind(2, "toClient", false, {
    protocol: u8,
    capabilities: u64,
    session: fixed(16),
    serverTimeMs: u64,
    agent: text,
    limits: list(limitEntry),
  }),
  open: kind(10, "toServer", false, {
    request: u32,
    rights: u16,
    document: text,
    token: option(text),
    cursor: option(cursor),
  }),
  opened: kind(11, "toClient", false, { request: u32, rights: u16, resume: u8, expiresAtMs: u64, cursor }),
  close: kind(12, "both", false, { code: u16, message: text }),
  renew: kind(13, "toServer", false, { request: u32, token: text }),
  rightsChanged: kind(14, "toClient", false, { request: u32, rights: u16, code: u16, expiresAtMs: u64 }),
  snapshot: kind(20, "toClient", true, { cursor, totalBytes: u64, offset: u64 }),
  changes: kind(21, "toClient", true, { afterSeq: u64, cursor, lengths: list(u32) }),
  push: kind(30, "toServer", true, { push: u64, generation: u32, lengths: list(u32) }),
  ack: kind(31, "toClient", false, { push: u64, afterSeq: u64, cursor, positions: list(u64) }),
  refused: kind(32, "toClient", true, {
    push: u64,
    generation: u32,
    index: u32,
    code: u16,
    retryAfterMs: u32,
    clockComplete: bool,
    clock: list(clockEntry),
    message: text,
  }),
  reconcile: kind(33, "both", false, { cursor, more: bool, clock: list(clockEntry) }),
  presenceSet: kind(40, "toServer", true, { ttlMs: u32 }),
  presenceUpdate: kind(41, "toClient", false, { version: u64, full: bool, entries: list(presenceEntry) }),
  presenceLeave: kind(42, "both", false, { version: u64, members: list(fixed(16)) }),
  broadcastSend: kind(50, "toServer", true, { topic: text }),
  broadcast: kind(51, "toClient", true, { index: u64, member: fixed(16), topic: text }),
  broadcastGap: kind(52, "toClient", false, { first: u64, last: u64 }),
  ping: kind(60, "both", false, { nonce: u64 }),
  pong: kind(61, "both", false, { nonce: u64 }),
  error: kind(62, "toClient", false, { request: u32, code: u16, kind: u16, retryAfterMs: u32, message: text }),
  goingAway: kind(63, "toClient", false, { code: u16, retryAfterMs: u32, retryJitterMs: u32, message: text }),
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
