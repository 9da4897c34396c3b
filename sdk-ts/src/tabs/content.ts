/**
 * What tabs do with the content of a document: give each other what one lacks, and take in each other's edits.
 *
 * Only pages that share a connection load this, so it is a friend of {@link Content} and of {@link Document}, and uses
 * what they keep to themselves by `["name"]`, which the compiler checks.
 * @module
 */

import type { Doc } from "@automerge/automerge/slim";
import type { Content } from "../document/content.js";
import type { Document } from "../document/document.js";
import { HERE } from "../environment.js";
import type { Stream } from "../protocol/stream.js";
import type { Stored } from "../store/store.js";
import { GENESIS_ACTOR } from "../wire/limits.js";
import type { TabEdit } from "./messages.js";

/** Any document's content. */
export type AnyContent = Content<object>;

function has(content: AnyContent, doc: Doc<object>, hashes: readonly string[]): boolean {
  return content["A"].hasHeads(doc as Doc<unknown>, [...hashes]);
}

/** Whether a change is part of the copy, or of the one that takes its place. */
export function knows(content: AnyContent, hash: string): boolean {
  return has(content, content["next"] ?? content.doc, [hash]);
}

/** What a tab with these heads lacks: changes, or everything. The copy has to be whole. */
export function lackedBy(content: AnyContent, heads: readonly string[]): { readonly copy: Uint8Array | undefined; readonly changes: readonly Uint8Array[] } {
  const isPart = heads.length > 0 && has(content, content.doc, heads);
  if (isPart) return { copy: undefined, changes: content["A"].getChangesSince(content.doc, [...heads]) };
  return { copy: content.isEmpty ? undefined : content.save(), changes: [] };
}

/** Gathers what the tab with the connection has, up to a place in the log. */
export function receiveCopy(content: AnyContent, copy: Uint8Array | undefined, changes: readonly Uint8Array[], seq: bigint): void {
  if (copy !== undefined) content["pieces"].push({ snapshot: copy });
  if (changes.length > 0) content["pieces"].push({ changes });
  content.positions.covered(seq);
}

/** Edits that are not on the server yet and would be pushed, each behind those that it was made upon. */
export function unsaved(content: AnyContent): TabEdit[] {
  const { receipts } = content;
  return content["stream"].outbox.unacked.flatMap(({ changes }) =>
    changes.flatMap((change) => {
      const receipt = receipts.get(receipts.hashOf(change) ?? "");
      return receipt === undefined ? [] : [{ hash: receipt.hash, change, tab: receipt.tab }];
    }),
  );
}

/** Whether these edits were made in the document that this is, and not in one that began otherwise. */
export function isKin(content: AnyContent, edits: readonly TabEdit[]): boolean {
  const [first] = edits;
  if (first === undefined || content.isEmpty || knows(content, first.hash)) return true;
  const { actor, deps } = content["A"].decodeChange(first.change);
  return deps.length > 0 || actor !== GENESIS_ACTOR;
}

/**
 * Takes in edits of other tabs. What is in the copy already is on the server, unless `areUnsaved` says otherwise.
 * Whether all of them fit.
 */
export function adopt(content: AnyContent, edits: readonly TabEdit[], areUnsaved: boolean): boolean {
  content.apply();
  const { receipts } = content;
  const A = content["A"];
  let doc = content["next"] ?? content.doc;
  let fits = true;
  const taken: Uint8Array[] = [];
  for (const { hash, change, tab } of edits) {
    const receipt = receipts.get(hash);
    if (receipt !== undefined && receipt.tab !== HERE) receipt.tab = tab ?? receipt.tab;
    const isThere = has(content, doc, [hash]);
    if (receipt !== undefined || (isThere && !areUnsaved)) continue;
    const { actor, deps } = A.decodeChange(change);
    if (!has(content, doc, deps)) {
      fits = false;
      continue;
    }
    if (!isThere) [doc] = A.applyChanges(doc, [change]);
    receipts.add(hash, change, tab);
    if (content["next"] !== undefined) content["early"].add(hash);
    if (actor === GENESIS_ACTOR) content["openGenesis"] = change;
    taken.push(change);
  }
  if (taken.length === 0) return fits;
  content["stream"].push(taken);
  if (content["next"] !== undefined) content["next"] = doc;
  else content["show"](doc, false);
  return fits;
}

/** Another tab heard that these changes are on the server. Whether all of them are known here. */
export function saved(content: AnyContent, hashes: readonly string[], positions: readonly bigint[]): boolean {
  content.apply();
  content.positions.acked(hashes, positions, content["stream"].cursor?.seq ?? 0n);
  let areKnown = true;
  for (const hash of hashes) {
    if (!content.receipts.has(hash)) areKnown &&= knows(content, hash);
    const open = content["openGenesis"];
    if (open !== undefined && content.hashOf(open) === hash) content["openGenesis"] = undefined;
    content.receipts.saved(hash);
  }
  unqueue(content, hashes);
  return areKnown;
}

/** These changes are not to be pushed any more; those in flight wait for their acks. */
export function unqueue(content: AnyContent, hashes: readonly string[]): void {
  const gone = new Set(hashes);
  const { outbox } = content["stream"];
  const waiting = outbox["entries"].splice(outbox["sent"]);
  for (const entry of waiting) {
    const changes = entry.push.changes.filter((change) => !gone.has(content.receipts.hashOf(change) ?? ""));
    const bytes = changes.reduce((sum, change) => sum + change.length, 0);
    outbox["total"] -= entry.push.bytes - bytes;
    if (changes.length > 0) outbox["entries"].push({ ...entry, push: { ...entry.push, changes, bytes } });
  }
}

/** Takes in what another tab kept, and this one has not heard of. */
function catchUp(content: AnyContent, stored: Stored): void {
  const stream = content["stream"];
  const [epoch, own] = [stored.cursor?.epoch, stream.cursor];
  if (epoch !== undefined && own !== undefined && epoch !== own.epoch) return;
  if (content["next"] !== undefined || content["openGenesis"] !== undefined) return;
  const { copy, cursor, rows } = stored;
  if (copy !== undefined && (own === undefined || (cursor !== undefined && cursor.seq > own.seq))) content.join(copy);
  const others = rows.filter(({ hash, mine }) => !mine && !knows(content, hash)).map(({ change }) => change);
  if (others.length > 0) content["show"](content["A"].applyChanges(content.doc, others)[0], false);
  adopt(content, rows.flatMap(({ hash, change, mine }) => (mine ? [{ hash, change, tab: undefined }] : [])), false);
  if (cursor !== undefined && (own === undefined || cursor.seq > own.seq)) stream.follow(cursor);
}

/** Another tab answers for the document now: everything that it says is thrown away here. */
export function abandon(stream: Stream): void {
  stream.outbox.rewind();
  stream.outbox.giveBack();
  stream["progress"].restart(0n);
}

/** This tab is about to have the connection: takes in what others kept. */
export async function lead(document: Document<never>): Promise<void> {
  const [content, keeper] = [document["content"], document["keeper"]];
  if (content === undefined || keeper === undefined) return;
  const stored = await document["stored"]();
  if (document["isClosed"]) return;
  if (stored !== undefined) catchUp(content, stored);
  // From now on this tab keeps the document, and everything of it: what there is was kept by another.
  keeper["version"] = stored?.version ?? 0;
  keeper["replaces"] = false;
  keeper["wantsCopy"] = true;
  keeper.changed(true);
}

/** The change by which this tab would begin a new document. */
export function genesisOf(document: Document<never>): Uint8Array | undefined {
  const initial = document["options"].initial as object | undefined;
  try {
    return initial && document["content"]?.genesis(initial);
  } catch {
    // It is told where this tab begins the document itself.
    return undefined;
  }
}
