/** All that a run needs before its first step: output folder, data, model, factors, optimizer, and the state that it begins with. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { writeFileWhole } from "../../checkpoint/disk.ts";
import { resolveModel } from "../../checkpoint/folder.ts";
import { readAdapter } from "../../checkpoint/peft.ts";
import { type ImagePool, openImagePool } from "../../data/pictures/imagePool.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { Sampler } from "../../data/stream/drawOrder.ts";
import { countBatches, type Packing, planBatches, START } from "../../data/stream/packing.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import type { ModelConfig } from "../../models/family.ts";
import { createLora, disposeLora, type Gradients, type Lora, loraFromAdapter } from "../../models/lora.ts";
import { disposeModel, loadModel, type Model } from "../../models/weights.ts";
import type { Planner } from "../../plan/planner.ts";
import { type AttentionUse, settledAttention } from "../../plan/time/attentionChoice.ts";
import { type GradientBackup, gradientCopies, zeroBackup } from "../../step/optimizer/gradientBackup.ts";
import { firstLossScale } from "../../step/optimizer/lossScale.ts";
import {
  type AdamW,
  createAdamW,
  disposeAdamW,
  gradientsOf,
  loraParameters,
} from "../../step/optimizer/optimizer.ts";
import { factorCopies, loadingOf, type Policy, ploraOf } from "../../step/policy.ts";
import { type Device, type DType, scope } from "../../torch/tensor.ts";
import { readySamples, samplerOf, samplesFingerprint, tokenizerOf } from "../data/dataset.ts";
import { type Demand, demandOf } from "../data/memoryDemand.ts";
import { type Checkpoint, emptyStep, restoreOptimizer, type TrainerState } from "../folder/checkpoints.ts";
import {
  checkSameRun,
  insteadOfSkipping,
  moveEarlierRun,
  noticeFolding,
  openOutput,
} from "../folder/resume.ts";
import { POLICY_FILE, restartLog, type StepRecord } from "../folder/runLog.ts";
import {
  type Compute,
  liftCaps,
  noticeIdleCard,
  noticeStored,
  noticeTwins,
  startCompute,
} from "../machine/compute.ts";
import { limitsOf, plannerOf } from "../machine/modelPlanner.ts";
import { scaleCaution, warmupCaution } from "../options/cautions.ts";
import type { TrainOptions } from "../options/options.ts";
import { givenPolicies, policiesJson } from "../options/policyFiles.ts";
import { type Schedule, stepsOfRatio } from "../options/schedule.ts";
import { type AnswersPlan, stopIdsOf } from "../planning/answerPlan.ts";
import type { LossPlan } from "../planning/evalLossPlan.ts";
import { planRun, type RunPlanning } from "../planning/planRun.ts";
import type { RunPlan, RunWorkload } from "../planning/policyByLength.ts";

export interface TrainingData {
  samples: PreparedSample[];
  sampler: Sampler;
  packing: Packing;
  /** Draws of the whole run; Infinity where steps are counted. */
  draws: number;
  /** Empty without eval_data. */
  evalSamples: PreparedSample[];
  tokenizer: Tokenizer | undefined;
  pictures: ImagePool;
}

export interface Run {
  options: TrainOptions;
  planner: Planner;
  workload: RunWorkload;
  demand: Demand;
  plan: RunPlan;
  /** Policies of an evaluation's losses; undefined without one. */
  losses: LossPlan | undefined;
  /** Which answers of an evaluation there is room for, where that is planned. */
  answers: AnswersPlan | undefined;
  schedule: Schedule;
  data: TrainingData;
  model: Model;
  lora: Lora;
  optimizer: AdamW;
  /** The gradients before the micro-batch under way. */
  backup: GradientBackup;
  state: TrainerState;
  /** Records of the steps that earlier parts of the run have done. */
  stepsBefore: readonly StepRecord[];
  /** The last one, whole on disk. */
  checkpoint: string | undefined;
  /** Tells the user. */
  notice: (text: string) => void;
}

/** What was planned, for what. */
export type PlannedRun = RunPlanning & { demand: Demand; planner: Planner };

export interface OpenHooks {
  /** about: what a script may ask for by name. */
  notice: (text: string, about?: "idleCard") => void;
  /** Called as samples are checked, which takes minutes for many pictures. */
  onCheck?: (done: number, total: number) => void;
  /** Called before anything heavy is loaded. */
  onPlan: (planned: PlannedRun) => void;
}

/** Things to do at the end, the last one first. */
export type Closers = (() => unknown)[];

/** Opens a run; what it takes is given back by `closers`, also where this throws. Nothing heavy is loaded before the data is checked. */
export async function openRun(given: TrainOptions, hooks: OpenHooks, closers: Closers): Promise<Run> {
  const { notice } = hooks;
  const checkpoint = await openOutput(given.output, given.resume, notice);
  const compute = startCompute(given.model, given);
  closers.push(() => liftCaps(compute.device));
  noticeAtStart(given, compute.device, notice);
  const options = settled(given, compute);
  const planner = plannerOf(options.model, compute);
  const { config } = planner;
  const policies = givenPolicies(options);
  for (const { policy } of policies ?? []) planner.check(policy);
  const data = await openData(options, config, checkpoint, hooks);
  closers.push(() => data.pictures.close());
  const ofData = { data: samplesFingerprint(data.samples) };
  if (checkpoint) checkSameRun(checkpoint, options, ofData); // of the model once that is loaded
  const schedule = scheduleOf(options, data);
  if (!checkpoint) noticeCautions(options, schedule, notice);
  const demand = demandOf(data.samples, data.packing);
  const stopIds = stopIdsOf(data.tokenizer, config);
  const attention = attentionOf(policies?.[0]?.policy, {
    config,
    compute,
    demand,
    packing: data.packing,
    notice,
  });
  const { evalSamples } = data;
  const lengths = lengthsOf(options, data, schedule);
  const asked = { options, planner, demand, lengths, evalSamples, stopIds, checkpoint, policies, attention };
  const planning = await planRun(asked);
  const { plan, workload, losses, answers } = planning;
  if (losses) data.evalSamples = [...losses.kept];
  hooks.onPlan({ ...planning, demand, planner });

  const model = loadModel(options.model, { ...compute, ...loadingOf(plan.policy) });
  closers.push(() => disposeModel(model));
  const fingerprints = { model: modelFingerprint(model), ...ofData };
  const { folded } = ploraOf(plan.policy);
  if (checkpoint) {
    checkSameRun(checkpoint, options, fingerprints);
    noticeFolding(checkpoint, folded, { isGiven: policies !== undefined, notice });
  }
  const { device, dtype } = compute;
  const held = { device, gradients: plan.policy.gradients, copies: factorCopies(plan.policy, dtype) };
  const lora = loraOf(config, options, held, checkpoint);
  closers.push(() => disposeLora(lora));
  const optimizer = optimizerOf(lora, options, plan.policy);
  closers.push(() => disposeAdamW(optimizer));
  const backup = backupOf(optimizer, plan);
  closers.push(() => backup[Symbol.dispose]());
  if (checkpoint) restoreOptimizer(checkpoint, optimizer, notice);
  const { stepsDown, policies: chosen } = plan;
  const now = { options, stepsDown, policies: chosen, evalStepsDown: losses?.stepsDown, folded };
  const begun = { totalSteps: schedule.totalSteps, fingerprints, lossScale: firstLossScale(dtype) };
  const state = checkpoint ? { ...checkpoint.state, ...now } : newState({ ...begun, ...now });
  if (!checkpoint) await moveEarlierRun(options.output, notice);
  const stepsBefore = await beginLog(state, options, plan);
  return {
    ...{ options, planner, workload, demand, plan, losses, answers, schedule, data },
    ...{ model, lora, optimizer, backup, state, stepsBefore, notice },
    checkpoint: checkpoint?.folder,
  };
}

/** Writes down what the run goes on with; returns the records of the steps before. */
async function beginLog(state: TrainerState, options: TrainOptions, plan: RunPlan): Promise<StepRecord[]> {
  const { output } = options;
  const stepsBefore = await restartLog(output, options, state);
  writeFileWhole(join(output, POLICY_FILE), policiesJson(plan.policies));
  return stepsBefore;
}

/** The copy of the gradients, where a step has several micro-batches. */
function backupOf({ parameters }: AdamW, { gradientCopy }: RunPlan): GradientBackup {
  const gradients = gradientsOf(parameters);
  return gradientCopy ? gradientCopies(gradients, gradientCopy.place) : zeroBackup(gradients);
}

/** The attention kernel of the run, which a policy names, or which has been timed on the card. */
function attentionOf(
  policy: Policy | undefined,
  {
    config,
    compute: { device, dtype },
    demand,
    packing,
    notice,
  }: Pick<AttentionUse, "config"> & {
    compute: Compute;
    demand: Demand;
    packing: Packing;
    notice: (text: string) => void;
  },
): Policy["attention"] {
  const packed = packing.by === "tokens" || packing.samples > 1;
  const use = { config, dtype, tokens: demand.mostTokens, packed };
  return settledAttention(policy?.attention ?? "measured", device, use, notice);
}

/** What the run differs in from what was asked or could be: a card left idle; weights that are rounded; slower kernels where NVRTC is missing. */
function noticeAtStart(given: TrainOptions, device: Device, notice: OpenHooks["notice"]): void {
  noticeIdleCard(given.device, notice);
  noticeStored(given.model, notice);
  noticeTwins(device, notice);
}

/** What a new run's options come to that may not be meant; an adapter to start from brings its own scale. */
function noticeCautions(options: TrainOptions, schedule: Schedule, notice: OpenHooks["notice"]): void {
  const scale = options.adapter === undefined ? scaleCaution(options) : undefined;
  for (const caution of [scale, warmupCaution(schedule)]) if (caution) notice(caution);
}

/** The same options with what they leave to the machine, and paths that hold from any working folder. */
function settled(options: TrainOptions, { dtype, device }: Compute): TrainOptions {
  const { adapter, eval_data } = options;
  const limits = limitsOf(options, device);
  return {
    ...options,
    ...(limits && Number.isFinite(limits.budgetBytes) && { memory: options.memory ?? limits.budgetBytes }),
    model: existsSync(options.model) ? resolve(options.model) : options.model,
    output: resolve(options.output),
    data: options.data.map((file) => resolve(file)),
    ...(adapter !== undefined && { adapter: resolve(adapter) }),
    ...(eval_data !== undefined && { eval_data: eval_data.map((file) => resolve(file)) }),
    dtype: ({ float32: "fp32", bfloat16: "bf16", float16: "fp16" } as const)[dtype],
    device,
  };
}

async function openData(
  options: TrainOptions,
  config: ModelConfig,
  checkpoint: Checkpoint | undefined,
  { notice, onCheck: onProgress }: OpenHooks,
): Promise<TrainingData> {
  const tokenizer = await tokenizerOf(resolveModel(options.model));
  const reader = { tokenizer, config };
  const told = { notice, onProgress };
  const ready = await readySamples(options.data, reader, options, {
    ...told,
    insteadOfSkipping: checkpoint && insteadOfSkipping(checkpoint),
  });
  const evaluated = options.eval_data && (await readySamples(options.eval_data, reader, options, told));
  const sampler = samplerOf(ready, options);
  return {
    samples: ready.samples,
    sampler,
    packing: options.pack
      ? { by: "tokens", tokens: options.max_length }
      : { by: "samples", samples: options.batch_size },
    draws: "epochs" in options ? options.epochs * sampler.epochDraws : Number.POSITIVE_INFINITY,
    evalSamples: evaluated?.samples ?? [],
    tokenizer,
    pictures: openImagePool({ compat: options.image_compat }),
  };
}

/** Accumulation runs on across the ends of epochs; the last step of all takes what is left, so that no sample is lost. */
function scheduleOf(options: TrainOptions, { samples, sampler, packing, draws }: TrainingData): Schedule {
  const tokensOf = (draw: number): number => samples[sampler.at(draw).sample]!.tokens;
  const totalSteps =
    "max_steps" in options
      ? options.max_steps
      : Math.ceil(countBatches(tokensOf, packing, draws) / options.gradient_accumulation);
  return {
    name: options.lr_schedule,
    peakRate: options.learning_rate,
    warmupSteps:
      "warmup_steps" in options ? options.warmup_steps : stepsOfRatio(options.warmup_ratio, totalSteps),
    totalSteps,
  };
}

/** Tokens of the run's micro-batches; where the samples are single, of all of them. */
function lengthsOf(
  { gradient_accumulation }: TrainOptions,
  { samples, sampler, packing, draws }: TrainingData,
  { totalSteps }: Schedule,
): Set<number> {
  if (packing.by === "samples" && packing.samples === 1) return new Set(samples.map(({ tokens }) => tokens));
  const tokensOf = (draw: number): number => samples[sampler.at(draw).sample]!.tokens;
  const lengths = new Set<number>();
  let batches = totalSteps * gradient_accumulation;
  for (const planned of planBatches(tokensOf, packing, draws)) {
    lengths.add(planned.draws.reduce((sum, draw) => sum + tokensOf(draw), 0));
    if (--batches === 0) break;
  }
  return lengths;
}

/** Factors of the checkpoint, of the adapter to start from (which brings rank, scale and targets), or new ones. */
function loraOf(
  config: ModelConfig,
  options: TrainOptions,
  held: { device: Device; gradients: Gradients; copies: DType | undefined },
  checkpoint: Checkpoint | undefined,
): Lora {
  const folder = checkpoint?.folder ?? options.adapter;
  const dropout = options.lora_dropout;
  if (folder !== undefined) {
    return scope(() => loraFromAdapter(config, readAdapter(folder), { ...held, dropout }));
  }
  return createLora(config, {
    rank: options.lora_r,
    alpha: options.lora_alpha,
    rslora: options.lora_rslora,
    targets: options.lora_targets,
    seed: options.seed,
    dropout,
    ...held,
  });
}

function optimizerOf(lora: Lora, options: TrainOptions, policy: Policy): AdamW {
  const adamW = {
    beta1: options.adam_beta1,
    beta2: options.adam_beta2,
    epsilon: options.adam_epsilon,
    weightDecay: options.weight_decay,
  };
  return createAdamW(loraParameters(lora), adamW, policy.optimizer);
}

function newState(
  known: Omit<TrainerState, "version" | "step" | "microBatches" | "data" | "accumulated" | "evals">,
): TrainerState {
  return { version: 1, step: 0, microBatches: 0, data: START, accumulated: emptyStep(), evals: [], ...known };
}

/** Of the sizes, and of the last norm's weights, which two models of the same sizes do not share. */
function modelFingerprint({ config, norm }: Model): string {
  return createHash("sha256").update(JSON.stringify(config)).update(norm.toBytes()).digest("hex");
}
