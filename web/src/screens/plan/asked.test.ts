import { expect, it } from "vitest";
import type { PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";
import { askedFrom, nearestStep, optionsOf, queryOf, STEPS } from "./asked.ts";

const CHOICES: PlanChoices = {
  ...{ cards: [], bases: [], models: ["4khd-7b"], here: { device: "cpu" } },
  defaults: { maxLength: 4096, rank: 16, accumulation: 8 },
  limits: ["hd_num", "max_pixels"],
  pictures: { option: "hd_num", unit: "tiles", default: 16, steps: [4, 16], usual: [4] },
  maxLengths: [],
};

it("an address keeps all that is asked for", () => {
  const asked = askedFrom(
    new URLSearchParams("device=cpu&maxLength=777&base=nf4&memory=8GiB&hd_num=9&cards=4"),
    CHOICES,
  );
  expect(asked).toMatchObject({ device: "cpu", maxLength: 777, base: "nf4", memory: "8GiB", cards: 4 });
  expect(asked.limits).toEqual({ hd_num: 9 });
  const { max_pixels, ...query } = queryOf(asked, CHOICES);
  expect(max_pixels).toBeUndefined();
  expect(askedFrom(new URLSearchParams(query as Record<string, string>), CHOICES)).toEqual(asked);
});

it("nonsense in an address becomes the default", () => {
  expect(
    askedFrom(new URLSearchParams("rank=-3&hd_num=many&max_pixels=-1&batchSize=1.5"), CHOICES),
  ).toMatchObject({
    ...{ rank: 16, limits: {}, batchSize: 1 },
  });
});

it("options name the card, its memory, or the CPU", () => {
  const asked = askedFrom(new URLSearchParams(), CHOICES);
  expect(optionsOf(asked)).toMatchObject({ gpu: "rtx-4090", max_length: 4096, lora_r: 16 });
  expect(optionsOf({ ...asked, device: "memory", memory: " 12GiB " })).toMatchObject({ memory: "12GiB" });
  expect(optionsOf({ ...asked, device: "memory" })).toMatchObject({ memory: "24GiB" });
  expect(optionsOf({ ...asked, device: "cpu" })).toMatchObject({ device: "cpu" });
  expect(Object.keys(optionsOf(asked))).not.toContain("base");
  expect(Object.keys(optionsOf(asked))).not.toContain("gpus");
  expect(optionsOf({ ...asked, cards: 4 })).toMatchObject({ gpu: "rtx-4090", gpus: 4 });
  expect(Object.keys(optionsOf({ ...asked, device: "cpu", cards: 4 }))).not.toContain("gpus");
  expect(optionsOf({ ...asked, limits: { max_pixels: 200_704 } })).toMatchObject({ max_pixels: 200_704 });
});

it("a slider stands at the step nearest to a typed value", () => {
  for (const [place, step] of STEPS.rank.entries()) expect(nearestStep(STEPS.rank, step)).toBe(place);
  expect(STEPS.maxLength[nearestStep(STEPS.maxLength, 5_000)]).toBe(4_096);
});
