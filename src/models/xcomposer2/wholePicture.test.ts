/** Pictures of InternLM-XComposer2-VL, beside the tower in plain operators as its formulas read. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { affine, attention, normalised, normed } from "../../../tests/helpers/plainTileTower.ts";
import { randomModel, relativeDifference, visionOf } from "../../../tests/helpers/randomModel.ts";
import { randomTiles } from "../../../tests/helpers/randomTiles.ts";
import { smallWholePictures } from "../../../tests/helpers/xcomposers.ts";
import { pictureForm } from "../../data/pictures/forms.ts";
import { canvasRaster, type LoadedTiles } from "../../data/pictures/internvlTiles/tilePixels.ts";
import type { TileRules } from "../../data/pictures/internvlTiles/tileRules.ts";
import { resizeBicubicPillow } from "../../data/pictures/resize.ts";
import { cat, empty } from "../../torch/create.ts";
import { dispose, scope, type Tensor } from "../../torch/tensor.ts";
import { PRESETS, type XComposerConfig, xcomposerRules } from "./spec.ts";
import type { VisionWeights } from "./visionWeights.ts";
import { encodeWholeInto } from "./wholePicture.ts";

describe("the pixels", () => {
  const rules = xcomposerRules(PRESETS["xcomposer2-vl-7b"]) as TileRules;
  const form = pictureForm(rules);
  const folder = mkdtempSync(join(tmpdir(), "lorafit-whole-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  it("are those of the whole picture, squeezed to 490 x 490 as Pillow does it", async () => {
    const [width, height] = [700, 300];
    const pixels = Uint8Array.from(
      { length: width * height * 3 },
      (_, at) => Math.imul(at, 2_654_435_761) >>> 24,
    );
    const file = join(folder, "noise.png");
    await sharp(pixels, { raw: { width, height, channels: 3 } })
      .png()
      .toFile(file);
    const picture = (await form.load(file, 1, { compat: "lorafit" })) as LoadedTiles;
    expect(picture).toMatchObject({ units: 1, tokens: 1225, source: { width, height } });
    const expected = resizeBicubicPillow({ width, height, pixels }, { width: 490, height: 490 });
    expect(Buffer.compare(canvasRaster(picture, rules).pixels, expected.pixels)).toBe(0);
  });

  it("are one layout, whatever the picture's shape; more tiles are refused", () => {
    for (const [width, height] of [
      [1, 9000],
      [490, 490],
      [3840, 2160],
    ] as const)
      expect(form.layout({ width, height }, 1)).toMatchObject({ units: 1, tokens: 1225 });
    expect(form.within(9000)).toEqual(form.largest(1));
    expect(form.within(1224)).toBeUndefined();
    expect(() => form.layout({ width: 10, height: 10 }, 4)).toThrow(
      "--max-tiles must be 1 for this model (got 4)",
    );
  });
});

it("the tower and the projector are those of plain operators", () => {
  const config = smallWholePictures();
  const model = randomModel(config);
  const { weights } = visionOf(model);
  const picture = randomTiles(1, 1, xcomposerRules(config) as TileRules);
  scope(() => {
    const expected = plainTokens(weights, config, picture.patches);
    const tokens = empty(expected.shape, { dtype: "float64" });
    const options = { dtype: "float64", device: "cpu", visionBatch: 4 } as const;
    expect([...encodeWholeInto(tokens, weights, config, picture, options)]).toEqual([{ done: 1, total: 1 }]);
    expect(relativeDifference(tokens, expected)).toBeLessThan(1e-6); // pixels are normalised in float32
    const others = { ...options, units: { start: 1, end: 1 } };
    expect([...encodeWholeInto(tokens, weights, config, picture, others)]).toEqual([]);
  });
  dispose(model);
});

/** (P, C) */
function plainTokens(weights: VisionWeights, config: XComposerConfig, patches: Uint8Array): Tensor {
  const { hidden: W, heads } = config.vision;
  const embedded = normalised(patches, xcomposerRules(config) as TileRules).mm(weights.patch.t());
  let x = normed(
    cat([weights.classEmbedding.view([1, W]), embedded], 0).add(weights.positions),
    weights.preNorm,
  );
  for (const layer of weights.layers) {
    x = x.add(attention(normed(x, layer.norm1), layer, heads));
    const inner = affine(normed(x, layer.norm2), layer.fc1);
    x = x.add(affine(inner.mul(inner.mul(1.702).sigmoid()), layer.fc2));
  }
  const features = x.narrow(0, 1, x.shape[0]! - 1);
  return affine(affine(features, weights.projector[0]).gelu(), weights.projector[1]);
}
