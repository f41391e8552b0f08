/** The sizes and choices of the Plan screen, and the options of `lorafit plan` that they stand for. */
import type { PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";
import { limitsIn } from "../../lib/pictureLimits.ts";

export interface Asked {
  /** Name of a card, or `memory` for any card with so much memory, or `cpu`. */
  device: string;
  /** Cards of a machine that train together. */
  cards: number;
  /** An amount such as 24GiB; for `memory`, and as a cap on the others if it is not empty. */
  memory: string;
  model: string;
  maxLength: number;
  /** Limits of pictures by their options, those of the model's pictures alone; none: the model's default. */
  limits: Readonly<Record<string, number>>;
  rank: number;
  batchSize: number;
  /** Empty: as the model stores it. */
  base: string;
  /** Empty: the fastest that fits. */
  weights: string;
}

/** Values of the sliders. Any other can be typed. */
export const STEPS = {
  maxLength: [
    ...[256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768, 49_152],
    ...[65_536, 98_304, 131_072],
  ],
  rank: [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256],
  batchSize: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32],
  cards: [1, 2, 4, 8],
} as const;

export type Size = keyof typeof STEPS;

/** Returns what the address of the screen asks for, with defaults in place. */
export function askedFrom(query: URLSearchParams, choices: PlanChoices): Asked {
  const { here, models, defaults } = choices;
  const text = (key: keyof Asked, otherwise: string): string => query.get(key) ?? otherwise;
  const size = (key: Size, otherwise: number): number => {
    const value = Number(query.get(key));
    return Number.isInteger(value) && value > 0 ? value : otherwise;
  };
  return {
    device: text("device", here.gpu ?? "rtx-4090"),
    memory: text("memory", ""),
    model: text("model", models[0] ?? ""),
    maxLength: size("maxLength", defaults.maxLength),
    limits: limitsIn(query, choices.limits),
    ...{ rank: size("rank", defaults.rank), batchSize: size("batchSize", 1), cards: size("cards", 1) },
    ...{ base: text("base", ""), weights: text("weights", "") },
  };
}

/** Returns the query of an address that asks for the same; undefined stands for what it must not have. */
export function queryOf(
  { limits, ...asked }: Asked,
  choices: Pick<PlanChoices, "limits">,
): Record<string, string | undefined> {
  const none = choices.limits.map((option) => [option, undefined]);
  const given = Object.entries({ ...asked, ...limits }).map(([key, value]) => [key, String(value)]);
  return Object.fromEntries([...none, ...given]);
}

/** Returns the options as `lorafit plan` calls them; those left open are absent. */
export function optionsOf({ device, memory, ...asked }: Asked): Record<string, unknown> {
  const isCard = device !== "memory" && device !== "cpu";
  return {
    ...(isCard && { gpu: device }),
    ...(device === "cpu" && { device: "cpu" }),
    ...(device !== "cpu" && asked.cards > 1 && { gpus: asked.cards }),
    ...(memory.trim() !== "" && { memory: memory.trim() }),
    ...(device === "memory" && memory.trim() === "" && { memory: "24GiB" }),
    ...{ model: asked.model, max_length: asked.maxLength, ...asked.limits },
    ...{ lora_r: asked.rank, batch_size: asked.batchSize },
    ...(asked.base !== "" && { base: asked.base }),
    ...(asked.weights !== "" && { weights: asked.weights }),
  };
}

/** Returns the place of the step that is nearest to a value. */
export function nearestStep(steps: readonly number[], value: number): number {
  const away = (step: number): number => Math.abs(Math.log(step / value));
  return steps.reduce((best, step, place) => (away(step) < away(steps[best]!) ? place : best), 0);
}
