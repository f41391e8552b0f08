/**
 * Measures the page's server on many long runs (`make bench-ui`): time from its start to the first list, its
 * memory, the time to read all logs, the same after a second start, and the curves of one run. Makes the run
 * folders in a temporary folder, 6 GB for 1,000 runs of 10,000 steps, and removes them at the end.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/errors.ts";
import type { RunList, StepPage } from "../src/server/ui/api.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { trainOptions } from "../src/train/options/options.ts";

const { values } = parseArgs({
  options: { runs: { type: "string", default: "1000" }, steps: { type: "string", default: "10000" } },
});
const [runs, steps] = [Number(values.runs), Number(values.steps)];
const MIB = 2 ** 20;
/** Different logs of steps; every run has a file of its own. */
const CURVES = 8;

const folder = mkdtempSync(join(tmpdir(), "lorafit-ui-"));
const cache = join(folder, ".cache");
try {
  const startMs = performance.now();
  const bytes = writeRuns();
  console.log(`${runs} runs of ${steps} steps, ${formatBytes(bytes)}, written in ${since(startMs)}`);
  for (const start of ["first start", "second start"]) await measure(start);
} finally {
  rmSync(folder, { recursive: true });
}

async function measure(start: string): Promise<void> {
  const startMs = performance.now();
  const main = join(packageRoot, "dist", "cli", "main.js");
  const server = spawn(process.execPath, [main, "ui", folder, "--port", "0", "--json"], {
    env: { ...process.env, XDG_CACHE_HOME: cache },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(createInterface(server.stdout), "line")) as [string];
  const { url, token } = JSON.parse(line) as { url: string; token: string };
  console.log(`${start}: listens after ${since(startMs)}`);
  const get = async <T>(path: string): Promise<{ value: T; bytes: number }> => {
    const answer = await fetch(`${url}/api/${path}`, { headers: { Authorization: `Bearer ${token}` } });
    const text = await answer.text();
    return { value: JSON.parse(text) as T, bytes: text.length };
  };
  const askedMs = performance.now();
  const list = await get<RunList>("runs");
  const { length } = list.value.runs;
  console.log(
    `  list of ${length} runs: ${since(askedMs)} after the request, ${since(startMs)} (${cpuOf(server.pid!)}) after the start; ${formatBytes(list.bytes)}; memory ${memoryOf(server.pid!)}`,
  );
  const readMs = performance.now();
  for (let left = length; left > 0; await sleep(200)) {
    left = (await get<RunList>("runs")).value.runs.filter(({ isPartial }) => isPartial).length;
  }
  console.log(
    `  all logs read ${since(readMs)} later (${cpuOf(server.pid!)} in all); memory ${memoryOf(server.pid!)}`,
  );
  const againMs = performance.now();
  await get<RunList>("runs");
  console.log(`  list again: ${since(againMs)}`);
  const curvesMs = performance.now();
  const curves = await get<StepPage>(`runs/${list.value.runs[0]!.id}/steps?points=2000`);
  console.log(`  curves of a run, 2000 points: ${since(curvesMs)}, ${formatBytes(curves.bytes)}`);
  server.kill("SIGTERM");
  const endMs = performance.now();
  await once(server, "exit");
  console.log(`  ended ${since(endMs)} after SIGTERM`);
}

/** Writes the run folders: two logs and the facts of each. Returns their bytes. */
function writeRuns(): number {
  let bytes = 0;
  const texts = Array.from({ length: CURVES }, (_, curve) =>
    Array.from({ length: steps }, (_, step) => `${JSON.stringify(stepRecord(curve, step + 1))}\n`).join(""),
  );
  for (let run = 0; run < runs; run++) {
    const output = join(folder, `group-${run % 10}`, `run-${run}`);
    mkdirSync(output, { recursive: true });
    const options = trainOptions({
      model: "/models/4khd",
      data: "/data/pages.json",
      output,
      lora_r: 4 + (run % 28),
    });
    const startAtMs = Date.UTC(2026, 0, 1) + run * 60_000;
    const facts = [
      { atMs: startAtMs, fact: "start", options, step: 0, totalSteps: steps, samples: 80_000 },
      {
        atMs: startAtMs + 8000 * steps,
        fact: "end",
        ended: "finished",
        step: steps,
        adapter: join(output, "adapter"),
      },
    ];
    const evals = Array.from({ length: 20 }, (_, at) => ({
      step: (at + 1) * (steps / 20),
      loss: 2 / (at + 2),
      samples: 100,
      labelTokens: 5000,
      exactMatch: 0.1 * at ** 0.5,
    }));
    const text = texts[run % texts.length]!;
    writeFileSync(join(output, "steps.jsonl"), text);
    writeFileSync(join(output, "evals.jsonl"), evals.map((record) => `${JSON.stringify(record)}\n`).join(""));
    appendFileSync(join(output, "facts.jsonl"), facts.map((fact) => `${JSON.stringify(fact)}\n`).join(""));
    bytes += text.length;
  }
  return bytes;
}

function stepRecord(run: number, step: number): object {
  const loss = 0.3 + 2 * Math.exp(-step / (500 + 20 * run)) + Math.sin(step * (run + 1)) / 10;
  return {
    ...{
      step,
      loss,
      gradNorm: 0.4 + Math.cos(step) / 5,
      lr: 1e-4 * (1 - step / steps),
      tokens: 14_211,
      tokensPerSecond: 1911.5 + Math.sin(step),
    },
    ...{ peakBytes: 21_045_174_272 + step, hostPeakBytes: 3_221_225_472, plannedPeakBytes: 21_045_190_656 },
    peakByCategory: {
      weights: 15_569_256_448,
      loraParameters: 318_767_104,
      loraGradients: 318_767_104,
      optimizerState: 637_534_208,
      inputData: 9_437_184,
      visionFeatures: 41_943_040,
      boundaryActivations: 1_073_741_824,
      workingSet: 2_147_483_648,
    },
    ...{ stepMs: 7434.2 + Math.sin(step), dataWaitRatio: 0.012, epoch: Math.floor(step / 1250) },
    slowest: {
      samples: [{ file: "/data/pages.json", index: (step * 8) % 10_000 }],
      tokens: 2411,
      elapsedMs: 1103.4 + Math.cos(step),
    },
  };
}

function since(startMs: number): string {
  return `${((performance.now() - startMs) / 1000).toFixed(2)} s`;
}

/** Returns the processor time of a process so far, which other work on the machine does not change. */
function cpuOf(pid: number): string {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return `${((Number(fields[11]) + Number(fields[12])) / 100).toFixed(2)} s of a core`;
}

function memoryOf(pid: number): string {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const kib = (name: string): number => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0);
  return `${Math.round((kib("VmRSS") * 1024) / MIB)} MiB now, ${Math.round((kib("VmHWM") * 1024) / MIB)} MiB at most`;
}
