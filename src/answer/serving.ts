/** Answers `lorafit plan --serve`: how many answers of which length fit, as plain JSON. */
import { UsageError } from "../errors.ts";
import type { DryRun } from "../plan/dryRun/dryRun.ts";
import type { Limits } from "../plan/planner.ts";
import { plannedAdapter } from "../serving/adapters.ts";
import { DEFAULT_MAX_SEQUENCES, leastServing, planServing, SERVING_WAYS } from "../serving/planServing.ts";
import { trainOptions } from "../train/options/options.ts";
import type { PlanOptions } from "./options.ts";
import { servingQuestionOf } from "./question.ts";

export interface ServingAnswer {
  fits: boolean;
  device: string;
  /** Bytes of the limit on the device; null without one. */
  limitBytes: number | null;
  /** Peak bytes as planned; of the least that can be served if nothing fits. */
  peakBytes: number;
  hostBytes: number;
  /** Bytes on the device at the peak. */
  parts: { weights: number; adapters: number; keysAndValues: number; features: number; workingSet: number };
  weights: "resident" | "streamed";
  /** Tokens of all sequences and of the prefix cache together. */
  kvTokens: number;
  /** Tokens of the longest request with its answer. */
  maxTokens: number;
  maxSequences: number;
  adapters: number;
  /** How many sequences of a length fit at the same time. */
  lengths: { tokens: number; sequences: number }[];
}

/** Lengths that are shown: tokens of a prompt with its answer. */
const LENGTHS = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];

/** Options that ask about training. */
const OF_TRAINING = ["solve", "compare", "html", "snapshot", "policy", "max_length", "samples"] as const;

/** Plans serving. Throws UserError for options that do not belong together, or an unknown model or card. */
export function servingAnswerOf(options: PlanOptions): ServingAnswer {
  const other = OF_TRAINING.find((name) => options[name] !== undefined);
  if (other)
    throw new UsageError(
      `--${other.replaceAll("_", "-")} is about training, and --serve plans no training.`,
      {
        fix: "Leave one of the two out.",
      },
    );
  const { planned, limits, device } = servingQuestionOf(options);
  const { lora_r: rank } = trainOptions({
    model: "-",
    data: "-",
    recipe: options.recipe,
    lora_r: options.lora_r,
  });
  const { weights, adapters: maxAdapters, max_sequences: maxSequences = DEFAULT_MAX_SEQUENCES } = options;
  const ask = {
    ...{ maxSequences, maxAdapters, maxTokens: planned.model.maxPositions },
    ways: SERVING_WAYS.filter(({ name }) => weights === undefined || name === weights),
  };
  const make = (model: Parameters<typeof plannedAdapter>[0]) => plannedAdapter(model, rank);
  const found = planServing(planned, ask, limits, make);
  const { run, shape, way, adapterBytes } = found ?? leastServing(planned, ask, make);
  const { kvTokens, maxTokens } = shape;
  return {
    fits: found !== undefined,
    device,
    limitBytes: finite(limits),
    peakBytes: run.budgetedBytes,
    hostBytes: run.hostBytes,
    parts: partsOf(run, adapterBytes),
    weights: way.name,
    ...{ kvTokens, maxTokens, maxSequences, adapters: maxAdapters },
    lengths: found
      ? LENGTHS.filter((tokens) => tokens <= maxTokens).map((tokens) => ({
          tokens,
          sequences: Math.min(maxSequences, Math.floor(kvTokens / tokens)),
        }))
      : [],
  };
}

/** Splits a peak: the pool of keys and values is booked as activations that are kept. */
function partsOf({ device, budgetedBytes }: DryRun, adapters: number): ServingAnswer["parts"] {
  const { weights, boundaryActivations: keysAndValues, visionFeatures: features } = device.categories;
  const workingSet = budgetedBytes - weights - adapters - keysAndValues - features;
  return { weights, adapters, keysAndValues, features, workingSet };
}

function finite({ budgetBytes }: Limits): number | null {
  return Number.isFinite(budgetBytes) ? budgetBytes : null;
}
