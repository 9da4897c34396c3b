/**
 * The client that components below a provider use, and how long they keep documents open.
 * @module
 */

import { createContext, createElement, useContext } from "react";
import type { FunctionComponent, ReactNode } from "react";
import type { Client, Document, DocumentOptions, Room } from "../index.js";

const Context = createContext<Client | undefined>(undefined);

/** What {@link EtherPlyProvider} takes. */
export interface EtherPlyProviderProps {
  /** Made once, outside of components: `createClient` connects nothing by itself. */
  readonly client: Client;
  readonly children?: ReactNode;
}

/** Gives a client to the components below. */
export const EtherPlyProvider: FunctionComponent<EtherPlyProviderProps> = ({ client, children }) =>
  createElement(Context.Provider, { value: client }, children);

/** The client of the nearest {@link EtherPlyProvider}. */
export function useEtherPly(): Client {
  const client = useContext(Context);
  if (client === undefined) throw new Error("useEtherPly needs an <EtherPlyProvider client={…}> above it");
  return client;
}

/** A document's name, with what it holds if it is new, and how it is opened. */
export type DocumentRef<T extends object> = string | ({ readonly id: string } & DocumentOptions<T>);

/** Whether there is a page: nothing is opened while a server renders. */
export const isPage: boolean = typeof window !== "undefined";

/** How long a document or room stays open that no component uses any more: the next page may use it again. */
export const RELEASE_MS = 2_000;

interface Closable {
  close(): unknown;
}

const uses = new WeakMap<Closable, { count: number; timer: ReturnType<typeof setTimeout> | undefined }>();

/** A component uses it from now on. Gives what ends that. */
export function use(target: Closable): () => void {
  const use = uses.get(target) ?? { count: 0, timer: undefined };
  uses.set(target, use);
  use.count += 1;
  clearTimeout(use.timer);
  return () => {
    use.count -= 1;
    if (use.count > 0) return;
    use.timer = setTimeout(() => {
      uses.delete(target);
      target.close();
    }, RELEASE_MS);
  };
}

/** The document that a reference names; none while a server renders. */
export function documentOf<T extends object>(client: Client, ref: DocumentRef<T>): Document<T> | undefined {
  if (!isPage) return undefined;
  if (typeof ref === "string") return client.document<T>(ref);
  const { id, ...options } = ref;
  return client.document<T>(id, options as DocumentOptions<T>);
}

/** The room of this name; none while a server renders. */
export function roomOf(client: Client, id: string): Room | undefined {
  return isPage ? client.room(id) : undefined;
}

/** The name of a reference. */
export function idOf<T extends object>(ref: DocumentRef<T>): string {
  return typeof ref === "string" ? ref : ref.id;
}
