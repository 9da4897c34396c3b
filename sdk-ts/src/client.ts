/**
 * A client: one connection to a server, and the documents and rooms on it.
 * @module
 */

import { automerge } from "./automerge.js";
import type { WasmSource } from "./automerge.js";
import { Connection } from "./connection.js";
import type { WebSocketFactory } from "./connection.js";
import { Document } from "./document/document.js";
import type { Parts, DocumentOptions } from "./document/document.js";
import { world } from "./environment.js";
import type { Environment } from "./environment.js";
import { localError, namedError } from "./errors.js";
import type { EtherPlyError } from "./errors.js";
import { Backoff } from "./protocol/backoff.js";
import type { AuthReason } from "./protocol/events.js";
import { Session } from "./protocol/session.js";
import { Channel, Room } from "./room.js";
import type { RoomHost } from "./room.js";
import { Listeners, Signal } from "./signal.js";
import type { Unsubscribe } from "./signal.js";
import type { ClientStatus } from "./status.js";
import type { Store } from "./store/store.js";
import type { Sharing } from "./tabs/sharing.js";
import { VERSION } from "./version.js";
import { utf8 } from "./wire/bytes.js";
import { DOCUMENT_ID_BYTES_MAX } from "./wire/limits.js";

/** Why and for which document a token is asked for. */
export interface AuthRequest {
  /** The document's name. */
  readonly documentId: string;
  /** The document is opened; its token will end soon; its token has ended; it was revoked. */
  readonly reason: AuthReason;
}

/** How a client is made. */
export interface ClientOptions {
  /** Where the server listens: `wss://…`, or `ws://…` on this machine. `https` and `http` mean the same. */
  readonly url: string;
  /**
   * Gives the token that grants rights on a document, where the server asks for one; `null` if there is none for this
   * user, which is final. If it throws or rejects, it is called again after a while.
   */
  readonly auth?: (request: AuthRequest) => Promise<string | null> | string | null;
  /** Where documents are kept, so that edits outlive the page or the program. Without it they are in memory only. */
  readonly store?: Store;
  /** The WebSocket to use where there is none, as in Node before version 22: that of the package `ws`. */
  readonly webSocket?: WebSocketFactory;
  /** Where Automerge's WebAssembly comes from, if not from the package's own copy. */
  readonly wasm?: WasmSource;
  /**
   * Whether the tabs of one browser share one connection, which they do where their store is the same, its subject is,
   * and the server is. `"separate"` gives each its own.
   */
  readonly tabs?: "share" | "separate";
  /** Name and version of the application, for the server's logs. */
  readonly agent?: string;
  /** How long to wait before connecting again, in milliseconds: at first, and at most. */
  readonly backoff?: { readonly baseMs?: number; readonly capMs?: number };
  /** Time, chance and timers, for tests. */
  readonly environment?: Environment;
}

/** An error that nobody waited for, and what it is about. */
export type ErrorListener = (error: EtherPlyError, documentId: string) => void;

/** A connection to a server, with documents and rooms on it. */
export class Client {
  private readonly statuses = new Signal<ClientStatus>({ state: "offline", error: undefined });
  /** The tabs that have one connection, if this is one of them. */
  private sharing: Sharing | undefined;
  /** Whether that is not known yet. */
  private isLoading = false;
  private readonly connection: Connection;
  private readonly session: Session;
  private readonly channels = new Map<string, Channel>();
  private readonly documents = new Map<string, Document<never>>();
  private readonly rooms = new Map<string, Room>();
  private readonly errors = new Listeners<[EtherPlyError, string]>();
  private readonly host: RoomHost;
  private readonly leavePage: () => void;
  private isClosed = false;
  private isPaused = false;
  private isSuspended = false;

  /** Made by {@link createClient}. @internal */
  constructor(private readonly options: ClientOptions) {
    const environment = options.environment ?? world;
    const { auth } = options;
    const ask = async (documentId: string, reason: AuthReason): Promise<string | undefined> => {
      const token = await auth?.({ documentId, reason });
      if (token === null) throw localError("auth_refused", `there is no token for ${documentId}`);
      return token;
    };
    this.connection = new Connection({
      url: address(options.url),
      factory: options.webSocket ?? webSocket(),
      environment,
      backoff: new Backoff(options.backoff?.baseMs, options.backoff?.capMs),
    });
    this.session = new Session({
      agent: options.agent ?? `etherply-sdk/${VERSION}`,
      environment,
      token: auth === undefined ? undefined : ask,
      ready: () => this.connection.welcomed(),
      silent: () => this.connection.silent(),
    });
    this.host = {
      session: this.session,
      environment,
      status: this.statuses,
      // What is open for other tabs only is told there.
      report: (error, documentId) => {
        if (this.sharing?.isGuest(documentId) !== true) this.errors.tell(error, documentId);
      },
      release: (channel) => void this.channels.delete(channel.id),
    };
    const { store, tabs } = options;
    if (store?.scope !== undefined && tabs !== "separate") void this.share(store.scope);
    // The connection's status is the client's, where it is this tab's.
    this.connection.status.subscribe((status) => {
      if (this.sharing?.isElsewhere !== true) this.statuses.set(status);
    });
    this.leavePage = watchPage({
      hurry: () => this.hurry(),
      suspend: () => this.suspend(true),
      resume: () => this.suspend(false),
    });
  }

  /** Where the client stands. */
  get status(): ClientStatus {
    return this.statuses.value;
  }

  /** Whether every edit of every document would survive if this page or program ended now. */
  get isSaved(): boolean {
    return [...this.documents.values()].every(({ status }) => status.savedOnServer || status.savedLocally);
  }

  /** Watches where the client stands. */
  onStatus(listener: (status: ClientStatus) => void): Unsubscribe {
    return this.statuses.subscribe(listener);
  }

  /** Hears of errors that nobody waits for: refusals, and edits that were lost. */
  onError(listener: ErrorListener): Unsubscribe {
    return this.errors.add(listener);
  }

  /**
   * A shared document. The first call opens it, later ones with the same name return the same object until it is
   * closed; their options do not count.
   *
   * Throws `document_id_invalid`, `too_many_streams`, `closed`.
   */
  document<T extends object>(id: string, options: DocumentOptions<T> = {}): Document<T> {
    const known = this.documents.get(id);
    if (known !== undefined) {
      this.sharing?.claim(known, options);
      return known as unknown as Document<T>;
    }
    const channel = this.channel(id);
    const store = this.options.store?.document(id);
    const document = new Document<T>(channel, options, () => this.parts(), store, (kept) => {
      this.documents.delete(id);
      void kept.then(() => this.sharing?.again(id));
    });
    this.documents.set(id, document as unknown as Document<never>);
    this.connect();
    return document;
  }

  /**
   * Presence and messages under a name, without content: never loads Automerge. It is the same presence as that of
   * the document of this name.
   *
   * Throws `document_id_invalid`, `too_many_streams`, `closed`.
   */
  room(id: string): Room {
    const known = this.rooms.get(id);
    if (known !== undefined) {
      this.sharing?.claim(known);
      return known;
    }
    const room = new Room(this.channel(id), () => {
      this.rooms.delete(id);
      this.sharing?.again(id);
    });
    this.rooms.set(id, room);
    this.connect();
    return room;
  }

  /** Goes online again after {@link Client.disconnect}, or after the server refused the client. */
  reconnect(): void {
    this.isPaused = false;
    this.hurry();
    this.connect();
  }

  /**
   * Goes offline until {@link Client.reconnect}. Documents stay, and can be edited. Other tabs stay online; this one
   * hears nothing of them.
   */
  disconnect(): void {
    this.isPaused = true;
    this.unlink();
  }

  /**
   * Asks before the page is left while edits are neither on the server's disk nor in the store. Browsers decide how.
   * Does nothing where there is no page.
   */
  guardUnload(): Unsubscribe {
    if (typeof window === "undefined") return () => undefined;
    const ask = (event: BeforeUnloadEvent): void => {
      if (!this.isSaved) event.preventDefault();
    };
    window.addEventListener("beforeunload", ask);
    return () => window.removeEventListener("beforeunload", ask);
  }

  /** Closes all documents and rooms, and the connection. Resolves when what is to be kept is kept. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    const kept = [...this.documents.values()].map((document) => document.close());
    for (const room of [...this.rooms.values()]) room.close();
    this.leavePage();
    await Promise.all(kept);
    this.unlink();
    this.errors.clear();
  }

  /** What needs Automerge is loaded with it. */
  private async parts(): Promise<Parts> {
    const [A, parts] = await Promise.all([automerge(this.options.wasm), import("./document/content.js")]);
    return { A, ...parts };
  }

  private connect(): void {
    if (this.isPaused || this.isSuspended || this.isClosed || this.channels.size === 0) return;
    if (this.sharing !== undefined) this.sharing.group.join();
    // Others may be there: until that is known, this tab is not alone.
    else if (this.isLoading) this.statuses.set({ state: "connecting", error: undefined });
    else this.connection.start(this.session);
  }

  /** Is not connected any more, nor one of the tabs that are. */
  private unlink(): void {
    this.sharing?.group.leave();
    this.connection.stop();
    this.statuses.set({ state: "offline", error: undefined });
  }

  private hurry(): void {
    this.connection.hurry();
    this.sharing?.group.post({ kind: "hurry" });
  }

  /** The page is frozen, or in the back/forward cache; or it is back. */
  private suspend(isSuspended: boolean): void {
    if (isSuspended === this.isSuspended) return;
    this.isSuspended = isSuspended;
    if (isSuspended) this.unlink();
    else this.connect();
  }

  /** Becomes one of the tabs with this store, where there are tabs. */
  private async share(scope: string): Promise<void> {
    this.isLoading = true;
    try {
      const { share } = await import("./tabs/sharing.js");
      this.sharing = share(this, scope);
    } catch {
      // The chunk is not to be had, as on a page of a version that was taken down: it has a connection of its own.
    }
    this.isLoading = false;
    this.connect();
  }

  private channel(id: string): Channel {
    if (this.isClosed) throw localError("closed", "the client was closed");
    const bytes = utf8(id).length;
    // eslint-disable-next-line no-control-regex
    if (bytes === 0 || bytes > DOCUMENT_ID_BYTES_MAX || /[\u0000-\u001f\u007f-\u009f]/.test(id)) {
      throw namedError("document_id_invalid", `a document's name of ${bytes} bytes`);
    }
    const known = this.channels.get(id);
    if (known !== undefined) return known;
    const channel = new Channel(id, this.host);
    this.channels.set(id, channel);
    this.sharing?.add(channel);
    return channel;
  }
}

/** A client of the server at `url`. It connects when the first document or room is asked for. */
export function createClient(options: ClientOptions): Client {
  claim();
  return new Client(options);
}

const COPY = Symbol.for("@etherply/sdk");
const self = {};

/** Says so if another copy of this package is loaded: documents of the one are not those of the other. */
function claim(): void {
  const other: unknown = Reflect.get(globalThis, COPY);
  if (other === undefined) Reflect.set(globalThis, COPY, self);
  else if (other !== self) console.error(localError("two_copies", "two copies of @etherply/sdk are loaded").message);
}

function address(url: string): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch (cause) {
    throw localError("bad_argument", `${url} is no URL`, cause);
  }
  parsed.protocol = parsed.protocol.replace("http", "ws");
  if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") {
    throw localError("bad_argument", `a server is at ws:// or wss://, not at ${parsed.protocol}//`);
  }
  parsed.hash = "";
  return parsed.href;
}

function webSocket(): WebSocketFactory {
  const found = (globalThis as { WebSocket?: WebSocketFactory }).WebSocket;
  if (found === undefined) throw localError("websocket_missing", "there is no WebSocket here");
  return found;
}

/** What a page goes through, as far as it concerns a client. */
interface PageEvents {
  /** The network is back, or somebody looks at the page again. */
  hurry(): void;
  /** The page is frozen, in the back/forward cache, or on its way out. */
  suspend(): void;
  resume(): void;
}

function watchPage({ hurry, suspend, resume }: PageEvents): () => void {
  if (typeof window === "undefined" || typeof document === "undefined") return () => undefined;
  const seen = (): void => {
    if (document.visibilityState === "visible") hurry();
  };
  const events = [
    [window, "online", hurry],
    [document, "visibilitychange", seen],
    [window, "pagehide", suspend],
    [window, "pageshow", resume],
    [document, "freeze", suspend],
    [document, "resume", resume],
  ] as const;
  const left = new AbortController();
  for (const [target, name, listener] of events) target.addEventListener(name, listener, left);
  return () => left.abort();
}
