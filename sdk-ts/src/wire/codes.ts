/**
 * The wire's error codes: number, name, whether the same request may succeed later, and what to do next.
 *
 * The table is the server's (`docs/errors.md`); a test compares the two.
 * @module
 */

/** A code that the server gives, by its name. */
export type WireCode = (typeof CODES)[number][1];

/** Number, name, whether to try again, what to do. */
export const CODES = [
  [100, "protocol_violation", false, "Update this package or the server: they disagree about the protocol."],
  [101, "unsupported_protocol", false, "Update this package or the server: they speak different versions."],
  [102, "frame_too_large", false, "Make smaller changes."],
  [103, "frame_malformed", false, "Update this package or the server: they disagree about the protocol."],
  [104, "unknown_kind", false, "Update this package: the server is newer."],
  [105, "unexpected_kind", false, "Update this package or the server: they disagree about the protocol."],
  [106, "hello_timeout", true, "Nothing: the client connects again."],
  [107, "idle_timeout", true, "Nothing: the client connects again."],
  [108, "too_many_connections", true, "Nothing: the client connects again later. Operators can raise the limit on open files."],
  [109, "shutting_down", true, "Nothing: the client connects again."],
  [110, "internal", true, "Nothing: the client tries again. The reason is in the server's log."],
  [111, "text_not_supported", false, "Let nothing between client and server change messages."],
  [112, "tls_required", false, "Connect with TLS: the server's address begins with wss://."],
  [200, "document_id_invalid", false, "Name documents with 1 to 256 bytes without control characters."],
  [201, "stream_not_open", false, "Report this: the client and the server disagree about what is open."],
  [202, "already_open", false, "Report this: the client and the server disagree about what is open."],
  [203, "too_many_streams", false, "Close documents that are not in use."],
  [204, "forbidden", false, "Ask for rights on this document, or check its name."],
  [205, "token_required", false, "Give `createClient` an `auth` function."],
  [206, "token_invalid", false, "Check what `auth` returns for this document."],
  [207, "token_expired", false, "Return a fresh token from `auth`."],
  [208, "token_revoked", false, "Return a token from `auth` that was not revoked."],
  [209, "document_damaged", false, "Have an operator repair the document."],
  [210, "document_too_large", false, "Go on in a new document, or have an operator squash this one. Edits that were not taken are kept."],
  [211, "document_deleted", false, "Use another name. Edits that were not taken can be exported."],
  [212, "storage_unavailable", true, "Nothing: the client tries again. Edits are kept."],
  [213, "overloaded", true, "Nothing: the client tries again."],
  [214, "rights_invalid", false, "Ask for `read`, `write` or `presence`."],
  [215, "document_reset", true, "Nothing: the client opens the document again."],
  [300, "push_invalid", false, "Report this: the client made a push that is none."],
  [301, "change_malformed", false, "Report this, with the exported edits."],
  [302, "change_checksum", false, "Report this, with the exported edits."],
  [303, "change_too_large", false, "Split the edit into several calls of `change`."],
  [304, "change_compressed", false, "Report this, with the exported edits."],
  [305, "change_not_canonical", false, "Use the version of Automerge that this package asks for."],
  [306, "missing_dependencies", true, "Nothing: the client sends what is missing."],
  [307, "sequence_gap", true, "Nothing: the client sends what is missing."],
  [308, "actor_forked", false, "Nothing: the client goes on under a fresh actor."],
  [309, "start_op_wrong", false, "Report this, with the exported edits."],
  [310, "unknown_actor", false, "Report this, with the exported edits."],
  [311, "genesis_conflict", false, "Nothing: the client adopts the document as it began."],
  [312, "actor_not_yours", false, "Nothing: the client goes on under a fresh actor."],
  [313, "read_only", false, "Ask for the right to write. Edits that were not taken are kept."],
  [314, "document_ops_exhausted", false, "Go on in a new document."],
  [315, "actor_excluded", false, "Nothing: the client goes on under a fresh actor."],
  [316, "change_unusable", false, "Take the edit back with `discardRefused`, and report it with the exported edits."],
  [400, "presence_too_large", false, "Keep presence below 4 KiB as JSON."],
  [401, "presence_full", true, "Nothing, or set presence again later."],
  [402, "broadcast_too_large", false, "Keep messages below 16 KiB as JSON and topics below 128 bytes, or put them into the document."],
  [403, "presence_forbidden", false, "Ask for the right to presence."],
] as const;

/** One row of the table. */
export interface WireCodeRow {
  readonly number: number;
  readonly name: WireCode;
  /** Whether the same request may succeed later without being changed. */
  readonly retryable: boolean;
  /** What to do next, for people. */
  readonly advice: string;
}

/** The row with this number, `undefined` for a code of a newer server. */
export function codeOf(number: number): WireCodeRow | undefined {
  const row = CODES.find(([known]) => known === number);
  return row === undefined ? undefined : { number: row[0], name: row[1], retryable: row[2], advice: row[3] };
}

/** The row of a name. */
export function codeNamed(name: WireCode): WireCodeRow {
  const row = CODES.find((known) => known[1] === name) ?? CODES[0];
  return { number: row[0], name: row[1], retryable: row[2], advice: row[3] };
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
