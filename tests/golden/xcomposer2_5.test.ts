/** InternLM-XComposer2.5 has the numbers of its official tower, over the decoder that 4KHD has too. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { hdGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { loadHdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { XCOMPOSER2_5_RULES } from "../../src/data/pictures/hdTiles/hdRules.ts";
import { readDataset } from "../../src/data/samples/samples.ts";
import { prepareSamples } from "../../src/data/samples/validate.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { START } from "../../src/data/stream/packing.ts";
import { pictureFormOf } from "../../src/models/families.ts";
import { disposeLora, type Lora, loraFromAdapter, zeroGradients } from "../../src/models/lora.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { scope } from "../../src/torch/tensor.ts";
import { integers, readFixture } from "../helpers/fixtures.ts";
import { ATOL, imageTokens } from "../helpers/goldenCases.ts";
import { gradientOf, numbersOf, relativeL2 } from "../helpers/goldenFamily.ts";
import { logitsAt, trace } from "../helpers/hiddenStates.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { golden } from "../helpers/shared.ts";

interface Case {
  name: string;
  images: { padded: string; tokens: number }[];
  loss: number;
  lora: { loss: number };
}

interface Grid {
  padded_w: number;
  padded_h: number;
  tiles_h: number;
  tiles_w: number;
  tokens: number;
  error?: string;
}

const FOLDER = "xcomposer2_5";
const json = (file: string): unknown => JSON.parse(readFileSync(golden(`${FOLDER}/${file}`), "utf8"));
const { cases } = json("cases/manifest.json") as { cases: Case[] };

const folder = mkdtempSync(join(tmpdir(), "lorafit-xcomposer25-"));
let model: Model;
let lora: Lora;
beforeAll(() => {
  model = loadModel(golden(`${FOLDER}/tiny`), { dtype: "float32", device: "cpu" });
  const read = readAdapter(golden(`${FOLDER}/tiny_lora`));
  lora = scope(() => loraFromAdapter(model.config, read, { device: "cpu", gradients: "fp32" }));
});
afterAll(() => {
  disposeModel(model);
  disposeLora(lora);
  rmSync(folder, { recursive: true });
});

describe("pictures as they are fine-tuned", () => {
  const sizes = json("hd_transform.json") as { w: number; h: number; finetune: Record<string, Grid> }[];

  it("have the official grids, or none where the official code has none", () => {
    for (const { w, h, finetune } of sizes)
      for (const [hdNum, wanted] of Object.entries(finetune)) {
        const grid = (): object => hdGrid(w, h, Number(hdNum), "the picture", XCOMPOSER2_5_RULES);
        const place = `${w} x ${h} at ${hdNum}`;
        if (wanted.padded_w === undefined) expect(grid, place).toThrow("would be less than a pixel");
        else
          expect(grid(), place).toMatchObject({
            ...{ width: wanted.padded_w, height: wanted.padded_h, tokens: wanted.tokens },
            ...{ rows: wanted.tiles_h, cols: wanted.tiles_w },
          });
      }
  });

  const { cases: pictures } = json("hd_pixels/manifest.json") as { cases: { name: string; hd_num: number }[] };
  it.each(pictures)("$name: the official pixels", async ({ name, hd_num }) => {
    const picture = (kind: string): string => golden(`${FOLDER}/hd_pixels/${name}${kind}.png`);
    const { pixels } = await loadHdImage(picture(""), hd_num, "official", { rules: XCOMPOSER2_5_RULES });
    const { data } = await sharp(picture(".finetune")).removeAlpha().raw().toBuffer({ resolveWithObject: true });
    expect(Buffer.compare(data, Buffer.from(pixels.buffer, pixels.byteOffset, pixels.length))).toBe(0);
  });
});

describe.each(cases)("golden case $name", ({ name, images, loss, lora: adapted }) => {
  const expected = readFixture(golden(`${FOLDER}/cases/${name}.safetensors`));
  let batch: MicroBatch;
  beforeAll(async () => {
    batch = await batchOf(name, images);
  });

  it("has the official rows, embeddings, states, image tokens and logits", () => {
    const imageMask = new Uint8Array(batch.inputIds.length);
    for (const { start, end } of batch.imageSlices) imageMask.fill(1, start, end);
    expect([...imageMask]).toEqual(integers(expected, "im_mask"));
    scope(() => {
      const states = trace(model, undefined, batch);
      const rows = integers(expected, "label_positions");
      if (images.length > 0) {
        const wanted = images.flatMap((_, index) => numbersOf(expected[`img_tokens.${index}`]!));
        const ours = everyFourthToken(imageTokens(states.get("inputs_embeds")!, batch), images);
        expect(ours).toMatchArray(wanted, { atol: ATOL });
      }
      for (const point of ["layer_out.1", "final_norm"]) {
        const values = states.get(point)!.toFloat32Array();
        const C = model.config.hidden;
        const atLabels = rows.flatMap((row) => [...values.slice(row * C, (row + 1) * C)]);
        expect(atLabels, point).toMatchArray(numbersOf(expected[`${point}_label`]!), { atol: ATOL });
      }
      const logits = logitsAt(model, states, rows);
      expect(logits.toFloat32Array()).toMatchArray(numbersOf(expected.logits_label!), { atol: ATOL });
    });
  });

  it("has the official loss, and LoRA gradients with an adapter", () => {
    const alone = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY)).loss;
    expect(Math.abs(alone - loss)).toBeLessThan(1e-5);
    zeroGradients(lora);
    const ours = runToEnd(trainStep(model, lora, batch, DEFAULT_POLICY, { lossScale: 1 })).loss;
    expect(Math.abs(ours - adapted.loss)).toBeLessThan(1e-5);
    const fixtures = readFixture(golden(`${FOLDER}/cases/${name}.lora.safetensors`));
    const gradients = Object.entries(fixtures).filter(([key]) => key.startsWith("grad."));
    expect(gradients.length).toBe(2 * 5 * model.config.layers);
    for (const [key, fixture] of gradients)
      expect(relativeL2(gradientOf(lora, key), numbersOf(fixture)), key).toBeLessThan(1e-4);
  });
});

/** Returns every fourth token of each picture: the fixtures have no more. values: (tokens, C) of all. */
function everyFourthToken(values: number[], images: Case["images"]): number[] {
  const C = model.config.hidden;
  const starts = images.map((_, index) => images.slice(0, index).reduce((sum, { tokens }) => sum + tokens, 0));
  return images.flatMap(({ tokens }, index) => {
    const own = Array.from({ length: Math.ceil(tokens / 4) }, (_, at) => starts[index]! + 4 * at);
    return own.flatMap((token) => values.slice(token * C, (token + 1) * C));
  });
}

/** Returns a case as a micro-batch, read the way users' data is read: -200 stands for a picture. */
async function batchOf(name: string, images: Case["images"]): Promise<MicroBatch> {
  const fixture = readFixture(golden(`${FOLDER}/cases/${name}.safetensors`));
  const [ids, labels, mask] = ["input_ids", "labels", "im_mask"].map((key) => integers(fixture, key));
  const rows: number[] = [];
  for (let row = 0, picture = 0; row < ids!.length; ) {
    rows.push(row);
    row += mask![row] ? images[picture++]!.tokens : 1;
  }
  const file = join(folder, `${name}.jsonl`);
  const record = {
    input_ids: rows.map((row) => (mask![row] ? -200 : ids![row])),
    labels: rows.map((row) => labels![row]),
    images: images.map(({ padded }) => golden(`${FOLDER}/cases/${padded}`)),
  };
  writeFileSync(file, JSON.stringify(record));
  const form = pictureFormOf(model.config);
  const { samples } = await prepareSamples(readDataset([file]), {
    ...{ tokenizer: undefined, vocabSize: 1024, pictures: form, pictureLimit: 1, maxLength: 16_384 },
    ...{ imageCompat: "official", purpose: "train", skipBad: false },
  });
  const sample = samples[0]!;
  const loaded = sample.images.map(({ path, limit }) => form.load(path, limit, { compat: "official" }));
  return { ...layoutBatch([{ sample, images: await Promise.all(loaded) }]), epoch: 0, position: START };
}
