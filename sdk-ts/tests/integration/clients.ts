/** Clients for tests, and waiting for what they come to. */

import { WebSocket } from "ws";
import { createClient } from "../../src/index.js";
import type { Client, ClientOptions, Document, WebSocketFactory } from "../../src/index.js";

const clients: Client[] = [];

/** A client that tries again soon. */
export function client(url: string, options: Partial<ClientOptions> = {}): Client {
  const made = createClient({
    url,
    webSocket: WebSocket as unknown as WebSocketFactory,
    backoff: { baseMs: 20, capMs: 200 },
    ...options,
  });
  clients.push(made);
  return made;
}

/** Ends all clients. */
export async function closeAll(): Promise<void> {
  await Promise.all(clients.splice(0).map((each) => each.close()));
}

/** Waits until this holds of a document, looking whenever it or its status changes. */
export function until<T extends object>(document: Document<T>, holds: (document: Document<T>) => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (!holds(document)) return;
      offs.forEach((off) => off());
      resolve();
    };
    const offs = [document.subscribe((doc) => doc, look), document.onStatus(look)];
    look();
  });
}

/** Waits until all edits are on the server. */
export function saved<T extends object>(document: Document<T>): Promise<void> {
  return until(document, ({ status }) => status.state === "live" && status.savedOnServer);
}
