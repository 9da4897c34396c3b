/**
 * The one class of errors, its codes, and what to do next.
 * @module
 */

import { codeNamed, codeOf } from "./wire/codes.js";
import type { WireCode, WireCodeRow } from "./wire/codes.js";

/** What can go wrong on this side, with what to do next. The wire's codes are in `wire/codes.ts`. */
const LOCAL = {
  not_ready: [true, "Await `ready()` before you read or edit."],
  closed: [false, "Ask the client for the document again."],
  aborted: [true, "Nothing: you asked for it. The edit is kept and goes on its way."],
  not_connected: [true, "Try again when the document's status is `live`: broadcasts are not kept for later."],
  outbox_full: [true, "Wait until edits are saved on the server: `status.pending` counts those that are not."],
  initial_invalid: [false, "Give `initial` as plain data: maps, lists, text, numbers, booleans, dates, bytes, counters."],
  edit_lost: [false, "Look at the error's `changes`: the document began anew, and these edits fit it no longer."],
  auth_failed: [true, "Make `auth` return a token. The client calls it again after a while."],
  auth_refused: [false, "Nothing, if this user has no right to the document: `auth` said so by `null`. Call `reconnect` after a login."],
  automerge_failed: [false, "Report this. The copy stays as it was; the server mends the document if it is broken."],
  websocket_missing: [false, "Give `createClient` a `webSocket`, such as the one of the package `ws`: Node has one from 22 on."],
  two_copies: [false, "Deduplicate `@etherply/sdk` in your lock file or your bundler's settings."],
  store_failed: [true, "Free some storage or allow it for this site. Edits go on, but do not survive a reload."],
  connection_failed: [true, "Nothing: the client connects again. Check the URL if it never succeeds."],
  position_unknown: [false, "Ask for heads instead, or for a position from `history()`. The server's history has all positions."],
  bad_argument: [false, "Change what is passed."],
} as const;

/** Codes of this package's own. */
export type LocalCode = keyof typeof LOCAL;
/** Every code that an error can have: the wire's, or this package's own. Their meaning never changes. */
export type ErrorCode = WireCode | LocalCode | "unknown";

type Row = Omit<WireCodeRow, "name"> & { readonly name: ErrorCode };

/** Why something was not done, or not yet. */
export class EtherPlyError extends Error {
  /** Always `"EtherPlyError"`. */
  override readonly name = "EtherPlyError";
  /** The stable code. */
  readonly code: ErrorCode;
  /** The wire's number for the code; 0 for this package's own. */
  readonly number: number;
  /** Whether the same request may succeed later without being changed. */
  readonly retryable: boolean;
  /** What to do next. */
  readonly advice: string;

  /** Made by this package only. @internal */
  constructor(
    code: ErrorCode,
    number: number,
    retryable: boolean,
    advice: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(`${message} [${code}] ${advice}`, options);
    this.code = code;
    this.number = number;
    this.retryable = retryable;
    this.advice = advice;
  }
}

function made({ name, number, retryable, advice }: Row, message: string, cause?: unknown): EtherPlyError {
  return new EtherPlyError(name, number, retryable, advice, message, cause === undefined ? undefined : { cause });
}

/** An error of this package's own. */
export function localError(name: LocalCode, message: string, cause?: unknown): EtherPlyError {
  const [retryable, advice] = LOCAL[name];
  return made({ name, number: 0, retryable, advice }, message, cause);
}

/** An error that the server named by its number. */
export function wireError(number: number, message: string): EtherPlyError {
  const newer = { name: "unknown", number, retryable: true, advice: "Update this package: the server is newer." } as const;
  return made(codeOf(number) ?? newer, message);
}

/** An error under one of the wire's names. */
export function namedError(name: WireCode, message: string, cause?: unknown): EtherPlyError {
  return made(codeNamed(name), message, cause);
}
