/**
 * Measures a step of 1 and of 2 CPU ranks, of one thread each, beside plain PyTorch's DistributedDataParallel
 * with PEFT on the same work (`make bench-ranks`). All take turns in one run. Prints the time of each, the
 * memory of a rank beside the weights, and for both sides the scaling efficiency: how much of twice the speed
 * two ranks reach.
 */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/errors.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { MODEL, prepareTask } from "./cpuTask.ts";
import { median, type StepReport, Worker } from "./workers.ts";

const { values: flags } = parseArgs({
  options: {
    steps: { type: "string", default: "5" },
    layers: { type: "string", default: "4" },
    memory: { type: "string", default: "300MiB" },
    attention: { type: "string", default: "eager" },
    python: { type: "string", default: join(packageRoot, "bench", ".venv", "bin", "python") },
  },
});

const COUNTS = [1, 2] as const;
const MICRO_BATCHES = 2;

type Command = readonly [string, ...string[]];

const layers = Number(flags.layers);
const { memory, attention } = flags;
const taskFile = prepareTask(
  join(packageRoot, "bench-out", `ranks-bench-${layers}`),
  { ...MODEL, layers },
  { threads: 1, memory, attention, microBatches: MICRO_BATCHES },
);
const SIDES: Record<"lorafit" | "DDP", Command> = {
  lorafit: [process.execPath, join(import.meta.dirname, "ours.js"), taskFile],
  DDP: [flags.python, join(packageRoot, "bench", "peers", "official_cpu.py"), taskFile],
};

interface Group {
  side: keyof typeof SIDES;
  count: number;
  ranks: Worker[];
  /** The slowest rank of each step. */
  seconds: number[];
  peakBytes: number[];
}

const groups: Group[] = [];
for (const count of COUNTS)
  for (const side of ["lorafit", "DDP"] as const) groups.push(await started(side, count));
const numbers: StepReport[] = [];
for (let step = 0; step <= Number(flags.steps); step++) {
  for (const group of groups) {
    const reports = await Promise.all(group.ranks.map((rank) => rank.step()));
    numbers.push(...reports);
    console.log(
      `step ${step}: ${group.count} x ${group.side}, ${reports.map(({ seconds }) => seconds.toFixed(2)).join(" and ")} s`,
    );
    if (step === 0) continue; // warms up
    group.seconds.push(Math.max(...reports.map(({ seconds }) => seconds)));
    group.peakBytes.push(...reports.map(({ peakRssBytes }) => peakRssBytes));
  }
  requireEqual(numbers.splice(0));
}
for (const { ranks } of groups) await Promise.all(ranks.map((rank) => rank.stop()));
for (const { side, count, seconds, peakBytes } of groups)
  console.log(
    `${count} x ${side.padEnd(8)} ${median(seconds).toFixed(2)} s a step; a rank needs ${formatBytes(Math.max(...peakBytes))} beside the weights`,
  );
for (const side of ["lorafit", "DDP"] as const)
  console.log(`scaling efficiency ${side} ${efficiencyOf(side).toFixed(2)}`);
for (const count of COUNTS) {
  const [ours, theirs] = [of("lorafit", count), of("DDP", count)];
  const memoryRatio = Math.max(...ours.peakBytes) / Math.max(...theirs.peakBytes);
  console.log(`speed ratio ${count} ${(median(theirs.seconds) / median(ours.seconds)).toFixed(2)}`);
  console.log(`memory ratio ${count} ${memoryRatio.toFixed(3)}`);
}

async function started(side: Group["side"], count: number): Promise<Group> {
  const port = String(await freePort());
  const places = Array.from({ length: count }, (_, rank) => [String(rank), String(count), port]);
  const ranks = await Promise.all(places.map((place) => Worker.start([...SIDES[side], ...place])));
  return { side, count, ranks, seconds: [], peakBytes: [] };
}

/** Returns a port that is free now; nothing else starts here meanwhile. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

function of(side: Group["side"], count: number): Group {
  return groups.find((group) => group.side === side && group.count === count)!;
}

function efficiencyOf(side: Group["side"]): number {
  return median(of(side, 1).seconds) / (2 * median(of(side, 2).seconds));
}

/** Throws if the ranks of all groups did not compute the same. */
function requireEqual(reports: readonly StepReport[]): void {
  for (const number of ["loss", "gradientNorm"] as const) {
    const values = reports.map((report) => report[number]);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    if (!(most / least - 1 <= 0.02)) throw new Error(`${number} differs: ${values.join(", ")}`);
  }
}
