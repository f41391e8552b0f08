/** Prepares a request's prompt: its token ids, and its pictures' sizes and content, before any is decoded. */
import { createHash } from "node:crypto";
import { imageSize, MAX_PIXELS, refuseCutOff } from "../../data/pictures/decode.ts";
import type { PictureForm, PictureLayout } from "../../data/pictures/form.ts";
import type { ImageCompat } from "../../data/pictures/imageCompat.ts";
import { pictureBytes, pictureName } from "../../data/pictures/source.ts";
import { encodePrompt } from "../../data/samples/dialogue.ts";
import { IMAGE_SLOT, type Sample } from "../../data/samples/sample.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import { formatCount, UserError } from "../../errors.ts";
import type { Rows } from "../../nn/rows.ts";
import type { ServePrompt } from "../types.ts";

/** A picture of a prompt. */
export interface PromptPicture {
  path: string;
  /** Limit of its tokens, as the form of the model's pictures takes it. */
  limit: number;
  layout: PictureLayout;
  /** Rows of the prompt that it takes. */
  rows: Rows;
  /** Stands for everything that its features depend on. */
  digest: string;
}

export interface Prompt {
  /** (T) token ids; 0 in rows of pictures. */
  ids: Int32Array;
  pictures: PromptPicture[];
}

export interface PromptOptions {
  tokenizer: Tokenizer | undefined;
  vocab: number;
  form: PictureForm;
  imageCompat: ImageCompat;
}

/** Throws UserError if the prompt can't be read, its pictures among it. */
export async function preparePrompt(
  prompt: ServePrompt,
  limit: number,
  { tokenizer, vocab, form, imageCompat }: PromptOptions,
): Promise<Prompt> {
  const { inputIds, images } = encodePrompt(sampleOf(prompt), tokenizer, limit);
  refuseUnknownIds(inputIds, vocab);
  const measured = await Promise.all(images.map(({ path }) => measure(path, limit, form, imageCompat)));
  return layOut(inputIds, measured);
}

function sampleOf(prompt: ServePrompt): Sample {
  const [source, images] = [{ file: "the request", index: 0 }, [...(prompt.images ?? [])]];
  if ("turns" in prompt) return { kind: "dialogue", source, turns: [...prompt.turns], images };
  return { kind: "tokens", source, inputIds: prompt.inputIds, labels: undefined, images };
}

function refuseUnknownIds(inputIds: Int32Array, vocab: number): void {
  const unknown = inputIds.find((id) => id !== IMAGE_SLOT && !(id >= 0 && id < vocab));
  if (inputIds.length === 0) throw new UserError("The prompt is empty.", { fix: "Send at least one token." });
  if (unknown === undefined) return;
  throw new UserError(`The prompt has token id ${unknown}; the model knows ids from 0 to ${vocab - 1}.`, {
    fix: `Send ids of the model's own tokenizer; ${IMAGE_SLOT} stands for a picture.`,
  });
}

type Measured = Omit<PromptPicture, "rows">;

/** Reads a picture's size from its header, and its digest. */
async function measure(
  path: string,
  limit: number,
  form: PictureForm,
  compat: ImageCompat,
): Promise<Measured> {
  const size = await imageSize(path, compat);
  const { width, height } = size;
  const name = pictureName(path);
  if (width * height > MAX_PIXELS) {
    throw new UserError(
      `${name}: ${width} x ${height} pixels are more than the limit of ${formatCount(MAX_PIXELS)}.`,
      { fix: "Scale the picture down." },
    );
  }
  await refuseCutOff(path, { compat, thorough: false });
  const layout = form.layout(size, limit, name);
  const hash = createHash("sha256")
    .update(`${limit} ${compat}\n`)
    .update(await pictureBytes(path));
  return { path, limit, layout, digest: hash.digest("base64") };
}

/** Lays out the rows of a prompt with those of its pictures. */
function layOut(inputIds: Int32Array, measured: readonly Measured[]): Prompt {
  const tokens = inputIds.length + measured.reduce((sum, { layout }) => sum + layout.tokens - 1, 0);
  const ids = new Int32Array(tokens);
  const pictures: PromptPicture[] = [];
  let row = 0;
  for (const id of inputIds) {
    if (id !== IMAGE_SLOT) ids[row++] = id;
    else {
      const picture = measured[pictures.length]!;
      pictures.push({ ...picture, rows: { start: row, end: row + picture.layout.tokens } });
      row += picture.layout.tokens;
    }
  }
  return { ids, pictures };
}
