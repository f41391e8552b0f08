import { defineConfig } from "vitest/config";
import { ClosingLine } from "./tests/closingLine.ts";

// Kernels' threads that wait in a loop for each other take the cores from the other worker's.
process.env.OMP_WAIT_POLICY ??= "passive";

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "tests/**/*.test.ts"],
    pool: "forks", // libtorch keeps global state: one process a file
    maxWorkers: 2,
    testTimeout: 300_000,
    hookTimeout: 300_000,
    setupFiles: ["tests/matchers.ts"],
    reporters: ["default", new ClosingLine()],
  },
});
