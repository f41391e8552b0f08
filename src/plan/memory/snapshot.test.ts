import { describe, expect, it } from "vitest";
import { unpickle } from "../../checkpoint/files/pickle.ts";
import { torchHost } from "../../checkpoint/files/torchPickle.ts";
import { CATEGORIES, type Category, OutOfMemoryError } from "../../torch/device.ts";
import type { StepEvent } from "../dryRun/stepEvents.ts";
import { MOST_EVENTS, snapshotOf, snapshotValue } from "./snapshot.ts";

const NONE = Object.fromEntries(CATEGORIES.map((name) => [name, 0])) as Record<Category, number>;
const LINEAR = [
  { name: "linear", filename: "src/nn/linear.ts", line: 12 },
  { name: "mlpForward_", filename: "src/models/decoder.ts", line: 34 },
];

interface Read {
  segments: Record<string, unknown>[];
  device_traces: Record<string, unknown>[][];
}

function read(pickle: Buffer): Read {
  const { value } = unpickle(pickle, "f", torchHost("f", new Map()));
  return plain(value) as Read;
}

function plain(value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

function event(id: number, bytes: number, more: Partial<StepEvent> = {}): StepEvent {
  return { phase: "forward", pool: "device", category: "workingSet", id, bytes, ...more };
}

const BEFORE = { device: { ...NONE, weights: 5000, inputData: 300 }, host: NONE };

describe("a snapshot", () => {
  const events = [
    event(7, 1000, { layer: 3, stack: LINEAR }),
    event(2, -300, { category: "inputData" }),
    event(7, -1000),
    event(8, 2000, { pool: "host", category: "boundaryActivations" }),
  ];
  const { segments, device_traces } = read(snapshotOf({ before: BEFORE, events }).pickle);

  it("has what was held before as allocations, so that everything has a category", () => {
    const [device] = device_traces;
    const shown = device!
      .filter(({ action }) => action === "alloc")
      .map(({ size, category }) => [category, size]);
    expect(shown).toEqual([
      ["weights", 5000],
      ["inputData", 300],
      ["workingSet", 1000],
    ]);
  });

  it("frees at the address of the allocation, requested and completed", () => {
    const [device] = device_traces;
    const address = device!.find(({ size, action }) => action === "alloc" && size === 1000)!.addr;
    const frees = device!.filter(({ addr }) => addr === address).map(({ action }) => action);
    expect(frees).toEqual(["alloc", "free_requested", "free_completed"]);
  });

  it("carries the lines of source, then the phase, the layer and its half", () => {
    const [device] = device_traces;
    const { frames } = device!.find(({ size }) => size === 1000)!;
    expect(frames).toEqual([
      ...LINEAR,
      { name: "forward, layer 3, MLP: workingSet", filename: "lorafit", line: 3 },
    ]);
  });

  it("has an event of the category that the viewer needs, and the host's pool as a second device", () => {
    expect(device_traces.map((trace) => trace.at(-1)!.category)).toEqual(["unknown", "unknown"]);
    expect(device_traces[1]!.find(({ action }) => action === "alloc")).toMatchObject({ size: 2000 });
    expect(new Set(segments.map(({ device }) => device))).toEqual(new Set([0, 1]));
  });

  it("has segments whose blocks fill them, and hold what is alive at the end", () => {
    for (const { total_size, allocated_size, blocks } of segments) {
      const sizes = (blocks as Record<string, number | string>[]).map(
        ({ size, state }) => [Number(size), state] as const,
      );
      expect(sizes.reduce((sum, [size]) => sum + size, 0)).toBe(total_size);
      const active = sizes.filter(([, state]) => state === "active_allocated");
      expect(active.reduce((sum, [size]) => sum + size, 0)).toBe(allocated_size);
    }
    const requested = segments
      .filter(({ device }) => device === 0)
      .map(({ requested_size }) => Number(requested_size));
    expect(requested.reduce((sum, bytes) => sum + bytes, 0)).toBe(5000);
  });

  it("ends with the allocation that failed", () => {
    const cause = new OutOfMemoryError(900, 400, 1000, 0, 0, "");
    const { device_traces: traces } = read(snapshotOf({ before: BEFORE, events: [] }, cause).pickle);
    expect(traces).toHaveLength(1);
    expect(traces[0]!.at(-2)).toMatchObject({ action: "oom", size: 900, device_free: 600 });
  });
});

it("a step of too many events is shown in as many as a viewer can take, without its smallest blocks", () => {
  const small = Array.from({ length: 60_000 }, (_, id) => [event(id, 512 + id), event(id, -512 - id)]).flat();
  const { device_traces, leftOut } = snapshotValue({
    before: BEFORE,
    events: [event(-5, 2 ** 20), ...small],
  });
  const [device] = device_traces;
  expect(device!.length).toBeLessThanOrEqual(MOST_EVENTS);
  expect(device!.length).toBeGreaterThan(MOST_EVENTS - 5000);
  const shown = device!.filter(({ action, category }) => action === "alloc" && category === "workingSet");
  expect(shown).toHaveLength(small.length / 2 - leftOut + 1);
  expect(Math.min(...shown.map(({ size }) => Number(size)))).toBe(512 + leftOut);
});
