/** A program without an engine, as `npm install` leaves it: what comes before the engine runs without it. */
import { cpSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { COMMAND_OPTIONS } from "../../src/cli/args/commandOptions.ts";
import { type Run, runProgram } from "./lorafit.ts";

const checkout = fileURLToPath(new URL("../..", import.meta.url));
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "no-engine-"));
  for (const name of ["dist", "package.json"])
    cpSync(join(checkout, name), join(folder, name), { recursive: true });
  symlinkSync(join(checkout, "node_modules"), join(folder, "node_modules"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(...args: string[]): Run {
  return runProgram(join(folder, "dist/cli/main.js"), args, { cwd: folder });
}

it("shows the help of every command", () => {
  for (const name of ["", ...Object.keys(COMMAND_OPTIONS)])
    expect(run(...name.split(" ").filter(Boolean), "--help"), name).toMatchObject({ code: 0, stderr: "" });
});

it("says what is missing, and the command that builds it", () => {
  const checked = run("doctor");
  expect(checked.code).toBe(1);
  expect(checked.stdout).toMatch(/missing +engine/);
  expect(checked.stderr).toContain("lorafit setup");
  const planned = run("plan");
  expect(planned.code).toBe(1);
  expect(planned.stderr).toMatch(/^error: The engine is not built yet[\s\S]*lorafit setup/);
});
