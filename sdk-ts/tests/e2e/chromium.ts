/** The browser of the end-to-end tests, and programs that serve pages. */

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import type { Browser } from "playwright-core";

/** Starts Chromium: `CHROMIUM`, or the one of the system. */
export function launch(...args: readonly string[]): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
      ...args,
    ],
  });
}

/** A program that goes on until it is ended, with all that it started. */
export class Service {
  private readonly child: ChildProcess;
  private said = "";

  constructor(command: string, args: readonly string[], options: { readonly cwd: string; readonly env?: Readonly<Record<string, string>> }) {
    // In a group of its own: `npm run` does not pass signals on to what it runs.
    this.child = spawn(command, [...args], {
      cwd: options.cwd,
      env: { ...process.env, NO_COLOR: "1", ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    this.child.stderr?.on("data", (bytes: Buffer) => (this.said += bytes.toString()));
  }

  /** The first match of `pattern` in what it prints. Rejects if it ends before. */
  async says(pattern: RegExp): Promise<RegExpMatchArray> {
    const lines = createInterface(this.child.stdout!);
    return await new Promise((resolve, reject) => {
      lines.on("line", (line) => {
        this.said += `${line}\n`;
        const match = line.match(pattern);
        if (match !== null) resolve(match);
      });
      this.child.once("error", reject);
      this.child.once("exit", () => reject(new Error(`it ended before it said ${pattern}:\n${this.said}`)));
    });
  }

  /** Ends it, and waits until it has. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const { pid, exitCode, signalCode } = this.child;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    const gone = once(this.child, "exit");
    process.kill(-pid, signal);
    await gone;
  }
}
