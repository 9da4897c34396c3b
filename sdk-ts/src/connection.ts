/**
 * The one WebSocket of a client: made, lost, and made again after a while.
 * @module
 */

import type { Environment } from "./environment.js";
import { localError } from "./errors.js";
import type { EtherPlyError } from "./errors.js";
import { Backoff, RECONNECT } from "./protocol/backoff.js";
import type { Next } from "./protocol/backoff.js";
import { ConnectionError } from "./protocol/events.js";
import type { Session } from "./protocol/session.js";
import { Signal } from "./signal.js";
import type { ClientStatus } from "./status.js";

/** How long a socket may take to open and the server to say welcome. */
export const CONNECT_TIMEOUT_MS = 15_000;

/** What is used of a WebSocket: the browsers', Node's from version 22 on, or the package `ws`. */
export interface WebSocketLike {
  /** As what messages come: the client sets `"arraybuffer"`. */
  binaryType: string;
  /** Sends a message. */
  send(data: Uint8Array): void;
  /** Begins the end of the connection. */
  close(code?: number, reason?: string): void;
  /** It is open, or broke. */
  addEventListener(type: "open" | "error", listener: () => void): void;
  /** A message came. */
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  /** It ended. */
  addEventListener(type: "close", listener: (event: { code: number; reason: string }) => void): void;
}

/** Makes WebSockets. */
export type WebSocketFactory = new (url: string) => WebSocketLike;

/**
 * Where a connection stands: not wanted, on its way, made, waiting for the next attempt, or of no use because the
 * server said so.
 */
type State =
  | { readonly kind: "stopped" | "refused" }
  | { readonly kind: "connecting" | "live"; readonly socket: WebSocketLike; readonly cancel: () => void }
  | { readonly kind: "waiting"; readonly cancel: () => void };

/** What a connection needs. */
export interface ConnectionOptions {
  readonly url: string;
  readonly factory: WebSocketFactory;
  readonly environment: Environment;
  readonly backoff: Backoff;
}

/** Keeps a session connected. */
export class Connection {
  readonly status = new Signal<ClientStatus>({ state: "offline", error: undefined });
  private state: State = { kind: "stopped" };
  private session: Session | undefined;

  constructor(private readonly options: ConnectionOptions) {}

  /** Connects this session from now on. */
  start(session: Session): void {
    this.session = session;
    if (this.state.kind === "stopped" || this.state.kind === "refused") this.connect();
  }

  /** Somebody has reason to believe that it would succeed now: does not wait any longer, or asks whether it is there. */
  hurry(): void {
    if (this.state.kind === "waiting") {
      this.state.cancel();
      this.options.backoff.reset();
      this.connect();
    } else if (this.state.kind === "live") {
      this.session?.ask();
    }
  }

  /** Ends the connection, and makes no other. */
  stop(): void {
    const state = this.state;
    this.state = { kind: "stopped" };
    if (state.kind === "waiting") state.cancel();
    if (state.kind === "connecting" || state.kind === "live") {
      state.cancel();
      state.socket.close(1000);
    }
    this.session?.disconnected();
    this.status.set({ state: "offline", error: undefined });
  }

  /** The server said welcome. */
  welcomed(): void {
    if (this.state.kind !== "connecting") return;
    this.state.cancel();
    this.state = { kind: "live", socket: this.state.socket, cancel: () => undefined };
    this.options.backoff.ready(this.options.environment.now());
    this.status.set({ state: "live", error: undefined });
  }

  /** The server does not answer. */
  silent(): void {
    const state = this.state;
    if (state.kind !== "live" && state.kind !== "connecting") return;
    this.ended(state.socket, undefined, localError("connection_failed", "the server does not answer"));
  }

  private connect(): void {
    const { factory: Factory, environment, url } = this.options;
    let socket: WebSocketLike;
    try {
      socket = new Factory(url);
    } catch (cause) {
      this.wait(RECONNECT, localError("connection_failed", `no WebSocket could be made for ${url}`, cause));
      return;
    }
    socket.binaryType = "arraybuffer";
    const cancel = environment.after(CONNECT_TIMEOUT_MS, () => {
      this.ended(socket, undefined, localError("connection_failed", `${url} did not answer in time`));
    });
    this.state = { kind: "connecting", socket, cancel };
    this.status.set({ state: "connecting", error: this.status.value.error });
    const isCurrent = (): boolean => "socket" in this.state && this.state.socket === socket;
    socket.addEventListener("open", () => {
      if (isCurrent()) this.session?.connected((frame) => this.transmit(socket, frame));
    });
    socket.addEventListener("message", ({ data }) => {
      if (isCurrent()) this.receive(socket, data);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      const text = reason === "" ? `the connection to ${url} ended (${code})` : `the connection ended: ${reason}`;
      this.ended(socket, code, localError("connection_failed", text));
    });
    // A close follows, which says as much.
    socket.addEventListener("error", () => undefined);
  }

  /** A WebSocket that cannot send is of no use: `ws` throws once a bundler packs its optional half wrongly. */
  private transmit(socket: WebSocketLike, frame: Uint8Array): void {
    try {
      socket.send(frame);
    } catch (cause) {
      const error = localError("connection_failed", `the WebSocket cannot send: ${String(cause)}`, cause);
      // The session is in the middle of sending: it hears of the end when it is done.
      queueMicrotask(() => this.ended(socket, undefined, error));
    }
  }

  private receive(socket: WebSocketLike, data: unknown): void {
    try {
      const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(0);
      this.session?.receive(bytes);
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      this.ended(socket, undefined, error.error);
    }
  }

  private ended(socket: WebSocketLike, code: number | undefined, error: EtherPlyError): void {
    if (!("socket" in this.state) || this.state.socket !== socket) return;
    this.state.cancel();
    this.state = { kind: "stopped" };
    socket.close();
    const next = this.session?.disconnected(code) ?? RECONNECT;
    this.wait(next, error);
  }

  private wait(next: Next, error: EtherPlyError): void {
    const { backoff, environment } = this.options;
    const waitMs = backoff.waitMs(next, environment.now(), environment.random());
    if (waitMs === undefined) {
      this.state = { kind: "refused" };
      this.status.set({ state: "refused", error });
      return;
    }
    this.state = { kind: "waiting", cancel: environment.after(waitMs, () => this.connect()) };
    this.status.set({ state: "offline", error });
  }
}
