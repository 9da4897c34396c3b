/** What the page of the end-to-end test runs: a text area that is a document, in IndexedDB, with presence. */

import { automerge, createClient, indexedDbStore } from "@etherply/sdk";

interface Note {
  text: string;
}

const query = new URLSearchParams(location.search);
const patient = { baseMs: 3_600_000, capMs: 3_600_000 };
const token = query.get("token");
const client = createClient({
  url: query.get("server") ?? "",
  ...(token === null ? {} : { auth: () => token }),
  ...(query.has("memory") ? {} : { store: indexedDbStore({ subject: query.get("subject") ?? "" }) }),
  backoff: query.has("patient") ? patient : { baseMs: 50, capMs: 200 },
});
if (query.has("guard")) client.guardUnload();
client.onError(({ code }) => (document.title += ` ${code}`));
const note = client.document<Note>("notes/e2e", { initial: { text: "" } });
const area = document.querySelector("textarea");
const line = document.querySelector("output");
if (area === null || line === null) throw new Error("the page is not what it was");

const tell = (): void => {
  const { state, savedLocally, savedOnServer } = note.status;
  line.textContent = `${state} ${savedLocally ? "kept" : "unkept"} ${savedOnServer ? "saved" : "unsaved"} ${note.presence.others.length}`;
};
const show = (): void => {
  area.value = note.current?.text ?? "";
};
note.onStatus(tell);
note.presence.subscribe(tell);
note.presence.set({ name: query.get("subject") ?? "" });

const A = await automerge();
await note.ready();
note.subscribe((doc) => doc.text, show);
area.addEventListener("input", () => {
  note.change((doc) => A.updateText(doc, ["text"], area.value));
});
show();
tell();
area.disabled = false;
