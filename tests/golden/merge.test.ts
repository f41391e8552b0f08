/** A merged checkpoint computes what the checkpoint of the reference's merge_and_unload() computes. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { mergeCheckpoint } from "../../src/checkpoint/merge.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { scope } from "../../src/torch/tensor.ts";
import { floats, integers, readFixture } from "../helpers/fixtures.ts";
import { goldenBatch } from "../helpers/goldenBatch.ts";
import { logitsAt, trace } from "../helpers/hiddenStates.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { golden } from "../helpers/shared.ts";

const root = mkdtempSync(join(tmpdir(), "merged-"));
let model: Model;

beforeAll(async () => {
  await mergeCheckpoint(golden("tiny"), golden("train/final_adapter"), join(root, "merged"));
  model = loadModel(join(root, "merged"), { dtype: "float32", device: "cpu" });
});
afterAll(() => {
  disposeModel(model);
  rmSync(root, { recursive: true });
});

it("has the reference's merged logits, which are near the unmerged ones", async () => {
  const expected = readFixture(golden("train/merged_c2_img_1x1.safetensors"));
  const batch = await goldenBatch("c2_img_1x1");
  scope(() => {
    const states = trace(model, undefined, batch);
    const logits = logitsAt(model, states, integers(expected, "label_positions")).toFloat32Array();
    expect(logits).toMatchArray(floats(expected, "logits_label_merged"), { atol: 1e-4 });
    expect(logits).toMatchArray(floats(expected, "logits_label_unmerged"), { atol: 1e-4 });
  });
});

it("has the reference's merged loss", async () => {
  const { loss_merged } = JSON.parse(readFileSync(golden("train/merged.json"), "utf8"));
  const batch = await goldenBatch("c2_img_1x1");
  const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
  expect(Math.abs(loss - loss_merged)).toBeLessThan(1e-5);
});
