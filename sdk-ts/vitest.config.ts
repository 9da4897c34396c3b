import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const old = (name: string): string => fileURLToPath(new URL(`tests/react-18/node_modules/${name}`, import.meta.url));

export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["tests/unit/**/*.test.ts"] } },
      { test: { name: "types", include: [], typecheck: { enabled: true, only: true, include: ["tests/types/**/*.test-d.ts"] } } },
      {
        // The hooks once more, with the oldest React that they are for.
        resolve: { alias: { react: old("react"), "react-dom": old("react-dom") } },
        test: { name: "react-18", include: ["tests/unit/react.test.ts"], env: { REACT_MAJOR: "18" } },
      },
      {
        test: {
          // Fresh projects that install the package: minutes, and packages from the registry.
          name: "bundlers",
          include: ["tests/bundlers/**/*.test.ts"],
          testTimeout: 600_000,
          hookTimeout: 60_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: "integration",
          include: ["tests/integration/**/*.test.ts", "tests/e2e/**/*.test.ts"],
          // Each test waits for events of a real server; this is when one that never comes is given up.
          testTimeout: 60_000,
          hookTimeout: 60_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
