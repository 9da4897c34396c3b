/**
 * Keeps documents in the browser's IndexedDB: offline edits survive a reload.
 * @module
 */

import { localError } from "../errors.js";
import type { Batch, DocumentStore, Row, Store, Stored } from "./store.js";

const HEADS = "documents";
const ROWS = "changes";
const VERSION = 1;

/** How documents are kept in IndexedDB. */
export interface IndexedDbOptions {
  /** Whose edits these are: the user's id. Another user of the same browser does not get them. */
  readonly subject: string;
  /** The database's name. */
  readonly name?: string;
}

interface Head {
  readonly key: string;
  readonly version: number;
  readonly copy: Uint8Array | undefined;
  readonly cursor: Stored["cursor"];
}

interface KeptRow extends Row {
  readonly key: string;
}

/** A store in IndexedDB. */
export function indexedDbStore(options: IndexedDbOptions): Store {
  let opening: Promise<IDBDatabase> | undefined;
  const database = (): Promise<IDBDatabase> => {
    opening ??= open(options.name ?? "etherply").catch((cause: unknown) => {
      opening = undefined;
      throw localError("store_failed", "IndexedDB cannot be opened", cause);
    });
    return opening;
  };
  return {
    document: (id) => new IndexedDbDocument(database, JSON.stringify([options.subject, id])),
    scope: JSON.stringify([options.name ?? "etherply", options.subject]),
  };
}

function open(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(name, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(HEADS, { keyPath: "key" });
    request.result.createObjectStore(ROWS, { keyPath: ["key", "hash"] });
  };
  return done(request).then((database) => {
    // A newer page wants to change the database: it must not wait for this one.
    database.onversionchange = () => database.close();
    return database;
  });
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}

class IndexedDbDocument implements DocumentStore {
  constructor(
    private readonly database: () => Promise<IDBDatabase>,
    private readonly key: string,
  ) {}

  read(): Promise<Stored | undefined> {
    return this.work("readonly", async (heads, rows) => {
      const asked = [done(heads.get(this.key) as IDBRequest<Head | undefined>), done(rows.getAll(this.range()))] as const;
      const [head, kept] = await Promise.all(asked);
      if (head === undefined && kept.length === 0) return undefined;
      const { version, copy, cursor } = head ?? { version: 0, copy: undefined, cursor: undefined };
      return { version, copy, cursor, rows: kept as KeptRow[] };
    });
  }

  write(batch: Batch): Promise<boolean> {
    return this.work("readwrite", async (heads, rows) => {
      const before = await done(heads.get(this.key) as IDBRequest<Head | undefined>);
      const version = before?.version ?? 0;
      const taken = batch.copy === undefined || batch.copy.version === version || batch.replaces;
      if (batch.replaces) rows.delete(this.range());
      if (batch.settled.length > 0 || (batch.copy !== undefined && taken)) {
        const settled = new Set(batch.settled);
        for (const row of (await done(rows.getAll(this.range()))) as KeptRow[]) {
          const mine = row.mine && !settled.has(row.hash);
          if (batch.copy !== undefined && taken && !mine) rows.delete([this.key, row.hash]);
          else if (mine !== row.mine) rows.put({ ...row, mine });
        }
      }
      for (const row of batch.rows) {
        if (batch.copy !== undefined && taken && !row.mine) continue;
        const there = await done(rows.getKey([this.key, row.hash]));
        if (there === undefined) rows.put({ ...row, key: this.key } satisfies KeptRow);
      }
      const isNew = batch.copy !== undefined && taken;
      heads.put({
        key: this.key,
        version: isNew ? version + 1 : version,
        copy: isNew ? batch.copy.bytes : batch.replaces ? undefined : before?.copy,
        cursor: batch.cursor ?? (batch.replaces ? undefined : before?.cursor),
      } satisfies Head);
      return taken;
    });
  }

  async remove(): Promise<void> {
    await this.work("readwrite", async (heads, rows) => {
      heads.delete(this.key);
      rows.delete(this.range());
      return Promise.resolve();
    });
  }

  close(): void {
    // The database is the store's: other documents use it.
  }

  private range(): IDBKeyRange {
    return IDBKeyRange.bound([this.key], [this.key, []]);
  }

  /** Does something within one transaction, and waits until that is on disk. */
  private async work<T>(
    mode: IDBTransactionMode,
    task: (heads: IDBObjectStore, rows: IDBObjectStore) => Promise<T>,
  ): Promise<T> {
    const database = await this.database();
    try {
      const transaction = database.transaction([HEADS, ROWS], mode, { durability: "strict" });
      const ended = new Promise<void>((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was given up"));
      });
      // Together: what is given up for want of room ends the task as well.
      const [result] = await Promise.all([task(transaction.objectStore(HEADS), transaction.objectStore(ROWS)), ended]);
      return result;
    } catch (cause) {
      throw localError("store_failed", "IndexedDB does not keep the document", cause);
    }
  }
}
