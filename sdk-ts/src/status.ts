/**
 * Where a client and its documents stand, as applications see it.
 * @module
 */

import type { EtherPlyError } from "./errors.js";

/**
 * Where something stands with the server.
 *
 * - `connecting`: a connection is being made, or the document is being brought up to date.
 * - `live`: everything that the server has is here, and more comes as it happens.
 * - `offline`: there is no connection; the next attempt comes by itself.
 * - `refused`: the server said no, and asking again would not help; `error` says why and what to do.
 */
export type SyncState = "connecting" | "live" | "offline" | "refused";

/** Where a client stands. */
export interface ClientStatus {
  readonly state: SyncState;
  /** Why it is not live, if there is a reason. */
  readonly error: EtherPlyError | undefined;
}

/** Where a room stands. */
export interface RoomStatus {
  readonly state: SyncState;
  /** Why it is not live, or why the last request was refused. */
  readonly error: EtherPlyError | undefined;
}

/** Where a document stands. Being saved here and being saved on the server are two things. */
export interface DocumentStatus extends RoomStatus {
  /** Whether there is a copy to read and to edit. */
  readonly ready: boolean;
  /** Whether every edit would survive a reload of this page or program: false without a `store`. */
  readonly savedLocally: boolean;
  /** Whether every edit is on the server's disk. */
  readonly savedOnServer: boolean;
  /** How many edits are not on the server's disk. */
  readonly pending: number;
  /** Whether the server takes edits; `undefined` until it said so. */
  readonly writable: boolean | undefined;
}
