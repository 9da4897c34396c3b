/**
 * The wire's error codes: number, name, whether the same request may succeed later, and what to do next.
 *
 * The table is the server's (`docs/errors.md`); a test compares the two.
 * @module
 */

/** Name, whether to try again, what to do, of the codes from a number on, none of which is left out. */
const ROWS = {
  100: [
    ["protocol_violation", false, "Update this package or the server: they disagree about the protocol."],
    ["unsupported_protocol", false, "Update this package or the server: they disagree about the protocol."],
    ["frame_too_large", false, "Make smaller changes."],
    ["frame_malformed", false, "Update this package or the server: they disagree about the protocol."],
    ["unknown_kind", false, "Update this package or the server: they disagree about the protocol."],
    ["unexpected_kind", false, "Update this package or the server: they disagree about the protocol."],
    ["hello_timeout", true, "Nothing: the client connects again."],
    ["idle_timeout", true, "Nothing: the client connects again."],
    ["too_many_connections", true, "Nothing: the client connects again."],
    ["shutting_down", true, "Nothing: the client connects again."],
    ["internal", true, "Nothing: the client tries again. The server's log has the reason."],
    ["text_not_supported", false, "Let nothing between client and server change messages."],
    ["tls_required", false, "Connect with TLS: the server's address begins with wss://."],
  ],
  200: [
    ["document_id_invalid", false, "Name documents with 1 to 256 bytes without control characters."],
    ["stream_not_open", false, "Report this: the client and the server disagree about what is open."],
    ["already_open", false, "Report this: the client and the server disagree about what is open."],
    ["too_many_streams", false, "Close documents that are not in use."],
    ["forbidden", false, "Ask for rights on this document, or check its name."],
    ["token_required", false, "Give `createClient` an `auth` function."],
    ["token_invalid", false, "Check what `auth` returns for this document."],
    ["token_expired", false, "Return a fresh token from `auth`."],
    ["token_revoked", false, "Return a fresh token from `auth`."],
    ["document_damaged", false, "Have an operator repair the document."],
    ["document_too_large", false, "Go on in a new document, or have this one squashed. Edits that were not taken are kept."],
    ["document_deleted", false, "Use another name. Edits that were not taken can be exported."],
    ["storage_unavailable", true, "Nothing: the client tries again. Edits are kept."],
    ["overloaded", true, "Nothing: the client tries again."],
    ["rights_invalid", false, "Ask for `read`, `write` or `presence`."],
    ["document_reset", true, "Nothing: the client opens the document again."],
    ["keys_unavailable", true, "Nothing: the client tries again."],
  ],
  300: [
    ["push_invalid", false, "Report this, with the exported edits."],
    ["change_malformed", false, "Report this, with the exported edits."],
    ["change_checksum", false, "Report this, with the exported edits."],
    ["change_too_large", false, "Split the edit into several calls of `change`."],
    ["change_compressed", false, "Report this, with the exported edits."],
    ["change_not_canonical", false, "Use the version of Automerge that this package asks for."],
    ["missing_dependencies", true, "Nothing: the client sends what is missing."],
    ["sequence_gap", true, "Nothing: the client sends what is missing."],
    ["actor_forked", false, "Nothing: the client goes on under a fresh actor."],
    ["start_op_wrong", false, "Report this, with the exported edits."],
    ["unknown_actor", false, "Report this, with the exported edits."],
    ["genesis_conflict", false, "Nothing: the client adopts the document as it began."],
    ["actor_not_yours", false, "Nothing: the client goes on under a fresh actor."],
    ["read_only", false, "Ask for the right to write. Edits that were not taken are kept."],
    ["document_ops_exhausted", false, "Go on in a new document."],
    ["actor_excluded", false, "Nothing: the client goes on under a fresh actor."],
    ["change_unusable", false, "Take the edit back with `discardRefused`, and report it with the exported edits."],
  ],
  400: [
    ["presence_too_large", false, "Keep presence below 4 KiB as JSON."],
    ["presence_full", true, "Nothing, or set presence again later."],
    ["broadcast_too_large", false, "Keep messages below 16 KiB as JSON and topics below 128 bytes."],
    ["presence_forbidden", false, "Ask for the right to presence."],
  ],
} as const;

/** A code that the server gives, by its name. */
export type WireCode = (typeof ROWS)[keyof typeof ROWS][number][0];

/** Number, name, whether to try again, what to do. */
export const CODES: readonly (readonly [number, WireCode, boolean, string])[] = Object.entries(ROWS).flatMap(([first, rows]) =>
  rows.map((row, index) => [Number(first) + index, ...row] as const),
);

/** One row of the table. */
export interface WireCodeRow {
  readonly number: number;
  readonly name: WireCode;
  /** Whether the same request may succeed later without being changed. */
  readonly retryable: boolean;
  /** What to do next, for people. */
  readonly advice: string;
}

function rowOf(found: (typeof CODES)[number] | undefined): WireCodeRow | undefined {
  return found && { number: found[0], name: found[1], retryable: found[2], advice: found[3] };
}

/** The row with this number, `undefined` for a code of a newer server. */
export function codeOf(number: number): WireCodeRow | undefined {
  return rowOf(CODES.find(([known]) => known === number));
}

/** The row of a name. */
export function codeNamed(name: WireCode): WireCodeRow {
  return rowOf(CODES.find((known) => known[1] === name)) as WireCodeRow;
}

/** Whether the same request may succeed later. A code that this version does not know is tried again. */
export function isRetryable(number: number): boolean {
  return codeOf(number)?.retryable ?? true;
}

/** The code whose WebSocket close code this is: `4000 + number` for most, the standard's own for a few. */
export function codeOfClose(close: number): WireCodeRow | undefined {
  if (close >= 4100 && close < 4500) return codeOf(close - 4000);
  if (close === 4006 || close === 4007) return codeOf(close - 3900);
  const standard: Readonly<Record<number, WireCode>> = {
    1001: "shutting_down",
    1002: "protocol_violation",
    1003: "text_not_supported",
    1009: "frame_too_large",
    1011: "internal",
    1013: "overloaded",
  };
  const name = standard[close];
  return name === undefined ? undefined : codeNamed(name);
}
