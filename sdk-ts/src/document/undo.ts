/**
 * Takes back this user's own edits, and no one else's.
 *
 * Automerge keeps what was and has no undo. What an edit did is told by the difference between the document before
 * and behind it; the reverse of that is done to the document as it is now, as a new edit. Values that somebody else
 * overwrote since stay, as do elements in which somebody else edited.
 * @module
 */

import type { Doc } from "@automerge/automerge/slim";
import type { AutomergeModule } from "../automerge.js";
import { transplant } from "./transplant.js";

/** Most edits that can be taken back. */
export const UNDO_MAX = 200;
/** Edits that follow each other within this time are taken back together, as when somebody types. */
export const UNDO_GROUP_MS = 500;

/** What can be taken back, or made again. */
export interface UndoState {
  readonly canUndo: boolean;
  readonly canRedo: boolean;
}

/** An own change: the document's heads before and behind it. */
interface Step {
  readonly before: readonly string[];
  readonly after: readonly string[];
}

interface Entry {
  readonly steps: Step[];
  readonly message: string | undefined;
  lastMs: number;
}

/** What an own change is to the stacks. */
export type Origin = "edit" | "undo" | "redo";

/** The edits that can be taken back, and those that can be made again. */
export class UndoStacks {
  private undos: Entry[] = [];
  private redos: Entry[] = [];
  private isGrouping = false;

  /** What can be done. */
  get state(): UndoState {
    return { canUndo: this.undos.length > 0, canRedo: this.redos.length > 0 };
  }

  /** An own change was made. */
  made(step: Step, origin: Origin, nowMs: number, message: string | undefined): void {
    const stack = origin === "undo" ? this.redos : this.undos;
    if (origin === "edit") this.redos = [];
    const last = stack.at(-1);
    const joins = origin === "edit" && this.isGrouping && last !== undefined && nowMs - last.lastMs <= UNDO_GROUP_MS;
    if (joins && last.message === message) {
      last.steps.push(step);
      last.lastMs = nowMs;
    } else {
      stack.push({ steps: [step], message, lastMs: nowMs });
      if (stack.length > UNDO_MAX) stack.shift();
    }
    this.isGrouping = origin === "edit";
  }

  /** What is to be taken back next, or made again; it is on the stack no longer. */
  take(origin: "undo" | "redo"): readonly Step[] | undefined {
    this.isGrouping = false;
    return (origin === "undo" ? this.undos : this.redos).pop()?.steps;
  }

  /** The document began anew: what was before is not known any more. */
  clear(): void {
    this.undos = [];
    this.redos = [];
  }
}

/** What does the reverse of these changes to a document that is being edited. */
export function reverse<T extends object>(A: AutomergeModule, doc: Doc<T>, steps: readonly Step[]): (target: T) => void {
  const plans = [...steps].reverse().map(({ before, after }) => {
    const [from, to] = [[...after], [...before]];
    return { patches: A.diff(doc as Doc<unknown>, from, to), before: A.view(doc, from), after: A.view(doc, to) };
  });
  return (target) => {
    for (const { patches, before, after } of plans) {
      transplant(A, patches, { before, after, target, keepsOthers: true });
    }
  };
}
