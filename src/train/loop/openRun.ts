/**
 * Opens a run in three stages: inputs (output folder, model's files, data), plan, and what lies in memory.
 * Nothing heavy is loaded before the data is checked and the plan fits.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { readAdapter } from "../../checkpoint/adapter/peft.ts";
import { requireWritable, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { START } from "../../data/stream/packing.ts";
import { pictureFormOf } from "../../models/families.ts";
import type { ModelConfig } from "../../models/family.ts";
import {
  createLora,
  disposeLora,
  type Gradients,
  type Lora,
  loraFromAdapter,
  zeroGradients,
} from "../../models/lora.ts";
import { completeShares } from "../../models/shares/sharing.ts";
import { disposeModel, loadOpened, type Model } from "../../models/weights.ts";
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
import type { Peers } from "../../torch/peers/peers.ts";
import { type Device, type DType, scope } from "../../torch/tensor.ts";
import { samplesFingerprint } from "../data/dataset.ts";
import { demandOf } from "../data/memoryDemand.ts";
import { lengthsOf, openData, scheduleOf } from "../data/openData.ts";
import { checkMetric } from "../evaluate/checkMetric.ts";
import type { FactStream } from "../facts/factStream.ts";
import { type Checkpoint, emptyStep, restoreOptimizer, type TrainerState } from "../folder/checkpoints.ts";
import { checkSameRun, moveEarlierRun, noticeFolding, openOutput, withLimitsOf } from "../folder/resume.ts";
import { POLICY_FILE, restartLog } from "../folder/runLog.ts";
import {
  type Compute,
  liftCaps,
  noticeIdleCard,
  noticeStored,
  noticeTwins,
  startCompute,
} from "../machine/compute.ts";
import { limitsOf, plannerOf } from "../machine/modelPlanner.ts";
import { closeModel, type OpenedModel, openModel } from "../machine/openedModel.ts";
import { scaleCaution, warmupCaution } from "../options/cautions.ts";
import type { TrainOptions } from "../options/options.ts";
import { type ClassPolicy, givenPolicies, policiesJson } from "../options/policyFiles.ts";
import type { Schedule } from "../options/schedule.ts";
import { stopIdsOf } from "../planning/answerPlan.ts";
import { planFact } from "../planning/planFact.ts";
import { planRun, type RunPlanning } from "../planning/planRun.ts";
import type { RunPlan } from "../planning/policyByLength.ts";
import {
  checkAccumulation,
  checkpointOf,
  optionsOfRank,
  plannerOfRank,
  planTogether,
  requireSameRun,
} from "../ranks/opening.ts";
import { checkRowSharing, refuseSharedBase, workersOf } from "../ranks/rowSharing.ts";
import { gradientSumOf, isWriter } from "../ranks/together.ts";
import type { Run, RunInputs, RunLoaded, RunProgress } from "./run.ts";

/** Things to do at the end, the last one first. */
export type Closers = (() => unknown)[];

/** The inputs of a run, with what the later stages of opening need. */
interface Opening extends RunInputs {
  opened: OpenedModel;
  compute: Compute;
  checkpoint: Checkpoint | undefined;
  /** The user's own policies; undefined: planned. */
  policies: ClassPolicy[] | undefined;
  facts: FactStream;
  closers: Closers;
  peers: Peers;
}

/** Opens a run. What it needs is freed by `closers`, also if this throws. */
export async function openRun(
  given: TrainOptions,
  { facts, closers, peers }: Pick<Opening, "facts" | "closers" | "peers">,
): Promise<Run> {
  const checkpoint = await checkpointOf(peers, () => openOutput(given.output, given.resume, facts.notice));
  const opening = await openInputs(given, { checkpoint, facts, closers, peers });
  const planned = await planInputs(opening);
  const { options, data, planner, demand, schedule } = opening;
  const { loaded, progress } = await loadRun(opening, planned);
  return { inputs: { options, data, planner, demand, schedule }, planned, loaded, progress, facts, peers };
}

/** Stage 1: opens the model's files, and checks the data. checkpoint: the one to continue from. */
export async function openInputs(
  written: TrainOptions,
  { checkpoint: found, facts, closers, peers }: Pick<Opening, "checkpoint" | "facts" | "closers" | "peers">,
): Promise<Opening> {
  const { notice } = facts;
  const { memory_snapshot } = written;
  if (memory_snapshot !== undefined && isWriter({ peers })) requireWritable(memory_snapshot);
  const opened = openModel(written.model, written);
  closers.push(() => closeModel(opened));
  const { given, checkpoint } = withLimitsOf(pictureFormOf(opened.config), written, found);
  const compute = startCompute(opened, given);
  closers.push(() => liftCaps(compute.device));
  noticeIdleCard(given.device, notice);
  noticeStored(opened, notice);
  noticeTwins(compute.device, notice);
  const options = optionsOfRank(peers, settled(given, compute));
  checkRowSharing(peers, options, opened.config);
  checkAccumulation(workersOf({ peers, inputs: { options } }), options);
  const ofRank = await plannerOfRank(peers, plannerOf(opened, compute), compute.device);
  const planner = ofRank.sharingRows(options.sequence_parallel);
  const policies = givenPolicies(options);
  for (const { policy } of policies ?? []) planner.check(policy);
  const data = await openData(options, opened, { checkpoint, facts });
  closers.push(() => data.pictures.close());
  checkMetric(options.metric, data.evalSamples, data.tokenizer);
  const ofData = { data: samplesFingerprint(data.samples, pictureFormOf(opened.config)) };
  if (checkpoint) checkSameRun(checkpoint, options, ofData); // the model is compared when it is loaded
  const schedule = scheduleOf(options, data);
  if (!checkpoint) noticeCautions(options, schedule, notice);
  const demand = demandOf(data.samples, data.packing);
  const inputs = { options, data, planner, demand, schedule };
  return { ...inputs, opened, compute, checkpoint, policies, facts, closers, peers };
}

/** Stage 2: plans the run, and reports the plan. Throws UserError if it does not fit. */
export async function planInputs(opening: Opening): Promise<RunPlanning> {
  const { options, data, planner, demand, schedule, opened, checkpoint, policies, facts } = opening;
  const { evalSamples, tokenizer } = data;
  const limits = limitsOf(options, options.device!);
  const request = {
    ...{ options, planner, demand, evalSamples, checkpoint, policies, limits },
    lengths: lengthsOf(options, data, schedule),
    stopIds: stopIdsOf(tokenizer, opened.config),
  };
  const planned = await planTogether(opening.peers, (first) =>
    planRun({ ...request, attention: first?.attention ?? attentionOf(opening), first: first?.policies }),
  );
  if (planned.losses) data.evalSamples = [...planned.losses.kept];
  await facts.send(planFact({ ...planned, demand, planner, limits }));
  return planned;
}

/**
 * Stage 3: loads the model, the factors and the optimizer, as they were in the checkpoint if there is one.
 */
async function loadRun(
  opening: Opening,
  { plan, losses }: RunPlanning,
): Promise<{ loaded: RunLoaded; progress: RunProgress }> {
  const { options, data, opened, compute, checkpoint, policies, facts, closers } = opening;
  const { notice } = facts;
  const { device, dtype } = compute;
  refuseSharedBase(plan.policy, options);
  const model = loadOpened(opened, { ...compute, ...loadingOf(plan.policy), peers: opening.peers });
  closers.push(() => disposeModel(model));
  await completeShares(model);
  const fingerprints = {
    model: modelFingerprint(model),
    data: samplesFingerprint(data.samples, pictureFormOf(opened.config)),
  };
  const { folded } = ploraOf(plan.policy);
  await requireSameRun(opening.peers, options, {
    ...fingerprints,
    "evaluation data": samplesFingerprint(data.evalSamples, pictureFormOf(opened.config)),
    checkpoint: checkpoint?.state.step ?? null,
  });
  if (checkpoint) {
    checkSameRun(checkpoint, options, fingerprints);
    noticeFolding(checkpoint, folded, { isGiven: policies !== undefined, notice });
  }
  const held = { device, gradients: plan.policy.gradients, copies: factorCopies(plan.policy, dtype) };
  const lora = loraOf(opening, held);
  closers.push(() => disposeLora(lora));
  const optimizer = optimizerOf(lora, options, plan.policy);
  closers.push(() => disposeAdamW(optimizer));
  const backup = backupOf(optimizer, plan);
  closers.push(() => backup[Symbol.dispose]());
  const sum = gradientSumOf({ peers: opening.peers, inputs: opening }, optimizer, plan);
  closers.push(() => sum?.[Symbol.dispose]());
  if (checkpoint) restoreOptimizer(checkpoint, optimizer, notice);
  if (!isWriter(opening)) zeroGradients(lora); // those of a checkpoint within a step count once
  const now = {
    ...{ options, fingerprints, folded, policies: plan.policies },
    ...{ stepsDown: plan.stepsDown, evalStepsDown: losses?.stepsDown },
  };
  const progress = await beginProgress(opening, plan, now);
  return { loaded: { model, lora, optimizer, backup, sum }, progress };
}

/** The parts of a run's state that opening decides anew. */
type StateNow = Pick<
  TrainerState,
  "options" | "stepsDown" | "policies" | "evalStepsDown" | "folded" | "fingerprints"
>;

/** Returns the state to continue from, or a new one, and begins the logs there. */
async function beginProgress(
  { options, schedule, compute, checkpoint, facts, peers }: Opening,
  plan: RunPlan,
  { fingerprints, ...now }: StateNow,
): Promise<RunProgress> {
  const { totalSteps } = schedule;
  const first = { totalSteps, fingerprints, lossScale: firstLossScale(compute.dtype) };
  const state = checkpoint ? { ...checkpoint.state, ...now } : newState({ ...first, ...now });
  const folder = checkpoint?.folder;
  const ownMicroBatches = options.gradient_accumulation;
  const begun = { state, checkpoint: folder, saved: folder !== undefined, ownMicroBatches };
  if (!isWriter({ peers })) return { ...begun, stepsBefore: [] };
  if (!checkpoint) await moveEarlierRun(options.output, facts.notice);
  const stepsBefore = await restartLog(options.output, options, state);
  writeFileWhole(join(options.output, POLICY_FILE), policiesJson(plan.policies));
  return { ...begun, stepsBefore };
}

/** Makes the copy of the gradients, if a step has several micro-batches. */
function backupOf({ parameters }: AdamW, { gradientCopy }: RunPlan): GradientBackup {
  const gradients = gradientsOf(parameters);
  return gradientCopy ? gradientCopies(gradients, gradientCopy.place) : zeroBackup(gradients);
}

/**
 * Chooses the attention kernel of the run: the one that a policy names, or the fastest when timed on the
 * card.
 */
function attentionOf({ policies, opened, compute, demand, data, facts }: Opening): Policy["attention"] {
  const { packing } = data;
  const { device, dtype } = compute;
  const packed = packing.by === "tokens" || packing.samples > 1;
  const use: AttentionUse = { config: opened.config, dtype, tokens: demand.mostTokens, packed };
  return settledAttention(policies?.[0]?.policy.attention ?? "measured", device, use, facts.notice);
}

/** Warns about options of a new run that may not be meant. An adapter to start from brings its own scale. */
function noticeCautions(options: TrainOptions, schedule: Schedule, notice: FactStream["notice"]): void {
  const scale = options.adapter === undefined ? scaleCaution(options) : undefined;
  for (const caution of [scale, warmupCaution(schedule)]) if (caution) notice(caution);
}

/** Adds what the options leave to the machine, and makes paths hold from any working folder. */
function settled(options: TrainOptions, { dtype, device }: Compute): TrainOptions {
  const { adapter, eval_data, memory_snapshot } = options;
  const limits = limitsOf(options, device);
  return {
    ...options,
    ...(limits && Number.isFinite(limits.budgetBytes) && { memory: options.memory ?? limits.budgetBytes }),
    model: existsSync(options.model) ? resolve(options.model) : options.model,
    output: resolve(options.output),
    data: options.data.map((file) => resolve(file)),
    ...(adapter !== undefined && { adapter: resolve(adapter) }),
    ...(memory_snapshot !== undefined && { memory_snapshot: resolve(memory_snapshot) }),
    ...(eval_data !== undefined && { eval_data: eval_data.map((file) => resolve(file)) }),
    dtype: ({ float32: "fp32", bfloat16: "bf16", float16: "fp16" } as const)[dtype],
    device,
  };
}

/**
 * Makes the factors: those of the checkpoint, of the adapter to start from (which brings rank, scale and
 * targets), or new ones.
 */
function loraOf(
  { options, opened: { config }, checkpoint }: Opening,
  held: { device: Device; gradients: Gradients; copies: DType | undefined },
): Lora {
  const folder = checkpoint?.folder ?? options.adapter;
  const { lora_dropout: dropout, adapter_keys: keys } = options;
  if (folder !== undefined) {
    return scope(() => loraFromAdapter(config, readAdapter(folder), { ...held, dropout, keys }));
  }
  return createLora(config, {
    rank: options.lora_r,
    alpha: options.lora_alpha,
    rslora: options.lora_rslora,
    targets: options.lora_targets,
    seed: options.seed,
    dropout,
    keys,
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

/** Hashes the sizes and the last norm's weights, which two models of the same sizes do not share. */
function modelFingerprint({ config, norm }: { config: ModelConfig; norm: Model["norm"] }): string {
  return createHash("sha256").update(JSON.stringify(config)).update(norm.toBytes()).digest("hex");
}
