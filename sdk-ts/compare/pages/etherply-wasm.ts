/** `@etherply/sdk` with Automerge's WebAssembly as a file of its own. */

import "./wasm-url";
import "./etherply";
