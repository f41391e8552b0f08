import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { readRecords, restartLog, STEPS_FILE, type StepRecord } from "./runLog.ts";

it("a log that a crash has spoilt is read as far as it has records, and goes on from the state's step", async () => {
  const output = mkdtempSync(join(tmpdir(), "log-"));
  const path = join(output, STEPS_FILE);
  writeFileSync(path, '{"step":1}\n\0\0\0\0\n{"step":3}\n{"step":4}\n{"step":');
  expect((await readRecords<StepRecord>(path)).map(({ step }) => step)).toEqual([1, 3, 4]);
  await restartLog(output, {}, { step: 3, evals: [] });
  expect(readFileSync(path, "utf8")).toBe('{"step":1}\n{"step":3}\n');
  rmSync(output, { recursive: true });
});

it("a log that can't be read is an error, and none that is overwritten; one that is missing has no records", async () => {
  await expect(readRecords(tmpdir())).rejects.toThrow(UserError);
  expect(await readRecords(join(tmpdir(), "nowhere", STEPS_FILE))).toEqual([]);
});
