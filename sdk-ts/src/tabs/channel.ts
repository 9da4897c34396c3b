/**
 * One channel of a tab, and what goes on about it between the tabs: questions and answers about the content, what the
 * tab with the connection hears of the server, edits, presence and messages.
 * @module
 */

import { localError } from "../errors.js";
import type { EtherPlyError } from "../errors.js";
import { HERE } from "../environment.js";
import { parseJson } from "../presence.js";
import type { Presence } from "../presence.js";
import type { StreamEvents } from "../protocol/events.js";
import type { Channel, Siblings, Standing } from "../room.js";
import { isSame } from "../signal.js";
import { fromHex, utf8 } from "../wire/bytes.js";
import type { PresenceEntry } from "../wire/kinds.js";
import { abandon, adopt, genesisOf, isKin, knows, lackedBy, receiveCopy, saved, unqueue, unsaved } from "./content.js";
import type { AnyContent } from "./content.js";
import { errorData, errorOf, standingData, standingOf } from "./messages.js";
import type { Ask, DocMessage, FeedEvent, TabEdit, Tell } from "./messages.js";
import type { Sharing } from "./sharing.js";

const UNKNOWN: Standing = {
  state: "connecting",
  error: undefined,
  refusal: undefined,
  held: undefined,
  rights: undefined,
  isRenewing: false,
  isWhole: false,
};

/** Where a channel stands with the leader: nothing was asked; a question is open; every event is heard. */
type Following =
  | { readonly kind: "apart" }
  | { readonly kind: "asking"; readonly ask: number }
  | { readonly kind: "following"; readonly n: number; readonly isShort: boolean };

/** A channel that other tabs have, or may have. */
export class SharedChannel implements Siblings {
  private following: Following = { kind: "apart" };
  /** What the leader said last. */
  private mirrored = UNKNOWN;
  private asked = 0;
  /** As the leader: the number of the last event, where the document stood then, who listens, who waits for an answer. */
  private n = 0;
  private told = UNKNOWN;
  private readonly guests = new Set<string>();
  private waiting: (readonly [Ask, string])[] = [];
  /** What each tab shows, the one that set it last at the end; this one's is `HERE`. */
  private readonly shown = new Map<string, Uint8Array>();
  private readonly relay: StreamEvents;

  constructor(
    private readonly channel: Channel,
    private readonly sharing: Sharing,
  ) {
    const { self } = channel.presence;
    if (self !== undefined) this.shown.set(HERE, utf8(JSON.stringify(self)));
    this.relay = relay(channel, this);
    this.listen();
  }

  get standing(): Standing | undefined {
    return this.isElsewhere ? this.mirrored : undefined;
  }

  get isElsewhere(): boolean {
    const { kind } = this.sharing.group.role;
    return kind === "following" || kind === "joining";
  }

  isOurs(tab: string | undefined): boolean {
    if (tab === HERE) return true;
    const { group } = this.sharing;
    if (group.role.kind === "away") return tab === undefined;
    return group.role.kind === "leading" && (tab === undefined || !group.isThere(tab));
  }

  /** This tab has another role. */
  begin(): void {
    this.following = { kind: "apart" };
    this.mirrored = UNKNOWN;
    this.told = UNKNOWN;
    this.waiting = [];
    this.guests.clear();
    for (const tab of [...this.shown.keys()]) if (tab !== HERE) this.shows(tab, undefined);
    this.ask();
    this.channel.moved();
  }

  opened(): void {
    this.listen();
    this.ask();
    this.settled();
  }

  moved(): void {
    if (!this.isLeading) return;
    const now = this.channel.own;
    if (isSame(now, this.told)) return;
    this.told = now;
    this.feed({ kind: "standing", standing: standingData(now) });
  }

  settled(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const [ask, from] of waiting) this.answer(ask, from);
  }

  feed(event: FeedEvent): void {
    const { group } = this.sharing;
    if (group.role.kind !== "leading") return;
    this.n += 1;
    const cursor = this.channel.stream?.cursor;
    group.post({ kind: "feed", doc: this.channel.id, term: group.role.term, n: this.n, cursor, event });
  }

  edited(changes: readonly Uint8Array[]): void {
    const { content } = this;
    const { group } = this.sharing;
    const edits = changes.map((change) => ({ hash: content?.hashOf(change) ?? "", change, tab: group.tab }));
    group.post({ kind: "edit", doc: this.channel.id, edits });
  }

  report(error: EtherPlyError): void {
    const data = errorData(error);
    if (data !== undefined) this.feed({ kind: "error", error: data });
  }

  show(state: Uint8Array | undefined): void {
    this.shows(HERE, state);
    this.sharing.group.post({ kind: "show", doc: this.channel.id, state });
  }

  say(topic: string, payload: Uint8Array): boolean {
    const isSent = this.isElsewhere ? this.mirrored.state === "live" : this.channel.say(topic, payload);
    if (isSent) this.sharing.group.post({ kind: "say", doc: this.channel.id, topic, payload });
    return isSent;
  }

  retry(): boolean {
    if (this.isElsewhere) this.sharing.group.post({ kind: "retry", doc: this.channel.id });
    return this.isElsewhere;
  }

  drop(): boolean {
    if (this.isElsewhere) this.sharing.group.post({ kind: "drop", doc: this.channel.id });
    return this.isElsewhere;
  }

  discarded(hashes: readonly string[]): void {
    this.sharing.group.post({ kind: "discard", doc: this.channel.id, hashes });
  }

  closed(): void {
    const { group } = this.sharing;
    this.sharing.remove(this.channel.id);
    group.post({ kind: "leave", doc: this.channel.id });
  }

  /** A tab is not there any more, or does not use the document. */
  gone(tab: string): void {
    this.shows(tab, undefined);
    if (this.guests.delete(tab) && this.guests.size === 0) this.sharing.unhost(this.channel.id);
  }

  /** The server acknowledged these changes of this tab's outbox. */
  acknowledged(changes: readonly Uint8Array[], positions: readonly bigint[]): void {
    const { content } = this;
    // Without content nobody was answered, and whoever asks hears then what is saved.
    if (content !== undefined) this.feed({ kind: "saved", hashes: changes.map((change) => content.hashOf(change)), positions });
  }

  private get content(): AnyContent | undefined {
    return this.channel.document?.["content"];
  }

  /** What the server says is passed on. */
  private listen(): void {
    if (this.channel.stream !== undefined) this.channel.stream.events = this.relay;
  }

  private settle(): void {
    this.channel.document?.["settle"]();
  }

  /** A tab shows this from now on, or nothing. */
  private shows(tab: string, state: Uint8Array | undefined): void {
    const { channel, shown } = this;
    const before = [...shown.values()].at(-1);
    shown.delete(tab);
    if (state !== undefined) shown.set(tab, state);
    if (tab !== HERE) sees(channel.presence, tab, state);
    const now = [...shown.values()].at(-1);
    if (now !== before) channel.show(now);
  }

  heard(message: DocMessage, from: string): void {
    const { channel, content } = this;
    switch (message.kind) {
      case "ask":
        this.shows(from, message.shown);
        if (!this.isLeading) return;
        this.guests.add(from);
        return this.answer(message, from);
      case "tell":
        return this.tell(message);
      case "feed":
        return this.fed(message.term, message.n, message.event, message.cursor);
      case "edit":
        if (content === undefined || this.adopt(content, this.ofHere(message.edits, from), false)) return;
        // What they are made upon has not come yet, or not to this tab.
        if (this.isLeading) this.sharing.group.post({ kind: "again", doc: channel.id });
        else this.ask();
        return;
      case "show":
        return this.shows(from, message.state);
      case "say": {
        const member = fromHex(from);
        if (this.isLeading) channel.say(message.topic, message.payload);
        if (member !== undefined) channel.messages.receive(member, message.topic, message.payload);
        return;
      }
      case "leave":
        return this.gone(from);
      case "again":
        return this.ask();
      case "retry":
        return this.isLeading ? channel.document?.retryRefused() : undefined;
      case "drop":
        if (this.isLeading) channel.document?.discardRefused();
        return;
      case "discard":
        return this.isLeading ? undefined : this.discard(message.hashes);
    }
  }

  /** Edits were taken back in another tab. */
  private discard(hashes: readonly string[]): void {
    if (this.content === undefined) return;
    unqueue(this.content, hashes);
    this.channel.document?.["discard"](hashes, localError("edit_lost", "the edit was taken back in another tab"));
  }

  private get isLeading(): boolean {
    return this.sharing.group.role.kind === "leading";
  }

  /** Edits by the names that other tabs know. */
  private named(edits: readonly TabEdit[]): readonly TabEdit[] {
    return edits.map((edit) => (edit.tab === HERE ? { ...edit, tab: this.sharing.group.tab } : edit));
  }

  private ofHere(edits: readonly TabEdit[], from: string): readonly TabEdit[] {
    return edits.map((edit) => ({ ...edit, tab: edit.tab === this.sharing.group.tab ? HERE : (edit.tab ?? from) }));
  }

  private ask(): void {
    const { group } = this.sharing;
    if (group.role.kind !== "following") return;
    const { channel, content } = this;
    const { document } = channel;
    this.asked += 1;
    this.following = { kind: "asking", ask: this.asked };
    const has = content && document && {
      heads: content.heads,
      epoch: channel.stream?.cursor?.epoch,
      edits: this.named(unsaved(content)),
      genesis: genesisOf(document),
      writes: document["options"].access !== "read",
    };
    group.post({ kind: "ask", doc: channel.id, ask: this.asked, content: has, shown: this.shown.get(HERE) });
  }

  private answer(ask: Ask, from: string): void {
    const { group } = this.sharing;
    const { channel, content } = this;
    if (group.role.kind !== "leading") return;
    const isWhole = content !== undefined && content.apply() && !content.beginsAnew;
    if (ask.content !== undefined && !isWhole) {
      this.waiting.push([ask, from]);
      return;
    }
    this.moved();
    const answer = ask.content === undefined || content === undefined ? undefined : this.compare(content, ask.content, from);
    const shown = [...this.shown].map(([tab, state]) => [tab === HERE ? group.tab : tab, state] as const);
    group.post({
      kind: "tell",
      doc: channel.id,
      to: from,
      ask: ask.ask,
      term: group.role.term,
      n: this.n,
      standing: standingData(channel.own),
      content: answer,
      shown,
      members: entries(channel.presence),
    });
  }

  /** Takes in what another tab has, and gives what that one lacks. */
  private compare(content: AnyContent, { heads, epoch, genesis, edits: named }: NonNullable<Ask["content"]>, from: string): Tell["content"] {
    const { channel } = this;
    const edits = this.ofHere(named, from);
    const own = channel.stream?.cursor;
    const anew = (epoch !== undefined && own !== undefined && epoch !== own.epoch) || !isKin(content, edits);
    if (!anew) {
      if (genesis !== undefined) this.offer(genesis);
      this.adopt(content, edits, false);
    }
    const open = unsaved(content);
    const hashes = new Set(open.map(({ hash }) => hash));
    const done = edits.flatMap(({ hash }) => (!anew && !hashes.has(hash) && knows(content, hash) ? [hash] : []));
    return { anew, ...lackedBy(content, anew ? [] : heads), unsaved: this.named(open), saved: done, cursor: channel.stream?.cursor };
  }

  /** What a new document is to hold, if this tab does not say. */
  private offer(genesis: Uint8Array): void {
    const { document } = this.channel;
    if (document === undefined) return;
    document["offered"] = genesis;
    this.settle();
  }

  private tell({ to, ask, term, n, standing, content, shown, members }: Tell): void {
    const { group } = this.sharing;
    const { channel } = this;
    const isAnswer = this.following.kind === "asking" && this.following.ask === ask && to === group.tab;
    if (!isAnswer || group.role.kind !== "following" || group.role.term !== term) return;
    let isShort = false;
    const mine = this.content;
    if (content !== undefined && mine !== undefined) {
      if (content.anew) this.forget();
      receiveCopy(mine, content.copy, content.changes, content.cursor?.seq ?? 0n);
      if (content.cursor !== undefined) channel.stream?.follow(content.cursor);
      this.adopt(mine, this.ofHere(content.unsaved, group.tab), true);
      this.saved(mine, content.saved, []);
      const open = new Set(content.unsaved.map(({ hash }) => hash));
      isShort = unsaved(mine).some(({ hash }) => !open.has(hash));
    }
    this.following = { kind: "following", n, isShort };
    this.mirrored = standingOf(standing);
    // What a tab said itself since is newer than what the leader knew.
    for (const [tab, state] of shown) if (tab !== group.tab && !this.shown.has(tab)) this.shows(tab, state);
    channel.presenceUpdate(members, true);
    channel.moved();
  }

  /** The leader passed something on. */
  private fed(term: string, n: number, event: FeedEvent, cursor: Parameters<typeof this.follow>[0]): void {
    const { role } = this.sharing.group;
    const { following } = this;
    if (role.kind !== "following" || role.term !== term || following.kind !== "following") return;
    if (n !== following.n + 1) return this.ask();
    this.following = { ...following, n };
    this.take(event);
    this.follow(cursor);
  }

  private follow(cursor: NonNullable<Channel["stream"]>["cursor"]): void {
    if (cursor !== undefined && this.content !== undefined) this.channel.stream?.follow(cursor);
  }

  private take(event: FeedEvent): void {
    const { channel, content } = this;
    switch (event.kind) {
      case "changes":
        return content && channel.changes(event.changes, event.afterSeq, event.seq);
      case "snapshot":
        return content && channel.snapshot(event.bytes, event.seq);
      case "reset":
        return content && this.forget();
      case "saved":
        if (content !== undefined && !this.saved(content, event.hashes, event.positions)) this.ask();
        return;
      case "standing":
        this.mirrored = standingOf(event.standing);
        channel.moved();
        // What the leader could not take before, it may take now.
        if (event.standing.isWhole && this.following.kind === "following" && this.following.isShort) this.ask();
        return;
      case "presence":
        return channel.presenceUpdate(event.entries, event.full);
      case "left":
        return channel.left(event.members);
      case "broadcast":
        return channel.broadcasted(event.member, event.topic, event.payload);
      case "missed":
        return channel.missed(event.count);
      case "error": {
        const error = errorOf(event.error);
        if (error !== undefined) channel.host.report(error, channel.id);
      }
    }
  }

  private adopt(content: AnyContent, edits: readonly TabEdit[], areUnsaved: boolean): boolean {
    const fits = adopt(content, edits, areUnsaved);
    this.settle();
    return fits;
  }

  private saved(content: AnyContent, hashes: readonly string[], positions: readonly bigint[]): boolean {
    const areKnown = saved(content, hashes, positions);
    this.settle();
    return areKnown;
  }

  /** The document begins anew. */
  private forget(): void {
    if (this.channel.stream !== undefined) abandon(this.channel.stream);
    this.channel.reset([]);
  }
}

/** Presence shows what another tab of this browser shows, or nothing of it any more. */
function sees(presence: Presence, tab: string, state: Uint8Array | undefined): void {
  const tabs = new Map(presence["tabs"]);
  const value = state === undefined ? undefined : parseJson(state);
  if (value === undefined && !tabs.delete(tab)) return;
  if (value !== undefined) tabs.set(tab, { id: tab, state: value });
  presence["tabs"] = tabs;
  presence["show"](presence["members"]);
}

/** The members elsewhere, as the server names them. */
function entries(presence: Presence): PresenceEntry[] {
  return [...presence["members"].values()].flatMap(({ id, state }) => {
    const member = fromHex(id);
    return member === undefined ? [] : [{ member, state: utf8(JSON.stringify(state)) }];
  });
}

/**
 * What the server says goes to the other tabs and to the channel: to them first, because a page that nobody looks at
 * has slow timers.
 */
function relay(channel: Channel, shared: SharedChannel): StreamEvents {
  return {
    opened: (opened) => channel.opened(opened),
    closed: (error, retries) => channel.closed(error, retries),
    reconcile: (clock) => channel.reconcile(clock),
    refused: (refused) => channel.refused(refused),
    rightsChanged: (rights, expiresAtMs, error) => channel.rightsChanged(rights, expiresAtMs, error),
    renewalRefused: (error) => channel.renewalRefused(error),
    failed: (error) => channel.failed(error),
    reset(unacked) {
      shared.feed({ kind: "reset" });
      channel.reset(unacked);
    },
    changes(changes, afterSeq, seq) {
      shared.feed({ kind: "changes", changes, afterSeq, seq });
      shared.moved();
      channel.changes(changes, afterSeq, seq);
    },
    snapshot(bytes, seq) {
      shared.feed({ kind: "snapshot", bytes, seq });
      shared.moved();
      channel.snapshot(bytes, seq);
    },
    acked(push, positions) {
      shared.acknowledged(push.changes, positions);
      channel.acked(push, positions);
      shared.moved();
    },
    presenceUpdate(entries, full) {
      shared.feed({ kind: "presence", entries, full });
      channel.presenceUpdate(entries, full);
    },
    left(members) {
      shared.feed({ kind: "left", members });
      channel.left(members);
    },
    broadcasted(member, topic, payload) {
      shared.feed({ kind: "broadcast", member, topic, payload });
      channel.broadcasted(member, topic, payload);
    },
    missed(count) {
      shared.feed({ kind: "missed", count });
      channel.missed(count);
    },
    disconnected() {
      shared.feed({ kind: "presence", entries: [], full: true });
      channel.disconnected();
    },
  };
}
