/** PyTorch's own program for memory snapshots reads those that lorafit writes, of a run and of a plan. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { StepRecord } from "../../src/train/folder/runLog.ts";
import { PROGRAM } from "../e2e/lorafit.ts";
import { python, pythonJson } from "./python.ts";
import { makeWorkshop } from "./tinyRuns.ts";

const workshop = makeWorkshop();

/** PyTorch's own reader of snapshots, as a program. */
const MEMORY_VIZ = ["-m", "torch.cuda._memory_viz"];

const READ = `
import collections, json, pickle, sys
snapshot = pickle.load(open(sys.argv[1], "rb"))
trace = snapshot["device_traces"][0]
live = peak = 0
for event in trace:
  if event["action"] == "alloc": live += event["size"]
  if event["action"] == "free_completed": live -= event["size"]
  peak = max(peak, live)
print(json.dumps({
  "events": sum(len(one) for one in snapshot["device_traces"]),
  "peak": peak,
  "categories": sorted({event["category"] for event in trace if "category" in event}),
  "frames": sorted({f"{frame['filename']}:{frame['line']}:{frame['name']}" for event in trace for frame in event["frames"]}),
  "requested": sum(segment["requested_size"] for segment in snapshot["segments"] if segment["device"] == 0),
  "live": live,
}))`;

interface Read {
  events: number;
  peak: number;
  categories: string[];
  frames: string[];
  /** Bytes in use at the end, by the segments and by the events. */
  requested: number;
  live: number;
}

const trained = join(workshop.folder, "train.pickle");
const output = workshop.train("run", ["--max-steps", "1", "--memory-snapshot", trained]);
const planned = join(workshop.folder, "plan.pickle");
const plan = [
  "plan",
  "--model",
  workshop.model,
  "--gpu",
  "rtx-4090",
  "--hd-num",
  "1",
  "--max-length",
  "1024",
];

it.each([
  ["a measured step", () => trained],
  [
    "a planned step",
    () => {
      const { status, stderr } = spawnSync(process.execPath, [PROGRAM, ...plan, "--snapshot", planned], {
        encoding: "utf8",
      });
      expect([status, stderr]).toEqual([0, expect.stringContaining("memory_viz")]);
      return planned;
    },
  ],
])("reads the snapshot of %s: segments, events and pages", (_, write) => {
  const file = write();
  const read = pythonJson<Read>(READ, file);
  expect(read.requested).toBe(read.live);
  const stats = python([...MEMORY_VIZ, "stats", file]);
  expect(stats).toContain("total_allocated:"); // it has checked that the blocks fill their segments
  const trace = python([...MEMORY_VIZ, "trace", file]);
  expect(Number(/(\d+) entries/.exec(trace)![1])).toBeGreaterThan(100);
  expect(trace).toMatch(/^del \w+ # /m);
  for (const page of ["trace_plot", "segment_plot"]) {
    const html = join(workshop.folder, `${page}.html`);
    python([...MEMORY_VIZ, page, file, "-o", html]);
    expect(readFileSync(html, "utf8")).toContain("MemoryViz.js");
  }
});

it("has the peak of the measured step to the byte, categories, and lines of lorafit's source by layer", () => {
  const [step] = readFileSync(join(output, "steps.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as StepRecord);
  const read = pythonJson<Read>(READ, trained);
  expect(read.peak).toBe(step!.peakBytes);
  expect(read.events).toBeLessThanOrEqual(100_000);
  expect(read.categories).toEqual(
    expect.arrayContaining(["boundaryActivations", "unknown", "weights", "workingSet"]),
  );
  expect(read.frames).toEqual(
    expect.arrayContaining([expect.stringMatching(/^src\/nn\/\S+\.ts:[1-9]\d*:\w+/)]),
  );
  expect(read.frames.some((frame) => /:backward, layer 1, attention: workingSet$/.test(frame))).toBe(true);
});
