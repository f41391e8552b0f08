/**
 * Faults of a card that can be tested without one: the card fails during a run, and its kernels cannot be
 * compiled.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";
import { Output } from "../../src/cli/output/output.ts";
import { TrainReport } from "../../src/cli/run/trainReport.ts";
import { UserError } from "../../src/errors.ts";
import { empty, fromArray } from "../../src/torch/create.ts";
import { cudaDevices, memoryStats, planningFor, resetPeak } from "../../src/torch/device.ts";
import { isFused, tryCompiling, whyTwins } from "../../src/torch/kernels/fusedKernel.ts";
import { fused } from "../../src/torch/kernels/kernels.ts";
import { native } from "../../src/torch/native.ts";
import { scope } from "../../src/torch/tensor.ts";
import { makeWorkplace, noticesOf, runWith } from "./trainRun.ts";

const fault = vi.hoisted(() => ({ seen: 0, microBatch: Number.POSITIVE_INFINITY, raise: () => {} }));
vi.mock("../../src/step/step.ts", async (original) => {
  const own = await original<typeof import("../../src/step/step.ts")>();
  const queueStep: typeof own.queueStep = function* (...inputs) {
    const result = yield* own.queueStep(...inputs);
    const [{ device }] = inputs;
    if (device !== "meta" && ++fault.seen === fault.microBatch) fault.raise(); // a plan's steps are on meta
    return result;
  };
  return { ...own, queueStep };
});

/** Where to look for the driver and its devices; undefined: at their real places. */
const machine = vi.hoisted(() => ({ places: undefined as { driver: string; devices: string } | undefined }));
vi.mock("../../src/torch/install/driver.ts", async (original) => {
  const own = await original<typeof import("../../src/torch/install/driver.ts")>();
  const whyCardIdles: typeof own.whyCardIdles = (libtorch, loading) =>
    own.whyCardIdles({ ...libtorch, cuda: false }, loading, machine.places);
  return { ...own, whyCardIdles };
});

const { folder, input } = await makeWorkplace();
afterEach(() => vi.unstubAllEnvs());

it("a card that fails ends the run with the last good checkpoint, from which it goes on", async () => {
  fault.microBatch = 6;
  fault.raise = () => {
    throw new Error("aten::mm: CUDA error: unspecified launch failure");
  };
  const options = { ...input, output: join(folder, "lost"), max_steps: 7, save_every: 2 };
  const { error } = (await runWith(options)) as { error: UserError };
  expect(error).toBeInstanceOf(UserError);
  expect(error.message).toContain("Step 6: cpu has failed: aten::mm: CUDA error: unspecified launch failure");
  expect(error.fix).toMatch(/The last good checkpoint is .*checkpoint-4. Continue from it: .*--resume/);
  expect(await runWith({ ...options, resume: true })).toMatchObject({
    result: { ended: "finished", step: 7 },
  });
});

it("memory that the card's libraries are refused is out of memory: the micro-batch is done again under a leaner policy", async () => {
  fault.seen = 0;
  fault.microBatch = 1;
  fault.raise = () =>
    scope(() => {
      const assertion = native.resolve("aten::_assert_async", "msg", []); // throws with a given message
      native.call(assertion, fromArray([0], [1]).handle, "CUDA error: out of memory");
    });
  const run = await runWith({ ...input, output: join(folder, "refused"), max_steps: 1 });
  expect(run).toMatchObject({ result: { ended: "finished", step: 1 } });
  expect(noticesOf(run.events).join("\n")).toMatch(
    /Step 1: .*CUDA error: out of memory.*Repeating this one; the result is the same except for rounding\./,
  );
});

it("without NVRTC the twins do the kernels' work, and plans for a card count what they take", () => {
  const peakBytes = (): number =>
    planningFor({ device: "cuda" }, () =>
      scope(() => {
        const x = (): ReturnType<typeof empty> => empty([4096], { dtype: "bfloat16", device: "meta" });
        const [out, gate, up] = [x(), x(), x()];
        expect(isFused(out)).toBe(own);
        resetPeak("meta");
        fused.swiglu([out, gate, up]);
        return memoryStats("meta").peakBytes - memoryStats("meta").liveBytes;
      }),
    );
  let own = true;
  expect(peakBytes()).toBe(0);
  vi.stubEnv("LORAFIT_NVRTC", join(folder, "libnvrtc.so"));
  tryCompiling(80);
  expect(whyTwins()).toMatch(/NVRTC, which compiles lorafit's kernels, was not found:\n.*libnvrtc.so/);
  own = false;
  expect(peakBytes()).toBe(2 * 4096);
});

it.skipIf(cudaDevices() > 0)(
  "a card that this libtorch can't use is told where no device was asked for, and only there",
  async () => {
    fault.microBatch = Number.POSITIVE_INFINITY;
    const devices = join(folder, "dev");
    mkdirSync(devices);
    writeFileSync(join(devices, "nvidia0"), "");
    const driver = join(folder, "driver");
    writeFileSync(driver, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Release Build\n");
    machine.places = { driver, devices };
    vi.stubEnv("CUDA_VISIBLE_DEVICES", undefined);
    const { device, ...unasked } = { ...input, max_steps: 1 };
    const words = expect.stringMatching(
      /^Computing on the CPU, though there is a GPU: .* npx lorafit setup --cuda/,
    );

    const told = await runWith({ ...unasked, output: join(folder, "idle") });
    expect(noticesOf(told.events)).toEqual([words]);
    const lines: string[] = [];
    const sink = { write: (text: string) => lines.push(text) };
    const report = new TrainReport(
      new Output({ json: true, stdout: sink, stderr: { write: () => {} }, environment: {} }),
    );
    for (const event of told.events) report.take(event);
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      expect.objectContaining({ step: 1, idleCard: words }),
    ]);

    const asked = await runWith({ ...unasked, device, output: join(folder, "asked") });
    expect(noticesOf(asked.events)).toEqual([]);
  },
);
