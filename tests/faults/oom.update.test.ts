/**
 * Memory runs out at any allocation of the optimizer's update. No parameter is updated twice, none is left
 * out, and nothing leaks.
 */
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import type { Moment } from "../../src/step/optimizer/moments.ts";
import { isCodes } from "../../src/step/optimizer/moments.ts";
import { Policy } from "../../src/step/policy.ts";
import { pendingCopies } from "../../src/torch/copies.ts";
import { failAtAllocation, liveTensors, memoryStats, setCap } from "../../src/torch/device.ts";
import { ALONE } from "../../src/torch/peers/peers.ts";
import { createGenerator } from "../../src/torch/random.ts";
import { dispose, keep, scope, type Tensor } from "../../src/torch/tensor.ts";
import { type Closers, openRun } from "../../src/train/loop/openRun.ts";
import type { Run } from "../../src/train/loop/run.ts";
import { normWithin, updateWithin } from "../../src/train/loop/update.ts";
import { trainOptions } from "../../src/train/options/options.ts";
import { factsInto, makeWorkplace } from "./trainRun.ts";

/**
 * LoRA rank. Factors have 3,200 or 6,400 elements: the smaller keep float32 moments even in 8 bits, the
 * larger take several tiles.
 */
const RANK = 100;
const TILE_ELEMENTS = 2048;
const RATE = 1e-2;

const { folder, input } = await makeWorkplace();
const closers: Closers = [];
afterAll(async () => {
  for (const close of closers.reverse()) await close();
});

const CASES = (["device", "host"] as const).flatMap((place) =>
  (["fp32", "8bit"] as const).flatMap((precision) =>
    (["fp32", "bf16"] as const).map((dtype) => ({ place, precision, dtype })),
  ),
);

it.each(CASES)(
  "fails at each allocation in turn, and is as it would have been: $precision on the $place, computing in $dtype",
  async ({ place, precision, dtype }) => {
    const notices: string[] = [];
    const run = await openRunWith({ optimizer: { place, precision } }, dtype, notices);
    const begin = startOf(run);
    update(run, begin);
    const peaceful = stateOf(run);
    const before = live();
    let failures = 0;
    for (let at = 1; notices.length === failures; at++) {
      update(run, begin, () => failAtAllocation("cpu", at));
      expect(stateOf(run), `after a failure at allocation ${at}`).toEqual(peaceful);
      expect(live(), `after a failure at allocation ${at}`).toEqual(before);
      failures++; // the loop ends when there is no such allocation
    }
    failAtAllocation("cpu", 0);
    if (place === "device" && precision === "fp32")
      expect(notices).toEqual([]); // the kernel takes no memory
    else expect(notices.length).toBeGreaterThan(10);
    for (const notice of notices)
      expect(notice).toMatch(
        /^The update of step 1: out of memory.* in tiles of 4\.0 KiB, with the same result\.$/,
      );
  },
);

it("goes down to tiles that fit, and at last without the copy of the gradients, which comes back", async () => {
  const notices: string[] = [];
  const policy = { optimizer: { precision: "8bit" } };
  const run = await openRunWith(policy, "fp32", notices, { gradient_accumulation: 2, host_memory: 0 });
  const begin = startOf(run);
  update(run, begin);
  const peaceful = stateOf(run);
  const { liveBytes } = memoryStats("cpu");
  for (const [roomBytes, told] of [
    [30_000, ["in tiles of 4.0 KiB"]],
    [10_000, ["in tiles of 4.0 KiB", "without the copy of the gradients"]],
  ] as const) {
    notices.length = 0;
    update(run, begin, () => setCap("cpu", liveBytes + roomBytes));
    setCap("cpu", undefined);
    expect(stateOf(run)).toEqual(peaceful);
    expect(notices).toEqual(told.map((what) => expect.stringContaining(what)));
  }
  run.loaded.backup.save();
  expect(memoryStats("cpu").liveBytes).toBe(liveBytes);
});

it("the norm of the gradients outlives it as well", async () => {
  const notices: string[] = [];
  const run = await openRunWith({ gradients: "bf16" }, "bf16", notices);
  restore(startOf(run));
  const norm = (): number => {
    using found = normWithin(run);
    return found.item();
  };
  const peaceful = norm();
  failAtAllocation("cpu", 2);
  expect(norm()).toBe(peaceful);
  expect(notices).toHaveLength(1);
});

let runs = 0;

async function openRunWith(
  policy: Record<string, unknown>,
  dtype: "fp32" | "bf16",
  notices: string[],
  more: object = {},
): Promise<Run> {
  const given = {
    ...{ ...input, output: join(folder, `run-${runs++}`), policy: Policy.parse(policy), dtype },
    ...{
      ...{ lora_r: RANK, lora_alpha: RANK },
      lora_targets: "layers.0.attention.wqkv|layers.1.feed_forward.w2",
      max_steps: 1,
      ...more,
    },
  };
  return await openRun(trainOptions(given), { facts: factsInto(notices), closers, peers: ALONE });
}

/** Returns all tensors that an update changes, in a fixed order. */
function tensorsOf({ loaded: { optimizer } }: Run): Tensor[] {
  const ofMoment = (moment: Moment): Tensor[] => (isCodes(moment) ? [moment.codes, moment.absmax] : [moment]);
  return optimizer.parameters.flatMap(({ value, copy, gradient }, index) => {
    const { mean, square } = optimizer.moments[index]!;
    return [value, ...(copy ? [copy] : []), gradient, ...ofMoment(mean), ...ofMoment(square)];
  });
}

/** Returns a state in the middle of training: random gradients, and the moments of three updates. */
function startOf(run: Run): [Tensor, Tensor][] {
  const { optimizer } = run.loaded;
  for (let step = 0; step < 4; step++) {
    using generator = createGenerator(BigInt(step), "cpu");
    for (const { gradient } of optimizer.parameters)
      scope(() => void gradient.normal_({ mean: 0, std: 0.1, generator }));
    if (step < 3) updateWithin(run, RATE, () => 0.5);
  }
  const copies = keep(scope(() => tensorsOf(run).map((x) => [x, x.clone()] as [Tensor, Tensor])));
  closers.push(() => dispose(copies.map(([, copy]) => copy)));
  return copies;
}

function restore(start: [Tensor, Tensor][]): void {
  scope(() => start.forEach(([x, copy]) => void x.copy_(copy)));
}

/** Runs the fourth update from the start state. */
function update(run: Run, start: [Tensor, Tensor][], disturb = (): void => {}): void {
  restore(start);
  run.loaded.optimizer.stepsDone = 3;
  run.loaded.optimizer.tileElements = TILE_ELEMENTS;
  disturb();
  updateWithin(run, RATE, () => 0.5);
}

function stateOf(run: Run): string[] {
  return tensorsOf(run).map((x) => Buffer.from(x.toBytes()).toString("base64"));
}

function live(): number[] {
  const [device, host] = [memoryStats("cpu"), memoryStats("cpu", "host")];
  return [device.liveBytes, host.liveBytes, liveTensors(), pendingCopies()];
}
