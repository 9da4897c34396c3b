/** automerge-repo's sync server: the parts that `@automerge/automerge-repo-sync-server` joins, at today's versions. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Repo } from "@automerge/automerge-repo";
import { WebSocketServerAdapter } from "@automerge/automerge-repo-network-websocket";
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs";
import { WebSocketServer } from "ws";

const directory = process.argv[2] ?? mkdtempSync(join(tmpdir(), "compare-automerge-repo-"));
const sockets = new WebSocketServer({ port: 0, host: "127.0.0.1" });
new Repo({
  network: [new WebSocketServerAdapter(sockets)],
  storage: new NodeFSStorageAdapter(directory),
  peerId: "storage-server",
  // As there: it answers for the documents that it is asked for, and offers none by itself.
  sharePolicy: async () => false,
});
sockets.on("listening", () => console.log(JSON.stringify({ listen: `ws://127.0.0.1:${sockets.address().port}` })));
