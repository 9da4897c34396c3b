/**
 * What the tabs of one browser tell each other. They go through a `BroadcastChannel`, so everybody hears everything.
 * @module
 */

import { EtherPlyError } from "../errors.js";
import type { ErrorCode } from "../errors.js";
import type { Standing } from "../room.js";
import type { ClientStatus } from "../status.js";
import type { Cursor, PresenceEntry } from "../wire/kinds.js";
import type { ServerLimits } from "../wire/limits.js";

/**
 * The version of these messages, which is part of the channel's name: tabs with another one do not hear each other,
 * and have a connection of their own.
 */
export const TABS_PROTOCOL = 1;

/** An edit that is not on the server yet, and the tab that made it. */
export interface TabEdit {
  readonly hash: string;
  readonly change: Uint8Array;
  /** `undefined` if that tab is not known: it was read from the store. */
  readonly tab: string | undefined;
}

/** An error without its class, which messages do not keep. */
export interface ErrorData {
  readonly code: ErrorCode;
  readonly number: number;
  readonly retryable: boolean;
  readonly advice: string;
  readonly text: string;
}

/** Where a document stands with the server, as a message. */
export type StandingData = Omit<Standing, "error" | "refusal" | "held"> & {
  readonly error: ErrorData | undefined;
  readonly refusal: ErrorData | undefined;
  readonly held: ErrorData | undefined;
};

/** What the leader passes on of one document. */
export type FeedEvent =
  | { readonly kind: "changes"; readonly changes: readonly Uint8Array[]; readonly afterSeq: bigint; readonly seq: bigint }
  | { readonly kind: "snapshot"; readonly bytes: Uint8Array; readonly seq: bigint }
  | { readonly kind: "reset" }
  | { readonly kind: "saved"; readonly hashes: readonly string[]; readonly positions: readonly bigint[] }
  | { readonly kind: "standing"; readonly standing: StandingData }
  | { readonly kind: "presence"; readonly entries: readonly PresenceEntry[]; readonly full: boolean }
  | { readonly kind: "left"; readonly members: readonly Uint8Array[] }
  | { readonly kind: "broadcast"; readonly member: Uint8Array; readonly topic: string; readonly payload: Uint8Array }
  | { readonly kind: "missed"; readonly count: bigint }
  | { readonly kind: "error"; readonly error: ErrorData };

/** A tab asks to be brought up to date on a document, and tells what it has. */
export interface Ask {
  readonly kind: "ask";
  readonly doc: string;
  /** Counts this tab's questions about the document; the answer repeats it. */
  readonly ask: number;
  /** What it has of the content; `undefined` if it wants presence and messages only. */
  readonly content:
    | {
        readonly heads: readonly string[];
        readonly epoch: bigint | undefined;
        readonly edits: readonly TabEdit[];
        readonly genesis: Uint8Array | undefined;
        readonly writes: boolean;
      }
    | undefined;
  readonly shown: Uint8Array | undefined;
}

/** The leader's answer to {@link Ask}. */
export interface Tell {
  readonly kind: "tell";
  readonly doc: string;
  readonly to: string;
  readonly ask: number;
  readonly term: string;
  /** The number of the last event that this answer covers. */
  readonly n: number;
  readonly standing: StandingData;
  readonly content:
    | {
        /** What was there is to be thrown away. */
        readonly anew: boolean;
        readonly copy: Uint8Array | undefined;
        readonly changes: readonly Uint8Array[];
        /** Edits that are not on the server. */
        readonly unsaved: readonly TabEdit[];
        /** Edits of those that the question named which are. */
        readonly saved: readonly string[];
        readonly cursor: Cursor | undefined;
      }
    | undefined;
  /** What the other tabs show, and the members elsewhere. */
  readonly shown: readonly (readonly [tab: string, state: Uint8Array])[];
  readonly members: readonly PresenceEntry[];
}

/** A message between tabs. */
export type TabMessage =
  /** Who has the connection? */
  | { readonly kind: "who" }
  /** I have, for the term of this name; and where it stands. */
  | {
      readonly kind: "leads";
      readonly term: string;
      readonly state: ClientStatus["state"];
      readonly error: ErrorData | undefined;
      readonly member: string;
      readonly limits: ServerLimits;
    }
  /** Somebody has reason to believe that the server can be reached. */
  | { readonly kind: "hurry" }
  /** The leader found that this tab is not there any more. */
  | { readonly kind: "gone"; readonly tab: string }
  | Ask
  | Tell
  /** This tab does not use the document any more. */
  | { readonly kind: "leave"; readonly doc: string }
  /** Whoever uses the document is to ask again. */
  | { readonly kind: "again"; readonly doc: string }
  | { readonly kind: "edit"; readonly doc: string; readonly edits: readonly TabEdit[] }
  | { readonly kind: "show"; readonly doc: string; readonly state: Uint8Array | undefined }
  | { readonly kind: "say"; readonly doc: string; readonly topic: string; readonly payload: Uint8Array }
  /** Send again what the server refused. */
  | { readonly kind: "retry"; readonly doc: string }
  /** Take back what the server refused. */
  | { readonly kind: "drop"; readonly doc: string }
  /** These edits are taken back. */
  | { readonly kind: "discard"; readonly doc: string; readonly hashes: readonly string[] }
  | {
      readonly kind: "feed";
      readonly doc: string;
      readonly term: string;
      /** One more than that of the event before. */
      readonly n: number;
      readonly cursor: Cursor | undefined;
      readonly event: FeedEvent;
    };

/** A message about one document. */
export type DocMessage = Extract<TabMessage, { readonly doc: string }>;

/** An error as data. */
export function errorData(error: EtherPlyError | undefined): ErrorData | undefined {
  if (error === undefined) return undefined;
  const { code, number, retryable, advice } = error;
  return { code, number, retryable, advice, text: error.message.slice(0, -` [${code}] ${advice}`.length) };
}

/** An error from its data. */
export function errorOf(data: ErrorData | undefined): EtherPlyError | undefined {
  return data && new EtherPlyError(data.code, data.number, data.retryable, data.advice, data.text);
}

/** A standing as data. */
export function standingData(standing: Standing): StandingData {
  const { error, refusal, held } = standing;
  return { ...standing, error: errorData(error), refusal: errorData(refusal), held: errorData(held) };
}

/** A standing from its data. */
export function standingOf(data: StandingData): Standing {
  return { ...data, error: errorOf(data.error), refusal: errorOf(data.refusal), held: errorOf(data.held) };
}
