/**
 * Documents and rooms of one client, shared with the other tabs of its group.
 *
 * Every tab has a copy and an outbox of its own, as if it were offline, and hears of each edit of the others as it is
 * made. The leader alone is connected: it pushes everybody's edits, and passes on what the server says, numbered, so
 * that a tab that missed something asks again. A tab that becomes the leader goes on from where it heard last, and
 * pushes what nobody has told it to be saved. So nothing has to be handed over, and a leader may end at any moment.
 *
 * Only clients that share a connection load this, so it is a friend of {@link Client}, and uses what that keeps to
 * itself by `["name"]`, which the compiler checks.
 * @module
 */

import type { Client } from "../client.js";
import type { EtherPlyError } from "../errors.js";
import type { Document, DocumentOptions } from "../document/document.js";
import type { Channel, Room } from "../room.js";
import { SharedChannel } from "./channel.js";
import { lead } from "./content.js";
import { Group } from "./group.js";
import type { Role } from "./group.js";
import { pageTabs } from "./host.js";
import type { TabsHost } from "./host.js";
import { errorData, errorOf } from "./messages.js";
import type { Ask, TabMessage } from "./messages.js";

/** Makes a client one of the tabs with this store; `undefined` where there are no tabs. */
export function share(client: Client, scope: string): Sharing | undefined {
  const tabs = client["host"].environment.tabs ?? pageTabs();
  return client["isClosed"] || tabs === undefined ? undefined : new Sharing(client, scope, tabs);
}

/** The client's side of the group. */
export class Sharing {
  readonly group: Group;
  private readonly shared = new Map<string, SharedChannel>();
  /** Documents and rooms that are open for other tabs only. */
  private readonly guests = new Map<string, Document<never> | Room>();

  constructor(
    private readonly client: Client,
    scope: string,
    tabs: TabsHost,
  ) {
    this.group = new Group(`${client["connection"]["options"].url} ${scope}`, tabs, client["host"].environment, {
      role: (role) => this.changed(role),
      message: (message, from) => this.heard(message, from),
      gone: (tab) => {
        this.group.post({ kind: "gone", tab });
        this.gone(tab);
      },
    });
    for (const channel of client["channels"].values()) this.add(channel);
    client.onStatus(() => this.announce());
  }

  /** Whether another tab has the connection, or may have it. */
  get isElsewhere(): boolean {
    const { kind } = this.group.role;
    return kind === "following" || kind === "joining";
  }

  private get isLeading(): boolean {
    return this.group.role.kind === "leading";
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

  /** Whether it is open for other tabs only. */
  isGuest(id: string): boolean {
    return this.guests.has(id);
  }

  /** This tab uses it as well from now on. */
  claim(user: Document<never> | Room, options?: DocumentOptions<object>): void {
    if (this.guests.get(user.id) !== user) return;
    this.guests.delete(user.id);
    if (options !== undefined) use(user as Document<never>, options);
  }

  /** Something was closed here that other tabs may use: they ask for it again. */
  again(id: string): void {
    if (this.isLeading) this.group.post({ kind: "again", doc: id });
  }

  /** No other tab uses it any more. */
  unhost(id: string): void {
    const guest = this.guests.get(id);
    this.guests.delete(id);
    void guest?.close();
  }

  /** Opens a document or a room that other tabs use. */
  private serve(id: string, content: Ask["content"]): void {
    const { client, guests } = this;
    if (client["isClosed"]) return;
    try {
      const known = client["documents"].get(id);
      if (content === undefined) {
        if (!client["channels"].has(id)) guests.set(id, client.room(id));
      } else if (known === undefined) {
        const room = guests.get(id);
        guests.set(id, client.document<never>(id, content.writes ? {} : { access: "read" }));
        void room?.close();
      } else if (content.writes && guests.has(id)) {
        use(known, {});
      }
    } catch (error) {
      client["errors"].tell(error as EtherPlyError, id);
    }
  }

  /** Where the client stands has changed: the leader tells the others. */
  private announce(): void {
    const { role } = this.group;
    if (role.kind !== "leading") return;
    const { state, error } = this.client.status;
    const { member, limits } = this.client["session"];
    this.group.post({ kind: "leads", term: role.term, state, error: errorData(error), member, limits: { ...limits } });
  }

  private changed(role: Role): void {
    const { client } = this;
    if (role.kind === "leading") void this.lead();
    else {
      client["connection"].stop();
      if (this.isElsewhere) client["statuses"].set({ state: "connecting", error: undefined });
      for (const id of [...this.guests.keys()]) this.unhost(id);
    }
    for (const shared of this.shared.values()) shared.begin();
    this.announce();
  }

  /** This tab has the connection from now on: goes on with what all tabs kept. */
  private async lead(): Promise<void> {
    const { client } = this;
    client["statuses"].set({ state: "connecting", error: undefined });
    await Promise.all([...client["documents"].values()].map(lead));
    if (this.isLeading) client["connection"].start(client["session"]);
  }

  private heard(message: TabMessage, from: string): void {
    const { client, isLeading } = this;
    switch (message.kind) {
      case "who":
        return this.announce();
      case "hurry":
        return isLeading ? client["connection"].hurry() : undefined;
      case "leads":
        if (isLeading) return;
        client["session"].member = message.member;
        Object.assign(client["session"].limits, message.limits);
        return client["statuses"].set({ state: message.state, error: errorOf(message.error) });
      case "gone":
        return this.gone(message.tab);
      case "ask":
        // Whoever asks shows something, which is for everybody.
        if (isLeading) this.serve(message.doc, message.content);
    }
    this.shared.get(message.doc)?.heard(message, from);
  }

  private gone(tab: string): void {
    for (const shared of [...this.shared.values()]) shared.gone(tab);
  }
}

/** A document is used in this way from now on. */
function use(document: Document<never>, options: DocumentOptions<object>): void {
  document["options"] = options as DocumentOptions<never>;
  document["channel"].open(document["rights"]);
  document["settle"]();
}
