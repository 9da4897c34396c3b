/**
 * A stream's token, brought anew before it ends and when it ended, on the connection that there is.
 *
 * What the application cannot give now is asked for again after a while; only its refusal is final, or the server's
 * of the token that it gave.
 * @module
 */

import type { Environment } from "./environment.js";
import type { EtherPlyError } from "./errors.js";
import { Backoff } from "./protocol/backoff.js";
import type { AuthReason } from "./protocol/events.js";

/** How long before its end a token is renewed, at most. */
export const RENEW_MS_MAX = 60_000;
/** Shortest time until a token is renewed: one that has ended already is not asked for again and again. */
export const RENEW_MS_MIN = 250;
/** Span of the first wait after a token could not be had; each further one is twice as long. */
export const RENEW_RETRY_MS = 1_000;
/** Longest such wait. */
export const RENEW_RETRY_MS_MAX = 30_000;

/** Nothing to be done; to be asked for later; asked for, and the server has not answered. */
type State =
  | { readonly kind: "idle" | "asking" }
  | { readonly kind: "waiting"; readonly cancel: () => void };

/** What a renewal needs. */
export interface RenewalHost {
  readonly environment: Environment;
  /** Asks for a token and sends it. Whether it was sent; rejects if there is none. */
  renew(reason: AuthReason): Promise<boolean>;
  /** There will be no other token. */
  failed(error: EtherPlyError): void;
}

/** Keeps one stream's token fresh. */
export class Renewal {
  private state: State = { kind: "idle" };
  /** Why the token that there was is of no use any more; `undefined` while it is good. */
  private lost: AuthReason | undefined;
  private readonly backoff = new Backoff(RENEW_RETRY_MS, RENEW_RETRY_MS_MAX);

  constructor(private readonly host: RenewalHost) {}

  /** Whether rights that ended may come back without the application's doing. */
  get isUnderWay(): boolean {
    return this.lost !== undefined && this.state.kind !== "idle";
  }

  /** Rights were granted that end in so many milliseconds, or never. */
  granted(leftMs: number | undefined): void {
    this.stop();
    this.backoff.reset();
    if (leftMs === undefined) return;
    this.wait(Math.max(RENEW_MS_MIN, leftMs - Math.min(RENEW_MS_MAX, leftMs / 5)));
  }

  /** The token is of no use any more: another one is asked for now, unless one is on its way. */
  ended(reason: "expired" | "revoked"): void {
    this.lost = reason;
    if (this.state.kind === "asking") return;
    this.ask();
  }

  /** The server does not take the token that it was sent. */
  refused(error: EtherPlyError): void {
    if (this.state.kind !== "asking") return;
    // The application gave one that had ended already, from a cache perhaps: the next one may be fresh.
    if (error.code === "token_expired" || error.retryable) this.again();
    else this.end(error);
  }

  /** The stream is not open any more. */
  stop(): void {
    if (this.state.kind === "waiting") this.state.cancel();
    this.state = { kind: "idle" };
    this.lost = undefined;
  }

  private ask(): void {
    if (this.state.kind === "waiting") this.state.cancel();
    const asking: State = { kind: "asking" };
    this.state = asking;
    this.host.renew(this.lost ?? "renew").then(
      (isSent) => {
        if (!isSent && this.state === asking) this.state = { kind: "idle" };
      },
      (error: EtherPlyError) => {
        if (this.state !== asking) return;
        if (error.retryable) this.again();
        else this.end(error);
      },
    );
  }

  private again(): void {
    const { environment } = this.host;
    const next = { kind: "reconnect", afterMs: RENEW_MS_MIN, jitterMs: 0 } as const;
    this.wait(this.backoff.waitMs(next, environment.now(), environment.random()) ?? RENEW_RETRY_MS_MAX);
  }

  private wait(ms: number): void {
    this.state = { kind: "waiting", cancel: this.host.environment.after(ms, () => this.ask()) };
  }

  private end(error: EtherPlyError): void {
    this.state = { kind: "idle" };
    this.host.failed(error);
  }
}
