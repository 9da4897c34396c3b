/**
 * Keeps one document's content in a store: what is new since the last time, one batch after the other.
 * @module
 */

import type { Environment } from "../environment.js";
import { EtherPlyError, localError } from "../errors.js";
import type { Cursor } from "../wire/kinds.js";
import type { DocumentStore, Row, Stored } from "./store.js";

/** Rows beside the copy, or bytes of them, from which on another copy is kept. */
export const ROWS_MAX = 500;
/** See {@link ROWS_MAX}. */
export const ROWS_BYTES_MAX = 256 * 1024;
/** How long changes of others are gathered before they are kept. */
export const KEEP_MS = 200;
/** How long to wait after the store failed. */
export const KEEP_RETRY_MS = 5_000;

/** What a keeper asks the content. */
export interface Kept {
  /** Changes since these heads, as far as they are for this tab to keep, and the heads now. */
  since(heads: readonly string[]): { readonly rows: readonly Omit<Row, "epoch">[]; readonly heads: readonly string[] };
  /** Whether another tab keeps the document: then only what was made here, and is not on the server, is kept. */
  readonly isElsewhere: boolean;
  /** Up to where everything was received and applied; `undefined` if that cannot be told now. */
  cursor(): Cursor | undefined;
  /** The whole document. */
  save(): Uint8Array;
  /** Takes in a copy that somebody else kept. */
  join(copy: Uint8Array): void;
}

/** Keeps one document. */
export class Keeper {
  private heads: readonly string[] = [];
  private settled: string[] = [];
  private version = 0;
  private rows = 0;
  private bytes = 0;
  private epoch = 0n;
  private replaces = false;
  private wantsCopy = false;
  private urgent = false;
  private isWriting = false;
  private writing: Promise<void> = Promise.resolve();
  private isDirty = false;
  private cancel: (() => void) | undefined;
  private isClosed = false;

  constructor(
    private readonly store: DocumentStore,
    private readonly content: Kept,
    private readonly environment: Environment,
    /** Whether everything is kept has changed, or keeping failed. */
    private readonly told: (error: EtherPlyError | undefined) => void,
  ) {}

  /** Whether everything is kept. */
  get isKept(): boolean {
    return !this.isDirty && !this.isWriting;
  }

  /** What is there is this, and the content holds it. */
  begin(stored: Stored | undefined, heads: readonly string[]): void {
    if (stored === undefined) return;
    this.heads = heads;
    this.version = stored.version;
    this.epoch = stored.cursor?.epoch ?? 0n;
    this.rows = stored.rows.length;
    this.bytes = stored.rows.reduce((sum, row) => sum + row.change.length, 0);
  }

  /** The content is another one now. What was edited here is kept at once, what others did after a while. */
  changed(urgent: boolean): void {
    this.isDirty = true;
    this.urgent ||= urgent;
    this.plan(this.urgent ? 0 : KEEP_MS);
  }

  /** A change is on the server. */
  saved(hash: string): void {
    this.settled.push(hash);
    this.changed(false);
  }

  /** The document began anew. */
  began(): void {
    this.replaces = true;
    this.heads = [];
    this.settled = [];
    this.changed(true);
  }

  /** Keeps what there is, and nothing more. */
  async close(): Promise<void> {
    this.isClosed = true;
    this.cancel?.();
    await this.writing;
    if (this.isDirty) await this.write();
    this.store.close();
  }

  private plan(ms: number): void {
    if (this.isWriting || this.isClosed) return;
    this.cancel?.();
    if (ms === 0) this.start();
    else this.cancel = this.environment.after(ms, () => this.start());
  }

  private start(): void {
    this.writing = this.write();
  }

  private async write(): Promise<void> {
    this.cancel?.();
    this.cancel = undefined;
    this.isWriting = true;
    this.isDirty = false;
    this.urgent = false;
    const { isElsewhere } = this.content;
    const settled = isElsewhere ? [] : this.settled;
    const replaces = !isElsewhere && this.replaces;
    const { wantsCopy } = this;
    this.settled = [];
    this.replaces = this.wantsCopy = false;
    const { rows, heads } = this.content.since(this.heads);
    const reached = this.content.cursor();
    if (reached !== undefined) this.epoch = reached.epoch;
    const cursor = isElsewhere ? undefined : reached;
    this.rows += rows.length;
    this.bytes += rows.reduce((sum, row) => sum + row.change.length, 0);
    const copies = !isElsewhere && (replaces || wantsCopy || this.rows > ROWS_MAX || this.bytes > ROWS_BYTES_MAX);
    try {
      const taken = await this.store.write({
        rows: rows.map((row) => ({ ...row, epoch: this.epoch })),
        settled,
        cursor,
        replaces,
        ...(copies ? { copy: { bytes: this.content.save(), version: this.version } } : {}),
      });
      this.heads = heads;
      if (copies) await this.copied(taken, replaces);
      this.isWriting = false;
      this.told(undefined);
      if (this.isDirty) this.plan(this.urgent ? 0 : KEEP_MS);
    } catch (error) {
      this.settled = [...settled, ...this.settled];
      this.replaces ||= replaces;
      this.wantsCopy ||= wantsCopy;
      this.isWriting = false;
      this.isDirty = true;
      this.told(error instanceof EtherPlyError ? error : localError("store_failed", "the store failed", error));
      if (!this.isClosed) this.cancel = this.environment.after(KEEP_RETRY_MS, () => this.start());
    }
  }

  /** A copy was kept, or another tab has kept one meanwhile, which has to be taken in before. */
  private async copied(taken: boolean, replaces: boolean): Promise<void> {
    if (taken && !replaces) {
      this.version += 1;
    } else {
      const stored = await this.store.read();
      this.version = stored?.version ?? 0;
      if (!taken && stored?.copy !== undefined) this.content.join(stored.copy);
      if (!taken) this.isDirty = true;
    }
    if (taken) this.rows = this.bytes = 0;
  }
}
