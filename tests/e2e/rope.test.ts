/** A configuration of transformers 5, which stores the base of rotary positions in rope_parameters. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { lorafit, records } from "./lorafit.ts";

const root = mkdtempSync(join(tmpdir(), "rope-"));
afterAll(() => rmSync(root, { recursive: true }));

it("gives the loss that its theta gives", () => {
  const model = join(root, "tiny");
  expect(lorafit(["tiny", "--output", model]).code).toBe(0);
  const file = join(model, "config.json");
  const { rope_theta, rope_scaling, torch_dtype, ...json } = JSON.parse(readFileSync(file, "utf8"));
  const five = { ...json, rope_parameters: { rope_theta: 1e4, rope_type: "default" }, dtype: torch_dtype };
  writeFileSync(file, JSON.stringify(five));
  const items = Array.from({ length: 60 }, (_, at) => `item ${at} costs ${(7 * at) % 13} coins,`);
  const sample = {
    id: 0,
    conversations: [
      { from: "user", value: `List: ${items.join(" ")}` },
      { from: "assistant", value: "item 5 costs 9 coins" },
    ],
  };
  const data = join(root, "data.json");
  writeFileSync(data, JSON.stringify([sample]));
  const [, total] = records(lorafit(["eval", "--json", "--model", model, "--data", data])) as {
    loss: number;
  }[];
  expect(rope_theta).toBe(1e6);
  expect(rope_scaling).toEqual({ factor: 1, type: "dynamic" });
  expect(total!.loss).toBeCloseTo(7.256653, 4); // with the official model's theta: 7.209540
});
