declare module "@automerge/automerge/automerge.wasm" {
  const url: string;
  export default url;
}
