/**
 * What tabs need of the browser to find each other.
 * @module
 */

/** What is used of the browser's locks. */
export interface Locks {
  request(
    name: string,
    options: { readonly mode?: "exclusive" | "shared"; readonly signal?: AbortSignal; readonly steal?: boolean },
    held: () => Promise<void> | void,
  ): Promise<unknown>;
}

/** What is used of a `BroadcastChannel`. */
export interface TabChannel {
  postMessage(message: unknown): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  close(): void;
}

/** What tabs have in common. */
export interface TabsHost {
  readonly locks: Locks;
  channel(name: string): TabChannel;
  /** Whether somebody looks at this tab: others do not take the lead from one that is silent. */
  isVisible(): boolean;
}

/** What this page has in common with others of its origin; `undefined` where there are no pages, or no locks. */
export function pageTabs(): TabsHost | undefined {
  if (typeof window === "undefined" || typeof document === "undefined" || typeof BroadcastChannel === "undefined") return undefined;
  const locks = (navigator as { locks?: Locks }).locks;
  if (locks === undefined) return undefined;
  return {
    locks,
    channel: (name) => new BroadcastChannel(name) as TabChannel,
    isVisible: () => document.visibilityState === "visible",
  };
}
