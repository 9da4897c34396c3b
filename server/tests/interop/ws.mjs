// The exchange that main.rs plans, by the npm package `ws`. Prints what it was told as one line of JSON.
import WebSocket from "ws";

const plan = JSON.parse(process.env.ETHERPLY_INTEROP);
setTimeout(() => fail("nothing more came"), plan.patience_ms).unref();

function fail(why) {
  console.error(why);
  process.exit(1);
}

/** A connection whose events can be awaited one after the other. */
class Client {
  constructor() {
    this.told = [];
    this.waiting = null;
    // It offers compression, as it does by default, and another subprotocol first.
    this.socket = new WebSocket(plan.url, ["other", "etherply.v1"], { perMessageDeflate: true });
    this.socket.on("open", () => this.tell({ open: true }));
    this.socket.on("message", (bytes) => this.tell({ frame: bytes }));
    this.socket.on("pong", (bytes) => this.tell({ pong: bytes.toString() }));
    this.socket.on("close", (code, reason) => this.tell({ close: code, reason: reason.toString() }));
    this.socket.on("error", (error) => fail(`${error}`));
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

  /** The next frame, which has to be of this kind. */
  async frame(kind) {
    const { frame, ...other } = await this.next();
    if (frame === undefined) fail(`${JSON.stringify(other)} instead of kind ${kind}`);
    const got = frame.readUInt16LE(plan.kind_at);
    if (got !== kind) fail(`kind ${got} instead of ${kind}`);
    return frame;
  }

  /** Says hello and opens the document; the stream's number. */
  async join() {
    await this.next();
    this.socket.send(Buffer.from(plan.hello, "hex"));
    await this.frame(plan.kinds.welcome);
    this.socket.send(Buffer.from(plan.open, "hex"));
    const opened = await this.frame(plan.kinds.opened);
    return opened.readUInt32LE(plan.stream_at);
  }
}

const writer = new Client();
const stream = await writer.join();
const reader = new Client();
await reader.join();

const push = Buffer.from(plan.push, "hex");
push.writeUInt32LE(stream, plan.stream_at);
writer.socket.send(push.subarray(0, 30), { binary: true, fin: false });
writer.socket.ping("between");
writer.socket.send(push.subarray(30, 31), { binary: true, fin: false });
writer.socket.send(push.subarray(31), { binary: true, fin: true });
const { pong } = await writer.next();
await writer.frame(plan.kinds.ack);
const changes = await reader.frame(plan.kinds.changes);

const said = {
  subprotocol: writer.socket.protocol,
  extensions: writer.socket.extensions,
  pong,
  delivered: changes.toString("hex"),
};
writer.socket.close(4321, "so long");
said.writer_close = (await writer.next()).close;
reader.socket.close();
said.reader_close = (await reader.next()).close;
const texter = new Client();
await texter.join();
await texter.frame(plan.kinds.changes);
texter.socket.send("text");
await texter.frame(plan.kinds.error);
const { close, reason } = await texter.next();
console.log(JSON.stringify({ ...said, text_close: close, text_reason: reason }));
