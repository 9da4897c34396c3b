/**
 * Automerge, loaded once and only when a document needs it: its code is 2.6 MB of WebAssembly.
 *
 * By default that comes as a chunk of JavaScript with the bytes in base64, which every bundler and every server can
 * pass on without being told about `.wasm` files.
 * @module
 */

import type * as Automerge from "@automerge/automerge/slim";
import { localError } from "./errors.js";

/** Automerge's functions. */
export type AutomergeModule = typeof Automerge;

/** Where Automerge's WebAssembly comes from: its URL, its bytes, or a promise of them. */
export type WasmSource = string | Request | Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>;

let loading: Promise<AutomergeModule> | undefined;

/**
 * Automerge as this package uses it, for what goes beyond plain edits: `A.splice`, `A.updateText`, marks, cursors.
 *
 * Loads it on the first call. Without `wasm`, from the package's own copy in base64; with it, from there, which
 * browsers can compile while it arrives (`@automerge/automerge/automerge.wasm`). Only the first call's counts.
 */
export function automerge(wasm?: WasmSource): Promise<AutomergeModule> {
  loading ??= load(wasm).catch((cause: unknown) => {
    loading = undefined;
    throw localError("automerge_failed", "Automerge could not be loaded", cause);
  });
  return loading;
}

async function load(wasm: WasmSource | undefined): Promise<AutomergeModule> {
  const module = await import("@automerge/automerge/slim");
  // The application may have done so itself.
  if (module.isWasmInitialized()) return module;
  if (wasm !== undefined) {
    await module.initializeWasm(wasm);
  } else {
    const { automergeWasmBase64 } = await import("@automerge/automerge/automerge.wasm.base64");
    await module.initializeBase64Wasm(automergeWasmBase64);
  }
  return module;
}
