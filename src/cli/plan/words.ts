/** Amounts, places and cautions in the words of `lorafit plan`. */
import { formatCount, GIB } from "../../errors.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import type { Planner, Workload } from "../../plan/planner.ts";
import { UNKNOWNS, type Unknown } from "../../plan/solvable.ts";
import type { Question } from "./question.ts";

/** Less than this is 0.00 GiB, and left out. */
export const SHOWN_BYTES = 0.005 * GIB;

/** In columns of one width: below a tenth of a GiB in MiB, which says more of a tiny model. */
export function gib(bytes: number): string {
  if (Math.abs(bytes) < 0.1 * GIB) return `${(bytes / 2 ** 20).toFixed(1).padStart(6)} MiB`;
  const amount = bytes / GIB;
  return `${amount.toFixed(amount < 1000 ? 2 : amount < 10_000 ? 1 : 0).padStart(6)} GiB`;
}

/** "+44.8 MiB", "-0.83 GiB". */
export function signed(bytes: number): string {
  return `${bytes < 0 ? "-" : "+"}${gib(Math.abs(bytes)).trim()}`;
}

/** "an A30", "a GeForce RTX 3080": letters that are spelled out are said by their names. */
export function withArticle(title: string): string {
  return `${/^([AEIOU]|[FHLMNRSX](?=[A-Z\d]))/.test(title) ? "an" : "a"} ${title}`;
}

/** Where things lie that do not lie on the device; a CPU's both pools are the same machine's memory. */
export function elsewhere({ card }: Pick<Question, "card">): { where: string; of: string; column: string } {
  return card
    ? { where: "in RAM", of: "of RAM", column: "RAM" }
    : { where: "set aside", of: "set aside", column: "aside" };
}

const SHORT_NAMES = { float32: "fp32", bfloat16: "bf16", float16: "fp16" } as const;

/** What the frozen base is held in. */
export function baseName({ base, dtype }: Pick<Planner, "base" | "dtype">): string {
  return base === "bf16" ? SHORT_NAMES[dtype] : base;
}

/** "and 19.30 GiB of RAM": what a plan takes there; nothing where that is not worth the name. */
export function besideIt(
  question: Pick<Question, "card">,
  { run }: { run: Pick<DryRun, "hostBytes"> },
): string {
  return run.hostBytes >= SHOWN_BYTES ? `and ${gib(run.hostBytes).trim()} ${elsewhere(question).of}` : "";
}

/** The largest of something that fits; where no more is tried, it says so. */
export function largestOf(unknown: Unknown, solved: number): string {
  return `${formatCount(solved)}${solved >= UNKNOWNS[unknown].most ? " or more" : ""}`;
}

/** Says that alpha costs no memory, and which alpha to set. */
export function alphaLever({ rank }: Pick<Workload, "rank">): string {
  return `costs nothing; follows lora_r unless given, ${formatCount(rank)} here`;
}

/** The official recipe adds up so many micro-batches of one sample. */
const OFFICIAL_SAMPLES = 8;
/** The official 4KHD model was trained with so many tiles at most. */
export const OFFICIAL_HD_NUM = 55;

/** What fits and is of no use all the same, a line each. */
export function cautions({ planner }: Pick<Question, "planner">, workload: Workload): string[] {
  const { rank, hdNum, maxLength, batchSize, imageShare, accumulation = 1 } = workload;
  const samples = batchSize * accumulation;
  const { maxPositions } = planner.config;
  const parts = `${formatCount(batchSize)} x ${accumulation} micro-batches`;
  return [
    ...(rank > 256
      ? [`lora_r ${formatCount(rank)} is more than is of use: more than 4 to 32 rarely helps.`]
      : []),
    ...(hdNum > OFFICIAL_HD_NUM && imageShare === undefined
      ? [
          `hd_num ${formatCount(hdNum)} is beyond ${OFFICIAL_HD_NUM}, up to which the official model was trained.`,
        ]
      : []),
    ...(maxLength > maxPositions
      ? [
          `max_length ${formatCount(maxLength)} is beyond the ${formatCount(maxPositions)} tokens that the model was made for.`,
        ]
      : []),
    ...(samples > 32 * OFFICIAL_SAMPLES
      ? [
          `a step would learn from ${formatCount(samples)} samples at once (${parts}); the official recipe takes ${OFFICIAL_SAMPLES}.`,
        ]
      : []),
  ];
}
