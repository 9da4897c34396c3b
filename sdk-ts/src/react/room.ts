/**
 * Presence and messages in components.
 * @module
 */

import { useCallback, useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { Json, Member, Message, Room } from "../index.js";
import { roomOf, use, useEtherPly } from "./context.js";

const nothing = (): void => undefined;
const NOBODY: readonly Member<never>[] = [];

function useRoom(id: string): Room | undefined {
  const room = roomOf(useEtherPly(), id);
  useEffect(() => (room === undefined ? undefined : use(room)), [room]);
  return room;
}

/** Who is here and what they show. */
export interface PresenceHook<P extends Json> {
  /** What this side shows. */
  readonly self: P | undefined;
  /** The others who are here. */
  readonly others: readonly Member<P>[];
  /** Changes some fields of what this side shows. */
  update(fields: Partial<P>): void;
  /** Shows nothing any more. */
  leave(): void;
}

/** Presence of a document or room. Renders again when somebody else's changes, or one's own through `update`. */
export function usePresence<P extends Json = Json>(id: string): PresenceHook<P> {
  const room = useRoom(id);
  const presence = room?.presence;
  const subscribe = useCallback((wake: () => void) => presence?.onChange(wake) ?? nothing, [presence]);
  const others = useSyncExternalStore(
    subscribe,
    () => presence?.others ?? NOBODY,
    () => NOBODY,
  );
  const self = useSyncExternalStore(
    subscribe,
    () => presence?.self,
    () => undefined,
  );
  return useMemo(
    () => ({
      self: self as P | undefined,
      others: others as readonly Member<P>[],
      update: (fields) => presence?.update(fields as never),
      leave: () => presence?.leave(),
    }),
    [presence, others, self],
  );
}

/**
 * Listens to messages on a topic and gives what sends them: `false` if they cannot be sent at the moment. `listener`
 * may be another one with every render.
 */
export function useBroadcast(
  id: string,
  topic: string,
  listener?: (message: Message) => void,
): (payload: Json) => boolean {
  const room = useRoom(id);
  const latest = useRef(listener);
  useEffect(() => {
    latest.current = listener;
  });
  useEffect(() => room?.onBroadcast(topic, (message) => latest.current?.(message)), [room, topic]);
  return useCallback(
    (payload) => {
      if (room?.status.state !== "live") return false;
      room.broadcast(topic, payload);
      return true;
    },
    [room, topic],
  );
}
