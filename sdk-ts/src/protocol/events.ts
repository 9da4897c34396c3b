/**
 * What a stream tells whoever opened it, and why a connection ends.
 * @module
 */

import type { ClockEntry, Cursor, PresenceEntry } from "../wire/kinds.js";
import type { EtherPlyError } from "../errors.js";
import type { Next } from "./backoff.js";
import type { Push } from "./outbox.js";

/** Why a token is asked for. */
export type AuthReason = "open" | "renew" | "expired";

/** A document is open. */
export interface Opened {
  /** The rights granted, as bits. */
  readonly rights: number;
  /** When the grant ends by the server's clock, in milliseconds since 1970; 0 for never. */
  readonly expiresAtMs: number;
  /** The document's last durable position. When a stream has seen this, it is up to date. */
  readonly cursor: Cursor;
}

/** A push was not taken. */
export interface Refused {
  readonly error: EtherPlyError;
  /** Which of the push's changes, counted from 0. */
  readonly index: number;
  /** Whether nothing more is pushed until the stream is supplied, or its pushes are given back. */
  readonly blocks: boolean;
  /** What the server has. */
  readonly clock: readonly ClockEntry[];
}

/** Told of everything that concerns one document. */
export interface StreamEvents {
  /** The document is open. */
  opened(opened: Opened): void;
  /** It could not be opened, or was closed by the server. It is opened again by itself if `retries`. */
  closed(error: EtherPlyError, retries: boolean): void;
  /** The copy is to be thrown away; the document is sent from its beginning. Comes before `opened`. */
  reset(unacked: readonly Push[]): void;
  /** Changes of others, in the log's order. They borrow the message's bytes. */
  changes(changes: readonly Uint8Array[]): void;
  /** The document as a whole. */
  snapshot(bytes: Uint8Array): void;
  /** The server's log is another one: it waits for {@link Stream.reconcile}. */
  reconcile(clock: readonly ClockEntry[]): void;
  /** A push is on the server's disk. */
  acked(push: Push): void;
  /** A push was not taken. */
  refused(refused: Refused): void;
  /** What the stream may do changed; `error` says why rights ended. */
  rightsChanged(rights: number, expiresAtMs: number, error: EtherPlyError | undefined): void;
  /** A request was refused; the stream goes on. */
  failed(error: EtherPlyError): void;
  /** Presence of others; if `full`, who is not named is gone. */
  presenceUpdate(entries: readonly PresenceEntry[], full: boolean): void;
  /** Members that are gone. */
  left(members: readonly Uint8Array[]): void;
  /** A message of a member. */
  broadcasted(member: Uint8Array, topic: string, payload: Uint8Array): void;
  /** Messages that this member was too slow for. */
  missed(count: bigint): void;
  /** The connection is gone: what is true of one only, is no more. */
  disconnected(): void;
}

/** Why a connection cannot go on. */
export class ConnectionError extends Error {
  constructor(
    readonly error: EtherPlyError,
    readonly next: Next,
  ) {
    super(error.message);
  }
}
