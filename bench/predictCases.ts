/** The configurations of bench/predict.ts, and the comparison of each. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createLora } from "../src/models/lora.ts";
import { loadModel } from "../src/models/weights.ts";
import { OFFICIAL_TARGETS } from "../src/models/xcomposer2/spec.ts";
import { TINY, writeTinyCheckpoint } from "../src/models/xcomposer2/tiny.ts";
import { exactShape } from "../src/plan/dryRun/batchShapes.ts";
import type { Configuration } from "../src/plan/dryRun/configuration.ts";
import { type CountedOp, dryRun, STEP_PHASES, stepMs } from "../src/plan/dryRun/dryRun.ts";
import { type Clocks, type Measured, measureCpu, timeOf } from "../src/plan/time/calibration.ts";
import type { CpuSpeed } from "../src/plan/time/cpuSpeed.ts";
import { stepTimeMs } from "../src/plan/time/stepTime.ts";
import { OFFICIAL_ADAMW } from "../src/step/optimizer/adamW.ts";
import { createAdamW, gradientNorm, loraParameters, stepAdamW } from "../src/step/optimizer/optimizer.ts";
import { factorCopies, loadingOf, Policy } from "../src/step/policy.ts";
import { trainStep } from "../src/step/step.ts";
import { setThreads } from "../src/torch/device.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { loadedModel } from "../src/train/machine/modelPlanner.ts";
import { withOpened } from "../src/train/machine/openedModel.ts";
import { printClasses } from "./predictClasses.ts";
import { noiseImage, runToEnd, sampleBatch } from "./workload.ts";

interface Case {
  policy?: object;
  base?: "int8" | "nf4";
  tiny?: boolean;
}

const CASES: Record<string, Case> = {
  default: {},
  kept: { policy: { layers: [{ count: 4, keep: "all" }, { count: 8 }] } },
  streamed: { policy: { weights: { source: "streamed" } } },
  "two-groups": { policy: { headGroups: 2 } },
  "small-tiles": { policy: { mlpTileTokens: 512 } },
  "host-optimizer": { policy: { optimizer: { place: "host", precision: "8bit" } } },
  int8: { base: "int8" },
  nf4: { base: "nf4" },
  tiny: { tiny: true },
};

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rows: { type: "string", default: "30" },
    clock: { type: "string", default: "pathMs" },
    sizes: { type: "boolean", default: false },
    threads: { type: "string", default: "2" },
    "calibration-ms": { type: "string", default: "5000" },
    "base-folder": { type: "string", default: join(packageRoot, "bench-out", "cpu-bench", "base") },
    "tiny-folder": { type: "string", default: join(packageRoot, "bench-out", "predict-tiny") },
  },
});

setThreads(Number(flags.threads));
const CLOCKS = { wallMs: "clock", pathMs: "processor" } as const;
const calibrations = new Map<string, Measured>();
for (const name of positionals.length > 0 ? positionals : Object.keys(CASES)) run(name, CASES[name]!);

function run(name: string, { policy: given = {}, base, tiny = false }: Case): void {
  const folder = flags[tiny ? "tiny-folder" : "base-folder"];
  if (tiny && !existsSync(folder)) writeTinyCheckpoint(folder, TINY);
  const dtype = tiny ? "float32" : "bfloat16";
  const policy = Policy.parse(given);
  const loaded = withOpened(folder, (opened) =>
    loadedModel(opened, { dtypeFor: () => dtype, base, headBase: undefined }),
  );
  const batch = sampleBatch(noiseImage(tiny ? 1 : 3, tiny ? 1 : 3), {
    ...(tiny ? { textTokens: 60, labelTokens: 30 } : { textTokens: 300, labelTokens: 150 }),
    vocab: loaded.model.vocab,
  });
  const configuration: Configuration = {
    ...{ ...loaded, target: "cpu", policy, batch: { ...exactShape(batch), labelTokens: tiny ? 30 : 150 } },
    lora: { rank: 16, dropout: 0, targets: OFFICIAL_TARGETS },
  };
  const plan = dryRun(configuration);
  const measured = calibrated(dtype);
  const model = loadModel(folder, { dtype, device: "cpu", ...loadingOf(policy), base });
  const lora = createLora(model.config, {
    ...{ rank: 16, alpha: 16, dropout: 0, rslora: false, targets: OFFICIAL_TARGETS, seed: 3, device: "cpu" },
    ...{ gradients: policy.gradients, copies: factorCopies(policy, dtype) },
  });
  const parameters = loraParameters(lora);
  const optimizer = createAdamW(parameters, OFFICIAL_ADAMW, policy.optimizer);
  const micro = (): unknown => runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
  const update = (): void => {
    gradientNorm(parameters);
    stepAdamW(optimizer, 1e-4, 0.5);
  };
  micro();
  update();
  const pairs = [1, 2, 3].map(() => [timed(micro), timed(update)] as const); // as a run has them, each beside what the other left in caches
  const [steps, updates] = [pairs.map(([step]) => step), pairs.map(([, update]) => update)];
  const phases = (names: readonly string[]): CountedOp[] =>
    plan.phases.filter((phase) => names.includes(phase.name)).flatMap(({ ops }) => ops());
  const predicted = (speed: CpuSpeed): number[] => [
    stepMs(plan, speed),
    stepTimeMs(phases(["update"]), speed),
  ];
  const { wall, path } = measured;
  const clocks = [predicted(wall), predicted(path)];
  console.log(`\n${name}`);
  for (const [at, [what, taken]] of Object.entries({ step: steps, update: updates }).entries()) {
    const [wallMs, pathMs] = clocks.map((times) => times[at]!);
    printClocks(what, taken, { wallMs: wallMs!, pathMs: pathMs! });
  }
  const clock = flags.clock as keyof Clocks;
  const speed = { wallMs: wall, pathMs: path }[clock];
  const rows = Number(flags.rows);
  for (const [what, before, body, taken, names] of [
    ["step", update, micro, steps, STEP_PHASES],
    ["update", micro, update, updates, ["update"]],
  ] as const) {
    const wholeMs = Math.min(...taken.map((clocks) => clocks[clock]));
    console.log(`    ${what}, ms of the ${CLOCKS[clock]}:`);
    printClasses({ before, body }, phases(names), { speed, clock, wholeMs, rows, bySize: flags.sizes });
  }
}

function calibrated(dtype: "float32" | "bfloat16"): Measured {
  const known = calibrations.get(dtype);
  if (known) return known;
  const startMs = performance.now();
  const measured = measureCpu(dtype, { budgetMs: Number(flags["calibration-ms"]) });
  console.log(
    `calibration for ${dtype}: ${((performance.now() - startMs) / 1e3).toFixed(1)} s${measured.busy ? `; ${measured.busy.reason}` : ""}`,
  );
  calibrations.set(dtype, measured);
  return measured;
}

function timed(body: () => unknown): Clocks {
  return timeOf(() => void body());
}

/** Least of the measured, for what others take only adds. */
function printClocks(what: string, measured: Clocks[], predicted: Clocks): void {
  for (const [clock, title] of Object.entries(CLOCKS) as [keyof Clocks, string][]) {
    const leastMs = Math.min(...measured.map((clocks) => clocks[clock]));
    const numbers = [predicted[clock] / 1e3, leastMs / 1e3].map((seconds) => seconds.toFixed(3));
    const ratio = (predicted[clock] / leastMs).toFixed(2);
    console.log(
      `  ${what.padEnd(6)} ${title.padEnd(14)} ${numbers[0]} s predicted, ${numbers[1]} s measured, ratio ${ratio}`,
    );
  }
}
