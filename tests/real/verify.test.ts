/** `lorafit verify` with real PEFT. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it } from "vitest";
import { lorafit, records } from "../e2e/lorafit.ts";
import { golden } from "../helpers/shared.ts";

const PYTHON = fileURLToPath(new URL(".venv/bin/python", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "verify-"));
afterAll(() => rmSync(folder, { recursive: true }));

it("finds the answers and the weights of PEFT's merge equal to lorafit's", () => {
  const data = join(folder, "questions.json");
  writeFileSync(data, JSON.stringify([{ id: 0, input_ids: [1, 5, 6, 2, 7, 8] }]));
  const words = ["verify", "--model", golden("tiny"), "--adapter", golden("tiny_lora"), "--data", data];
  const [result] = records(lorafit([...words, "--python", PYTHON, "--json"])) as [
    { comparisons: { by: string; equal: number; linears?: { largest: number; largestWeight: number }[] }[] },
  ];
  expect(result.comparisons.map(({ by, equal }) => [by, equal])).toEqual([
    ["lorafit", 1],
    ["peft", 1],
  ]);
  const linears = result.comparisons[1]!.linears!;
  expect(linears.length).toBeGreaterThan(0);
  for (const { largest, largestWeight } of linears) expect(largest).toBeLessThan(1e-6 * largestWeight);
});
