/** lorafit's side of bench/cpu.ts as a worker: ours.js TASK, a file of JSON. */
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { emptyCache, memoryStats, resetPeak } from "../src/torch/device.ts";
import type { CpuTask } from "./cpu.ts";
import { openBench } from "./openBench.ts";

let baseRssBytes = 0;
let baseBytes = 0;
const bench = openBench(JSON.parse(readFileSync(process.argv[2]!, "utf8")) as CpuTask, () => {
  emptyCache("cpu"); // as the peer does: what is held unused counts for nobody
  baseRssBytes = statusBytes("VmRSS");
  baseBytes = memoryStats("cpu").liveBytes;
});

answer({ name: "lorafit" });
for await (const _ of createInterface({ input: process.stdin })) answer(measuredStep());

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
