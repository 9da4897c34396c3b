/**
 * Own edits that are not on the server's disk yet, and who waits for them.
 * @module
 */

import { HERE } from "../environment.js";
import { localError } from "../errors.js";
import type { EtherPlyError } from "../errors.js";

interface Waiter {
  resolve(): void;
  reject(error: EtherPlyError): void;
}

/** An edit: a change by its hash, which becomes another one if the document begins anew. */
export class Receipt {
  readonly waiters = new Set<Waiter>();
  /** Whether it is on the server's disk. */
  saved = false;
  /** The tab that made it; {@link HERE} for this one, `undefined` if it is not known. */
  tab: string | undefined = HERE;

  constructor(
    /** The change's hash. */
    public hash: string,
  ) {}

  /** Settles when the edit is on the server's disk. */
  durable(signal?: AbortSignal): Promise<void> {
    if (this.saved) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const done = (): void => {
        this.waiters.delete(waiter);
        signal?.removeEventListener("abort", aborted);
      };
      const waiter: Waiter = {
        resolve: () => (done(), resolve()),
        reject: (error) => (done(), reject(error)),
      };
      const aborted = (): void => waiter.reject(localError("aborted", "waiting for the server was given up"));
      if (signal?.aborted === true) return aborted();
      signal?.addEventListener("abort", aborted);
      this.waiters.add(waiter);
    });
  }
}

/** All edits that are not saved. */
export class Receipts {
  private readonly byHash = new Map<string, Receipt>();
  private readonly hashOfChange = new WeakMap<Uint8Array, string>();

  /** How many edits are not saved. */
  get size(): number {
    return this.byHash.size;
  }

  /** All edits that are not saved. */
  get hashes(): readonly string[] {
    return [...this.byHash.keys()];
  }

  /** Whether this edit is not saved. */
  has(hash: string): boolean {
    return this.byHash.has(hash);
  }

  /** A new edit. */
  add(hash: string, change: Uint8Array, tab: string | undefined = HERE): Receipt {
    this.hashOfChange.set(change, hash);
    const receipt = this.byHash.get(hash) ?? new Receipt(hash);
    receipt.tab = tab;
    this.byHash.set(hash, receipt);
    return receipt;
  }

  /** The edit with this hash, if it is not saved. */
  get(hash: string): Receipt | undefined {
    return this.byHash.get(hash);
  }

  /** Does not count it any more: another tab makes it again. */
  forget(hash: string): void {
    this.byHash.delete(hash);
  }

  /** The hash of a change that was added. */
  hashOf(change: Uint8Array): string | undefined {
    return this.hashOfChange.get(change);
  }

  /** An edit is on the server's disk. */
  saved(hash: string): void {
    const receipt = this.byHash.get(hash);
    if (receipt === undefined) return;
    this.byHash.delete(hash);
    receipt.saved = true;
    for (const waiter of [...receipt.waiters]) waiter.resolve();
  }

  /** An edit was made again as another change. */
  rewritten(hash: string, to: string, change: Uint8Array): void {
    const receipt = this.byHash.get(hash) ?? new Receipt(to);
    this.byHash.delete(hash);
    receipt.hash = to;
    receipt.tab = HERE;
    this.hashOfChange.set(change, to);
    this.byHash.set(to, receipt);
  }

  /** An edit will never be saved as it is: whoever waits for it hears why, and it does not count any more. */
  lost(hash: string, error: EtherPlyError): void {
    const receipt = this.byHash.get(hash);
    this.byHash.delete(hash);
    for (const waiter of [...(receipt?.waiters ?? [])]) waiter.reject(error);
  }

  /** Whoever waits hears why; the edits still count. */
  refuse(error: EtherPlyError): void {
    for (const receipt of this.byHash.values()) {
      for (const waiter of [...receipt.waiters]) waiter.reject(error);
    }
  }
}
