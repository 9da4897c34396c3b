/** `@etherply/sdk`, with its IndexedDB store. */

import { automerge, createClient, indexedDbStore } from "@etherply/sdk";
import type { AutomergeModule, Document } from "@etherply/sdk";
import { contend } from "./contender";

interface Note {
  text: string;
}
/** Where the WebAssembly comes from: set by `etherply-wasm.ts`. */
declare global {
  var wasmUrl: string | undefined;
}
let A: AutomergeModule;
let note: Document<Note>;

contend({
  async open(url, id, changed) {
    const client = createClient({ url, store: indexedDbStore({ subject: "me" }), ...(globalThis.wasmUrl === undefined ? {} : { wasm: globalThis.wasmUrl }) });
    note = client.document<Note>(id ?? `notes/${crypto.randomUUID()}`, { initial: { text: "" } });
    await note.ready();
    A = await automerge();
    note.subscribe((doc) => doc.text, changed);
    changed(note.current!.text);
    return note.id;
  },
  insert: (at, text) => void note.change((doc) => A.splice(doc, ["text"], at, 0, text)),
  async saved() {
    if (note.status.savedOnServer && note.status.savedLocally) return;
    await new Promise<void>((resolve) => {
      const off = note.onStatus((status) => void (status.savedOnServer && status.savedLocally && (off(), resolve())));
    });
  },
});
