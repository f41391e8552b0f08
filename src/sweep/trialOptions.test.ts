import { expect, it } from "vitest";
import { equalPlans } from "./planning/planTrials.ts";
import { optionsOf, reproduceLine } from "./trialOptions.ts";

const base = { model: "org/name", data: ["d.jsonl"], lora_r: 8, lora_alpha: "2x" };

it("a trial has the options of all and its own, with alpha as a number", () => {
  expect(optionsOf(base, { options: { lora_r: 16 } })).toEqual({ ...base, lora_r: 16, lora_alpha: 32 });
});

it("the line that trains a trial again writes lists, switches and policies as flags", () => {
  const options = { ...base, lora_alpha: 16, lora_targets: ["wqkv", "w(1|3)"], pack: true, shuffle: false };
  const line = reproduceLine({ ...options, policy: { headGroups: 2 } }, { bestStep: 50, totalSteps: 50 });
  expect(line).toContain(
    `train --model org/name --data d.jsonl --lora-r 8 --lora-alpha 16 --lora-targets wqkv 'w(1|3)' --pack --no-shuffle --policy '{"headGroups":2}' --output best-again`,
  );
});

it("and stops at the best evaluation, where it is not the last", () => {
  const at = { bestStep: 50, totalSteps: 200 };
  expect(reproduceLine({ lora_r: 8 }, at)).toContain("--eval-every 50 --stop-at-step 50");
  expect(reproduceLine({ lora_r: 8, eval_every: 25 }, at)).toContain("--eval-every 25 --stop-at-step 50");
});

it("trials that differ only in what needs no memory share a plan", () => {
  const trials = [
    { lora_r: 4, learning_rate: 1e-4, lora_alpha: 4 },
    { lora_r: 8, learning_rate: 1e-4, lora_alpha: 8 },
    { lora_alpha: 8, lora_r: 4, learning_rate: 1e-3 },
    { lora_r: 8, learning_rate: 1e-4, lora_alpha: 8, max_steps: 5 },
  ];
  expect(equalPlans(trials)).toEqual([[0, 2], [1], [3]]);
});
