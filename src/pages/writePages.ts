/**
 * Writes synthetic document pages with small print, and questions about them with known answers. This data
 * set in the official format needs no download. The same seed writes the same pages.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { svgDocument } from "../drawing/svg.ts";
import { UserError } from "../errors.ts";
import { type Dice, pageDice } from "./dice.ts";
import type { PageDrawing, PageSize, Question } from "./drawing.ts";
import { drawForm } from "./form.ts";
import { drawReceipts } from "./receipts.ts";
import { drawTable } from "./table.ts";

export interface PagesOptions extends Partial<PageSize> {
  /** Pages in pages.json. */
  count: number;
  /** Further pages, in eval.json. */
  evalCount?: number | undefined;
  /** Questions a page, all in one conversation. */
  turns?: number | undefined;
  seed?: number | undefined;
  onProgress?: ((done: number, total: number) => void) | undefined;
  /** Stops before the next page and throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** A record of the official data format. */
export interface PageRecord {
  id: string;
  image: string[];
  conversations: { from: "user" | "assistant"; value: string }[];
}

/** Area of the layout, whatever the size in pixels, so that text keeps its share of the page. */
const LAYOUT_AREA = 3840 * 2160;
const SIDE_MIN = 64;
const SIDE_MAX = 16_384;
const RATIO_MAX = 4;

const KINDS: readonly ((dice: Dice, size: PageSize) => PageDrawing)[] = [drawReceipts, drawForm, drawTable];

/**
 * Writes images/, pages.json and data.txt into the folder, and with evalCount also eval.json and eval.txt.
 * Returns the paths of the text files. Throws a UserError if a number makes no page.
 */
export async function writePages(
  folder: string,
  options: PagesOptions,
): Promise<{ data: string; evalData?: string }> {
  const {
    count,
    evalCount = 0,
    turns = 1,
    width = 3840,
    height = 2160,
    seed = 1,
    onProgress,
    signal,
  } = options;
  checkNumbers({ count, evalCount, turns, seed }, { width, height });
  mkdirSync(join(folder, "images"), { recursive: true });
  const records: PageRecord[] = [];
  let done = 0;
  await inParallel(count + evalCount, signal, async (page) => {
    const drawing = drawPage(pageDice(seed, page), page, { width, height });
    const image = `images/page-${String(page + 1).padStart(4, "0")}.png`;
    await writePng(drawing, { width, height }, join(folder, image));
    records[page] = recordOf(image, drawing.questions.slice(0, turns));
    onProgress?.(++done, count + evalCount);
  });
  const data = writeDataset(folder, "pages.json", "data.txt", records.slice(0, count));
  if (evalCount === 0) return { data };
  return { data, evalData: writeDataset(folder, "eval.json", "eval.txt", records.slice(count)) };
}

/** Draws a page. Kinds take turns; the questions come in random order. */
function drawPage(dice: Dice, page: number, size: PageSize): PageDrawing {
  const draw = KINDS[page % KINDS.length] ?? drawTable;
  const { elements, questions } = draw(dice, layoutOf(size));
  return { elements, questions: dice.some(questions, questions.length) };
}

function layoutOf({ width, height }: PageSize): PageSize {
  const scale = Math.sqrt((width * height) / LAYOUT_AREA);
  return { width: width / scale, height: height / scale };
}

/** Writes a PNG at level 2: level 6 takes nearly twice the time for a sixth fewer bytes. */
async function writePng({ elements }: PageDrawing, size: PageSize, path: string): Promise<void> {
  const svg = svgDocument(size, elements.join(""), layoutOf(size));
  const png = await sharp(Buffer.from(svg), { unlimited: true })
    .flatten({ background: "white" })
    .png({ compressionLevel: 2, adaptiveFiltering: false })
    .toBuffer();
  await writeFile(path, png); // not by sharp, whose errors do not tell a full disk from a defect
}

function recordOf(image: string, questions: readonly Question[]): PageRecord {
  const conversations = questions.flatMap(({ question, answer }, turn): PageRecord["conversations"] => [
    { from: "user", value: turn === 0 ? `<ImageHere>${question}` : question },
    { from: "assistant", value: answer },
  ]);
  return { id: image.replace(/^images\/|\.png$/g, ""), image: [image], conversations };
}

/** Writes the JSON file and the official data.txt, which names it with its samples in thousands. */
function writeDataset(folder: string, json: string, list: string, records: PageRecord[]): string {
  writeFileSync(join(folder, json), `${JSON.stringify(records, undefined, 1)}\n`);
  writeFileSync(join(folder, list), `${json} ${records.length / 1000}\n`);
  return join(folder, list);
}

/**
 * Runs the task for 0 to count - 1, as many at once as there are cores. After a signal, waits for the running
 * ones.
 */
async function inParallel(
  count: number,
  signal: AbortSignal | undefined,
  task: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const lanes = Array.from({ length: availableParallelism() }, async () => {
    while (next < count && !signal?.aborted && !failed) {
      await task(next++).catch((thrown) => {
        failed = true;
        throw thrown;
      });
    }
  });
  const ends = await Promise.allSettled(lanes);
  signal?.throwIfAborted();
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

function checkNumbers(counts: Record<string, number>, { width, height }: PageSize): void {
  for (const [name, value] of Object.entries(counts)) {
    const min = name === "evalCount" || name === "seed" ? 0 : 1;
    if (!Number.isSafeInteger(value) || value < min) {
      throw new UserError(`Pages: ${name} is ${value}.`, { fix: `Give a whole number, ${min} or more.` });
    }
  }
  const sides = [width, height];
  const fits = sides.every((side) => Number.isInteger(side) && side >= SIDE_MIN && side <= SIDE_MAX);
  if (!fits || Math.max(...sides) > RATIO_MAX * Math.min(...sides)) {
    throw new UserError(`Pages: ${width} x ${height} is no size for a page.`, {
      fix: `Give sides of ${SIDE_MIN} to ${SIDE_MAX} pixels, one at most ${RATIO_MAX} times the other.`,
    });
  }
}
