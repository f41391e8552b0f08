import { describe, expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { type CountedOp, dryRun, STEP_PHASES } from "../../src/plan/dryRun/dryRun.ts";
import { measureCpu } from "../../src/plan/time/calibration.ts";
import { measuredMs } from "../../src/plan/time/cpuSpeed.ts";
import { Policy } from "../../src/step/policy.ts";
import { attentionLoops } from "../../src/torch/kernels/attentionLoops.ts";
import { attentionTiles } from "../../src/torch/kernels/attentionTiles.ts";
import { fused } from "../../src/torch/kernels/kernels.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const base: Configuration = {
  model: smallConfig({ hidden: 256, headDim: 64, ffn: 320, layers: 4 }),
  dtype: "bfloat16",
  lora: { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS },
  batch: { samples: 1, sampleTokens: 1500, pictures: [tileGrid(2, 1)], labelTokens: 300 },
  policy: Policy.parse({}),
  target: "cpu",
  mapsWeights: false,
};
const CONFIGURATIONS: Record<string, Configuration> = {
  "the default policy": base,
  "two groups and tiles": { ...base, policy: Policy.parse({ headGroups: 2, mlpTileTokens: 512 }) },
  "everything kept": { ...base, policy: Policy.parse({ layers: [{ count: 4, keep: "all" }] }) },
  "an optimizer on the host in 8 bits": {
    ...base,
    lora: { ...base.lora, rank: 96 },
    policy: Policy.parse({ optimizer: { place: "host", precision: "8bit" } }),
  },
  "dropout in groups and tiles": {
    ...base,
    lora: { ...base.lora, dropout: 0.05 },
    policy: Policy.parse({ headGroups: 2, mlpTileTokens: 512 }),
  },
  int8: { ...base, base: "int8" },
  nf4: { ...base, base: "nf4" },
};

describe("the classes of a calibration", () => {
  const { wall } = measureCpu("bfloat16", { budgetMs: 0, edges: [8, 32], elements: [64, 1024] });
  const loops = new Set<string>(
    [fused, attentionLoops, attentionTiles]
      .flatMap((table) => Object.values(table))
      .map(({ entry }) => entry),
  );

  it.each(Object.entries(CONFIGURATIONS))("are those of a step under %s", (_, configuration) => {
    const { phases } = dryRun(configuration);
    const timed = phases.filter(({ name }) => name === "update" || STEP_PHASES.includes(name));
    const ops = timed.flatMap((phase) => phase.ops()).filter(({ kind }) => kind === "memory");
    const unknown = ops.filter((op) => op.stream === "compute" && op.form && !measuredMs(op, wall));
    expect(unknown.filter(({ name }) => loops.has(name)).map(keyOf)).toEqual([]);
    expect(bytesOf(unknown), unknown.map(keyOf).join()).toBeLessThan(0.05 * bytesOf(ops));
  });
});

function keyOf({ name, form }: CountedOp): string {
  return `${name} ${form?.dtypes}${form?.strided ? " strided" : ""}`;
}

function bytesOf(ops: readonly CountedOp[]): number {
  return ops.reduce((sum, { bytes, count }) => sum + bytes * count, 0);
}
