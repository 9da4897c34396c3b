/** A page of a version that was taken down: the chunk for tabs is not to be had any more. */

import { expect, it, vi } from "vitest";
import { createClient } from "../../src/index.js";
import type { Store } from "../../src/index.js";
import { fakeServer } from "./fake.js";

vi.mock("../../src/tabs/sharing.js", () => {
  throw new Error("404");
});

it("a client without the chunk for tabs has a connection of its own", async () => {
  const { factory, next } = fakeServer();
  const store: Store = { scope: "ada", document: () => expect.fail("a room keeps nothing") };
  const client = createClient({ url: "ws://fake", webSocket: factory, store });
  const room = client.room("r");
  expect(client.status.state).toBe("connecting");
  const peer = await next();
  await peer.welcome();
  await peer.opens(5);
  expect(room.status).toEqual({ state: "live", error: undefined });
  await client.close();
});
