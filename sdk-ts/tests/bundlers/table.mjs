/** Prints what a folder of results of `npm run test:bundlers` says, as a table: `node table.mjs FOLDER`. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2] ?? ".";
const rows = readdirSync(folder)
  .filter((name) => name.endsWith(".json"))
  .map((name) => JSON.parse(readFileSync(join(folder, name), "utf8")));
const kb = (bytes) => (bytes === undefined ? "–" : (bytes / 1000).toFixed(bytes < 100_000 ? 1 : 0));
const TOOLS = ["vite", "esbuild", "webpack", "next"];
const cells = rows.map(({ project, versions, command, chunks = [], node }) => {
  const tool = TOOLS.find((name) => versions[name] !== undefined);
  const entry = chunks.find(({ name }) => /^(assets\/)?(main|index)[^/]*\.js$/.test(name));
  return [
    project,
    tool === undefined ? `Node ${node}` : `${tool} ${versions[tool]}`,
    versions.react ?? "–",
    `\`${command}\``,
    kb(entry?.gzipBytes),
    chunks.length === 0 ? "–" : kb(chunks.reduce((sum, { loaded, gzipBytes }) => sum + (loaded ? gzipBytes : 0), 0)),
  ];
});
const head = ["project", "version", "React", "command", "first file, kB gzipped", "all that the page asked for"];
console.log([head, head.map(() => "---"), ...cells].map((row) => `| ${row.join(" | ")} |`).join("\n"));
