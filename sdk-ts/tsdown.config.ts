import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { index: "src/index.ts", content: "src/document/content.ts", tabs: "src/tabs/sharing.ts", node: "src/node/index.ts", react: "src/react/index.ts" },
  format: ["esm", "cjs"],
  dts: true,
  platform: "neutral",
  target: "es2022",
  external: [/^@automerge\//, /^node:/, "react"],
  sourcemap: true,
  minify: "dce-only",
  inputOptions: { optimization: { inlineConst: true } },
  fixedExtension: false,
});
