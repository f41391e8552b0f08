/** What the options of `lorafit plan` ask, in the planner's terms: model, device, limits and workload. */
import { existsSync } from "node:fs";
import { readJsonObject } from "../../checkpoint/disk.ts";
import { pictureTokens } from "../../data/pictures/image.ts";
import { formatCount, UsageError, UserError } from "../../errors.ts";
import { PRESETS } from "../../models/families.ts";
import { DIALOGUE_TOKENS, largestGrid } from "../../plan/dryRun/batchShapes.ts";
import { type Limits, type PlannedModel, Planner, type Workload } from "../../plan/planner.ts";
import { type Choice, knownChoice } from "../../plan/time/attentionChoice.ts";
import { calibratedSpeed } from "../../plan/time/calibration.ts";
import { type Card, cardOfMemory, findDevice } from "../../plan/time/cards.ts";
import type { Policy } from "../../step/policy.ts";
import type { DType } from "../../torch/dtypes.ts";
import { basesOf } from "../../train/machine/compute.ts";
import { loadedModel } from "../../train/machine/modelPlanner.ts";
import { withOpened } from "../../train/machine/openedModel.ts";
import { trainOptions } from "../../train/options/options.ts";
import { policyOfClass, readPolicies } from "../../train/options/policyFiles.ts";
import type { PlanOptions } from "./options.ts";
import { OFFICIAL_HD_NUM } from "./words.ts";

export interface Question {
  options: PlanOptions;
  planner: Planner;
  /** The device, as people call it. */
  device: string;
  card: Card | undefined;
  /** Why times may be wrong. */
  doubt: string | undefined;
  workload: Workload;
  limits: Limits;
  fixed: {
    weights: PlanOptions["weights"];
    policy: Policy | undefined;
    /** The kernel that a run on this machine has chosen on this very card. */
    attention: Policy["attention"] | undefined;
  };
  /** How it was chosen. */
  timed: Choice | undefined;
}

/** Throws UserError where a model, card or policy is not known. */
export function questionOf(options: PlanOptions): Question {
  const { memory, host_memory, device } = options;
  refuseHalfQuestions(options);
  const workload = workloadOf(options);
  refuseBeyondPlans(workload);
  const card = device === "cpu" ? undefined : cardFor(options);
  const model = modelOf(options, card && !card.peakFlopsPerSecond.bfloat16 ? "float16" : "bfloat16");
  const speed = card ? undefined : calibratedSpeed(model.dtype);
  const planner = new Planner({ ...model, target: card ?? "cpu" }, speed);
  const timed = options.gpu === undefined ? undefined : timedAttention(planner, card, workload);
  return {
    options,
    planner,
    device: card ? deviceName(options, card) : "this machine's CPU",
    card,
    doubt: speed?.doubt,
    workload,
    limits: {
      budgetBytes: Math.min(
        memory ?? Number.POSITIVE_INFINITY,
        options.gpu === undefined || !card ? Number.POSITIVE_INFINITY : card.memoryBytes,
      ),
      hostBytes: host_memory ?? Number.POSITIVE_INFINITY,
    },
    fixed: { weights: options.weights, ...policyAndKernel(policyOf(options, workload), timed) },
    timed,
  };
}

/** What a run has chosen on this machine, where the plan is for the machine's own card. */
function timedAttention(
  { config, dtype }: Planner,
  card: Card | undefined,
  { maxLength, batchSize }: Workload,
): Choice | undefined {
  return card && knownChoice({ config, dtype, tokens: maxLength * batchSize, packed: batchSize > 1 }, card);
}

/** A policy that leaves the kernel to a run gets what it has chosen. */
function policyAndKernel(
  policy: Policy | undefined,
  timed: Choice | undefined,
): Omit<Question["fixed"], "weights"> {
  const attention = timed?.kernel;
  const isOpen = policy?.attention === "measured" && attention !== undefined;
  return { policy: isOpen ? { ...policy, attention } : policy, attention };
}

function refuseHalfQuestions({ memory, gpu, device, solve, image_share }: PlanOptions): void {
  if (solve === "hd-num" && image_share !== undefined)
    throw new UsageError(
      "--image-share says how much of a sample is picture, so no --hd-num follows from it.",
      {
        fix: "Leave --image-share out, or pass --solve max-length.",
      },
    );
  const knowsMemory = memory !== undefined || (gpu !== undefined && device !== "cpu");
  if (solve !== undefined && solve !== "memory" && !knowsMemory)
    throw new UsageError(
      `--solve ${solve} looks for the largest that fits, but nothing says into how much memory.`,
      {
        fix: "Pass --gpu NAME or --memory AMOUNT.",
      },
    );
}

/** Four times what the largest card takes; longer ones would be planned for minutes. */
const MOST_TOKENS = 2 ** 24;

function refuseBeyondPlans({ maxLength, batchSize, hdNum }: Workload): void {
  const most = formatCount(MOST_TOKENS);
  if (maxLength * batchSize > MOST_TOKENS)
    throw new UsageError(
      `A micro-batch of ${formatCount(maxLength * batchSize)} tokens (max_length ${formatCount(maxLength)}, batch size ${formatCount(batchSize)}) is more than any card takes; plans go up to ${most}.`,
      {
        fix: `Pass a --max-length${hdNum > OFFICIAL_HD_NUM ? ", --hd-num" : ""} or --batch-size that keeps it below.`,
      },
    );
}

/** Whether nothing says how much memory there is. */
export function isUnlimited({ limits }: Question): boolean {
  return limits.budgetBytes === Number.POSITIVE_INFINITY;
}

/** Computed in `half`, but for a checkpoint in float32. */
function modelOf(options: PlanOptions, half: "bfloat16" | "float16"): Omit<PlannedModel, "target"> {
  const { model } = options;
  const bases = basesOf(options);
  if (Object.hasOwn(PRESETS, model) && !existsSync(model)) {
    return { model: PRESETS[model]!, dtype: half, ...bases, mapsWeights: true };
  }
  const dtypeFor = (stored: DType): PlannedModel["dtype"] => (stored === "float32" ? "float32" : half);
  return withOpened(model, (opened) => loadedModel(opened, { dtypeFor, ...bases }));
}

/** The card of a name, one as fast as cards of so much memory are, or one that many have. */
function cardFor({ gpu, memory }: PlanOptions): Card {
  if (gpu !== undefined) return findDevice(gpu);
  return memory === undefined ? findDevice("a100-80gb") : cardOfMemory(memory);
}

function deviceName({ gpu }: PlanOptions, { title }: Card): string {
  return gpu === undefined ? `a card as fast as ${title}` : title;
}

function workloadOf(options: PlanOptions): Workload {
  const { hd_num, max_length, image_share, batch_size, recipe, lora_r, gradient_accumulation } = options;
  const defaults = trainOptions({ model: "-", data: "-", recipe, lora_r });
  const hdNum = hd_num ?? defaults.hd_num;
  const needed = image_share === undefined ? pictureTokens([largestGrid(hdNum)]) + DIALOGUE_TOKENS : 0;
  return {
    rank: defaults.lora_r,
    dropout: defaults.lora_dropout,
    targets: defaults.lora_targets,
    maxLength: max_length ?? Math.max(defaults.max_length, needed),
    hdNum,
    imageShare: image_share,
    batchSize: batch_size,
    accumulation: gradient_accumulation ?? defaults.gradient_accumulation,
  };
}

function policyOf({ policy }: PlanOptions, { maxLength, batchSize }: Workload): Policy | undefined {
  if (policy === undefined) return undefined;
  if (!existsSync(policy))
    throw new UserError(`${policy} is missing.`, { fix: "Name the file of a policy, as a run records it." });
  const policies = readPolicies(readJsonObject(policy), (key) => `${policy}: ${key}`);
  return policyOfClass(policies, maxLength * batchSize);
}
