/**
 * A card must never wait for work: the host reads a micro-batch's results after it has queued the next one,
 * and waits for nothing else. Here the CPU acts as a card. Each wait is one of four calls of the engine.
 */
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { disposeLora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { createAdamW, disposeAdamW, loraParameters, stepAdamW } from "../../src/step/optimizer/optimizer.ts";
import { clippedScale } from "../../src/step/optimizer/updateGate.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { queueStep, trainStep } from "../../src/step/step.ts";
import { pendingCopies } from "../../src/torch/copies.ts";
import { native } from "../../src/torch/native.ts";
import { dispose, scope } from "../../src/torch/tensor.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, resultOf, runWith } from "../faults/trainRun.ts";
import { randomBatch, randomLora, randomModel, runToEnd, smallConfig } from "../helpers/randomModel.ts";

const card = vi.hoisted(() => ({ isThere: false, onUpdate: () => {} }));
vi.mock("../../src/torch/device.ts", async (original) => ({
  ...(await original<typeof import("../../src/torch/device.ts")>()),
  computesBeside: (device: string) => card.isThere && device !== "meta",
}));
vi.mock("../../src/train/loop/update.ts", async (original) => {
  const own = await original<typeof import("../../src/train/loop/update.ts")>();
  const updateWithin: typeof own.updateWithin = (...inputs) => {
    own.updateWithin(...inputs);
    card.onUpdate();
  };
  return { ...own, updateWithin };
});

/**
 * Calls with which the host waits for a card: a copy to the host, a read of a tensor, or a wait for all
 * queued work.
 */
type Wait = "copy" | "read" | "all";

function watchWaits(onWait = (_: Wait): unknown => undefined): { seen: Wait[]; stop: () => void } {
  const seen: Wait[] = [];
  const spied = <Inputs extends unknown[], Result>(
    own: (...inputs: Inputs) => Result,
    wait: Wait,
    waits = (..._: Inputs): boolean => true,
  ): typeof own => {
    return (...inputs) => {
      if (waits(...inputs)) {
        seen.push(wait);
        onWait(wait);
      }
      return own(...inputs);
    };
  };
  const { toBytes, item, waitCopy, synchronize } = native;
  Object.assign(native, {
    toBytes: spied(toBytes, "read"),
    item: spied(item, "read"),
    synchronize: spied(synchronize, "all"),
    waitCopy: spied(waitCopy, "copy", (_, onHost) => onHost),
  });
  return { seen, stop: () => void Object.assign(native, { toBytes, item, waitCopy, synchronize }) };
}

const config = smallConfig({ hidden: 64, headDim: 16, ffn: 128, layers: 3 });
const batch = randomBatch(config, [
  { textTokens: 30, images: 1, labelTokens: 20 },
  { textTokens: 9, labelTokens: 3 },
]);
const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };

const POLICIES = {
  default: {},
  "boundaries on the host": { boundaryAhead: true, layers: [{ count: 1, boundary: "host" }] },
  "all on the host": {
    weights: { source: "streamed" },
    embeddings: "host",
    head: "host",
    vision: "host",
    optimizer: { place: "host", precision: "8bit" },
    gradients: "bf16",
  },
} as const;

it.each(
  Object.keys(POLICIES).flatMap((name) =>
    [undefined, "nf4", "int8", "fp8"].map((base) => [name, base] as const),
  ),
)(
  "a step and its update are queued without a wait, and read at once afterwards: %s, base %s",
  (name, base) => {
    const policy = Policy.parse(POLICIES[name as keyof typeof POLICIES]);
    const model = randomModel(config, {
      dtype: "bfloat16",
      base: base as "nf4" | undefined,
      places: placesOf(policy),
    });
    const lora = randomLora(config, { gradients: policy.gradients });
    const optimizer = createAdamW(loraParameters(lora), adam, policy.optimizer);
    card.isThere = true;
    const waits = watchWaits();
    const options = { lossScale: 1, dropoutSeed: 1n, normOf: optimizer.parameters };
    const queued = runToEnd(queueStep(model, lora, batch, policy, options));
    scope(() => stepAdamW(optimizer, 1e-3, clippedScale(queued.norm!, 1, 1)));
    expect(waits.seen).toEqual([]);
    const { loss, gradientNorm } = queued.read();
    expect(waits.seen).toEqual(["copy", "read"]); // and the read of what is on the host by then
    waits.stop();
    expect(loss).toBeGreaterThan(0);
    expect(gradientNorm).toBeGreaterThan(0);
    expect(pendingCopies()).toBe(0);
    dispose(queued.norm);
    disposeAdamW(optimizer);
    disposeLora(lora);
    disposeModel(model);
  },
);

describe("a run", async () => {
  const { folder, input } = await makeWorkplace();

  /**
   * Returns the order of events: a micro-batch or update is queued, the host waits, something is reported.
   */
  async function orderOf(options: object, { beside = true } = {}): Promise<string[]> {
    const order: string[] = [];
    card.isThere = beside;
    card.onUpdate = () => order.push("update");
    const waits = watchWaits((wait) => wait !== "read" && order.push(wait === "copy" ? "wait" : "save"));
    const onFact = (event: RunFact): void => {
      if (event.fact === "phase" && event.phase.phase === "backward" && event.phase.done === 2)
        order.push(`queued ${event.step}.${event.microBatch}`);
      if (event.fact === "microBatch") order.push(`told ${event.step}.${event.microBatch}`);
      if (event.fact === "step") order.push(`told ${event.record.step}`);
    };
    const outcome = await runWith({ ...input, ...options } as TrainInput, { onFact });
    waits.stop();
    expect(outcome).toMatchObject({ result: { ended: "finished" } });
    return order;
  }

  // biome-ignore format: a step a line
  const ORDERS = {
    1: ["queued 1.1", "update",
        "queued 2.1", "wait", "told 1.1", "told 1", "update",
        "queued 3.1", "wait", "told 2.1", "told 2", "update",
        "wait", "told 3.1", "told 3", "save", "save"],
    2: ["queued 1.1", "queued 1.2", "wait", "told 1.1", "update",
        "queued 2.1", "wait", "told 1.2", "told 1", "queued 2.2", "wait", "told 2.1", "update",
        "queued 3.1", "wait", "told 2.2", "told 2", "queued 3.2", "wait", "told 3.1", "update",
        "wait", "told 3.2", "told 3", "save", "save"],
  };

  it.each([1, 2] as const)(
    "waits for each micro-batch once, when the next one is queued, and for all before it saves; accumulation %i",
    async (gradient_accumulation) => {
      const options = { max_steps: 3, gradient_accumulation };
      const late = { ...options, output: join(folder, `late-${gradient_accumulation}`) };
      expect(await orderOf(late)).toEqual(ORDERS[gradient_accumulation]); // a checkpoint and the adapter

      const output = join(folder, `at-once-${gradient_accumulation}`);
      const atOnce = await orderOf({ ...options, output }, { beside: false });
      const inTurn = ORDERS[gradient_accumulation].filter(
        (what) => !what.startsWith("told") && !["wait", "save"].includes(what),
      );
      expect(atOnce.filter((what) => inTurn.includes(what))).toEqual(inTurn);
      expect(atOnce.slice(0, 2)).toEqual(["queued 1.1", "told 1.1"]);
      expect(resultOf(late.output)).toEqual(resultOf(output));
    },
  );

  it("in float16 knows whether the gradients overflow before the next micro-batch is queued", async () => {
    const options = { max_steps: 2, dtype: "fp16", output: join(folder, "half") };
    const step = (number: number): string[] => [
      `queued ${number}.1`,
      "wait",
      `told ${number}.1`,
      "update",
      `told ${number}`,
    ];
    expect(await orderOf(options)).toEqual([...step(1), ...step(2), "save", "save"]);
  });
});

it("boundaries go to the host and come back while layers compute, and none is under way at the end", () => {
  const policy = Policy.parse(POLICIES["boundaries on the host"]);
  const model = randomModel(config, { dtype: "float32", places: placesOf(policy) });
  const lora = randomLora(config);
  const pending: Record<string, number[]> = {};
  const step = trainStep(model, lora, batch, policy, { lossScale: 1 });
  for (let next = step.next(); !next.done; next = step.next()) {
    const { phase } = next.value;
    pending[phase] = [...(pending[phase] ?? []), pendingCopies()];
  }
  expect(pending.forward).toEqual(pending.forward!.map(() => 0)); // a layer's input is complete before attention is added to it
  expect(pending.backward).toEqual([1, 1, 1, 1, 1, 0, 0, 0]); // from the arrival of a layer's input until the next layer begins
  expect(pendingCopies()).toBe(0);
  disposeLora(lora);
  disposeModel(model);
});
