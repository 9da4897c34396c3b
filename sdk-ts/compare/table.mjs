/** The table that a report is read by. */

const NAMES = {
  etherply: "`@etherply/sdk`",
  "etherply-wasm": "`@etherply/sdk`, WebAssembly as a file",
  yjs: "Yjs + Hocuspocus",
  "automerge-repo": "automerge-repo",
};
const kb = (bytes) => (bytes / 1000).toFixed(bytes < 100_000 ? 1 : 0);
const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
const ms = (value) => value.toFixed(value < 100 ? 1 : 0);
const middle = (values) => [...values].sort((one, other) => one - other)[Math.floor(values.length / 2)];
const rows = (head, lines) => [head, head.map((_, index) => (index === 0 ? "---" : "---:")), ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

/** The report as Markdown. */
export function table({ bundles, loads, latencies, memory, settings }) {
  const all = Object.keys(bundles);
  const main = Object.keys(latencies);
  return `${rows(
    ["bundle, kB gzipped", "before anything is shown", "loaded later", "together"],
    all.map((name) => {
      const { firstGzipBytes, allGzipBytes } = bundles[name];
      return [NAMES[name], kb(firstGzipBytes), kb(allGzipBytes - firstGzipBytes), kb(allGzipBytes)];
    }),
  )}

${rows(
  [`from address to ${settings.documentEdits} edits shown, ms, p50 (worst)`, "cold", `cold, ${settings.slowMbit} Mbit/s`, "warm: own copy shown", "warm: in step with the server"],
  all.map((name) => [NAMES[name], ...["coldMs", "slowMs", "keptMs", "warmMs"].map((what) => `${ms(loads[name][what].p50)} (${ms(loads[name][what].max)})`)]),
)}

${rows(
  ["an edit's way to another page, ms", "p50", "p90", "p99", "worst", "edits", "lost"],
  main.map((name) => {
    const { p50, p90, p99, max, count, lost } = latencies[name];
    return [NAMES[name], ms(p50), ms(p90), ms(p99), ms(max), count, lost];
  }),
)}

${rows(
  [`a page with ${settings.memoryEdits} edits, MiB`, "JS heap", "WebAssembly", "process, private", "of that over an empty document", "cold load, ms"],
  main.map((name) => {
    const of = (what, which = "full") => middle(memory[name].map((run) => run[which][what]));
    const over = middle(memory[name].map(({ full, empty }) => full.privateBytes - empty.privateBytes));
    return [NAMES[name], mib(of("heapBytes")), mib(of("wasmBytes")), mib(of("privateBytes")), mib(over), ms(of("readyMs"))];
  }),
)}
`;
}
