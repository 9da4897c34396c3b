/**
 * Documents and rooms of one client, shared with the other tabs of its group.
 *
 * Every tab has a copy and an outbox of its own, as if it were offline, and hears of each edit of the others as it is
 * made. The leader alone is connected: it pushes everybody's edits, and passes on what the server says, numbered, so
 * that a tab that missed something asks again. A tab that becomes the leader goes on from where it heard last, and
 * pushes what nobody has told it to be saved. So nothing has to be handed over, and a leader may end at any moment.
 * @module
 */

import type { Environment } from "../environment.js";
import type { EtherPlyError } from "../errors.js";
import type { Channel, SharedContent, Siblings, Standing } from "../room.js";
import { isSame } from "../signal.js";
import type { ClientStatus } from "../status.js";
import { fromHex } from "../wire/bytes.js";
import type { ServerLimits } from "../wire/limits.js";
import { Group } from "./group.js";
import type { Role } from "./group.js";
import type { TabsHost } from "./host.js";
import { errorData, errorOf, HERE, standingData, standingOf } from "./messages.js";
import type { Ask, DocMessage, FeedEvent, TabEdit, TabMessage, Tell } from "./messages.js";

/** What sharing needs of its client. */
export interface SharingHost {
  /** This tab has the connection from now on. */
  lead(): void;
  /** It has none; or another tab has one, of which nothing was heard yet. */
  follow(): void;
  /** What the tab with the connection says of it. */
  heard(status: ClientStatus, member: string, limits: ServerLimits): void;
  /** What this tab would say. */
  readonly told: { readonly status: ClientStatus; readonly member: string; readonly limits: ServerLimits };
  /** Another tab wants the connection to be made now, if it waits. */
  hurry(): void;
  /** Opens a document, or a room, for other tabs. */
  host(id: string, content: Ask["content"]): void;
  /** No other tab uses it any more. */
  unhost(id: string): void;
  report(error: EtherPlyError, id: string): void;
}

const UNKNOWN: Standing = {
  state: "connecting",
  error: undefined,
  refusal: undefined,
  held: undefined,
  rights: undefined,
  isRenewing: false,
  isWhole: false,
};

/** The client's side of the group. */
export class Sharing {
  readonly group: Group;
  private readonly shared = new Map<string, SharedChannel>();

  constructor(
    scope: string,
    tabs: TabsHost,
    environment: Environment,
    readonly client: SharingHost,
  ) {
    this.group = new Group(scope, tabs, environment, {
      role: (role) => this.changed(role),
      message: (message, from) => this.heard(message, from),
      gone: (tab) => {
        this.group.post({ kind: "gone", tab });
        this.gone(tab);
      },
    });
  }

  /** A channel of this client. */
  add(channel: Channel): void {
    const shared = new SharedChannel(channel, this);
    this.shared.set(channel.id, shared);
    channel.siblings = shared;
  }

  /** A channel that is closed. */
  remove(id: string): void {
    this.shared.delete(id);
  }

  /** Where the client stands has changed: the leader tells the others. */
  announce(): void {
    if (this.group.role.kind !== "leading") return;
    const { status, member, limits } = this.client.told;
    const { term } = this.group.role;
    this.group.post({ kind: "leads", term, state: status.state, error: errorData(status.error), member, limits: { ...limits } });
  }

  private changed(role: Role): void {
    if (role.kind === "leading") this.client.lead();
    else this.client.follow();
    for (const shared of this.shared.values()) shared.begin();
    this.announce();
  }

  private heard(message: TabMessage, from: string): void {
    const isLeading = this.group.role.kind === "leading";
    switch (message.kind) {
      case "who":
        return this.announce();
      case "hurry":
        return isLeading ? this.client.hurry() : undefined;
      case "leads":
        if (isLeading) return;
        return this.client.heard({ state: message.state, error: errorOf(message.error) }, message.member, message.limits);
      case "gone":
        return this.gone(message.tab);
      case "ask":
        // Whoever asks shows something, which is for everybody.
        if (isLeading) this.client.host(message.doc, message.content);
    }
    this.shared.get(message.doc)?.heard(message, from);
  }

  private gone(tab: string): void {
    for (const shared of [...this.shared.values()]) shared.gone(tab);
  }
}

/** Where a channel stands with the leader: nothing was asked; a question is open; every event is heard. */
type Following =
  | { readonly kind: "apart" }
  | { readonly kind: "asking"; readonly ask: number }
  | { readonly kind: "following"; readonly n: number; readonly isShort: boolean };

class SharedChannel implements Siblings {
  private following: Following = { kind: "apart" };
  /** What the leader said last. */
  private mirrored = UNKNOWN;
  private asked = 0;
  /** As the leader: the number of the last event, where the document stood then, who listens, who waits for an answer. */
  private n = 0;
  private told = UNKNOWN;
  private readonly guests = new Set<string>();
  private waiting: (readonly [Ask, string])[] = [];

  constructor(
    private readonly channel: Channel,
    private readonly sharing: Sharing,
  ) {}

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
    this.channel.forgetShown();
    this.ask();
    this.channel.moved();
  }

  opened(): void {
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

  edited(edits: readonly TabEdit[]): void {
    this.sharing.group.post({ kind: "edit", doc: this.channel.id, edits: this.named(edits) });
  }

  show(state: Uint8Array | undefined): void {
    this.sharing.group.post({ kind: "show", doc: this.channel.id, state });
  }

  say(topic: string, payload: Uint8Array): void {
    this.sharing.group.post({ kind: "say", doc: this.channel.id, topic, payload });
  }

  retry(): void {
    this.sharing.group.post({ kind: "retry", doc: this.channel.id });
  }

  drop(): void {
    this.sharing.group.post({ kind: "drop", doc: this.channel.id });
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
    this.channel.shows(tab, undefined);
    if (this.guests.delete(tab) && this.guests.size === 0) this.sharing.client.unhost(this.channel.id);
  }

  /** Whether other tabs use the document through this one. */
  get hasGuests(): boolean {
    return this.guests.size > 0;
  }

  heard(message: DocMessage, from: string): void {
    const { channel } = this;
    const { shared } = channel;
    switch (message.kind) {
      case "ask":
        channel.shows(from, message.shown);
        if (!this.isLeading) return;
        this.guests.add(from);
        return this.answer(message, from);
      case "tell":
        return this.tell(message);
      case "feed":
        return this.fed(message.term, message.n, message.event, message.cursor);
      case "edit":
        if (shared === undefined || this.adopt(shared, this.ofHere(message.edits, from), false)) return;
        // What they are made upon has not come yet, or not to this tab.
        if (this.isLeading) this.sharing.group.post({ kind: "again", doc: channel.id });
        else this.ask();
        return;
      case "show":
        return channel.shows(from, message.state);
      case "say": {
        const member = fromHex(from);
        if (this.isLeading) channel.sendBroadcast(message.topic, message.payload);
        if (member !== undefined) channel.messages.receive(member, message.topic, message.payload);
        return;
      }
      case "leave":
        return this.gone(from);
      case "again":
        return this.ask();
      case "retry":
        return this.isLeading ? shared?.retry() : undefined;
      case "drop":
        return this.isLeading ? shared?.drop() : undefined;
      case "discard":
        return this.isLeading ? undefined : shared?.discard(message.hashes);
    }
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
    const { channel } = this;
    const { shared } = channel;
    this.asked += 1;
    this.following = { kind: "asking", ask: this.asked };
    const content = shared && {
      heads: shared.content.heads,
      epoch: channel.stream?.cursor?.epoch,
      edits: this.named(shared.content.unsaved()),
      genesis: shared.genesis(),
      writes: shared.writes,
    };
    group.post({ kind: "ask", doc: channel.id, ask: this.asked, content, shown: channel.allShown.get(HERE) });
  }

  private answer(ask: Ask, from: string): void {
    const { group } = this.sharing;
    const { channel } = this;
    const { shared } = channel;
    if (group.role.kind !== "leading") return;
    const isWhole = shared !== undefined && shared.content.apply() && !shared.content.beginsAnew;
    if (ask.content !== undefined && !isWhole) {
      this.waiting.push([ask, from]);
      return;
    }
    this.moved();
    let content: Tell["content"];
    if (ask.content !== undefined && shared !== undefined) {
      const { heads, epoch, genesis } = ask.content;
      const edits = this.ofHere(ask.content.edits, from);
      const own = channel.stream?.cursor;
      const anew = (epoch !== undefined && own !== undefined && epoch !== own.epoch) || !shared.content.isKin(edits);
      if (!anew) {
        if (genesis !== undefined) shared.offer(genesis);
        this.adopt(shared, edits, false);
      }
      const unsaved = this.named(shared.content.unsaved());
      const open = new Set(unsaved.map(({ hash }) => hash));
      const saved = edits.flatMap(({ hash }) => (!anew && !open.has(hash) && shared.content.knows(hash) ? [hash] : []));
      content = { anew, ...shared.content.lackedBy(anew ? [] : heads), unsaved, saved, cursor: channel.stream?.cursor };
    }
    const shown = [...channel.allShown].map(([tab, state]) => [tab === HERE ? group.tab : tab, state] as const);
    group.post({
      kind: "tell",
      doc: channel.id,
      to: from,
      ask: ask.ask,
      term: group.role.term,
      n: this.n,
      standing: standingData(channel.own),
      content,
      shown,
      members: channel.presence.entries(),
    });
  }

  private tell({ to, ask, term, n, standing, content, shown, members }: Tell): void {
    const { group } = this.sharing;
    const { channel } = this;
    const isAnswer = this.following.kind === "asking" && this.following.ask === ask && to === group.tab;
    if (!isAnswer || group.role.kind !== "following" || group.role.term !== term) return;
    let isShort = false;
    const { shared } = channel;
    if (content !== undefined && shared !== undefined) {
      if (content.anew) this.forget();
      shared.content.receiveCopy(content.copy, content.changes, content.cursor?.seq ?? 0n);
      if (content.cursor !== undefined) channel.stream?.follow(content.cursor);
      this.adopt(shared, this.ofHere(content.unsaved, group.tab), true);
      this.saved(shared, content.saved, []);
      const open = new Set(content.unsaved.map(({ hash }) => hash));
      isShort = shared.content.unsaved().some(({ hash }) => !open.has(hash));
    }
    this.following = { kind: "following", n, isShort };
    this.mirrored = standingOf(standing);
    // What a tab said itself since is newer than what the leader knew.
    for (const [tab, state] of shown) if (tab !== group.tab && !channel.allShown.has(tab)) channel.shows(tab, state);
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
    if (cursor !== undefined && this.channel.shared !== undefined) this.channel.stream?.follow(cursor);
  }

  private take(event: FeedEvent): void {
    const { channel } = this;
    const { shared } = channel;
    switch (event.kind) {
      case "changes":
        return shared && channel.changes(event.changes, event.afterSeq, event.seq);
      case "snapshot":
        return shared && channel.snapshot(event.bytes, event.seq);
      case "reset":
        return shared && this.forget();
      case "saved":
        if (shared !== undefined && !this.saved(shared, event.hashes, event.positions)) this.ask();
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
        if (error !== undefined) this.sharing.client.report(error, channel.id);
      }
    }
  }

  private adopt(shared: SharedContent, edits: readonly TabEdit[], areUnsaved: boolean): boolean {
    const fits = shared.content.adopt(edits, areUnsaved);
    shared.settle();
    return fits;
  }

  private saved(shared: SharedContent, hashes: readonly string[], positions: readonly bigint[]): boolean {
    const areKnown = shared.content.saved(hashes, positions);
    shared.settle();
    return areKnown;
  }

  /** The document begins anew. */
  private forget(): void {
    this.channel.stream?.abandon();
    this.channel.reset([]);
  }
}
