/** The client, made once, and the page. */

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { automerge, createClient, indexedDbStore } from "@etherply/sdk";
import { EtherPlyProvider } from "@etherply/sdk/react";
import { App } from "./app";
import "./style.css";

const client = createClient({
  url: import.meta.env["VITE_ETHERPLY_URL"] ?? `ws://${location.hostname}:4180`,
  // This example has no accounts: what is kept in this browser belongs to whoever uses it.
  store: indexedDbStore({ subject: "me" }),
});
client.guardUnload();

// The editor speaks Automerge's language of positions and patches, so it begins when that is loaded.
const A = await automerge();

createRoot(document.getElementById("app")!).render(
  <StrictMode>
    <EtherPlyProvider client={client}>
      <App A={A} />
    </EtherPlyProvider>
  </StrictMode>,
);
