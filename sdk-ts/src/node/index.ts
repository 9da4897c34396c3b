/**
 * What this package has for programs in Node only.
 * @module
 */

export { fileStore } from "./file-store.js";
export type { FileStoreOptions } from "./file-store.js";
