/** A fresh Next.js project with the App Router: a page that is rendered ahead of time, and a route that reads a document on the server. */

import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "vitest";
import type { Browser } from "playwright-core";
import { launch, Service } from "../e2e/chromium.js";
import { TestServer } from "../integration/server.js";
import { application, works } from "./application.js";
import { Project, record, removeAll } from "./fresh.js";

let browser: Browser;
let server: TestServer;
beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => {
  await browser?.close();
  removeAll();
});
beforeEach(async () => {
  server = await new TestServer().start();
});
afterEach(() => server.remove());

/** The component of the application, as a page that Next renders on the server first. */
const component = `"use client";
${application()
  .replace(/^import \{ createRoot \}.*$/m, "")
  .replace(/^const server = .*$/m, 'const server = typeof location === "undefined" ? "ws://127.0.0.1:1" : new URLSearchParams(location.search).get("server");')
  .replace(/^createRoot.*$/m, "")}
export default function Page() {
  return h(EtherPlyProvider, { client }, h(Board));
}
`;

const FILES = {
  "app/layout.jsx": `export default function Layout({ children }) { return <html lang="en"><body>{children}</body></html>; }\n`,
  "app/page.jsx": component,
  // An ordinary page of the server that imports the package, and is rendered ahead of time.
  "app/about/page.jsx": `import { EtherPlyError } from "@etherply/sdk";\nexport default () => <p>{EtherPlyError.name}</p>;\n`,
  "app/cards/route.js": `import { createClient } from "@etherply/sdk";
import { WebSocket } from "ws";
export const dynamic = "force-dynamic";
export async function GET(request) {
  const client = createClient({ url: new URL(request.url).searchParams.get("server"), webSocket: WebSocket });
  const board = client.document("boards/bundled", { initial: { cards: [] } });
  const { cards } = await board.ready();
  await client.close();
  return Response.json(cards);
}
`,
};

/** The line that README.md names. */
const WEBPACK = { "next.config.mjs": `export default { serverExternalPackages: ["ws"] };\n` };

it.each([
  ["Next.js, Turbopack", "19", [], {}],
  ["Next.js, webpack", "19", ["--webpack"], WEBPACK],
  ["Next.js, Turbopack, React 18", "18", [], {}],
])("%s", async (name, react, options, configuration) => {
  const project = await new Project(name, { ...FILES, ...configuration }, ["next", `react@${react}`, `react-dom@${react}`, "ws"]).install();
  const said = await project.run("npx", "next", "build", ...options);
  expect(said, "the page is rendered ahead of time").toMatch(/○ \/\s/);
  const service = new Service("npx", ["next", "start", "--port", "0", "--hostname", "127.0.0.1"], { cwd: project.directory, env: { NEXT_TELEMETRY_DISABLED: "1" } });
  let asked: ReadonlySet<string>;
  try {
    const [, address = ""] = await service.says(/(http:\/\/127\.0\.0\.1:\d+)/);
    const html = await (await fetch(address)).text();
    expect(html, "what the server renders").toContain("connecting");
    asked = await works(browser, `${address}/`, server.url);
    const cards = await (await fetch(`${address}/cards?server=${encodeURIComponent(server.url)}`)).json();
    expect(cards, "what the server reads").toEqual(["card", "card"]);
  } finally {
    await service.stop();
  }
  const chunks = project.chunks(".next/static").map((chunk) => ({ ...chunk, loaded: asked.has(`/_next/static/${chunk.name}`) }));
  record({ project: name, versions: project.versions, command: ["next build", ...options].join(" "), chunks, said });
});
