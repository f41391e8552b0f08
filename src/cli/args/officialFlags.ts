/**
 * Reads the names of the official finetune.py that are not options of lorafit, so that its command lines and
 * configurations work as they stand. Source: InternLM-XComposer, finetune/finetune.py (2.5),
 * InternLM-XComposer-2.0/finetune and -1.0/finetune, whose further names are those of
 * transformers.TrainingArguments.
 */
import { UsageError, type UserError } from "../../errors.ts";
import { listOfChoices, type OptionSpec } from "../../options.ts";

interface OfficialFlags {
  names: string[];
  /** Why they have no effect, or why only some values are possible. */
  why: string;
  /** The values that lorafit can honour, in lower case. */
  only?: string[];
}

const NAMES = (names: string): string[] => names.split(/\s+/);

/** Flags without an option here, by what makes them needless or fixed. */
export const OFFICIAL_FLAGS: readonly OfficialFlags[] = [
  { names: ["bf16", "fp16"], why: "they set --dtype" },
  { names: ["use_lora"], why: "lorafit trains LoRA factors", only: ["true"] },
  { names: ["fix_vit"], why: "the vision tower stays frozen", only: ["true"] },
  { names: ["fix_sampler"], why: "the projector stays frozen", only: ["true"] },
  { names: ["lora_bias"], why: "biases stay frozen", only: ["none"] },
  { names: ["lora_weight_path"], why: "--adapter names an adapter to start from", only: [""] },
  {
    names: ["optim"],
    why: "the optimizer is AdamW",
    only: NAMES("adamw_torch adamw_hf adamw_torch_fused adamw_apex_fused"),
  },
  { names: ["adafactor"], why: "the optimizer is AdamW", only: ["false"] },
  { names: ["label_smoothing_factor"], why: "labels are not smoothed", only: ["0", "0.0"] },
  { names: ["img_size", "resolution"], why: "4KHD accepts pictures of any size" },
  { names: ["cache_dir"], why: "HF_HOME names the cache" },
  {
    names:
      NAMES(`gradient_checkpointing gradient_checkpointing_kwargs deepspeed fsdp fsdp_config fsdp_min_num_params
      fsdp_transformer_layer_cls_to_wrap sharded_ddp auto_find_batch_size torch_empty_cache_steps`),
    why: "the policy decides what is kept, recomputed and moved",
  },
  {
    names:
      NAMES(`local_rank ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_timeout no_cuda use_cpu
      tf32 half_precision_backend fp16_backend fp16_opt_level bf16_full_eval fp16_full_eval torch_compile torch_compile_backend
      torch_compile_mode torchdynamo full_determinism tpu_num_cores use_ipex use_mps_device jit_mode_eval`),
    why: "--device, --dtype and --threads decide how lorafit computes",
  },
  {
    names:
      NAMES(`dataloader_num_workers dataloader_pin_memory dataloader_drop_last dataloader_persistent_workers
      dataloader_prefetch_factor remove_unused_columns label_names group_by_length length_column_name ignore_data_skip data_seed`),
    why: "lorafit has its own reader of data",
  },
  {
    names:
      NAMES(`do_train do_eval do_predict per_device_eval_batch_size per_gpu_eval_batch_size prediction_loss_only eval_delay
      eval_accumulation_steps include_inputs_for_metrics load_best_model_at_end greater_is_better`),
    why: "samples are evaluated one by one, and the best adapter is kept",
  },
  { names: ["evaluation_strategy", "eval_strategy"], why: "--eval-every sets it" },
  { names: ["save_strategy"], why: "--save-every sets it" },
  {
    names: NAMES("save_safetensors save_on_each_node save_only_model overwrite_output_dir"),
    why: "an adapter is always safetensors, and a run is continued by --resume",
  },
  {
    names:
      NAMES(`logging_steps logging_strategy logging_dir logging_first_step logging_nan_inf_filter log_level log_level_replica
      log_on_each_node run_name disable_tqdm skip_memory_metrics debug`),
    why: "every step is recorded in the output folder",
  },
  {
    names: NAMES("push_to_hub hub_model_id hub_strategy hub_token hub_private_repo"),
    why: "nothing is uploaded",
  },
];

/**
 * Samples that the official data set stacks, and samples a GPU takes of those: their product is a
 * micro-batch.
 */
export const BATCH_FACTORS = ["per_device_train_batch_size", "per_gpu_train_batch_size", "inner_batch_size"];

/** Files of the first XComposer's script, which are read together. */
const DATA_PARTS = ["vl_data_path", "txt_data_path"];

/** For readFlags and readConfig, which then let these names pass. */
export const OFFICIAL_SPECS: OptionSpec[] = [
  ...OFFICIAL_FLAGS.flatMap(({ names }) => names.map((name) => specOf(name, "either"))),
  ...BATCH_FACTORS.map((name) => ({ ...specOf(name, "value"), numeric: true })),
  ...DATA_PARTS.map((name) => specOf(name, "value")),
];

function specOf(key: string, kind: OptionSpec["kind"]): OptionSpec {
  return {
    ...{ key, flag: `--${key}`, kind, numeric: false, whole: false, many: false, required: false },
    ...{
      default: undefined,
      takes: "a text",
      help: "",
      group: "",
      value: "",
      aliases: [],
      advice: undefined,
    },
  };
}

export interface OfficialNames {
  /** Names that have no effect. */
  ignored: string[];
  /** Values that ask for what lorafit does not do. */
  errors: UserError[];
}

/**
 * Takes the official names out of raw options, and sets the options that they stand for. `spell` is how
 * errors write a name.
 */
export function takeOfficialNames(
  raw: Record<string, unknown>,
  spell: (key: string) => string,
): OfficialNames {
  const errors: UserError[] = [];
  const ignored: string[] = [];
  for (const { names, why, only } of OFFICIAL_FLAGS) {
    for (const name of names.filter((name) => raw[name] !== undefined)) {
      const value = String(raw[name]).toLowerCase();
      delete raw[name];
      if (name === "bf16" || name === "fp16") {
        if (value === "true") raw.dtype ??= name;
      } else if (name === "use_lora" && value === "true") {
        raw.recipe ??= "official"; // rank and alpha are defaults of the script, not flags
      } else if (only === undefined) {
        ignored.push(name);
      } else if (!only.includes(value)) {
        errors.push(refused(spell(name), value, why));
      }
    }
  }
  takeDataParts(raw);
  if (typeof raw.metric === "string") raw.metric = raw.metric.replace(/^eval_/, ""); // as transformers writes metrics
  errors.push(...takeBatchFactors(raw, spell));
  return { ignored, errors };
}

function refused(spelled: string, value: string, why: string): UserError {
  return new UsageError(`${spelled} ${value} is not possible: ${why}.`, { fix: "Leave it out." });
}

function takeDataParts(raw: Record<string, unknown>): void {
  const files = DATA_PARTS.flatMap((name) => {
    const { [name]: file } = raw;
    delete raw[name];
    return file === undefined ? [] : [file];
  });
  if (files.length > 0) raw.data = [raw.data ?? [], files].flat();
}

/**
 * The official data set stacks `batch_size` samples, and a GPU takes `per_device_train_batch_size` of these
 * stacks.
 */
function takeBatchFactors(raw: Record<string, unknown>, spell: (key: string) => string): UserError[] {
  const errors: UserError[] = [];
  for (const name of BATCH_FACTORS.filter((name) => raw[name] !== undefined)) {
    const { [name]: factor } = raw;
    delete raw[name];
    if (!Number.isInteger(factor) || Number(factor) < 1) {
      errors.push(
        new UsageError(`${spell(name)} takes a whole number, 1 or more (got ${JSON.stringify(factor)}).`),
      );
    } else if (raw.batch_size === undefined || typeof raw.batch_size === "number") {
      raw.batch_size = Number(raw.batch_size ?? 1) * Number(factor);
    }
  }
  return errors;
}

/** Returns one note for all names without an effect; none for no names. */
export function ignoredNote(names: readonly string[]): string[] {
  if (names.length === 0) return [];
  const listed = listOfChoices(names.map((name) => `--${name}`)).replace(/ or (?=\S+$)/, " and ");
  return [`no effect here: ${listed} (docs/cli.md says why)`];
}
