/**
 * Shows pictures of a run's samples: files that its answers name, and files below FOLDER. They are decoded and
 * drawn anew, so a browser never gets the bytes of a file, which could be a script with a picture's name.
 */
import { realpath } from "node:fs/promises";
import { basename, isAbsolute, join, resolve } from "node:path";
import type { Hono } from "hono";
import sharp from "sharp";
import { decodeImage, type ImageCompat } from "../../../data/pictures/decode.ts";
import { hdGrid, imageSize } from "../../../data/pictures/image.ts";
import { type ImagePool, openImagePool } from "../../../data/pictures/imagePool.ts";
import { drawPreview } from "../../../data/pictures/previewImage.ts";
import { pictureName } from "../../../data/pictures/source.ts";
import { UserError } from "../../../errors.ts";
import { shownName } from "../../../printable.ts";
import type { KnownRun } from "../../../runs/knownRun.ts";
import { parseLines, readAppended } from "../../../runs/logTail.ts";
import { ANSWERS_FILE, type AnswerRecord } from "../../../train/folder/runLog.ts";
import { HttpError } from "../../http/httpError.ts";
import { isBelow } from "../../http/paths.ts";
import type { UiContext } from "../routes.ts";
import { pictureKey } from "./answerPictures.ts";
import { runOf } from "./runRoutes.ts";

const WIDTH = { default: 960, most: 2000 };
/** The tiles of a larger number are too small to see. */
const MOST_TILES = 100;

export function pictureRoutes(app: Hono, { folder, runs, signal }: UiContext): void {
  const drawing = new Drawing(signal);
  app.get("/api/picture", async (context) => {
    const run = await runOf(runs, context);
    const { path: asked = "", view = "plain", width } = context.req.query();
    const path = await pictureOf(run, asked, folder);
    if (path === undefined)
      throw new HttpError(404, `This run names no picture "${shownName(asked)}".`, {
        fix: `Pictures are shown if the run's answers name them, or if they lie below ${folder}.`,
      });
    const { options } = run.summary();
    const compat: ImageCompat = options.image_compat === "official" ? "official" : "lorafit";
    const bytes = await drawing.next(() =>
      view === "tiles"
        ? tiles(path, hdNumOf(options), drawing.pool(compat), compat)
        : plain(path, widthOf(width), compat),
    );
    return context.body(new Uint8Array(bytes), 200, {
      "Content-Type": view === "tiles" ? "image/png" : "image/jpeg",
      "Cache-Control": "private, max-age=600",
    });
  });
}

/** Draws pictures one after the other, so that a page of many does not take all memory. */
class Drawing {
  #last: Promise<unknown> = Promise.resolve();
  readonly #pools = new Map<ImageCompat, ImagePool>();

  constructor(signal: AbortSignal) {
    signal.addEventListener("abort", () => {
      for (const pool of this.#pools.values()) pool.close().catch(() => {});
    });
  }

  /** Returns the workers that decode pictures. */
  pool(compat: ImageCompat): ImagePool {
    const pool = this.#pools.get(compat) ?? openImagePool({ compat, workers: 1 });
    this.#pools.set(compat, pool);
    return pool;
  }

  async next(draw: () => Promise<Buffer>): Promise<Buffer> {
    const before = this.#last;
    const drawn = before.catch(() => {}).then(draw);
    this.#last = drawn;
    try {
      return await drawn;
    } catch (thrown) {
      if (!(thrown instanceof UserError)) throw thrown;
      throw new HttpError(422, thrown.message, { cause: thrown });
    }
  }
}

/** Returns the path or data URI of a picture that may be shown; undefined if the run names none such. */
async function pictureOf(run: KnownRun, asked: string, folder: string): Promise<string | undefined> {
  if (asked === "" || asked.includes("\0")) return undefined;
  const isBase = !asked.startsWith("embedded:");
  if (isBase) {
    const path = isAbsolute(asked) ? asked : resolve(run.folder, asked);
    const real = await realpath(path).catch(() => undefined);
    if (real !== undefined && isBelow(real, folder)) return real;
  }
  return namedPicture(run, asked);
}

/** Looks for a picture in the run's answers. */
function namedPicture(run: KnownRun, asked: string): string | undefined {
  const file = join(run.folder, ANSWERS_FILE);
  let cursor = "";
  for (;;) {
    const { bytes, next } = readAppended(file, cursor);
    if (next === cursor) return undefined;
    for (const { pictures } of parseLines<AnswerRecord>(bytes)) {
      if (!Array.isArray(pictures)) continue;
      const found = pictures.find((path) => typeof path === "string" && pictureKey(path) === asked);
      if (found !== undefined) return found;
    }
    cursor = next;
  }
}

async function plain(path: string, width: number, compat: ImageCompat): Promise<Buffer> {
  const picture = await decodeImage(path, { compat });
  const raw = { width: picture.width, height: picture.height, channels: 3 } as const;
  return sharp(picture.pixels, { raw })
    .resize({ width, height: 2 * width, fit: "inside", withoutEnlargement: true })
    .jpeg({ quality: 85 })
    .toBuffer();
}

async function tiles(path: string, hdNum: number, pool: ImagePool, compat: ImageCompat): Promise<Buffer> {
  const { width, height } = await imageSize(path, compat);
  const name = shownName(basename(pictureName(path)));
  const image = await pool.load(path, hdNum);
  const caption = `${name}, ${width} x ${height}, hd_num ${hdNum}`;
  return drawPreview(image, hdGrid(width, height, hdNum, name), { caption });
}

function hdNumOf({ hd_num }: Record<string, unknown>): number {
  return typeof hd_num === "number" && hd_num >= 1 ? Math.min(Math.floor(hd_num), MOST_TILES) : 16;
}

function widthOf(text: string | undefined): number {
  if (text === undefined) return WIDTH.default;
  if (/^[1-9]\d{0,3}$/.test(text)) return Math.min(Number(text), WIDTH.most);
  throw new HttpError(400, `width takes a whole number of pixels (got "${text}").`);
}
