import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { driverProblem } from "./driver.ts";

const folder = mkdtempSync(join(tmpdir(), "driver-"));
afterAll(() => rmSync(folder, { recursive: true }));

function problemOf(line: string): string | undefined {
  const file = join(folder, "version");
  writeFileSync(file, `${line}\nGCC version:  gcc version 12.3.0\n`);
  return driverProblem(file);
}

test("a driver that is missing or too old is named as what is in the way, a new one is not", () => {
  expect(driverProblem(join(folder, "none"))).toBe("there is no NVIDIA driver");
  expect(
    problemOf("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023"),
  ).toBe("the NVIDIA driver is version 535.104.05, and 580 or newer is needed");
  expect(
    problemOf("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"),
  ).toBeUndefined();
  expect(problemOf("something else")).toBeUndefined();
});
