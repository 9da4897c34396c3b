/** Fresh projects of the bundlers that most pages are made with. */

import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "vitest";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { launch } from "../e2e/chromium.js";
import { TestServer } from "../integration/server.js";
import { addressOf, application, page, serve, works } from "./application.js";
import { Project, record, removeAll } from "./fresh.js";

let browser: Browser;
let server: TestServer;
beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => {
  await browser?.close();
  removeAll();
});
// A server each, so that each begins with a new document.
beforeEach(async () => {
  server = await new TestServer().start();
});
afterEach(() => server.remove());

interface Case {
  readonly name: string;
  readonly react: string;
  readonly packages: readonly string[];
  readonly files: Readonly<Record<string, string>>;
  readonly command: readonly string[];
  readonly out: string;
}

const VITE_FILES = { "index.html": page("/main.js") };
const AS_FILE = 'import wasmUrl from "@automerge/automerge/automerge.wasm';
const esbuild = (...options: readonly string[]): readonly string[] => ["npx", "esbuild", "main.js", "--bundle", "--minify", "--outdir=dist", ...options];

const CASES: readonly Case[] = [
  ...["18", "19"].flatMap((react): Case[] => [
    {
      name: `Vite, React ${react}`,
      react,
      packages: ["vite"],
      files: { ...VITE_FILES, "main.js": application() },
      command: ["npx", "vite", "build"],
      out: "dist",
    },
    {
      name: `esbuild, React ${react}`,
      react,
      packages: ["esbuild"],
      files: { "dist/index.html": page("/main.js"), "main.js": application() },
      command: esbuild("--format=esm", "--splitting"),
      out: "dist",
    },
    {
      name: `webpack, React ${react}`,
      react,
      packages: ["webpack", "webpack-cli"],
      files: { "dist/index.html": page("/main.js"), "src/index.js": application() },
      command: ["npx", "webpack", "--mode=production"],
      out: "dist",
    },
  ]),
  {
    name: "esbuild, one file",
    react: "19",
    packages: ["esbuild"],
    files: { "dist/index.html": page("/main.js"), "main.js": application() },
    command: esbuild(),
    out: "dist",
  },
  {
    name: "Vite, WebAssembly as a file",
    react: "19",
    packages: ["vite"],
    files: { ...VITE_FILES, "main.js": application("wasmUrl", `${AS_FILE}?url";`) },
    command: ["npx", "vite", "build"],
    out: "dist",
  },
  {
    name: "esbuild, WebAssembly as a file",
    react: "19",
    packages: ["esbuild"],
    files: { "dist/index.html": page("/main.js"), "main.js": application("wasmUrl", `${AS_FILE}";`) },
    command: esbuild("--format=esm", "--splitting", "--loader:.wasm=file"),
    out: "dist",
  },
  {
    name: "webpack, WebAssembly as a file",
    react: "19",
    packages: ["webpack", "webpack-cli"],
    files: {
      "dist/index.html": page("/main.js"),
      "src/index.js": application('new URL("@automerge/automerge/automerge.wasm", import.meta.url)'),
    },
    command: ["npx", "webpack", "--mode=production"],
    out: "dist",
  },
];

/** WebAssembly has more than this as base64, and nothing else has. */
const WASM_BYTES_MIN = 3_000_000;
/** The first page that anybody sees needs the client, and not Automerge. */
const FIRST_BYTES_MAX = 400_000;

it.each(CASES)("$name", async ({ name, react, packages, files, command: [program = "", ...args], out }) => {
  const project = new Project(name, files, [`react@${react}`, `react-dom@${react}`, ...packages]);
  await project.install();
  await project.run(program, ...args);
  const pages = await serve(join(project.directory, out));
  let asked: ReadonlySet<string>;
  try {
    asked = await works(browser, addressOf(pages), server.url);
  } finally {
    pages.closeAllConnections();
    pages.close();
  }
  const chunks = project.chunks(out).map((chunk) => ({ ...chunk, loaded: asked.has(`/${chunk.name}`) }));
  const wasm = chunks.some((chunk) => chunk.loaded && chunk.name.endsWith(".wasm"));
  expect(wasm, "WebAssembly comes as a file where that was asked for, and nowhere else").toBe(name.includes("as a file"));
  const largest = Math.max(...chunks.filter((chunk) => chunk.loaded && chunk.name.endsWith(".js")).map((chunk) => chunk.bytes));
  expect(largest > WASM_BYTES_MIN, "and else as JavaScript").toBe(!wasm);
  const entry = chunks.find((chunk) => /(^|\/)(main|index)[^/]*\.js$/.test(chunk.name));
  if (name !== "esbuild, one file") expect(entry?.bytes).toBeLessThan(FIRST_BYTES_MAX);
  record({ project: name, versions: project.versions, command: [program, ...args].join(" "), chunks });
});
