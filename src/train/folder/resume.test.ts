import { expect, it } from "vitest";
import { PRESETS, pictureFormOf } from "../../models/families.ts";
import { trainOptions } from "../options/options.ts";
import { type Checkpoint, emptyStep } from "./checkpoints.ts";
import { checkSameRun, withLimitsOf } from "./resume.ts";

const QWEN = pictureFormOf(PRESETS["qwen2.5-vl-7b"]!);
const KHD = pictureFormOf(PRESETS["4khd-7b"]!);

function asked(changes: object = {}) {
  return trainOptions({ model: "m", data: "d", output: "o", resume: true, ...changes });
}

/** Returns a checkpoint that records options as a run wrote them. */
function checkpoint(options: object): Checkpoint {
  const state = {
    ...{ version: 1 as const, step: 1, totalSteps: 2, microBatches: 1, data: { epoch: 0, position: 0 } },
    ...{ accumulated: emptyStep(), evals: [], stepsDown: [], fingerprints: {}, options: { ...options } },
  };
  return { folder: "o/checkpoint-1", state: state as unknown as Checkpoint["state"] };
}

it("a run whose record has hd_num beside another model's limit continues", () => {
  const recorded = { ...asked(), hd_num: 16 };
  const { given, checkpoint: found } = withLimitsOf(QWEN, asked(recorded), checkpoint(recorded));
  expect(given).toMatchObject({ max_pixels: 12_845_056 });
  expect(given).not.toHaveProperty("hd_num");
  checkSameRun(found!, given, {});
  const flags = withLimitsOf(QWEN, asked(), checkpoint(recorded)); // the same flags, which have none
  checkSameRun(flags.checkpoint!, flags.given, {});
  const early = withLimitsOf(QWEN, asked(recorded), undefined); // it had ended before its first checkpoint
  expect(early.given).not.toHaveProperty("hd_num");
});

it("a run with the model's own limit is another one with another value", () => {
  const before = checkpoint({ ...asked(), max_pixels: 200_704 });
  const other = withLimitsOf(QWEN, asked({ max_pixels: 401_408 }), before);
  expect(() => checkSameRun(other.checkpoint!, other.given, {})).toThrow("max_pixels was 200704, is 401408");
  const default_ = withLimitsOf(KHD, asked(), checkpoint({ ...asked(), hd_num: 16 }));
  checkSameRun(default_.checkpoint!, default_.given, {});
  expect(default_.given.hd_num).toBe(16);
});

it("a limit of other pictures is refused in a new run, and in one that does not record it", () => {
  const instead = "--hd-num does not limit the pictures of this model";
  expect(() => withLimitsOf(QWEN, asked({ hd_num: 16, resume: false }), undefined)).toThrow(instead);
  expect(() => withLimitsOf(QWEN, asked({ hd_num: 9 }), checkpoint(asked({ hd_num: 16 })))).toThrow(instead);
  expect(() => withLimitsOf(KHD, asked({ max_tiles: 4 }), checkpoint(asked()))).toThrow(
    "--max-tiles does not",
  );
});

it("data that are read with another limit are not said to have changed", () => {
  const before = checkpoint({ ...asked(), hd_num: 16 });
  const refusal = (changes: object): string => {
    try {
      checkSameRun(before, asked({ hd_num: 16, ...changes }), { data: "another" });
    } catch (thrown) {
      return (thrown as Error).message;
    }
    return "";
  };
  const content = "the content of data has changed";
  expect(refusal({})).toContain(content);
  expect(refusal({ seed: 7 })).toContain(content);
  expect(refusal({ hd_num: 9 })).toContain("hd_num was 16, is 9");
  expect(refusal({ hd_num: 9 })).not.toContain(content);
});
