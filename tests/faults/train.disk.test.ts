/** A checkpoint is complete or absent, whichever disk operation is the last that works. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { UserError } from "../../src/errors.ts";
import { disposeLora } from "../../src/models/lora.ts";
import { createAdamW, disposeAdamW, loraParameters } from "../../src/step/optimizer/optimizer.ts";
import { momentTensors } from "../../src/step/optimizer/savedState.ts";
import {
  emptyStep,
  lastGoodCheckpoint,
  restoreOptimizer,
  saveCheckpoint,
  type TrainerState,
} from "../../src/train/folder/checkpoints.ts";
import { mendFolders } from "../../src/train/folder/sealedFolders.ts";
import { randomLora, smallConfig } from "../helpers/randomModel.ts";

const { disk, untilItWorks, withFaults } = await vi.hoisted(() => import("./fullDisk.ts"));
vi.mock("node:fs", async (original) => withFaults(await original()));

const lora = randomLora(smallConfig(), { targets: "layers.0.attention.wo" });
const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
const optimizer = createAdamW(loraParameters(lora), adam);
const trained = { lora, optimizer, baseModel: "base" };
afterAll(() => {
  disposeAdamW(optimizer);
  disposeLora(lora);
});

let output: string;
beforeEach(() => {
  output = mkdtempSync(join(tmpdir(), "disk-"));
  disk.failAt = Number.POSITIVE_INFINITY;
});
afterEach(() => rmSync(output, { recursive: true }));

const stateOf = (step: number): TrainerState => ({
  ...{
    version: 1,
    stepsDown: [],
    step,
    totalSteps: 9,
    microBatches: 2 * step + 1,
    data: { next: step, waiting: [] },
    evals: [],
  },
  ...{ accumulated: { ...emptyStep(), microBatches: 1, weightSum: 1 }, options: {}, fingerprints: {} },
});
const lastGood = () =>
  lastGoodCheckpoint(output, (folder, fault) => expect.unreachable(`${folder}: ${fault}`));

/**
 * Saves step 2 repeatedly, each time with one more operation that works, until it succeeds. Returns the
 * number of failures.
 */
function saveUntilItWorks(afterFailure: (thrown: unknown) => Promise<void>): Promise<number> {
  return untilItWorks(() => saveCheckpoint(output, stateOf(2), trained), afterFailure);
}

describe("saving a checkpoint", () => {
  it("on a full disk is an error that says so, and leaves the one before and nothing else", async () => {
    disk.killed = false;
    await saveCheckpoint(output, stateOf(1), trained);
    const failures = await saveUntilItWorks(async (thrown) => {
      expect(thrown).toBeInstanceOf(UserError);
      expect(thrown).toMatchObject({
        message: expect.stringMatching(/ cannot be written: ENOSPC/),
        fix: "The disk is full: make room, or write to another one.",
      });
      expect(readdirSync(output).filter((name) => !name.startsWith("checkpoint-2"))).toEqual([
        "checkpoint-1-micro-1",
      ]);
      expect((await lastGood())?.state.step).toBeGreaterThanOrEqual(1);
    });
    expect(failures).toBeGreaterThan(40);
    expect(await lastGood()).toEqual({ folder: join(output, "checkpoint-2-micro-1"), state: stateOf(2) });
  });

  it.each([
    ["the first time", 1],
    ["in place of one with its name", 2],
  ])("%s, and killed at any operation, leaves the last one whole", async (_, earlierStep) => {
    disk.killed = true;
    await saveCheckpoint(output, stateOf(1), trained);
    if (earlierStep === 2) await saveCheckpoint(output, stateOf(2), trained);
    await saveUntilItWorks(async () => {
      await mendFolders(output);
      const last = await lastGood();
      expect(last?.state.step).toBeGreaterThanOrEqual(earlierStep);
      expect(readdirSync(output).filter((name) => name.startsWith("."))).toEqual([]);
      if (earlierStep === 1 && last?.state.step === 2) rmSync(last.folder, { recursive: true });
    });
    expect((await lastGood())?.state).toEqual(stateOf(2));
  });

  it("keeps moments and gradients to the bit", async () => {
    for (const [index, [, moment]] of momentTensors(optimizer).entries()) moment.fill_(index + 1 / 3);
    for (const { gradient } of optimizer.parameters) gradient.fill_(0.1);
    await saveCheckpoint(output, stateOf(3), trained);
    const values = () =>
      [
        ...momentTensors(optimizer).map(([, moment]) => moment),
        ...optimizer.parameters.map(({ gradient }) => gradient),
      ].map((tensor) => [...tensor.toFloat32Array()]);
    const before = values();
    for (const [, moment] of momentTensors(optimizer)) moment.zero_();
    for (const { gradient } of optimizer.parameters) gradient.zero_();
    restoreOptimizer((await lastGood())!, optimizer, expect.unreachable);
    expect(values()).toEqual(before);
    expect(optimizer.stepsDone).toBe(3);
  });
});
