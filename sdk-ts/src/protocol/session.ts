/**
 * One member's side of the protocol, over one connection after another: hello, opening, pushing within the server's
 * window, keeping alive. It knows no socket: frames come and go as bytes.
 * @module
 */

import type { Environment } from "../environment.js";
import { EtherPlyError, localError, namedError, wireError } from "../errors.js";
import { toHex } from "../wire/bytes.js";
import { codeOfClose, isRetryable } from "../wire/codes.js";
import { decodeFrame, encodeFrame, FrameError, PROTOCOL } from "../wire/frame.js";
import type { Frame } from "../wire/frame.js";
import type { BodyOf, Cursor, KindName } from "../wire/kinds.js";
import { AGENT_BYTES_MAX, announce, defaultLimits } from "../wire/limits.js";
import type { ServerLimits } from "../wire/limits.js";
import { both, RECONNECT } from "./backoff.js";
import type { Next } from "./backoff.js";
import { ConnectionError } from "./events.js";
import type { AuthReason, StreamEvents } from "./events.js";
import { LogError } from "./progress.js";
import { Stream, violation } from "./stream.js";
import type { StreamFrame, StreamHost } from "./stream.js";

/** Shortest time until a document is opened again that the server refused for a while; as much is added at random. */
export const OPEN_RETRY_MS = 1_000;
/** How long presence holds that is not set again. */
export const PRESENCE_TTL_MS = 60_000;
/** How often a connection is looked after. */
export const TICK_MS = 1_000;
/** Time without a word from the server after which it is asked for one. */
export const QUIET_MS = 20_000;
/** Time that it has to answer. */
export const ANSWER_MS = 10_000;

/** Where a session stands. */
export type Phase = "disconnected" | "hello" | "ready";

/** What a session needs. */
export interface SessionOptions {
  readonly agent: string;
  readonly environment: Environment;
  /** Gives a token for a document, where tokens are used. */
  readonly token: ((document: string, reason: AuthReason) => Promise<string | undefined>) | undefined;
  /** The server said welcome. */
  readonly ready: () => void;
  /** The server does not answer any more. */
  readonly silent: () => void;
}

/** The protocol's state on this side. */
export class Session implements StreamHost {
  phase: Phase = "disconnected";
  limits: ServerLimits = defaultLimits();
  /** This connection's name among members, as hexadecimal text. */
  member = "";
  /** How far the server's clock is ahead of this side's, in milliseconds. */
  clockAheadMs = 0;
  private readonly streams = new Set<Stream>();
  private readonly handles = new Map<number, Stream>();
  private write: ((frame: Uint8Array) => void) | undefined;
  private next: Next = RECONNECT;
  private lastRequest = 0;
  private lastSentMs = 0;
  private lastHeardMs = 0;
  private askedMs: number | undefined;
  private connection = 0;
  private cancelTick: (() => void) | undefined;
  private cancelPump: (() => void) | undefined;

  constructor(private readonly options: SessionOptions) {}

  /** A socket is open: says hello. */
  connected(write: (frame: Uint8Array) => void): void {
    this.connection += 1;
    this.write = write;
    this.next = RECONNECT;
    this.phase = "hello";
    this.lastHeardMs = this.options.environment.now();
    this.askedMs = undefined;
    const agent = clip(this.options.agent, AGENT_BYTES_MAX);
    this.send("hello", 0, { protocolMin: PROTOCOL, protocolMax: PROTOCOL, capabilities: 0n, agent });
    this.tick();
  }

  /** The connection is gone, or did not come about. Tells what that means for the next one. */
  disconnected(closeCode?: number): Next {
    const byCode = closeCode === undefined ? undefined : codeOfClose(closeCode);
    if (byCode !== undefined && !byCode.retryable) this.next = { kind: "stop" };
    this.connection += 1;
    this.write = undefined;
    this.phase = "disconnected";
    this.limits = defaultLimits();
    this.handles.clear();
    this.cancelTick?.();
    this.cancelPump?.();
    for (const stream of this.streams) stream.disconnected();
    return this.next;
  }

  /** A document on this session; asked for now, and again on each later connection. */
  open(document: string, rights: number, cursor: Cursor | undefined, events: StreamEvents): Stream {
    if (this.streams.size >= this.limits.streamsMax) {
      throw namedError("too_many_streams", `${this.limits.streamsMax} documents are open, the most that there may be`);
    }
    const stream = new Stream(document, rights, cursor, events, this, PRESENCE_TTL_MS);
    this.streams.add(stream);
    this.begin(stream, "open");
    return stream;
  }

  /** Forgets a document. */
  close(stream: Stream): void {
    this.streams.delete(stream);
    stream.cancelRetry?.();
    if (stream.isOpen) {
      this.send("close", stream.handle, { code: 0, message: "" });
      stream.state = "closing";
    } else if (stream.state === "opening" || stream.state === "closing") {
      stream.reopens = false;
      stream.state = "closing";
    } else {
      stream.state = "closed";
    }
  }

  /** Brings a fresh token for an open stream. */
  async renew(stream: Stream, reason: AuthReason): Promise<void> {
    const connection = this.connection;
    try {
      const token = await this.options.token?.(stream.document, reason);
      if (connection !== this.connection || !stream.isOpen || token === undefined) return;
      stream.token = token;
      this.send("renew", stream.handle, { request: this.request(), token });
    } catch (error) {
      stream.events.failed(authError(error));
    }
  }

  /** Takes a message. Throws a {@link ConnectionError} if the connection has to end. */
  receive(message: Uint8Array): void {
    this.lastHeardMs = this.options.environment.now();
    this.askedMs = undefined;
    try {
      const frame = decodeFrame(message);
      if (frame !== undefined) this.take(frame);
    } catch (error) {
      const end = connectionError(error);
      if (end === undefined) throw error;
      this.next = both(this.next, end.next);
      throw end;
    }
  }

  send<K extends KindName>(kind: K, handle: number, body: BodyOf<K>, tail: readonly Uint8Array[] = []): void {
    if (this.write === undefined) return;
    this.lastSentMs = this.options.environment.now();
    this.write(encodeFrame(kind, handle, body, tail));
  }

  request(): number {
    this.lastRequest = this.lastRequest >= 0xffff_ffff ? 1 : this.lastRequest + 1;
    return this.lastRequest;
  }

  pack(changes: readonly Uint8Array[]): Uint8Array[][] {
    const packs: Uint8Array[][] = [];
    let bytes = 0;
    for (const change of changes) {
      const last = packs.at(-1);
      bytes += change.length;
      if (last !== undefined && last.length < this.limits.pushChangesMax && bytes <= this.limits.pushBytesMax) {
        last.push(change);
      } else {
        packs.push([change]);
        bytes = change.length;
      }
    }
    return packs;
  }

  begin(stream: Stream, reason: AuthReason): void {
    if (this.phase !== "ready" || !this.streams.has(stream)) return;
    stream.cancelRetry?.();
    stream.cancelRetry = undefined;
    const asked = this.options.token?.(stream.document, reason);
    if (asked === undefined) {
      this.sendOpen(stream);
      return;
    }
    stream.state = "authorising";
    const connection = this.connection;
    const isCurrent = (): boolean => connection === this.connection && stream.state === "authorising";
    asked.then(
      (token) => {
        if (!isCurrent()) return;
        stream.token = token;
        this.sendOpen(stream);
      },
      (error: unknown) => {
        if (isCurrent()) this.retryOpen(stream, authError(error), 0);
      },
    );
  }

  pump(): void {
    this.cancelPump?.();
    if (this.phase !== "ready") return;
    const nowMs = this.options.environment.now();
    let wakesAtMs = Number.POSITIVE_INFINITY;
    let sentOne = true;
    // One push of each document in turn, so that one with many does not hold up the others.
    while (sentOne) {
      sentOne = false;
      wakesAtMs = Number.POSITIVE_INFINITY;
      for (const stream of this.streams) {
        const dueMs = stream.state === "open" ? stream.outbox.wakesAtMs : undefined;
        if (dueMs === undefined) continue;
        if (dueMs > nowMs) {
          wakesAtMs = Math.min(wakesAtMs, dueMs);
          continue;
        }
        if (!this.hasWindow(stream.outbox.nextBytes)) return;
        const sent = stream.outbox.send(nowMs);
        if (sent === undefined) continue;
        const { push, generation } = sent;
        const lengths = push.changes.map((change) => change.length);
        this.send("push", stream.handle, { push: push.number, generation, lengths }, push.changes);
        sentOne = true;
      }
    }
    if (wakesAtMs < Number.POSITIVE_INFINITY) {
      this.cancelPump = this.options.environment.after(wakesAtMs - nowMs, () => this.pump());
    }
  }

  /** Sends what this member shows, where it is due. */
  showPresence(stream: Stream): void {
    if (stream.state !== "open") return;
    const due = stream.presence.due(this.options.environment.now());
    if (due !== undefined) this.send("presenceSet", stream.handle, { ttlMs: due.ttlMs }, [due.state]);
  }

  /** Asks the server for a sign of life; without one in time, the connection is as good as gone. */
  ask(): void {
    if (this.phase === "disconnected") return;
    this.askedMs ??= this.options.environment.now();
    if (this.phase === "ready") this.send("ping", 0, { nonce: 0n });
  }

  private hasWindow(bytes: number): boolean {
    let pushes = 0;
    let flying = 0;
    for (const stream of this.streams) {
      pushes += stream.outbox.inFlight;
      flying += stream.outbox.bytesInFlight;
    }
    return pushes < this.limits.pushesInFlightMax && (pushes === 0 || flying + bytes <= this.limits.pushBytesInFlightMax);
  }

  private tick(): void {
    const { environment } = this.options;
    const nowMs = environment.now();
    const isQuiet = nowMs - this.lastHeardMs >= QUIET_MS && this.askedMs === undefined;
    const isIdle = this.limits.idleMs > 0 && nowMs - this.lastSentMs >= this.limits.idleMs / 3;
    if (isQuiet || isIdle) this.ask();
    if (this.askedMs !== undefined && nowMs - this.askedMs >= ANSWER_MS) return this.options.silent();
    for (const stream of this.streams) this.showPresence(stream);
    this.cancelTick = environment.after(TICK_MS, () => this.tick());
  }

  private sendOpen(stream: Stream): void {
    stream.state = "opening";
    stream.request = this.request();
    const { request, rights, document, token, cursor } = stream;
    this.send("open", 0, { request, rights, document, token, cursor });
  }

  private take(frame: Frame): void {
    switch (frame.kind) {
      case "welcome":
        return this.welcome(frame.body);
      case "error":
        return this.error(frame.body, frame.stream);
      case "goingAway": {
        const { retryAfterMs: afterMs, retryJitterMs: jitterMs } = frame.body;
        this.next = both(this.next, { kind: "reconnect", afterMs, jitterMs });
        return;
      }
      default:
    }
    if (this.phase !== "ready") throw violation("a frame before the welcome");
    switch (frame.kind) {
      case "ping":
        return this.send("pong", 0, frame.body);
      case "pong":
        return;
      case "opened":
        return this.opened(frame.body, frame.stream);
      case "hello":
      case "open":
        throw violation("a frame that only clients send");
      default:
        return this.streamFrame(frame);
    }
  }

  private welcome(body: BodyOf<"welcome">): void {
    if (this.phase === "ready") throw violation("a second welcome");
    if (body.protocol !== PROTOCOL) throw violation("a protocol version that this side did not offer");
    for (const { limit, value } of body.limits) announce(this.limits, limit, value);
    this.phase = "ready";
    this.member = toHex(body.session);
    this.clockAheadMs = Number(body.serverTimeMs) - Date.now();
    this.options.ready();
    for (const stream of this.streams) this.begin(stream, "open");
  }

  private error(body: BodyOf<"error">, handle: number): void {
    const error = wireError(body.code, body.message);
    if (body.request === 0 && handle === 0) {
      const again: Next = { kind: "reconnect", afterMs: body.retryAfterMs, jitterMs: 0 };
      throw new ConnectionError(error, isRetryable(body.code) ? again : { kind: "stop" });
    }
    for (const stream of this.streams) {
      if (stream.state === "opening" && stream.request === body.request) {
        this.retryOpen(stream, error, body.retryAfterMs);
        return;
      }
      if (stream.state === "closing" && stream.request === body.request && stream.reopens) {
        stream.reopens = false;
        stream.state = "closed";
        this.begin(stream, "open");
        return;
      }
    }
    const stream = this.handles.get(handle);
    if (stream === undefined) return;
    if (error.code === "presence_too_large" || error.code === "presence_forbidden") stream.presence.set(undefined);
    stream.events.failed(error);
  }

  private opened(body: BodyOf<"opened">, handle: number): void {
    if (handle === 0 || this.handles.has(handle)) throw violation("a handle that something else has");
    const asked = (stream: Stream): boolean => stream.request === body.request;
    const stream = [...this.streams].find(asked);
    if (stream === undefined || stream.state === "closing") {
      // It was closed before the answer to its open came.
      if (stream !== undefined) {
        stream.handle = handle;
        this.handles.set(handle, stream);
      }
      this.send("close", handle, { code: 0, message: "" });
      return;
    }
    if (stream.state !== "opening") throw violation("a document was opened that was not asked for");
    stream.handle = handle;
    this.handles.set(handle, stream);
    stream.opened(body);
    stream.presence.renew();
    this.showPresence(stream);
    this.pump();
  }

  private streamFrame(frame: StreamFrame): void {
    const stream = this.handles.get(frame.stream);
    if (frame.kind === "close") {
      this.handles.delete(frame.stream);
      if (stream !== undefined) this.closed(stream, frame.body);
      return;
    }
    if (stream === undefined || stream.state === "closing") return;
    const before = stream.outbox.inFlight;
    stream.take(frame, this.options.environment.now());
    if (before !== stream.outbox.inFlight) this.pump();
  }

  private closed(stream: Stream, body: BodyOf<"close">): void {
    const byUs = stream.state === "closing";
    const reopens = stream.reopens;
    stream.disconnected();
    if (byUs) {
      if (reopens) this.begin(stream, "open");
      return;
    }
    this.retryOpen(stream, wireError(body.code, body.message), 0);
  }

  /** Plans to open a stream again, if that may help. The time is spread, so that members do not all come at once. */
  private retryOpen(stream: Stream, error: EtherPlyError, afterMs: number): void {
    stream.state = "closed";
    const wantsToken = error.code === "token_expired" && this.options.token !== undefined;
    const retries = error.retryable || wantsToken;
    if (retries) {
      const { environment } = this.options;
      const waitMs = Math.max(afterMs, OPEN_RETRY_MS);
      const reason: AuthReason = wantsToken ? "expired" : "open";
      stream.cancelRetry = environment.after(waitMs * (1 + environment.random()), () => this.begin(stream, reason));
    }
    stream.events.closed(error, retries);
  }
}

function authError(cause: unknown): EtherPlyError {
  if (cause instanceof EtherPlyError) return cause;
  return localError("auth_failed", `auth failed: ${cause instanceof Error ? cause.message : String(cause)}`, cause);
}

/** What an error that was thrown while a message was taken means for the connection. */
function connectionError(error: unknown): ConnectionError | undefined {
  if (error instanceof ConnectionError) return error;
  if (error instanceof FrameError) return new ConnectionError(namedError(error.code, error.message), { kind: "stop" });
  // A gap is mended by resuming from the cursor.
  if (error instanceof LogError) return new ConnectionError(namedError("protocol_violation", error.message), RECONNECT);
  return undefined;
}

function clip(text: string, bytesMax: number): string {
  let clipped = text;
  while (new TextEncoder().encode(clipped).length > bytesMax) clipped = clipped.slice(0, -1);
  return clipped;
}
