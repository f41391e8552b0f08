/**
 * Makes the error for data that does not fit in memory: what is too long, the memory it needs, and settings
 * that would fit.
 */

import { imageSize, type PictureSize } from "../../data/pictures/decode.ts";
import { pictureTokens } from "../../data/pictures/form.ts";
import type { ImageCompat } from "../../data/pictures/imageCompat.ts";
import { type LimitValues, limitOf } from "../../data/pictures/limits.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import { tooLongSample } from "../../data/samples/tooLong.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { formatBytes, formatCount, UserError } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import type { FixedPolicy } from "../../plan/ladder.ts";
import type { Limits, Planner, RunWorkload } from "../../plan/planner.ts";
import { leastMemory, solve } from "../../plan/search.ts";
import type { Pool } from "../../torch/device.ts";
import type { Demand } from "../data/memoryDemand.ts";
import { workloadOf } from "./policyByLength.ts";

export interface Misfit {
  planner: Planner;
  workload: RunWorkload;
  demand: Demand;
  limits: Limits;
  options: LimitValues & { image_compat: ImageCompat };
  /** Choices that the run has made whatever its policy. */
  fixed?: FixedPolicy | undefined;
}

const UNLIMITED: Limits = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };

/** Says that a run fits under no policy, or the evaluation beside it. */
export class TooLittleMemoryError extends UserError {
  readonly misfit: Misfit;
  /** Device memory that it needs at least, in bytes. */
  readonly neededBytes: number;

  constructor(
    message: string,
    fix: string,
    { misfit, neededBytes }: { misfit: Misfit; neededBytes: number },
  ) {
    super(message, { fix });
    this.misfit = misfit;
    this.neededBytes = neededBytes;
  }
}

/** Returns the error, and throws nothing. */
export async function tooLittleMemory(misfit: Misfit): Promise<TooLittleMemoryError> {
  const { planner, workload, demand, limits, fixed } = misfit;
  const { longest, mostTokens } = demand;
  const asked = workloadOf(workload, demand.shapeOf(mostTokens));
  const within = leastMemory(planner, asked, { ...limits, budgetBytes: Number.POSITIVE_INFINITY }, fixed);
  const isShortOfHost = within.run.hostBytes > limits.hostBytes;
  // with more host memory, more of the run may lie there
  const least = isShortOfHost ? leastMemory(planner, asked, UNLIMITED, fixed) : within;
  const what =
    mostTokens > longest.tokens
      ? `the largest micro-batch has up to ${formatCount(mostTokens)} tokens; the longest sample is ${describeSource(longest.source)}, with ${formatCount(longest.tokens)}`
      : `the longest sample, ${describeSource(longest.source)}, has ${formatCount(longest.tokens)} tokens`;
  const needed = { device: least.run.budgetedBytes, host: least.run.hostBytes };
  const given = { device: limits.budgetBytes, host: limits.hostBytes };
  const amounts = ({ device, host }: Record<Pool, number>): string =>
    `${formatBytes(device)}${isShortOfHost ? ` and ${formatBytes(host)} of the host` : ""}`;
  return new TooLittleMemoryError(
    `${amounts(given)} is too little: ${what}, which needs at least ${amounts(needed)}.`,
    toFit(least.run, limits, await waysToFit(misfit)),
    { misfit, neededBytes: needed.device },
  );
}

/** Lists the memory to pass, and other settings that fit. */
export function toFit(
  { budgetedBytes, hostBytes }: Pick<DryRun, "budgetedBytes" | "hostBytes">,
  limits: Limits,
  ways: readonly string[],
): string {
  const host = hostBytes > limits.hostBytes ? ` --host-memory ${inMebibytes(hostBytes)}` : "";
  return [`Pass --memory ${inMebibytes(budgetedBytes)}${host}`, ...ways].join("\nor   ");
}

/**
 * Finds settings with which the longest sample would fit: a lower limit for its pictures, or a max_length
 * that leaves it out.
 */
export async function waysToFit(misfit: Misfit): Promise<string[]> {
  const { demand } = misfit;
  const { longest, mostTokens } = demand;
  const tokens = longestThatFits(misfit);
  if (tokens === undefined || tokens >= mostTokens) return [];
  const samples = Math.floor(tokens / longest.tokens);
  if (mostTokens > longest.tokens && samples >= 1)
    return [`--batch-size ${samples}, or with --pack --max-length ${tokens}`];
  const lower = await lowerLimitFor(longest, tokens, misfit);
  return [
    ...(lower === undefined
      ? []
      : [`${lower}  (this sample then has at most ${formatCount(tokens)} tokens)`]),
    `--max-length ${tokens} --skip-bad  (leaves out what is longer)`,
  ];
}

/** Returns the most tokens that a sample with the same share of pictures may have. */
function longestThatFits({ planner, workload, demand, limits, fixed }: Misfit): number | undefined {
  const { longest, mostTokens } = demand;
  const imageShare = shareOfPictures(longest);
  const asked = { ...workload, maxLength: mostTokens, pictureLimit: 1, imageShare, batchSize: 1 };
  return solve(planner, "max-length", asked, limits, fixed)?.solved;
}

/** Returns the part of a sample that is picture, 0 to 1. */
export function shareOfPictures({ grids, tokens }: PreparedSample): number {
  return pictureTokens(grids) / tokens;
}

/** Finds the limit of pictures, as a flag, with which a sample has at most so many tokens. */
export async function lowerLimitFor(
  sample: PreparedSample,
  maxLength: number,
  { planner, options }: Pick<Misfit, "planner" | "options">,
): Promise<string | undefined> {
  const { grids, images } = sample;
  const form = pictureFormOf(planner.config);
  const given = limitOf(options, form.limit);
  const ownLimit = images.some(({ limit }) => limit !== given);
  const sizes: PictureSize[] = await Promise.all(
    images.map(({ path }) => imageSize(path, options.image_compat)),
  );
  const lower = tooLongSample(sample, { form, grids, sizes, ownLimit }, maxLength).needs?.limit;
  return lower && `--${lower.flag} ${lower.value}`;
}

function inMebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)}MiB`;
}
