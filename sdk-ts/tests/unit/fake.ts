/** A server that does what a test says, over a socket that is none. */

import type { WebSocketFactory, WebSocketLike } from "../../src/index.js";
import { decodeFrame, encodeFrame } from "../../src/wire/frame.js";
import type { Frame } from "../../src/wire/frame.js";
import type { BodyOf, Cursor, KindName } from "../../src/wire/kinds.js";

type Listener = (event: never) => void;
type FrameOf<K extends KindName> = Extract<Frame, { kind: K }>;

/** One connection, seen from the server. */
export class Peer implements WebSocketLike {
  binaryType = "";
  isClosed = false;
  private readonly listeners = new Map<string, Listener[]>();
  private readonly frames: Frame[] = [];
  private wake: (() => void) | undefined;

  addEventListener(type: string, listener: Listener): void {
    this.listeners.set(type, [...(this.listeners.get(type) ?? []), listener]);
  }

  /** The client sends. */
  send(data: Uint8Array): void {
    const frame = decodeFrame(data);
    if (frame !== undefined && frame.kind !== "ping") this.frames.push(frame);
    this.wake?.();
  }

  /** The client closes. */
  close(): void {
    this.isClosed = true;
    this.wake?.();
  }

  /** The socket is open. */
  open(): void {
    this.fire("open", {});
  }

  /** Says something to the client. */
  say<K extends KindName>(kind: K, stream: number, body: BodyOf<K>, tail: readonly Uint8Array[] = []): void {
    const bytes = encodeFrame(kind, stream, body, tail);
    this.fire("message", { data: bytes.slice().buffer });
  }

  /** Sends bytes that are no frame. */
  babble(bytes: Uint8Array): void {
    this.fire("message", { data: bytes.slice().buffer });
  }

  /** Hangs up. */
  hangUp(code = 1006): void {
    this.fire("close", { code, reason: "" });
  }

  /** The next frame that the client sends, which is of this kind. */
  async hears<K extends KindName>(kind: K): Promise<FrameOf<K>> {
    while (this.frames.length === 0) {
      if (this.isClosed) throw new Error("the client hung up");
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    const frame = this.frames.shift()!;
    if (frame.kind !== kind) throw new Error(`heard ${frame.kind} instead of ${kind}`);
    return frame as FrameOf<K>;
  }

  /** Waits until the client hangs up. */
  async ended(): Promise<void> {
    while (!this.isClosed) await new Promise<void>((resolve) => (this.wake = resolve));
  }

  /** Takes the client's hello, and welcomes it. */
  async welcome(limits: BodyOf<"welcome">["limits"] = []): Promise<void> {
    this.open();
    await this.hears("hello");
    const session = new Uint8Array(16).fill(7);
    this.say("welcome", 0, { protocol: 1, capabilities: 0n, session, serverTimeMs: BigInt(Date.now()), agent: "fake", limits });
  }

  /** Opens the document that the client asks for. */
  async opens(handle: number, grant: Partial<BodyOf<"opened">> = {}): Promise<FrameOf<"open">> {
    const open = await this.hears("open");
    const body = { rights: open.body.rights, resume: 0, expiresAtMs: 0n, cursor: cursor(0), ...grant };
    this.say("opened", handle, { request: open.body.request, ...body });
    return open;
  }

  private fire(type: string, event: unknown): void {
    for (const listener of this.listeners.get(type) ?? []) listener(event as never);
  }
}

/** A place in a log. */
export function cursor(seq: number, epoch = 1): Cursor {
  return { epoch: BigInt(epoch), seq: BigInt(seq), chain: new Uint8Array(32).fill(seq) };
}

/** Makes connections that a test answers, in the order in which they are made. */
export function fakeServer(): { factory: WebSocketFactory; next(): Promise<Peer> } {
  const made: Peer[] = [];
  let wake: (() => void) | undefined;
  class Fake extends Peer {
    constructor() {
      super();
      made.push(this);
      wake?.();
    }
  }
  return {
    factory: Fake as unknown as WebSocketFactory,
    async next() {
      while (made.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      return made.shift()!;
    },
  };
}
