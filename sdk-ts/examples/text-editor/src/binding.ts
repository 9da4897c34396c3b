/**
 * Joins a CodeMirror editor with a text in a shared document.
 *
 * Invariant: between two turns, what the editor shows is the text at `heads`. What is typed becomes splices of the
 * document at once; what comes from others becomes the patches that lead from `heads` to where the document is now.
 */

import { Annotation, ChangeSet, EditorState, Transaction } from "@codemirror/state";
import type { Extension } from "@codemirror/state";
import { EditorView, ViewPlugin } from "@codemirror/view";
import type { PluginValue, ViewUpdate } from "@codemirror/view";
import type { AutomergeModule, Document } from "@etherply/sdk";
import type { Note } from "./note";

const KEY = "text";
/** The only thing that ends a line: else the editor would count a carriage return as one, and the document as two. */
const LINE_END = "\n";

/** On transactions that bring what the document has already. */
const fromDocument = Annotation.define<true>();

type Patch = ReturnType<AutomergeModule["diff"]>[number];

/** Makes an editor show and edit the text of a document that is ready. `failed` hears of edits that cannot be made. */
export function sharedText(A: AutomergeModule, shared: Document<Note>, failed: (error: unknown) => void): Extension {
  class Binding implements PluginValue {
    private heads: string[];
    private isEditing = false;
    private readonly off: () => void;

    constructor(private readonly view: EditorView) {
      this.heads = A.getHeads(shared.current!);
      this.off = shared.subscribe((doc) => doc, () => this.pull());
    }

    update(update: ViewUpdate): void {
      if (!update.docChanged || update.transactions.some((each) => each.annotation(fromDocument))) return;
      this.isEditing = true;
      try {
        const { hash } = shared.change((doc) => {
          let moved = 0;
          update.changes.iterChanges((from, to, _newFrom, newTo, inserted) => {
            A.splice(doc, [KEY], from + moved, to - from, inserted.sliceString(0, undefined, LINE_END));
            moved = newTo - to;
          });
        });
        // An edit follows everything that was there, so it alone is the document's head now.
        if (hash !== undefined) this.heads = [hash];
      } catch (error) {
        failed(error);
        // The editor shows what the document does not have. It may change only when this update is through.
        queueMicrotask(() => this.replace());
      } finally {
        this.isEditing = false;
      }
    }

    destroy(): void {
      this.off();
    }

    /** Shows what changed in the document. */
    private pull(): void {
      const doc = shared.current;
      if (this.isEditing || doc === undefined) return;
      const heads = A.getHeads(doc);
      const changes = this.changesOf(A.diff(doc, this.heads, heads));
      this.heads = heads;
      if (changes === undefined || changes.newLength !== doc.text.length) return this.replace();
      if (!changes.empty) this.show(changes);
    }

    /** What patches do to the text; `undefined` if they put another one in its place. */
    private changesOf(patches: readonly Patch[]): ChangeSet | undefined {
      let all = ChangeSet.empty(this.view.state.doc.length);
      for (const patch of patches) {
        const [key, at] = patch.path;
        if (key !== KEY || patch.action === "mark" || patch.action === "conflict") continue;
        if (typeof at !== "number" || (patch.action !== "splice" && patch.action !== "del")) return undefined;
        const change = patch.action === "splice" ? { from: at, insert: patch.value } : { from: at, to: at + (patch.length ?? 1) };
        if (at > all.newLength || (change.to ?? at) > all.newLength) return undefined;
        all = all.compose(ChangeSet.of(change, all.newLength, LINE_END));
      }
      return all;
    }

    /** Shows the text as it is now, changing only what is between the common beginning and the common end. */
    private replace(): void {
      const doc = shared.current;
      if (doc === undefined) return;
      this.heads = A.getHeads(doc);
      const [shown, text] = [this.view.state.doc.toString(), doc.text];
      const most = Math.min(shown.length, text.length);
      let start = 0;
      while (start < most && shown[start] === text[start]) start += 1;
      let end = 0;
      while (end < most - start && shown.at(-1 - end) === text.at(-1 - end)) end += 1;
      const change = { from: start, to: shown.length - end, insert: text.slice(start, text.length - end) };
      if (change.from < change.to || change.insert !== "") this.show(ChangeSet.of(change, shown.length, LINE_END));
    }

    private show(changes: ChangeSet): void {
      this.view.dispatch({ changes, annotations: [fromDocument.of(true), Transaction.addToHistory.of(false), Transaction.remote.of(true)] });
    }
  }
  return [EditorState.lineSeparator.of(LINE_END), ViewPlugin.fromClass(Binding)];
}
