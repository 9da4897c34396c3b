/** Who is here. */

import { usePresence } from "@etherply/sdk/react";
import { useEffect, useState } from "react";
import type { Person } from "./note";
import { remember, whoAmI } from "./note";

/** Most faces in the row; the rest is a number. */
const FACES_MAX = 5;

const initials = (name: string): string =>
  name
    .split(/\s+/)
    .map((word) => [...word][0] ?? "")
    .slice(0, 2)
    .join("")
    .toUpperCase();

/** The row of those who are here, oneself first. A click on oneself asks for another name. */
export function People({ id }: { readonly id: string }) {
  const { self, others, update } = usePresence<Person>(id);
  const [me] = useState(whoAmI);
  // Once for each text: `update` is another function whenever somebody moves.
  useEffect(() => update({ name: me.name, colour: me.colour }), [id]);
  const own = self ?? me;
  const rename = (): void => {
    const name = prompt("Your name", own.name)?.trim().slice(0, 40);
    if (name) update(remember({ ...own, name }));
  };
  return (
    <div className="people" aria-label={`${others.length + 1} here`}>
      {others.length > FACES_MAX && <span className="face more">+{others.length - FACES_MAX}</span>}
      {others.slice(0, FACES_MAX).map(({ id: member, state }) => (
        <Face key={member} name={state.name} colour={state.colour} />
      ))}
      <button className="face me" style={{ background: own.colour }} title={`${own.name} (you)`} onClick={rename}>
        {initials(own.name)}
      </button>
    </div>
  );
}

function Face({ name = "?", colour = "gray" }: Partial<Person>) {
  return (
    <span className="face" style={{ background: colour }} title={name}>
      {initials(name)}
    </span>
  );
}
