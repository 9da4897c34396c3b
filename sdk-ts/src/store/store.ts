/**
 * What outlives a page or a program: a document's copy, its cursor, and edits that are not on the server yet. Where
 * it is kept, `indexeddb.ts` and `file.ts` say.
 * @module
 */

import type { Cursor } from "../wire/kinds.js";

/** A change that is kept beside the copy. */
export interface Row {
  /** The change's hash: a change is kept once, whoever keeps it. */
  readonly hash: string;
  /** The change, in Automerge's format. */
  readonly change: Uint8Array;
  /** Whether it was made here and is not on the server yet. */
  readonly mine: boolean;
  /** The document's epoch when it was kept. */
  readonly epoch: bigint;
}

/** A document as it was kept. */
export interface Stored {
  /** Counts the copies that were kept: who keeps another one has to have seen this one. */
  readonly version: number;
  /** The copy, in Automerge's format. */
  readonly copy: Uint8Array | undefined;
  /** Up to where copy and rows together have everything; `undefined` before the server was heard. */
  readonly cursor: Cursor | undefined;
  /** Changes that are kept beside the copy. */
  readonly rows: readonly Row[];
}

/** What is kept in one go: all of it, or nothing. */
export interface Batch {
  /** Rows to add. One that is there already stays as it is. */
  readonly rows: readonly Row[];
  /** Hashes of rows that are on the server now. */
  readonly settled: readonly string[];
  /** Up to where everything is there with this batch; `undefined` if that is where it was. */
  readonly cursor: Cursor | undefined;
  /**
   * A copy that holds everything that was kept, and takes the place of the one before and of all rows that are on the
   * server. Refused if there is another version than this one.
   */
  readonly copy?: { readonly bytes: Uint8Array; readonly version: number };
  /** The document began anew: nothing of before is left but this batch. */
  readonly replaces: boolean;
}

/** Keeps one document of one subject. Several tabs may keep the same one. */
export interface DocumentStore {
  /** What there is; `undefined` if nothing. */
  read(): Promise<Stored | undefined>;
  /** Keeps a batch. Whether its copy was taken; without one, `true`. */
  write(batch: Batch): Promise<boolean>;
  /** Forgets the document. */
  remove(): Promise<void>;
  /** Nothing more is asked of it. */
  close(): void;
}

/** Keeps documents. */
export interface Store {
  /** The document of this name. */
  document(id: string): DocumentStore;
  /** Names what the tabs that use the same store for the same subject have in common; they share one connection. */
  readonly scope?: string;
}

/** What a batch makes of what was there. Stores that keep whole documents can use it as it is. */
export function merged(before: Stored | undefined, batch: Batch): { readonly stored: Stored; readonly taken: boolean } {
  const version = before?.version ?? 0;
  const taken = batch.copy === undefined || batch.copy.version === version || batch.replaces;
  const copy = batch.copy !== undefined && taken ? batch.copy.bytes : batch.replaces ? undefined : before?.copy;
  const settled = new Set(batch.settled);
  const rows = new Map<string, Row>();
  for (const row of batch.replaces ? [] : (before?.rows ?? [])) {
    const now = settled.has(row.hash) ? { ...row, mine: false } : row;
    if (now.mine || batch.copy === undefined || !taken) rows.set(row.hash, now);
  }
  for (const row of batch.rows) {
    if (!rows.has(row.hash) && (row.mine || batch.copy === undefined || !taken)) rows.set(row.hash, row);
  }
  const next = batch.copy !== undefined && taken ? version + 1 : version;
  const cursor = batch.cursor ?? (batch.replaces ? undefined : before?.cursor);
  return { stored: { version: next, copy, cursor, rows: [...rows.values()] }, taken };
}
