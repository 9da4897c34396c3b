/**
 * Documents in components.
 * @module
 */

import { useCallback, useEffect, useMemo, useSyncExternalStore } from "react";
import type { Change, ChangeOptions, ClientStatus, Document, DocumentStatus, UndoState } from "../index.js";
import { documentOf, isPage, use, useEtherPly } from "./context.js";
import type { DocumentRef } from "./context.js";

/** Edits the document; nothing happens, and `undefined` comes back, while there is none yet. */
export type ChangeFunction<T extends object> = (edit: (doc: T) => void, options?: ChangeOptions) => Change | undefined;

const nothing = (): void => undefined;
const never = (): (() => void) => nothing;

/** Keeps a document open for as long as the component is there. */
function useOpen<T extends object>(ref: DocumentRef<T>): Document<T> | undefined {
  const document = documentOf(useEtherPly(), ref);
  useEffect(() => (document === undefined ? undefined : use(document)), [document]);
  return document;
}

/** Remembers what a selector picked, so that an equal value is the same one. */
function remember<T extends object, S>(document: Document<T> | undefined): {
  pick(selector: (doc: T) => S, isEqual: (one: S, other: S) => boolean): S | undefined;
} {
  let last: { doc: T; selector: unknown; value: S } | undefined;
  return {
    pick(selector, isEqual) {
      const doc = document?.current as T | undefined;
      if (doc === undefined) return undefined;
      if (last?.doc === doc && last.selector === selector) return last.value;
      const picked = selector(doc);
      const value = last !== undefined && isEqual(last.value, picked) ? last.value : picked;
      last = { doc, selector, value };
      return value;
    },
  };
}

const whole = <T>(doc: T): T => doc;

function usePicked<T extends object, S>(
  document: Document<T> | undefined,
  selector: (doc: T) => S,
  isEqual: (one: S, other: S) => boolean,
): S | undefined {
  // Another document begins with nothing remembered: the old one is never shown under a new name.
  const memory = useMemo(() => remember<T, S>(document), [document]);
  const subscribe = useCallback(
    (wake: () => void) => {
      if (document === undefined) return nothing;
      const offs = [document.subscribe((doc) => doc, wake), document.onStatus(wake)];
      return () => offs.forEach((off) => off());
    },
    [document],
  );
  return useSyncExternalStore(
    subscribe,
    () => memory.pick(selector, isEqual),
    () => undefined,
  );
}

function useChange<T extends object>(document: Document<T> | undefined): ChangeFunction<T> {
  return useCallback(
    (edit, options) => (document?.current === undefined ? undefined : document.change(edit, options)),
    [document],
  );
}

/** A document, or `undefined` until it is there, and what edits it. Renders again whenever it changes. */
export function useDocument<T extends object>(ref: DocumentRef<T>): readonly [T | undefined, ChangeFunction<T>];
/** What `selector` picks of a document. Renders again only when that is another value. */
export function useDocument<T extends object, S>(
  ref: DocumentRef<T>,
  selector: (doc: T) => S,
  isEqual?: (one: S, other: S) => boolean,
): readonly [S | undefined, ChangeFunction<T>];
export function useDocument<T extends object>(
  ref: DocumentRef<T>,
  selector: (doc: T) => unknown = whole,
  isEqual: (one: unknown, other: unknown) => boolean = Object.is,
): readonly [unknown, ChangeFunction<T>] {
  const document = useOpen(ref);
  return [usePicked(document, selector, isEqual), useChange(document)];
}

const readies = new WeakMap<object, Promise<unknown>>();

/** As {@link useDocument}, and suspends until the document is there. Throws if the server refuses it. */
export function useSuspenseDocument<T extends object>(ref: DocumentRef<T>): readonly [T, ChangeFunction<T>];
/** See {@link useSuspenseDocument}. */
export function useSuspenseDocument<T extends object, S>(
  ref: DocumentRef<T>,
  selector: (doc: T) => S,
  isEqual?: (one: S, other: S) => boolean,
): readonly [S, ChangeFunction<T>];
export function useSuspenseDocument<T extends object>(
  ref: DocumentRef<T>,
  selector: (doc: T) => unknown = whole,
  isEqual: (one: unknown, other: unknown) => boolean = Object.is,
): readonly [unknown, ChangeFunction<T>] {
  const document = useOpen(ref);
  const picked = usePicked(document, selector, isEqual);
  const change = useChange(document);
  // A server renders the fallback, and the page goes on from there.
  if (!isPage || document === undefined) throw new Error("documents are there in pages only: wrap this in <Suspense>");
  if (document.status.state === "refused" && !document.status.ready) throw document.status.error;
  if (document.current === undefined) {
    const ready = readies.get(document) ?? document.ready().catch(nothing);
    readies.set(document, ready);
    throw ready;
  }
  return [picked ?? selector(document.current as T), change];
}

const SERVER_STATUS: ClientStatus = { state: "connecting", error: undefined };
const SERVER_DOCUMENT_STATUS: DocumentStatus = {
  ...SERVER_STATUS,
  ready: false,
  savedLocally: false,
  savedOnServer: true,
  pending: 0,
  writable: undefined,
};

/** Where the client stands. */
export function useSyncStatus(): ClientStatus;
/** Where a document stands. */
export function useSyncStatus<T extends object>(ref: DocumentRef<T>): DocumentStatus;
export function useSyncStatus<T extends object>(ref?: DocumentRef<T>): ClientStatus | DocumentStatus {
  const client = useEtherPly();
  const document = ref === undefined ? undefined : documentOf(client, ref);
  useEffect(() => (document === undefined ? undefined : use(document)), [document]);
  const target = document ?? client;
  const subscribe = useCallback((wake: () => void) => target.onStatus(wake), [target]);
  const server = ref === undefined ? SERVER_STATUS : SERVER_DOCUMENT_STATUS;
  return useSyncExternalStore(
    isPage ? subscribe : never,
    () => target.status,
    () => server,
  );
}

/** What takes this side's edits back, and makes them again. */
export interface Undo extends UndoState {
  undo(): Change | undefined;
  redo(): Change | undefined;
}

const NO_UNDO: UndoState = { canUndo: false, canRedo: false };

/** Takes this side's edits of a document back, and nobody else's. */
export function useUndo<T extends object>(ref: DocumentRef<T>): Undo {
  const document = useOpen(ref);
  const subscribe = useCallback(
    (wake: () => void) => document?.onUndoState(wake) ?? nothing,
    [document],
  );
  const state = useSyncExternalStore(
    subscribe,
    () => document?.undoState ?? NO_UNDO,
    () => NO_UNDO,
  );
  return useMemo(
    () => ({
      ...state,
      undo: () => (state.canUndo ? document?.undo() : undefined),
      redo: () => (state.canRedo ? document?.redo() : undefined),
    }),
    [document, state],
  );
}
