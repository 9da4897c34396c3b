/** Says where the WebAssembly is, before the page asks. */

import wasm from "@automerge/automerge/automerge.wasm";

globalThis.wasmUrl = wasm;
