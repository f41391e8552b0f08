/**
 * Memory of loading with quantisation: beyond what stays, the host never holds more than one layer of a
 * checkpoint.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { mapTensors } from "../../src/models/places.ts";
import type { Bases } from "../../src/models/precision/bases.ts";
import { quantizeCheckpoint } from "../../src/models/precision/quantizeCheckpoint.ts";
import { disposeModel, type LoadOptions, loadModel } from "../../src/models/weights.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { QUANTIZED_PRECISIONS } from "../../src/nn/frozen/storedNames.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { emptyModel } from "../../src/plan/dryRun/sharedParts.ts";
import { loadingOf, Policy } from "../../src/step/policy.ts";
import { memoryStats, POOLS, resetPeak } from "../../src/torch/device.ts";
import { loadedModel } from "../../src/train/machine/modelPlanner.ts";
import { withOpened } from "../../src/train/machine/openedModel.ts";
import { visionOf } from "../helpers/randomModel.ts";

const root = mkdtempSync(join(tmpdir(), "loading-"));
const dtypes = ["float32", "bfloat16"] as const;
beforeAll(() => {
  for (const dtype of dtypes)
    writeTinyCheckpoint(join(root, dtype), {
      ...{ ...TINY, dtype, hidden: 512, heads: 8, kvHeads: 2, layers: 5, ffn: 1536, vocab: 4096 },
      ...{ visionHidden: 256, visionFfn: 1024, visionLayers: 6 },
    });
});
afterAll(() => rmSync(root, { recursive: true }));

const PLACES = {
  resident: {},
  streamed: { weights: { source: "streamed" }, embeddings: "host", head: "host", vision: "host" },
  folded: { plora: "folded" },
};
const cases = QUANTIZED_PRECISIONS.flatMap((precision) =>
  dtypes.flatMap((stored) =>
    (Object.keys(PLACES) as (keyof typeof PLACES)[]).map((place) => ({ precision, stored, place })),
  ),
);

describe.each(cases)(
  "loading in $precision what is stored in $stored, $place",
  ({ precision, stored, place }) => {
    it.each(dtypes)("for %s", (dtype) => {
      const layerBytes = bytesOf(stored, /^model\.layers\.0\./);
      const bases = { base: precision, headBase: "int8", visionBase: precision } as const;
      const { stays, peak } = peakOf(stored, { dtype, ...bases, ...loadingOf(Policy.parse(PLACES[place])) });
      expect(peak - stays).toBeLessThanOrEqual(layerBytes);
    });
  },
);

describe("a plan's host pool", () => {
  const asked: Bases[] = [
    {},
    { base: "nf4" },
    { headBase: "int8" },
    { visionBase: "int8" },
    { base: "fp8", headBase: "int8", visionBase: "nf4" },
    { base: "bf16", headBase: "bf16", visionBase: "bf16" },
  ];
  const policy = Policy.parse(PLACES.streamed);
  beforeAll(async () => {
    const whole = { base: "nf4", headBase: "int8", visionBase: "int8" } as const;
    await quantizeCheckpoint(join(root, "bfloat16"), join(root, "quantised"), whole);
  });

  it.each([...dtypes, "quantised"].flatMap((stored) => dtypes.map((dtype) => ({ stored, dtype }))))(
    "has what loading allocates there, and none of what stays mapped: $stored for $dtype",
    ({ stored, dtype }) => {
      for (const bases of asked) {
        if (stored === "quantised" && bases.base === "fp8") continue; // cannot be made from this checkpoint
        const folder = join(root, stored);
        const planned = withOpened(folder, (opened) =>
          loadedModel(opened, { ...bases, dtypeFor: () => dtype }),
        );
        const [cpu, meta] = [hostBytes("cpu"), hostBytes("meta")];
        const model = loadModel(folder, { device: "cpu", dtype, ...bases, ...loadingOf(policy) });
        const shape = { ...planned, policy, target: "cpu" } as Configuration;
        const { model: empty, mappedBytes } = emptyModel(shape);
        const [found, expected] = [hostBytes("cpu") - cpu, hostBytes("meta") - meta];
        const tensors = bytesIn([model.layers, model.embeddings, model.head, model.vision]);
        disposeModel(model);
        disposeModel(empty);
        expect(expected, JSON.stringify(bases)).toBe(found);
        expect(found + mappedBytes, JSON.stringify(bases)).toBe(tensors);
      }
    },
  );
});

it("writing a checkpoint in fewer bits never has both embeddings and head in memory", async () => {
  const folder = join(root, "wide");
  writeTinyCheckpoint(folder, {
    ...TINY,
    hidden: 512,
    layers: 1,
    ffn: 512,
    vocab: 16_384,
    dtype: "bfloat16",
  });
  const beforeBytes = memoryStats("cpu").liveBytes;
  resetPeak("cpu");
  await quantizeCheckpoint(folder, join(root, "wide-int8"), { base: "int8", headBase: "int8" });
  const headBytes = 16_384 * (512 + 4);
  const pieceBytes = 4 * 4 * 2 ** 18;
  expect(memoryStats("cpu").peakBytes - beforeBytes).toBeLessThan(headBytes + pieceBytes);
});

function hostBytes(device: "cpu" | "meta"): number {
  return memoryStats(device, "host").liveBytes;
}

/** Returns the bytes of all tensors in a record. */
function bytesIn(record: unknown): number {
  let bytes = 0;
  mapTensors(record, (tensor) => {
    bytes += tensor.bytes;
    return tensor;
  });
  return bytes;
}

function peakOf(stored: string, options: Omit<LoadOptions, "device">): { stays: number; peak: number } {
  const live = (): number => POOLS.reduce((sum, pool) => sum + memoryStats("cpu", pool).liveBytes, 0);
  const before = live();
  for (const pool of POOLS) resetPeak("cpu", pool);
  const model = loadModel(join(root, stored), { device: "cpu", ...options });
  const peak = POOLS.reduce((sum, pool) => sum + memoryStats("cpu", pool).peakBytes, 0);
  const stays = live() - before;
  const held = [
    model.layers[4]!.linears["feed_forward.w2"]!.weight,
    visionOf(model).weights.layers[5]!.fc1.weight,
  ];
  expect(held.map(({ precision }) => precision)).toEqual([options.base, options.visionBase]);
  disposeModel(model);
  return { stays, peak: peak - before };
}

function bytesOf(stored: string, names: RegExp): number {
  const { weights } = openModelFolder(join(root, stored));
  const bytes = weights.names
    .filter((name) => names.test(name))
    .reduce((sum, name) => sum + weights.entry(name).bytes, 0);
  weights.close();
  return bytes;
}
