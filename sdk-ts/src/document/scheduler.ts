/**
 * When received changes are applied. Automerge's cost of an application grows with the document and hardly with the
 * number of changes: what comes while a document is busy is gathered, so that applying takes at most half of the time.
 * @module
 */

import type { Environment } from "../environment.js";

/** Longest time that changes are gathered before they are applied. */
export const GATHER_MS_MAX = 250;

/** Calls `work` as soon as it may be. */
export class Scheduler {
  private cancel: (() => void) | undefined;
  private freeAtMs = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly environment: Environment,
    private readonly work: () => void,
  ) {}

  /** There is something to do. */
  request(): void {
    if (this.cancel !== undefined) return;
    const waitMs = this.freeAtMs - this.environment.now();
    if (waitMs <= 0) this.run();
    else this.cancel = this.environment.after(Math.min(waitMs, GATHER_MS_MAX), () => this.run());
  }

  /** Does at once what waits. */
  flush(): void {
    if (this.cancel !== undefined) this.run();
  }

  /** Nothing more is done. */
  stop(): void {
    this.cancel?.();
    this.cancel = undefined;
  }

  private run(): void {
    this.stop();
    const startMs = this.environment.now();
    this.work();
    const endMs = this.environment.now();
    this.freeAtMs = endMs + (endMs - startMs);
  }
}
