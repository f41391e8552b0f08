import { describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { ALL_LINEARS } from "../../models/facts.ts";
import { linearNames, PRESETS } from "../../models/families.ts";
import { type TrainInput, trainOptions } from "./options.ts";

const given = { model: "4khd", data: "data.txt" };

/** InternLM-XComposer's finetune.py and finetune_lora.sh. */
const OFFICIAL = {
  ...{ lora_r: 64, lora_alpha: 64, lora_dropout: 0.05, learning_rate: 5e-5, lr_schedule: "cosine" },
  ...{ weight_decay: 0.1, adam_beta1: 0.9, adam_beta2: 0.95, adam_epsilon: 1e-8, max_grad_norm: 1 },
  ...{ warmup_ratio: 0.01, gradient_accumulation: 8, batch_size: 1, epochs: 1, max_length: 4096 },
  lora_targets: trainOptions({
    ...given,
    lora_targets: [...ALL_LINEARS], // the official ones are all linears of the decoder
  }).lora_targets,
};

describe("recipes", () => {
  it("official: every value of the official scripts", () => {
    expect(trainOptions({ ...given, recipe: "official" })).toMatchObject(OFFICIAL);
  });

  it("lorafit: the same, except rank, alpha and learning rate", () => {
    const differing = { lora_r: 16, lora_alpha: 16, learning_rate: 1e-4 };
    expect(trainOptions(given)).toMatchObject({ ...OFFICIAL, ...differing });
  });

  it("give way to single options, and alpha follows the rank until it is given", () => {
    expect(trainOptions({ ...given, recipe: "official", lora_r: 8 })).toMatchObject({
      ...{ lora_r: 8, lora_alpha: 8, learning_rate: 5e-5 },
    });
    expect(trainOptions({ ...given, lora_r: 32, lora_alpha: 64 })).toMatchObject({ lora_alpha: 64 });
    expect(trainOptions({ ...given, lora_r: 64, lora_rslora: true })).toMatchObject({ lora_alpha: 8 });
    expect(trainOptions({ ...given, learning_rate: 0 })).toMatchObject({ learning_rate: 0 });
  });
});

it("gives options that are a valid input and say the same", () => {
  const input: TrainInput = {
    ...given,
    memory: "2GiB",
    lora_targets: ["attention.wo"],
    device: "cuda",
    max_steps: 3,
  };
  const options = trainOptions(input);
  expect(trainOptions(options)).toEqual(options);
});

describe("options that state the same thing", () => {
  it.each<TrainInput>([
    { ...given, epochs: 1, max_steps: 10 },
    { ...given, warmup_steps: 1, warmup_ratio: 0.1 },
    { ...given, policy: "policy.json", mlp_tile: 256 },
    { ...given, eval_data: "eval.json", val_size: 0.1 },
  ])("are refused together: %o", (input) => {
    expect(() => trainOptions(input)).toThrow(/cannot be given together/);
  });

  it("leave one behind, whichever is given", () => {
    expect(trainOptions({ ...given, max_steps: 3 })).not.toHaveProperty("epochs");
    expect(trainOptions({ ...given, warmup_steps: 0 })).not.toHaveProperty("warmup_ratio");
  });
});

describe("the metric of the best adapter", () => {
  it("is the loss unless another is given", () => {
    expect(trainOptions(given)).toMatchObject({ metric: "loss" });
  });

  it("needs something to evaluate on", () => {
    expect(() => trainOptions({ ...given, metric: "cer" })).toThrow("metric needs eval_data or val_size.");
    expect(trainOptions({ ...given, metric: "cer", val_size: 2 })).toMatchObject({ metric: "cer" });
    expect(() => trainOptions({ ...given, metric: "bleu" as "cer", val_size: 2 })).toThrow(
      'metric takes loss, exact_match, anls, cer, wer or field_f1 (got "bleu").',
    );
  });
});

describe("the end of a run that does not improve", () => {
  const evaluated = { ...given, val_size: 2, eval_every: 5 };

  it.each<[Partial<TrainInput>, object | undefined]>([
    [{}, undefined],
    [{ early_stop: 0 }, undefined],
    [{ early_stop: 3 }, { patience: 3, min_delta: 0 }],
    [
      { early_stop: 3, early_stop_min_delta: 0.1 },
      { patience: 3, min_delta: 0.1 },
    ],
    [{ early_stop: { patience: 3 } }, { patience: 3, min_delta: 0 }],
    [{ early_stop: { patience: 3, min_delta: 0.2 } }, { patience: 3, min_delta: 0.2 }],
    [
      { early_stop: { patience: 3, min_delta: 0.2 }, early_stop_min_delta: 0.1 },
      { patience: 3, min_delta: 0.1 },
    ],
  ])("has one form: %o", (input, expected) => {
    const options = trainOptions({ ...evaluated, ...input } as TrainInput);
    expect(options.early_stop).toEqual(expected);
    expect(options).not.toHaveProperty("early_stop_min_delta");
    expect(trainOptions(options as TrainInput)).toEqual(options);
  });

  it.each<[Partial<TrainInput>, string]>([
    [{ early_stop: 3, eval_every: 5 }, "early_stop needs eval_data or val_size."],
    [{ early_stop: 3, val_size: 2 }, "early_stop needs eval_every."],
    [{ early_stop_min_delta: 1 }, "early_stop_min_delta needs early_stop."],
    [
      { ...evaluated, early_stop: -1 },
      "early_stop takes a number of evaluations, or {patience: N, min_delta: X} (got -1).",
    ],
  ])("is refused where it means nothing: %o", (input, message) => {
    expect(() => trainOptions({ ...given, ...input } as TrainInput)).toThrow(message);
  });
});

it("refuses an hd_num below 1 with the reason", () => {
  try {
    trainOptions({ ...given, hd_num: -1 });
    expect.unreachable();
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(UserError);
    expect((thrown as UserError).message).toBe("hd_num takes a whole number, 1 or more (got -1).");
    expect((thrown as UserError).fix).toMatch(/official script's default of -1/);
  }
});

describe("targets", () => {
  const matches = (targets: TrainInput["lora_targets"], module: string): boolean =>
    new RegExp(trainOptions({ ...given, lora_targets: targets }).lora_targets).test(module);

  it("are the linears of every family", () => {
    const ofFamilies = Object.values(PRESETS).flatMap(linearNames);
    expect([...ALL_LINEARS].sort()).toEqual([...new Set(ofFamilies)].sort());
  });

  it.each(ALL_LINEARS)("are all linears: %s", (name) => {
    expect(matches(undefined, `layers.3.${name}`)).toBe(true);
  });

  it("are named whole", () => {
    expect(matches(["wo"], "layers.0.attention.wo")).toBe(true);
    expect(matches(["o"], "layers.0.attention.wo")).toBe(false);
    expect(matches(["attention.wo"], "layers.0.attentionxwo")).toBe(false);
  });

  it("may be a regular expression", () => {
    expect(matches("layers\\.[01]\\.", "layers.1.attention.wo")).toBe(true);
    expect(matches("layers\\.[01]\\.", "layers.2.attention.wo")).toBe(false);
    expect(() => trainOptions({ ...given, lora_targets: "(" })).toThrow(/lora_targets takes/);
  });

  it("may be regular expressions in a list, as flags give them, beside names", () => {
    const both = ["^layers\\.[01]\\.", "feed_forward.w2"];
    expect(matches(both, "layers.1.attention.wo")).toBe(true);
    expect(matches(both, "layers.2.attention.wo")).toBe(false);
    expect(matches(both, "layers.2.feed_forward.w2")).toBe(true);
    expect(() => trainOptions({ ...given, lora_targets: ["("] })).toThrow(/lora_targets takes/);
    expect(() => trainOptions({ ...given, lora_targets: "(?!wo)w" })).toThrow(/lora_targets takes/);
  });
});

it("takes the folder to resume as the output", () => {
  expect(trainOptions({ ...given, resume: "runs/7" })).toMatchObject({ resume: true, output: "runs/7" });
  expect(trainOptions({ ...given, resume: true, output: "o" })).toMatchObject({ resume: true, output: "o" });
});

it("takes a share or a number of samples to set aside", () => {
  expect(trainOptions({ ...given, val_size: 0.05 })).toMatchObject({ val_size: 0.05 });
  expect(trainOptions({ ...given, val_size: 100 })).toMatchObject({ val_size: 100 });
  for (const val_size of [0, -0.1, 1.5])
    expect(() => trainOptions({ ...given, val_size })).toThrow(/val_size takes a share below 1, or a whole/);
});

it("reads devices and amounts of memory", () => {
  expect(trainOptions({ ...given, device: "cuda", memory: "300MiB" })).toMatchObject({
    device: "cuda:0",
    memory: 300 * 2 ** 20,
  });
  expect(() => trainOptions({ ...given, device: "gpu" as string })).toThrow(
    "device takes cpu, cuda or cuda:N",
  );
});
