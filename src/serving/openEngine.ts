/** Opens a checkpoint for serving: plans it, loads it as planned, and makes the engine of it. */
import { openImagePool } from "../data/pictures/imagePool.ts";
import { limitOf } from "../data/pictures/limits.ts";
import { formatBytes, formatCount, UserError } from "../errors.ts";
import { pictureFormOf, pictureRulesOf, tokenizerOf } from "../models/families.ts";
import { disposeModel, loadOpened } from "../models/weights.ts";
import type { Limits, PlannedModel } from "../plan/planner.ts";
import { usableMachineBytes } from "../plan/roomToPlanFor.ts";
import { OutOfMemoryError } from "../torch/device.ts";
import { type Device, isCard } from "../torch/dtypes.ts";
import {
  basesOf,
  type Compute,
  noticeIdleCard,
  noticeStored,
  noticeTwins,
  startCompute,
} from "../train/machine/compute.ts";
import { cardOf, limitsOf, loadedModel } from "../train/machine/modelPlanner.ts";
import { closeModel, type OpenedModel, openModel } from "../train/machine/openedModel.ts";
import { disposeAdapter, emptyTwin, loadAdapter, type ServedAdapter } from "./adapters.ts";
import { createEngine } from "./engine.ts";
import {
  DEFAULT_MAX_SEQUENCES,
  leastServing,
  type MakeAdapter,
  planServing,
  SERVING_WAYS,
  type ServingAsk,
  type ServingPlan,
} from "./planServing.ts";
import type { Engine, EngineOptions } from "./types.ts";

const DEFAULT_MAX_WAITING = 1024;
export const DEFAULT_BASE_NAME = "base";

/** Opens a model for serving. Throws UserError if it can't be loaded, or does not fit the memory limit. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const closers: (() => unknown)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).reverse()) await closer();
  };
  try {
    return await open(options, closers, close);
  } catch (thrown) {
    await close();
    throw thrown instanceof OutOfMemoryError ? outOfMemory(thrown) : thrown;
  }
}

async function open(
  options: EngineOptions,
  closers: (() => unknown)[],
  close: () => Promise<void>,
): Promise<Engine> {
  const { onNotice = () => {}, imageCompat = "lorafit", pictures = {} } = options;
  const opened = openModel(options.model, pictures);
  closers.push(() => closeModel(opened));
  const pictureLimit = limitOf(pictures, pictureFormOf(opened.config).limit);
  const tokenizer = await tokenizerOf(opened.files.folder);
  const compute = startCompute(opened, options);
  noticeIdleCard(options.device, (text) => onNotice(text));
  const adapters = loadAdapters(opened, compute, options.adapters ?? {}, closers);
  const maxAdapters = Math.max(adapters.length, options.maxAdapters ?? adapters.length + 1);
  const largest = adapters.reduce<ServedAdapter | undefined>(
    (most, { served }) => (most && most.bytes >= served.bytes ? most : served),
    undefined,
  );
  const plan = planOrRefuse(opened, compute, options, maxAdapters, largest);
  const model = loadOpened(opened, { ...compute, places: plan.way.places });
  closers.push(() => disposeModel(model));
  noticeStored(opened, onNotice);
  noticeTwins(compute.device, onNotice);
  const loader = openImagePool({ rules: pictureRulesOf(opened.config), compat: imageCompat });
  closers.push(() => loader.close());
  return createEngine({
    ...{ model, tokenizer, loader, imageCompat, pictureLimit, way: plan.way, shape: plan.shape },
    ...{ plannedPeakBytes: plan.run.budgetedBytes, adapterBytes: plan.adapterBytes },
    ...{ adapters, baseName: options.baseName ?? DEFAULT_BASE_NAME },
    ...{ maxWaiting: options.maxWaiting ?? DEFAULT_MAX_WAITING, onClosed: close },
  });
}

/** Loads the adapters that the engine starts with. */
function loadAdapters(
  { config }: OpenedModel,
  { dtype, device }: Compute,
  folders: Readonly<Record<string, string>>,
  closers: (() => unknown)[],
): { name: string; folder: string; served: ServedAdapter }[] {
  const loaded: { name: string; folder: string; served: ServedAdapter }[] = [];
  const freeUnused = (): void => {
    for (const { served } of loaded) disposeAdapter(served); // once more for those that the engine has freed
  };
  closers.push(freeUnused);
  for (const [name, folder] of Object.entries(folders))
    loaded.push({ name, folder, served: loadAdapter({ config, dtype, device }, folder) });
  return loaded;
}

/** Finds a plan within the memory limit. Throws UserError if there is none. */
function planOrRefuse(
  opened: OpenedModel,
  compute: Compute,
  options: EngineOptions,
  maxAdapters: number,
  largest: ServedAdapter | undefined,
): ServingPlan {
  const { device } = compute;
  const planned = {
    ...loadedModel(opened, { dtypeFor: () => compute.dtype, ...basesOf(options) }),
    target: isCard(device) ? cardOf(device) : ("cpu" as const),
  };
  const makeAdapter: MakeAdapter | undefined = largest && (() => emptyTwin(largest));
  const ask = askOf(options, opened.config.maxPositions, maxAdapters);
  const plan = planServing(planned, ask, limitsFor(options, device), makeAdapter);
  if (!plan) throw tooLittle(planned, ask, options, makeAdapter);
  if (options.maxTokens !== undefined && plan.shape.maxTokens < options.maxTokens)
    throw tooShort(plan, options.maxTokens);
  return plan;
}

function askOf(
  { weights = "auto", maxSequences = DEFAULT_MAX_SEQUENCES, maxTokens }: EngineOptions,
  maxPositions: number,
  maxAdapters: number,
): ServingAsk {
  return {
    maxSequences,
    maxTokens: Math.min(maxTokens ?? maxPositions, maxPositions),
    maxAdapters,
    ways: SERVING_WAYS.filter(({ name }) => weights === "auto" || name === weights),
  };
}

/** Returns the memory limits; on a CPU without any, this machine's memory. */
function limitsFor(options: EngineOptions, device: Device): Limits {
  const usable = usableMachineBytes();
  return limitsOf(options, device) ?? { budgetBytes: usable, hostBytes: usable, sumBytes: usable };
}

function tooLittle(
  planned: PlannedModel,
  ask: ServingAsk,
  { memory }: EngineOptions,
  makeAdapter: MakeAdapter | undefined,
): UserError {
  const { budgetedBytes } = leastServing(planned, ask, makeAdapter).run;
  const limit = memory === undefined ? "the memory of this machine" : `--memory ${formatBytes(memory)}`;
  return new UserError(`The model can't be served in ${limit}: it needs ${formatBytes(budgetedBytes)}.`, {
    fix: "Pass more --memory, --base nf4 for a smaller base model, or fewer --max-sequences.",
  });
}

function tooShort({ shape }: ServingPlan, asked: number): UserError {
  return new UserError(
    `There is no room for a request of ${formatCount(asked)} tokens: ${formatCount(shape.maxTokens)} fit.`,
    {
      fix: `Pass --max-tokens ${shape.maxTokens} or less, more --memory, or --base nf4 for a smaller base model.`,
    },
  );
}

function outOfMemory(cause: OutOfMemoryError): UserError {
  return new UserError(`The model does not fit: ${cause.message}.`, { fix: "Pass more --memory.", cause });
}
