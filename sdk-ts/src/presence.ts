/**
 * Who is here and what they show, and messages to those who are here now. Nothing of it is stored, and nothing of it
 * needs Automerge.
 * @module
 */

import type { Environment } from "./environment.js";
import { localError, namedError } from "./errors.js";
import type { Unsubscribe } from "./signal.js";
import { Listeners, Signal } from "./signal.js";
import { textOf, toHex, utf8 } from "./wire/bytes.js";
import type { PresenceEntry } from "./wire/kinds.js";

/** Shortest time between two states that are sent: states in between are never seen. */
export const PRESENCE_INTERVAL_MS = 40;

/** What can be shown and sent: what JSON can hold. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json | undefined };

/** Somebody else who is here. */
export interface Member<P> {
  /** Names the member's connection: another one after it reconnected. Of another tab of this browser, that tab. */
  readonly id: string;
  /** What it shows. */
  readonly state: P;
}

/** Presence of one document. */
export class Presence<P extends Json = Json> {
  private own: P | undefined;
  private members: ReadonlyMap<string, Member<P>> = new Map();
  /** Other tabs of this browser. */
  private tabs: ReadonlyMap<string, Member<P>> = new Map();
  private readonly list = new Signal<readonly Member<P>[]>([]);
  private readonly anything = new Listeners<[]>();
  private cancel: (() => void) | undefined;
  private sentMs = Number.NEGATIVE_INFINITY;

  /** Made by documents and rooms. @internal */
  constructor(
    private readonly environment: Environment,
    private readonly bytesMax: () => number,
    private readonly send: (state: Uint8Array | undefined) => void,
  ) {}

  /** What this side shows. */
  get self(): P | undefined {
    return this.own;
  }

  /**
   * The others who are here, those who came first at the front, and the other tabs of this browser behind them. Tabs
   * that share a connection are one member to everybody else, who see what was set last in any of them.
   */
  get others(): readonly Member<P>[] {
    return this.list.value;
  }

  /**
   * Shows a state to the others, until it is set again, {@link Presence.leave}, or the connection is gone; on the next
   * connection it is shown again. Sent at once, then as often as `PRESENCE_INTERVAL_MS` (40 ms) allows.
   *
   * Throws `presence_too_large`.
   */
  set(state: P): void {
    const bytes = utf8(JSON.stringify(state));
    if (bytes.length > this.bytesMax()) {
      throw namedError("presence_too_large", `the presence state has ${bytes.length} bytes`);
    }
    this.own = state;
    this.anything.tell();
    if (this.cancel !== undefined) return;
    const waitMs = this.sentMs + PRESENCE_INTERVAL_MS - this.environment.now();
    if (waitMs <= 0) this.flush();
    else this.cancel = this.environment.after(waitMs, () => this.flush());
  }

  /** Changes some fields of what this side shows. */
  update(fields: Partial<P>): void {
    this.set({ ...(this.own as object | undefined), ...(fields as object) } as P);
  }

  /** Shows nothing any more. */
  leave(): void {
    this.cancel?.();
    this.cancel = undefined;
    this.own = undefined;
    this.anything.tell();
    this.send(undefined);
  }

  /** Watches who is here and what they show. */
  subscribe(listener: (others: readonly Member<P>[]) => void): Unsubscribe {
    return this.list.subscribe(listener);
  }

  /** Watches who is here and what they show, and what this side shows. */
  onChange(listener: () => void): Unsubscribe {
    return this.anything.add(listener);
  }

  /** What the server tells of others. @internal */
  receive(entries: readonly PresenceEntry[], full: boolean, self: string): void {
    const members = new Map(full ? [] : this.members);
    for (const { member, state } of entries) {
      const id = toHex(member);
      if (id === self) continue;
      const value = parseJson(state);
      if (value !== undefined) members.set(id, { id, state: value as P });
    }
    this.show(members);
  }

  /** Members that are gone. @internal */
  left(gone: readonly Uint8Array[]): void {
    const members = new Map(this.members);
    for (const member of gone) members.delete(toHex(member));
    this.show(members);
  }

  /** There is a stream to send it on now. @internal */
  begin(): void {
    if (this.own !== undefined) this.flush();
  }

  /** There is no connection: nobody can be seen. @internal */
  disconnected(): void {
    if (this.members.size > 0) this.show(new Map());
  }

  /** Nothing more is sent. @internal */
  stop(): void {
    this.cancel?.();
    this.cancel = undefined;
  }

  private flush(): void {
    this.stop();
    if (this.own === undefined) return;
    this.sentMs = this.environment.now();
    this.send(utf8(JSON.stringify(this.own)));
  }

  private show(members: ReadonlyMap<string, Member<P>>): void {
    this.members = members;
    this.list.set([...members.values(), ...this.tabs.values()]);
    this.anything.tell();
  }
}

/** A message of somebody else. */
export interface Message<M = Json> {
  /** Who sent it: a {@link Member.id}. */
  readonly from: string;
  /** What it is about. */
  readonly topic: string;
  /** The message. */
  readonly payload: M;
}

/** Those who listen to messages. */
export class Messages {
  private readonly byTopic = new Map<string, Listeners<[Message]>>();
  private readonly missedOnes = new Listeners<[bigint]>();

  /** Listens to a topic. */
  on(topic: string, listener: (message: Message) => void): Unsubscribe {
    const listeners = this.byTopic.get(topic) ?? new Listeners<[Message]>();
    this.byTopic.set(topic, listeners);
    const off = listeners.add(listener);
    return () => {
      off();
      if (listeners.size === 0) this.byTopic.delete(topic);
    };
  }

  /** Listens to how many messages were missed, because this side was too slow. */
  onMissed(listener: (count: bigint) => void): Unsubscribe {
    return this.missedOnes.add(listener);
  }

  /** A message came. */
  receive(member: Uint8Array, topic: string, payload: Uint8Array): void {
    const listeners = this.byTopic.get(topic);
    const value = listeners === undefined ? undefined : parseJson(payload);
    if (listeners !== undefined && value !== undefined) listeners.tell({ from: toHex(member), topic, payload: value });
  }

  /** Messages were missed. */
  missed(count: bigint): void {
    this.missedOnes.tell(count);
  }
}

/** A message as bytes. Throws `bad_argument` if JSON cannot hold it. */
export function encodeJson(value: Json): Uint8Array {
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) throw localError("bad_argument", "JSON cannot hold what is to be sent");
  return utf8(text);
}

/** JSON that came from somebody else; `undefined` if it is none: another client may show what it likes. */
export function parseJson(bytes: Uint8Array): Json | undefined {
  try {
    return JSON.parse(textOf(bytes)) as Json;
  } catch {
    return undefined;
  }
}
