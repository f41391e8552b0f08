/** Reads the options of `lorafit plan` as a question to the planner: model, device, limits and workload. */
import { existsSync } from "node:fs";
import { readJsonObject } from "../checkpoint/files/disk.ts";
import { foreignLimit, isLimitFlag, LIMIT_FLAGS, limitOf, withOwnLimit } from "../data/pictures/limits.ts";
import { formatCount, GIB, plural, UsageError, UserError } from "../errors.ts";
import { familyOf, PRESETS, pictureFormOf, withPictureOptions } from "../models/families.ts";
import type { ModelConfig, TrainedSizes } from "../models/family.ts";
import { DIALOGUE_TOKENS } from "../plan/dryRun/batchShapes.ts";
import { type Limits, type PlannedModel, Planner, type SizedWorkload } from "../plan/planner.ts";
import { isAnyHere, isHere, marginOf, USUAL_HOST_BYTES, usableMachineBytes } from "../plan/roomToPlanFor.ts";
import { type Choice, knownChoice } from "../plan/time/attentionChoice.ts";
import { calibratedSpeed } from "../plan/time/calibration.ts";
import { type Card, cardOfMemory, findDevice } from "../plan/time/cards.ts";
import { type Wiring, wiringOf } from "../plan/time/links/links.ts";
import type { Speed } from "../plan/time/stepTime.ts";
import type { Policy } from "../step/policy.ts";
import type { DType } from "../torch/dtypes.ts";
import { basesOf } from "../train/machine/compute.ts";
import { loadedModel } from "../train/machine/modelPlanner.ts";
import { withOpened } from "../train/machine/openedModel.ts";
import { trainOptions } from "../train/options/options.ts";
import { policyOfClass, readPolicies } from "../train/options/policyFiles.ts";
import type { PlanOptions } from "./options.ts";

/** A question of `lorafit plan` with what can answer it. */
export interface Question {
  options: PlanOptions;
  planner: Planner;
  /** The device, as people call it. */
  device: string;
  /** Undefined for the CPU. */
  card: Card | undefined;
  /** Whether the card or CPU is in this machine. */
  isHere: boolean;
  /** Bytes of the card that stay free. */
  marginBytes: number;
  /** Reason why times may be wrong. */
  doubt: string | undefined;
  workload: SizedWorkload;
  limits: Limits;
  /** The largest sizes that the model was trained with. */
  trained: TrainedSizes;
  fixed: {
    weights: PlanOptions["weights"];
    policy: Policy | undefined;
    /** The kernel that a run on this machine has chosen on this very card. */
    attention: Policy["attention"] | undefined;
  };
  /** How that kernel was chosen. */
  timed: Choice | undefined;
  /** Plans for one process by itself, if the question is about several ranks. */
  alone?: Planner;
}

/** Makes what a question needs beside its options. A page that asks again and again keeps both. */
export interface QuestionTools {
  plannerOf: (model: PlannedModel, speed: Speed | undefined) => Planner;
  /** Returns the speed of this machine's CPU. */
  cpuSpeed: (dtype: PlannedModel["dtype"]) => Speed & { doubt?: string | undefined };
  /** Whether the options are those of a run, which may have limits of other pictures; default false. */
  isRecorded?: boolean;
}

const FRESH: QuestionTools = {
  plannerOf: (model, speed) => new Planner(model, speed),
  cpuSpeed: calibratedSpeed,
};

/** The part of a question that the search for other settings needs; a run that does not fit has it too. */
export interface NarrowQuestion extends Pick<Question, "planner" | "limits" | "trained" | "fixed"> {
  options: Pick<PlanOptions, "beyond_training" | "vision_base">;
}

/** Reads the options. Throws UserError for a model, card or policy that is not known. */
export function questionOf(
  asked: PlanOptions,
  { plannerOf, cpuSpeed, isRecorded = false }: QuestionTools = FRESH,
): Question {
  refuseHalfQuestions(asked);
  const card = asked.device === "cpu" ? undefined : cardFor(asked);
  const model = modelOf(asked, card && !card.peakFlopsPerSecond.bfloat16 ? "float16" : "bfloat16");
  const options = isRecorded ? withOwnLimit(asked, pictureFormOf(model.model).limit, asked) : asked;
  const workload = workloadOf(options, model.model);
  refuseBeyondPlans(workload);
  const speed = card ? undefined : cpuSpeed(model.dtype);
  const alone = plannerOf({ ...model, target: card ?? "cpu" }, speed);
  const wiring = wiringFor(options, card);
  const ofRank = wiring ? alone.amongRanks(0, wiring) : alone;
  refuseHalfSharing(options, wiring);
  const planner = ofRank.sharingRows(options.sequence_parallel);
  const timed = options.gpu === undefined ? undefined : timedAttention(planner, card, workload);
  return {
    options,
    planner,
    device: card ? deviceName(options, card) : "this machine's CPU",
    card,
    doubt: speed?.doubt,
    workload,
    ...roomOf(options, card),
    trained: familyOf(planner.config).trained(planner.config),
    fixed: { weights: options.weights, ...policyAndKernel(policyOf(options, workload), timed) },
    timed,
    ...(wiring && { alone }),
  };
}

/** Returns how the ranks are joined that a question asks about; undefined for one process. */
export function wiringFor(
  { gpus, cpu_ranks, nodes, link }: Pick<PlanOptions, "gpus" | "cpu_ranks" | "nodes" | "link">,
  card: Card | undefined,
): Wiring | undefined {
  const perMachine = (card ? gpus : cpu_ranks) ?? 1;
  return perMachine * nodes > 1 ? wiringOf({ perMachine, machines: nodes, link }, card) : undefined;
}

/** The model, the device and the limits of a question about serving. */
export interface ServingQuestion extends Pick<Question, "limits" | "device" | "isHere" | "marginBytes"> {
  planned: PlannedModel;
}

/** Reads the options that say what is served, and where. Throws UserError for a model or card unknown. */
export function servingQuestionOf(options: PlanOptions): ServingQuestion {
  const { gpu, memory, device } = options;
  refuseHalfRanks(options);
  if (gpu === undefined && memory === undefined && device !== "cpu")
    throw new UsageError("--serve finds what fits in a memory, but no memory is given.", {
      fix: "Pass --gpu NAME, --memory AMOUNT or --device cpu.",
    });
  const card = device === "cpu" ? undefined : cardFor(options);
  const model = modelOf(options, card && !card.peakFlopsPerSecond.bfloat16 ? "float16" : "bfloat16");
  return {
    planned: { ...model, target: card ?? "cpu" },
    device: card ? deviceName(options, card) : "this machine's CPU",
    ...roomOf(options, card),
  };
}

/** Works out how much memory the plan may use, and where the device is. */
function roomOf(
  options: PlanOptions,
  card: Card | undefined,
): Pick<Question, "limits" | "isHere" | "marginBytes"> {
  if (!card) return { limits: limitsOfCpu(options), isHere: true, marginBytes: 0 };
  const { gpu, memory = Number.POSITIVE_INFINITY, margin } = options;
  const isNamed = gpu !== undefined;
  const hasCard = isNamed ? isHere(card) : isAnyHere();
  const marginBytes = isNamed ? (margin ?? (Number.isFinite(memory) ? 0 : marginOf(card))) : 0;
  const roomBytes = isNamed ? roundedDown(card.memoryBytes, marginBytes) : Number.POSITIVE_INFINITY;
  const hostBytes = options.host_memory ?? (hasCard ? usableMachineBytes() : USUAL_HOST_BYTES);
  return { limits: { budgetBytes: Math.min(memory, roomBytes), hostBytes }, isHere: hasCard, marginBytes };
}

/**
 * Returns bytes less a margin, in tenths of a GiB, as a command writes them; all bytes if the margin is 0.
 */
export function roundedDown(bytes: number, marginBytes: number): number {
  if (marginBytes === 0) return bytes;
  const tenths = Math.floor((10 * (bytes - marginBytes)) / GIB + 1e-6); // 7.6 GiB less 0.5 are 7.1 GiB
  return Math.round((tenths / 10) * GIB);
}

/** On a CPU both pools are this machine's memory; --host-memory replaces the limit on their sum. */
export function limitsOfCpu({ memory, host_memory }: Pick<PlanOptions, "memory" | "host_memory">): Limits {
  const usable = usableMachineBytes();
  const budgetBytes = Math.min(memory ?? Number.POSITIVE_INFINITY, usable);
  return host_memory === undefined
    ? { budgetBytes, hostBytes: usable, sumBytes: usable }
    : { budgetBytes, hostBytes: host_memory };
}

/** Returns the kernel that a run has chosen on this machine, if the plan is for the machine's own card. */
function timedAttention(
  { config, dtype }: Planner,
  card: Card | undefined,
  { maxLength, batchSize }: SizedWorkload,
): Choice | undefined {
  return card && knownChoice({ config, dtype, tokens: maxLength * batchSize, packed: batchSize > 1 }, card);
}

/** Fills in the chosen kernel if the policy leaves it to the run. */
function policyAndKernel(
  policy: Policy | undefined,
  timed: Choice | undefined,
): Omit<Question["fixed"], "weights"> {
  const attention = timed?.kernel;
  const isOpen = policy?.attention === "measured" && attention !== undefined;
  return { policy: isOpen ? { ...policy, attention } : policy, attention };
}

function refuseHalfQuestions(options: PlanOptions): void {
  const { memory, gpu, device, solve, image_share, compare } = options;
  refuseHalfRanks(options);
  if (compare === "official" && device === "cpu")
    throw new UsageError("--compare official needs a GPU: the official recipe does not train on a CPU.", {
      fix: "Pass --gpu or --memory, and leave --device cpu out.",
    });
  if (solve !== undefined && isLimitFlag(solve) && image_share !== undefined)
    throw new UsageError(
      `--solve ${solve} can't be answered with --image-share, which fixes the picture's share by itself.`,
      { fix: "Leave --image-share out, or pass --solve max-length." },
    );
  const knowsMemory = memory !== undefined || gpu !== undefined || device === "cpu";
  if (solve !== undefined && solve !== "memory" && !knowsMemory)
    throw new UsageError(`--solve ${solve} finds the largest value that fits, but no memory is given.`, {
      fix: "Pass --gpu NAME or --memory AMOUNT.",
    });
}

function refuseHalfRanks({ device, gpus, cpu_ranks, nodes, link, serve }: PlanOptions): void {
  if (device === "cpu" && gpus !== undefined)
    throw new UsageError(`--gpus ${gpus} counts cards, but --device cpu plans for a CPU.`, {
      fix: `Pass --cpu-ranks ${gpus}, or leave --device cpu out.`,
    });
  if (device !== "cpu" && cpu_ranks !== undefined)
    throw new UsageError(`--cpu-ranks ${cpu_ranks} counts ranks on a CPU, but the plan is for a card.`, {
      fix: `Pass --gpus ${cpu_ranks}, or --device cpu.`,
    });
  if (link !== undefined && (gpus ?? cpu_ranks ?? 1) * nodes === 1)
    throw new UsageError(`--link ${link} joins several cards, but the plan is for one.`, {
      fix: "Pass --gpus N or --nodes N too.",
    });
  if (serve && (gpus ?? cpu_ranks ?? 1) * nodes > 1)
    throw new UsageError("--serve plans a server, which uses one card.", {
      fix: "Leave --gpus, --cpu-ranks and --nodes out.",
    });
}

function refuseHalfSharing({ sequence_parallel }: PlanOptions, wiring: Wiring | undefined): void {
  const ranks = wiring?.count ?? 1;
  if (sequence_parallel === 1 || sequence_parallel === ranks) return;
  throw new UsageError(`--sequence-parallel ${sequence_parallel} was given for ${plural(ranks, "rank")}.`, {
    fix: `All ranks share each sample: pass --gpus ${sequence_parallel} too, or --sequence-parallel ${ranks}.`,
  });
}

/** Four times as many as fit the largest card; a plan for more would take minutes. */
const MOST_TOKENS = 2 ** 24;

function refuseBeyondPlans({ maxLength, batchSize }: SizedWorkload): void {
  const most = formatCount(MOST_TOKENS);
  if (maxLength * batchSize > MOST_TOKENS)
    throw new UsageError(
      `A micro-batch of ${formatCount(maxLength * batchSize)} tokens (max_length ${formatCount(maxLength)}, batch size ${formatCount(batchSize)}) is more than fits any card; plans go up to ${most}.`,
      { fix: `Pass a smaller --max-length, ${LIMIT_FLAGS} or --batch-size.` },
    );
}

/** Returns whether the question names no device memory. */
export function isUnlimited({ limits }: Pick<Question, "limits">): boolean {
  return limits.budgetBytes === Number.POSITIVE_INFINITY;
}

/** Computes in `half`, except for a checkpoint in float32. */
function modelOf(options: PlanOptions, half: "bfloat16" | "float16"): Omit<PlannedModel, "target"> {
  const { model } = options;
  const bases = basesOf(options);
  if (Object.hasOwn(PRESETS, model) && !existsSync(model)) {
    return { model: withPictureOptions(PRESETS[model]!, options), dtype: half, ...bases, mapsWeights: true };
  }
  const dtypeFor = (stored: DType): PlannedModel["dtype"] => (stored === "float32" ? "float32" : half);
  return withOpened(model, (opened) => loadedModel(opened, { dtypeFor, ...bases }), options);
}

/** Returns the card of the given name, else a usual card with so much memory, else a common one. */
function cardFor({ gpu, memory }: PlanOptions): Card {
  if (gpu !== undefined) return findDevice(gpu);
  return memory === undefined ? findDevice("a100-80gb") : cardOfMemory(memory);
}

function deviceName({ gpu }: PlanOptions, { title }: Card): string {
  return gpu === undefined ? `a card as fast as ${title}` : title;
}

function workloadOf(options: PlanOptions, config: ModelConfig): SizedWorkload {
  const { max_length, image_share, batch_size, recipe, lora_r, gradient_accumulation, solve } = options;
  const defaults = trainOptions({ model: "-", data: "-", recipe, lora_r });
  const form = pictureFormOf(config);
  if (solve !== undefined && isLimitFlag(solve) && solve !== form.limit.flag)
    throw foreignLimit({ flag: `solve ${solve}` }, { ...form.limit, flag: `solve ${form.limit.flag}` });
  const pictureLimit = limitOf(options, form.limit);
  const needed = image_share === undefined ? form.largest(pictureLimit).tokens + DIALOGUE_TOKENS : 0;
  return {
    rank: defaults.lora_r,
    dropout: defaults.lora_dropout,
    targets: defaults.lora_targets,
    maxLength: max_length ?? Math.max(defaults.max_length, needed),
    pictureLimit,
    imageShare: image_share,
    batchSize: batch_size,
    accumulation: gradient_accumulation ?? defaults.gradient_accumulation,
  };
}

function policyOf({ policy }: PlanOptions, { maxLength, batchSize }: SizedWorkload): Policy | undefined {
  if (policy === undefined) return undefined;
  if (!existsSync(policy))
    throw new UserError(`${policy} is missing.`, { fix: "Name the file of a policy, as a run records it." });
  const policies = readPolicies(readJsonObject(policy), (key) => `${policy}: ${key}`);
  return policyOfClass(policies, maxLength * batchSize);
}

const SHORT_NAMES = { float32: "fp32", bfloat16: "bf16", float16: "fp16" } as const;

/** The precision of the frozen base. */
export function baseName({ base, dtype }: Pick<Planner, "base" | "dtype">): string {
  return base === "bf16" ? SHORT_NAMES[dtype] : base;
}
