import { expect, it } from "vitest";
import type { PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";
import { askedFrom, nearestStep, optionsOf, queryOf, STEPS } from "./asked.ts";

const CHOICES: PlanChoices = {
  ...{ cards: [], bases: [], models: ["4khd-7b"], here: { device: "cpu" } },
  defaults: { hdNum: 16, maxLength: 4096, rank: 16, accumulation: 8 },
  sizes: { hdNums: [], maxLengths: [] },
};

it("an address keeps all that is asked for", () => {
  const asked = askedFrom(new URLSearchParams("device=cpu&maxLength=777&base=nf4&memory=8GiB"), CHOICES);
  expect(asked).toMatchObject({ device: "cpu", maxLength: 777, hdNum: 16, base: "nf4", memory: "8GiB" });
  expect(askedFrom(new URLSearchParams(queryOf(asked)), CHOICES)).toEqual(asked);
});

it("nonsense in an address becomes the default", () => {
  expect(askedFrom(new URLSearchParams("rank=-3&hdNum=many&batchSize=1.5"), CHOICES)).toMatchObject({
    ...{ rank: 16, hdNum: 16, batchSize: 1 },
  });
});

it("options name the card, its memory, or the CPU", () => {
  const asked = askedFrom(new URLSearchParams(), CHOICES);
  expect(optionsOf(asked)).toMatchObject({ gpu: "rtx-4090", max_length: 4096, lora_r: 16 });
  expect(optionsOf({ ...asked, device: "memory", memory: " 12GiB " })).toMatchObject({ memory: "12GiB" });
  expect(optionsOf({ ...asked, device: "memory" })).toMatchObject({ memory: "24GiB" });
  expect(optionsOf({ ...asked, device: "cpu" })).toMatchObject({ device: "cpu" });
  expect(Object.keys(optionsOf(asked))).not.toContain("base");
});

it("a slider stands at the step nearest to a typed value", () => {
  for (const [place, step] of STEPS.hdNum.entries()) expect(nearestStep(STEPS.hdNum, step)).toBe(place);
  expect(STEPS.maxLength[nearestStep(STEPS.maxLength, 5_000)]).toBe(4_096);
});
