/** Samples as the page shows them: text in spans, and pictures with their tiles. */
import { basename } from "node:path";
import { imageSize } from "../../../data/pictures/decode.ts";
import { isEmbedded, pictureName } from "../../../data/pictures/source.ts";
import { type BadSample, describeSource } from "../../../data/samples/badSamples.ts";
import { encodeSample } from "../../../data/samples/dialogue.ts";
import { explainSample, type Span } from "../../../data/samples/explain.ts";
import { countLabels } from "../../../data/samples/rows.ts";
import { IMAGE_PLACEHOLDER, type Sample, type Turn } from "../../../data/samples/sample.ts";
import { UserError } from "../../../errors.ts";
import { printable, shownName } from "../../../printable.ts";
import { isPlainFile, realPathBelow } from "../../http/paths.ts";
import type { PictureView, SamplesQuestion, SampleView } from "./dataApi.ts";
import { type DataReader, preparerOf, readRecords, shortened } from "./readData.ts";

const MOST_CHARACTERS = 20_000;
/** Pictures of one sample that are looked at. */
const MOST_PICTURES = 24;

/** Returns samples from a place on. */
export async function sampleViews(
  reader: DataReader,
  { from, count }: Pick<SamplesQuestion, "from" | "count">,
): Promise<SampleView[]> {
  const views: SampleView[] = [];
  let index = 0;
  for (const record of readRecords(reader)) {
    if (index >= from + count) break;
    if (index >= from) views.push(await viewOfRecord(record, index, reader));
    index++;
  }
  return views;
}

export async function viewOfRecord(
  record: Sample | BadSample,
  index: number,
  reader: DataReader,
): Promise<SampleView> {
  const title = printable(shortened(describeSource(record.source), reader));
  if (!("kind" in record)) {
    const problem = { error: shortened(record.message, reader), fix: record.fix };
    return { index, title, spans: [], isCut: false, pictures: [], problem };
  }
  const prepared = await preparerOf(reader)(record);
  const counted = typeof prepared === "object" && "tokens" in prepared ? prepared : undefined;
  const pictures = record.images
    .slice(0, MOST_PICTURES)
    .map((path, place) => pictureView(path, limitOf(record, place, reader), reader));
  return {
    ...{ index, title, ...shownSpans(spansOf(record, reader)), pictures: await Promise.all(pictures) },
    ...(counted && { tokens: counted.tokens, labelTokens: countLabels(counted.labels) }),
    ...(typeof prepared === "object" &&
      "message" in prepared && {
        problem: { error: shortened(prepared.message, reader), fix: prepared.fix },
      }),
  };
}

/** Returns what the model is given and what it learns; without a tokenizer as the turns have it. */
function spansOf(sample: Sample, { tokenizer, pictureLimit }: DataReader): Span[] {
  if (sample.kind === "dialogue" && !tokenizer) return sample.turns.flatMap(turnSpans);
  try {
    return explainSample(encodeSample(sample, tokenizer, pictureLimit), tokenizer);
  } catch (thrown) {
    if (!(thrown instanceof UserError)) throw thrown;
    return sample.kind === "dialogue" ? sample.turns.flatMap(turnSpans) : [];
  }
}

function turnSpans({ role, text, learned }: Turn): Span[] {
  const kind = role === "assistant" && learned !== false ? "answer" : "prompt";
  const parts = text
    .split(IMAGE_PLACEHOLDER)
    .flatMap((part, place): Span[] => [
      ...(place > 0 ? [{ kind: "picture", text: IMAGE_PLACEHOLDER } as const] : []),
      ...(part === "" ? [] : [{ kind, text: part } as const]),
    ]);
  return [{ kind: "prompt", text: `${role}: ` }, ...parts, { kind: "prompt", text: "\n" }];
}

function shownSpans(spans: Span[]): Pick<SampleView, "spans" | "isCut"> {
  let left = MOST_CHARACTERS;
  const shown: Span[] = [];
  for (const { kind, text } of spans) {
    if (left <= 0) break;
    shown.push({ kind, text: printable(text.slice(0, left)) });
    left -= text.length;
  }
  return { spans: shown, isCut: left < 0 };
}

async function pictureView(
  path: string,
  limit: number,
  { folder, form }: Pick<DataReader, "folder" | "form">,
): Promise<PictureView> {
  const name = isEmbedded(path) ? pictureName(path) : shownName(basename(path));
  const shownPath = readablePicture(folder, path);
  if (shownPath === undefined || !(isEmbedded(path) || (await isPlainFile(shownPath))))
    return { name, isShown: false };
  try {
    const size = await imageSize(shownPath, "lorafit");
    return { name, isShown: true, size, tokens: form.layout(size, limit).tokens };
  } catch (thrown) {
    if (thrown instanceof UserError) return { name, isShown: false };
    throw thrown;
  }
}

/** Returns the picture if the page may show it: one below the folder, or one within the data. */
function readablePicture(folder: string, path: string): string | undefined {
  return isEmbedded(path) ? path : realPathBelow(folder, path);
}

/** Draws a picture of a sample with its tiles and the global view. Throws UserError if it can't. */
export async function drawnPicture(reader: DataReader, index: number, picture: number): Promise<Uint8Array> {
  const record = recordAt(reader, index);
  const listed = record && "kind" in record ? record.images[picture] : undefined;
  const path = listed === undefined ? undefined : readablePicture(reader.folder, listed);
  if (path === undefined || !(isEmbedded(path) || (await isPlainFile(path))))
    throw new UserError("There is no such picture below the folder of the page.");
  const { form } = reader;
  const limit = limitOf(record as Sample, picture, reader);
  const { width, height } = await imageSize(path, "lorafit");
  const preview = await form.preview(path, limit, "lorafit");
  const name = isEmbedded(path) ? pictureName(path) : basename(path);
  return preview.drawing(`${name}, ${width} x ${height}, ${form.limit.option} ${limit}`);
}

/** Returns a picture's limit: its record's own if that is for the model's kind of pictures, or the usual. */
function limitOf(record: Sample, picture: number, { form, pictureLimit }: DataReader): number {
  const limits = record.kind === "tokens" ? record.limits : undefined;
  return (limits?.option === form.limit.option ? limits.values[picture] : undefined) ?? pictureLimit;
}

function recordAt(reader: DataReader, index: number): Sample | BadSample | undefined {
  let place = 0;
  for (const record of readRecords(reader)) if (place++ === index) return record;
  return undefined;
}
