/**
 * One name on a client: its stream, presence and messages. A room is all that there is without content; a document
 * is a room with content.
 * @module
 */

import type { Environment } from "./environment.js";
import { localError, namedError } from "./errors.js";
import type { EtherPlyError } from "./errors.js";
import { encodeJson, Messages, Presence } from "./presence.js";
import type { Json, Message } from "./presence.js";
import type { Opened, Refused, StreamEvents } from "./protocol/events.js";
import type { Push } from "./protocol/outbox.js";
import type { Session } from "./protocol/session.js";
import type { Stream } from "./protocol/stream.js";
import { Signal } from "./signal.js";
import type { Unsubscribe } from "./signal.js";
import type { ClientStatus, RoomStatus, SyncState } from "./status.js";
import { has, PRESENCE } from "./rights.js";
import { utf8 } from "./wire/bytes.js";
import type { ClockEntry, Cursor, PresenceEntry } from "./wire/kinds.js";
import { BROADCAST_TOPIC_BYTES_MAX } from "./wire/limits.js";

/** How long before its end a token is renewed, at most. */
export const RENEW_MS_MAX = 60_000;
/** Shortest time until a token is renewed: one that has ended already is not asked for again and again. */
export const RENEW_MS_MIN = 250;

/** What content is told of a stream. */
export type ContentSink = Pick<
  StreamEvents,
  "reset" | "changes" | "snapshot" | "reconcile" | "acked" | "refused"
> & {
  /** The stream is open, or is not any more, or may do something else. */
  moved(): void;
};

/** What all rooms of a client share. */
export interface RoomHost {
  readonly session: Session;
  readonly environment: Environment;
  readonly status: Signal<ClientStatus>;
  /** An error that nobody waits for. */
  report(error: EtherPlyError, documentId: string): void;
  /** The channel is not used any more. */
  release(channel: Channel): void;
}

/** What is behind a room, and behind the document of the same name. */
export class Channel implements StreamEvents {
  readonly presence: Presence;
  readonly messages = new Messages();
  readonly status = new Signal<RoomStatus>({ state: "connecting", error: undefined });
  stream: Stream | undefined;
  /** What the server said when it opened the stream, on this connection. */
  grant: Opened | undefined;
  /** Why the server does not open it. */
  refusal: EtherPlyError | undefined;
  error: EtherPlyError | undefined;
  isClosed = false;
  /** The room and the document of this name, those that are in use. */
  private users = 0;
  private sink: ContentSink | undefined;
  /** What came before the content was there to take it. */
  private isDetached = false;
  private early: ((sink: ContentSink) => void)[] = [];
  private cancelRenewal: (() => void) | undefined;
  private readonly off: Unsubscribe;

  constructor(
    readonly id: string,
    readonly host: RoomHost,
  ) {
    const limits = (): number => host.session.limits.presenceBytesMax;
    this.presence = new Presence(host.environment, limits, (state) => this.showPresence(state));
    this.off = host.status.subscribe(() => this.moved());
  }

  /** Opens the stream with these rights, or with these as well. */
  open(rights: number, cursor?: Cursor): Stream {
    if (this.stream === undefined) {
      this.stream = this.host.session.open(this.id, rights, cursor, this);
      // A document's stream waits for what is kept; presence may have been set before.
      this.presence.begin();
    } else if (!has(this.stream.rights, rights)) {
      this.stream.rights |= rights;
      if (cursor !== undefined) this.stream.resumeAt(cursor);
      this.stream.reopen();
    }
    this.moved();
    return this.stream;
  }

  /** A room or a document uses the channel from now on. */
  join(): void {
    this.users += 1;
  }

  /** One that used it does not any more; with the last one it is closed. */
  leave(): void {
    this.users -= 1;
    if (this.users === 0) this.close();
  }

  /** Content takes nothing more. */
  detach(): void {
    this.sink = undefined;
    this.isDetached = true;
    this.early = [];
  }

  /** From now on content takes what comes, and what came. */
  attach(sink: ContentSink): void {
    this.sink = sink;
    const early = this.early;
    this.early = [];
    for (const each of early) each(sink);
    sink.moved();
  }

  /** Where it stands, without regard to content. */
  get state(): SyncState {
    if (this.refusal !== undefined) return "refused";
    const { state } = this.host.status.value;
    if (state !== "live") return state;
    return this.grant === undefined || this.stream?.state !== "open" ? "connecting" : "live";
  }

  broadcast(topic: string, payload: Json): void {
    if (utf8(topic).length > BROADCAST_TOPIC_BYTES_MAX) {
      throw namedError("broadcast_too_large", `a topic may have ${BROADCAST_TOPIC_BYTES_MAX} bytes`);
    }
    const bytes = encodeJson(payload);
    if (bytes.length > this.host.session.limits.broadcastBytesMax) {
      throw namedError("broadcast_too_large", `the message has ${bytes.length} bytes`);
    }
    const stream = this.stream;
    if (stream === undefined || !stream.isOpen) throw localError("not_connected", `${this.id} is not open at the moment`);
    this.host.session.send("broadcastSend", stream.handle, { topic }, [bytes]);
  }

  private close(): void {
    this.isClosed = true;
    this.off();
    this.cancelRenewal?.();
    this.presence.stop();
    this.presence.disconnected();
    if (this.stream !== undefined) this.host.session.close(this.stream);
    this.host.release(this);
  }

  opened(opened: Opened): void {
    this.grant = opened;
    this.refusal = undefined;
    this.error = undefined;
    this.planRenewal(opened.expiresAtMs);
    this.moved();
  }

  closed(error: EtherPlyError, retries: boolean): void {
    this.grant = undefined;
    this.error = error;
    if (!retries) this.refusal = error;
    this.moved();
    if (!retries) this.host.report(error, this.id);
  }

  disconnected(): void {
    this.grant = undefined;
    this.cancelRenewal?.();
    this.presence.disconnected();
    this.moved();
  }

  rightsChanged(rights: number, expiresAtMs: number, error: EtherPlyError | undefined): void {
    if (this.grant !== undefined) this.grant = { ...this.grant, rights, expiresAtMs };
    this.error = error;
    this.planRenewal(expiresAtMs);
    if (error?.code === "token_expired" && this.stream !== undefined) void this.host.session.renew(this.stream, "expired");
    this.moved();
    if (error !== undefined) this.host.report(error, this.id);
  }

  failed(error: EtherPlyError): void {
    this.error = error;
    this.moved();
    this.host.report(error, this.id);
  }

  presenceUpdate(entries: readonly PresenceEntry[], full: boolean): void {
    this.presence.receive(entries, full, this.host.session.member);
  }

  left(members: readonly Uint8Array[]): void {
    this.presence.left(members);
  }

  broadcasted(member: Uint8Array, topic: string, payload: Uint8Array): void {
    this.messages.receive(member, topic, payload);
  }

  missed(count: bigint): void {
    this.messages.missed(count);
  }

  reset(unacked: readonly Push[]): void {
    this.pass((sink) => sink.reset(unacked));
  }

  changes(changes: readonly Uint8Array[]): void {
    this.pass((sink) => sink.changes(changes));
  }

  snapshot(bytes: Uint8Array): void {
    this.pass((sink) => sink.snapshot(bytes));
  }

  reconcile(clock: readonly ClockEntry[]): void {
    this.pass((sink) => sink.reconcile(clock));
  }

  acked(push: Push): void {
    this.pass((sink) => sink.acked(push));
  }

  refused(refused: Refused): void {
    this.pass((sink) => sink.refused(refused));
  }

  private pass(call: (sink: ContentSink) => void): void {
    if (this.isDetached) return;
    if (this.sink === undefined) this.early.push(call);
    else call(this.sink);
  }

  private moved(): void {
    this.status.set({ state: this.state, error: this.refusal ?? this.error ?? this.host.status.value.error });
    this.sink?.moved();
  }

  private showPresence(state: Uint8Array | undefined): void {
    const stream = this.stream;
    if (stream === undefined) return;
    stream.presence.set(state);
    if (state !== undefined) this.host.session.showPresence(stream);
    else if (stream.isOpen) this.host.session.send("presenceLeave", stream.handle, { version: 0n, members: [] });
  }

  private planRenewal(expiresAtMs: number): void {
    this.cancelRenewal?.();
    const stream = this.stream;
    if (expiresAtMs === 0 || stream === undefined) return;
    const { session, environment } = this.host;
    const leftMs = expiresAtMs - session.clockAheadMs - Date.now();
    const waitMs = Math.max(RENEW_MS_MIN, leftMs - Math.min(RENEW_MS_MAX, leftMs / 5));
    this.cancelRenewal = environment.after(waitMs, () => void session.renew(stream, "renew"));
  }
}

/** Presence and messages under one name, without content: never loads Automerge. */
export class Room {
  private isClosed = false;

  /** Made by {@link Client.room}. */
  constructor(
    private readonly channel: Channel,
    private readonly released: () => void,
  ) {
    channel.join();
    channel.open(PRESENCE);
  }

  /** The name. */
  get id(): string {
    return this.channel.id;
  }

  /** Who is here and what they show. */
  get presence(): Presence {
    return this.channel.presence;
  }

  /** Where the room stands. */
  get status(): RoomStatus {
    return this.channel.status.value;
  }

  /** Watches where the room stands. */
  onStatus(listener: (status: RoomStatus) => void): Unsubscribe {
    return this.channel.status.subscribe(listener);
  }

  /**
   * Sends a message to those who are here now. It is not kept.
   *
   * Throws `not_connected`, `broadcast_too_large`.
   */
  broadcast(topic: string, payload: Json): void {
    this.channel.broadcast(topic, payload);
  }

  /** Listens to messages on a topic. */
  onBroadcast(topic: string, listener: (message: Message) => void): Unsubscribe {
    return this.channel.messages.on(topic, listener);
  }

  /** Leaves; presence and messages of a document of this name go on. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.released();
    this.channel.leave();
  }
}
