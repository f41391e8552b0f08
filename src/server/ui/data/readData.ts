/** Reads the records of a data set below a folder, and prepares its samples. */
import { statSync } from "node:fs";
import type { PictureForm } from "../../../data/pictures/form.ts";
import type { BadSample } from "../../../data/samples/badSamples.ts";
import type { Sample } from "../../../data/samples/sample.ts";
import { recordFiles, recordsOf } from "../../../data/samples/samples.ts";
import { type PreparedSample, samplePreparer } from "../../../data/samples/validate.ts";
import type { Tokenizer } from "../../../data/text/tokenizer.ts";
import { UserError } from "../../../errors.ts";
import { realPathBelow } from "../../http/paths.ts";
import type { Survey } from "./dataApi.ts";

/** A data set, and what reads its samples. */
export interface DataReader {
  /** FOLDER of `lorafit ui`, without symbolic links. */
  folder: string;
  file: string;
  tokenizer: Tokenizer | undefined;
  vocabSize: number;
  /** Lays out the model's pictures. */
  form: PictureForm;
  /** Limit of the tokens of a picture, such as hd_num. */
  pictureLimit: number;
}

/** No sample is longer: the page moves max_length as a line, so none is too long here. */
const ANY_LENGTH = 2 ** 24;

/** Reads the records of the data set. Throws UserError if any of its files lies outside of the folder. */
export function readRecords(
  { folder, file }: Pick<DataReader, "folder" | "file">,
  survey?: Survey,
): Generator<Sample | BadSample> {
  const path = requireBelow(folder, file);
  const files = recordFiles([path]);
  for (const listed of files) requireBelow(folder, listed);
  return recordsOf([path], {
    onFile: (records) => {
      if (survey && files.length === 1) survey.total = records;
    },
    onWarning: (text) => survey?.warnings.push(text),
  });
}

function requireBelow(folder: string, file: string): string {
  const path = realPathBelow(folder, file);
  if (path !== undefined && isPipeOrDevice(path))
    throw new UserError(`${file} is no file: reading a device or a pipe might never end.`, {
      fix: "Name a .json, .jsonl or .txt file.",
    });
  if (path !== undefined) return path;
  throw new UserError(`${file} is not below ${folder}.`, {
    fix: "Start lorafit ui with a folder that holds the data.",
  });
}

function isPipeOrDevice(path: string): boolean {
  const status = statSync(path, { throwIfNoEntry: false });
  return status !== undefined && !status.isFile() && !status.isDirectory();
}

/** Returns what prepares a sample; without a tokenizer, samples of text count without their text. */
export function preparerOf({
  tokenizer,
  vocabSize,
  form,
  pictureLimit,
}: DataReader): (sample: Sample) => Promise<PreparedSample | BadSample | "uncounted"> {
  const prepare = samplePreparer({
    ...{ tokenizer, vocabSize, pictures: form, pictureLimit, maxLength: ANY_LENGTH },
    ...{ imageCompat: "lorafit", purpose: "train", skipBad: true },
  });
  return async (sample) => (sample.kind === "dialogue" && !tokenizer ? "uncounted" : prepare(sample));
}

/** Returns a text in which paths start from the folder of the page. */
export function shortened(text: string, { folder }: Pick<DataReader, "folder">): string {
  return text.replaceAll(folder.endsWith("/") ? folder : `${folder}/`, "");
}
