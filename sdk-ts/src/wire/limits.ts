/**
 * The wire's limits that a client has to keep, and what a server announces in its `welcome`.
 * @module
 */

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

/** What holds before a server said anything. */
export function defaultLimits(): ServerLimits {
  return {
    changeBytesMax: CHANGE_BYTES_MAX,
    pushChangesMax: PUSH_CHANGES_MAX,
    pushBytesMax: PUSH_BYTES_MAX,
    streamsMax: STREAMS_MAX,
    pushesInFlightMax: PUSHES_IN_FLIGHT_MAX,
    pushBytesInFlightMax: PUSH_BYTES_IN_FLIGHT_MAX,
    presenceBytesMax: PRESENCE_BYTES_MAX,
    presenceTtlMsMax: PRESENCE_TTL_MS_MAX,
    broadcastBytesMax: BROADCAST_BYTES_MAX,
    idleMs: 0,
  };
}

/** The number of each limit in a `welcome`. */
const ANNOUNCED: Readonly<Record<number, keyof ServerLimits>> = {
  2: "changeBytesMax",
  4: "pushChangesMax",
  5: "pushBytesMax",
  6: "streamsMax",
  7: "pushesInFlightMax",
  8: "pushBytesInFlightMax",
  9: "presenceBytesMax",
  10: "presenceTtlMsMax",
  11: "broadcastBytesMax",
};
const ANNOUNCED_IDLE = 12;

/** Takes in one entry of a `welcome`: limits are only ever lowered, numbers that are not known say nothing. */
export function announce(limits: ServerLimits, limit: number, value: bigint): void {
  const given = value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
  if (limit === ANNOUNCED_IDLE) {
    limits.idleMs = given;
    return;
  }
  const name = ANNOUNCED[limit];
  if (name !== undefined) limits[name] = Math.min(limits[name], given);
}
