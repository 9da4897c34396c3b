/**
 * One frame, which is one binary WebSocket message: its header, its archive, its tail.
 *
 * `u32 length | u8 protocol | u8 flags | u16 kind | u32 stream | u32 archive bytes | archive | tail`, all
 * little-endian; the length counts everything.
 * @module
 */

import { concat, EMPTY } from "./bytes.js";
import { KINDS, kindOf } from "./kinds.js";
import type { BodyOf, KindName } from "./kinds.js";
import { archive, LayoutError, unarchive } from "./layout.js";
import type { Layout } from "./layout.js";
import { FRAME_BYTES_MAX } from "./limits.js";

/** The protocol version of this package. */
export const PROTOCOL = 1;
/** Bytes of a frame's header. */
export const HEADER_BYTES = 16;
/** A receiver that does not know the frame's kind passes over it instead of ending the connection. */
export const FLAG_SKIPPABLE = 1;

/** A frame that was read. */
export type Frame = {
  readonly [K in KindName]: {
    readonly kind: K;
    /** The server's handle of the document, 0 for the connection itself. */
    readonly stream: number;
    readonly body: BodyOf<K>;
    /** Bytes behind the archive. They borrow those of the message. */
    readonly tail: Uint8Array;
  };
}[KindName];

/** The codes under which unreadable frames are refused. */
export type FrameFault = "frame_too_large" | "frame_malformed" | "unsupported_protocol" | "unknown_kind";

/** Bytes that are no frame that this side takes. */
export class FrameError extends Error {
  constructor(
    /** The wire's code for it. */
    readonly code: FrameFault,
    message: string,
  ) {
    super(message);
    this.name = "FrameError";
  }
}

function malformed(message: string): FrameError {
  return new FrameError("frame_malformed", message);
}

/** Encodes a frame. */
export function encodeFrame<K extends KindName>(
  kind: K,
  stream: number,
  body: BodyOf<K>,
  tail: readonly Uint8Array[] = [],
): Uint8Array {
  const { number, layout } = KINDS[kind];
  const archived = archive(layout as unknown as Layout<BodyOf<K>>, body);
  const header = new Uint8Array(HEADER_BYTES);
  const frame = concat([header, archived, ...tail]);
  const view = new DataView(frame.buffer);
  view.setUint32(0, frame.length, true);
  view.setUint8(4, PROTOCOL);
  view.setUint16(6, number, true);
  view.setUint32(8, stream, true);
  view.setUint32(12, archived.length, true);
  return frame;
}

/**
 * Reads one whole frame. `undefined` is a frame of an unknown kind that says that it may be skipped.
 *
 * Throws a {@link FrameError}. Nothing is copied but texts.
 */
export function decodeFrame(bytes: Uint8Array): Frame | undefined {
  if (bytes.length < HEADER_BYTES) throw malformed("a frame without a header");
  if (bytes.length > FRAME_BYTES_MAX) {
    throw new FrameError("frame_too_large", `a frame of ${bytes.length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  if (length !== bytes.length) throw malformed(`a frame of ${bytes.length} bytes says ${length}`);
  const protocol = view.getUint8(4);
  if (protocol !== PROTOCOL) {
    const text = `a frame of protocol version ${protocol}`;
    throw new FrameError("unsupported_protocol", text);
  }
  const flags = view.getUint8(5);
  if ((flags & ~FLAG_SKIPPABLE) !== 0) throw malformed(`a frame of unknown flags ${flags}`);
  const number = view.getUint16(6, true);
  const kind = kindOf(number);
  if (kind === undefined) {
    if ((flags & FLAG_SKIPPABLE) !== 0) return undefined;
    throw new FrameError("unknown_kind", `a frame of unknown kind ${number}`);
  }
  const archiveBytes = view.getUint32(12, true);
  const end = HEADER_BYTES + archiveBytes;
  const { hasTail, layout } = KINDS[kind];
  if (end > length || (end < length && !hasTail)) {
    throw malformed(`a frame of ${length} bytes has an archive of ${archiveBytes}`);
  }
  const stream = view.getUint32(8, true);
  const tail = end < length ? bytes.subarray(end) : EMPTY;
  try {
    return { kind, stream, body: unarchive(layout as Layout<unknown>, bytes.subarray(HEADER_BYTES, end)), tail } as Frame;
  } catch (error) {
    if (error instanceof LayoutError) throw malformed(`a frame of kind ${number}: ${error.message}`);
    throw error;
  }
}
