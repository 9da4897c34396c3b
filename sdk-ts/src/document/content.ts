/**
 * A document's content on this side: the Automerge copy, own edits on their way to the server, and how the copy
 * begins anew where the server says so.
 *
 * It knows the stream, and neither sockets nor who looks at the document.
 * @module
 */

import type { Doc } from "@automerge/automerge/slim";
import type { AutomergeModule } from "../automerge.js";
import { HERE, randomBytes } from "../environment.js";
import { localError, namedError } from "../errors.js";
import type { EtherPlyError } from "../errors.js";
import type { Kept } from "../store/keeper.js";
import type { Row, Stored } from "../store/store.js";
import type { Push } from "../protocol/outbox.js";
import type { Stream } from "../protocol/stream.js";
import { fromHex, toHex, utf8 } from "../wire/bytes.js";
import type { ClockEntry, Cursor } from "../wire/kinds.js";
import { CHANGE_MESSAGE_BYTES_MAX, GENESIS_ACTOR, SQUASH_ACTOR_PREFIX } from "../wire/limits.js";
import { genesis } from "./genesis.js";
import { headsAt, history, Positions, viewAt } from "./history.js";
import type { HistoryEntry } from "./history.js";
import { Receipts } from "./receipts.js";
import type { Receipt } from "./receipts.js";
import { transplant } from "./transplant.js";
import { reverse, UndoStacks } from "./undo.js";
import type { Origin } from "./undo.js";

export { Keeper } from "../store/keeper.js";
export { Scheduler } from "./scheduler.js";

/** Most operations that one change may have. */
export const CHANGE_OPS_MAX = 262_144;

/** A piece of the document that was received and is not applied yet. */
type Piece = { readonly snapshot: Uint8Array } | { readonly changes: readonly Uint8Array[] };

/** What the content tells whoever shows it. */
export interface ContentEvents {
  /** The copy is another one now. `edited`: by an edit that was made here. */
  changed(edited: boolean): void;
  /** The copy is not what it was and more, but something else. */
  began(): void;
  /** Edits were made here, which other tabs do not have. */
  made(changes: readonly Uint8Array[]): void;
  /** Whether this tab answers for an edit that this one made: by itself, or because nobody else does. */
  isOurs(tab: string | undefined): boolean;
  /** Whether another tab has the connection, and keeps the document. */
  isElsewhere(): boolean;
  /** Something that nobody waits for went wrong. */
  failed(error: EtherPlyError, changes?: readonly Uint8Array[]): void;
}

/** How an edit is made. */
export interface EditOptions {
  readonly message: string | undefined;
  /** Most bytes of its change. */
  readonly bytesMax: number;
  /** Whether it is one of the user's own, or takes one back, or makes one again. */
  readonly origin?: Origin;
  readonly nowMs: number;
}

/** An edit that was made. */
export interface Edit {
  readonly receipt: Receipt;
  readonly bytes: Uint8Array;
}

/** The copy of a document and what it owes the server. */
export class Content<T extends object> implements Kept {
  /** Own edits that are not on the server's disk. */
  readonly receipts: Receipts = new Receipts();
  /** Own edits that can be taken back. */
  readonly undo: UndoStacks = new UndoStacks();
  /** Where changes stand in the server's log. */
  positions: Positions = new Positions(0n);
  private copy: Doc<T>;
  /** The copy that takes this one's place once it is whole. */
  private next: Doc<T> | undefined;
  private pieces: Piece[] = [];
  /** Edits of other tabs that were made in the new copy already. */
  private early = new Set<string>();
  /** The actors that this side is or was, as hexadecimal text. */
  private readonly actors = new Set<string>();
  /** A genesis that the server has not answered yet: until then nobody knows whether what it sends fits to it. */
  private openGenesis: Uint8Array | undefined;
  private isBroken = false;

  constructor(
    private readonly A: AutomergeModule,
    private readonly stream: Stream,
    private readonly events: ContentEvents,
  ) {
    this.copy = this.blank();
  }

  /** The document as it is shown. */
  get doc(): Doc<T> {
    return this.copy;
  }

  /** Whether there is nothing in the copy, not even history. */
  get isEmpty(): boolean {
    return this.A.getHeads(this.copy).length === 0;
  }

  /** The hashes of the last changes. */
  get heads(): readonly string[] {
    return this.A.getHeads(this.copy);
  }

  /** Whether a new copy is on its way. */
  get beginsAnew(): boolean {
    return this.next !== undefined;
  }

  get isElsewhere(): boolean {
    return this.events.isElsewhere();
  }

  /** Goes on with what was kept: the copy, and edits that are not on the server yet. */
  restore(stored: Stored): void {
    const epoch = stored.cursor?.epoch;
    this.positions.covered(stored.cursor?.seq ?? 0n);
    // A row of epoch 0 was kept before the server was heard, and of another one it belongs to what was thrown away.
    const fits = (row: Row): boolean => row.mine || epoch === undefined || row.epoch === 0n || row.epoch === epoch;
    const rows = stored.rows.filter(fits);
    let doc = this.copy;
    if (stored.copy !== undefined) doc = this.A.loadIncremental(doc, stored.copy);
    [doc] = this.A.applyChanges(doc, rows.map((row) => row.change));
    this.copy = doc;
    const mine = new Map(rows.flatMap((row) => (row.mine ? [[row.hash, row.change] as const] : [])));
    const unsent: Uint8Array[] = [];
    for (const { hash, actor } of this.A.getChangesMetaSince(doc, [])) {
      const change = mine.get(hash);
      if (change === undefined) continue;
      // If other tabs are there, the one that made it says so; it is nobody's until then.
      this.receipts.add(hash, change, undefined);
      if (actor === GENESIS_ACTOR) this.openGenesis = change;
      else if (this.events.isOurs(undefined)) this.actors.add(actor);
      unsent.push(change);
    }
    if (unsent.length > 0) this.stream.push(unsent);
  }

  since(heads: readonly string[]): ReturnType<Kept["since"]> {
    const { isElsewhere } = this;
    const rows = this.pieced(this.copy, heads).flatMap(({ hash, change }) => {
      const receipt = this.receipts.get(hash);
      return isElsewhere && receipt?.tab !== HERE ? [] : [{ hash, change, mine: receipt !== undefined }];
    });
    return { rows, heads: this.heads };
  }

  cursor(): Cursor | undefined {
    return this.pieces.length === 0 && this.next === undefined ? this.stream.cursor : undefined;
  }

  join(copy: Uint8Array): void {
    if (this.next === undefined && this.openGenesis === undefined) this.show(this.A.loadIncremental(this.copy, copy), false);
  }

  /** Gathers changes of others. */
  receive(changes: readonly Uint8Array[], afterSeq: bigint, seq: bigint): void {
    this.pieces.push({ changes });
    this.positions.received(changes, afterSeq, seq);
  }

  /** Gathers the document as a whole. */
  receiveSnapshot(snapshot: Uint8Array, seq: bigint): void {
    this.pieces.push({ snapshot });
    this.positions.covered(seq);
  }

  /** Applies what was gathered. Whether there is nothing left that waits. */
  apply(): boolean {
    if (this.openGenesis !== undefined) return this.pieces.length === 0;
    if (this.pieces.length === 0) return true;
    const pieces = this.pieces;
    this.pieces = [];
    if (this.isBroken) return true;
    const before = this.next ?? this.copy;
    try {
      let doc = before;
      let gathered: Uint8Array[] = [];
      const join = (): void => {
        if (gathered.length > 0) [doc] = this.A.applyChanges(doc, gathered);
        gathered = [];
      };
      for (const piece of pieces) {
        if ("changes" in piece) gathered.push(...piece.changes);
        else {
          join();
          doc = this.A.loadIncremental(doc, piece.snapshot);
        }
      }
      join();
      if (this.next !== undefined) this.next = doc;
      else this.show(doc, false);
    } catch (cause) {
      // The server finds out as well, takes out what broke the document, and has everybody begin anew.
      this.isBroken = true;
      this.events.failed(localError("automerge_failed", "Automerge cannot apply what the server sent", cause));
    }
    return true;
  }

  /** The change that gives a new document its initial content. Throws `initial_invalid`. */
  genesis(initial: object): Uint8Array | undefined {
    return initial instanceof Uint8Array ? initial : genesis(this.A, initial);
  }

  /** Gives a new document its initial content, or its genesis change, and pushes it if `pushes`. */
  begin(initial: object, pushes: boolean): void {
    const change = this.genesis(initial);
    if (change === undefined) return;
    const [doc] = this.A.applyChanges(this.copy, [change]);
    if (pushes) {
      this.openGenesis = change;
      this.receipts.add(this.hashOf(change), change);
      this.push([change]);
    }
    this.show(doc, true);
  }

  /** Edits the document. `undefined` if nothing was changed. Throws what `edit` throws, with nothing changed. */
  edit(edit: (doc: T) => void, { message, bytesMax, origin = "edit", nowMs }: EditOptions): Edit | undefined {
    if (message !== undefined && utf8(message).length > CHANGE_MESSAGE_BYTES_MAX) {
      throw localError("bad_argument", `a change's message may have ${CHANGE_MESSAGE_BYTES_MAX} bytes`);
    }
    const before = this.A.getHeads(this.copy);
    const once = (doc: T): void => {
      const returned: unknown = (edit as (doc: T) => unknown)(doc);
      if (returned instanceof Promise) throw localError("bad_argument", "an edit cannot be asynchronous: await first");
    };
    const doc = this.A.change(this.copy, message === undefined ? {} : { message }, once);
    if (same(before, this.A.getHeads(doc))) {
      this.copy = doc;
      return undefined;
    }
    const made = this.made(doc, before);
    if (made === undefined) return undefined;
    if (made.bytes.length > bytesMax || made.ops > CHANGE_OPS_MAX) {
      this.without(doc, [made.hash]);
      throw namedError("change_too_large", `the edit makes a change of ${made.bytes.length} bytes and ${made.ops} operations`);
    }
    if (!this.stream.outbox.hasRoom(made.bytes.length)) {
      this.without(doc, [made.hash]);
      throw localError("outbox_full", "too many edits wait for the server");
    }
    const receipt = this.receipts.add(made.hash, made.bytes);
    this.undo.made({ before, after: [made.hash] }, origin, nowMs, message);
    // What is edited while a new copy is on its way is made again in that one.
    if (this.next === undefined) this.stream.push([made.bytes]);
    this.events.made([made.bytes]);
    this.show(doc, true);
    return { receipt, bytes: made.bytes };
  }

  /** Takes the last own edit back, or makes it again. `undefined` if there is nothing to be done. */
  reverse(origin: "undo" | "redo", options: Omit<EditOptions, "origin" | "message">): Edit | undefined {
    const steps = this.undo.take(origin);
    if (steps === undefined) return undefined;
    return this.edit(reverse(this.A, this.copy, steps), { ...options, origin, message: undefined });
  }

  /** A push is on the server's disk. Gives the hashes of its changes. */
  acked(push: Push, positions: readonly bigint[]): readonly string[] {
    const hashes = push.changes.map((change) => this.hashOf(change));
    this.positions.acked(hashes, positions, this.stream.cursor?.seq ?? 0n);
    if (this.openGenesis !== undefined && push.changes.includes(this.openGenesis)) this.openGenesis = undefined;
    for (const hash of hashes) this.receipts.saved(hash);
    return hashes;
  }

  /** Begins anew from what the server is about to send. */
  beginAnew(): void {
    if (this.next !== undefined) this.A.free(this.next);
    this.next = this.blank();
    this.positions = new Positions(0n);
    this.pieces = [];
    this.early.clear();
    this.openGenesis = undefined;
    this.isBroken = false;
  }

  /** The new copy is whole: makes own edits again that it lacks, and shows it. */
  arrive(initial: object | undefined, pushes: boolean): void {
    if (this.next === undefined) return;
    const [old, arrived] = [this.copy, this.next];
    this.next = undefined;
    const lost = this.lost(old, arrived);
    this.copy = arrived;
    // What the server sends is on its disk, whether or not its ack came before the document began anew.
    const { early } = this;
    this.early = new Set();
    for (const hash of this.receipts.hashes) {
      if (!early.has(hash) && this.A.hasHeads(arrived as Doc<unknown>, [hash])) this.receipts.saved(hash);
    }
    if (this.isEmpty && initial !== undefined) this.begin(initial, pushes);
    // Edits of other tabs are made again there.
    const again = new Set(lost.map(({ hash }) => hash));
    for (const hash of this.receipts.hashes) {
      const isBegin = this.openGenesis !== undefined && this.hashOf(this.openGenesis) === hash;
      if (!again.has(hash) && !early.has(hash) && !isBegin) this.receipts.forget(hash);
    }
    const made: Uint8Array[] = [];
    for (const { hash, message, time } of lost) {
      const change = this.rewrite(old, hash, message, time);
      if (change !== undefined) made.push(change);
    }
    if (made.length > 0) this.push(made);
    this.A.free(old);
    this.undo.clear();
    this.events.began();
    this.show(this.copy, made.length > 0);
  }

  /** Tells the server what this side has, and pushes what it lacks. */
  reconcile(clock: readonly ClockEntry[]): void {
    this.apply();
    const last = new Map<string, ClockEntry>();
    for (const { actor, seq, hash } of this.A.getChangesMetaSince(this.copy, [])) {
      const [actorBytes, hashBytes] = [fromHex(actor), fromHex(hash)];
      if (actorBytes !== undefined && hashBytes !== undefined) {
        last.set(actor, { actor: actorBytes, seq: BigInt(seq), hash: hashBytes });
      }
    }
    this.stream.reconcile([...last.values()], this.lacking(clock));
  }

  /** The server lacks what a push builds upon: pushes everything that it does not have. Whether there is anything. */
  supply(clock: readonly ClockEntry[]): boolean {
    this.apply();
    const lacking = this.lacking(clock);
    if (lacking.length > 0) this.stream.supply(lacking);
    return lacking.length > 0;
  }

  /** Takes these changes, and what is built upon them, out of the copy. Nobody else has them. */
  discard(hashes: readonly string[], error: EtherPlyError): void {
    for (const hash of hashes) this.receipts.lost(hash, error);
    this.without(this.copy, hashes);
    this.events.changed(false);
  }

  /** Its changes, and where they stand. */
  history(): readonly HistoryEntry[] {
    return history(this.A.getChangesMetaSince(this.copy, []), {
      positions: this.positions,
      isMine: (actor) => this.actors.has(actor),
      isSaved: (hash) => !this.receipts.has(hash),
    });
  }

  /** The document as it was. Throws `position_unknown`, `bad_argument`. */
  at(place: bigint | readonly string[]): Doc<T> {
    const heads = typeof place === "bigint" ? headsAt(this.history(), this.positions.from, place) : place;
    return viewAt(this.A, this.copy, heads);
  }

  /** The document as Automerge saves it. */
  save(): Uint8Array {
    return this.A.save(this.copy);
  }

  private blank(): Doc<T> {
    const actor = toHex(randomBytes(16));
    this.actors.add(actor);
    return this.A.init<T>({ actor });
  }

  private push(changes: readonly Uint8Array[]): void {
    this.stream.push(changes);
    this.events.made(changes);
  }

  private show(doc: Doc<T>, edited: boolean): void {
    this.copy = doc;
    this.events.changed(edited);
  }

  /** The hash of a change. */
  hashOf(change: Uint8Array): string {
    return this.receipts.hashOf(change) ?? this.A.decodeChange(change).hash;
  }

  /** The change that was just made. */
  private made(doc: Doc<T>, before: readonly string[]): { hash: string; bytes: Uint8Array; ops: number } | undefined {
    const [hash] = this.A.getHeads(doc);
    const bytes = this.A.getLastLocalChange(doc);
    const meta = this.A.getChangesMetaSince(doc, [...before]).at(-1);
    if (hash === undefined || bytes === undefined || meta === undefined) return undefined;
    return { hash, bytes, ops: meta.maxOp - meta.startOp + 1 };
  }

  /** Builds the copy again without some of its changes and all that depend on them, as a fresh actor. */
  private without(doc: Doc<T>, hashes: readonly string[]): void {
    const gone = new Set(hashes);
    const kept: Uint8Array[] = [];
    for (const { hash, deps, change } of this.pieced(doc)) {
      if (gone.has(hash) || deps.some((dep) => gone.has(dep))) gone.add(hash);
      else kept.push(change);
    }
    const [rebuilt] = this.A.applyChanges(this.blank(), kept);
    this.A.free(doc);
    this.copy = rebuilt;
    this.undo.clear();
    this.events.began();
  }

  /** The changes that a side with this clock lacks, in causal order. */
  private lacking(clock: readonly ClockEntry[]): Uint8Array[] {
    const has = new Map(clock.map(({ actor, seq }) => [toHex(actor), seq]));
    return this.pieced(this.copy).flatMap(({ actor, seq, change }) => (BigInt(seq) > (has.get(actor) ?? 0n) ? [change] : []));
  }

  /** A copy's changes since these heads, and what they are. */
  private pieced(doc: Doc<T>, heads: readonly string[] = []) {
    const changes = this.A.getChangesSince(doc, [...heads]);
    return this.A.getChangesMetaSince(doc, [...heads]).flatMap((about, index) => {
      const change = changes[index];
      return change === undefined ? [] : [{ ...about, change }];
    });
  }

  /** Own changes of the old copy that the new one lacks, in the order in which they were made. */
  private lost(old: Doc<T>, arrived: Doc<T>): { hash: string; message: string | null; time: number }[] {
    const now = this.A.getChangesMetaSince(arrived, []);
    const has = new Set(now.map(({ hash }) => hash));
    const all = this.A.getChangesMetaSince(old, []);
    // What was saved is in a squashed document, in other changes: only what was not is lost. In one that merely began
    // otherwise it is not.
    const isSquash = now.some(({ actor }) => actor.startsWith(SQUASH_ACTOR_PREFIX)) && !all.some(({ hash }) => has.has(hash));
    return all.filter(({ hash, actor }) => {
      if (has.has(hash)) return false;
      const receipt = this.receipts.get(hash);
      if (receipt !== undefined) return actor !== GENESIS_ACTOR && this.events.isOurs(receipt.tab);
      return this.actors.has(actor) && !isSquash;
    });
  }

  /** Makes an own change of the old copy again in the new one. */
  private rewrite(old: Doc<T>, hash: string, message: string | null, time: number): Uint8Array | undefined {
    const A = this.A;
    const original = A.inspectChange(old, hash);
    const before = A.getHeads(this.copy);
    let failed: string[] = [];
    try {
      const [from, to] = [original?.deps ?? [], [hash]];
      const patches = A.diff(old as Doc<unknown>, from, to);
      const [earlier, after] = [A.view(old, from), A.view(old, to)];
      this.copy = A.change(this.copy, { time, ...(message === null ? {} : { message }) }, (target) => {
        failed = transplant(A, patches, { before: earlier, after, target, keepsOthers: false });
      });
    } catch (cause) {
      failed.push(cause instanceof Error ? cause.message : String(cause));
    }
    const made = same(before, A.getHeads(this.copy)) ? undefined : this.made(this.copy, before);
    if (failed.length > 0 || made === undefined) {
      const error = localError("edit_lost", failed[0] ?? "nothing of the edit is left to be done");
      const original = this.pieced(old).filter((each) => each.hash === hash);
      if (failed.length > 0) this.events.failed(error, original.map(({ change }) => change));
      if (made === undefined) this.receipts.lost(hash, error);
    }
    if (made === undefined) return undefined;
    this.receipts.rewritten(hash, made.hash, made.bytes);
    return made.bytes;
  }
}

function same(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((hash) => other.includes(hash));
}
