/**
 * One name on a client: its stream, presence and messages. A room is all that there is without content; a document
 * is a room with content.
 * @module
 */

import type { Environment } from "./environment.js";
import { localError, namedError } from "./errors.js";
import type { ErrorCode, EtherPlyError } from "./errors.js";
import { encodeJson, Messages, Presence } from "./presence.js";
import type { Json, Message } from "./presence.js";
import type { Document } from "./document/document.js";
import { Renewal } from "./renewal.js";
import type { FeedEvent } from "./tabs/messages.js";
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

/** Codes by which the server says that a token is of no use any more, and why the next one is asked for. */
const ENDED: Partial<Record<ErrorCode, "expired" | "revoked">> = { token_expired: "expired", token_revoked: "revoked" };

/** Where a channel stands with the server, whichever tab has the connection. */
export interface Standing {
  readonly state: SyncState;
  /** Why it is not live, or why the last request was refused. */
  readonly error: EtherPlyError | undefined;
  /** Why the server does not open it, or will not any more. */
  readonly refusal: EtherPlyError | undefined;
  /** Why the server does not take edits, which are kept. */
  readonly held: EtherPlyError | undefined;
  /** The rights granted, as bits; `undefined` while it is not open. */
  readonly rights: number | undefined;
  /** Whether the rights have ended and another token is on its way. */
  readonly isRenewing: boolean;
  /** Whether everything was received that the server had when it opened the stream. */
  readonly isWhole: boolean;
}

/** What a channel has to do with the other tabs that share the connection. */
export interface Siblings {
  /** Where it stands, by the tab that has the connection; `undefined` if this one has it. */
  readonly standing: Standing | undefined;
  /** Whether another tab has the connection. */
  readonly isElsewhere: boolean;
  /** Whether this tab answers for edits of that one. */
  isOurs(tab: string | undefined): boolean;
  /** There is more to ask for, or to tell of. */
  opened(): void;
  /** Where it stands may have changed. */
  moved(): void;
  /** The content is whole now, perhaps. */
  settled(): void;
  /** This is for the other tabs, if this one has the connection. */
  feed(event: FeedEvent): void;
  /** An error that nobody waits for. */
  report(error: EtherPlyError): void;
  /** Edits were made here. */
  edited(changes: readonly Uint8Array[]): void;
  show(state: Uint8Array | undefined): void;
  /** Sends a message to everybody. Whether that is possible now. */
  say(topic: string, payload: Uint8Array): boolean;
  /** What the server refused is to be sent again, or to be taken back: whether another tab does that. */
  retry(): boolean;
  drop(): boolean;
  /** These edits were taken back. */
  discarded(hashes: readonly string[]): void;
  closed(): void;
}

/** What content is told of a stream. */
export type ContentSink = Pick<
  StreamEvents,
  "reset" | "changes" | "snapshot" | "reconcile" | "acked" | "refused"
> & {
  /** The stream is open, or is not any more, or may do something else. */
  moved(): void;
  readonly document: Document<never>;
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
  readonly status: Signal<RoomStatus>;
  stream: Stream | undefined;
  /** What the server said when it opened the stream, on this connection. */
  grant: Opened | undefined;
  /** What other tabs have to do with it. */
  siblings: Siblings | undefined;
  /** Why the server does not take edits. */
  held: EtherPlyError | undefined;
  /** Why the server does not open it. */
  refusal: EtherPlyError | undefined;
  error: EtherPlyError | undefined;
  isClosed = false;
  /** The room and the document of this name, those that are in use. */
  private users = 0;
  private sink: ContentSink | undefined;
  /** What came before the content was there to take it. */
  private isDetached = false;
  /** Whether content is being given what came before it was there. */
  isCatchingUp = false;
  private early: ((sink: ContentSink) => void)[] = [];
  private readonly renewal: Renewal;
  private readonly off: Unsubscribe;

  constructor(
    readonly id: string,
    readonly host: RoomHost,
  ) {
    this.status = new Signal<RoomStatus>(host.status.value);
    const limits = (): number => host.session.limits.presenceBytesMax;
    this.presence = new Presence(host.environment, limits, (state) => (this.siblings ?? this).show(state));
    this.renewal = new Renewal({
      environment: host.environment,
      renew: async (reason) => this.stream !== undefined && host.session.renew(this.stream, reason),
      failed: (error) => this.renewalFailed(error),
    });
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
    this.siblings?.opened();
    return this.stream;
  }

  /** The document, once there is content. */
  get document(): Document<never> | undefined {
    return this.sink?.document;
  }

  /** Whether another tab has the connection. */
  get isElsewhere(): boolean {
    return this.siblings?.isElsewhere === true;
  }

  /** Where it stands, by whichever tab has the connection. */
  get standing(): Standing {
    return this.siblings?.standing ?? this.own;
  }

  /** Where it stands on this tab's connection. */
  get own(): Standing {
    const { error, refusal, held, grant, isRenewing, stream } = this;
    const isWhole = grant !== undefined && stream?.state === "open" && stream.hasSeen(grant.cursor);
    return { state: this.ownState, error, refusal, held, rights: grant?.rights, isRenewing, isWhole };
  }

  /** Throws away what the copy holds, and asks the server for it from its beginning. */
  restart(): void {
    this.siblings?.feed({ kind: "reset" });
    this.stream?.restart();
    this.siblings?.moved();
  }

  /** Edits are not taken by the server, or are sent again. */
  hold(error: EtherPlyError | undefined): void {
    this.held = error;
    this.siblings?.moved();
  }

  /** An error that nobody waits for. */
  report(error: EtherPlyError): void {
    this.siblings?.report(error);
    this.host.report(error, this.id);
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
    // The stream has seen all of this: only when content has it too is that where the document stands.
    this.isCatchingUp = true;
    for (const each of early) each(sink);
    this.isCatchingUp = false;
    sink.moved();
    this.siblings?.opened();
  }

  private get ownState(): SyncState {
    if (this.refusal !== undefined) return "refused";
    const { state } = this.host.status.value;
    if (state !== "live") return state;
    return this.grant === undefined || this.isRenewing || this.stream?.state !== "open" ? "connecting" : "live";
  }

  broadcast(topic: string, payload: Json): void {
    if (utf8(topic).length > BROADCAST_TOPIC_BYTES_MAX) {
      throw namedError("broadcast_too_large", `a topic may have ${BROADCAST_TOPIC_BYTES_MAX} bytes`);
    }
    const bytes = encodeJson(payload);
    if (bytes.length > this.host.session.limits.broadcastBytesMax) {
      throw namedError("broadcast_too_large", `the message has ${bytes.length} bytes`);
    }
    if (!(this.siblings ?? this).say(topic, bytes)) throw localError("not_connected", `${this.id} is not open at the moment`);
  }

  /** Sends a message on this tab's connection. Whether it is open. */
  say(topic: string, bytes: Uint8Array): boolean {
    const { stream } = this;
    if (stream?.isOpen !== true) return false;
    this.host.session.send("broadcastSend", stream.handle, { topic }, [bytes]);
    return true;
  }

  /** Shows this, or nothing any more, on this tab's connection. */
  show(state: Uint8Array | undefined): void {
    const { stream } = this;
    if (stream === undefined) return;
    stream.presence.set(state);
    if (state !== undefined) this.host.session.showPresence(stream);
    else if (stream.isOpen) this.host.session.send("presenceLeave", stream.handle, { version: 0n, members: [] });
  }

  private close(): void {
    this.isClosed = true;
    this.siblings?.closed();
    this.off();
    this.renewal.stop();
    this.presence.stop();
    this.presence.disconnected();
    if (this.stream !== undefined) this.host.session.close(this.stream);
    this.host.release(this);
  }

  opened(opened: Opened): void {
    this.grant = opened;
    this.refusal = undefined;
    this.error = undefined;
    this.renewal.granted(this.leftMs(opened.expiresAtMs));
    this.moved();
  }

  closed(error: EtherPlyError, retries: boolean): void {
    this.grant = undefined;
    this.renewal.stop();
    this.error = error;
    if (!retries) this.refusal = error;
    this.moved();
    if (!retries) this.report(error);
  }

  disconnected(): void {
    this.grant = undefined;
    this.renewal.stop();
    this.presence.disconnected();
    this.moved();
  }

  rightsChanged(rights: number, expiresAtMs: number, error: EtherPlyError | undefined): void {
    if (this.grant !== undefined) this.grant = { ...this.grant, rights, expiresAtMs };
    const ended = error === undefined ? undefined : ENDED[error.code];
    if (ended !== undefined && this.host.session.hasTokens) {
      // Not final: rights come back with the next token, on this connection, and edits wait for it.
      this.renewal.ended(ended);
      return this.moved();
    }
    this.refusal = undefined;
    this.error = error;
    this.renewal.granted(this.leftMs(expiresAtMs));
    this.moved();
    if (error !== undefined) this.report(error);
  }

  renewalRefused(error: EtherPlyError): void {
    this.renewal.refused(error);
    this.moved();
  }

  /** Whether the rights have ended and another token is on its way. */
  get isRenewing(): boolean {
    return this.renewal.isUnderWay;
  }

  /** There will be no other token. Rights that there still are hold until they end. */
  private renewalFailed(error: EtherPlyError): void {
    if (this.grant?.rights === 0) this.refusal = error;
    this.error = error;
    this.moved();
    this.report(error);
  }

  failed(error: EtherPlyError): void {
    this.error = error;
    this.moved();
    this.report(error);
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

  changes(changes: readonly Uint8Array[], afterSeq: bigint, seq: bigint): void {
    this.pass((sink) => sink.changes(changes, afterSeq, seq));
  }

  snapshot(bytes: Uint8Array, seq: bigint): void {
    this.pass((sink) => sink.snapshot(bytes, seq));
  }

  reconcile(clock: readonly ClockEntry[]): void {
    this.pass((sink) => sink.reconcile(clock));
  }

  acked(push: Push, positions: readonly bigint[]): void {
    this.pass((sink) => sink.acked(push, positions));
  }

  refused(refused: Refused): void {
    this.pass((sink) => sink.refused(refused));
  }

  private pass(call: (sink: ContentSink) => void): void {
    if (this.isDetached) return;
    if (this.sink === undefined) this.early.push(call);
    else call(this.sink);
  }

  /** Where it stands may have changed. */
  moved(): void {
    const { state, refusal, error } = this.standing;
    this.status.set({ state, error: refusal ?? error ?? this.host.status.value.error });
    this.sink?.moved();
    // Behind the content: a new document is begun before other tabs hear that all of it is there.
    this.siblings?.moved();
  }

  /** How long a grant holds, as far as the server's clock is known; `undefined` for ever. */
  private leftMs(expiresAtMs: number): number | undefined {
    const { session } = this.host;
    return expiresAtMs === 0 || !session.hasTokens ? undefined : expiresAtMs - session.clockAheadMs - Date.now();
  }
}

/** Presence and messages under one name, without content: never loads Automerge. */
export class Room {
  private isClosed = false;

  /** Made by {@link Client.room}. @internal */
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
