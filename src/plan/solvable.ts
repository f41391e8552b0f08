/**
 * The settings that a plan can solve for. They are separate from the search, because options are read even if
 * the engine is not built yet.
 */
export const UNKNOWNS = {
  "max-length": { key: "maxLength", least: 64, most: 2 ** 24 },
  "hd-num": { key: "hdNum", least: 1, most: 4096 },
  "lora-r": { key: "rank", least: 1, most: 4096 },
  "batch-size": { key: "batchSize", least: 1, most: 4096 },
} as const;

export type Unknown = keyof typeof UNKNOWNS;
