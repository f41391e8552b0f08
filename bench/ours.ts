/**
 * lorafit's side of bench/cpu.ts and bench/ranks.ts as a worker: ours.js TASK [RANK COUNT PORT]. TASK: a file
 * of JSON.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { emptyCache, memoryStats, resetPeak } from "../src/torch/device.ts";
import { openPeers } from "../src/torch/peers/open.ts";
import { ALONE, type Peers } from "../src/torch/peers/peers.ts";
import type { CpuTask } from "./cpuTask.ts";
import { openBench } from "./openBench.ts";

let baseRssBytes = 0;
let baseBytes = 0;
const [, , taskFile, ...place] = process.argv;
const peers = await peersAt(place.map(Number));
const task = JSON.parse(readFileSync(taskFile!, "utf8")) as CpuTask;
const noteWeights = (): void => {
  emptyCache("cpu"); // as the peer does: what is held unused counts for nobody
  baseRssBytes = statusBytes("VmRSS");
  baseBytes = memoryStats("cpu").liveBytes;
};
const bench = openBench(task, noteWeights, peers);

answer({ name: "lorafit" });
for await (const _ of createInterface({ input: process.stdin })) answer(measuredStep());
process.exit(0); // the watch of the other ranks would go on

/** Joins the other ranks on this machine, if there are any. */
function peersAt([rank = 0, count = 1, port = 0]: readonly number[]): Peers | Promise<Peers> {
  if (count === 1) return ALONE;
  const here = { rank, count, localRank: rank, localCount: count, host: "127.0.0.1", port };
  return openPeers({ ...here, launcher: "bench", launcherServes: false, attempt: 0 });
}

function measuredStep(): object {
  writeFileSync("/proc/self/clear_refs", "5"); // a new VmHWM
  resetPeak("cpu");
  const [startMs, startCpu] = [performance.now(), process.cpuUsage()];
  const numbers = bench.step();
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(startCpu);
  return {
    ...numbers,
    seconds,
    cpuSeconds: (user + system) / 1e6,
    peakRssBytes: statusBytes("VmHWM") - baseRssBytes,
    peakAllocatedBytes: memoryStats("cpu").peakBytes - baseBytes,
  };
}

/** A field of /proc/self/status in bytes. */
function statusBytes(field: "VmRSS" | "VmHWM"): number {
  const line = new RegExp(`^${field}:\\s*(\\d+) kB$`, "m").exec(readFileSync("/proc/self/status", "utf8"));
  return Number(line![1]) * 1024;
}

function answer(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
