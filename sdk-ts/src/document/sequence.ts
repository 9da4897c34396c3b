/**
 * Finds the elements of one list or text in another version of it, by what they hold.
 * @module
 */

/** Most comparisons of elements; beyond, what two versions have in the middle counts as different. */
const COMPARISONS_MAX = 4_000_000;

/** Of each element of `before`: where it stands in `now`, or -1. Positions only grow. */
export function align<E>(before: readonly E[], now: readonly E[], same: (one: E, other: E) => boolean): number[] {
  const places = new Array<number>(before.length).fill(-1);
  const least = Math.min(before.length, now.length);
  let head = 0;
  while (head < least && same(before[head] as E, now[head] as E)) {
    places[head] = head;
    head += 1;
  }
  let tail = 0;
  while (tail < least - head && same(before[before.length - 1 - tail] as E, now[now.length - 1 - tail] as E)) {
    places[before.length - 1 - tail] = now.length - 1 - tail;
    tail += 1;
  }
  const [left, right] = [before.slice(head, before.length - tail), now.slice(head, now.length - tail)];
  middle(left, right, same).forEach((place, index) => {
    if (place >= 0) places[head + index] = head + place;
  });
  return places;
}

/** Longest common subsequence, by the table of lengths. */
function middle<E>(before: readonly E[], now: readonly E[], same: (one: E, other: E) => boolean): number[] {
  const places = new Array<number>(before.length).fill(-1);
  const width = now.length + 1;
  if (before.length === 0 || now.length === 0 || before.length * width > COMPARISONS_MAX) return places;
  const lengths = new Uint32Array((before.length + 1) * width);
  const at = (row: number, column: number): number => lengths[row * width + column] ?? 0;
  for (let row = before.length - 1; row >= 0; row -= 1) {
    for (let column = now.length - 1; column >= 0; column -= 1) {
      lengths[row * width + column] = same(before[row] as E, now[column] as E)
        ? at(row + 1, column + 1) + 1
        : Math.max(at(row + 1, column), at(row, column + 1));
    }
  }
  let row = 0;
  let column = 0;
  while (row < before.length && column < now.length) {
    if (same(before[row] as E, now[column] as E)) {
      places[row] = column;
      row += 1;
      column += 1;
    } else if (at(row + 1, column) >= at(row, column + 1)) row += 1;
    else column += 1;
  }
  return places;
}

/** Whether two values of documents hold the same. */
export function equal(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  if (one instanceof Date || other instanceof Date) {
    return one instanceof Date && other instanceof Date && one.getTime() === other.getTime();
  }
  if (one instanceof Uint8Array || other instanceof Uint8Array) {
    if (!(one instanceof Uint8Array && other instanceof Uint8Array) || one.length !== other.length) return false;
    return one.every((byte, index) => byte === other[index]);
  }
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const names = Object.keys(one);
  if (names.length !== Object.keys(other).length) return false;
  return names.every((name) => Object.hasOwn(other, name) && equal(Reflect.get(one, name), Reflect.get(other, name)));
}
