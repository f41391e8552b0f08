import { type LimitFlag, PICTURE_LIMITS } from "../data/pictures/limits.ts";

const limits = Object.fromEntries(
  Object.values(PICTURE_LIMITS).map(({ flag, range }) => [flag, { key: "pictureLimit", ...range }]),
) as Record<LimitFlag, { key: "pictureLimit"; least: number; most: number }>;

/**
 * The settings that a plan can solve for. They are separate from the search, because options are read even if
 * the engine is not built yet.
 */
export const UNKNOWNS = {
  "max-length": { key: "maxLength", least: 64, most: 2 ** 24 },
  ...limits,
  "lora-r": { key: "rank", least: 1, most: 4096 },
  "batch-size": { key: "batchSize", least: 1, most: 4096 },
} as const;

export type Unknown = keyof typeof UNKNOWNS;
