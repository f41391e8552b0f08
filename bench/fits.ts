/**
 * Finds the longest max_length that fits a memory, by place of the frozen base: the cells of README's table.
 */
import { OFFICIAL_TARGETS, PRESETS } from "../src/models/xcomposer2/spec.ts";
import { type PlannedModel, Planner, type SizedWorkload } from "../src/plan/planner.ts";
import { solve } from "../src/plan/search.ts";
import { type Card, findDevice } from "../src/plan/time/cards.ts";

export const GIB = 2 ** 30;
export const HOST_GIB = 256;

type CardModel = PlannedModel & { target: Card };

/** A card of the table's commonest kind: flash attention, 512 MiB of context. */
const target = findDevice("rtx-4090");
const bf16: CardModel = { model: PRESETS["4khd-7b"], dtype: "bfloat16", mapsWeights: true, target };

/** Where the base is and how precise. */
export const BASES = {
  "bf16, resident": { model: bf16, weights: "resident" },
  "NF4, resident": { model: { ...bf16, base: "nf4" }, weights: "resident" },
  "bf16, streamed": { model: bf16, weights: "streamed" },
  "NF4, streamed": { model: { ...bf16, base: "nf4" }, weights: "streamed" },
} as const satisfies Record<string, { model: CardModel; weights: "resident" | "streamed" }>;
export type BaseName = keyof typeof BASES;

const planners = new Map<PlannedModel, Planner>();

/** Shared, so that what was tried for one card is known for the next. */
export function plannerOf(base: BaseName): Planner {
  const { model } = BASES[base];
  const planner = planners.get(model) ?? new Planner(model);
  planners.set(model, planner);
  return planner;
}

/** r 16, batch 1, four fifths of a sequence image tokens. */
export const SEQUENCE: SizedWorkload = {
  ...{ rank: 16, dropout: 0.05, targets: OFFICIAL_TARGETS, batchSize: 1 },
  ...{ maxLength: 4096, pictureLimit: 16, imageShare: 0.8 },
};

/** The largest max_length within so much memory of a card and 256 GiB of the host's; 0 where nothing fits. */
export function longestThatFits(gib: number, base: BaseName): number {
  const limits = { budgetBytes: gib * GIB, hostBytes: HOST_GIB * GIB };
  const { weights } = BASES[base];
  return solve(plannerOf(base), "max-length", SEQUENCE, limits, { weights })?.solved ?? 0;
}

/** A length for a table: thousands, never rounded up. */
export function shownLength(tokens: number): string {
  if (tokens < 1000) return "-";
  const digits = 10 ** Math.max(3, Math.floor(Math.log10(tokens)) - 1);
  return (Math.floor(tokens / digits) * digits).toLocaleString("en-US");
}

const TABLE_GIB = [8, 12, 16, 24, 32, 48, 80];
const TABLE_BASES = ["bf16, resident", "NF4, resident", "bf16, streamed"] as const;

/** A table of what fits on which card, for the bench's report. */
export function fitsTable(): string {
  const rows = TABLE_GIB.map((gib) => {
    const cells = TABLE_BASES.map((base) => shownLength(longestThatFits(gib, base)));
    return `| ${[`${gib} GiB`, ...cells].join(" | ")} |`;
  });
  return [`| VRAM | ${TABLE_BASES.join(" | ")} |`, "|--:|--:|--:|--:|", ...rows].join("\n");
}
