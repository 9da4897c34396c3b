/**
 * What a document's own history says: who changed it when, in what order, and where that stands in the server's log.
 *
 * Automerge keeps every change that a copy was made of, so it is computed here, without asking the server. Positions
 * are the server's: they are known of what was received or acknowledged one by one since the document was opened.
 * @module
 */

import type { ChangeMetadata, Doc } from "@automerge/automerge/slim";
import type { AutomergeModule } from "../automerge.js";
import { localError } from "../errors.js";

/** Most changes whose positions are remembered; of older ones they are forgotten. */
export const POSITIONS_MAX = 65_536;

/** Where a change's checksum stands in it: behind four bytes that every change begins with. */
const CHECKSUM_AT = 4;

/** One change of a document. */
export interface HistoryEntry {
  /** Names the change, in every copy of the document. `board.at([hash])` is the document as its author saw it. */
  readonly hash: string;
  /** Who made it: an actor of Automerge's, another one each time that a document is opened. */
  readonly actor: string;
  /** Whether it was made here, since the document was opened. */
  readonly isMine: boolean;
  /** When it was made, to the second by its author's clock; `undefined` if it does not say. */
  readonly time: Date | undefined;
  /** What its author said about it. */
  readonly message: string | undefined;
  /** The changes that it was made upon. */
  readonly deps: readonly string[];
  /** Whether it is on the server's disk. */
  readonly isSaved: boolean;
  /** Its place in the server's log, where it is known here. */
  readonly position: bigint | undefined;
}

/** Where changes stand in the server's log, as far as this side was told. */
export class Positions {
  /** By the first 32 bits of their hashes, which is their checksum: reading it costs nothing as changes come in. */
  private readonly byChecksum = new Map<number, bigint | undefined>();
  /** Places of own changes that lie ahead of what was received. */
  private readonly own = new Set<bigint>();
  /** Up to here there may be changes whose positions are not known. */
  private unknownTo: bigint;

  constructor(from: bigint) {
    this.unknownTo = from;
  }

  /** From which position on the document can be told at any position. */
  get from(): bigint {
    return this.unknownTo;
  }

  /** Changes of others were received, which stand between the two positions; where they are all that stands there. */
  received(changes: readonly Uint8Array[], afterSeq: bigint, seq: bigint): void {
    const free: bigint[] = [];
    // Own changes stand among them: their acks named their places, what is left belongs to the others.
    if (seq - afterSeq <= BigInt(changes.length + this.own.size)) {
      for (let at = afterSeq + 1n; at <= seq; at += 1n) if (changes.length === Number(seq - afterSeq) || !this.own.has(at)) free.push(at);
    }
    for (const at of this.own) if (at <= seq) this.own.delete(at);
    if (free.length !== changes.length) return this.covered(seq);
    changes.forEach((change, index) => this.set(checksum(change), free[index] as bigint));
  }

  /** Own changes were acknowledged, after everything up to `seq` was received. */
  acked(hashes: readonly string[], positions: readonly bigint[], seq: bigint): void {
    if (hashes.length !== positions.length) return this.covered(seq);
    hashes.forEach((hash, index) => {
      const position = positions[index] as bigint;
      this.set(littleEndian(hash), position);
      if (position > seq && this.own.size < POSITIONS_MAX) this.own.add(position);
    });
  }

  /** Everything up to here was received as a whole. */
  covered(seq: bigint): void {
    if (seq > this.unknownTo) this.unknownTo = seq;
  }

  /** Where the change with this hash stands. */
  of(hash: string): bigint | undefined {
    return this.byChecksum.get(littleEndian(hash));
  }

  private set(sum: number, position: bigint): void {
    const isShared = this.byChecksum.has(sum) && this.byChecksum.get(sum) !== position;
    // Two changes with one checksum: neither's place is known.
    if (isShared) this.covered(position);
    this.byChecksum.set(sum, isShared ? undefined : position);
    if (this.byChecksum.size <= POSITIONS_MAX) return;
    const [oldest] = this.byChecksum;
    if (oldest === undefined) return;
    this.byChecksum.delete(oldest[0]);
    if (oldest[1] !== undefined) this.covered(oldest[1]);
  }
}

function checksum(change: Uint8Array): number {
  return new DataView(change.buffer, change.byteOffset, change.byteLength).getUint32(CHECKSUM_AT, true);
}

/** The first four bytes of a hash as the number that {@link checksum} reads. */
function littleEndian(hash: string): number {
  const bytes = hash.slice(0, 8).match(/../g) ?? [];
  return bytes.reduceRight((sum, byte) => sum * 256 + Number.parseInt(byte, 16), 0);
}

/** What is needed of a document to tell its history. */
export interface Chronicle {
  readonly positions: Positions;
  isMine(actor: string): boolean;
  isSaved(hash: string): boolean;
}

/** All changes of a document, each behind those that it was made upon. */
export function history(meta: readonly ChangeMetadata[], { positions, isMine, isSaved }: Chronicle): readonly HistoryEntry[] {
  return meta.map(({ hash, actor, time, message, deps }) => ({
    hash,
    actor,
    isMine: isMine(actor),
    time: time === 0 ? undefined : new Date(time * 1_000),
    message: message ?? undefined,
    deps,
    isSaved: isSaved(hash),
    position: isSaved(hash) ? positions.of(hash) : undefined,
  }));
}

/** The heads of a document as it was at a position of the server's log. Throws `position_unknown`. */
export function headsAt(entries: readonly HistoryEntry[], from: bigint, position: bigint): readonly string[] {
  if (position < from) {
    throw localError("position_unknown", `what the document was at ${position} is not known here, from ${from} on it is`);
  }
  const held = entries.filter((entry) => entry.isSaved && (entry.position === undefined || entry.position <= position));
  const built = new Set(held.flatMap(({ deps }) => deps));
  return held.flatMap(({ hash }) => (built.has(hash) ? [] : [hash]));
}

/** A document as it was at these heads. Throws `bad_argument` if it has no such history. */
export function viewAt<T>(A: AutomergeModule, doc: Doc<T>, heads: readonly string[]): Doc<T> {
  const isHash = (head: string): boolean => /^[0-9a-f]{64}$/.test(head);
  if (!heads.every(isHash) || !A.hasHeads(doc as Doc<unknown>, [...heads])) {
    throw localError("bad_argument", "these heads are not of this document's history");
  }
  return A.view(doc, [...heads]);
}
