import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { ClosingLine } from "./tests/helpers/closingLine.ts";

// Kernels' threads that wait in a loop for each other take the cores from the other worker's.
process.env.OMP_WAIT_POLICY ??= "passive";
// What is measured while tests crowd the machine is no business of the user's own plans, nor of another checkout's tests.
process.env.XDG_CACHE_HOME = fileURLToPath(new URL(".cache/tests", import.meta.url));

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "web/src/**/*.test.ts", "tests/**/*.test.ts"],
    exclude: ["tests/real/**"], // vitest.real.config.ts
    pool: "forks", // libtorch keeps global state: one process a file
    maxWorkers: 2,
    testTimeout: 300_000,
    hookTimeout: 300_000,
    setupFiles: ["tests/helpers/matchers.ts"],
    reporters: ["default", new ClosingLine()],
  },
});
