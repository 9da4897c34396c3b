/**
 * Starts all that the example needs: an EtherPly server, and Vite, which serves the page.
 *
 * `ETHERPLY_URL` names a server that runs already; `ETHERPLY_BIN` the program, if it is not what cargo built last.
 * The server takes its own settings from its own variables, such as `ETHERPLY_DATA`. `PORT` is the page's.
 */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createServer } from "vite";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

if (!existsSync(here("../../dist/index.js"))) {
  const built = spawnSync("npm", ["run", "build"], { cwd: here("../.."), stdio: "inherit" });
  if (built.status !== 0) process.exit(1);
}

process.env.VITE_ETHERPLY_URL = process.env.ETHERPLY_URL ?? (await startServer());
const vite = await createServer({
  root: here("."),
  server: { port: Number(process.env.PORT ?? 5173), host: "127.0.0.1" },
});
await vite.listen();
console.log(`server  ${process.env.VITE_ETHERPLY_URL}`);
console.log(`page    ${vite.resolvedUrls.local[0]}   (open it twice)`);

/** Starts the server, and gives its URL. It ends with this program. */
async function startServer() {
  const built = ["release", "debug"].map((profile) => here(`../../../target/${profile}/etherply`));
  const program = [process.env.ETHERPLY_BIN, ...built].find((path) => path !== undefined && existsSync(path));
  if (program === undefined) {
    console.error("There is no server yet: build it (cargo build --release --bin etherply), or name one that runs (ETHERPLY_URL).");
    process.exit(1);
  }
  const settings = { ETHERPLY_DATA: here("etherply-data"), ...process.env };
  const server = spawn(program, ["serve", "--ready-json"], { stdio: ["ignore", "pipe", "inherit"], env: settings });
  const stop = () => server.kill("SIGTERM");
  process.on("exit", stop);
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
  const [line] = await Promise.race([once(createInterface(server.stdout), "line"), once(server, "exit").then(() => [])]);
  if (line === undefined) {
    console.error("The server did not start; what it said is above. Another one may run already: ETHERPLY_URL=ws://127.0.0.1:4180 npm start");
    process.exit(1);
  }
  server.on("exit", (code) => console.error(`The server ended (${code ?? "killed"}): the pages are offline now. Start again.`));
  return `ws://${JSON.parse(line).listen}`;
}
