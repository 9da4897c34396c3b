// @vitest-environment happy-dom
/** Hooks: what is rendered, and how often. */

import { act, createElement, StrictMode, Suspense } from "react";
import type { FunctionComponent, ReactNode } from "react";
import { createRoot, hydrateRoot } from "react-dom/client";
import type { Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { automerge, createClient } from "../../src/index.js";
import type { Client } from "../../src/index.js";
import {
  EtherPlyProvider,
  useBroadcast,
  useDocument,
  usePresence,
  useSuspenseDocument,
  useSyncStatus,
  useUndo,
} from "../../src/react/index.js";
import type { ChangeFunction, Undo } from "../../src/react/index.js";
import { fakeServer } from "./fake.js";
import type { Peer } from "./fake.js";

(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

interface Board {
  title: string;
  count: number;
}
const ref = (id: string) => ({ id, initial: { title: id, count: 0 } });

beforeAll(async () => {
  await automerge();
});

let client: Client;
let next: () => Promise<Peer>;
let root: Root;
let page: HTMLElement;

beforeEach(() => {
  const fake = fakeServer();
  next = fake.next;
  client = createClient({ url: "ws://fake", webSocket: fake.factory });
  page = document.createElement("div");
  root = createRoot(page);
});
afterEach(async () => {
  await act(async () => {
    root.unmount();
    await client.close();
  });
});

const provided = (children: ReactNode) => createElement(EtherPlyProvider, { client, children });

/** Opens documents as they are asked for: new ones, each under its own handle. */
async function serve(peer: Peer, ids: readonly string[]): Promise<void> {
  for (const [index, id] of ids.entries()) {
    const open = await peer.opens(index + 5);
    expect(open.body.document).toBe(id);
  }
}

async function ready(...ids: string[]): Promise<void> {
  await act(async () => {
    const peer = await next();
    await peer.welcome();
    await serve(peer, ids);
    for (const id of ids) await client.document<Board>(id).ready();
  });
}

describe("useDocument", () => {
  it("renders again only when the selection changes", async () => {
    let renders = 0;
    let change: ChangeFunction<Board> | undefined;
    const Title: FunctionComponent = () => {
      renders += 1;
      const [title, edit] = useDocument(ref("a"), (doc: Board) => ({ text: doc.title }), (one, other) => one.text === other.text);
      change = edit;
      return createElement("p", null, title?.text ?? "…");
    };
    await act(async () => root.render(provided(createElement(Title))));
    expect([page.textContent, renders]).toEqual(["…", 1]);
    expect(change?.(() => undefined)).toBeUndefined();
    await ready("a");
    expect([page.textContent, renders]).toEqual(["a", 2]);
    await act(async () => void change?.((doc) => void (doc.count += 1)));
    expect(renders).toBe(2);
    await act(async () => void change?.((doc) => void (doc.title = "b")));
    expect([page.textContent, renders]).toEqual(["b", 3]);
  });

  it("never shows the old document under a new name, in StrictMode as well", async () => {
    const shown: string[] = [];
    const Title: FunctionComponent<{ id: string }> = ({ id }) => {
      const [doc] = useDocument<Board>(ref(id));
      shown.push(`${id}:${doc?.title ?? "…"}`);
      return createElement("p", null, doc?.title ?? "…");
    };
    const at = (id: string) => createElement(StrictMode, null, provided(createElement(Title, { id })));
    client.document<Board>("b", ref("b"));
    await act(async () => root.render(at("a")));
    await ready("b", "a");
    expect(page.textContent).toBe("a");
    await act(async () => root.render(at("b")));
    expect(page.textContent).toBe("b");
    await act(async () => root.render(at("c")));
    expect(page.textContent).toBe("…");
    expect(new Set(shown)).toEqual(new Set(["a:…", "a:a", "b:b", "c:…"]));
  });

  it("needs a provider, and says so", () => {
    const Alone: FunctionComponent = () => createElement("p", null, useSyncStatus().state);
    expect(() => renderToString(createElement(Alone))).toThrow("<EtherPlyProvider");
  });
});

describe("other hooks", () => {
  it("suspend, take back, tell the status", async () => {
    let undo: Undo | undefined;
    let change: ChangeFunction<Board> | undefined;
    const Count: FunctionComponent = () => {
      const [count, edit] = useSuspenseDocument(ref("a"), (doc: Board) => doc.count);
      undo = useUndo(ref("a"));
      change = edit;
      const status = useSyncStatus(ref("a"));
      return createElement("p", null, `${count} ${status.pending}`);
    };
    const tree = createElement(Suspense, { fallback: "waiting" }, createElement(Count));
    await act(async () => root.render(provided(tree)));
    expect(page.textContent).toBe("waiting");
    await ready("a");
    expect(page.textContent).toBe("0 1");
    expect(undo).toMatchObject({ canUndo: false, canRedo: false });
    await act(async () => void change?.((doc) => void (doc.count = 5)));
    expect(page.textContent).toBe("5 2");
    await act(async () => void undo?.undo());
    expect(page.textContent).toBe("0 3");
    expect(undo).toMatchObject({ canUndo: false, canRedo: true });
    await act(async () => void undo?.redo());
    expect(page.textContent).toBe("5 4");
  });

  it("show who is here, and hear messages, without a document", async () => {
    const heard: unknown[] = [];
    let send: ((payload: string) => boolean) | undefined;
    let update: ((fields: { x: number }) => void) | undefined;
    const Cursors: FunctionComponent = () => {
      const presence = usePresence<{ x: number }>("r");
      send = useBroadcast("r", "t", ({ payload }) => heard.push(payload));
      update = presence.update;
      return createElement("p", null, JSON.stringify([presence.self ?? null, presence.others.map(({ state }) => state)]));
    };
    await act(async () => root.render(provided(createElement(Cursors))));
    expect(send?.("too early")).toBe(false);
    await act(async () => update?.({ x: 1 }));
    let peer: Peer | undefined;
    await act(async () => {
      peer = await next();
      await peer.welcome();
      expect((await peer.opens(5)).body.rights).toBe(4);
      expect(new TextDecoder().decode((await peer.hears("presenceSet")).tail)).toBe('{"x":1}');
      const state = new TextEncoder().encode('{"x":2}');
      peer.say("presenceUpdate", 5, { version: 1n, full: true, entries: [{ member: new Uint8Array(16), state }] });
      peer.say("broadcast", 5, { index: 1n, member: new Uint8Array(16), topic: "t" }, [new TextEncoder().encode('"hi"')]);
    });
    expect(page.textContent).toBe('[{"x":1},[{"x":2}]]');
    expect(heard).toEqual(["hi"]);
    expect(send?.("now")).toBe(true);
  });
});

describe("a server's page", () => {
  it("is taken over as it is, and goes on from there", async () => {
    const Title: FunctionComponent = () => createElement("p", null, useDocument<Board>(ref("a"))[0]?.title ?? "…");
    const html = renderToString(provided(createElement(Title)));
    expect(html).toBe("<p>…</p>");
    page = document.createElement("div");
    page.innerHTML = html;
    const complaints: unknown[] = [];
    let hydrated: Root | undefined;
    await act(async () => {
      hydrated = hydrateRoot(page, provided(createElement(Title)), { onRecoverableError: (error) => complaints.push(error) });
    });
    await ready("a");
    expect(page.textContent).toBe("a");
    expect(complaints).toEqual([]);
    await act(async () => hydrated?.unmount());
  });
});
