/** Yjs with Hocuspocus' provider and `y-indexeddb`, each as its documentation shows it. */

import { HocuspocusProvider } from "@hocuspocus/provider";
import { IndexeddbPersistence } from "y-indexeddb";
import * as Y from "yjs";
import { contend } from "./contender";

const doc = new Y.Doc();
const text = doc.getText("text");
let provider: HocuspocusProvider;

contend({
  async open(url, id, changed) {
    const name = id ?? crypto.randomUUID();
    const kept = new IndexeddbPersistence(name, doc);
    provider = new HocuspocusProvider({ url, name, document: doc });
    text.observe(() => changed(text.toString()));
    // A copy, wherever it comes from.
    await Promise.race([kept.whenSynced.then(() => (text.length > 0 ? undefined : new Promise(() => undefined))), synced()]);
    changed(text.toString());
    return name;
  },
  insert: (at, inserted) => text.insert(at, inserted),
  async saved() {
    // There is no word for "on disk": nothing is under way any more.
    if (!provider.hasUnsyncedChanges) return;
    await new Promise<void>((resolve) => {
      const told = ({ number }: { number: number }): void => {
        if (number > 0) return;
        provider.off("unsyncedChanges", told);
        resolve();
      };
      provider.on("unsyncedChanges", told);
    });
  },
});

function synced(): Promise<void> {
  return new Promise((resolve) => {
    if (provider.synced) resolve();
    else provider.on("synced", () => resolve());
  });
}
