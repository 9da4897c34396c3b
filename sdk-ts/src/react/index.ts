"use client";
/**
 * React hooks over `@etherply/sdk`, for React 18 and 19.
 * @module
 */

export { EtherPlyProvider, useEtherPly } from "./context.js";
export type { DocumentRef, EtherPlyProviderProps } from "./context.js";
export { useDocument, useSuspenseDocument, useSyncStatus, useUndo } from "./document.js";
export type { ChangeFunction, Undo } from "./document.js";
export { useBroadcast, usePresence } from "./room.js";
export type { PresenceHook } from "./room.js";
