/** What the server sends while Automerge is still on its way. */

import { expect, it, vi } from "vitest";
import { automerge, createClient } from "../../src/index.js";
import { genesis } from "../../src/document/genesis.js";
import { cursor, fakeServer } from "./fake.js";

/** Holds back what documents need, as a slow network does. */
const gate = vi.hoisted(() => {
  let open = (): void => undefined;
  return { passed: new Promise<void>((resolve) => (open = resolve)), open: () => open() };
});
vi.mock("../../src/document/content.js", async (original) => {
  await gate.passed;
  return await original();
});

it("a document tells where the connection stands, whether or not there is Automerge", async () => {
  const { factory, next } = fakeServer();
  const client = createClient({ url: "ws://fake", webSocket: factory, backoff: { baseMs: 1, capMs: 2 } });
  const document = client.document("boards/truth");
  const states: string[] = [];
  document.onStatus(({ state }) => states.push(state));
  expect(document.status.state).toBe("connecting");
  const peer = await next();
  await peer.welcome();
  await peer.opens(5, { cursor: cursor(0), rights: 1 });
  // Nothing was read yet, but the server said what it allows.
  expect(document.status).toMatchObject({ state: "connecting", ready: false, writable: false });
  peer.hangUp();
  expect(document.status).toMatchObject({ state: "offline", error: { code: "connection_failed" } });
  await (await next()).welcome();
  expect(document.status).toMatchObject({ state: "connecting" });
  client.disconnect();
  expect(document.status).toMatchObject({ state: "offline", error: undefined });
  expect(new Set(states)).toEqual(new Set(["connecting", "offline"]));
  await client.close();
});

it("a document is ready with all that the server had, also if that came in pieces before there was Automerge", async () => {
  const A = await automerge();
  const { factory, next } = fakeServer();
  const client = createClient({ url: "ws://fake", webSocket: factory });
  const initial = { cards: [] as string[] };
  const document = client.document("boards/early", { initial });
  const ready = document.ready();

  const first = genesis(A, initial)!;
  const [begun] = A.applyChanges(A.init<typeof initial>(), [first]);
  const second = A.getLastLocalChange(A.change(begun, (doc) => void doc.cards.push("a")))!;
  const peer = await next();
  await peer.welcome();
  await peer.opens(5, { cursor: cursor(2) });
  peer.say("changes", 5, { afterSeq: 0n, cursor: cursor(1), lengths: [first.length] }, [first]);
  peer.say("changes", 5, { afterSeq: 1n, cursor: cursor(2), lengths: [second.length] }, [second]);
  expect(document.status).toMatchObject({ ready: false });

  gate.open();
  expect(await ready).toEqual({ cards: ["a"] });
  expect(document.status).toMatchObject({ state: "live", pending: 0 });
  await client.close();
});
