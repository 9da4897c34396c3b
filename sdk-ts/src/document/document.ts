/**
 * A shared document as applications use it.
 *
 * What it holds is `content.ts`'s, what it hears of the server `room.ts`'s; here is when there is something to show,
 * who is told of changes, and what becomes of edits that the server does not take.
 * @module
 */

import type { Doc } from "@automerge/automerge/slim";
import type { AutomergeModule } from "../automerge.js";
import { localError, namedError, wireError } from "../errors.js";
import type { EtherPlyError } from "../errors.js";
import type { Json, Message, Presence } from "../presence.js";
import type { Refused } from "../protocol/events.js";
import { has, PRESENCE, READ, WRITE } from "../rights.js";
import type { Channel, ContentSink } from "../room.js";
import { guarded, Listeners, Signal } from "../signal.js";
import type { Unsubscribe } from "../signal.js";
import type { DocumentStatus, SyncState } from "../status.js";
import { concat } from "../wire/bytes.js";
import type { Content, Edit } from "./content.js";
import type { HistoryEntry } from "./history.js";
import type { Receipt } from "./receipts.js";
import type { UndoState } from "./undo.js";
import type { Scheduler } from "./scheduler.js";
import type { Keeper } from "../store/keeper.js";
import type { DocumentStore, Stored } from "../store/store.js";

/** How often a document may begin anew for one reason, without an edit being saved in between. */
export const REBUILDS_MAX = 4;
/** Codes of pushes that another token, or more rights, would let through. */
const FOR_RIGHTS: ReadonlySet<string> = new Set(["read_only", "token_expired", "token_revoked"]);

/** How a document is opened. */
export interface DocumentOptions<T extends object> {
  /**
   * What the document holds if it is new: plain data. Everybody gives the same, whoever comes first; so two who begin
   * a document at once begin the same one. At most 64 KiB as a change.
   */
  readonly initial?: T;
  /** `"read"` to read only. Without it, whatever the server allows. */
  readonly access?: "read";
}

/** How an edit is made. */
export interface ChangeOptions {
  /** What history says about it, at most 4 KiB. */
  readonly message?: string;
}

/** An edit that was made here. */
export interface Change {
  /** The change's hash, which names it in history; `undefined` if nothing was changed. */
  readonly hash: string | undefined;
  /**
   * Settles when the edit is on the server's disk, also if that takes until tomorrow.
   *
   * Rejects with `aborted` by the signal, with the server's code if it does not take the edit, and with `closed` or
   * `edit_lost`. Only the last one means that the edit is not kept.
   */
  durable(options?: { readonly signal?: AbortSignal }): Promise<void>;
}

/** Edits that the server does not take, and why. They are kept, and nothing behind them is sent. */
export interface RefusedEdits {
  /** Why, and what to do. */
  readonly error: EtherPlyError;
  /** The changes, in the order in which they were made. */
  readonly changes: readonly Uint8Array[];
}

/** What the content of a document takes, and what keeps it: loaded when the first document is asked for. */
export interface Parts {
  readonly A: AutomergeModule;
  readonly Content: typeof Content;
  readonly Keeper: typeof Keeper;
  readonly Scheduler: typeof Scheduler;
}

interface Subscription<T> {
  check(doc: Doc<T>): void;
}

/** A shared document. */
export class Document<T extends object> {
  private content: Content<T> | undefined;
  private readonly statuses: Signal<DocumentStatus>;
  private readonly undoStates = new Signal<UndoState>({ canUndo: false, canRedo: false });
  private readonly subscriptions = new Set<Subscription<T>>();
  private readonly arrivals = new Listeners<[EtherPlyError | undefined]>();
  private scheduler: Scheduler | undefined;
  private keeper: Keeper | undefined;
  private readonly unwatch: Unsubscribe;
  private isReady = false;
  private isClosed = false;
  /** What a new document holds, by another tab. */
  private offered: Uint8Array | undefined;
  private failure: EtherPlyError | undefined;
  private rebuilds = 0;

  /** Made by {@link Client.document}. @internal */
  constructor(
    private readonly channel: Channel,
    private options: DocumentOptions<T>,
    load: () => Promise<Parts>,
    private readonly store: DocumentStore | undefined,
    private readonly released: (kept: Promise<void>) => void,
  ) {
    channel.join();
    this.statuses = new Signal(this.derive());
    // Content hears of it first, once there is some.
    this.unwatch = channel.status.subscribe(() => this.update());
    // What is kept says where to resume, and has to be there before the server is asked.
    if (store === undefined) channel.open(this.rights);
    Promise.all([load(), this.stored()]).then(
      ([parts, stored]) => this.loaded(parts, stored),
      (error: EtherPlyError) => this.fail(error),
    );
  }

  /** The name. */
  get id(): string {
    return this.channel.id;
  }

  /** The document as it is now, `undefined` until it is {@link Document.ready}. What did not change stays the same object. */
  get current(): Doc<T> | undefined {
    return this.isReady ? this.content?.doc : undefined;
  }

  /** Where the document stands: another object whenever something of it is different. */
  get status(): DocumentStatus {
    return this.statuses.value;
  }

  /** Who is here and what they show. */
  get presence(): Presence {
    return this.channel.presence;
  }

  /** Edits that the server does not take, if there are any. */
  get refused(): RefusedEdits | undefined {
    const { stream, standing } = this.channel;
    if (standing.held === undefined || stream === undefined) return undefined;
    return { error: standing.held, changes: stream.outbox.unacked.flatMap((push) => push.changes) };
  }

  /**
   * Resolves with the document once there is a copy to read and to edit: what the server has; or, while it cannot be
   * reached, what `initial` says. Rejects if the server refuses the document.
   */
  ready(): Promise<Doc<T>> {
    const { current } = this;
    if (current !== undefined && !this.isClosed) return Promise.resolve(current);
    const error = this.obstacle();
    if (error !== undefined) return Promise.reject(error);
    return new Promise((resolve, reject) => {
      const off = this.arrivals.add((why) => {
        off();
        if (this.current !== undefined) resolve(this.current);
        else reject(why ?? localError("closed", `${this.id} was closed`));
      });
    });
  }

  /**
   * Edits the document, here at once and for everybody a moment later: `edit` gets the document to change in place.
   * If it throws, nothing is changed.
   *
   * Throws `not_ready`, `read_only`, `outbox_full`, `change_too_large`, `closed`.
   */
  change(edit: (doc: T) => void, options: ChangeOptions = {}): Change {
    return this.made(this.editable().edit(edit, { ...this.editOptions(), message: options.message }));
  }

  /**
   * Takes this side's last edit back, and nobody else's: as a new edit, `undefined` if there is none. Values that
   * others overwrote since stay. Edits within half a second of each other are taken back together.
   *
   * Throws as {@link Document.change} does.
   */
  undo(): Change | undefined {
    return this.reversed("undo");
  }

  /** Makes again what {@link Document.undo} took back; `undefined` if there is nothing. */
  redo(): Change | undefined {
    return this.reversed("redo");
  }

  /** Whether there is something to take back, or to make again: another object when that changes. */
  get undoState(): UndoState {
    return this.undoStates.value;
  }

  /** Watches {@link Document.undoState}. */
  onUndoState(listener: (state: UndoState) => void): Unsubscribe {
    return this.undoStates.subscribe(listener);
  }

  private reversed(origin: "undo" | "redo"): Change | undefined {
    const content = this.editable();
    if (!content.undo.state[origin === "undo" ? "canUndo" : "canRedo"]) return undefined;
    return this.made(content.reverse(origin, this.editOptions()));
  }

  private editOptions(): { bytesMax: number; nowMs: number } {
    const { session, environment } = this.channel.host;
    return { bytesMax: session.limits.changeBytesMax, nowMs: environment.now() };
  }

  private made(edit: Edit | undefined): Change {
    this.update();
    const receipt: Receipt | undefined = edit?.receipt;
    return {
      hash: receipt?.hash,
      durable: async ({ signal } = {}) => receipt?.durable(signal),
    };
  }

  /**
   * Calls `listener` with what `selector` picks, whenever that is another value: not for the one that is there
   * already. By default values are compared as objects: what did not change stays the same one.
   */
  subscribe<S>(
    selector: (doc: Doc<T>) => S,
    listener: (selected: S, before: S | undefined) => void,
    isEqual: (one: S, other: S) => boolean = Object.is,
  ): Unsubscribe {
    let last: { value: S } | undefined = this.current === undefined ? undefined : { value: selector(this.current) };
    const subscription: Subscription<T> = {
      check: (doc) => {
        guarded(() => {
          const value = selector(doc);
          if (last !== undefined && isEqual(last.value, value)) return;
          const before = last?.value;
          last = { value };
          listener(value, before);
        });
      },
    };
    this.subscriptions.add(subscription);
    return () => void this.subscriptions.delete(subscription);
  }

  /** Watches where the document stands. */
  onStatus(listener: (status: DocumentStatus) => void): Unsubscribe {
    return this.statuses.subscribe(listener);
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

  /**
   * Who changed the document when, each change behind those that it was made upon; edits that are not on the server
   * yet included. Computed from the copy here, in proportion to its length.
   *
   * It goes back to where the document began, or began anew: a squash leaves a few changes that hold the content, and
   * the server's own history has what was before. Authors are Automerge's actors: who pushed a change, the server
   * knows. Positions are known of what came since the document was opened, and not of what a snapshot or the store
   * brought. Throws `not_ready`.
   */
  history(): readonly HistoryEntry[] {
    return this.readable().history();
  }

  /**
   * The document as it was: at a position of the server's log, or at these heads, which are hashes of changes.
   * Nothing can be changed in it. Throws `position_unknown`, `bad_argument`, `not_ready`.
   */
  at(place: bigint | number | readonly string[]): Doc<T> {
    if (typeof place === "number" && !(Number.isSafeInteger(place) && place >= 0)) {
      throw localError("bad_argument", `${place} is no position`);
    }
    return this.readable().at(typeof place === "number" ? BigInt(place) : place);
  }

  /** The whole document, history included, in Automerge's own format. Throws `not_ready`. */
  save(): Uint8Array {
    return this.readable().save();
  }

  /** Edits that the server does not take, as changes that Automerge loads on top of the document without them. */
  exportRefused(): Uint8Array | undefined {
    const refused = this.refused;
    return refused === undefined ? undefined : concat(refused.changes);
  }

  /** Sends edits again that the server did not take. */
  retryRefused(): void {
    if (this.channel.standing.held === undefined) return;
    if (this.channel.siblings?.retry() !== true) this.resend();
  }

  private resend(): void {
    this.channel.hold(undefined);
    this.channel.stream?.supply([]);
    this.update();
  }

  /** Takes edits back that the server does not take, and all that were made upon them. Returns them as changes. */
  discardRefused(): readonly Uint8Array[] {
    const { channel, content } = this;
    const { held } = channel.standing;
    if (held === undefined || content === undefined || channel.stream === undefined) return [];
    if (channel.siblings?.drop() === true) return this.refused?.changes ?? [];
    const given = channel.stream.outbox.giveBack().flatMap((push) => push.changes);
    const hashes = given.map((change) => content.hashOf(change));
    channel.hold(undefined);
    this.discard(hashes, held);
    channel.siblings?.discarded(hashes);
    return given;
  }

  private discard(hashes: readonly string[], error: EtherPlyError): void {
    this.content?.discard(hashes, error);
    this.update();
  }

  /**
   * Leaves the document. Edits that are not saved on the server stay in the client's store, if it has one: resolves
   * when they are there.
   */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.scheduler?.flush();
    this.scheduler?.stop();
    this.isClosed = true;
    const kept = this.keeper?.close() ?? Promise.resolve();
    this.unwatch();
    this.channel.detach();
    this.released(kept);
    this.channel.leave();
    this.arrivals.tell(undefined);
    this.content?.receipts.refuse(localError("closed", `${this.id} was closed`));
    this.subscriptions.clear();
    this.update();
    await kept;
  }

  private get rights(): number {
    return READ | PRESENCE | (this.options.access === "read" ? 0 : WRITE);
  }

  /** What was kept. A store that fails costs what it kept, and not the document. */
  private async stored(): Promise<Stored | undefined> {
    try {
      return await this.store?.read();
    } catch (error) {
      this.channel.host.report(error as EtherPlyError, this.id);
      return undefined;
    }
  }

  private loaded({ A, Content, Keeper, Scheduler }: Parts, stored: Stored | undefined): void {
    if (this.isClosed) return;
    const { environment } = this.channel.host;
    const content = new Content<T>(A, this.channel.open(this.rights, stored?.cursor), {
      changed: (edited) => {
        this.keeper?.changed(edited);
        this.changed();
      },
      began: () => this.keeper?.began(),
      made: (changes) => this.channel.siblings?.edited(changes),
      isOurs: (tab) => this.channel.siblings?.isOurs(tab) ?? true,
      isElsewhere: () => this.channel.isElsewhere,
      failed: (error) => {
        this.failure = error;
        this.channel.host.report(error, this.id);
      },
    });
    const scheduler = new Scheduler(environment, () => this.settle());
    this.content = content;
    this.scheduler = scheduler;
    if (this.store !== undefined) {
      const told = (error: EtherPlyError | undefined): void => {
        if (error !== undefined) this.channel.host.report(error, this.id);
        this.update();
      };
      this.keeper = new Keeper(this.store, content, environment, told);
    }
    if (stored !== undefined) {
      content.restore(stored);
      this.keeper?.begin(stored, content.heads);
      if (!content.isEmpty) this.becomeReady();
    }
    this.unwatch();
    this.channel.attach(this.sink(content, scheduler));
  }

  /** What the stream brings. */
  private sink(content: Content<T>, scheduler: Scheduler): ContentSink {
    return {
      moved: () => this.moved(),
      changes: (changes, afterSeq, seq) => (content.receive(changes, afterSeq, seq), scheduler.request()),
      snapshot: (bytes, seq) => (content.receiveSnapshot(bytes, seq), scheduler.request()),
      reset: () => content.beginAnew(),
      reconcile: (clock) => (content.reconcile(clock), this.settle()),
      acked: (push, positions) => {
        this.rebuilds = 0;
        for (const hash of content.acked(push, positions)) this.keeper?.saved(hash);
        this.settle();
      },
      refused: (refused) => this.onRefused(content, refused),
      document: this as unknown as Document<never>,
    };
  }

  private onRefused(content: Content<T>, { error, blocks, clock }: Refused): void {
    if (!blocks) return;
    switch (error.code) {
      case "missing_dependencies":
      case "sequence_gap":
        if (!content.supply(clock)) this.hold(content, error);
        return;
      case "genesis_conflict":
      case "actor_forked":
      case "actor_not_yours":
      case "actor_excluded":
        this.rebuilds += 1;
        if (this.rebuilds > REBUILDS_MAX) return this.hold(content, error);
        content.beginAnew();
        this.channel.restart();
        return this.update();
      case "token_expired":
      case "token_revoked":
        // The outbox keeps it, and sends it once the next token brings the right to write.
        if (this.channel.isRenewing) return this.update();
        return this.hold(content, error);
      default:
        this.hold(content, error);
    }
  }

  /** Keeps edits that the server does not take. */
  private hold(content: Content<T>, error: EtherPlyError): void {
    this.channel.hold(error);
    content.receipts.refuse(error);
    this.update();
    this.channel.report(error);
  }

  /** The stream is open, or is not any more, or may do something else. */
  private moved(): void {
    const { grant, refusal, stream } = this.channel;
    const { held } = this.channel.standing;
    if (held !== undefined && this.channel.isElsewhere) this.content?.receipts.refuse(held);
    const isForRights = stream?.outbox.blocked !== undefined && FOR_RIGHTS.has(wireError(stream.outbox.blocked, "").code);
    if (isForRights && grant !== undefined && has(grant.rights, WRITE)) this.resend();
    // There will be no other token: what waits for one is told so.
    else if (isForRights && refusal !== undefined && held === undefined && this.content !== undefined) {
      this.hold(this.content, refusal);
    }
    this.settle();
  }

  /** Applies what was received, and goes on where that was waited for. */
  private settle(): void {
    const { content, channel } = this;
    if (content === undefined || this.isClosed || channel.isCatchingUp) return;
    const { rights, refusal, isWhole: isUpToDate } = channel.standing;
    const { state } = channel.host.status.value;
    const isAlone = (state === "offline" || state === "refused") && refusal === undefined;
    // What is not shown yet is applied in one go, when all of it is here: in pieces, it takes many times as long.
    const isApplied = ((this.isReady && !content.beginsAnew) || isUpToDate || isAlone) && content.apply();
    const isWhole = isApplied && isUpToDate;
    const pushes = this.options.access !== "read" && (rights === undefined || has(rights, WRITE));
    // The tab with the connection gives a new document its initial content.
    const initial = channel.isElsewhere ? undefined : (this.options.initial ?? (this.offered as T | undefined));
    if (isWhole && content.beginsAnew) content.arrive(initial, pushes);
    if (!this.isReady && !content.beginsAnew) {
      // Who cannot ask the server begins by himself what everybody would begin.
      if (content.isEmpty && initial !== undefined && (isWhole || isAlone)) this.tryBegin(content, initial, pushes);
      if (isWhole || (isAlone && !content.isEmpty)) this.becomeReady();
    }
    const obstacle = this.obstacle();
    if (!this.isReady && obstacle !== undefined) this.arrivals.tell(obstacle);
    this.update();
    channel.siblings?.settled();
  }

  private tryBegin(content: Content<T>, initial: T, pushes: boolean): void {
    try {
      content.begin(initial, pushes);
    } catch (error) {
      this.fail(error as EtherPlyError);
    }
  }

  private becomeReady(): void {
    if (this.failure !== undefined && this.content?.isEmpty === true) return;
    this.isReady = true;
    this.update();
    this.arrivals.tell(undefined);
    this.changed();
  }

  /** Whether everything was received that the server had when it opened the stream. */
  private isUpToDate(): boolean {
    return this.channel.standing.isWhole;
  }

  private changed(): void {
    const { current } = this;
    if (current === undefined) return;
    for (const subscription of [...this.subscriptions]) subscription.check(current);
    this.update();
  }

  private fail(error: EtherPlyError): void {
    this.failure = error;
    this.channel.host.report(error, this.id);
    this.arrivals.tell(error);
    this.update();
  }

  /** Why there will be no copy. */
  private obstacle(): EtherPlyError | undefined {
    if (this.isClosed) return localError("closed", `${this.id} was closed`);
    if (this.failure !== undefined) return this.failure;
    const { state, error } = this.channel.host.status.value;
    return this.channel.standing.refusal ?? (state === "refused" && this.options.initial === undefined ? error : undefined);
  }

  private readable(): Content<T> {
    if (this.isClosed) throw localError("closed", `${this.id} was closed`);
    if (!this.isReady || this.content === undefined) throw localError("not_ready", `${this.id} is not there yet`);
    return this.content;
  }

  private editable(): Content<T> {
    const content = this.readable();
    if (this.options.access === "read" || this.statuses.value.writable === false) {
      throw namedError("read_only", `${this.id} is open for reading only`);
    }
    return content;
  }

  private update(): void {
    if (this.content !== undefined) this.undoStates.set(this.content.undo.state);
    this.statuses.set(this.derive());
  }

  private derive(): DocumentStatus {
    const { channel, content } = this;
    const pending = content?.receipts.size ?? 0;
    const { rights, isRenewing, held, state: link } = channel.standing;
    const isLive = link === "live" && this.isUpToDate() && content?.beginsAnew === false;
    const state: SyncState = link === "live" ? (isLive ? "live" : "connecting") : link;
    return {
      state,
      error: held ?? this.failure ?? (state === "live" ? undefined : channel.status.value.error),
      ready: this.isReady,
      savedLocally: this.keeper?.isKept ?? false,
      savedOnServer: pending === 0,
      pending,
      // The last word of the server counts while there is no connection, or a token is renewed.
      writable: rights === undefined || isRenewing ? (this.statuses as Signal<DocumentStatus> | undefined)?.value.writable : has(rights, WRITE),
    };
  }
}
