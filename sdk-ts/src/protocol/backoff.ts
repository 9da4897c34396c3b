/**
 * How long to wait before connecting again: exponential backoff with full jitter ("Exponential Backoff And Jitter",
 * M. Brooker, 2015). The n-th wait in a row is a random time up to `base · 2ⁿ`, at most up to `cap`, on top of what
 * the server asked for, so that clients that were cut off together do not come back together.
 * @module
 */

/** Default span of the first wait. */
export const BACKOFF_BASE_MS = 250;
/** Default longest span of a wait. */
export const BACKOFF_CAP_MS = 30_000;
/** How long a connection has to have held after the server's welcome to count as good. */
export const BACKOFF_PROOF_MS = 5_000;

/** What the end of a connection means for the next one. */
export type Next =
  | { readonly kind: "reconnect"; readonly afterMs: number; readonly jitterMs: number }
  /** Connecting again leads to the same error: configuration or version has to change. */
  | { readonly kind: "stop" };

/** Connect again, without a wish of the server's as to when. */
export const RECONNECT: Next = { kind: "reconnect", afterMs: 0, jitterMs: 0 };

/** Both together: the longer times, and no connection if one says so. */
export function both(one: Next, other: Next): Next {
  if (one.kind === "stop" || other.kind === "stop") return { kind: "stop" };
  return {
    kind: "reconnect",
    afterMs: Math.max(one.afterMs, other.afterMs),
    jitterMs: Math.max(one.jitterMs, other.jitterMs),
  };
}

/** Counts attempts and makes waits of them. */
export class Backoff {
  private attempts = 0;
  private readySinceMs: number | undefined;

  constructor(
    private readonly baseMs: number = BACKOFF_BASE_MS,
    private readonly capMs: number = BACKOFF_CAP_MS,
  ) {}

  /** The server said welcome. */
  ready(nowMs: number): void {
    this.readySinceMs = nowMs;
  }

  /** Somebody wants a connection now: the next wait begins at the base again. */
  reset(): void {
    this.attempts = 0;
  }

  /** How many milliseconds from now to try again, `undefined` if it is of no use. `random` is from 0 up to 1. */
  waitMs(next: Next, nowMs: number, random: number): number | undefined {
    const heldMs = this.readySinceMs === undefined ? 0 : nowMs - this.readySinceMs;
    this.readySinceMs = undefined;
    if (heldMs >= BACKOFF_PROOF_MS) this.attempts = 0;
    if (next.kind === "stop") return undefined;
    const spanMs = Math.max(Math.min(this.baseMs * 2 ** Math.min(this.attempts, 32), this.capMs), next.jitterMs);
    this.attempts += 1;
    return next.afterMs + random * spanMs;
  }
}
