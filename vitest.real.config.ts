import { defineConfig } from "vitest/config";
import base from "./vitest.config.ts";

/** Tests with a real browser, trackers and clients: `make test-real`. */
export default defineConfig({
  test: {
    ...base.test,
    include: ["tests/real/**/*.test.ts"],
    exclude: process.env.LORAFIT_SCREENS ? [] : ["tests/real/screens.test.ts"],
    expect: { poll: { timeout: 120_000 } },
    retry: 1, // browsers and servers of others are not ours to make steady
  },
});
