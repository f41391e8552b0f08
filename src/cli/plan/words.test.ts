import { describe, expect, it } from "vitest";
import { PRESETS } from "../../models/xcomposer2/spec.ts";
import type { SizedWorkload } from "../../plan/planner.ts";
import { listDevices } from "../../plan/time/cards.ts";
import { alphaLever, cautions, gib, signed, withArticle } from "./words.ts";

const config = PRESETS["4khd-7b"];
const asked = {
  model: {
    config,
    base: "bf16",
    visionBase: "bf16",
    trained: { maxLength: 32_768, pictureLimit: 55 },
  } as const,
};
const workload: SizedWorkload = {
  ...{ rank: 64, dropout: 0.05, targets: "", maxLength: 4096, pictureLimit: 16, imageShare: undefined },
  ...{ batchSize: 1, accumulation: 8 },
};

describe("words of a plan", () => {
  it("say that alpha follows the rank", () => {
    expect(alphaLever({ rank: 64 })).toMatch(/costs no memory.* 64 here/);
  });

  it("keep columns at one width, from kilobytes to petabytes", () => {
    const amounts = [2 ** 10, 2 ** 20, 9e7, 2 ** 30, 9e11, 1.2e12, 9e13];
    expect(new Set(amounts.map((bytes) => gib(bytes).length))).toEqual(new Set([10]));
    expect(gib(2 ** 25)).toBe("  32.0 MiB");
    expect(signed(-0.83 * 2 ** 30)).toBe("-0.83 GiB");
    expect(signed(45 * 2 ** 20)).toBe("+45.0 MiB");
  });

  it("put the article before a card's name as it is said", () => {
    const spoken = (title: string): string => withArticle(title).split(" ")[0]!;
    expect(["A30", "A100-SXM4-80GB", "L40S", "H100 PCIe", "RTX A6000"].map(spoken)).toEqual(
      Array(5).fill("an"),
    );
    expect(
      ["Tesla T4", "GeForce RTX 3080", "TITAN RTX", "GH200 480GB", "B200", "Quadro RTX 8000"].map(spoken),
    ).toEqual(Array(6).fill("a"));
    expect(listDevices().every(({ title }) => withArticle(title).endsWith(` ${title}`))).toBe(true);
  });

  it("warn of sizes that fit and are of no use, each in a line, and of no other", () => {
    const words = (given: Partial<SizedWorkload>): string[] => cautions(asked, { ...workload, ...given });
    expect(words({})).toEqual([]);
    expect(words({ rank: 256, pictureLimit: 55, maxLength: 32768, batchSize: 32 })).toEqual([]);
    expect(words({ rank: 1677 })).toEqual([expect.stringMatching(/lora_r 1,677 .* 256/)]);
    expect(words({ pictureLimit: 3288 })).toEqual([expect.stringMatching(/hd_num 3,288 .* 55/)]);
    expect(words({ maxLength: 495_965 })).toEqual([expect.stringMatching(/max_length 495,965 .* 32,768/)]);
    expect(words({ batchSize: 125 })).toEqual([
      expect.stringMatching(/1,000 samples at once \(125 x 8 micro-batches\)/),
    ]);
  });
});
