import { describe, expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { tensorsOf } from "../../src/models/families.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { QUANTIZED_PRECISIONS } from "../../src/nn/frozen/storedNames.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { type Bytes, type CountedOp, type DryRun, dryRun, stepMs } from "../../src/plan/dryRun/dryRun.ts";
import { CommonParts } from "../../src/plan/dryRun/sharedParts.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { speedOf } from "../../src/plan/time/stepTime.ts";
import { Policy } from "../../src/step/policy.ts";
import { getThreads, memoryStats, setThreads } from "../../src/torch/device.ts";
import { measuredStep } from "../helpers/measuredStep.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const model = smallConfig({ layers: 12 });
const SAMPLE_TOKENS = 1500;
const base: Configuration = {
  model,
  dtype: "float32",
  lora: { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS },
  batch: { samples: 1, sampleTokens: SAMPLE_TOKENS, pictures: [tileGrid(2, 1)], labelTokens: 300 },
  policy: Policy.parse({}),
  target: "cpu",
  mapsWeights: false,
};

const textBetween: Configuration["batch"] = {
  rows: [3000, 900],
  grids: [tileGrid(2, 1)],
  imageSlices: [1, 600, 1100, 1800, 2400, 3200].map((start) => ({ start, end: start + 469, image: 0 })),
  labelTokens: 200,
  firstLabel: 1580,
};

const biased = smallConfig({ layers: 12, bias: true });

const CONFIGURATIONS: Record<string, Configuration> = {
  "attention with biases": { ...base, model: biased },
  "attention with biases, streamed, in groups and tiles": {
    ...base,
    model: biased,
    dtype: "bfloat16",
    policy: Policy.parse({
      ...{ headGroups: 2, mlpTileTokens: 512, attentionInput: "recomputed", plora: "merged" },
      weights: { source: "streamed" },
    }),
  },
  "an optimizer on the host": {
    ...base,
    dtype: "bfloat16",
    lora: { ...base.lora, rank: 96 },
    policy: Policy.parse({ gradients: "bf16", optimizer: { place: "host" } }),
  },
  "an optimizer on the host in 8 bits": {
    ...base,
    lora: { ...base.lora, rank: 96 },
    policy: Policy.parse({ optimizer: { place: "host", precision: "8bit" } }),
  },
  "an optimizer in 8 bits": {
    ...base,
    lora: { ...base.lora, rank: 96 },
    policy: Policy.parse({ optimizer: { precision: "8bit" } }),
  },
  "one sample": base,
  "tiles, groups and chunks": {
    ...base,
    policy: Policy.parse({ headGroups: 2, mlpTileTokens: 512, lossChunkTokens: 64, visionBatchTiles: 2 }),
  },
  "PLoRA apart": { ...base, policy: Policy.parse({ plora: "apart", mlpTileTokens: 512 }) },
  "PLoRA merged, pictures with text between them": {
    ...base,
    dtype: "bfloat16",
    batch: textBetween,
    policy: Policy.parse({ mlpTileTokens: 512, headGroups: 2 }),
  },
  "PLoRA folded, text in several parts": {
    ...base,
    batch: textBetween,
    policy: Policy.parse({ plora: "folded", mlpTileTokens: 512, headGroups: 2 }),
  },
  "PLoRA folded and merged, text in several parts": {
    ...base,
    dtype: "bfloat16",
    batch: textBetween,
    policy: Policy.parse({ plora: "folded-merged", mlpTileTokens: 512 }),
  },
  "dropout, two samples": {
    ...base,
    lora: { ...base.lora, dropout: 0.1 },
    batch: { ...base.batch, samples: 2 },
    policy: Policy.parse({
      mlpTileTokens: 1024,
      weights: { source: "streamed" },
      embeddings: "host",
      head: "host",
      layers: [{ count: 11, boundary: "host" }, { count: 1 }],
    }),
  },
  "inputs of MLPs kept, boundaries lost": {
    ...base,
    policy: Policy.parse({
      layers: [{ count: 1, keep: "middle" }, { count: 2 }, { count: 1, boundary: "none" }, { count: 8 }],
    }),
  },
};

CONFIGURATIONS["every second boundary on the host"] = {
  ...base,
  policy: Policy.parse({
    layers: Array.from({ length: 12 }, (_, layer) => ({
      count: 1,
      boundary: layer % 2 === 0 ? "host" : "none",
    })),
  }),
};

for (const visionBase of QUANTIZED_PRECISIONS) {
  const vision = { hidden: 64, layers: 3, heads: 2, ffn: 128, imagePixels: 336, patchPixels: 14, eps: 1e-5 };
  const pictures = { ...base, model: { ...model, layers: 2, vision }, visionBase };
  const batch = { samples: 1, sampleTokens: 900, pictures: [tileGrid(1, 4)], labelTokens: 9 };
  CONFIGURATIONS[`a vision tower in ${visionBase}, where most is taken`] = {
    ...pictures,
    ...{ batch, dtype: "bfloat16", policy: Policy.parse({ visionBatchTiles: 5, mlpTileTokens: 512 }) },
  };
  CONFIGURATIONS[`a vision tower in ${visionBase} on the host`] = {
    ...pictures,
    ...{ batch, policy: Policy.parse({ vision: "host", weights: { source: "streamed" } }) },
  };
}

for (const keep of ["middle", "attention", "all"] as const) {
  const kept = { mlpTileTokens: 512, headGroups: 2, layers: [{ count: 11, keep }, { count: 1 }] };
  CONFIGURATIONS[`kept values: ${keep}`] = { ...base, policy: Policy.parse(kept) };
  CONFIGURATIONS[`kept values: ${keep}, two samples, bfloat16`] = {
    ...base,
    dtype: "bfloat16",
    batch: { ...base.batch, samples: 2 },
    policy: Policy.parse({
      ...kept,
      attentionInput: "recomputed",
      layers: [{ count: 12, boundary: "host", keep }],
    }),
  };
}

describe.each(Object.keys(CONFIGURATIONS))("a dry run of %s", (name) => {
  const configuration = CONFIGURATIONS[name]!;

  it("has the peak of either pool, to the byte, that the same run has on the CPU with one thread", () => {
    withThreads(1, () => {
      const { device, host } = dryRun(configuration);
      expect(measuredStep(configuration)).toMatchObject({ device: device.peakBytes, host: host.peakBytes });
      expect(sum(device.categories)).toBe(device.peakBytes);
    });
  });

  it("counts the same when like parts are run once as when each is run", () => {
    expectSameInFull(configuration);
  });

  it("leaves nothing behind", () => {
    const beforeBytes = memoryStats("meta").liveBytes;
    dryRun(configuration);
    expect(memoryStats("meta").liveBytes).toBe(beforeBytes);
  });
});

it("covers a run with several threads, which may not all be at work at once", () => {
  withThreads(4, () => {
    const { device, host } = dryRun(base);
    const { device: deviceBytes, host: hostBytes } = measuredStep(base);
    expect(host.peakBytes).toBe(hostBytes);
    expect(device.peakBytes).toBeGreaterThanOrEqual(deviceBytes);
    expect(device.peakBytes - deviceBytes).toBeLessThanOrEqual(64 * 1024);
  });
});

/** Runs a body with this number of threads. */
function withThreads(count: number, body: () => void): void {
  const before = getThreads();
  setThreads(count);
  try {
    body();
  } finally {
    setThreads(before);
  }
}

it("counts the same of an update that goes through many alike tiles of a factor on the host", () => {
  const policy = Policy.parse({ optimizer: { place: "host", precision: "fp32" } });
  const wide = { model: smallConfig({ layers: 2 }), lora: { ...base.lora, rank: 40_000 } }; // at least 5 tiles of each
  expectSameInFull({ ...base, ...wide, policy });
});

it("comes to the same beside other runs, with which it shares model and adapter, as alone", () => {
  const base = Object.values(CONFIGURATIONS)[0]!;
  using parts = new CommonParts();
  for (const rank of [2, 4, 2]) {
    const configuration = { ...base, lora: { ...base.lora, rank } };
    const [beside, alone] = [dryRun(configuration, { parts }), dryRun(configuration)];
    expect(beside.device).toEqual(alone.device);
    expect(beside.host).toEqual(alone.host);
    expect(beside.phases.map(({ ops }) => ops())).toEqual(alone.phases.map(({ ops }) => ops()));
    parts.trim(1);
  }
});

/** Returns the copies that the computing waits for: their bytes and their number. */
function waits({ phases }: DryRun, ...names: string[]): { bytes: number; count: number }[] {
  const ops = phases.filter(({ name }) => names.includes(name)).flatMap((phase) => phase.ops());
  const exposed = ops.filter(({ stream }) => stream === "exposed");
  return exposed.map(({ bytes, count }) => ({ bytes, count: Math.round(1e6 * count) / 1e6 }));
}

const onCard = (policy: object): DryRun =>
  dryRun({
    ...{ ...base, dtype: "bfloat16", target: findDevice("h100-80gb") },
    policy: Policy.parse({ mlpTileTokens: 512, ...policy }),
  });

it("counts a layer's input that comes from the host as waited for, unless it is fetched a layer ahead, and the first of its tiles", () => {
  const [apart, ahead] = [false, true].map((boundaryAhead) =>
    onCard({ layers: [{ count: 1, boundary: "host" }], boundaryAhead }),
  ) as [DryRun, DryRun];
  const rowBytes = model.hidden * 2;
  const inputBytes = SAMPLE_TOKENS * rowBytes;
  const tiles = { bytes: 512 * rowBytes, count: 1 };
  const passes = 2 * model.layers; // attention's input, and its norm's gradient
  const tilesOf = (run: DryRun): number =>
    waits(run, "backward").reduce((sum, { bytes, count }) => sum + (bytes === tiles.bytes ? count : 0), 0);
  expect([apart, ahead].map(tilesOf)).toEqual([passes, passes]);
  const inputs = (run: DryRun) => waits(run, "backward").filter(({ bytes }) => bytes === inputBytes);
  expect(inputs(apart)).toEqual([{ bytes: inputBytes, count: model.layers - 1 }]); // all layers except the last, whose attention is kept
  expect(inputs(ahead)).toEqual([]);
  expect(ahead.device.peakBytes - apart.device.peakBytes).toBeLessThanOrEqual(inputBytes);
});

it("counts what is streamed as waited for where nothing computes: a layer at the start of either way, the head, the tower", () => {
  const sumOf = (run: DryRun, phase: string): number =>
    waits(run, phase).reduce((sum, { bytes, count }) => sum + bytes * count, 0);
  const streamed = onCard({ weights: { source: "streamed", aheadLayers: 1 }, head: "host", vision: "host" });
  const layerBytes = [...tensorsOf(model)]
    .filter(([, { part, layer }]) => part === "layer" && layer === 0)
    .reduce((sum, [, { shape }]) => sum + 2 * shape.reduce((product, size) => product * size, 1), 0);
  expect(sumOf(streamed, "vision")).toBeGreaterThan(0);
  expect(sumOf(streamed, "forward")).toBe(layerBytes);
  expect(sumOf(streamed, "backward")).toBe(layerBytes);
  expect(sumOf(streamed, "loss")).toBe(model.vocab * model.hidden * 2);
  const notAhead = onCard({ weights: { source: "streamed", aheadLayers: 0 } });
  expect(sumOf(notAhead, "forward")).toBe(model.layers * layerBytes);
  const resident = onCard({});
  expect(resident.phases.map(({ name }) => sumOf(resident, name))).toEqual(resident.phases.map(() => 0));
});

it("books what layers keep as boundary activations: what lives between segments", () => {
  const run = (keep: string) =>
    dryRun({ ...base, policy: Policy.parse({ mlpTileTokens: 512, layers: [{ count: 12, keep }] }) }).device
      .categories;
  const [middle, all] = ["middle", "all"].map(run) as [Bytes, Bytes];
  const columnBytes = model.layers * SAMPLE_TOKENS * 4;
  const rowsOfLayers = 2 * model.layers - 1; // at the peak the last layer no longer needs its MLP's input
  expect(middle.boundaryActivations).toBe(rowsOfLayers * SAMPLE_TOKENS * 4 * model.hidden);
  const innerBytes = all.boundaryActivations - middle.boundaryActivations;
  expect(innerBytes).toBeGreaterThan(columnBytes * 2 * model.ffn);
  expect(all.workingSet).toBeLessThan(innerBytes);
});

describe("a dry run for a card", () => {
  const card = findDevice("rtx-4090");

  it("adds context and what the allocator rounds up, to what is alive with workspaces", () => {
    const { budgetedBytes, device, replay } = dryRun({ ...base, dtype: "bfloat16", target: card });
    expect(budgetedBytes).toBeGreaterThan(device.peakBytes + card.contextBytes);
    expect(replay!.outOfMemory).toBeUndefined();
  });

  it("predicts that twice the tokens take longer, and that a faster card takes less", () => {
    const run = (sampleTokens: number) =>
      dryRun({ ...base, dtype: "bfloat16", batch: { ...base.batch, sampleTokens }, target: card });
    const [one, two] = [run(2048), run(4096)];
    expect(stepMs(two, speedOf(card))).toBeGreaterThan(stepMs(one, speedOf(card)));
    const faster = speedOf(findDevice("h100-80gb"));
    expect(stepMs(two, faster)).toBeLessThanOrEqual(stepMs(two, speedOf(card))); // a model this small waits for the host
    const issued = { launchMs: 0, callMs: 0 };
    expect(stepMs(two, { ...faster, ...issued })).toBeLessThan(stepMs(two, { ...speedOf(card), ...issued }));
  });
});

/** Compares a run that executes alike parts once with a run in full. */
function expectSameInFull(configuration: Configuration): void {
  const [short, full] = [dryRun(configuration), dryRun(configuration, { inFull: true })];
  expect(short.device).toEqual(full.device);
  expect(short.host).toEqual(full.host);
  short.phases.forEach((phase, index) => {
    const other = full.phases[index]!;
    expect(phase.name).toBe(other.name);
    expect(phase.devicePeakBytes, phase.name).toBe(other.devicePeakBytes);
    for (const what of ["flops", "bytes", "count"] as const) {
      expect(total(phase.ops(), what), `${what} of ${phase.name}`).toBeCloseTo(total(other.ops(), what), 0);
    }
  });
}

function sum(bytes: Record<string, number>): number {
  return Object.values(bytes).reduce((total, part) => total + part, 0);
}

function total(ops: readonly CountedOp[], what: "flops" | "bytes" | "count"): number {
  const working = ops.filter(({ kind }) => kind !== "none"); // views in the skipped parts are not counted
  return working.reduce((all, op) => all + op.count * (what === "count" ? 1 : op[what]), 0);
}
