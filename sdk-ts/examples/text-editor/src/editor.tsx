/** The editor: CodeMirror, as a component. */

import { useEffect, useRef } from "react";
import { defaultKeymap } from "@codemirror/commands";
import { markdown } from "@codemirror/lang-markdown";
import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorState } from "@codemirror/state";
import { drawSelection, EditorView, keymap, placeholder } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { AutomergeModule, Document } from "@etherply/sdk";
import { sharedText } from "./binding";
import { carets } from "./carets";
import type { Note } from "./note";

const looks = HighlightStyle.define([
  { tag: tags.heading1, class: "h1" },
  { tag: tags.heading2, class: "h2" },
  { tag: tags.heading, class: "h3" },
  { tag: tags.strong, class: "strong" },
  { tag: tags.emphasis, class: "emphasis" },
  { tag: tags.monospace, class: "code" },
  { tag: tags.link, class: "link" },
  { tag: tags.url, class: "url" },
  { tag: tags.quote, class: "quote" },
  { tag: tags.processingInstruction, class: "mark" },
]);

interface EditorProps {
  readonly A: AutomergeModule;
  readonly shared: Document<Note>;
  readonly failed: (error: unknown) => void;
}

/** Shows and edits the text of a document that is ready. */
export function Editor({ A, shared, failed }: EditorProps) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const run = (act: () => unknown) => () => {
      try {
        act();
      } catch (error) {
        failed(error);
      }
      return true;
    };
    const view = new EditorView({
      parent: place.current!,
      state: EditorState.create({
        doc: shared.current!.text,
        extensions: [
          sharedText(A, shared, failed),
          carets(A, shared),
          markdown(),
          syntaxHighlighting(looks),
          drawSelection(),
          placeholder("Write something…"),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ "aria-label": "Text", spellcheck: "true" }),
          // The SDK's undo, which knows what others did meanwhile, and not the editor's own.
          keymap.of([
            { key: "Mod-z", run: run(() => shared.undo()), preventDefault: true },
            { key: "Mod-y", mac: "Mod-Shift-z", run: run(() => shared.redo()), preventDefault: true },
            { key: "Mod-Shift-z", run: run(() => shared.redo()), preventDefault: true },
            ...defaultKeymap,
          ]),
        ],
      }),
    });
    view.focus();
    return () => view.destroy();
  }, [A, shared, failed]);
  return <div className="editor" ref={place} />;
}
