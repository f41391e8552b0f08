import { visionOf } from "../helpers/randomModel.ts";
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { type HdImage, loadHdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { encodeImage, encodeTiles } from "../../src/models/xcomposer2/vision.ts";
import { dispose, scope, type Tensor } from "../../src/torch/tensor.ts";
import { type Fixture, floats, integers, keepStride, readFixture } from "../helpers/fixtures.ts";
import { golden } from "../helpers/shared.ts";

interface ImageCase {
  name: string;
  images: { file: string; tiles_h: number; tiles_w: number; tokens: number }[];
}

const manifest = JSON.parse(readFileSync(golden("tiny_cases/manifest.json"), "utf8")) as {
  cases: ImageCase[];
};
const cases = manifest.cases.filter(({ images }) => images?.length > 0);

describe("vision in float32", () => {
  const model = loadModel(golden("tiny"), { dtype: "float32", device: "cpu" });
  const options = { dtype: "float32", device: "cpu", visionBatch: 3 } as const;
  afterAll(() => dispose(model));

  test.each(cases)("$name: features of every patch", async ({ name, images }) => {
    const fixtures = readFixture(golden(`tiny_cases/${name}.safetensors`));
    for (const [index, image] of images.entries()) {
      const picture = await readPicture(image);
      scope(() => {
        const all = { start: 0, end: 1 + picture.rows * picture.cols };
        const features = encodeTiles(visionOf(model).weights, visionOf(model).config.vision, picture, all, options); // (n, P, W)
        expectGolden(features, fixtures, `vit_out.${index}`, 1e-4);
      });
    }
  });

  test.each(cases)("$name: image tokens, alone and among the embeddings", async ({ name, images }) => {
    const fixtures = readFixture(golden(`tiny_cases/${name}.safetensors`));
    const imageRows = [...integers(fixtures, "im_mask").entries()]
      .filter(([, isImage]) => isImage)
      .map(([row]) => row);
    let first = 0;
    for (const [index, image] of images.entries()) {
      const picture = await readPicture(image);
      scope(() => {
        const tokens = encodeImage(visionOf(model).weights, visionOf(model).config, picture, options);
        expect(tokens.shape).toEqual([image.tokens, model.config.hidden]);
        if (fixtures[`img_tokens.${index}`]) expectGolden(tokens, fixtures, `img_tokens.${index}`, 1e-4);
        expectGoldenRows(tokens, fixtures, imageRows.slice(first, first + image.tokens), { atol: 1e-4 });
      });
      first += image.tokens;
    }
    expect(first).toBe(imageRows.length);
  });
});

test("vision in bfloat16: image tokens differ from the official ones as two implementations do", async () => {
  const model = loadModel(golden("tiny"), { dtype: "bfloat16", device: "cpu" });
  const { name, images } = cases.find((known) => known.name === "c3_img_2x3")!;
  const imageRows = [...integers(readFixture(golden(`tiny_cases/${name}.safetensors`)), "im_mask").entries()]
    .filter(([, isImage]) => isImage)
    .map(([row]) => row);
  const picture = await readPicture(images[0]!);
  const options = { dtype: "bfloat16", device: "cpu", visionBatch: 3 } as const;
  scope(() => {
    const tokens = encodeImage(visionOf(model).weights, visionOf(model).config, picture, options);
    expectGoldenRows(tokens, readFixture(golden(`tiny_cases/${name}.bf16.safetensors`)), imageRows, {
      atol: 0.07,
      rtol: 0.01,
    });
  });
  disposeModel(model);
});

async function readPicture({ file, tiles_h, tiles_w }: ImageCase["images"][number]): Promise<HdImage> {
  const picture = await loadHdImage(golden(`tiny_cases/${file}`), tiles_h * tiles_w, "official");
  expect([picture.rows, picture.cols]).toEqual([tiles_h, tiles_w]);
  return picture;
}

function expectGolden(actual: Tensor, fixtures: Record<string, Fixture>, name: string, atol: number): void {
  const kept = keepStride(actual.toFloat32Array(), [...actual.shape], fixtures[name]?.stride);
  expect(kept).toMatchArray(floats(fixtures, name), { atol });
}

/**
 * Compares image tokens with the rows of inputs_embeds that the fixture keeps. rows: the tokens' rows in the
 * sequence.
 */
function expectGoldenRows(
  tokens: Tensor,
  fixtures: Record<string, Fixture>,
  rows: number[],
  tolerance: { atol: number; rtol?: number },
): void {
  const step = fixtures.inputs_embeds?.stride?.step ?? 1;
  const embeddings = floats(fixtures, "inputs_embeds");
  const actual = tokens.toFloat32Array();
  const C = tokens.shape[1]!;
  const found = rows.flatMap((row, token) => (row % step === 0 ? [{ token, kept: row / step }] : []));
  expect(found.length).toBeGreaterThan(10);
  for (const { token, kept } of found) {
    const expected = embeddings.subarray(kept * C, (kept + 1) * C);
    expect(actual.subarray(token * C, (token + 1) * C)).toMatchArray(expected, tolerance);
  }
}
