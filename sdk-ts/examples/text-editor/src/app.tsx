/** The page: a bar with who is here and whether everything is saved, and the text. */

import { useCallback, useState, useSyncExternalStore } from "react";
import { EtherPlyError } from "@etherply/sdk";
import type { AutomergeModule, DocumentStatus } from "@etherply/sdk";
import { useDocument, useEtherPly, useSyncStatus, useUndo } from "@etherply/sdk/react";
import type { DocumentRef } from "@etherply/sdk/react";
import { Editor } from "./editor";
import { noteOf } from "./note";
import type { Note } from "./note";
import { People } from "./people";

const START = "texts/welcome";
const named = (): string => decodeURIComponent(location.hash.slice(1)) || START;
const watchName = (wake: () => void): (() => void) => {
  addEventListener("hashchange", wake);
  return () => removeEventListener("hashchange", wake);
};

export function App({ A }: { readonly A: AutomergeModule }) {
  const id = useSyncExternalStore(watchName, named);
  return <Page key={id} A={A} id={id} />;
}

function Page({ A, id }: { readonly A: AutomergeModule; readonly id: string }) {
  const [note] = useState(() => noteOf(id));
  const [isThere] = useDocument(note, () => true);
  const [problem, setProblem] = useState<string>();
  const shared = useEtherPly().document<Note>(id);
  const status = useSyncStatus(note);
  const failed = useCallback((error: unknown) => setProblem(sentence(error)), []);
  const create = (): void => void (location.hash = `texts/${crypto.randomUUID().slice(0, 8)}`);
  return (
    <>
      <header>
        <h1>
          <Logo />
          <span>{id.split("/").at(-1)}</span>
        </h1>
        <Standing status={status} />
        <History note={note} />
        <People id={id} />
        <button className="button" onClick={create}>
          New
        </button>
      </header>
      {problem !== undefined && (
        <p className="problem" role="alert">
          {problem} <button onClick={() => setProblem(undefined)}>Close</button>
        </p>
      )}
      <main>{isThere === true ? <Editor A={A} shared={shared} failed={failed} /> : <p className="wait">{waiting(status)}</p>}</main>
      <footer>
        <Words note={note} />
        <span>Everything you type merges with what the others type.</span>
      </footer>
    </>
  );
}

const sentence = (error: unknown): string =>
  error instanceof EtherPlyError ? `${error.message}. ${error.advice}` : String(error);

const waiting = (status: DocumentStatus): string =>
  status.error === undefined ? "Opening…" : sentence(status.error);

/** Where the text stands, in a word and a colour. */
function Standing({ status }: { readonly status: DocumentStatus }) {
  const edits = status.pending === 1 ? "1 edit" : `${status.pending} edits`;
  const kept = status.pending > 0 ? ` · ${edits} kept ${status.savedLocally ? "in this browser" : "in this tab"}` : "";
  const [kind, says] =
    status.state === "live"
      ? status.savedOnServer
        ? ["saved", "Saved"]
        : ["saving", "Saving…"]
      : status.state === "refused"
        ? ["refused", status.error?.message ?? "Refused"]
        : status.state === "offline"
          ? ["offline", `Offline${kept}`]
          : ["saving", `Connecting…${kept}`];
  return (
    <output className={`standing ${kind}`} data-state={status.state} data-saved={status.savedOnServer} title={status.error?.advice}>
      {says}
    </output>
  );
}

function History({ note }: { readonly note: DocumentRef<Note> }) {
  const { canUndo, canRedo, undo, redo } = useUndo(note);
  return (
    <div className="history">
      <button className="button" disabled={!canUndo} onClick={undo} aria-label="Undo" title="Undo what you did">
        <Arrow />
      </button>
      <button className="button" disabled={!canRedo} onClick={redo} aria-label="Redo" title="Do it again">
        <Arrow flipped />
      </button>
    </div>
  );
}

function Words({ note }: { readonly note: DocumentRef<Note> }) {
  const [count = 0] = useDocument(note, (doc) => doc.text.match(/[\p{L}\p{N}]+(['’][\p{L}]+)*/gu)?.length ?? 0);
  return <span>{count === 1 ? "1 word" : `${count} words`}</span>;
}

function Arrow({ flipped = false }: { readonly flipped?: boolean }) {
  return (
    <svg viewBox="0 0 16 16" width="16" height="16" style={flipped ? { transform: "scaleX(-1)" } : undefined} aria-hidden>
      <path d="M6.5 3.5 3 7l3.5 3.5M3.4 7H9a3.5 3.5 0 0 1 0 7H7.5" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round" />
    </svg>
  );
}

function Logo() {
  return (
    <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden>
      <rect width="32" height="32" rx="9" fill="var(--accent)" />
      <path d="M9 11h14M9 16h9M9 21h12" stroke="white" strokeWidth="2.6" strokeLinecap="round" />
    </svg>
  );
}
