/** Amounts, places and cautions in the words of `lorafit plan`. */

import type { Asked } from "../../answer/answer.ts";
import type { Way } from "../../answer/otherWays.ts";
import { MOST_USEFUL_RANK } from "../../answer/solved.ts";
import { formatBytes, formatCount, GIB } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import type { SizedWorkload } from "../../plan/planner.ts";
import { table } from "../output/output.ts";

/** A smaller amount would be shown as 0.00 GiB, and is left out. */
export const SHOWN_BYTES = 0.005 * GIB;

/** Pads to columns of one width. An amount below a tenth of a GiB is in MiB, for tiny models. */
export function gib(bytes: number): string {
  if (Math.abs(bytes) < 0.1 * GIB) return `${(bytes / 2 ** 20).toFixed(1).padStart(6)} MiB`;
  const amount = bytes / GIB;
  return `${amount.toFixed(amount < 1000 ? 2 : amount < 10_000 ? 1 : 0).padStart(6)} GiB`;
}

/** "+44.8 MiB", "-0.83 GiB". */
export function signed(bytes: number): string {
  return `${bytes < 0 ? "-" : "+"}${gib(Math.abs(bytes)).trim()}`;
}

/** "an A30", "a GeForce RTX 3080": the article that fits how the name is spoken. */
export function withArticle(title: string): string {
  return `${/^([AEIOU]|[FHLMNRSX](?=[A-Z\d]))/.test(title) ? "an" : "a"} ${title}`;
}

/** How the two places are called. */
export interface Places {
  /** The device's memory: "VRAM". */
  device: string;
  /** Where things are that are not on the device: "in RAM". */
  where: string;
  /** After an amount: "of RAM". */
  of: string;
  /** Head of a column. */
  column: string;
}

const CARD_PLACES: Places = { device: "VRAM", where: "in RAM", of: "of RAM", column: "RAM" };

/** A CPU's two pools are the same memory; --memory counts the first. */
const CPU_PLACES: Places = {
  ...{ device: "memory", where: "outside the limit" },
  ...{ of: "outside the limit", column: "outside" },
};

export function elsewhere({ kind }: Pick<Asked["device"], "kind">): Places {
  return kind === "card" ? CARD_PLACES : CPU_PLACES;
}

/** "and 19.30 GiB of RAM"; nothing for an amount that is not worth a word. */
export function besideIt({ device }: Pick<Asked, "device">, hostBytes: number): string {
  return hostBytes >= SHOWN_BYTES ? `and ${gib(hostBytes).trim()} ${elsewhere(device).of}` : "";
}

/** Stands for the changes of a leaner policy that has no words for them. */
export const LEAN_REST = "smaller parts of the loss and of pictures";

/** Says that alpha costs no memory, and which alpha a run has without the option. */
export function alphaLever({ rank }: Pick<SizedWorkload, "rank">): string {
  return `costs no memory; follows lora_r unless given, ${formatCount(rank)} here`;
}

/** Samples of a step of the official recipe: micro-batches of one sample. */
const OFFICIAL_SAMPLES = 8;

/** Returns a line for each size that fits and is of no use all the same. */
export function cautions({ model }: Pick<Asked, "model">, workload: SizedWorkload): string[] {
  const { rank, pictureLimit, maxLength, batchSize, imageShare, accumulation = 1 } = workload;
  const { trained, config } = model;
  const { limit } = pictureFormOf(config);
  const samples = batchSize * accumulation;
  const lines: [boolean, string][] = [
    [
      maxLength > trained.maxLength,
      `max_length ${formatCount(maxLength)} is beyond the ${formatCount(trained.maxLength)} tokens that the model was trained with.`,
    ],
    [
      pictureLimit > trained.pictureLimit && imageShare === undefined,
      `${limit.option} ${formatCount(pictureLimit)} is beyond ${trained.pictureLimit}, the most that the model was trained with.`,
    ],
    [
      rank > MOST_USEFUL_RANK,
      `lora_r ${formatCount(rank)} is more than is of use: ranks above ${MOST_USEFUL_RANK} rarely help.`,
    ],
    [
      samples > 32 * OFFICIAL_SAMPLES,
      `A step would learn from ${formatCount(samples)} samples at once (${formatCount(batchSize)} x ${accumulation} micro-batches); the official recipe uses ${OFFICIAL_SAMPLES}.`,
    ],
  ];
  return lines.flatMap(([isMeant, line]) => (isMeant ? [line] : []));
}

/** One row for each change with which something fits. */
export function waysTable(asked: Asked, ways: readonly Way[]): string {
  return table(
    ways.map(({ option, most, deviceBytes, hostBytes, remark = "" }) => [
      `  ${option}`,
      most ? mostWords(option, most) : formatBytes(deviceBytes),
      besideIt(asked, hostBytes),
      remark,
    ]),
  );
}

function mostWords(option: string, { value, isCapped, isLargestTried }: NonNullable<Way["most"]>): string {
  const capped = option === "--lora-r" ? " (more rarely helps)" : " (the model's training limit)";
  const open = isLargestTried ? " or more" : isCapped ? capped : "";
  return `up to ${formatCount(value)}${open}`;
}
