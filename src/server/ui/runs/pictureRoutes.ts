/**
 * Shows pictures of a run's samples: files that its answers name, and files below FOLDER. They are decoded
 * and drawn anew, so a browser never gets the bytes of a file, which could be a script with a picture's name.
 */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { Hono } from "hono";
import sharp from "sharp";
import { decodeImage, imageSize } from "../../../data/pictures/decode.ts";
import type { PictureForm } from "../../../data/pictures/form.ts";
import { DEFAULT_RULES, pictureForm } from "../../../data/pictures/forms.ts";
import type { ImageCompat } from "../../../data/pictures/imageCompat.ts";
import { isEmbedded, pictureName } from "../../../data/pictures/source.ts";
import { UserError } from "../../../errors.ts";
import { shownName } from "../../../printable.ts";
import type { KnownRun } from "../../../runs/knownRun.ts";
import { parseLines, readAppended } from "../../../runs/logTail.ts";
import { ANSWERS_FILE, type AnswerRecord } from "../../../train/folder/runLog.ts";
import { HttpError } from "../../http/httpError.ts";
import { isPlainFile, realPathBelow } from "../../http/paths.ts";
import type { UiContext } from "../context.ts";
import { pictureKey } from "./answerPictures.ts";
import { runOf } from "./runRoutes.ts";

const WIDTH = { default: 960, most: 2000 };

export function pictureRoutes(app: Hono, { folder, runs }: UiContext): void {
  const next = oneByOne();
  app.get("/api/picture", async (context) => {
    const run = await runOf(runs, context);
    const { path: asked = "", view = "plain", width } = context.req.query();
    const path = pictureOf(run, asked, folder);
    if (path === undefined)
      throw new HttpError(404, `This run names no picture "${shownName(asked)}".`, {
        fix: `Pictures are shown if the run's answers name them, or if they lie below ${folder}.`,
      });
    if (!isEmbedded(path) && existsSync(path) && !(await isPlainFile(path)))
      throw new HttpError(422, `${shownName(asked)} is not a picture: it is a folder, a device or a pipe.`);
    const { options } = run.summary();
    const compat: ImageCompat = options.image_compat === "official" ? "official" : "lorafit";
    const mostPixels = widthOf(width);
    const bytes = await next(() =>
      view === "tiles" ? tiles(path, options, compat) : plain(path, mostPixels, compat),
    );
    return context.body(new Uint8Array(bytes), 200, {
      "Content-Type": view === "tiles" ? "image/png" : "image/jpeg",
      "Cache-Control": "private, max-age=600",
    });
  });
}

/** Returns a function that runs drawings one after the other, so that a page of many takes little memory. */
function oneByOne(): (draw: () => Promise<Buffer>) => Promise<Buffer> {
  let last: Promise<unknown> = Promise.resolve();
  return async (draw) => {
    const drawn = last.then(draw);
    last = drawn.catch(() => {});
    try {
      return await drawn;
    } catch (thrown) {
      if (!(thrown instanceof UserError)) throw thrown;
      throw new HttpError(422, thrown.message, { cause: thrown });
    }
  };
}

/** Returns the path or data URI of a picture that may be shown; undefined if the run names none such. */
function pictureOf(run: KnownRun, asked: string, folder: string): string | undefined {
  if (asked === "" || asked.includes("\0")) return undefined;
  if (!asked.startsWith("embedded:")) {
    const real = realPathBelow(folder, resolve(run.folder, asked));
    if (real !== undefined) return real;
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

async function tiles(path: string, options: Record<string, unknown>, compat: ImageCompat): Promise<Buffer> {
  const form = pictureForm(DEFAULT_RULES);
  const limit = limitAmong(options, form);
  const { width, height } = await imageSize(path, compat);
  const { drawing } = await form.preview(path, limit, compat);
  const name = shownName(basename(pictureName(path)));
  return drawing(`${name}, ${width} x ${height}, ${form.limit.option} ${limit}`);
}

/** Returns the run's limit of a picture's tokens, or the default if its options say nothing that can be. */
function limitAmong(options: Record<string, unknown>, { limit }: PictureForm): number {
  const given = options[limit.option];
  const { least, most } = limit.range;
  return typeof given === "number" && given >= least && given <= most ? given : limit.default;
}

function widthOf(text: string | undefined): number {
  if (text === undefined) return WIDTH.default;
  if (/^[1-9]\d{0,3}$/.test(text)) return Math.min(Number(text), WIDTH.most);
  throw new HttpError(400, `width takes a whole number of pixels (got "${text}").`);
}
