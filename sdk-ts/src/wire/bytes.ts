/**
 * Bytes as text and back, and bytes put together. Nothing here knows of frames.
 * @module
 */

const encoder = new TextEncoder();
// The mark of byte order is text like any other: what was written is read again.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** No bytes. */
export const EMPTY: Uint8Array = new Uint8Array(0);

/** Text as UTF-8. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** UTF-8 as text; throws a `TypeError` if it is none. */
export function textOf(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** Bytes as lower-case hexadecimal text. */
export function toHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** Hexadecimal text as bytes; `undefined` if it is none. */
export function fromHex(text: string): Uint8Array | undefined {
  if (text.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(text)) return undefined;
  const bytes = new Uint8Array(text.length / 2);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = Number.parseInt(text.slice(at * 2, at * 2 + 2), 16);
  return bytes;
}

/** Pieces one behind the other. */
export function concat(pieces: readonly Uint8Array[]): Uint8Array {
  let total = 0;
  for (const piece of pieces) total += piece.length;
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** Cuts `bytes` into pieces of these lengths; `undefined` if they are not exactly those of the bytes. */
export function split(bytes: Uint8Array, lengths: readonly number[]): Uint8Array[] | undefined {
  let at = 0;
  const pieces: Uint8Array[] = [];
  for (const length of lengths) {
    if (length > bytes.length - at) return undefined;
    pieces.push(bytes.subarray(at, at + length));
    at += length;
  }
  return at === bytes.length ? pieces : undefined;
}
