/** A page that speaks to a server by TLS, with tokens, in a real browser. */

import { execFileSync } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { binary, TestServer } from "../integration/server.js";
import { launch } from "./chromium.js";
import { says, shows, Site, type } from "./site.js";

let directory: string;
let server: TestServer;
let site: Site;

const at = (name: string): string => join(directory, name);

/** A certificate for this machine's name, as docs/operating/security.md makes one for a try. */
function certify(): void {
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", at("server.key")];
  execFileSync("openssl", ["req", "-x509", ...key, "-days", "2", ...subject, "-out", at("server.pem")], { stdio: "pipe" });
}

function token(subject: string, ...grants: readonly string[]): string {
  const args = ["token", "--key", at("keys/main.private.pem"), "--subject", subject, "--ttl", "1h", ...grants];
  return execFileSync(binary(), args, { encoding: "utf8" }).trim();
}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "etherply-tls-"));
  certify();
  execFileSync(binary(), ["keys", "generate", "--out", at("keys")]);
  server = await new TestServer(["--tls-cert", at("server.pem"), "--tls-key", at("server.key"), "--keys", at("keys")]).start();
  // The browser believes this key and no other that no authority answers for.
  const key = new X509Certificate(readFileSync(at("server.pem"))).publicKey.export({ type: "spki", format: "der" });
  const pin = createHash("sha256").update(key).digest("base64");
  site = await Site.start(directory, `--ignore-certificate-errors-spki-list=${pin}`);
});

afterAll(async () => {
  await site?.close();
  await server?.remove();
  rmSync(directory, { recursive: true, force: true });
});

const address = (subject: string, grants: readonly string[]): string =>
  `${site.address(subject, server.url, "memory")}&token=${token(subject, ...grants)}`;

async function open(subject: string, ...grants: readonly string[]): Promise<Page> {
  const context = await site.browser.newContext();
  const page = await context.newPage();
  await page.goto(address(subject, grants));
  return page;
}

it("writes with one token and reads with another, over wss", async () => {
  const presence = ["--presence", "notes/*"] as const;
  const ada = await open("ada", "--write", "notes/*", ...presence);
  await says(ada, "live");
  await type(ada, "sealed", "end");
  await says(ada, "live unkept saved");
  const eve = await open("eve", "--read", "notes/*", ...presence);
  await shows(eve, "sealed");
  await says(eve, "live unkept saved 1");
  await says(ada, "live unkept saved 1");
  // What a reader writes stays with the reader.
  await type(eve, "broken ", "start");
  await type(ada, " well", "end");
  await shows(ada, "sealed well");
  expect(new URL(server.url).protocol).toBe("wss:");
});

it("does not connect where the certificate is not believed", async () => {
  const careful = await launch();
  try {
    const page = await careful.newPage();
    await page.goto(address("ada", ["--write", "notes/*"]));
    await expect.poll(() => server.metric('etherply_connections_rejected_total{reason="tls"}'), { timeout: 50_000, interval: 50 }).toBeGreaterThan(0);
    expect(await page.locator("output").textContent()).not.toContain("live");
  } finally {
    await careful.close();
  }
});
