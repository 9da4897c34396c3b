/** The codec writes and reads the golden vectors to the byte, and refuses everything else by its code. */

import { readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { VERSION } from "../../src/version.js";
import { fromHex, toHex } from "../../src/wire/bytes.js";
import { CODES, codeOf, codeOfClose } from "../../src/wire/codes.js";
import { decodeFrame, encodeFrame, FLAG_SKIPPABLE, FrameError, HEADER_BYTES, PROTOCOL } from "../../src/wire/frame.js";
import type { Frame } from "../../src/wire/frame.js";
import { KINDS, kindOf } from "../../src/wire/kinds.js";
import type { KindName } from "../../src/wire/kinds.js";
import { CHANGE_BYTES_MAX, defaultLimits, announce, FRAME_BYTES_MAX } from "../../src/wire/limits.js";

const ROOT = new URL("../../../", import.meta.url);
const VECTORS = new URL("wire/vectors/", ROOT);

interface Vector {
  name: string;
  kind: string;
  kind_number: number;
  stream: number;
  flags: number;
  body: Record<string, unknown>;
  tail: string;
}

function bin(name: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(`${name}.bin`, VECTORS)));
}

const vectors: Vector[] = readdirSync(VECTORS)
  .filter((name) => name.endsWith(".json"))
  .map((name) => JSON.parse(readFileSync(new URL(name, VECTORS), "utf8")) as Vector);

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** A body as the vectors' JSON has it: numbers of 64 bits and bytes as text. */
function asJson(value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return toHex(value);
  if (Array.isArray(value)) return value.map(asJson);
  if (value === undefined) return null;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [snake(name), asJson(each)]));
}

function frame(bytes: Uint8Array): Frame {
  const read = decodeFrame(bytes);
  if (read === undefined) throw new Error("skipped");
  return read;
}

describe("golden vectors", () => {
  it("cover every kind", () => {
    const numbers = new Set(vectors.map((vector) => vector.kind_number));
    expect([...numbers].sort((a, b) => a - b)).toEqual(
      Object.values(KINDS)
        .map((kind) => kind.number)
        .sort((a, b) => a - b),
    );
  });

  it.each(vectors.map((vector) => [vector.name, vector] as const))("%s is read and written to the byte", (name, vector) => {
    const bytes = bin(name);
    const read = frame(bytes);
    expect(read.kind.toLowerCase()).toBe(vector.kind.toLowerCase());
    expect(KINDS[read.kind].number).toBe(vector.kind_number);
    expect(read.stream).toBe(vector.stream);
    expect(asJson(read.body)).toEqual(vector.body);
    expect(toHex(read.tail)).toBe(vector.tail);
    const written = encodeFrame(read.kind, read.stream, read.body as never, [read.tail]);
    written[5] = vector.flags;
    expect(toHex(written)).toBe(toHex(bytes));
  });

  it("skip an unknown kind that may be skipped, and no other", () => {
    const bytes = bin("unknown_skippable");
    expect(decodeFrame(bytes)).toBeUndefined();
    bytes[5] = 0;
    expect(() => decodeFrame(bytes)).toThrow(expect.objectContaining({ code: "unknown_kind" }));
  });
});

describe("what is no frame", () => {
  const ping = encodeFrame("ping", 0, { nonce: 1n });
  const code = (bytes: Uint8Array): string | undefined => {
    try {
      decodeFrame(bytes);
      return undefined;
    } catch (error) {
      if (error instanceof FrameError) return error.code;
      throw error;
    }
  };
  const changed = (at: number, byte: number): Uint8Array => {
    const bytes = ping.slice();
    bytes[at] = byte;
    return bytes;
  };

  it("is refused by version, flags and kind", () => {
    for (let byte = 0; byte < 256; byte += 1) {
      expect(code(changed(4, byte))).toBe(byte === PROTOCOL ? undefined : "unsupported_protocol");
      expect(code(changed(5, byte))).toBe(byte <= FLAG_SKIPPABLE ? undefined : "frame_malformed");
    }
    for (let number = 0; number < 0x300; number += 1) {
      const bytes = changed(6, number & 0xff);
      bytes[7] = number >> 8;
      if (kindOf(number) === undefined) expect(code(bytes)).toBe("unknown_kind");
      bytes[5] = FLAG_SKIPPABLE;
      if (kindOf(number) === undefined) expect(decodeFrame(bytes)).toBeUndefined();
    }
  });

  it("is refused when it is cut, or its length or archive lies", () => {
    for (const vector of vectors) {
      const bytes = bin(vector.name);
      for (let cut = 0; cut < bytes.length; cut += 1) {
        expect(code(bytes.subarray(0, cut)), `${vector.name} cut at ${cut}`).toBe("frame_malformed");
      }
      for (const length of [0, HEADER_BYTES - 1, bytes.length - 1, bytes.length + 1, 0xffffffff]) {
        const lying = bytes.slice();
        new DataView(lying.buffer).setUint32(0, length, true);
        expect(code(lying)).toBe("frame_malformed");
      }
      for (const archive of [bytes.length - HEADER_BYTES + 1, 0xffffffff]) {
        const lying = bytes.slice();
        new DataView(lying.buffer).setUint32(12, archive, true);
        expect(code(lying)).toBe("frame_malformed");
      }
    }
  });

  it("is refused above the longest frame only", () => {
    const push = (tail: number) =>
      encodeFrame("push", 1, { push: 1n, generation: 1, lengths: [] }, [new Uint8Array(tail)]);
    const rest = push(0).length;
    expect(code(push(FRAME_BYTES_MAX - rest - 1))).toBeUndefined();
    expect(code(push(FRAME_BYTES_MAX - rest))).toBeUndefined();
    expect(code(push(FRAME_BYTES_MAX - rest + 1))).toBe("frame_too_large");
  });

  it("never throws anything else, whatever was altered", () => {
    const anyVector = fc.constantFrom(...vectors.map((vector) => vector.name));
    const flips = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(anyVector, flips, (name, changes) => {
        const bytes = bin(name);
        for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
        code(bytes);
      }),
      { numRuns: 3_000 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void code(bytes)));
  });
});

describe("every kind", () => {
  const text = fc.oneof(fc.string({ unit: "grapheme", maxLength: 12 }), fc.string({ minLength: 55, maxLength: 70 }));
  const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  const u32 = fc.nat(0xffffffff);
  const bytes = (count: number) => fc.uint8Array({ minLength: count, maxLength: count });
  const cursor = fc.record({ epoch: u64, seq: u64, chain: bytes(32) });
  const clock = fc.array(fc.record({ actor: fc.uint8Array({ maxLength: 20 }), seq: u64, hash: bytes(32) }), { maxLength: 5 });
  const u16 = fc.nat(0xffff);
  const u8 = fc.nat(0xff);
  const list = <T>(item: fc.Arbitrary<T>) => fc.array(item, { maxLength: 9 });
  const maybe = <T>(item: fc.Arbitrary<T>) => fc.option(item, { nil: undefined });
  const bodies: { [K in KindName]: Record<string, fc.Arbitrary<unknown>> } = {
    hello: { protocolMin: u8, protocolMax: u8, capabilities: u64, agent: text },
    welcome: {
      protocol: u8,
      capabilities: u64,
      session: bytes(16),
      serverTimeMs: u64,
      agent: text,
      limits: list(fc.record({ limit: u16, value: u64 })),
    },
    open: { request: u32, rights: u16, document: text, token: maybe(text), cursor: maybe(cursor) },
    opened: { request: u32, rights: u16, resume: u8, expiresAtMs: u64, cursor },
    close: { code: u16, message: text },
    renew: { request: u32, token: text },
    rightsChanged: { request: u32, rights: u16, code: u16, expiresAtMs: u64 },
    snapshot: { cursor, totalBytes: u64, offset: u64 },
    changes: { afterSeq: u64, cursor, lengths: list(u32) },
    push: { push: u64, generation: u32, lengths: list(u32) },
    ack: { push: u64, afterSeq: u64, cursor, positions: list(u64) },
    refused: {
      push: u64,
      generation: u32,
      index: u32,
      code: u16,
      retryAfterMs: u32,
      clockComplete: fc.boolean(),
      clock,
      message: text,
    },
    reconcile: { cursor, more: fc.boolean(), clock },
    presenceSet: { ttlMs: u32 },
    presenceUpdate: {
      version: u64,
      full: fc.boolean(),
      entries: list(fc.record({ member: bytes(16), state: fc.uint8Array({ maxLength: 20 }) })),
    },
    presenceLeave: { version: u64, members: list(bytes(16)) },
    broadcastSend: { topic: text },
    broadcast: { index: u64, member: bytes(16), topic: text },
    broadcastGap: { first: u64, last: u64 },
    ping: { nonce: u64 },
    pong: { nonce: u64 },
    error: { request: u32, code: u16, kind: u16, retryAfterMs: u32, message: text },
    goingAway: { code: u16, retryAfterMs: u32, retryJitterMs: u32, message: text },
  };

  it.each(Object.keys(bodies) as KindName[])("%s is read as it was written, at any offset", (kind) => {
    const tails = KINDS[kind].hasTail ? fc.uint8Array({ maxLength: 40 }) : fc.constant(new Uint8Array(0));
    fc.assert(
      fc.property(fc.record(bodies[kind]), u32, tails, fc.nat(16), (body, stream, tail, offset) => {
        const bytes = encodeFrame(kind, stream, body as never, [tail]);
        const shifted = new Uint8Array(offset + bytes.length);
        shifted.set(bytes, offset);
        const read = frame(shifted.subarray(offset));
        expect(read.kind).toBe(kind);
        expect(read.stream).toBe(stream);
        expect(asJson(read.body)).toEqual(asJson(body));
        expect(read.tail).toEqual(tail);
      }),
      { numRuns: 40 },
    );
  });
});

describe("tables", () => {
  it("of codes is the server's", () => {
    const page = readFileSync(new URL("docs/errors.md", ROOT), "utf8");
    const rows = [...page.matchAll(/^\| (\d+) \| `(\w+)` \|.*\| (yes|no) \| (\d+) \|$/gm)];
    expect(rows.map(([, number, name, again]) => [Number(number), name, again === "yes"])).toEqual(
      CODES.map(([number, name, retryable]) => [number, name, retryable]),
    );
    const shared = new Set(["1002", "1013"]);
    for (const [, number, , , close] of rows) {
      if (!shared.has(close ?? "")) expect(codeOfClose(Number(close))).toEqual(codeOf(Number(number)));
    }
    expect(codeOf(1)).toBeUndefined();
    expect(codeOfClose(1000)).toBeUndefined();
  });

  it("of limits is the server's", () => {
    const page = readFileSync(new URL("docs/limits.md", ROOT), "utf8");
    expect(page).toContain("| `CHANGE_BYTES_MAX` | `1024 * 1024` |");
    expect(page).toContain("| `FRAME_BYTES_MAX` | `2 * 1024 * 1024` |");
    const limits = defaultLimits();
    announce(limits, 2, 1_000n);
    announce(limits, 5, 1n << 64n);
    announce(limits, 9_999, 1n);
    announce(limits, 12, 60_000n);
    expect(limits).toEqual({ ...defaultLimits(), changeBytesMax: 1_000, idleMs: 60_000 });
    expect(CHANGE_BYTES_MAX).toBe(1_048_576);
  });

  it("of versions has one", () => {
    const { version } = JSON.parse(readFileSync(new URL("sdk-ts/package.json", ROOT), "utf8")) as { version: string };
    expect(VERSION).toBe(version);
  });

  it("hexadecimal leads back, and nothing else is taken", () => {
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void expect(fromHex(toHex(bytes))).toEqual(bytes)));
    for (const wrong of ["a", "abc", "+f", "0x", " 1", "ä0"]) expect(fromHex(wrong)).toBeUndefined();
  });
});
