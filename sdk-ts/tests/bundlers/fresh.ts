/** Projects made from nothing, into which the packed package is installed from the registry's other packages. */

import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { SDK } from "../e2e/pack.js";

/** What came of one project: `results/` keeps it. */
export interface Row {
  readonly project: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly command: string;
  /** The files of the build for browsers, and whether the page asked for them. */
  readonly chunks?: readonly { readonly name: string; readonly bytes: number; readonly gzipBytes: number; readonly loaded?: boolean }[];
  readonly said?: string;
}

const rows: Row[] = [];

/** Keeps what came of a project, in the file that `BUNDLERS_OUT` names. */
export function record(row: Row): void {
  rows.push(row);
  const out = process.env["BUNDLERS_OUT"];
  if (out === undefined) return;
  mkdirSync(out, { recursive: true });
  const name = `${row.project.replaceAll(/[^a-z0-9]+/gi, "-").toLowerCase()}.json`;
  writeFileSync(join(out, name), `${JSON.stringify({ node: process.version, ...row }, null, 2)}\n`);
}

let tarball: string | undefined;
const made: string[] = [];

/** Packs the package once. */
function pack(): string {
  if (tarball !== undefined) return tarball;
  const directory = mkdtempSync(join(tmpdir(), "etherply-packed-"));
  made.push(directory);
  const said = execFileSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", directory], { cwd: SDK, stdio: ["ignore", "pipe", "ignore"] });
  const [{ filename }] = JSON.parse(said.toString()) as [{ filename: string }];
  tarball = join(directory, filename);
  return tarball;
}

/** Removes all that was made. */
export function removeAll(): void {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true });
  tarball = undefined;
}

/** A project. */
export class Project {
  readonly directory = mkdtempSync(join(tmpdir(), "etherply-fresh-"));

  constructor(
    readonly name: string,
    files: Readonly<Record<string, string>>,
    readonly packages: readonly string[],
  ) {
    made.push(this.directory);
    for (const [path, text] of Object.entries({ "package.json": '{ "private": true }\n', ...files })) {
      mkdirSync(dirname(join(this.directory, path)), { recursive: true });
      writeFileSync(join(this.directory, path), text);
    }
  }

  /** Installs as a user would. */
  async install(): Promise<this> {
    await this.run("npm", "install", "--no-audit", "--no-fund", pack(), ...this.packages);
    return this;
  }

  /** Runs a command to its end, and gives what it says. Rejects with that if it fails. */
  async run(command: string, ...args: readonly string[]): Promise<string> {
    const env = { ...process.env, NO_COLOR: "1", CI: "1", NEXT_TELEMETRY_DISABLED: "1", NODE_ENV: undefined };
    try {
      const { stdout, stderr } = await promisify(execFile)(command, [...args], { cwd: this.directory, env, maxBuffer: 1 << 26 });
      return stdout + stderr;
    } catch (error) {
      const { stdout = "", stderr = "" } = error as { stdout?: string; stderr?: string };
      throw new Error(`${this.name}: ${command} ${args.join(" ")} failed:\n${stdout}${stderr}`, { cause: error });
    }
  }

  /** Versions of what was installed by name. */
  get versions(): Record<string, string> {
    const names = [...this.packages.map((each) => each.replace(/(?!^)@.*$/, "")), "@etherply/sdk", "@automerge/automerge"];
    const version = (name: string): string =>
      (JSON.parse(readFileSync(join(this.directory, "node_modules", name, "package.json"), "utf8")) as { version: string }).version;
    return Object.fromEntries(names.map((name) => [name, version(name)]));
  }

  /** The files of a build that browsers get, the largest first. */
  chunks(folder: string): NonNullable<Row["chunks"]> {
    const all = readdirSync(join(this.directory, folder), { recursive: true, encoding: "utf8" });
    const files = all.filter((name) => /\.(js|wasm)$/.test(name) && statSync(join(this.directory, folder, name)).isFile());
    const sized = files.map((name) => {
      const bytes = readFileSync(join(this.directory, folder, name));
      return { name, bytes: bytes.length, gzipBytes: gzipSync(bytes).length };
    });
    return sized.sort((one, other) => other.bytes - one.bytes);
  }
}
