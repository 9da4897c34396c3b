// Writes vectors.json: bytes made by the peers' own libraries, which the load generator's codecs are tested with.
// Run by hand where package.json beside it is installed, after a version changed: node vectors.mjs > vectors.json

import { Encoder } from "cbor-x";
import * as encoding from "lib0/encoding";
import mqtt from "mqtt-packet";
import * as sync from "y-protocols/sync";
import * as Y from "yjs";
import { HocuspocusProvider, HocuspocusProviderWebsocket } from "@hocuspocus/provider";
import { parseAutomergeUrl, stringifyAutomergeUrl } from "@automerge/automerge-repo";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const written = (write) => {
  const encoder = encoding.createEncoder();
  write(encoder);
  return encoding.toUint8Array(encoder);
};

const doc = new Y.Doc();
doc.clientID = 1003;
const updates = [];
doc.on("update", (update) => updates.push(update));
doc.getMap("state").set("writer-3", "first");
doc.getMap("state").set("writer-3", "second");
const message = (write) => written((encoder) => { encoding.writeVarUint(encoder, 0); write(encoder); });

const publish = (qos, payload) =>
  mqtt.generate({ cmd: "publish", topic: "a/b", payload, qos, messageId: 2, properties: {} }, { protocolVersion: 5 });

// What the provider says over a socket that is none: its words, by kind, as the server's answers come.
const said = [];
class Socket extends EventTarget {
  readyState = 1;
  binaryType = "arraybuffer";
  constructor() {
    super();
    setTimeout(() => this.dispatchEvent(new Event("open")));
  }
  send(bytes) { said.push(bytes); }
  close() {}
}
const socket = new HocuspocusProviderWebsocket({ url: "ws://localhost", WebSocketPolyfill: Socket, maxAttempts: 1 });
const provided = new Y.Doc();
const provider = new HocuspocusProvider({ websocketProvider: socket, name: "doc", document: provided, token: "" });
provider.attach();
const settle = () => new Promise((done) => setTimeout(done, 200));
await settle();
const heard = (write) =>
  socket.webSocket.dispatchEvent(new MessageEvent("message", { data: written((encoder) => {
    encoding.writeVarString(encoder, "doc");
    write(encoder);
  }).slice().buffer }));
heard((encoder) => { encoding.writeVarUint(encoder, 2); encoding.writeVarUint(encoder, 2); encoding.writeVarString(encoder, "read-write"); });
await settle();
Y.applyUpdate(provided, updates[0]);
await settle();
const provides = (kind, step) => said.find((bytes) => bytes[4] === kind && (step === undefined || bytes[5] === step));

const fixed = parseAutomergeUrl(stringifyAutomergeUrl({ documentId: new Uint8Array(16).map((_, at) => at + 1) }));
const cbor = new Encoder({ tagUint8Array: false, useRecords: false });

console.log(JSON.stringify({
  lib0: {
    uints: hex(written((encoder) =>
      [0, 1, 127, 128, 300, 2 ** 32, 2 ** 53 - 1].forEach((number) => encoding.writeVarUint(encoder, number)))),
  },
  yjs: {
    update_1: hex(updates[0]),
    update_2: hex(updates[1]),
    state: hex(Y.encodeStateAsUpdate(doc)),
    message_update: hex(message((encoder) => sync.writeUpdate(encoder, updates[0]))),
    message_step_1: hex(message((encoder) => sync.writeSyncStep1(encoder, new Y.Doc()))),
    message_step_2: hex(message((encoder) => sync.writeSyncStep2(encoder, new Y.Doc()))),
  },
  hocuspocus: {
    auth: hex(provides(2)),
    step_1: hex(provides(0, 0)),
    update: hex(provides(0, 2)),
  },
  mqtt: {
    publish_qos0: hex(publish(0, "value")),
    publish_qos1: hex(publish(1, "value")),
    publish_long: hex(publish(0, "x".repeat(300))),
  },
  automerge_repo: {
    document_id: Buffer.from(fixed.documentId).toString("hex"),
    join: hex(cbor.encode({
      type: "join", senderId: "me", peerMetadata: { isEphemeral: true }, supportedProtocolVersions: ["1"],
    })),
    sync: hex(cbor.encode({
      type: "sync", senderId: "me", targetId: "server", documentId: fixed.documentId, data: new Uint8Array([1, 2, 3]),
    })),
    peer: hex(cbor.encode({
      type: "peer", senderId: "server", targetId: "me", peerMetadata: { storageId: "x", isEphemeral: false },
      selectedProtocolVersion: "1",
    })),
  },
}, null, 2));
process.exit();
