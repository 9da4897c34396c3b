// The exchange that main.rs plans, by a browser, in pages of this machine and of another site. Prints what the
// pages were told as one line of JSON.
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const plan = JSON.parse(process.env.ETHERPLY_INTEROP);
setTimeout(() => {
  console.error("nothing more came");
  process.exit(1);
}, plan.patience_ms).unref();

/** Runs in a page: two clients, a push from one to the other, and how each connection ends. */
async function exchange(plan) {
  const bytes = (hex) => Uint8Array.from(hex.match(/../g), (byte) => parseInt(byte, 16));
  class Client {
    constructor() {
      this.told = [];
      this.waiting = null;
      this.socket = new WebSocket(plan.url, ["other", "etherply.v1"]);
      this.socket.binaryType = "arraybuffer";
      this.socket.onopen = () => this.tell({ open: true });
      this.socket.onmessage = ({ data }) => this.tell({ frame: new DataView(data) });
      this.socket.onclose = ({ code, reason, wasClean }) => this.tell({ close: code, reason, wasClean });
    }

    tell(what) {
      this.told.push(what);
      this.waiting?.();
    }

    async next() {
      while (this.told.length === 0) {
        await new Promise((resolve) => (this.waiting = resolve));
      }
      return this.told.shift();
    }

    async frame(kind) {
      const told = await this.next();
      const got = told.frame?.getUint16(plan.kind_at, true);
      if (got !== kind) throw new Error(`${JSON.stringify(told)}, kind ${got} instead of ${kind}`);
      return told.frame;
    }

    async join() {
      await this.next();
      this.socket.send(bytes(plan.hello));
      await this.frame(plan.kinds.welcome);
      this.socket.send(bytes(plan.open));
      return (await this.frame(plan.kinds.opened)).getUint32(plan.stream_at, true);
    }
  }

  const writer = new Client();
  const stream = await writer.join();
  const reader = new Client();
  await reader.join();
  const push = bytes(plan.push);
  new DataView(push.buffer).setUint32(plan.stream_at, stream, true);
  writer.socket.send(push);
  await writer.frame(plan.kinds.ack);
  const changes = await reader.frame(plan.kinds.changes);
  const delivered = Array.from(new Uint8Array(changes.buffer), (byte) => byte.toString(16).padStart(2, "0"));
  const { protocol: subprotocol, extensions } = writer.socket;
  writer.socket.close(4321, "so long");
  const writer_end = await writer.next();
  reader.socket.close(1000);
  const reader_end = await reader.next();
  const texter = new Client();
  await texter.join();
  await texter.frame(plan.kinds.changes);
  texter.socket.send("text");
  await texter.frame(plan.kinds.error);
  const text_end = await texter.next();
  return {
    subprotocol,
    extensions,
    delivered: delivered.join(""),
    clean: writer_end.wasClean && reader_end.wasClean && text_end.wasClean,
    writer_close: writer_end.close,
    reader_close: reader_end.close,
    text_close: text_end.close,
    text_reason: text_end.reason,
  };
}

/** Runs in a page: the code with which a connection ends that is never open. */
function refusal(url) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.onopen = () => reject(new Error(`${url} is open`));
    socket.onclose = ({ code }) => resolve(code);
  });
}

const pages = createServer((_, response) => {
  response.writeHead(200, { "content-type": "text/html" });
  response.end("<!doctype html><title>a page</title>");
});
await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve));
const { port } = pages.address();

const browser = await chromium.launch({
  executablePath: plan.chromium,
  timeout: plan.patience_ms,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    // What an attacker's name server would answer.
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
  ],
});
const page = await browser.newPage();
page.setDefaultTimeout(plan.patience_ms);
await page.goto(`http://localhost:${port}/`);
const said = await page.evaluate(exchange, plan);
const metrics = await page.goto(`${plan.control}/metrics`);
said.control_status = metrics.status();
await page.goto(`http://evil.test:${port}/`);
said.other_site = await page.evaluate(refusal, plan.url);
const rebound = (url) => url.replace("127.0.0.1", "evil.test");
said.rebound = await page.evaluate(refusal, rebound(plan.url));
const rebound_metrics = await page.goto(`${rebound(plan.control)}/metrics`);
said.rebound_control_status = rebound_metrics.status();
await browser.close();
pages.close();
console.log(JSON.stringify(said));
