/**
 * One document on a client: what survives disconnects, and where it stands on this connection.
 *
 * It makes sense of the frames that belong to it. Connections, and which of the streams may push, are the session's.
 * @module
 */

import { namedError, wireError } from "../errors.js";
import { split } from "../wire/bytes.js";
import type { Frame } from "../wire/frame.js";
import { RESUME } from "../wire/kinds.js";
import type { BodyOf, ClockEntry, Cursor, KindName } from "../wire/kinds.js";
import { CLOCK_ENTRIES_MAX, RECONCILE_ENTRIES_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX } from "../wire/limits.js";
import type { AuthReason, StreamEvents } from "./events.js";
import { ConnectionError } from "./events.js";
import { Outbox } from "./outbox.js";
import type { Push } from "./outbox.js";
import { OwnPresence } from "./presence.js";
import { beginning, owned, Progress } from "./progress.js";

/**
 * Where a stream stands: not open; waiting for a token; asked for; open; comparing clocks; being closed by this side.
 */
export type StreamState = "closed" | "authorising" | "opening" | "open" | "reconciling" | "closing";

/** What a stream needs of its session. */
export interface StreamHost {
  /** Sends a frame, if there is a connection. */
  send<K extends KindName>(kind: K, handle: number, body: BodyOf<K>, tail?: readonly Uint8Array[]): void;
  /** Asks for the document again, if there is a connection. */
  begin(stream: Stream, reason: AuthReason): void;
  /** Something may be pushed now. */
  pump(): void;
  /** The next free number of a request. */
  request(): number;
  /** Puts changes into as many pushes as it takes. */
  pack(changes: readonly Uint8Array[]): Uint8Array[][];
}

interface Assembly {
  readonly cursor: Cursor;
  readonly total: number;
  readonly pieces: Uint8Array[];
  have: number;
}

/** The protocol was broken by the server. */
export function violation(message: string): ConnectionError {
  return new ConnectionError(namedError("protocol_violation", `the server broke the protocol: ${message}`), { kind: "stop" });
}

/** A frame of one document. */
export type StreamFrame = Exclude<Frame, { kind: "hello" | "welcome" | "open" | "ping" | "pong" | "error" | "goingAway" }>;

/** A document on a client. */
export class Stream {
  state: StreamState = "closed";
  /** The request of the last open. */
  request = 0;
  /** The server's number for the document on this connection. */
  handle = 0;
  token: string | undefined;
  readonly outbox = new Outbox();
  readonly presence: OwnPresence;
  /** Ends the wait for the next attempt to open it. */
  cancelRetry: (() => void) | undefined;
  /** Whether it is opened again once this side's close is answered. */
  reopens = false;
  private progress: Progress;
  /** The cursor of another log that this member came with, while both sides compare clocks. */
  private otherLog: Cursor | undefined;
  private assembly: Assembly | undefined;
  private clock: ClockEntry[] = [];
  private clockAsked = false;

  constructor(
    readonly document: string,
    /** The rights wanted, as bits. */
    public rights: number,
    cursor: Cursor | undefined,
    public events: StreamEvents,
    private readonly host: StreamHost,
    ttlMs: number,
  ) {
    this.progress = new Progress(cursor);
    this.presence = new OwnPresence(ttlMs);
  }

  /** Where the stream would resume. */
  get cursor(): Cursor | undefined {
    return this.progress.resume;
  }

  /** Resumes there instead of at the beginning, if nothing was received yet. */
  resumeAt(cursor: Cursor): void {
    if (this.progress.resume === undefined) this.progress = new Progress(cursor);
  }

  /** Whether everything up to this place was received. */
  hasSeen(cursor: Cursor): boolean {
    return this.progress.epoch === cursor.epoch && this.progress.seq >= cursor.seq;
  }

  /** Whether frames can be sent on it. */
  get isOpen(): boolean {
    return this.state === "open" || this.state === "reconciling";
  }

  /** Pushes changes, in causal order; kept until they are acked. The caller has checked that there is room. */
  push(changes: readonly Uint8Array[]): void {
    for (const each of this.host.pack(changes)) this.outbox.add(each);
    this.host.pump();
  }

  /** Ends a block: pushes what the server lacks before everything else; with nothing, tries again as it is. */
  supply(changes: readonly Uint8Array[]): void {
    this.outbox.supply(this.host.pack(changes));
    this.host.pump();
  }

  /** Throws away what was received, and asks for the document from its beginning. Gives back what is not acked. */
  restart(): readonly Push[] {
    this.outbox.rewind();
    const unacked = this.outbox.giveBack();
    this.progress.restart(0n);
    this.reopen();
    return unacked;
  }

  /** Another tab has the connection, and everything up to there was heard from it. */
  follow(cursor: Cursor): void {
    this.progress = new Progress(cursor);
  }

  /** Opens the stream anew, with other rights for instance. */
  reopen(): void {
    switch (this.state) {
      case "open":
      case "reconciling":
        this.reopens = true;
        this.state = "closing";
        this.host.send("close", this.handle, { code: 0, message: "" });
        return;
      case "opening":
      case "closing":
        this.reopens = true;
        this.state = "closing";
        return;
      case "authorising":
      case "closed":
        this.host.begin(this, "open");
    }
  }

  /** Answers `reconcile` with this member's clock and with what the server lacks by its own. */
  reconcile(clock: readonly ClockEntry[], lacking: readonly Uint8Array[]): void {
    if (this.state !== "reconciling" || !this.clockAsked) return;
    this.outbox.supply(this.host.pack(lacking));
    this.clockAsked = false;
    this.state = "open";
    const cursor = this.otherLog ?? beginning(0n);
    this.otherLog = undefined;
    let rest = clock;
    do {
      const now = rest.slice(0, RECONCILE_ENTRIES_MAX);
      rest = rest.slice(RECONCILE_ENTRIES_MAX);
      this.host.send("reconcile", this.handle, { cursor, more: rest.length > 0, clock: now });
    } while (rest.length > 0);
    this.host.pump();
  }

  /** Back to what is true without a connection. */
  disconnected(): void {
    this.state = "closed";
    this.reopens = false;
    this.handle = 0;
    this.progress.disconnected();
    this.outbox.rewind();
    this.assembly = undefined;
    this.clock = [];
    this.clockAsked = false;
    this.cancelRetry?.();
    this.cancelRetry = undefined;
    this.events.disconnected();
  }

  /** The server opened the document. Throws a {@link ConnectionError}. */
  opened(body: BodyOf<"opened">): void {
    const cursor = owned(body.cursor);
    this.state = "open";
    const [before, hadCursor] = [this.progress.epoch, this.progress.resume !== undefined];
    const fromStart = body.resume === RESUME.start || body.resume === RESUME.snapshot;
    // Own changes may be acked before anything that stands in front of them has come. Then there is no cursor that
    // would tell the server of the epoch that they were written in, and that epoch may be over.
    const isOver = fromStart && !hadCursor && before !== 0n && before !== cursor.epoch;
    if (isOver || (body.resume === RESUME.reset && hadCursor)) {
      this.outbox.rewind();
      this.events.reset(this.outbox.giveBack());
    }
    switch (body.resume) {
      case RESUME.reset:
        if (!hadCursor) throw violation("a reset of a copy that there is not");
        this.progress.restart(cursor.epoch);
        break;
      case RESUME.cursor:
        if (this.progress.epoch !== cursor.epoch || this.progress.seq === 0n) throw violation("a cursor that was not given");
        break;
      case RESUME.start:
      case RESUME.snapshot:
        this.progress.restart(cursor.epoch);
        break;
      case RESUME.reconcile:
        this.otherLog = this.progress.resume;
        this.progress.restart(cursor.epoch);
        this.state = "reconciling";
        break;
      default:
        throw violation("an unknown way to resume");
    }
    this.events.opened({ rights: body.rights, expiresAtMs: Number(body.expiresAtMs), cursor });
  }

  /** Takes a frame of an open stream. Throws a {@link ConnectionError} or a `LogError`. */
  take(frame: StreamFrame, nowMs: number): void {
    const { events } = this;
    switch (frame.kind) {
      case "changes":
        return this.changes(frame.body, frame.tail);
      case "snapshot":
        return this.snapshot(frame.body, frame.tail);
      case "ack": {
        const { afterSeq, cursor, push, positions } = frame.body;
        this.progress.ack(afterSeq, owned(cursor));
        const isAhead = cursor.seq > afterSeq && cursor.seq > this.progress.seq;
        const acked = this.outbox.acked(push, isAhead ? cursor.seq : undefined);
        if (acked === undefined) throw violation("an ack for a push that is not in flight");
        this.outbox.passed(this.progress.seq);
        return acked.isNews ? events.acked(acked.push, positions) : undefined;
      }
      case "refused":
        return this.refused(frame.body, nowMs);
      case "reconcile":
        return this.serverClock(frame.body);
      case "rightsChanged": {
        const { rights, expiresAtMs, code } = frame.body;
        const error = code === 0 ? undefined : wireError(code, `the rights on ${this.document} changed`);
        return events.rightsChanged(rights, Number(expiresAtMs), error);
      }
      case "presenceUpdate":
        return events.presenceUpdate(frame.body.entries, frame.body.full);
      case "presenceLeave":
        return events.left(frame.body.members);
      case "broadcast":
        return events.broadcasted(frame.body.member, frame.body.topic, frame.tail);
      case "broadcastGap":
        return events.missed(frame.body.last - frame.body.first + 1n);
      default:
        throw violation("a frame that only clients send");
    }
  }

  private changes(body: BodyOf<"changes">, tail: Uint8Array): void {
    if (this.state === "reconciling") throw violation("changes before this side's clock");
    const changes = split(tail, body.lengths);
    if (changes === undefined) throw violation("changes of other lengths than their bytes");
    // If a snapshot was on its way, the server could not go on with it, and sends the log instead.
    this.assembly = undefined;
    this.progress.changes(body.afterSeq, owned(body.cursor), changes.length);
    this.outbox.passed(this.progress.seq);
    this.events.changes(changes, body.afterSeq, body.cursor.seq);
  }

  private snapshot(body: BodyOf<"snapshot">, piece: Uint8Array): void {
    if (body.totalBytes > BigInt(SNAPSHOT_BYTES_MAX) || piece.length > SNAPSHOT_CHUNK_BYTES_MAX) {
      throw violation("a snapshot that is too large");
    }
    const total = Number(body.totalBytes);
    // A newer snapshot takes the place of one that was under way.
    if (body.offset === 0n) this.assembly = { cursor: owned(body.cursor), total, pieces: [], have: 0 };
    const assembly = this.assembly;
    const fits =
      assembly !== undefined &&
      assembly.cursor.epoch === body.cursor.epoch &&
      assembly.cursor.seq === body.cursor.seq &&
      assembly.total === total &&
      BigInt(assembly.have) === body.offset &&
      assembly.have + piece.length <= total;
    if (!fits) throw violation("pieces of a snapshot that do not fit");
    assembly.pieces.push(piece);
    assembly.have += piece.length;
    if (assembly.have < total) return;
    const whole = new Uint8Array(total);
    let at = 0;
    for (const each of assembly.pieces) {
      whole.set(each, at);
      at += each.length;
    }
    this.assembly = undefined;
    this.progress.snapshot(assembly.cursor);
    this.outbox.passed(this.progress.seq);
    this.events.snapshot(whole, assembly.cursor.seq);
  }

  private refused(body: BodyOf<"refused">, nowMs: number): void {
    const refusal = this.outbox.refused(body.push, body.generation, body.code, nowMs + body.retryAfterMs);
    if (refusal === "stale") return;
    const error = wireError(body.code, body.message);
    this.events.refused({ error, index: body.index, blocks: refusal === "blocks", clock: body.clock.map(ownedEntry) });
  }

  private serverClock(body: BodyOf<"reconcile">): void {
    if (this.state !== "reconciling" || this.clockAsked) throw violation("a clock that this side does not wait for");
    if (this.clock.length + body.clock.length > CLOCK_ENTRIES_MAX) throw violation("a clock with too many entries");
    this.clock.push(...body.clock.map(ownedEntry));
    if (body.more) return;
    this.clockAsked = true;
    const clock = this.clock;
    this.clock = [];
    this.events.reconcile(clock);
  }
}

function ownedEntry(entry: ClockEntry): ClockEntry {
  return { actor: entry.actor.slice(), seq: entry.seq, hash: entry.hash.slice() };
}

