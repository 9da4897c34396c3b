/**
 * The client of EtherPly for browsers and Node: shared documents, presence and messages over one connection.
 *
 * @example
 * ```ts
 * const client = createClient({ url: "wss://sync.example.com" });
 * const board = client.document<Board>("boards/42", { initial: { cards: [] } });
 * await board.ready();
 * board.subscribe((doc) => doc.cards, (cards) => render(cards));
 * await board.change((doc) => { doc.cards.push({ title: "hi" }); }).durable();
 * ```
 * @module
 */

export { automerge } from "./automerge.js";
export type { AutomergeModule, WasmSource } from "./automerge.js";
export { Client, createClient } from "./client.js";
export type { AuthRequest, ClientOptions, ErrorListener } from "./client.js";
export type { WebSocketFactory, WebSocketLike } from "./connection.js";
export { Document } from "./document/document.js";
export type { Change, ChangeOptions, DocumentOptions, RefusedEdits } from "./document/document.js";
export type { UndoState } from "./document/undo.js";
export type { Environment } from "./environment.js";
export { EtherPlyError } from "./errors.js";
export type { ErrorCode, LocalCode } from "./errors.js";
export { Presence } from "./presence.js";
export type { Json, Member, Message } from "./presence.js";
export type { AuthReason } from "./protocol/events.js";
export { Room } from "./room.js";
export type { Unsubscribe } from "./signal.js";
export type { ClientStatus, DocumentStatus, RoomStatus, SyncState } from "./status.js";
export { indexedDbStore } from "./store/indexeddb.js";
export type { IndexedDbOptions } from "./store/indexeddb.js";
export type { Batch, DocumentStore, Row, Store, Stored } from "./store/store.js";
export type { Cursor } from "./wire/kinds.js";
export type { WireCode } from "./wire/codes.js";
