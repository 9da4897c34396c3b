/**
 * Measures `@etherply/sdk` beside Yjs with Hocuspocus and automerge-repo, on this machine: bundle, time to the first
 * synced state, an edit's way to another page, memory. README.md says how, and where that is weak.
 *
 * `node run.mjs OUT`: writes OUT/samples.json and OUT/table.md. `ETHERPLY_BIN` is the server.
 */

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { bundle, here, percentiles, serve, start, version } from "./bench.mjs";
import { table } from "./table.mjs";

const out = process.argv[2] ?? here("out");
const number = (name, otherwise) => Number(process.env[name] ?? otherwise);

/** All settings; each can be given as a variable. */
const SETTINGS = {
  loads: number("LOADS", 12),
  slowLoads: number("SLOW_LOADS", 5),
  slowMbit: 10,
  slowRoundTripMs: 40,
  documentEdits: number("DOCUMENT_EDITS", 1_000),
  rounds: number("ROUNDS", 3),
  edits: number("EDITS", 300),
  editEveryMs: 50,
  memoryEdits: number("MEMORY_EDITS", 10_000),
  memoryRuns: number("MEMORY_RUNS", 3),
};
const CHROMIUM = {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"],
};
const ETHERPLY = process.env.ETHERPLY_BIN ?? here("../../target/release/etherply");

const bundles = await Promise.all(["etherply", "etherply-wasm", "yjs", "automerge-repo"].map(bundle));
const site = await serve(bundles);
const servers = {
  etherply: await start(ETHERPLY, ["serve", "--ready-json", "--data", "DIRECTORY", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"], { ETHERPLY_LOG: "warn" }),
  yjs: await start("node", [here("servers/hocuspocus.mjs")]),
  "automerge-repo": await start("node", [here("servers/automerge-repo.mjs"), "DIRECTORY"]),
};
servers["etherply-wasm"] = servers.etherply;
const ALL = ["etherply", "etherply-wasm", "yjs", "automerge-repo"];
/** Where the WebAssembly came from makes no difference once it is there. */
const MAIN = ["etherply", "yjs", "automerge-repo"];
const browser = await chromium.launch(CHROMIUM);

const address = (name, id) => `${site.url}/${name}/?server=${encodeURIComponent(servers[name].url)}${id === undefined ? "" : `&id=${encodeURIComponent(id)}`}`;

/** Opens a document; `id` undefined for a new one. */
async function open(context, name, id) {
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(name, String(error)));
  await page.goto(address(name, id));
  await page.waitForFunction(() => window.opened !== undefined);
  return { page, id: await page.evaluate(() => window.opened) };
}

/** After this a text that does not come is a contender that failed, and not one that is slow. */
const PATIENCE_MS = 120_000;

const reach = (page, length) =>
  page.evaluate(
    ([wanted, patienceMs]) =>
      Promise.race([
        window.bench.waitFor(wanted),
        new Promise((_, reject) => setTimeout(() => reject(new Error(`${window.bench.length} of ${wanted} characters`)), patienceMs)),
      ]),
    [length, PATIENCE_MS],
  );

/** A document with so many edits, on the server for sure: another page has it. */
async function seeded(name, edits) {
  const context = await browser.newContext();
  const { page, id } = await open(context, name);
  await page.evaluate((count) => window.bench.fill(count), edits);
  const other = await browser.newContext();
  await reach((await open(other, name, id)).page, edits);
  await other.close();
  return { id, page, context };
}

/** From the address to the whole text: nothing kept, then with what was kept and one edit that it lacks. */
async function loads() {
  const documents = {};
  for (const name of ALL) documents[name] = await seeded(name, SETTINGS.documentEdits);
  const samples = Object.fromEntries(ALL.map((name) => [name, { coldMs: [], slowMs: [], keptMs: [], warmMs: [] }]));
  const kept = {};
  // What a page that is open all the time has, the server has.
  const watchers = {};
  const loaded = async (context, name, length, prepare) => {
    const page = await context.newPage();
    await prepare?.(page);
    await page.goto(address(name, documents[name].id));
    await page.waitForFunction(() => window.bench !== undefined);
    return { page, ms: await reach(page, length) };
  };
  let length = SETTINGS.documentEdits;
  for (const name of ALL) {
    kept[name] = await browser.newContext();
    const { page } = await loaded(kept[name], name, length);
    await page.evaluate(() => window.bench.saved());
    await page.close();
    watchers[name] = (await open(await browser.newContext(), name, documents[name].id)).page;
  }
  for (let round = 0; round < SETTINGS.loads; round += 1) {
    for (const name of ALL) {
      const fresh = await browser.newContext();
      samples[name].coldMs.push((await loaded(fresh, name, length)).ms);
      await fresh.close();
      if (round < SETTINGS.slowLoads) {
        const slow = await browser.newContext();
        samples[name].slowMs.push((await loaded(slow, name, length, throttle)).ms);
        await slow.close();
      }
      // Somebody edits while this browser is away.
      await documents[name].page.evaluate(async () => {
        await window.bench.edits(1, 0);
        await window.bench.saved();
      });
      await reach(watchers[name], length + 1);
      const { page, ms } = await loaded(kept[name], name, length + 1);
      samples[name].warmMs.push(ms);
      samples[name].keptMs.push(await reach(page, length));
      await page.evaluate(() => window.bench.saved());
      await page.close();
    }
    length += 1;
  }
  for (const name of ALL) {
    await kept[name].close();
    await watchers[name].context().close();
    await documents[name].context.close();
  }
  return samples;
}

/** The files of the page come as over a slow network; WebSockets are as fast as ever. */
async function throttle(page) {
  const session = await page.context().newCDPSession(page);
  const bytesPerSecond = (SETTINGS.slowMbit * 1e6) / 8;
  await session.send("Network.enable");
  await session.send("Network.emulateNetworkConditions", { offline: false, latency: SETTINGS.slowRoundTripMs, downloadThroughput: bytesPerSecond, uploadThroughput: bytesPerSecond });
}

/** One page edits on a fixed schedule, another shows: from when an edit was due until it stands there. */
async function latencies() {
  const samples = Object.fromEntries(MAIN.map((name) => [name, { ms: [], lost: 0 }]));
  for (let round = 0; round < SETTINGS.rounds; round += 1) {
    for (const name of MAIN) {
      const [writer, reader] = [await browser.newContext(), await browser.newContext()];
      const { page: one, id } = await open(writer, name);
      await one.evaluate(() => window.bench.edits(1, 0));
      const { page: two } = await open(reader, name, id);
      await reach(two, 1);
      await two.evaluate(() => window.bench.listen());
      const due = await one.evaluate(([count, every]) => window.bench.edits(count, every), [SETTINGS.edits, SETTINGS.editEveryMs]);
      await reach(two, SETTINGS.edits + 1);
      const heard = await two.evaluate(() => window.bench.heard());
      for (const [index, dueMs] of due.entries()) {
        const shown = heard.find(([length]) => length >= index + 2);
        if (shown === undefined) samples[name].lost += 1;
        else samples[name].ms.push(shown[1] - dueMs);
      }
      await writer.close();
      await reader.close();
    }
  }
  return samples;
}

/** What a page holds that has a long document open, beside one with an empty one; each in a browser of its own. */
async function memory() {
  const documents = {};
  for (const name of MAIN) documents[name] = await seeded(name, SETTINGS.memoryEdits);
  const samples = Object.fromEntries(MAIN.map((name) => [name, []]));
  for (let run = 0; run < SETTINGS.memoryRuns; run += 1) {
    for (const name of MAIN) {
      const empty = await measured(name, undefined, 0);
      const full = await measured(name, documents[name].id, SETTINGS.memoryEdits);
      samples[name].push({ empty, full });
    }
  }
  for (const name of MAIN) await documents[name].context.close();
  return samples;
}

async function measured(name, id, length) {
  const own = await chromium.launch(CHROMIUM);
  try {
    const { page } = await open(await own.newContext(), name, id);
    const readyMs = await reach(page, length);
    await page.evaluate(() => window.bench.saved());
    const session = await page.context().newCDPSession(page);
    await session.send("HeapProfiler.enable");
    for (let times = 0; times < 3; times += 1) await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    const { processInfo } = await (await own.newBrowserCDPSession()).send("SystemInfo.getProcessInfo");
    const privateBytes = processInfo.filter(({ type }) => type === "renderer").map(({ id: pid }) => privateOf(pid));
    return { readyMs, heapBytes: usedSize, wasmBytes: await page.evaluate(() => window.bench.wasmBytes()), privateBytes: Math.max(...privateBytes) };
  } finally {
    await own.close();
  }
}

/** Memory that no other process shares. */
function privateOf(pid) {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return [...rollup.matchAll(/^Private_\w+:\s+(\d+) kB$/gm)].reduce((sum, [, kib]) => sum + Number(kib) * 1024, 0);
}

const loadBefore = loadavg();
const startedMs = performance.now();
const phase = async (name, measure) => {
  const result = await measure();
  console.error(`${name}: done after ${Math.round((performance.now() - startedMs) / 1000)} s`);
  return result;
};
const [loaded, ways, held] = [await phase("loads", loads), await phase("ways", latencies), await phase("memory", memory)];
const report = {
  command: "npm run compare",
  revision: execFileSync("git", ["rev-parse", "--short", "HEAD"], { cwd: here(".") }).toString().trim(),
  machine: { cpu: cpus()[0].model, cpus: cpus().length, loadBefore, loadAfter: loadavg() },
  settings: SETTINGS,
  versions: {
    node: process.version,
    chromium: browser.version(),
    ...Object.fromEntries(["yjs", "y-indexeddb", "@hocuspocus/provider", "@hocuspocus/server", "@automerge/automerge", "@automerge/automerge-repo", "@automerge/automerge-repo-network-websocket", "@automerge/automerge-repo-storage-indexeddb", "@automerge/automerge-repo-storage-nodefs"].map((name) => [name, version(name)])),
  },
  bundles: Object.fromEntries(
    bundles.map((each) => [each.page, { firstGzipBytes: each.firstGzipBytes, allGzipBytes: site.sentGzipBytes(each) }]),
  ),
  loads: Object.fromEntries(ALL.map((name) => [name, Object.fromEntries(Object.entries(loaded[name]).map(([what, values]) => [what, { ...percentiles(values), values }]))])),
  latencies: Object.fromEntries(MAIN.map((name) => [name, { ...percentiles(ways[name].ms), lost: ways[name].lost, values: ways[name].ms.map((ms) => Math.round(ms * 100) / 100) }])),
  memory: held,
};
mkdirSync(out, { recursive: true });
writeFileSync(join(out, "samples.json"), `${JSON.stringify(report)}\n`);
writeFileSync(join(out, "table.md"), table(report));
console.log(table(report));
await browser.close();
for (const name of MAIN) await servers[name].stop();
site.close();
