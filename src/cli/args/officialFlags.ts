/** Flags of the official finetune_lora.sh that lorafit has no option for, so that its command line works as it stands. */
import { UserError } from "../../errors.ts";
import type { OptionSpec } from "../../options.ts";

interface OfficialFlag {
  /** Why it has no effect, or why only one value is possible. */
  why: string;
  /** The one value that lorafit can honour. */
  only?: string;
}

// biome-ignore format: columns line up
export const OFFICIAL_FLAGS: Record<string, OfficialFlag> = {
  bf16:                        { why: "it is said by --dtype" },
  fp16:                        { why: "it is said by --dtype" },
  use_lora:                    { why: "lorafit trains LoRA factors", only: "true" },
  fix_vit:                     { why: "the vision tower stays frozen", only: "true" },
  fix_sampler:                 { why: "the projector stays frozen", only: "true" },
  lora_bias:                   { why: "biases stay frozen", only: "none" },
  img_size:                    { why: "4KHD takes pictures of any size" },
  gradient_checkpointing:      { why: "the policy says what is kept and what is recomputed" },
  deepspeed:                   { why: "the policy says what lies where" },
  per_device_eval_batch_size:  { why: "evaluation takes sample by sample" },
  evaluation_strategy:         { why: "--eval-every says when" },
  save_strategy:               { why: "--save-every says when" },
  logging_steps:               { why: "every step is recorded" },
  report_to:                   { why: "a run's records are in its output folder" },
};

/** For readFlags, which then lets them pass. */
export const OFFICIAL_SPECS: OptionSpec[] = Object.keys(OFFICIAL_FLAGS).map((key) => ({
  ...{ key, flag: `--${key}`, kind: "either", numeric: false, many: false, required: false },
  ...{ default: undefined, takes: "a text", help: "", group: "", value: "", aliases: [], advice: undefined },
}));

/**
 * Takes the official flags out of raw options. Returns what to tell the user of them; throws UserError where one asks for what lorafit
 * does not do.
 */
export function takeOfficialFlags(raw: Record<string, unknown>): string[] {
  const given = Object.keys(OFFICIAL_FLAGS).filter((key) => raw[key] !== undefined);
  const notes = given.flatMap((key) => {
    const { why, only } = OFFICIAL_FLAGS[key] as OfficialFlag;
    const value = String(raw[key]).toLowerCase();
    delete raw[key];
    if (key === "bf16" || key === "fp16") {
      if (value === "true") raw.dtype ??= key;
      return [];
    }
    if (key === "use_lora" && value === only) {
      raw.recipe ??= "official"; // whose rank and alpha are the script's defaults, not flags
      return [];
    }
    if (only === undefined) return [`--${key} has no effect: ${why}`];
    if (value === only) return [];
    throw new UserError(`--${key} ${value} cannot be had: ${why}.`, { fix: `Leave --${key} out.` });
  });
  return notes;
}
