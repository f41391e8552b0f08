/** Opens the data of a run: its samples, how long it goes on, and which micro-batches it has. */
import { openImagePool } from "../../data/pictures/imagePool.ts";
import { splitSamples } from "../../data/samples/split.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { countBatches, type Packing, planBatches } from "../../data/stream/packing.ts";
import { formatCount, plural } from "../../errors.ts";
import { pictureRulesOf, tokenizerOf } from "../../models/families.ts";
import type { FactStream } from "../facts/factStream.ts";
import type { Checkpoint } from "../folder/checkpoints.ts";
import { insteadOfSkipping } from "../folder/resume.ts";
import type { TrainingData } from "../loop/run.ts";
import type { OpenedModel } from "../machine/openedModel.ts";
import type { TrainOptions } from "../options/options.ts";
import { type Schedule, stepsOfRatio } from "../options/schedule.ts";
import { readySamples, samplerOf } from "./dataset.ts";

/** Reads and checks the samples of a run, and opens the pool that loads their pictures. */
export async function openData(
  options: TrainOptions,
  { files, config }: OpenedModel,
  { checkpoint, facts }: { checkpoint: Checkpoint | undefined; facts: FactStream },
): Promise<TrainingData> {
  const tokenizer = await tokenizerOf(files.folder);
  const reader = { tokenizer, config };
  const hooks = {
    notice: facts.notice,
    onProgress: (done: number, total: number) => facts.say({ fact: "check", done, total }),
  };
  const ready = await readySamples(options.data, reader, options, {
    ...hooks,
    insteadOfSkipping: checkpoint && insteadOfSkipping(checkpoint),
  });
  const evaluated = options.eval_data && (await readySamples(options.eval_data, reader, options, hooks));
  const { samples, evalSamples } =
    options.val_size === undefined
      ? { samples: ready.samples, evalSamples: evaluated?.samples ?? [] }
      : setAside(ready.samples, options.val_size, options.seed, facts);
  const sampler = samplerOf({ ...ready, samples }, options);
  return {
    ...{ samples, evalSamples, sampler },
    packing: options.pack
      ? { by: "tokens", tokens: options.max_length }
      : { by: "samples", samples: options.batch_size },
    draws: "epochs" in options ? options.epochs * sampler.epochDraws : Number.POSITIVE_INFINITY,
    tokenizer,
    pictures: openImagePool({ rules: pictureRulesOf(config), compat: options.image_compat }),
  };
}

/** Splits samples into those to train on and those to evaluate on, and reports how many. */
function setAside(
  all: PreparedSample[],
  valSize: number,
  seed: number,
  { notice }: FactStream,
): Pick<TrainingData, "samples" | "evalSamples"> {
  const { train, validation } = splitSamples(all, valSize, seed);
  notice(`${formatCount(validation.length)} of ${plural(all.length, "sample")} set aside for evaluation`);
  return { samples: train, evalSamples: validation };
}

/**
 * Counts the steps of the run. Accumulation continues across the ends of epochs; the last step takes what is
 * left, so that no sample is lost.
 */
export function scheduleOf(
  options: TrainOptions,
  { samples, sampler, packing, draws }: TrainingData,
): Schedule {
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

/** Returns the tokens of the run's micro-batches; if each is a single sample, of all samples. */
export function lengthsOf(
  { gradient_accumulation }: TrainOptions,
  { samples, sampler, packing, draws }: TrainingData,
  { totalSteps }: Schedule,
): Set<number> {
  if (isSingle(packing)) return new Set(samples.map(({ tokens }) => tokens));
  const tokensOf = (draw: number): number => samples[sampler.at(draw).sample]!.tokens;
  const lengths = new Set<number>();
  let batches = totalSteps * gradient_accumulation;
  for (const planned of planBatches(tokensOf, packing, draws)) {
    lengths.add(planned.draws.reduce((sum, draw) => sum + tokensOf(draw), 0));
    if (--batches === 0) break;
  }
  return lengths;
}

function isSingle(packing: Packing): boolean {
  return packing.by === "samples" && packing.samples === 1;
}
