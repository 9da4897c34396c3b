/**
 * The wire's limits that a client has to keep, and what a server announces in its `welcome`.
 * @module
 */

import { toHex, utf8 } from "./bytes.js";

/** Longest frame, header included. */
export const FRAME_BYTES_MAX = 2 * 1024 * 1024;
/** Longest name of a document, as UTF-8. */
export const DOCUMENT_ID_BYTES_MAX = 256;
/** Longest access token, as UTF-8. */
export const TOKEN_BYTES_MAX = 16 * 1024;
/** Longest name of a client in its hello, as UTF-8. */
export const AGENT_BYTES_MAX = 128;
/** Longest single change. */
export const CHANGE_BYTES_MAX = 1024 * 1024;
/** Longest commit message of a change, as UTF-8. */
export const CHANGE_MESSAGE_BYTES_MAX = 4 * 1024;
/** The actor of genesis changes. */
export const GENESIS_ACTOR: string = toHex(utf8("etherply genesis"));
/** How the actors of squashes begin: changes that hold what a document held, in place of its history. */
export const SQUASH_ACTOR_PREFIX: string = toHex(utf8("squashed"));
/** Longest genesis change, by which a client gives a new document its initial content. */
export const GENESIS_BYTES_MAX = 64 * 1024;
/** Most changes in one push. */
export const PUSH_CHANGES_MAX = 1_024;
/** Most bytes of changes in one push. */
export const PUSH_BYTES_MAX = FRAME_BYTES_MAX - 64 * 1024;
/** Most documents that one connection has open. */
export const STREAMS_MAX = 1_024;
/** Most pushes of one connection that are not answered yet. */
export const PUSHES_IN_FLIGHT_MAX = 1_024;
/** Most bytes of pushes of one connection that are not answered yet; one push may always be in flight. */
export const PUSH_BYTES_IN_FLIGHT_MAX = 4 * 1024 * 1024;
/** Most entries of one reconcile frame; a longer clock is sent in several. */
export const RECONCILE_ENTRIES_MAX = 4_096;
/** Most entries of a whole clock. */
export const CLOCK_ENTRIES_MAX = 65_536;
/** Longest presence state of a member. */
export const PRESENCE_BYTES_MAX = 4 * 1024;
/** Shortest time to live of a presence state. */
export const PRESENCE_TTL_MS_MIN = 1_000;
/** Longest time to live of a presence state. */
export const PRESENCE_TTL_MS_MAX = 5 * 60 * 1_000;
/** Longest broadcast payload. */
export const BROADCAST_BYTES_MAX = 16 * 1024;
/** Longest topic of a broadcast, as UTF-8. */
export const BROADCAST_TOPIC_BYTES_MAX = 128;
/** Most bytes of a snapshot in one frame. */
export const SNAPSHOT_CHUNK_BYTES_MAX = 64 * 1024;
/** Longest snapshot that this side puts together. */
export const SNAPSHOT_BYTES_MAX = 512 * 1024 * 1024;

/** The server's limits that a client has to keep. */
export interface ServerLimits {
  changeBytesMax: number;
  pushChangesMax: number;
  pushBytesMax: number;
  streamsMax: number;
  pushesInFlightMax: number;
  pushBytesInFlightMax: number;
  presenceBytesMax: number;
  presenceTtlMsMax: number;
  broadcastBytesMax: number;
  /** Time without a frame after which the server ends the connection; 0 if it does not say. */
  idleMs: number;
}

/** What holds before a server said anything, by each limit's number in a `welcome`. */
const KNOWN: Readonly<Record<number, readonly [keyof ServerLimits, number]>> = {
  2: ["changeBytesMax", CHANGE_BYTES_MAX],
  4: ["pushChangesMax", PUSH_CHANGES_MAX],
  5: ["pushBytesMax", PUSH_BYTES_MAX],
  6: ["streamsMax", STREAMS_MAX],
  7: ["pushesInFlightMax", PUSHES_IN_FLIGHT_MAX],
  8: ["pushBytesInFlightMax", PUSH_BYTES_IN_FLIGHT_MAX],
  9: ["presenceBytesMax", PRESENCE_BYTES_MAX],
  10: ["presenceTtlMsMax", PRESENCE_TTL_MS_MAX],
  11: ["broadcastBytesMax", BROADCAST_BYTES_MAX],
  12: ["idleMs", 0],
};

/** What holds before a server said anything. */
export function defaultLimits(): ServerLimits {
  return Object.fromEntries(Object.values(KNOWN)) as unknown as ServerLimits;
}

/** Takes in one entry of a `welcome`: limits are only ever lowered, numbers that are not known say nothing. */
export function announce(limits: ServerLimits, limit: number, value: bigint): void {
  const given = value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
  const name = KNOWN[limit]?.[0];
  if (name !== undefined) limits[name] = name === "idleMs" ? given : Math.min(limits[name], given);
}
