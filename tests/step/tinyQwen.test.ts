import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { trainBpe } from "../../src/data/text/tinyBpe.ts";
import { tokenizerOf } from "../../src/models/families.ts";
import { tinyQwenConfig, writeTinyQwen } from "../../src/models/qwen2_5_vl/tiny.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { TINY } from "../../src/models/xcomposer2/tiny.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { randomPatchBatch } from "../helpers/randomPatches.ts";

const root = mkdtempSync(join(tmpdir(), "lorafit-tiny-qwen-"));
afterAll(() => rmSync(root, { recursive: true }));

const TEXTS = ["The total of the receipt is 37.50.", "The receipt is from Zürich; the total is 12."];

it("is read with its sizes, and spreads its guesses over the vocabulary", () => {
  const folder = join(root, "weights");
  writeTinyQwen(folder, TINY);
  const model = loadModel(folder, { dtype: "float32", device: "cpu" });
  expect(model.config).toEqual(tinyQwenConfig(TINY));
  const batch = randomPatchBatch(tinyQwenConfig(TINY), [{ textTokens: 60, pictures: [[3, 5]] }]);
  const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
  expect(loss).toBeGreaterThan(Math.log(TINY.vocab) - 1);
  expect(loss).toBeLessThan(Math.log(TINY.vocab) + 2);
  disposeModel(model);
});

it("has a tokenizer that knows its words, its turns and where pictures stand", async () => {
  const folder = join(root, "tokenizer");
  writeTinyQwen(folder, TINY, trainBpe(TEXTS, { vocabSize: TINY.vocab }));
  const tokenizer = (await tokenizerOf(folder))!;
  for (const text of [...TEXTS, "Other words, 漢字 too\n\n"])
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  expect(tokenizer.encode(" receipt").length).toBe(1);
  const { eosIds } = tinyQwenConfig(TINY);
  expect(tokenizer.encode("<|im_end|>", { specials: true })).toEqual([eosIds[0]]);
});

it("refuses sizes that do not fit together", () => {
  expect(() => tinyQwenConfig({ ...TINY, visionHidden: 24 })).toThrow("4 x --vision-heads");
  expect(() => trainBpe(TEXTS, { vocabSize: 200 })).toThrow("too small");
});
