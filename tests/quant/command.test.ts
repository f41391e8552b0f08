import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lorafit, records } from "../e2e/lorafit.ts";
import { golden } from "../helpers/shared.ts";

const tiny = golden("tiny");
const cases = golden("tiny_cases/cases.jsonl");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "quantize-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) =>
  records(lorafit([...args, "--json"], { cwd: folder })) as Record<string, unknown>[];

describe("lorafit quantize", () => {
  it("reports each matrix, sizes and losses, which are those of eval on either folder", () => {
    const shown = run("quantize", "--model", tiny, "--output", "nf4", "--report", "--data", cases);
    const matrices = shown.filter(({ name }) => name !== undefined);
    expect(matrices).toHaveLength(15);
    for (const { relativeError } of matrices) expect(relativeError).toBeLessThan(0.1);
    const [sizes, losses] = shown.slice(-2) as [Record<string, number>, Record<string, number>];
    expect(sizes.bytes).toBeLessThan(sizes.beforeBytes!);
    const loss = (model: string, ...more: string[]) =>
      run("eval", "--model", model, "--data", cases, ...more).at(-1)!.loss;
    expect(losses.lossBefore).toBe(loss(tiny));
    expect(losses.loss).toBe(loss("nf4"));
    expect(losses.difference).toBeCloseTo(losses.loss! - losses.lossBefore!, 9);
    expect(loss(tiny, "--base", "nf4")).toBe(losses.loss);
  });

  it("reports the vision tower layer by layer, and has the losses of loading it so", () => {
    const bases = ["--base", "int8", "--vision-base", "nf4"];
    const args = ["quantize", "--model", tiny, ...bases, "--report", "--data", cases];
    const { stdout } = lorafit([...args, "--output", "tower"], { cwd: folder });
    expect(stdout).toMatch(/relative error +q_proj +k_proj +v_proj +out_proj +fc1 +fc2\n/);
    expect(stdout).toMatch(/\nvision layer 1( +\d\.\d+ %){6}\n/);
    expect(stdout).toMatch(/\nvision_proj\.2\.weight +\d\.\d+ %\n/);
    const [loss] = /[\d.]+(?= quantised)/.exec(stdout)!;
    const losses = [["tower"], [tiny, ...bases]].map(
      ([model, ...more]) => run("eval", "--model", model!, "--data", cases, ...more).at(-1)!.loss as number,
    );
    expect(losses[0]).toBe(losses[1]);
    expect(losses[0]!.toFixed(4)).toBe(loss);
  });

  it("is planned in the precision that it is stored in", () => {
    const weightsBytes = (model: string, ...more: string[]): number => {
      const [plan] = run("plan", "--model", model, "--device", "cpu", "--max-length", "600", ...more);
      return (plan!.categories as Record<string, number>).weights!;
    };
    run("quantize", "--model", tiny, "--output", "planned", "--base", "nf4");
    const policy = ["--policy", "resident.json"];
    writeFileSync(join(folder, "resident.json"), "{}");
    expect(weightsBytes("planned", ...policy)).toBe(weightsBytes(tiny, "--base", "nf4", ...policy));
    expect(weightsBytes("planned", ...policy)).toBeLessThan(weightsBytes(tiny, ...policy));
  });

  it("says what can't be done with a quantised model, and what to do instead", () => {
    run("quantize", "--model", tiny, "--output", "int8", "--base", "int8");
    for (const [args, told] of [
      [["quantize", "--model", "int8", "--output", "twice"], /quantised already.*\n.*original checkpoint/],
      [
        ["eval", "--model", "int8", "--data", cases, "--base", "nf4"],
        /cannot convert it to nf4.*\n.*unquantised/,
      ],
      [
        ["merge", "--model", "int8", "--adapter", golden("tiny_lora"), "--output", "merged"],
        /quantised.*\n.*full weights/,
      ],
    ] as const) {
      const { code, stderr } = lorafit([...args], { cwd: folder });
      expect(code).toBe(1);
      expect(stderr).toMatch(told);
    }
    const { code, stderr } = lorafit(["eval", "--model", tiny, "--data", cases, "--vision-base", "int4"]);
    expect(code).toBe(2);
    expect(stderr).toContain('--vision-base takes bf16, int8, nf4 or fp8 (got "int4")');
  });
});
