import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { index: "src/index.ts", content: "src/document/content.ts" },
  format: ["esm", "cjs"],
  dts: true,
  platform: "neutral",
  target: "es2022",
  external: [/^@automerge\//],
  sourcemap: true,
  fixedExtension: false,
});
