/**
 * What the planner finds, beside what others have published: `make bench-plan`. The 4khd-7b preset with its bf16 base, r 16, batch 1, 0.8 of
 * a sequence image tokens, the device's context included; a card of the table's commonest kind (flash attention, 512 MiB of context).
 */
import { OFFICIAL_TARGETS } from "../src/models/lora.ts";
import { PRESETS } from "../src/models/spec.ts";
import { findDevice } from "../src/plan/devices.ts";
import { officialRun } from "../src/plan/official.ts";
import { batchOf, leastMemory, Planner, solve, type Workload } from "../src/plan/search.ts";

const GIB = 2 ** 30;
const ANY = Number.POSITIVE_INFINITY;
const HOST_GIB = 256;
/** A 4096 x 2160 picture in 13 x 7 tiles, and a dialogue. */
const PICTURE_TOKENS = 13_345;
const DIALOGUE_TOKENS = 256;

// biome-ignore format: columns line up
const LENGTHS = [
  // GiB, mark, best published: an 8B language model with a resident 4-bit base
  [8,   110_000,   2_972],
  [12,  200_000,   21_848],
  [16,  290_000,   40_724],
  [24,  470_000,   78_475],
  [40,  830_000,   153_977],
  [80,  1_700_000, 342_733],
] as const;

const model = { model: PRESETS["4khd-7b"], dtype: "bfloat16", mapsWeights: true } as const;
const card = findDevice("rtx-4090");
const workload: Workload = {
  ...{ rank: 16, dropout: 0.05, targets: OFFICIAL_TARGETS, batchSize: 1 },
  ...{
    maxLength: PICTURE_TOKENS + DIALOGUE_TOKENS,
    hdNum: 91,
    imageShare: PICTURE_TOKENS / (PICTURE_TOKENS + DIALOGUE_TOKENS),
  },
};

console.log(
  `One 4096x2160 picture (${PICTURE_TOKENS} tokens) and ${DIALOGUE_TOKENS} tokens of dialogue, r 16, least memory:`,
);
const planner = new Planner({ ...model, target: card });
const least = (hostBytes: number, weights: "resident" | "streamed"): number =>
  leastMemory(planner, workload, { budgetBytes: ANY, hostBytes }, { weights }).run.budgetedBytes / GIB;
row("streamed weights", least(ANY, "streamed"), 3.5);
row("resident weights, boundaries on the host", least(ANY, "resident"), 18.5);
row("nothing on the host", least(0, "resident"), 22);
const { rank, dropout, targets } = workload;
const official = officialRun({
  ...{ ...model, target: card },
  ...{ batch: batchOf(workload), lora: { rank, dropout, targets } },
});
console.log(
  `  official schedule                          ${(official.budgetedBytes / GIB).toFixed(2).padStart(6)} GiB`,
);

console.log(`\nLargest max_length, streamed weights, host memory ${HOST_GIB} GiB:`);
console.log("  memory   lorafit     mark       published");
for (const [gib, mark, published] of LENGTHS) {
  const startMs = performance.now();
  const limits = { budgetBytes: gib * GIB, hostBytes: HOST_GIB * GIB };
  const sequence = { ...workload, imageShare: 0.8 };
  const solved =
    solve(new Planner({ ...model, target: card }), "max-length", sequence, limits, { weights: "streamed" })
      ?.solved ?? 0;
  const columns = [solved, mark, published].map((count) => count.toLocaleString("en-US").padStart(9));
  const searchS = ((performance.now() - startMs) / 1000).toFixed(1);
  console.log(
    `  ${String(gib).padStart(2)} GiB  ${columns.join("  ")}   ${solved >= mark ? "reached" : "not reached"} (search ${searchS} s)`,
  );
}
console.log(
  "Published: QLoRA of an 8B language model, 4-bit base resident. Full fine-tuning of an 8B on one 141 GB card: 1.2 M tokens at 136 GB.",
);

function row(what: string, gib: number, mark: number): void {
  console.log(
    `  ${what.padEnd(42)} ${gib.toFixed(2).padStart(6)} GiB   mark ${mark} GiB, ${gib <= mark ? "reached" : "not reached"}`,
  );
}
