/**
 * The tabs that share a store, and which of them has the connection.
 *
 * A lock that one tab holds makes it the leader; the others wait for it, and the next one gets it when the leader's
 * page is closed, crashes, is frozen or goes into the back/forward cache. Each tab also holds a lock of its own, by
 * which the leader finds out when it is gone. What the tabs say about documents is `sharing.ts`'s.
 * @module
 */

import { randomBytes } from "../environment.js";
import type { Environment } from "../environment.js";
import { toHex } from "../wire/bytes.js";
import type { TabChannel, TabsHost } from "./host.js";
import { TABS_PROTOCOL } from "./messages.js";
import type { TabMessage } from "./messages.js";

/** Time without a word from the leader after which it is asked for one. */
export const LEADER_QUIET_MS = 20_000;
/** Time that it has to answer; then this tab takes the lead, whoever holds the lock. */
export const LEADER_ANSWER_MS = 10_000;

/** Where a tab stands: not in the group; waiting to hear of a leader; behind one; with the connection. */
export type Role =
  | { readonly kind: "away" | "joining" }
  | { readonly kind: "following"; readonly leader: string; readonly term: string }
  | { readonly kind: "leading"; readonly term: string };

/** What a group tells its tab. */
export interface GroupEvents {
  /** This tab has another role. */
  role(role: Role, before: Role): void;
  /** A message came; the group's own ones were dealt with. */
  message(message: TabMessage, from: string): void;
  /** Another tab is not there any more. Told to the leader. */
  gone(tab: string): void;
}

interface Envelope {
  readonly from: string;
  readonly message: TabMessage;
}

/** One tab of a group. */
export class Group {
  /** Names this tab. */
  readonly tab: string = toHex(randomBytes(8));
  private now: Role = { kind: "away" };
  private channel: TabChannel | undefined;
  /** Gives up whatever was asked of the locks since this tab joined. */
  private membership = new AbortController();
  /** Gives up the lead, or the wait for it. */
  private candidacy = new AbortController();
  private readonly watched = new Set<string>();
  private cancelWatch: (() => void) | undefined;
  private readonly name: string;

  constructor(
    scope: string,
    private readonly host: TabsHost,
    private readonly environment: Environment,
    private readonly events: GroupEvents,
  ) {
    this.name = `etherply/${TABS_PROTOCOL}/${scope}`;
  }

  /** What this tab is. */
  get role(): Role {
    return this.now;
  }

  /** Whether this tab leads and that one is there. */
  isThere(tab: string): boolean {
    return tab === this.tab || this.watched.has(tab);
  }

  /** Becomes one of the tabs. */
  join(): void {
    if (this.now.kind !== "away") return;
    this.membership = new AbortController();
    this.set({ kind: "joining" });
    const { membership, tab } = this;
    // Nobody hears of this tab before it holds the lock that says that it is there.
    this.hold(`${this.name}/${tab}`, membership, () => {
      const channel = this.host.channel(this.name);
      this.channel = channel;
      channel.addEventListener("message", ({ data }) => {
        if (this.channel === channel) this.heard(data as Envelope);
      });
      this.stand(false);
      this.post({ kind: "who" });
      this.watchLeader();
    });
  }

  /** Is not one of the tabs any more; the connection is another tab's. */
  leave(): void {
    if (this.now.kind === "away") return;
    this.set({ kind: "away" });
    this.cancelWatch?.();
    this.candidacy.abort();
    this.membership.abort();
    this.watched.clear();
    this.channel?.close();
    this.channel = undefined;
  }

  /** Tells all other tabs. */
  post(message: TabMessage): void {
    this.channel?.postMessage({ from: this.tab, message } satisfies Envelope);
  }

  /** Waits for the lead, or takes it. */
  private stand(steal: boolean): void {
    this.candidacy.abort();
    const candidacy = new AbortController();
    this.candidacy = candidacy;
    this.hold(this.name, candidacy, () => this.lead(), steal);
  }

  private lead(): void {
    this.set({ kind: "leading", term: toHex(randomBytes(8)) });
  }

  /** Holds a lock from when it is granted until `until` is aborted. */
  private hold(name: string, until: AbortController, granted: () => void, steal = false): void {
    const { signal } = until;
    const held = (): Promise<void> =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve();
        signal.addEventListener("abort", () => resolve());
        granted();
      });
    // A signal cannot go with `steal`, which waits for nobody.
    this.host.locks.request(name, steal ? { steal } : { signal }, held).catch((error: unknown) => {
      if (signal.aborted || this.now.kind === "away") return;
      // There are no locks for this page, as in a sandbox: then it has a connection of its own.
      if (!(error instanceof Error && error.name === "AbortError")) return this.lead();
      // Another tab took it away, because this one did not answer.
      this.set({ kind: "joining" });
      this.stand(false);
      this.post({ kind: "who" });
      this.watchLeader();
    });
  }

  private heard({ from, message }: Envelope): void {
    if (from === this.tab || this.now.kind === "away") return;
    if (this.now.kind === "leading") this.watch(from);
    if (message.kind === "leads" && this.now.kind !== "leading") {
      this.watchLeader();
      if (this.now.kind !== "following" || this.now.term !== message.term) {
        this.set({ kind: "following", leader: from, term: message.term });
      }
    }
    this.events.message(message, from);
  }

  /** Finds out when a tab is gone. */
  private watch(tab: string): void {
    if (this.watched.has(tab)) return;
    this.watched.add(tab);
    const { signal } = this.candidacy;
    const gone = (): void => {
      if (signal.aborted || !this.watched.delete(tab)) return;
      this.events.gone(tab);
    };
    this.host.locks.request(`${this.name}/${tab}`, { mode: "shared", signal }, gone).catch(() => undefined);
  }

  /** Asks for a sign of life of the leader once it was silent, and takes the lead if there is none. */
  private watchLeader(): void {
    this.cancelWatch?.();
    this.cancelWatch = this.environment.after(LEADER_QUIET_MS, () => {
      if (this.now.kind !== "following" && this.now.kind !== "joining") return;
      if (!this.host.isVisible()) return this.watchLeader();
      this.post({ kind: "who" });
      this.cancelWatch = this.environment.after(LEADER_ANSWER_MS, () => {
        if (this.now.kind === "following" || this.now.kind === "joining") this.stand(true);
      });
    });
  }

  private set(role: Role): void {
    const before = this.now;
    this.now = role;
    if (role.kind === "leading") this.cancelWatch?.();
    if (before.kind === "leading") this.watched.clear();
    this.events.role(role, before);
  }
}
