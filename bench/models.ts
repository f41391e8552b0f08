/**
 * Plans every preset at common sizes of cards (`make bench-plan`): the least memory for one page of 4096 x
 * 2160 pixels at full resolution, and the largest picture by memory. Writes both tables into docs/models.md;
 * with names of presets as arguments, prints the tables of those instead. Needs no GPU and no weights.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { PictureForm } from "../src/data/pictures/form.ts";
import type { PictureRules } from "../src/data/pictures/forms.ts";
import { tilePixelsOf } from "../src/data/pictures/hdTiles/hdRules.ts";
import { formatCount } from "../src/errors.ts";
import { officialTargets, PRESETS, pictureFormOf, pictureRulesOf } from "../src/models/families.ts";
import type { ModelConfig } from "../src/models/family.ts";
import { batchOf, DIALOGUE_TOKENS } from "../src/plan/dryRun/batchShapes.ts";
import { officialRun } from "../src/plan/dryRun/officialRun.ts";
import { type PlannedModel, Planner, type SizedWorkload } from "../src/plan/planner.ts";
import { leastMemory, solve } from "../src/plan/search.ts";
import type { Unknown } from "../src/plan/solvable.ts";
import { findDevice } from "../src/plan/time/cards.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { GIB, HOST_GIB } from "./fits.ts";

const PAGE = { width: 4096, height: 2160 };
const SIZES_GIB = [8, 12, 16, 24, 32, 48, 80];
const BASES = ["bf16", "nf4"] as const;
const ANY = Number.POSITIVE_INFINITY;

/** Returns the side of tiles in pixels, if the form scales pictures up to its limit. */
function tileSideOf(rules: PictureRules): number | undefined {
  if (rules.form === "hdTiles") return tilePixelsOf(rules);
  return rules.form === "internvlTiles" && !rules.isWhole ? rules.tilePixels : undefined;
}

const DOCUMENT = join(packageRoot, "docs", "models.md");

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv.slice(2));

function main(asked: string[]): void {
  const names = asked.length > 0 ? asked : Object.keys(PRESETS);
  const rows = names.map((name) => {
    const startMs = processorMs();
    const row = rowsOf(name, PRESETS[name]!);
    console.error(`${name}: ${((processorMs() - startMs) / 1000).toFixed(0)} s of the processor`);
    return row;
  });
  const text = tables(rows);
  if (asked.length > 0) console.log(text);
  else writeFileSync(DOCUMENT, withTables(readFileSync(DOCUMENT, "utf8"), text));
}

interface ModelRows {
  name: string;
  page: string[];
  /** A row for each base. */
  largest: string[][];
}

function rowsOf(name: string, model: ModelConfig): ModelRows {
  const target = findDevice("rtx-4090"); // of the commonest kind: flash attention, 512 MiB of context
  const form = pictureFormOf(model);
  const page = pageOf(model, form);
  const pageTokens = page.maxLength - DIALOGUE_TOKENS;
  const mostTokens = form.largest(form.limit.range.most).tokens;
  const least: string[] = [];
  const largest: string[][] = [];
  for (const base of BASES) {
    const planned: PlannedModel = { model, dtype: "bfloat16", base, mapsWeights: true, target };
    const planner = new Planner(planned);
    for (const weights of ["resident", "streamed"] as const)
      least.push(
        inGib(
          leastMemory(planner, page, { budgetBytes: ANY, hostBytes: ANY }, { weights }).run.budgetedBytes,
        ),
      );
    const cells = [
      ...SIZES_GIB.map((gib) => largestPicture(planner, form, gib, "resident")),
      largestPicture(planner, form, SIZES_GIB[0]!, "streamed"),
    ];
    largest.push(cells.map((tokens) => shownTokens(tokens, pageTokens, mostTokens)));
  }
  const { rank, dropout, targets } = page;
  const official = officialRun({
    ...{ model, dtype: "bfloat16" as const, mapsWeights: true, target, batch: batchOf(page, form) },
    lora: { rank, dropout, targets },
  });
  return { name, page: [formatCount(pageTokens), ...least, inGib(official.budgetedBytes)], largest };
}

/** Returns a sample with one page at full resolution and a dialogue. */
function pageOf(model: ModelConfig, form: PictureForm): SizedWorkload {
  const side = tileSideOf(pictureRulesOf(model));
  const along = (pixels: number): number => Math.ceil(pixels / side!);
  const limit = side === undefined ? form.limit.range.most : along(PAGE.width) * along(PAGE.height);
  const { tokens } = form.layout(PAGE, limit);
  const maxLength = tokens + DIALOGUE_TOKENS;
  return { ...askedOf(model), maxLength, pictureLimit: limit, imageShare: tokens / maxLength };
}

function askedOf(model: ModelConfig): SizedWorkload {
  const shape = { rank: 16, dropout: 0.05, targets: officialTargets(model), batchSize: 1 };
  return { ...shape, maxLength: 2 * DIALOGUE_TOKENS, pictureLimit: 1, imageShare: undefined };
}

/** Returns the tokens of the largest picture that fits with a dialogue; 0 if none does. */
function largestPicture(
  planner: Planner,
  form: PictureForm,
  gib: number,
  weights: "resident" | "streamed",
): number {
  const limits = { budgetBytes: gib * GIB, hostBytes: HOST_GIB * GIB };
  const { flag, usual } = form.limit;
  const asked = { ...askedOf(planner.config), pictureLimit: usual[0]! };
  const found = solve(planner, flag as Unknown, asked, limits, { weights });
  return found ? form.largest(found.solved).tokens : 0;
}

/** Words for a count of tokens: "all" at the end of the search, in brackets if a full page has more. */
function shownTokens(tokens: number, pageTokens: number, mostTokens: number): string {
  if (tokens === 0) return "-";
  if (tokens >= mostTokens) return "all";
  return tokens >= pageTokens ? formatCount(tokens) : `(${formatCount(tokens)})`;
}

function inGib(bytes: number): string {
  return (bytes / GIB).toFixed(1);
}

function tables(rows: readonly ModelRows[]): string {
  const page = [
    "| model | tokens | bf16 | bf16, streamed | NF4 | NF4, streamed | official, at least |",
    "|---|--:|--:|--:|--:|--:|--:|",
    ...rows.map(({ name, page }) => `| \`${name}\` | ${page.join(" | ")} |`),
  ];
  const sizes = [...SIZES_GIB.map((gib) => `${gib} GiB`), `${SIZES_GIB[0]} GiB, streamed`];
  const largest = BASES.flatMap((base, index) => [
    "",
    `${base === "nf4" ? "NF4" : base}:`,
    "",
    `| model | ${sizes.join(" | ")} |`,
    `|---|${sizes.map(() => "--:|").join("")}`,
    ...rows.map(({ name, largest }) => `| \`${name}\` | ${largest[index]!.join(" | ")} |`),
  ]);
  return [
    "Least VRAM in GiB for one page of 4096 x 2160 pixels at full resolution and 256 tokens of text:",
    "",
    ...page,
    "",
    "Tokens of the largest picture that fits beside 256 tokens of text, frozen weights on the card except in the",
    `last column, with ${HOST_GIB} GiB of RAM. all: up to the end of the search; in brackets: less than a full page.`,
    ...largest,
  ].join("\n");
}

/** Replaces the tables of a section, which stand between two comments. */
function withTables(document: string, text: string): string {
  const pattern = /(<!-- make bench-plan -->\n)[\s\S]*?(\n<!-- end -->)/;
  if (!pattern.test(document)) throw new Error(`${DOCUMENT} has no place for the tables of make bench-plan`);
  return document.replace(pattern, (_, before: string, after: string) => `${before}\n${text}\n${after}`);
}

function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
