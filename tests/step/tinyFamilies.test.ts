import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { trainBpe } from "../../src/data/text/tinyBpe.ts";
import { tokenizerOf } from "../../src/models/families.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import {
  INTERNVL_ADDED_TOKENS,
  tinyInternVlConfig,
  writeTinyInternVl,
} from "../../src/models/internvl/tiny.ts";
import { tinyQwenConfig, writeTinyQwen } from "../../src/models/qwen2_5_vl/tiny.ts";
import { tinyQwen3Config, writeTinyQwen3 } from "../../src/models/qwen3_vl/tiny.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { TINY, type TinyOptions } from "../../src/models/xcomposer2/tiny.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { randomPatchBatch } from "../helpers/randomPatches.ts";
import { randomTileBatch } from "../helpers/randomTiles.ts";

const root = mkdtempSync(join(tmpdir(), "lorafit-tiny-"));
afterAll(() => rmSync(root, { recursive: true }));

const TEXTS = ["The total of the receipt is 37.50.", "The receipt is from Zürich; the total is 12."];

interface TinyFamily {
  config(options: TinyOptions): ModelConfig;
  write(folder: string, options: TinyOptions, tokenizer?: string): void;
  batch(): MicroBatch;
  addedTokens?: readonly string[];
}

const FAMILIES: Record<string, TinyFamily> = {
  qwen2_5_vl: {
    config: tinyQwenConfig,
    write: writeTinyQwen,
    batch: () => randomPatchBatch(tinyQwenConfig(TINY), [{ textTokens: 60, pictures: [[3, 5]] }]),
  },
  qwen3_vl: {
    config: tinyQwen3Config,
    write: writeTinyQwen3,
    batch: () => randomPatchBatch(tinyQwen3Config(TINY), [{ textTokens: 60, pictures: [[3, 5]] }]),
  },
  internvl: {
    config: tinyInternVlConfig,
    write: writeTinyInternVl,
    batch: () => randomTileBatch(tinyInternVlConfig(TINY), [{ textTokens: 60, pictures: [[1, 2]] }]),
    addedTokens: INTERNVL_ADDED_TOKENS,
  },
};

describe.each(Object.entries(FAMILIES))("a tiny %s", (name, { config, write, batch, addedTokens }) => {
  it("is read with its sizes, and spreads its guesses over the vocabulary", () => {
    const folder = join(root, `${name}-weights`);
    write(folder, TINY);
    const model = loadModel(folder, { dtype: "float32", device: "cpu" });
    expect(model.config).toEqual(config(TINY));
    const { loss } = runToEnd(evalStep(model, undefined, batch(), DEFAULT_POLICY));
    expect(loss).toBeGreaterThan(Math.log(TINY.vocab) - 1);
    expect(loss).toBeLessThan(Math.log(TINY.vocab) + 2);
    disposeModel(model);
  });

  it("has a tokenizer that knows its words, its turns and where pictures stand", async () => {
    const folder = join(root, `${name}-tokenizer`);
    write(folder, TINY, trainBpe(TEXTS, { vocabSize: TINY.vocab, ...(addedTokens && { addedTokens }) }));
    const tokenizer = (await tokenizerOf(folder))!;
    for (const text of [...TEXTS, "Other words, 漢字 too\n\n"])
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect(tokenizer.encode(" receipt").length).toBe(1);
    const { eosIds } = config(TINY);
    expect(tokenizer.encode("<|im_end|>", { specials: true })).toEqual([eosIds[0]]);
    for (const token of addedTokens?.slice(-9) ?? []) expect(tokenizer.encode(token)).toHaveLength(1);
  });
});

it("sizes that do not fit together are refused", () => {
  expect(() => tinyQwenConfig({ ...TINY, visionHidden: 24 })).toThrow("4 x --vision-heads");
  expect(() => tinyInternVlConfig({ ...TINY, visionHidden: 30 })).toThrow("--vision-heads");
  expect(() => trainBpe(TEXTS, { vocabSize: 200 })).toThrow("too small");
});
