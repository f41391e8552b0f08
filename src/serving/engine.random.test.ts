import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { randomLora, randomModel, smallConfig } from "../../tests/helpers/randomModel.ts";
import { engineOver, generated, randomPicture, requestOf } from "../../tests/helpers/serving.ts";
import { disposeLora } from "../models/lora.ts";
import { liveTensors, memoryStats } from "../torch/device.ts";
import { dispose } from "../torch/tensor.ts";
import type { Engine, ServeEvent, ServeRequest } from "./types.ts";

const config = smallConfig();
const model = randomModel(config, { dtype: "float32" });
const [lora, other] = [randomLora(config), randomLora(config, { seed: 9, rank: 2 })];
const loras = { lora, other };
const known: { request: ServeRequest; ids: number[] }[] = [];

beforeAll(async () => {
  const images = await Promise.all([1, 2].map((seed) => randomPicture(seed)));
  const requests = [
    requestOf(97, { tokens: 3, maxNewTokens: 25 }),
    requestOf(97, { tokens: 150, seed: 2, maxNewTokens: 5 }),
    requestOf(97, { tokens: 170, seed: 2, maxNewTokens: 5 }), // begins as the one before
    requestOf(97, { tokens: 6, seed: 3, model: "lora" }),
    requestOf(97, { tokens: 6, seed: 3, model: "other" }),
    requestOf(97, { tokens: 6, images: images.slice(0, 1), seed: 4, model: "lora" }),
    requestOf(97, { tokens: 9, images: images.slice(0, 1), seed: 5, model: "lora" }),
    requestOf(97, { tokens: 4, images, seed: 6, maxNewTokens: 3 }),
    requestOf(97, { tokens: 30, seed: 7, temperature: 1.3, topP: 0.9, drawSeed: 11, model: "other" }),
    requestOf(97, { tokens: 30, seed: 7, repetitionPenalty: 1.3 }),
  ];
  for (const request of requests) {
    const adapter = request.model ? loras[request.model as keyof typeof loras] : undefined;
    known.push({ request, ids: await generated(model, adapter, request) });
  }
});
afterAll(() => {
  disposeLora(lora);
  disposeLora(other);
  dispose(model);
});

interface Visit {
  kind: number;
  /** Turns of the event loop before it comes. */
  afterTurns: number;
  /** Pieces after which it goes away; undefined: it stays to the end. */
  leavesAfter: number | undefined;
  /** Whether it goes away by its signal, or by leaving the loop over events. */
  bySignal: boolean;
}

const visit = fc.record({
  kind: fc.integer({ min: 0, max: 9 }),
  afterTurns: fc.integer({ min: 0, max: 60 }),
  leavesAfter: fc.option(fc.integer({ min: 0, max: 4 }), { nil: undefined, freq: 3 }),
  bySignal: fc.boolean(),
});

async function play(engine: Engine, { kind, afterTurns, leavesAfter, bySignal }: Visit): Promise<void> {
  for (let turn = 0; turn < afterTurns; turn++) await setImmediate();
  const abort = new AbortController();
  const { request, ids: expected } = known[kind]!;
  const { accepted, refusal } = await engine.submit(request, abort.signal);
  if (refusal) throw refusal.error;
  const ids: number[] = [];
  let last: ServeEvent | undefined;
  if (leavesAfter === 0 && bySignal) abort.abort();
  for await (const event of accepted.events) {
    last = event;
    if (event.kind === "piece") ids.push(...event.ids);
    if (leavesAfter === undefined || ids.length < leavesAfter) continue;
    if (!bySignal) break;
    abort.abort();
  }
  if (last?.kind === "failed") throw last.error;
  expect(ids).toEqual(expected.slice(0, ids.length));
  if (leavesAfter !== undefined) return;
  expect(ids).toEqual(expected);
  expect(last).toMatchObject({ kind: "end", finishReason: "length" });
  expect(last).toMatchObject({ usage: { completionTokens: expected.length } });
}

test("answers are generate's own however requests come and go, and everything is given back", async () => {
  const shapes = fc.record({
    maxSequences: fc.integer({ min: 1, max: 6 }),
    kvTokens: fc.integer({ min: 800, max: 2500 }),
    chunkTokens: fc.constantFrom(1, 7, 64, 1000),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(visit, { minLength: 1, maxLength: 14 }), shapes, async (visits, sizes) => {
      const before = [memoryStats("cpu").liveBytes, liveTensors()];
      const { chunkTokens, ...shape } = sizes;
      const engine = engineOver({ model, loras, shape: { ...shape, maxTokens: 700 }, way: { chunkTokens } });
      try {
        await Promise.all(visits.map((each) => play(engine, each)));
        await engine.close({ finish: true });
        const { reservedTokens, running, waiting } = engine.room();
        expect({ reservedTokens, running, waiting }).toEqual({ reservedTokens: 0, running: 0, waiting: 0 });
      } finally {
        await engine.close();
      }
      expect([memoryStats("cpu").liveBytes, liveTensors()]).toEqual(before);
    }),
    { numRuns: 25 },
  );
});
