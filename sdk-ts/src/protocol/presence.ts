/**
 * This member's presence on one document: the state that it set last, sent when the stream is open, again on each
 * later connection, and again before its time is over.
 * @module
 */

import { PRESENCE_TTL_MS_MAX, PRESENCE_TTL_MS_MIN } from "../wire/limits.js";

/** What this member shows. */
export class OwnPresence {
  /** The state, as bytes; `undefined` if this member shows nothing. */
  state: Uint8Array | undefined;
  private sentMs: number | undefined;
  private readonly ttlMs: number;

  constructor(ttlMs: number) {
    this.ttlMs = Math.max(PRESENCE_TTL_MS_MIN, Math.min(ttlMs, PRESENCE_TTL_MS_MAX));
  }

  /** Shows another state, which is due at once. */
  set(state: Uint8Array | undefined): void {
    this.state = state;
    this.sentMs = undefined;
  }

  /** On a new connection it is due again. */
  renew(): void {
    this.sentMs = undefined;
  }

  /** What has to be sent now, and how long it is to hold. Half of its time before the end it is due again. */
  due(nowMs: number): { state: Uint8Array; ttlMs: number } | undefined {
    if (this.state === undefined) return undefined;
    if (this.sentMs !== undefined && nowMs - this.sentMs < this.ttlMs / 2) return undefined;
    this.sentMs = nowMs;
    return { state: this.state, ttlMs: this.ttlMs };
  }
}
