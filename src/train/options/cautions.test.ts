import { describe, expect, it } from "vitest";
import { scaleCaution, warmupCaution } from "./cautions.ts";
import { trainOptions } from "./options.ts";
import type { Schedule } from "./schedule.ts";

describe("a scale of LoRA", () => {
  const cautionOf = (lora_r: number, lora_alpha: number, lora_rslora = false): string | undefined =>
    scaleCaution({ lora_r, lora_alpha, lora_rslora });

  it.each([
    ["the official recipe's", 64, 64],
    ["twice the rank", 32, 64],
    ["QLoRA's", 64, 16],
  ])("that is usual is passed over: %s", (_, rank, alpha) => {
    expect(cautionOf(rank, alpha)).toBeUndefined();
  });

  it("that is far from usual is warned about, with the scale and a way to 1", () => {
    expect(cautionOf(8, 64)).toMatch(/lora_alpha 64 at lora_r 8 .* by 8 .*--lora-alpha 8,/);
    expect(cautionOf(512, 64)).toMatch(/ by 0\.125 .*--lora-alpha 512,/);
  });

  it("by the root of the rank is warned about with an alpha that makes it 1", () => {
    const [, alpha] = /sqrt\(lora_r\).*--lora-alpha (\S+),/.exec(cautionOf(64, 64, true)!)!;
    expect(cautionOf(64, Number(alpha), true)).toBeUndefined();
    expect(Number(alpha)).toBe(8);
  });

  it.each([
    [16, false],
    [16, true],
    [512, true],
    [1, false],
  ])("that nobody has chosen is never warned about: rank %i, rsLoRA %s", (lora_r, lora_rslora) => {
    const options = trainOptions({ model: "m", data: "d", lora_r, lora_rslora });
    expect(scaleCaution(options)).toBeUndefined();
  });
});

describe("a warm-up", () => {
  const cautionOf = (warmupSteps: number, totalSteps: number): string | undefined =>
    warmupCaution({ name: "cosine", peakRate: 5e-5, warmupSteps, totalSteps } satisfies Schedule);

  it("that ends before the run is passed over", () => {
    expect(cautionOf(0, 1)).toBeUndefined();
    expect(cautionOf(1, 2)).toBeUndefined();
  });

  it("whose first step is the whole run is told, for that learns nothing", () => {
    expect(cautionOf(1, 1)).toMatch(/learning rate is 0: nothing will be learned.*--warmup-steps 0/);
  });

  it("that is as long as the run is told with the rate that is reached", () => {
    expect(cautionOf(10, 10)).toMatch(/10 steps and the run 10: .* 0\.000045 at most.*--warmup-steps 0/);
  });
});
