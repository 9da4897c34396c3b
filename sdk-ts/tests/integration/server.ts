/** A real server as a process, and a proxy in front of it that can be cut. */

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import type { AddressInfo, Server as NetServer, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

/** The server's program: `ETHERPLY_BIN`, or what cargo built last. */
export function binary(): string {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(ROOT, "target");
  const candidates = [process.env["ETHERPLY_BIN"], join(target, "release/etherply"), join(target, "debug/etherply")];
  const found = candidates.find((path) => path !== undefined && existsSync(path));
  if (found === undefined) throw new Error("build the server first (cargo build --bin etherply), or set ETHERPLY_BIN");
  return found;
}

/** A server with a data directory of its own. */
export class TestServer {
  private child: ChildProcess | undefined;
  port = 0;
  private control = "";
  readonly data = mkdtempSync(join(tmpdir(), "etherply-sdk-"));

  constructor(private readonly args: readonly string[] = []) {}

  get url(): string {
    return this.args.includes("--tls-cert") ? `wss://localhost:${this.port}` : `ws://127.0.0.1:${this.port}`;
  }

  /** Starts it, again at the port where it was before. */
  async start(): Promise<this> {
    const args = ["serve", "--data", this.data, "--listen", `127.0.0.1:${this.port}`, "--control", "127.0.0.1:0"];
    const child = spawn(binary(), [...args, "--ready-json", "--cores", "1", ...this.args], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ETHERPLY_LOG: "warn" },
    });
    this.child = child;
    let said = "";
    child.stderr.on("data", (bytes: Buffer) => (said += bytes.toString()));
    const lines = createInterface(child.stdout);
    const ready = await Promise.race([once(lines, "line"), once(child, "exit").then(() => undefined)]);
    if (ready === undefined) throw new Error(`the server did not start: ${said}`);
    const told = JSON.parse(String(ready[0])) as { listen: string; control: string };
    this.control = told.control;
    this.port = Number(told.listen.split(":").at(-1));
    return this;
  }

  /** What it counts under this name. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`http://${this.control}/metrics`)).text();
    const begins = name.includes("{") ? [`${name} `] : [`${name} `, `${name}{`];
    const line = text.split("\n").find((each) => begins.some((begin) => each.startsWith(begin)));
    if (line === undefined) throw new Error(`the server does not count ${name}`);
    return Number(line.split(" ").at(-1));
  }

  /** Ends it without a word. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const child = this.child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill(signal);
    await gone;
  }

  async remove(): Promise<void> {
    await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }
}

/** Passes bytes between clients and a server, as long as it is whole. */
export class Proxy {
  private readonly server: NetServer;
  private readonly sockets = new Set<Socket>();
  private isWhole = true;
  connections = 0;

  constructor(private readonly target: () => number) {
    this.server = createServer({ pauseOnConnect: true }, (client) => this.accept(client));
  }

  async start(): Promise<this> {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return this;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Ends all connections as a broken network does, and takes no others. */
  cut(): void {
    this.isWhole = false;
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  /** Takes connections again. */
  mend(): void {
    this.isWhole = true;
  }

  async close(): Promise<void> {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }

  private accept(client: Socket): void {
    if (!this.isWhole) {
      client.resetAndDestroy();
      return;
    }
    this.connections += 1;
    const server = connect(this.target(), "127.0.0.1");
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.sockets.add(one);
      one.on("error", () => undefined);
      one.on("data", (bytes) => void other.write(bytes));
      one.on("close", () => {
        this.sockets.delete(one);
        other.destroy();
      });
    }
    client.resume();
  }
}
