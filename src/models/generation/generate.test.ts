import { afterAll, describe, expect, test } from "vitest";
import { randomBatch, randomLora, randomModel, smallConfig } from "../../../tests/helpers/randomModel.ts";
import { UserError } from "../../errors.ts";
import { getThreads, memoryStats, resetPeak, setThreads } from "../../torch/device.ts";
import { dispose } from "../../torch/tensor.ts";
import { disposeLora } from "../lora.ts";
import { ON_DEVICE } from "../places.ts";
import { type GenerateOptions, generate, generateOnMeta, generateSteps, type Prompt } from "./generate.ts";
import { CACHE_GROWTH_TOKENS } from "./kvCache.ts";
import { GREEDY } from "./sampling.ts";

const config = smallConfig();
const model = randomModel(config, { dtype: "float32" });
const lora = randomLora(config);
afterAll(() => {
  disposeLora(lora);
  dispose(model);
});

const withPicture: Prompt = randomBatch(config, [{ textTokens: 7, images: 1 }], 2);
const textOnly: Prompt = randomBatch(config, [{ textTokens: 9 }]);
const options: GenerateOptions = { sampling: GREEDY, maxNewTokens: 12, stopIds: [] };

describe("the answer", () => {
  test.each([
    { name: "text", prompt: textOnly, adapter: undefined },
    { name: "text, with an adapter", prompt: textOnly, adapter: lora },
    { name: "a picture and text, with an adapter", prompt: withPicture, adapter: lora },
  ])(
    "to $name is the one that every token's own prompt would give, also when the cache grows",
    async ({ prompt, adapter }) => {
      const maxNewTokens = CACHE_GROWTH_TOKENS + 4;
      const { ids } = await generate(model, adapter, prompt, { ...options, maxNewTokens });
      expect(ids).toHaveLength(maxNewTokens);
      expect(new Set(ids).size).toBeGreaterThan(1);
      for (const known of [0, 1, 2, 40, CACHE_GROWTH_TOKENS, CACHE_GROWTH_TOKENS + 1, maxNewTokens - 1]) {
        const inputIds = Int32Array.of(...prompt.inputIds, ...ids.slice(0, known));
        const next = await generate(model, adapter, { ...prompt, inputIds }, { ...options, maxNewTokens: 1 });
        expect(next.ids).toEqual([ids[known]]);
      }
    },
  );

  test.each([textOnly, withPicture])("is the same where PLoRA is folded into the weights", async (prompt) => {
    const folded = randomModel(config, { dtype: "float32", folded: true });
    const longer = { ...options, maxNewTokens: 40 };
    const { ids } = await generate(model, lora, prompt, longer);
    expect((await generate(folded, lora, prompt, longer)).ids).toEqual(ids);
    dispose(folded);
  });

  test("depends on the picture and on the adapter", async () => {
    const [plain, adapted] = await Promise.all([
      generate(model, undefined, withPicture, options),
      generate(model, lora, withPicture, options),
    ]);
    const other = { ...withPicture, images: randomBatch(config, [{ textTokens: 1, images: 1 }], 8).images };
    const otherPicture = await generate(model, undefined, other, options);
    expect(adapted.ids).not.toEqual(plain.ids);
    expect(otherPicture.ids).not.toEqual(plain.ids);
  });

  test("ends before a stop id, after maxNewTokens, or at the model's last position", async () => {
    const { ids, finish } = await generate(model, lora, textOnly, options);
    expect([ids.length, finish]).toEqual([12, "length"]);
    const stopId = ids[5]!;
    expect(await generate(model, lora, textOnly, { ...options, stopIds: [stopId] })).toEqual({
      ids: ids.slice(0, ids.indexOf(stopId)),
      finish: "stop",
    });
    const short = { ...model, config: { ...config, maxPositions: textOnly.inputIds.length + 2 } };
    expect(await generate(short, lora, textOnly, options)).toEqual({
      ids: ids.slice(0, 2),
      finish: "length",
    });
  });

  test("repeats with its seed and changes with it", async () => {
    const sampled = (seed: number) =>
      generate(model, lora, textOnly, {
        ...options,
        sampling: { ...GREEDY, temperature: 2, topP: 0.95, seed },
      });
    expect(await sampled(1)).toEqual(await sampled(1));
    expect(await sampled(1)).not.toEqual(await sampled(2));
  });

  test("is made in bfloat16 too", async () => {
    const half = randomModel(config, { dtype: "bfloat16" });
    const { ids } = await generate(half, lora, withPicture, options);
    expect(ids).toHaveLength(12);
    expect(ids.every((id) => id >= 0 && id < config.vocab)).toBe(true);
    dispose(half);
  });

  test("to a prompt that is empty or leaves no position is refused", async () => {
    const short = { ...model, config: { ...config, maxPositions: textOnly.inputIds.length } };
    await expect(generate(short, lora, textOnly, options)).rejects.toThrow(UserError);
    await expect(generate(model, lora, { ...textOnly, inputIds: new Int32Array() }, options)).rejects.toThrow(
      UserError,
    );
  });
});

describe("the event loop", () => {
  test("has its turn between tokens, and onToken is waited for", async () => {
    const events: string[] = [];
    await generate(model, lora, textOnly, {
      ...options,
      maxNewTokens: 3,
      onToken: async () => {
        events.push("token");
        setImmediate(() => events.push("loop"));
        await new Promise((resolve) => setImmediate(() => setImmediate(resolve))); // a timer may be due before the loop's turn
        events.push("shown");
      },
    });
    expect(events).toEqual(Array(3).fill(["token", "loop", "shown"]).flat());
  });

  test("has its turn between layers and batches of tiles of the prompt", () => {
    const steps = [
      ...generateSteps(model, lora, withPicture, { ...options, maxNewTokens: 1, visionBatch: 1 }),
    ];
    expect(steps.map(({ phase }) => phase)).toEqual(["picture", "picture", "prompt", "prompt", "answer"]);
  });

  test("can end the answer, and the ids so far are returned", async () => {
    const abort = new AbortController();
    const { ids } = await generate(model, lora, textOnly, options);
    let tokens = 0;
    const onToken = () => ++tokens === 3 && abort.abort();
    const stopped = await generate(model, lora, textOnly, { ...options, signal: abort.signal, onToken });
    expect(stopped).toEqual({ ids: ids.slice(0, 3), finish: "aborted" });
    expect(await generate(model, lora, textOnly, { ...options, signal: AbortSignal.abort() })).toEqual({
      ids: [],
      finish: "aborted",
    });
  });
});

describe("memory", () => {
  test("is all given back at the end, after an abort, and when onToken throws", async () => {
    const before = memoryStats("cpu");
    const live = () => [memoryStats("cpu").liveBytes, memoryStats("cpu").liveCount];
    await generate(model, lora, withPicture, options);
    expect(live()).toEqual([before.liveBytes, before.liveCount]);
    await generate(model, lora, withPicture, { ...options, signal: AbortSignal.abort() });
    expect(live()).toEqual([before.liveBytes, before.liveCount]);
    const onToken = () => {
      throw new Error("gone");
    };
    await expect(generate(model, lora, withPicture, { ...options, onToken })).rejects.toThrow("gone");
    expect(live()).toEqual([before.liveBytes, before.liveCount]);
  });

  interface Case {
    dtype: "float32" | "bfloat16";
    textTokens: number;
    images: number;
    maxNewTokens: number;
    folded?: boolean;
  }

  test.each(
    (["float32", "bfloat16"] as const).flatMap((dtype): Case[] => [
      { dtype, textTokens: 9, images: 0, maxNewTokens: 1 },
      { dtype, textTokens: 700, images: 0, maxNewTokens: 40 },
      { dtype, textTokens: 20, images: 0, maxNewTokens: 2 * CACHE_GROWTH_TOKENS + 3 },
      { dtype, textTokens: 30, images: 2, maxNewTokens: CACHE_GROWTH_TOKENS + 1 },
      { dtype, textTokens: 30, images: 2, maxNewTokens: 3, folded: true },
    ]),
  )("is as on meta: $dtype, $textTokens tokens, $images pictures, $maxNewTokens more", async (given) => {
    const { dtype, textTokens, images, maxNewTokens, folded = false } = given;
    const places = { ...ON_DEVICE, layers: folded ? "device" : "host", vision: "host" } as const;
    const asked = randomBatch(config, [{ textTokens, images }]);
    const threads = getThreads();
    setThreads(1);
    const peaks = [];
    for (const device of ["cpu", "meta"] as const) {
      const loaded = randomModel(config, { dtype, device, places, folded });
      const adapter = randomLora(config, { device });
      resetPeak(device);
      const before = memoryStats(device).liveBytes;
      if (device === "meta") generateOnMeta(loaded, adapter, asked, { maxNewTokens });
      else await generate(loaded, adapter, asked, { ...options, maxNewTokens });
      peaks.push(memoryStats(device).peakBytes - before);
      disposeLora(adapter);
      dispose(loaded);
    }
    setThreads(threads);
    expect(peaks[1]).toBe(peaks[0]);
  });
});
