/**
 * Loading a share of a base: the shares of all ranks are the whole base to the byte, each takes the memory
 * that a plan has for it, and a rank reads no more of the file than it holds.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { partOnDevice } from "../../src/models/parts.ts";
import { mapTensors } from "../../src/models/places.ts";
import type { Bases } from "../../src/models/precision/bases.ts";
import { quantizeCheckpoint } from "../../src/models/precision/quantizeCheckpoint.ts";
import { completeShares } from "../../src/models/shares/sharing.ts";
import { disposeModel, type LoadOptions, loadModel, loadOpened } from "../../src/models/weights.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { emptyModel } from "../../src/plan/dryRun/sharedParts.ts";
import { loadingOf, Policy } from "../../src/step/policy.ts";
import { memoryStats, resetPeak } from "../../src/torch/device.ts";
import { plannedPeers } from "../../src/torch/peers/peers.ts";
import { scope } from "../../src/torch/tensor.ts";
import { loadedModel } from "../../src/train/machine/modelPlanner.ts";
import { withOpened } from "../../src/train/machine/openedModel.ts";
import { sharedRanks } from "../helpers/sharedRanks.ts";

const root = mkdtempSync(join(tmpdir(), "shares-"));
const QUANTISED = { base: "nf4", headBase: "int8", visionBase: "fp8" } as const;
beforeAll(async () => {
  for (const dtype of ["float32", "bfloat16"] as const)
    writeTinyCheckpoint(join(root, dtype), {
      ...{ ...TINY, dtype, hidden: 256, heads: 8, kvHeads: 2, layers: 3, ffn: 1000, vocab: 2048 },
      ...{ visionHidden: 128, visionFfn: 512, visionLayers: 3 },
    });
  await quantizeCheckpoint(join(root, "bfloat16"), join(root, "quantised"), QUANTISED);
  const large = { dtype: "bfloat16", hidden: 512, ffn: 1536, layers: 3, vocab: 4096 } as const;
  writeTinyCheckpoint(join(root, "large-bfloat16"), { ...TINY, ...large });
  await quantizeCheckpoint(join(root, "large-bfloat16"), join(root, "large-quantised"), QUANTISED);
});
afterAll(() => rmSync(root, { recursive: true }));

const SHARED = Policy.parse({
  ...{ weights: { source: "shared" }, embeddings: "shared", head: "shared", vision: "shared" },
});

const CASES: { stored: string; dtype: "float32" | "bfloat16"; bases: Bases }[] = [
  { stored: "bfloat16", dtype: "bfloat16", bases: {} },
  { stored: "float32", dtype: "bfloat16", bases: {} },
  { stored: "bfloat16", dtype: "float32", bases: {} },
  { stored: "bfloat16", dtype: "bfloat16", bases: { base: "int8", headBase: "int8", visionBase: "int8" } },
  { stored: "float32", dtype: "bfloat16", bases: { base: "nf4", headBase: "int8", visionBase: "fp8" } },
  { stored: "bfloat16", dtype: "bfloat16", bases: { base: "fp8", visionBase: "nf4" } },
  { stored: "quantised", dtype: "bfloat16", bases: {} },
  { stored: "quantised", dtype: "bfloat16", bases: { base: "bf16", headBase: "bf16", visionBase: "bf16" } },
];

describe.each(CASES)("a base stored in $stored, for $dtype with $bases", ({ stored, dtype, bases }) => {
  const folder = join(root, stored);
  const options: Omit<LoadOptions, "places" | "peers"> = { device: "cpu", dtype, ...bases };

  it.each([1, 2, 3, 5])("is whole in the shares of %i ranks", async (count) => {
    const ranks = sharedRanks(count, (peers) =>
      loadModel(folder, { ...options, ...loadingOf(SHARED), peers }),
    );
    await Promise.all(ranks.map(({ model }) => completeShares(model)));
    const whole = loadModel(folder, options);
    for (const { model } of ranks) {
      for (const name of ["embeddings", "head", "vision", 0, 1, 2] as const)
        scope(() => {
          const asLoaded = { ...whole, vision: whole.vision };
          expect(digestsOf(partOnDevice(model, name)), `${name}`).toEqual(
            digestsOf(partOnDevice(asLoaded, name)),
          );
        });
      expect(model.layers.map(({ linears }) => offsetsIn(linears))).toEqual(
        whole.layers.map(({ linears }) => offsetsIn(linears)),
      );
    }
    for (const { model } of ranks) disposeModel(model);
    disposeModel(whole);
  });

  it.each([1, 3])(
    "takes the memory that is planned for each of %i ranks, and little more while loading",
    (count) => {
      for (let rank = 0; rank < count; rank++) {
        const planned = withOpened(folder, (opened) =>
          loadedModel(opened, { ...bases, dtypeFor: () => dtype }),
        );
        const ranks = { rank, count, perMachine: count };
        const meta = memoryStats("meta").liveBytes;
        const { model: empty } = emptyModel({
          ...planned,
          policy: SHARED,
          target: "cpu",
          ranks,
        } as Configuration);
        const plannedBytes = memoryStats("meta").liveBytes - meta;
        const before = memoryStats("cpu").liveBytes;
        resetPeak("cpu");
        const peers = plannedPeers(rank, count);
        const model = loadModel(folder, { ...options, ...loadingOf(SHARED), peers });
        const { liveBytes, peakBytes } = memoryStats("cpu");
        expect(liveBytes - before).toBe(plannedBytes);
        const largest = Math.max(...[...model.shared!.shares.values()].map(({ wholeBytes }) => wholeBytes));
        expect(peakBytes - liveBytes).toBeLessThan(largest + PIECES_BYTES); // the step brings as much together
        disposeModel(model);
        disposeModel(empty);
      }
    },
  );
});

/** Float32 temporaries of quantising a piece of a matrix. */
const PIECES_BYTES = 6 * 4 * 2 ** 18;

it.each(["large-bfloat16", "large-quantised"])(
  "a rank reads its own part of the mapped file of a base in %s",
  (stored) => {
    const files = readdirSync(join(root, stored)).filter((name) => name.endsWith(".safetensors"));
    const fileBytes = files.reduce((sum, name) => sum + statSync(join(root, stored, name)).size, 0);
    const read = withOpened(join(root, stored), (opened) => {
      const peers = plannedPeers(2, 4);
      const options = { device: "cpu", dtype: "bfloat16", ...loadingOf(SHARED), peers } as const;
      const model = loadOpened(opened, options);
      const bytes = residentBytes(join(root, stored));
      disposeModel(model);
      return bytes;
    });
    expect(read).toBeGreaterThan(fileBytes / 8);
    expect(read).toBeLessThan((3 / 4) * fileBytes); // the system maps what lies around a page, too
  },
);

/** Bytes of a folder's files that this process has touched. */
function residentBytes(folder: string): number {
  let [inFolder, bytes] = [false, 0];
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) inFolder = line.includes(folder);
    const found = /^Rss: +(\d+) kB/.exec(line);
    if (inFolder && found) bytes += Number(found[1]) * 1024;
  }
  return bytes;
}

/** Returns a digest of each tensor of a record. */
function digestsOf(record: unknown): string[] {
  const digests: string[] = [];
  mapTensors(record, (x) => {
    digests.push(`${x.dtype} ${x.shape} ${createHash("sha256").update(x.toBytes()).digest("hex")}`);
    return x;
  });
  return digests;
}

function offsetsIn(linears: object): unknown[] {
  return Object.values(linears).map(({ weight }) => weight.offset);
}
