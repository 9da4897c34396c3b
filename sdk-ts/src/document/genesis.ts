/**
 * The genesis change, by which a client gives a new document its initial content. It is deterministic: the same
 * content gives the same bytes and the same hash, written by an actor that belongs to nobody, at no time. So two
 * clients that begin one document at once begin the same one, and none hides the other's lists.
 * @module
 */

import type { AutomergeModule } from "../automerge.js";
import { localError } from "../errors.js";
import { GENESIS_ACTOR, GENESIS_BYTES_MAX } from "../wire/limits.js";

/** How deep initial content may be nested. */
const DEPTH_MAX = 64;

/** The genesis change that makes a document of this content; none if there is no content. */
export function genesis(A: AutomergeModule, initial: object): Uint8Array | undefined {
  const content = ordered(A, initial, "initial", 0) as Record<string, unknown>;
  const empty = A.init<Record<string, unknown>>({ actor: GENESIS_ACTOR });
  const made = A.change(empty, { time: 0 }, (doc) => {
    for (const [key, value] of Object.entries(content)) doc[key] = value;
  });
  const [change] = A.getAllChanges(made);
  A.free(made);
  if (change !== undefined && change.length > GENESIS_BYTES_MAX) {
    const text = `the initial content makes a change of ${change.length} bytes, at most ${GENESIS_BYTES_MAX} are allowed`;
    throw localError("initial_invalid", text);
  }
  return change;
}

/** The same content, with the keys of every map in one order. */
function ordered(A: AutomergeModule, value: unknown, path: string, depth: number): unknown {
  const wrong = (what: string): Error => localError("initial_invalid", `${path} ${what}`);
  if (depth > DEPTH_MAX) throw wrong("is nested too deeply, or holds itself");
  switch (typeof value) {
    case "string":
    case "number":
    case "boolean":
    case "bigint":
      return value;
    case "object":
      break;
    default:
      throw wrong(`is ${typeof value}`);
  }
  if (value === null || value instanceof Date || value instanceof Uint8Array) return value;
  if (A.isCounter(value) || A.isImmutableString(value) || value instanceof A.Int || value instanceof A.Uint) return value;
  if (value instanceof A.Float64) return value;
  if (Array.isArray(value)) return (value as unknown[]).map((each, index) => ordered(A, each, `${path}[${index}]`, depth + 1));
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) throw wrong("is no plain object");
  // By code units, as `sort` compares, and not by anybody's language.
  const keys = Object.keys(value).sort();
  return Object.fromEntries(keys.map((key) => [key, ordered(A, Reflect.get(value, key), `${path}.${key}`, depth + 1)]));
}
