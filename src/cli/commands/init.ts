/** `lorafit init`: checks a data set, plans for it, and writes a training configuration. */

import { existsSync } from "node:fs";
import { PlanOptions } from "../../answer/options.ts";
import { type Question, questionOf } from "../../answer/question.ts";
import { requireWritable, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { givenLimit, limitOption } from "../../data/pictures/limits.ts";
import type { PictureLimit } from "../../data/pictures/pictureLimit.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { formatBytes, formatCount, plural, UserError } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import type { SizedPlan } from "../../plan/planner.ts";
import { usableMachineBytes } from "../../plan/roomToPlanFor.ts";
import { fastestPlan } from "../../plan/search.ts";
import { commandLine, quoted } from "../../program.ts";
import { isCard } from "../../torch/dtypes.ts";
import { type DataOptions, readySamples } from "../../train/data/dataset.ts";
import { chooseDevice } from "../../train/machine/compute.ts";
import { cardOf } from "../../train/machine/modelPlanner.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { checkHooks, formatDuration, type Output } from "../output/output.ts";
import { configText } from "../run/configText.ts";
import { inspectModel, type KnownModel } from "../session.ts";

type InitOptions = OptionsOf<"init">;

/** A data set read under one limit of its pictures, and the plan for its longest sample. */
interface Candidate {
  /** Limit of the tokens of a picture. */
  pictureLimit: number;
  maxLength: number;
  samples: readonly PreparedSample[];
  question: Question;
  plan: SizedPlan;
}

type Sizes = Pick<Candidate, "pictureLimit" | "maxLength">;

/** No sample is longer: lengths are looked at before a limit is chosen. */
const ANY_LENGTH = 2 ** 24;
/** The limit is rounded up to a multiple of this, so that slightly longer samples can be added. */
const LENGTH_STEP = 64;

export async function run(options: InitOptions, output: Output): Promise<void> {
  const { out } = options;
  if (existsSync(out))
    throw new UserError(`${out} is there already.`, { fix: "Pass another --out, or remove it." });
  requireWritable(out);
  const known = await inspectModel(options.model, options);
  const { limit } = pictureFormOf(known.config);
  const given = givenLimit(options, limit);
  let candidate: Candidate | undefined;
  for (const pictureLimit of given === undefined ? [limit.default, ...limit.smaller] : [given]) {
    candidate = await candidateAt(pictureLimit, known, options, output);
    if (candidate.plan.fits) break;
  }
  if (!candidate?.plan.fits) throw tooLarge(candidate as Candidate, given);
  if (options.eval_data)
    await readySamples(options.eval_data, known, readOptions(options, candidate, limit), checkHooks(output));
  writeFileWhole(out, textOf(candidate, options, limit));
  const { pictureLimit, maxLength, samples, plan } = candidate;
  output.record({
    ...{ config: out, samples: samples.length, [limit.key]: pictureLimit, maxLength },
    ...{ peakBytes: plan.run.budgetedBytes, stepMs: plan.stepMs },
  });
  output.answer(`wrote ${out}: ${dataLine(candidate, limit)}`);
  output.answer(planLine(candidate));
  output.next({ "Train with it": `train --config ${quoted(out)}` });
}

async function candidateAt(
  pictureLimit: number,
  known: KnownModel,
  options: InitOptions,
  output: Output,
): Promise<Candidate> {
  const { max_length } = options;
  const { limit } = pictureFormOf(known.config);
  const reading = readOptions(options, { pictureLimit, maxLength: max_length ?? ANY_LENGTH }, limit);
  const { samples } = await readySamples(options.data, known, reading, checkHooks(output));
  const longest = samples.reduce((most, { tokens }) => Math.max(most, tokens), 0);
  const maxLength = max_length ?? Math.ceil(longest / LENGTH_STEP) * LENGTH_STEP;
  output.flicker(`planning for ${formatCount(maxLength)} tokens`);
  const question = questionOf(planOptions(known.folder, { pictureLimit, maxLength }, options, limit));
  const { planner, workload, limits, fixed } = question;
  const plan = fastestPlan(planner, workload, limits, fixed);
  output.endLive();
  return { pictureLimit, maxLength, samples, question, plan };
}

function readOptions(
  { image_compat, skip_bad }: InitOptions,
  { pictureLimit, maxLength }: Sizes,
  limit: PictureLimit,
): DataOptions {
  return { ...limitOption(limit, pictureLimit), max_length: maxLength, image_compat, skip_bad };
}

/** Returns plan options for the card that was named, the card in this machine, or its CPU with its memory. */
function planOptions(
  model: string,
  { pictureLimit, maxLength }: Sizes,
  { gpu, memory, min_pixels }: InitOptions,
  limit: PictureLimit,
): PlanOptions {
  const sizes = {
    model,
    ...limitOption(limit, pictureLimit),
    max_length: maxLength,
    ...(min_pixels !== undefined && { min_pixels }),
    ...(memory !== undefined && { memory }),
  };
  if (gpu !== undefined) return PlanOptions.parse({ ...sizes, gpu });
  const device = chooseDevice(undefined);
  if (!isCard(device)) return PlanOptions.parse({ memory: usableMachineBytes(), ...sizes, device: "cpu" });
  const { name, memoryBytes } = cardOf(device);
  return PlanOptions.parse({ memory: memoryBytes, ...sizes, gpu: name });
}

function textOf(candidate: Candidate, options: InitOptions, limit: PictureLimit): string {
  const { model, data, eval_data, skip_bad, memory, out, min_pixels } = options;
  const { pictureLimit, maxLength } = candidate;
  return configText(
    {
      ...{ model, data, ...limitOption(limit, pictureLimit), max_length: maxLength, output: "output" },
      ...(min_pixels !== undefined && { min_pixels }),
      ...(eval_data && { eval_data }),
      ...(skip_bad && { skip_bad }),
      ...(memory !== undefined && { memory }),
    },
    [
      dataLine(candidate, limit),
      planLine(candidate),
      `Train with it:  ${commandLine(`train --config ${quoted(out)}`)}`,
    ],
  );
}

function dataLine({ samples, pictureLimit }: Candidate, { option }: PictureLimit): string {
  const tokens = samples.map((sample) => sample.tokens);
  const [least, most] = [tokens.reduce((a, b) => Math.min(a, b)), tokens.reduce((a, b) => Math.max(a, b))];
  return `${plural(samples.length, "sample")} of ${formatCount(least)} to ${formatCount(most)} tokens at ${option} ${pictureLimit}.`;
}

function planLine({ plan, question, maxLength }: Candidate): string {
  const { budgetBytes } = question.limits;
  const of = Number.isFinite(budgetBytes) ? ` of ${formatBytes(budgetBytes)}` : "";
  return `Planned for ${question.device}: ${formatBytes(plan.run.budgetedBytes)}${of}, about ${formatDuration(plan.stepMs)} for a micro-batch of ${formatCount(maxLength)} tokens.`;
}

function tooLarge(
  { plan, question, pictureLimit, maxLength }: Candidate,
  given: number | undefined,
): UserError {
  const { option, flag, range } = pictureFormOf(question.planner.config).limit;
  const needed = formatBytes(plan.run.budgetedBytes);
  const smaller = given !== undefined && given > range.least ? [`a smaller --${flag}`] : [];
  return new UserError(
    `Samples of ${formatCount(maxLength)} tokens at ${option} ${pictureLimit} need ${needed}, more than the ${formatBytes(question.limits.budgetBytes)} of ${question.device}.`,
    {
      fix: `Pass ${[...smaller, "a --gpu with more memory"].join(" or ")}, or shorten the longest samples: ${commandLine("validate")} names them.`,
    },
  );
}
