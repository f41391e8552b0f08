/** The configurations of bench/predict.ts, and the comparison of each. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createLora, OFFICIAL_TARGETS } from "../src/models/lora.ts";
import { TINY, writeTinyCheckpoint } from "../src/models/tiny.ts";
import { loadModel } from "../src/models/weights.ts";
import { exactShape } from "../src/plan/batch.ts";
import { type Clocks, type Measured, measureCpu, timeOf } from "../src/plan/calibration.ts";
import { type OpTrace, opTimeMs } from "../src/plan/cost.ts";
import type { CpuSpeed } from "../src/plan/cpuSpeed.ts";
import { type Configuration, type CountedOp, dryRun, STEP_PHASES, stepMs } from "../src/plan/dryRun.ts";
import { OFFICIAL_ADAMW } from "../src/step/adamW.ts";
import { createAdamW, gradientNorm, loraParameters, stepAdamW } from "../src/step/optimizer.ts";
import { factorCopies, loadingOf, Policy } from "../src/step/policy.ts";
import { trainStep } from "../src/step/step.ts";
import { setThreads } from "../src/torch/device.ts";
import { packageRoot } from "../src/torch/libtorch.ts";
import { loadedModel } from "../src/train/planner.ts";
import { observeCalls } from "./watchCalls.ts";
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
    rows: { type: "string", default: "12" },
    threads: { type: "string", default: "2" },
    "calibration-ms": { type: "string", default: "5000" },
    "base-folder": { type: "string", default: join(packageRoot, "bench-out", "cpu-bench", "base") },
    "tiny-folder": { type: "string", default: join(packageRoot, "bench-out", "predict-tiny") },
  },
});

/** A class of ops: measured and predicted time of the processor. */
interface Row {
  calls: number;
  measuredMs: number;
  predictedMs: number;
}

setThreads(Number(flags.threads));
const CLOCKS = { wallMs: "clock", pathMs: "longest thread", processorMs: "all threads" } as const;
const calibrations = new Map<string, Measured>();
for (const name of positionals.length > 0 ? positionals : Object.keys(CASES)) run(name, CASES[name]!);

function run(name: string, { policy: given = {}, base, tiny = false }: Case): void {
  const folder = flags[tiny ? "tiny-folder" : "base-folder"];
  if (tiny && !existsSync(folder)) writeTinyCheckpoint(folder, TINY);
  const dtype = tiny ? "float32" : "bfloat16";
  const policy = Policy.parse(given);
  const loaded = loadedModel(folder, { dtypeFor: () => dtype, base, headBase: undefined });
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
  const [steps, updates] = [[1, 2, 3].map(() => timed(micro)), [1, 2, 3].map(() => timed(update))];
  const phases = (names: readonly string[]): CountedOp[] =>
    plan.phases.filter((phase) => names.includes(phase.name)).flatMap(({ ops }) => ops());
  const predicted = (speed: CpuSpeed): number[] => [
    stepMs(plan, speed),
    phases(["update"]).reduce((sum, op) => sum + op.count * opTimeMs(op, speed), 0),
  ];
  const { wall, path, processor } = measured;
  const clocks = [predicted(wall), predicted(path), predicted(processor)];
  console.log(`\n${name}`);
  for (const [at, [what, taken]] of Object.entries({ step: steps, update: updates }).entries()) {
    const [wallMs, pathMs, processorMs] = clocks.map((times) => times[at]!);
    printClocks(what, taken, { wallMs: wallMs!, pathMs: pathMs!, processorMs: processorMs! });
  }
  const real = byClass(micro, measured.processor);
  printRows(real, phases(STEP_PHASES), measured.processor);
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

/** A step's calls, each timed, by class. */
function byClass(step: () => unknown, speed: CpuSpeed): Map<string, Row> {
  const rows = new Map<string, Row>();
  observeCalls((op, ms) => {
    const row = rows.get(classOf(op)) ?? { calls: 0, measuredMs: 0, predictedMs: 0 };
    row.calls += 1;
    row.measuredMs += ms;
    row.predictedMs += opTimeMs(op, speed);
    rows.set(classOf(op), row);
  });
  step();
  observeCalls(undefined);
  return rows;
}

function classOf({ name, kind, form }: OpTrace): string {
  if (kind === "none") return "view";
  if (!form?.product) return `${name} ${form?.dtypes}${form?.strided ? " strided" : ""}`;
  const { m, n, k, layout } = form.product;
  const least = Math.min(m, n, k);
  return `product ${layout.padEnd(4)} ${least < 48 ? "thin" : least < 320 ? "medium" : "thick"}`;
}

function printRows(real: Map<string, Row>, planned: readonly CountedOp[], speed: CpuSpeed): void {
  const plan = new Map<string, { calls: number; ms: number }>();
  for (const op of planned) {
    const sum = plan.get(classOf(op)) ?? { calls: 0, ms: 0 };
    sum.calls += op.count;
    sum.ms += op.count * opTimeMs(op, speed);
    plan.set(classOf(op), sum);
  }
  console.log("    processor ms:  measured predicted  ratio    planned    calls   planned");
  const rows = [...real].sort((one, other) => other[1].measuredMs - one[1].measuredMs);
  for (const [name, { calls, measuredMs, predictedMs }] of rows.slice(0, Number(flags.rows))) {
    const { calls: plannedCalls, ms } = plan.get(name) ?? { calls: 0, ms: 0 };
    const columns = [measuredMs.toFixed(0), predictedMs.toFixed(0), (predictedMs / measuredMs).toFixed(2)];
    const counts = [ms.toFixed(0), `${calls}`, `${plannedCalls}`];
    console.log(`    ${name.padEnd(38)}${[...columns, ...counts].map((text) => text.padStart(8)).join(" ")}`);
  }
}
