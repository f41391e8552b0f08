import { describe, expect, it } from "vitest";
import { scaleCaution, warmupCaution } from "./cautions.ts";
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

  it("that a low rank makes large is told, with the official one and what to set", () => {
    expect(cautionOf(8, 64)).toBe(
      "lora_alpha 64 at lora_r 8 scales what is learned by 8 (lora_alpha / lora_r); the official recipe has 64 / 64 = 1, and 0.25 to 2 is usual. For the official scale: --lora-alpha 8.",
    );
  });

  it("that a high rank makes small is told", () => {
    expect(cautionOf(512, 64)).toMatch(/scales what is learned by 0\.125 .* --lora-alpha 512\.$/);
  });

  it("by the root of the rank is told as such, with an alpha that gives the official scale", () => {
    const [, alpha] = /sqrt\(lora_r\).*--lora-alpha (\S+)\.$/.exec(cautionOf(64, 64, true)!)!;
    expect(cautionOf(64, Number(alpha), true)).toBeUndefined();
    expect(Number(alpha)).toBe(8);
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
    expect(cautionOf(1, 1)).toMatch(/only step .* learning rate is 0: nothing will be learned/);
  });

  it("that is as long as the run is told with the rate that is reached", () => {
    expect(cautionOf(10, 10)).toMatch(/takes 10 steps and the run 10: .* comes to 0\.000045 at most/);
  });
});
