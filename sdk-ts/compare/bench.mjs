/** Building the pages, serving them, and the processes that they talk to. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

export const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const TYPES = { ".js": "text/javascript", ".wasm": "application/wasm" };

/** Builds a page as an application would be: minified, split, its WebAssembly as a file. */
export async function bundle(page) {
  const { metafile, outputFiles } = await build({
    entryPoints: [here(`pages/${page}.ts`)],
    bundle: true,
    minify: true,
    splitting: true,
    format: "esm",
    target: "es2022",
    loader: { ".wasm": "file" },
    alias: { "@etherply/sdk": here("../dist/index.js") },
    define: { "process.env.NODE_ENV": '"production"' },
    publicPath: `/${page}/`,
    entryNames: "[name]-[hash]",
    outdir: here(`out/${page}`),
    metafile: true,
    write: false,
  });
  const files = new Map(outputFiles.map(({ path, contents }) => {
    const gzipped = gzipSync(contents, { level: 9 });
    return [`/${page}/${path.split("/").at(-1)}`, { contents, gzipped, type: TYPES[extname(path)] }];
  }));
  const outputs = Object.entries(metafile.outputs).map(([path, output]) => [path.split("/").at(-1), output]);
  const [entry] = outputs.find(([, output]) => output.entryPoint?.endsWith(`${page}.ts`));
  // What comes before anything else can: the entry and what it imports statically.
  const first = new Set();
  const visit = (name) => {
    if (first.has(name)) return;
    first.add(name);
    const output = outputs.find(([each]) => each === name)?.[1];
    for (const each of output?.imports ?? []) if (each.kind === "import-statement") visit(each.path.split("/").at(-1));
  };
  visit(entry);
  const firstGzipBytes = [...first].reduce((sum, name) => sum + files.get(`/${page}/${name}`).gzipped.length, 0);
  return { page, files, firstGzipBytes,  html: `<!doctype html><meta charset="utf-8"><pre></pre><script type="module" src="/${page}/${entry}"></script>` };
}

/** Serves built pages compressed, lets browsers keep what never changes, and knows which files were asked for. */
export async function serve(bundles) {
  const asked = new Set();
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://page");
    const page = bundles.find((each) => pathname === `/${each.page}/`);
    if (page !== undefined) return void response.setHeader("content-type", "text/html").end(page.html);
    const file = bundles.map(({ files }) => files.get(pathname)).find((each) => each !== undefined);
    if (file === undefined) return void response.writeHead(404).end();
    asked.add(pathname);
    const headers = { "content-type": file.type, "content-encoding": "gzip", "cache-control": "public, max-age=31536000, immutable" };
    response.writeHead(200, headers).end(file.gzipped);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  // Not what a bundle has, but what a browser got of it.
  const sentGzipBytes = ({ files }) => [...asked].reduce((sum, path) => sum + (files.get(path)?.gzipped.length ?? 0), 0);
  return { sentGzipBytes, url: `http://127.0.0.1:${server.address().port}`, close: () => (server.closeAllConnections(), server.close()) };
}

/** Starts a server, each with an empty directory on the same disk. */
export async function start(command, args, env = {}) {
  const directory = mkdtempSync(join(tmpdir(), "etherply-compare-"));
  const filled = args.map((each) => each.replace("DIRECTORY", directory));
  const child = spawn(command, filled, { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, ...env } });
  process.on("exit", () => child.kill("SIGKILL"));
  const [line] = await Promise.race([once(createInterface(child.stdout), "line"), once(child, "exit").then(() => [])]);
  if (line === undefined) throw new Error(`${command} ${filled.join(" ")} ended`);
  const { listen } = JSON.parse(line);
  return {
    url: listen.startsWith("ws:") ? listen : `ws://${listen}`,
    async stop() {
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      await gone;
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** The version of a package that the pages are made with. */
export function version(name) {
  return JSON.parse(readFileSync(here(`node_modules/${name}/package.json`), "utf8")).version;
}

/** Middle, and what 99 of 100 stay below. */
export function percentiles(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
  return { count: sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: sorted.at(-1) };
}
