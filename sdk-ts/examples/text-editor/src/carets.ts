/** Where the others are in the text: their carets with their names, and what they selected. */

import { StateEffect, StateField } from "@codemirror/state";
import type { Extension, Range } from "@codemirror/state";
import { Decoration, EditorView, ViewPlugin, WidgetType } from "@codemirror/view";
import type { DecorationSet, PluginValue, ViewUpdate } from "@codemirror/view";
import type { AutomergeModule, Document } from "@etherply/sdk";
import type { Note, Person } from "./note";

const PATH = ["text"];

class Caret extends WidgetType {
  constructor(
    readonly name: string,
    readonly colour: string,
  ) {
    super();
  }

  override eq(other: Caret): boolean {
    return other.name === this.name && other.colour === this.colour;
  }

  toDOM(): HTMLElement {
    const caret = document.createElement("span");
    caret.className = "caret";
    caret.style.setProperty("--person", this.colour);
    const label = document.createElement("span");
    label.className = "caret-name";
    label.textContent = this.name;
    // Word joiners keep a line from being broken at the caret.
    caret.append("\u2060", label, "\u2060");
    return caret;
  }

  override ignoreEvent(): boolean {
    return true;
  }
}

const placed = StateEffect.define<DecorationSet>();

/** Carets move with the text that is typed here until their owners say where they are then. */
const shownCarets = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update: (carets, transaction) =>
    transaction.effects.reduce(
      (last, effect) => (effect.is(placed) ? effect.value : last),
      carets.map(transaction.changes),
    ),
  provide: (field) => EditorView.decorations.from(field),
});

/** Shows the others' carets, and this side's to them. */
export function carets(A: AutomergeModule, shared: Document<Note>): Extension {
  class Carets implements PluginValue {
    private readonly offs: readonly (() => void)[];

    constructor(private readonly view: EditorView) {
      const place = (): void => this.place();
      this.offs = [shared.presence.subscribe(place), shared.subscribe((doc) => doc, place)];
      // An editor that is being made takes no transactions.
      queueMicrotask(place);
    }

    update(update: ViewUpdate): void {
      if (update.selectionSet || update.docChanged || update.focusChanged) queueMicrotask(() => this.tell());
    }

    destroy(): void {
      this.offs.forEach((off) => off());
    }

    /** Shows this side's selection, if it is another one now. */
    private tell(): void {
      const doc = shared.current;
      if (doc === undefined || doc.text.length !== this.view.state.doc.length) return;
      const { anchor, head } = this.view.state.selection.main;
      const shown = shared.presence.self as Person | undefined;
      const selection = { anchor: A.getCursor(doc, PATH, anchor), head: A.getCursor(doc, PATH, head) };
      if (!this.view.hasFocus || (shown?.anchor === selection.anchor && shown.head === selection.head)) return;
      shared.presence.update(selection);
    }

    private place(): void {
      const ranges: Range<Decoration>[] = [];
      for (const { state } of shared.presence.others) {
        const { name, colour, anchor, head } = state as Person;
        const [from, to] = [this.position(anchor), this.position(head)];
        if (from === undefined || to === undefined) continue;
        if (from !== to) {
          const attributes = { style: `--person: ${colour}` };
          ranges.push(Decoration.mark({ class: "selected", attributes }).range(Math.min(from, to), Math.max(from, to)));
        }
        ranges.push(Decoration.widget({ widget: new Caret(name, colour), side: -1 }).range(to));
      }
      queueMicrotask(() => {
        const fits = ranges.filter(({ to }) => to <= this.view.state.doc.length);
        this.view.dispatch({ effects: placed.of(Decoration.set(fits, true)) });
      });
    }

    /** Where a cursor is; `undefined` if the edit that made the place has not come yet. */
    private position(cursor: string | undefined): number | undefined {
      const doc = shared.current;
      if (cursor === undefined || doc === undefined) return undefined;
      try {
        return A.getCursorPosition(doc, PATH, cursor);
      } catch {
        return undefined;
      }
    }
  }
  return [shownCarets, ViewPlugin.fromClass(Carets)];
}
