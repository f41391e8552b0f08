import { readFileSync } from "node:fs";
import { expect, it } from "vitest";

it("reads options without loading the engine, which `lorafit setup` is there to build", async () => {
  await import("./args/readCommand.ts");
  expect(readFileSync("/proc/self/maps", "utf8")).not.toContain("libtorch_cpu");
});
