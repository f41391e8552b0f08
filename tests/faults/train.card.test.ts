/** Faults of a card, as far as they can be had without one: it fails in the midst of a run, and its kernels can't be compiled. */
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.ts";
import { empty, fromArray } from "../../src/torch/create.ts";
import { memoryStats, planningFor, resetPeak } from "../../src/torch/device.ts";
import { isFused, kernelProblem } from "../../src/torch/fusedKernel.ts";
import { fused } from "../../src/torch/kernels.ts";
import { native } from "../../src/torch/native.ts";
import { scope } from "../../src/torch/tensor.ts";
import { makeWorkplace, noticesOf, runWith } from "./trainRun.ts";

const fault = vi.hoisted(() => ({ seen: 0, microBatch: Number.POSITIVE_INFINITY, raise: () => {} }));
vi.mock("../../src/step/step.ts", async (original) => {
  const own = await original<typeof import("../../src/step/step.ts")>();
  const trainStep: typeof own.trainStep = function* (...inputs) {
    const result = yield* own.trainStep(...inputs);
    if (++fault.seen === fault.microBatch) fault.raise();
    return result;
  };
  return { ...own, trainStep };
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
  expect(error.message).toContain(
    "Step 6: cpu computes no more: aten::mm: CUDA error: unspecified launch failure",
  );
  expect(error.fix).toMatch(/The last good checkpoint is .*checkpoint-4. Go on from it: .*--resume/);
  expect(await runWith({ ...options, resume: true })).toMatchObject({
    result: { ended: "finished", step: 7 },
  });
});

it("memory that the card's libraries are refused is out of memory: the micro-batch is done again under a leaner policy", async () => {
  fault.seen = 0;
  fault.microBatch = 1;
  fault.raise = () =>
    scope(() => {
      const assertion = native.resolve("aten::_assert_async", "msg", []); // throws what it is told to say
      native.call(assertion, fromArray([0], [1]).handle, "CUDA error: out of memory");
    });
  const run = await runWith({ ...input, output: join(folder, "refused"), max_steps: 1 });
  expect(run).toMatchObject({ result: { ended: "finished", step: 1 } });
  expect(noticesOf(run.events).join("\n")).toMatch(
    /Step 1: .*CUDA error: out of memory.*Done again, with the same result\./,
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
  expect(kernelProblem(80)).toMatch(/NVRTC, which compiles lorafit's kernels, was not found:\n.*libnvrtc.so/);
  own = false;
  expect(peakBytes()).toBe(2 * 4096);
});
