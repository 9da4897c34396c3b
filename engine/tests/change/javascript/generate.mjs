// Writes histories made by Automerge's JavaScript package into a file, each change behind its length
// (u32, little-endian):
//
//     npm install @automerge/automerge@VERSION && node generate.mjs VERSION.bin
//
// What is recorded is each change as its author hands it out: some versions can rebuild a
// change from the document with another hash, and then cannot merge or load what they wrote themselves.
import * as A from "@automerge/automerge"
import { writeFileSync } from "node:fs"

let state = 20260101
const below = end => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * end)
}
const pick = items => items[below(items.length)]

const value = () =>
  pick([null, true, false, 0, 1, -1, 2 ** 53 - 1, -(2 ** 53) + 1, 1.5, "", "short", "längerer Text ✓ ".repeat(4)])
const rich = () =>
  pick([
    () => new Date(1700000000000 + below(1000)),
    () => new Uint8Array([1, 2, 255, below(256)]),
    () => new A.Counter(below(100) - 50),
    () => new A.ImmutableString("immutable"),
    () => ({ nested: { deeper: [value(), { x: value() }] }, list: [1, 1, 1, 2, "two"] }),
    () => [value(), [value()], {}],
    value,
  ])()

function edit(doc) {
  const key = pick(["a", "b", "c", "list", "text", "counter", "ključ"])
  pick([
    () => (doc[key === "text" || key === "list" ? "a" : key] = rich()),
    () => delete doc[pick(["a", "b", "c"])],
    () => (doc.list ??= []),
    () => doc.list?.insertAt(below(doc.list.length + 1), value(), value()),
    () => doc.list?.length && doc.list.deleteAt(below(doc.list.length)),
    () => doc.list?.length && (doc.list[below(doc.list.length)] = rich()),
    () => (doc.text ??= "hello world"),
    () => doc.text !== undefined && A.splice(doc, ["text"], below(doc.text.length + 1), 0, pick(["x", "👋🏽 ", "abc def"])),
    () => doc.text?.length > 3 && A.splice(doc, ["text"], below(doc.text.length - 2), 2),
    () => doc.text?.length > 3 && A.updateText(doc, ["text"], doc.text.replace("o", "00")),
    () =>
      doc.text?.length > 4 &&
      A.mark(doc, ["text"], { start: below(2), end: 3 + below(2), expand: pick(["none", "both", "after"]) }, "bold", true),
    () => doc.text?.length > 4 && A.unmark(doc, ["text"], { start: 0, end: 3, expand: "none" }, "bold"),
    () => doc.text !== undefined && A.splitBlock(doc, ["text"], 0, { type: "paragraph", parents: [] }),
    () => doc.counter instanceof A.Counter && doc.counter.increment(below(9)),
  ])()
}

const actor = () => Array.from({ length: 16 }, () => below(256).toString(16).padStart(2, "0")).join("")

const recorded = new Map()

function record(doc) {
  const change = A.getLastLocalChange(doc)
  if (change) recorded.set(A.decodeChange(change).hash, change)
  return doc
}

function merge(into, from) {
  try {
    return A.merge(into, A.clone(from))
  } catch (error) {
    console.log("cannot merge:", error.message)
    return into
  }
}

function history() {
  let peers = [A.init({ actor: actor() })]
  peers[0] = record(A.change(peers[0], doc => (doc.counter = new A.Counter(1))))
  while (peers.length < 3) peers.push(A.clone(peers[0], { actor: actor() }))
  for (let step = 0; step < 60; step++) {
    const at = below(peers.length)
    const options = pick([{}, { time: 0 }, { message: "a message ✓" }])
    if (below(15) === 0) {
      peers[at] = record(A.emptyChange(peers[at], options))
    } else if (below(15) === 0) {
      const heads = A.getHeads(peers[0])
      const old = A.clone(peers[at], { actor: actor() })
      if (A.hasHeads(old, heads)) peers[at] = record(A.changeAt(old, heads, doc => (doc.old = value())).newDoc)
    } else {
      peers[at] = A.change(peers[at], options, doc => {
        for (let edits = 0; edits <= below(5); edits++) edit(doc)
      })
      record(peers[at])
    }
    if (below(6) === 0) peers[at] = merge(peers[at], peers[below(peers.length)])
  }
}

for (let count = 0; count < 4; count++) history()
const out = []
for (const change of recorded.values()) {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(change.length)
  out.push(length, change)
}
writeFileSync(process.argv[2], Buffer.concat(out))
console.log(recorded.size, "changes")
