import { defineConfig } from "vitest/config";
import base from "./vitest.config.ts";

/** Tests with a real browser, trackers and clients: `make test-real`. */
export default defineConfig({
  test: {
    ...base.test,
    include: ["tests/real/**/*.test.ts"],
    exclude: [],
    expect: { poll: { timeout: 120_000 } },
  },
});
