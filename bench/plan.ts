/**
 * Prints what the planner finds beside published figures (`make bench-plan`): the 4khd-7b preset, r 16, batch
 * 1, four fifths image tokens, the device's context included. With --markdown: README's table of what fits on
 * which card.
 */

import { HD_TILES } from "../src/data/pictures/hdTiles/hdTiles.ts";
import { batchOf } from "../src/plan/dryRun/batchShapes.ts";
import { officialRun } from "../src/plan/dryRun/officialRun.ts";
import type { SizedWorkload } from "../src/plan/planner.ts";
import { leastMemory } from "../src/plan/search.ts";
import {
  BASES,
  type BaseName,
  fitsTable,
  GIB,
  HOST_GIB,
  longestThatFits,
  plannerOf,
  SEQUENCE,
} from "./fits.ts";

const ANY = Number.POSITIVE_INFINITY;
/** A 4096 x 2160 picture in 13 x 7 tiles, and a dialogue. */
const PICTURE_TOKENS = 13_345;
const DIALOGUE_TOKENS = 256;
const PICTURE: SizedWorkload = {
  ...SEQUENCE,
  maxLength: PICTURE_TOKENS + DIALOGUE_TOKENS,
  pictureLimit: 91,
  imageShare: PICTURE_TOKENS / (PICTURE_TOKENS + DIALOGUE_TOKENS),
};

// biome-ignore format: columns line up
const LENGTHS = [
  // GiB; goals for bf16 streamed and NF4 resident; best published: an 8B language model with a resident 4-bit
  // base
  [8,   110_000,   60_000,    2_972],
  [12,  200_000,   150_000,   21_848],
  [16,  290_000,   240_000,   40_724],
  [24,  470_000,   420_000,   78_475],
  [40,  830_000,   780_000,   153_977],
  [80,  1_700_000, 1_600_000, 342_733],
] as const;

if (process.argv.includes("--markdown")) console.log(fitsTable());
else {
  leastForPicture();
  largest("streamed weights, bf16", "bf16, streamed", 1);
  largest("NF4 base resident", "NF4, resident", 2);
  console.log(
    "Published: QLoRA of an 8B language model, 4-bit base resident. Full fine-tuning of an 8B on one 141 GB card: 1.2 M tokens at 136 GB.",
  );
}

function leastForPicture(): void {
  console.log(
    `One 4096x2160 picture (${PICTURE_TOKENS} tokens) and ${DIALOGUE_TOKENS} tokens of dialogue, r 16, least memory:`,
  );
  row("streamed weights", least("bf16, streamed", ANY), 3.5);
  row("resident weights, boundaries on the host", least("bf16, resident", ANY), 18.5);
  row("nothing on the host", least("bf16, resident", 0), 22);
  row("NF4 base, resident", least("NF4, resident", ANY), 7);
  row("NF4 base, streamed", least("NF4, streamed", ANY), 2.8);
  const { rank, dropout, targets } = PICTURE;
  const official = officialRun({
    ...{ ...BASES["bf16, resident"].model, batch: batchOf(PICTURE, HD_TILES) },
    lora: { rank, dropout, targets },
  });
  console.log(
    `  official schedule                          ${(official.budgetedBytes / GIB).toFixed(2).padStart(6)} GiB`,
  );
}

function least(base: BaseName, hostBytes: number): number {
  const { weights } = BASES[base];
  const limits = { budgetBytes: ANY, hostBytes };
  return leastMemory(plannerOf(base), PICTURE, limits, { weights }).run.budgetedBytes / GIB;
}

function largest(what: string, base: BaseName, markColumn: 1 | 2): void {
  console.log(`\nLargest max_length, ${what}, host memory ${HOST_GIB} GiB:`);
  console.log("  memory   lorafit     mark       published");
  for (const marks of LENGTHS) {
    const [gib, , , published] = marks;
    const mark = marks[markColumn];
    const before = process.cpuUsage();
    const solved = longestThatFits(gib, base);
    const columns = [solved, mark, published].map((count) => count.toLocaleString("en-US").padStart(9));
    const { user, system } = process.cpuUsage(before); // of the processor, which others may share
    const searchS = ((user + system) / 1e6).toFixed(1);
    console.log(
      `  ${String(gib).padStart(2)} GiB  ${columns.join("  ")}   ${solved >= mark ? "reached" : "not reached"} (search ${searchS} s of the processor)`,
    );
  }
}

function row(what: string, gib: number, mark: number): void {
  console.log(
    `  ${what.padEnd(42)} ${gib.toFixed(2).padStart(6)} GiB   mark ${mark} GiB, ${gib <= mark ? "reached" : "not reached"}`,
  );
}
