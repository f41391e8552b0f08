/** InternVL has the official numbers: transformers' own model on the same tiny checkpoints. */
import { describe, expect } from "vitest";
import type { InternVlConfig } from "../../src/models/internvl/spec.ts";
import { encodeTiles, type Picture } from "../../src/models/internvl/vision.ts";
import type { TowerWeights } from "../../src/models/internvl/visionWeights.ts";
import { ATOL, describeGoldenCases } from "../helpers/goldenCases.ts";
import { goldenFamily, numbersOf } from "../helpers/goldenFamily.ts";

/** The second has a decoder of Qwen3 and the tower of the 38B. */
const FOLDERS = [
  ["internvl_hf", "tiny"],
  ["internvl_hf", "tiny_448"],
  ["internvl35", "tiny"],
] as const;

describe.each(FOLDERS)("%s/%s", (folder, checkpoint) => {
  const family = goldenFamily(folder, 924);
  describeGoldenCases({
    family,
    checkpoint: `${folder}/${checkpoint}`,
    adapter: `${folder}/${checkpoint}_lora`,
    cases: family.cases.filter(({ variant = "tiny" }) => variant === checkpoint),
    expectTower({ config, vision }, { images }, expected) {
      const own = config as InternVlConfig;
      const weights = vision as TowerWeights;
      const recorded = Object.keys(expected).filter((key) => /^vision\.(embeddings|layer\.\d)$/.test(key));
      expect(recorded.length).toBeGreaterThan(0);
      for (const key of recorded) {
        const layers = weights.layers.slice(0, Number(/\d+/.exec(key)?.[0] ?? -1) + 1);
        const ours = (images as Picture[]).flatMap((picture) => {
          const options = { dtype: "float32", device: "cpu", visionBatch: 1 } as const;
          const all = { start: 0, end: picture.units };
          return [...encodeTiles({ ...weights, layers }, own, picture, all, options).toFloat32Array()];
        });
        expect(ours, key).toMatchArray(withoutClass(numbersOf(expected[key]!), own), { atol: ATOL });
      }
    },
  });
});

/** Drops the class token of each tile, which comes first. */
function withoutClass(values: number[], { vision }: InternVlConfig): number[] {
  const tile = ((vision.tilePixels / vision.patchPixels) ** 2 + 1) * vision.hidden;
  const count = values.length / tile;
  return Array.from({ length: count }, (_, at) =>
    values.slice(at * tile + vision.hidden, (at + 1) * tile),
  ).flat();
}
