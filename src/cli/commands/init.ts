/** `lorafit init`: checks a data set, plans for it, and writes a training configuration. */
import { existsSync } from "node:fs";
import { PlanOptions } from "../../answer/options.ts";
import { type Question, questionOf } from "../../answer/question.ts";
import { requireWritable, writeFileWhole } from "../../checkpoint/files/disk.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { formatBytes, formatCount, plural, UserError } from "../../errors.ts";
import type { SizedPlan } from "../../plan/planner.ts";
import { usableMachineBytes } from "../../plan/roomToPlanFor.ts";
import { fastestPlan } from "../../plan/search.ts";
import { commandLine, quoted } from "../../program.ts";
import { isCard } from "../../torch/dtypes.ts";
import { readySamples } from "../../train/data/dataset.ts";
import { chooseDevice } from "../../train/machine/compute.ts";
import { cardOf } from "../../train/machine/modelPlanner.ts";
import { trainOptions } from "../../train/options/options.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { checkHooks, formatDuration, type Output } from "../output/output.ts";
import { configText } from "../run/configText.ts";
import { inspectModel, type KnownModel } from "../session.ts";

type InitOptions = OptionsOf<"init">;

/** A data set read at one hd_num, and the plan for its longest sample. */
interface Candidate {
  hdNum: number;
  maxLength: number;
  samples: readonly PreparedSample[];
  question: Question;
  plan: SizedPlan;
}

/** Smaller pictures to try if the usual number of tiles does not fit. */
const SMALLER_HD_NUMS = [9, 4, 1];
/** No sample is longer: lengths are looked at before a limit is chosen. */
const ANY_LENGTH = 2 ** 24;
/** The limit is rounded up to a multiple of this, so that slightly longer samples can be added. */
const LENGTH_STEP = 64;

export async function run(options: InitOptions, output: Output): Promise<void> {
  const { out } = options;
  if (existsSync(out))
    throw new UserError(`${out} is there already.`, { fix: "Pass another --out, or remove it." });
  requireWritable(out);
  const known = await inspectModel(options.model);
  const usual = trainOptions({ model: "-", data: "-" }).hd_num;
  const hdNums = options.hd_num === undefined ? [usual, ...SMALLER_HD_NUMS] : [options.hd_num];
  let candidate: Candidate | undefined;
  for (const hdNum of hdNums) {
    candidate = await candidateAt(hdNum, known, options, output);
    if (candidate.plan.fits) break;
  }
  if (!candidate?.plan.fits) throw tooLarge(candidate as Candidate, options);
  if (options.eval_data)
    await readySamples(options.eval_data, known, readOptions(options, candidate), checkHooks(output));
  writeFileWhole(out, textOf(candidate, options));
  const { hdNum, maxLength, samples, plan } = candidate;
  output.record({
    ...{ config: out, samples: samples.length, hdNum, maxLength },
    ...{ peakBytes: plan.run.budgetedBytes, stepMs: plan.stepMs },
  });
  output.answer(`wrote ${out}: ${dataLine(candidate)}`);
  output.answer(planLine(candidate));
  output.next({ "Train with it": `train --config ${quoted(out)}` });
}

async function candidateAt(
  hdNum: number,
  known: KnownModel,
  options: InitOptions,
  output: Output,
): Promise<Candidate> {
  const { max_length } = options;
  const reading = readOptions(options, { hdNum, maxLength: max_length ?? ANY_LENGTH });
  const { samples } = await readySamples(options.data, known, reading, checkHooks(output));
  const longest = samples.reduce((most, { tokens }) => Math.max(most, tokens), 0);
  const maxLength = max_length ?? Math.ceil(longest / LENGTH_STEP) * LENGTH_STEP;
  output.flicker(`planning for ${formatCount(maxLength)} tokens`);
  const question = questionOf(planOptions(known.folder, { hdNum, maxLength }, options));
  const { planner, workload, limits, fixed } = question;
  const plan = fastestPlan(planner, workload, limits, fixed);
  output.endLive();
  return { hdNum, maxLength, samples, question, plan };
}

function readOptions(
  { image_compat, skip_bad }: InitOptions,
  { hdNum, maxLength }: Pick<Candidate, "hdNum" | "maxLength">,
) {
  return { hd_num: hdNum, max_length: maxLength, image_compat, skip_bad };
}

/** Returns plan options for the card that was named, the card in this machine, or its CPU with its memory. */
function planOptions(
  model: string,
  { hdNum, maxLength }: Pick<Candidate, "hdNum" | "maxLength">,
  { gpu, memory }: InitOptions,
): PlanOptions {
  const sizes = { model, hd_num: hdNum, max_length: maxLength, ...(memory !== undefined && { memory }) };
  if (gpu !== undefined) return PlanOptions.parse({ ...sizes, gpu });
  const device = chooseDevice(undefined);
  if (!isCard(device)) return PlanOptions.parse({ memory: usableMachineBytes(), ...sizes, device: "cpu" });
  const { name, memoryBytes } = cardOf(device);
  return PlanOptions.parse({ memory: memoryBytes, ...sizes, gpu: name });
}

function textOf(candidate: Candidate, options: InitOptions): string {
  const { model, data, eval_data, skip_bad, memory, out } = options;
  const { hdNum, maxLength } = candidate;
  return configText(
    {
      ...{ model, data, hd_num: hdNum, max_length: maxLength, output: "output" },
      ...(eval_data && { eval_data }),
      ...(skip_bad && { skip_bad }),
      ...(memory !== undefined && { memory }),
    },
    [
      dataLine(candidate),
      planLine(candidate),
      `Train with it:  ${commandLine(`train --config ${quoted(out)}`)}`,
    ],
  );
}

function dataLine({ samples, hdNum }: Candidate): string {
  const tokens = samples.map((sample) => sample.tokens);
  const [least, most] = [tokens.reduce((a, b) => Math.min(a, b)), tokens.reduce((a, b) => Math.max(a, b))];
  return `${plural(samples.length, "sample")} of ${formatCount(least)} to ${formatCount(most)} tokens at hd_num ${hdNum}.`;
}

function planLine({ plan, question, maxLength }: Candidate): string {
  const { budgetBytes } = question.limits;
  const of = Number.isFinite(budgetBytes) ? ` of ${formatBytes(budgetBytes)}` : "";
  return `Planned for ${question.device}: ${formatBytes(plan.run.budgetedBytes)}${of}, about ${formatDuration(plan.stepMs)} for a micro-batch of ${formatCount(maxLength)} tokens.`;
}

function tooLarge({ plan, question, hdNum, maxLength }: Candidate, { hd_num }: InitOptions): UserError {
  const needed = formatBytes(plan.run.budgetedBytes);
  const smaller = hd_num !== undefined && hd_num > 1 ? ["a smaller --hd-num"] : [];
  return new UserError(
    `Samples of ${formatCount(maxLength)} tokens at hd_num ${hdNum} need ${needed}, more than the ${formatBytes(question.limits.budgetBytes)} of ${question.device}.`,
    {
      fix: `Pass ${[...smaller, "a --gpu with more memory"].join(" or ")}, or shorten the longest samples: ${commandLine("validate")} names them.`,
    },
  );
}
