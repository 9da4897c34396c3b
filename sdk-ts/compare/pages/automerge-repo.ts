/** automerge-repo with its WebSocket client and its IndexedDB store; WebAssembly as a file, as bundlers with a plugin have it. */

import wasm from "@automerge/automerge/automerge.wasm";
import { initializeWasm, Repo } from "@automerge/automerge-repo/slim";
import * as A from "@automerge/automerge/slim";
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket";
import { IndexedDBStorageAdapter } from "@automerge/automerge-repo-storage-indexeddb";
import type { AutomergeUrl, DocHandle } from "@automerge/automerge-repo/slim";
import { contend } from "./contender";

interface Note {
  text: string;
}
let handle: DocHandle<Note>;
let repo: Repo;

contend({
  async open(url, id, changed) {
    await initializeWasm(wasm);
    repo = new Repo({ network: [new WebSocketClientAdapter(url)], storage: new IndexedDBStorageAdapter() });
    handle = id === undefined ? repo.create<Note>({ text: "" }) : await repo.find<Note>(id as AutomergeUrl);
    handle.on("change", ({ doc }) => changed(doc.text));
    changed(handle.doc().text);
    return handle.url;
  },
  insert: (at, text) => handle.change((doc) => A.splice(doc, ["text"], at, 0, text)),
  // There is no word for it on the server's side; this is the local store.
  saved: () => repo.flush(),
});
