import { afterAll, describe, expect, test } from "vitest";
import { randomLora, randomModel, smallConfig } from "../../tests/helpers/randomModel.ts";
import { answered, engineOver, generated, randomPicture, requestOf } from "../../tests/helpers/serving.ts";
import { disposeLora } from "../models/lora.ts";
import { ON_DEVICE } from "../models/places.ts";
import { memoryStats } from "../torch/device.ts";
import { dispose } from "../torch/tensor.ts";

const config = smallConfig();
const model = randomModel(config, { dtype: "float32" });
const [lora, other] = [randomLora(config), randomLora(config, { seed: 9, rank: 2 })];
const loras = { lora, other };
afterAll(() => {
  disposeLora(lora);
  disposeLora(other);
  dispose(model);
});

const live = () => [memoryStats("cpu").liveBytes, memoryStats("cpu").liveCount];

describe("an answer", () => {
  test("is generate's own, whatever else is answered at the same time", async () => {
    const [picture, second] = await Promise.all([randomPicture(1), randomPicture(2)]);
    const requests = [
      requestOf(97, { tokens: 9 }),
      requestOf(97, { tokens: 7, images: [picture], seed: 2, model: "lora" }),
      requestOf(97, { tokens: 130, seed: 3, model: "lora", maxNewTokens: 30 }),
      requestOf(97, { tokens: 5, images: [picture, second], seed: 4, model: "other" }),
      requestOf(97, { tokens: 1, seed: 5, model: "other", maxNewTokens: 1 }),
      requestOf(97, { tokens: 5, images: [picture, second], seed: 4, model: "other" }),
      requestOf(97, { tokens: 20, images: [second], seed: 6 }),
      requestOf(97, { tokens: 300, seed: 3, model: "lora" }),
      requestOf(97, { tokens: 40, seed: 8, temperature: 1.5, topP: 0.9, drawSeed: 5 }),
    ];
    const before = live();
    const engine = engineOver({ model, loras });
    const answers = await Promise.all(requests.map((request) => answered(engine, request)));
    await engine.close();
    expect(live()).toEqual(before);
    for (const [index, request] of requests.entries()) {
      const lora = request.model === undefined ? undefined : loras[request.model as keyof typeof loras];
      expect(answers[index]!.ids, `request ${index}`).toEqual(await generated(model, lora, request));
    }
  });

  test("is the same where the weights are streamed", async () => {
    const places = {
      ...ON_DEVICE,
      layers: "host",
      vision: "host",
      head: "host",
      embeddings: "host",
    } as const;
    const streamed = randomModel(config, { dtype: "float32", places });
    const picture = await randomPicture(1);
    const requests = [
      requestOf(97, { tokens: 9 }),
      requestOf(97, { tokens: 7, images: [picture], model: "lora" }),
    ];
    const engine = engineOver({ model: streamed, loras });
    const answers = await Promise.all(requests.map((request) => answered(engine, request)));
    await engine.close();
    expect(answers.map(({ ids }) => ids)).toEqual([
      await generated(model, undefined, requests[0]!),
      await generated(model, lora, requests[1]!),
    ]);
    dispose(streamed);
  });
});
