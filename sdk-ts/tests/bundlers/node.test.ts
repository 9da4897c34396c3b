/** Fresh projects without a bundler: Node, as a module and by `require`. */

import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { TestServer } from "../integration/server.js";
import { Project, record, removeAll } from "./fresh.js";

const server = new TestServer();
beforeAll(() => server.start());
afterAll(async () => {
  await server.remove();
  removeAll();
});

const program = (imports: string): string => `${imports}
(async () => {
  const store = fileStore({ directory: process.argv[3], subject: "me" });
  const client = createClient({ url: process.argv[2], webSocket: WebSocket, store });
  const board = client.document("boards/" + process.argv[4], { initial: { cards: [] } });
  await board.ready();
  await board.change((doc) => { doc.cards.push("hi"); }).durable();
  console.log(JSON.stringify(board.current.cards), typeof useDocument);
  await client.close();
})();
`;

it.each([
  [
    "Node, module",
    "program.mjs",
    `import { createClient } from "@etherply/sdk";
import { fileStore } from "@etherply/sdk/node";
import { useDocument } from "@etherply/sdk/react";
import { WebSocket } from "ws";`,
  ],
  [
    "Node, require",
    "program.cjs",
    `const { createClient } = require("@etherply/sdk");
const { fileStore } = require("@etherply/sdk/node");
const { useDocument } = require("@etherply/sdk/react");
const { WebSocket } = require("ws");`,
  ],
])("%s", async (name, file, imports) => {
  const project = await new Project(name, { [file]: program(imports) }, ["ws", "react"]).install();
  const said = await project.run("node", file, server.url, join(project.directory, "kept"), file);
  expect(said).toContain('["hi"] function');
  record({ project: name, versions: project.versions, command: `node ${file}` });
});
