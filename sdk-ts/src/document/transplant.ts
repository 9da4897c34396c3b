/**
 * Does to one copy of a document what patches did to another: own edits are made again where the document began anew,
 * and undone where others have edited meanwhile.
 *
 * Maps are found again by their keys, elements of lists and texts by what they hold. What is not there any more is
 * passed over, and told.
 * @module
 */

import type { Patch, Prop } from "@automerge/automerge/slim";
import type { AutomergeModule } from "../automerge.js";
import { align, equal } from "./sequence.js";

/** What patches are about, and what they are done to. */
export interface Transplant {
  /** The copy before the patches. */
  readonly before: unknown;
  /** The copy behind them: tells what a patch's value really is. */
  readonly after: unknown;
  /** The copy that is edited, inside of Automerge's `change`. */
  readonly target: object;
  /** Whether a value stays that is another one now than before the patches: somebody else's. */
  readonly keepsOthers: boolean;
}

interface Sequence {
  /** The elements as the patches know them. */
  readonly theirs: Node[];
  /** The elements of the copy that is edited. */
  readonly ours: Node[];
}

/** A place in the copy that the patches are about. The same object stands for an element in both copies. */
class Node {
  readonly children = new Map<string, Node>();
  sequence: Sequence | undefined;
  /** Whether there is something else in the copy that is edited than there was before the patches. */
  isOthers = false;

  constructor(
    /** What stood there before the patches; `undefined` if they made it. */
    public before: unknown,
  ) {}
}

/** Does the patches. Tells what could not be done; nothing if everything was. */
export function transplant(A: AutomergeModule, patches: readonly Patch[], context: Transplant): string[] {
  const surgeon = new Surgeon(A, context);
  const failed: string[] = [];
  for (const patch of patches) {
    const why = surgeon.patch(patch);
    if (why !== undefined) failed.push(why);
  }
  return failed;
}

interface Place {
  readonly node: Node;
  readonly path: Prop[];
}

const GONE = "what it edits is gone from the document";
const OTHERS = "somebody else changed it since";

class Surgeon {
  private readonly root: Node;

  constructor(
    private readonly A: AutomergeModule,
    private readonly context: Transplant,
  ) {
    this.root = new Node(context.before);
  }

  patch(patch: Patch): string | undefined {
    if (patch.action === "conflict") return undefined;
    const steps = "path" in patch ? patch.path : [];
    if (patch.action === "mark" || patch.action === "unmark") return this.mark(patch, steps);
    const prop = steps.at(-1);
    const parent = this.find(steps.slice(0, -1));
    if (prop === undefined || parent === undefined) return GONE;
    switch (patch.action) {
      case "put":
        return typeof prop === "number"
          ? this.putElement(parent, prop, this.real(patch.value, steps))
          : this.putKey(parent, prop, this.real(patch.value, steps));
      case "del":
        return typeof prop === "number"
          ? this.deleteElements(parent, prop, patch.length ?? 1)
          : this.deleteKey(parent, prop);
      case "insert":
        return this.insert(parent, Number(prop), patch.values);
      case "splice":
        return this.spliceText(parent, Number(prop), patch.value);
      case "inc": {
        const counter: unknown = this.at([...parent.path, this.ourProp(parent, prop)]);
        if (!this.A.isCounter(counter)) return GONE;
        (counter as { increment?: (by: number) => void }).increment?.(patch.value);
        return undefined;
      }
      default:
        return `a patch ${(patch as Patch).action} is not known`;
    }
  }

  private putKey(parent: Place, key: string, value: unknown): string | undefined {
    const map = this.at(parent.path);
    if (typeof map !== "object" || map === null || Array.isArray(map)) return GONE;
    const child = new Node(undefined);
    parent.node.children.set(key, child);
    // What would have filled the value is not for the one that stays.
    child.isOthers = this.isOthers(parent, key, map);
    if (child.isOthers) return OTHERS;
    Reflect.set(map, key, value);
    return undefined;
  }

  private deleteKey(parent: Place, key: string): string | undefined {
    const map = this.at(parent.path);
    if (typeof map !== "object" || map === null || !(key in map)) return undefined;
    if (this.isOthers(parent, key, map)) return OTHERS;
    Reflect.deleteProperty(map, key);
    return undefined;
  }

  /** Whether the value at a key is not the one that was there before the patches. */
  private isOthers(parent: Place, key: string, map: object): boolean {
    if (!this.context.keepsOthers || typeof parent.node.before !== "object" || parent.node.before === null) return false;
    return !equal(Reflect.get(parent.node.before, key), plain(Reflect.get(map, key)));
  }

  private putElement(parent: Place, index: number, value: unknown): string | undefined {
    const sequence = this.sequence(parent);
    const element = sequence?.theirs[index];
    const at = element === undefined ? -1 : (sequence?.ours.indexOf(element) ?? -1);
    const list = this.at(parent.path);
    if (sequence === undefined || at < 0 || !Array.isArray(list)) return GONE;
    if (this.context.keepsOthers && element?.isOthers === true) {
      sequence.theirs[index] = new Node(undefined);
      return OTHERS;
    }
    const made = new Node(undefined);
    list[at] = value;
    sequence.theirs[index] = made;
    sequence.ours[at] = made;
    return undefined;
  }

  private deleteElements(parent: Place, index: number, count: number): string | undefined {
    const sequence = this.sequence(parent);
    if (sequence === undefined) return undefined;
    for (const element of sequence.theirs.splice(index, count)) {
      const at = sequence.ours.indexOf(element);
      // What is not there any more needs not be deleted, and what others edited stays.
      if (at < 0 || (this.context.keepsOthers && element.isOthers)) continue;
      const container = this.at(parent.path);
      if (Array.isArray(container)) this.A.deleteAt(container, at);
      else this.A.splice(this.context.target as never, parent.path, at, 1);
      sequence.ours.splice(at, 1);
    }
    return undefined;
  }

  private insert(parent: Place, index: number, values: readonly unknown[]): string | undefined {
    const sequence = this.sequence(parent);
    const list = this.at(parent.path);
    if (sequence === undefined || !Array.isArray(list)) return GONE;
    const at = behind(sequence, index);
    this.A.insertAt(list, at, ...values.map(fresh));
    added(sequence, index, at, values.length);
    return undefined;
  }

  private spliceText(parent: Place, index: number, text: string): string | undefined {
    const sequence = this.sequence(parent);
    if (sequence === undefined || typeof this.at(parent.path) !== "string") return GONE;
    const at = behind(sequence, index);
    this.A.splice(this.context.target as never, parent.path, at, 0, text);
    added(sequence, index, at, text.length);
    return undefined;
  }

  private mark(patch: Patch & { action: "mark" | "unmark" }, steps: readonly Prop[]): string | undefined {
    const place = this.find(steps);
    const sequence = place === undefined ? undefined : this.sequence(place);
    if (place === undefined || sequence === undefined) return GONE;
    const ranges = patch.action === "mark" ? patch.marks : [{ ...patch, value: null }];
    for (const { name, value, start, end } of ranges) {
      const [first, last] = [sequence.theirs[start], sequence.theirs[end - 1]];
      const from = first === undefined ? -1 : sequence.ours.indexOf(first);
      const to = last === undefined ? -1 : sequence.ours.indexOf(last) + 1;
      if (from < 0 || to <= from) return GONE;
      const range = { start: from, end: to, expand: "after" as const };
      if (value === null) this.A.unmark(this.context.target as never, place.path, range, name);
      else this.A.mark(this.context.target as never, place.path, range, name, value);
    }
    return undefined;
  }

  /** The value that a patch puts: what it says, or what it stands for where that cannot be told from it. */
  private real(value: unknown, steps: readonly Prop[]): unknown {
    if (typeof value === "object" || value === "") return fresh(value);
    const real = step(this.context.after, steps);
    return this.A.isCounter(real) ? new this.A.Counter(Number(real)) : this.A.isImmutableString(real) ? real : value;
  }

  private ourProp(parent: Place, prop: Prop): Prop {
    if (typeof prop === "string") return prop;
    const sequence = this.sequence(parent);
    const element = sequence?.theirs[prop];
    return element === undefined ? -1 : (sequence?.ours.indexOf(element) ?? -1);
  }

  /** The place in the copy that is edited of one in the copy that the patches are about. */
  private find(steps: readonly Prop[]): Place | undefined {
    let place: Place = { node: this.root, path: [] };
    for (const prop of steps) {
      if (typeof prop === "number") {
        const sequence = this.sequence(place);
        const element = sequence?.theirs[prop];
        const at = element === undefined ? -1 : (sequence?.ours.indexOf(element) ?? -1);
        if (element === undefined || at < 0) return undefined;
        place = { node: element, path: [...place.path, at] };
      } else {
        let child = place.node.children.get(prop);
        if (child === undefined) {
          child = new Node(step(place.node.before, [prop]));
          place.node.children.set(prop, child);
        }
        if (child.isOthers) return undefined;
        place = { node: child, path: [...place.path, prop] };
      }
    }
    return this.at(place.path) === undefined ? undefined : place;
  }

  /** The elements of a list or text, brought together when it is first come upon. */
  private sequence({ node, path }: Place): Sequence | undefined {
    if (node.sequence !== undefined) return node.sequence;
    const now = this.at(path);
    if (typeof now !== "string" && !Array.isArray(now)) return undefined;
    const before = this.elements(node.before);
    const held = this.elements(now);
    const ours = held.map(({ value }) => new Node(value));
    const places = align(before, held, (one, other) => (one.id !== undefined && one.id === other.id) || equal(one.value, other.value));
    const theirs = places.map((at, index) => {
      const found = ours[at] ?? new Node(undefined);
      const held = found.before;
      found.before = before[index]?.value;
      found.isOthers = at >= 0 && !equal(held, found.before);
      return found;
    });
    node.sequence = { theirs, ours };
    return node.sequence;
  }

  /** Units of UTF-16, as Automerge counts text in JavaScript, or a list's elements, objects with their ids. */
  private elements(value: unknown): readonly { readonly id: string | undefined; readonly value: unknown }[] {
    if (typeof value === "string") return value.split("").map((unit) => ({ id: undefined, value: unit }));
    if (!Array.isArray(value)) return [];
    return (value as unknown[]).map((each) => {
      const isObject = typeof each === "object" && each !== null && !(each instanceof Date) && !(each instanceof Uint8Array);
      const id = isObject ? (this.A.getObjectId(each) ?? undefined) : undefined;
      return { id, value: plain(each) };
    });
  }

  private at(path: readonly Prop[]): unknown {
    return step(this.context.target, path);
  }
}

/** Where to insert what stands at an index: behind the nearest element to the left that both copies have. */
function behind(sequence: Sequence, index: number): number {
  for (let left = Math.min(index, sequence.theirs.length) - 1; left >= 0; left -= 1) {
    const element = sequence.theirs[left];
    const at = element === undefined ? -1 : sequence.ours.indexOf(element);
    if (at >= 0) return at + 1;
  }
  return 0;
}

function added(sequence: Sequence, index: number, at: number, count: number): void {
  const made = Array.from({ length: count }, () => new Node(undefined));
  sequence.theirs.splice(index, 0, ...made);
  sequence.ours.splice(at, 0, ...made);
}

function step(from: unknown, path: readonly Prop[]): unknown {
  let value = from;
  for (const prop of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = Reflect.get(value, prop);
  }
  return value;
}

/** A value of a document without what ties it to the document. */
function plain(value: unknown): unknown {
  if (typeof value !== "object" || value === null || value instanceof Date || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return Array.from(value as unknown[], plain);
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  return Object.fromEntries(Object.keys(value).map((key) => [key, plain(Reflect.get(value, key))]));
}

/** A patch's value, which is filled by the patches behind it. */
function fresh(value: unknown): unknown {
  if (value instanceof Date || value instanceof Uint8Array || typeof value !== "object" || value === null) return value;
  return Array.isArray(value) ? [] : {};
}
