import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { randomLora } from "../../tests/helpers/randomModel.ts";
import { answered, generated, randomPicture, requestOf } from "../../tests/helpers/serving.ts";
import { writeAdapter } from "../checkpoint/adapter/peft.ts";
import { IMAGE_PLACEHOLDER } from "../data/samples/sample.ts";
import { trainTokenizer } from "../data/text/tinyTokenizer.ts";
import { UserError } from "../errors.ts";
import { tokenizerOf } from "../models/families.ts";
import { adapterFromLora, disposeLora } from "../models/lora.ts";
import { loadModel, type Model } from "../models/weights.ts";
import { TINY, tinyConfig, writeTinyCheckpoint } from "../models/xcomposer2/tiny.ts";
import { liveTensors, memoryStats, resetPeak } from "../torch/device.ts";
import { dispose, scope } from "../torch/tensor.ts";
import { liftCaps } from "../train/machine/compute.ts";
import { openEngine } from "./openEngine.ts";
import type { EngineOptions } from "./types.ts";

const MIB = 2 ** 20;
const SMALL = { ...TINY, hidden: 128, heads: 4, layers: 3, ffn: 256, vocab: 256 };
const root = mkdtempSync(join(tmpdir(), "serving-"));
const folder = join(root, "model");
const adapter = join(root, "adapter");
const config = tinyConfig(SMALL);
const lora = randomLora(config, { rank: 8 });
let model: Model;

beforeAll(() => {
  writeTinyCheckpoint(folder, SMALL);
  scope(() => writeAdapter(adapter, adapterFromLora(lora, folder)));
  model = loadModel(folder, { dtype: "float32", device: "cpu" });
});
afterEach(() => liftCaps("cpu"));
afterAll(() => {
  disposeLora(lora);
  dispose(model);
  rmSync(root, { recursive: true });
});

const options: EngineOptions = { model: folder, device: "cpu", maxSequences: 6, maxTokens: 600 };

describe("under a memory limit", () => {
  test.each(["resident", "streamed"] as const)(
    "64 requests with %s weights never need more than the plan says, and nothing stays",
    async (weights) => {
      const images = await Promise.all([1, 2, 3].map((seed) => randomPicture(seed)));
      const before = [memoryStats("cpu").liveBytes, liveTensors()];
      const memory = (weights === "resident" ? 24 : 12) * MIB + before[0]!;
      const engine = await openEngine({ ...options, memory, weights, adapters: { lora: adapter } });
      const requests = Array.from({ length: 64 }, (_, index) =>
        requestOf(256, {
          tokens: 1 + ((index * 37) % 200),
          images: index % 3 === 0 ? [images[index % 9 === 0 ? 0 : (index / 3) % 3]!] : [],
          seed: index,
          model: index % 2 === 0 ? "lora" : "base",
          maxNewTokens: 1 + ((index * 13) % 40),
        }),
      );
      const { plannedPeakBytes } = engine.room();
      expect(plannedPeakBytes).toBeLessThanOrEqual(memory);
      resetPeak("cpu");
      const answers = await Promise.all(requests.map((request) => answered(engine, request)));
      expect(memoryStats("cpu").peakBytes - before[0]!).toBeLessThanOrEqual(plannedPeakBytes);
      for (const [index, { ids }] of answers.entries()) {
        const { model: name } = requests[index]!;
        if (index % 8 === 0)
          expect(ids).toEqual(await generated(model, name === "lora" ? lora : undefined, requests[index]!));
        expect(ids).toHaveLength(requests[index]!.maxNewTokens!);
      }
      await engine.close();
      expect([memoryStats("cpu").liveBytes, liveTensors()]).toEqual(before);
    },
  );

  test("a model that can't be served in it is refused with the memory that it needs", async () => {
    const opening = openEngine({ ...options, memory: 150_000 });
    await expect(opening).rejects.toThrow(UserError);
    await expect(opening).rejects.toThrow(/can't be served in .* it needs/);
  });
});

describe("the base", () => {
  test.each(["nf4", "int8", "fp8"] as const)("in %s gives generate's own answers", async (base) => {
    const quantised = loadModel(folder, { dtype: "float32", device: "cpu", base });
    const images = [await randomPicture(4)];
    const engine = await openEngine({ ...options, base, adapters: { lora: adapter } });
    const requests = [
      requestOf(256, { tokens: 20, model: "lora" }),
      requestOf(256, { tokens: 5, images, model: "lora" }),
      requestOf(256, { tokens: 5, images }),
    ];
    const answers = await Promise.all(requests.map((request) => answered(engine, request)));
    await engine.close();
    for (const [index, { ids }] of answers.entries()) {
      const adapted = requests[index]!.model ? lora : undefined;
      expect(ids).toEqual(await generated(quantised, adapted, requests[index]!));
    }
    dispose(quantised);
  });
});

describe("a dialogue", () => {
  const withText = join(root, "text");
  beforeAll(() => {
    const texts = ["user assistant the total of the receipt is 12.50 euro"];
    writeTinyCheckpoint(withText, { ...SMALL, vocab: 400 }, trainTokenizer(texts, { vocabSize: 400 }));
  });

  test("comes as pieces of text, and ends before a stop text that lies across tokens", async () => {
    const tokenizer = (await tokenizerOf(withText))!;
    const engine = await openEngine({ ...options, model: withText, dtype: "fp32" });
    const prompt = {
      turns: [{ role: "user" as const, text: `${IMAGE_PLACEHOLDER}What is the total?` }],
      images: [await randomPicture(5)],
    };
    const request = { prompt, limits: { hd_num: 1 }, maxNewTokens: 40, ignoreEos: true };
    const whole = await answered(engine, request);
    expect(whole.text).toBe(tokenizer.decode(whole.ids, { skipSpecial: true }));
    expect(whole.text.length).toBeGreaterThan(20);
    const stop = whole.text.slice(9, 14);
    const stopped = await answered(engine, { ...request, stop: ["not there at all", stop] });
    expect(stopped.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(stopped.last).toMatchObject({ kind: "end", finishReason: "stop" });
    const { refusal } = await engine.submit({ prompt: { ...prompt, images: [] } });
    expect(refusal?.error.message).toContain("has 0 pictures but 1 place for them");
    await engine.close();
  });
});
