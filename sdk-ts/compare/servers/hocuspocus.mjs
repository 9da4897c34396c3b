/** Hocuspocus as its documentation starts it, without extensions: documents are in memory only. */

import { Server } from "@hocuspocus/server";

const server = new Server({ port: 0, address: "127.0.0.1", quiet: true });
await server.listen();
console.log(JSON.stringify({ listen: `ws://127.0.0.1:${server.httpServer.address().port}` }));
