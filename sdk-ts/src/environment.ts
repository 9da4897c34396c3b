/**
 * What the client needs of the world beside sockets: time, chance, timers. Tests bring their own.
 * @module
 */

import type { TabsHost } from "./tabs/host.js";

/** Time, chance and timers. */
export interface Environment {
  /** Milliseconds from any fixed moment; never goes back. */
  now(): number;
  /** From 0 up to 1. */
  random(): number;
  /** Calls `act` after so many milliseconds, unless the function returned was called before. */
  after(ms: number, act: () => void): () => void;
  /** Locks and messages between the tabs of one browser; without it, where there are such tabs. @internal */
  readonly tabs?: TabsHost;
}

/** Stands for the tab itself, among the names of tabs. */
export const HERE = "";

/** The longest time that a timer can be set to. */
const TIMER_MS_MAX = 0x7fffffff;

/** The real ones. */
export const world: Environment = {
  now: () => performance.now(),
  random: () => Math.random(),
  after(ms, act) {
    const timer = setTimeout(act, Math.min(ms, TIMER_MS_MAX));
    return () => clearTimeout(timer);
  },
};

/** Random bytes that nobody else has. */
export function randomBytes(count: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(count));
}
