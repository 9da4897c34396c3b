/**
 * How values lie in a frame's archive: rkyv's layout with `unaligned, little_endian, pointer_width_32`.
 *
 * A struct's fields stand one behind the other without padding. What has no fixed size (texts of more than
 * eight bytes, lists) stands before the struct that it belongs to, which points to it: a signed distance from the
 * pointer itself, then a count. The root stands at the archive's end. Which structs there are, `kinds.ts` says.
 * @module
 */

import { textOf, utf8 } from "./bytes.js";

/** Bytes that do not hold the value that they should. */
export class LayoutError extends Error {}

/** A list's pointer and count, and a text, which up to this length stands in its place. */
const SLOT_BYTES = 8;
/** Fills a short text's slot; no byte of UTF-8. */
const FILLER = 0xff;

/** An archive that is being written: values are appended, and slots behind them are filled. */
export class Sink {
  private bytes = new Uint8Array(256);
  private view = new DataView(this.bytes.buffer);
  /** Bytes that are written. */
  length = 0;

  /** Makes room for so many bytes, which are zero, and tells where. */
  reserve(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.bytes.length) {
      const larger = new Uint8Array(Math.max(this.length, this.bytes.length * 2));
      larger.set(this.bytes.subarray(0, at));
      this.bytes = larger;
      this.view = new DataView(larger.buffer);
    }
    return at;
  }

  /** Appends bytes, and tells where they are. */
  append(bytes: Uint8Array): number {
    const at = this.reserve(bytes.length);
    this.bytes.set(bytes, at);
    return at;
  }

  /** Puts bytes to a reserved place. */
  put(at: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, at);
  }

  /** The numbers of a reserved place. */
  get numbers(): DataView {
    return this.view;
  }

  /** Everything that was written. */
  finish(): Uint8Array {
    return this.bytes.subarray(0, this.length);
  }
}

/** An archive that is being read. */
export class Source {
  readonly view: DataView;

  constructor(readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Where a pointer leads, if so many bytes are there. */
  target(pointer: number, count: number): number {
    const at = pointer + this.view.getInt32(pointer, true);
    if (at < 0 || at + count > this.bytes.length) throw new LayoutError("a pointer leads out of the archive");
    return at;
  }
}

/** A type of the archive. */
export interface Layout<T> {
  /** Its bytes in a struct or a list. */
  readonly size: number;
  /** Writes what stands before the struct, and tells where: for {@link Layout.fill}. */
  before(sink: Sink, value: T): unknown;
  /** Writes the value to its place. */
  fill(sink: Sink, at: number, value: T, before: unknown): void;
  /** Reads the value at a place of which {@link Layout.size} bytes are in the archive. */
  read(source: Source, at: number): T;
}

/** The type of a layout's values. */
export type ValueOf<L> = L extends Layout<infer T> ? T : never;

type Numbers = "Uint8" | "Uint16" | "Uint32" | "BigUint64";

function number<T extends number | bigint>(size: number, name: Numbers): Layout<T> {
  const [get, set] = [`get${name}`, `set${name}`] as const;
  return {
    size,
    before: () => undefined,
    fill: (sink, at, value) => sink.numbers[set](at, value as never, true),
    read: (source, at) => source.view[get](at, true) as T,
  };
}

/** A number of 8 bits. */
export const u8: Layout<number> = number(1, "Uint8");
/** A number of 16 bits. */
export const u16: Layout<number> = number(2, "Uint16");
/** A number of 32 bits. */
export const u32: Layout<number> = number(4, "Uint32");
/** A number of 64 bits: JavaScript's own numbers end at 2^53. */
export const u64: Layout<bigint> = number(8, "BigUint64");
/** Yes or no. */
export const bool: Layout<boolean> = {
  size: 1,
  before: () => undefined,
  fill: (sink, at, value) => sink.numbers.setUint8(at, value ? 1 : 0),
  read(source, at) {
    const byte = source.view.getUint8(at);
    if (byte > 1) throw new LayoutError("neither yes nor no");
    return byte === 1;
  },
};

/** So many bytes. What is read borrows the archive's. */
export function fixed(size: number): Layout<Uint8Array> {
  return {
    size,
    before: () => undefined,
    fill(sink, at, value) {
      if (value.length !== size) throw new LayoutError(`${value.length} bytes where there are to be ${size}`);
      sink.put(at, value);
    },
    read: (source, at) => source.bytes.subarray(at, at + size),
  };
}

function point(sink: Sink, at: number, target: number, count: number): void {
  sink.numbers.setInt32(at, target - at, true);
  sink.numbers.setUint32(at + 4, count, true);
}

/** Any number of bytes. What is read borrows the archive's. */
export const bytes: Layout<Uint8Array> = {
  size: SLOT_BYTES,
  before: (sink, value) => sink.append(value),
  fill: (sink, at, value, before) => point(sink, at, before as number, value.length),
  read(source, at) {
    const count = source.view.getUint32(at + 4, true);
    const start = source.target(at, count);
    return source.bytes.subarray(start, start + count);
  },
};

/** A list. */
export function list<T>(item: Layout<T>): Layout<readonly T[]> {
  return {
    size: SLOT_BYTES,
    before(sink, value) {
      const befores = value.map((each) => item.before(sink, each));
      const start = sink.reserve(value.length * item.size);
      value.forEach((each, index) => item.fill(sink, start + index * item.size, each, befores[index]));
      return start;
    },
    fill: (sink, at, value, before) => point(sink, at, before as number, value.length),
    read(source, at) {
      const count = source.view.getUint32(at + 4, true);
      const start = source.target(at, count * item.size);
      return Array.from({ length: count }, (_, index) => item.read(source, start + index * item.size));
    },
  };
}

/**
 * Text. Up to eight bytes stand in the slot; of a longer one the slot begins with its length, whose lowest byte
 * has the bits 10 on top, as no UTF-8 begins, then the distance, which counts from the slot's beginning.
 */
export const text: Layout<string> = {
  size: SLOT_BYTES,
  before(sink, value) {
    const encoded = utf8(value);
    return encoded.length <= SLOT_BYTES ? encoded : { at: sink.append(encoded), length: encoded.length };
  },
  fill(sink, at, _value, before) {
    if (before instanceof Uint8Array) {
      sink.put(at, new Uint8Array(SLOT_BYTES).fill(FILLER));
      sink.put(at, before);
      return;
    }
    const { at: target, length } = before as { at: number; length: number };
    sink.numbers.setUint32(at, ((length & ~0x3f) << 2) | 0x80 | (length & 0x3f), true);
    sink.numbers.setInt32(at + 4, target - at, true);
  },
  read(source, at) {
    const field = source.view.getUint32(at, true);
    let encoded: Uint8Array;
    if ((field & 0xc0) === 0x80) {
      const length = ((field >>> 2) & ~0x3f) | (field & 0x3f);
      const start = at + source.view.getInt32(at + 4, true);
      if (start < 0 || start + length > source.bytes.length) throw new LayoutError("a text leads out of the archive");
      encoded = source.bytes.subarray(start, start + length);
    } else {
      const slot = source.bytes.subarray(at, at + SLOT_BYTES);
      const end = slot.indexOf(FILLER);
      encoded = end < 0 ? slot : slot.subarray(0, end);
    }
    try {
      return encoded.length === 0 ? "" : textOf(encoded);
    } catch {
      throw new LayoutError("a text that is not UTF-8");
    }
  },
};

/** A value that may be missing. */
export function option<T>(item: Layout<T>): Layout<T | undefined> {
  return {
    size: 1 + item.size,
    before: (sink, value) => (value === undefined ? undefined : item.before(sink, value)),
    fill(sink, at, value, before) {
      if (value === undefined) return;
      sink.numbers.setUint8(at, 1);
      item.fill(sink, at + 1, value, before);
    },
    read(source, at) {
      const tag = source.view.getUint8(at);
      if (tag > 1) throw new LayoutError("neither there nor missing");
      return tag === 1 ? item.read(source, at + 1) : undefined;
    },
  };
}

/** The values of a struct's fields. */
export type StructOf<F> = { readonly [K in keyof F]: ValueOf<F[K]> };

/** Fields one behind the other. */
export function struct<F extends Readonly<Record<string, unknown>>>(fields: F): Layout<StructOf<F>> {
  const entries = Object.entries(fields) as [keyof F & string, Layout<unknown>][];
  return {
    size: entries.reduce((size, [, field]) => size + field.size, 0),
    before: (sink, value) => entries.map(([name, field]) => field.before(sink, value[name])),
    fill(sink, at, value, before) {
      let place = at;
      entries.forEach(([name, field], index) => {
        field.fill(sink, place, value[name], (before as unknown[])[index]);
        place += field.size;
      });
    },
    read(source, at) {
      let place = at;
      const value: Record<string, unknown> = {};
      for (const [name, field] of entries) {
        value[name] = field.read(source, place);
        place += field.size;
      }
      return value as StructOf<F>;
    },
  };
}

/** Writes a value as an archive of its own: what it points to, then itself at the end. */
export function archive<T>(layout: Layout<T>, value: T): Uint8Array {
  const sink = new Sink();
  const before = layout.before(sink, value);
  layout.fill(sink, sink.reserve(layout.size), value, before);
  return sink.finish();
}

/** Reads the value that stands at an archive's end. Throws a {@link LayoutError}. */
export function unarchive<T>(layout: Layout<T>, archived: Uint8Array): T {
  if (archived.length < layout.size) throw new LayoutError("the archive ends before its value does");
  return layout.read(new Source(archived), archived.length - layout.size);
}

