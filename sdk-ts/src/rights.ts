/**
 * What a stream may do, as bits.
 * @module
 */

/** Receive the document's changes. */
export const READ = 1;
/** Push changes. */
export const WRITE = 1 << 1;
/** Set and receive presence, send and receive broadcasts. */
export const PRESENCE = 1 << 2;

/** Whether every right of `wanted` is in `given`. */
export function has(given: number, wanted: number): boolean {
  return (given & wanted) === wanted;
}
