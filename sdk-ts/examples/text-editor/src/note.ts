/** What the document holds, and what people show of themselves beside it. */

import type { DocumentRef } from "@etherply/sdk/react";

export interface Note {
  text: string;
}

/** What a person shows. A type, not an interface: those have no index signature, and it travels as JSON. */
export type Person = {
  readonly name: string;
  readonly colour: string;
  /** Where the selection begins and ends, as Automerge cursors, which stay where they are when others type. */
  readonly anchor?: string;
  readonly head?: string;
};

const WELCOME = `# Welcome

Open this page **twice**, side by side, and type in both.

- Everybody sees everybody's *caret*, and every letter as it is typed.
- Stop the server and go on writing: edits are kept in this browser, and merge when it is back.
- **Undo** takes back what you did, and nothing that others did.

> Nothing that is marked as saved is ever lost: it was on disk before the mark came.
`;

/** The text that the page's address names. */
export const noteOf = (id: string): DocumentRef<Note> => ({ id, initial: { text: id === "texts/welcome" ? WELCOME : "" } });

const ANIMALS = ["Otter", "Heron", "Lynx", "Wren", "Fox", "Marten", "Ibis", "Hare", "Seal", "Finch"];
const MOODS = ["Quick", "Calm", "Bright", "Bold", "Gentle", "Merry", "Keen", "Wise"];
const COLOURS = ["#e5484d", "#f76b15", "#30a46c", "#12a594", "#0090ff", "#5b5bd6", "#8e4ec6", "#d6409f"];

const any = (list: readonly string[]): string => list[Math.floor(Math.random() * list.length)]!;

/** Who this is: kept as long as the tab, so that two tabs are two people. */
export function whoAmI(): Person {
  const kept = sessionStorage.getItem("person");
  const person = kept === null ? { name: `${any(MOODS)} ${any(ANIMALS)}`, colour: any(COLOURS) } : (JSON.parse(kept) as Person);
  return remember(person);
}

export function remember(person: Person): Person {
  sessionStorage.setItem("person", JSON.stringify({ name: person.name, colour: person.colour }));
  return person;
}
