// Hocuspocus' server as its documentation starts it: memory alone, no extensions.
import { Server } from "@hocuspocus/server";

const server = new Server({ port: Number(process.env.PORT), address: process.env.HOST, quiet: true });
await server.listen();
