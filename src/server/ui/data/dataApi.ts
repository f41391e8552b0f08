/**
 * Types of the Data screen's API.
 *
 * | route                  | returns                                                               |
 * | ---------------------- | --------------------------------------------------------------------- |
 * | GET /api/data/files    | DataFiles                                                             |
 * | POST /api/data/survey  | a stream of SurveyReply, a JSON line each; the body is a DataQuestion |
 * | POST /api/data/samples | a stream of SurveyReply with samples; the body is a SamplesQuestion   |
 * | GET /api/data/picture  | a PNG, or ApiError; the query is a DataPicture                        |
 *
 * Only files below FOLDER are read, and only pictures below FOLDER or within the data are shown. Texts are
 * plain text with steering characters escaped.
 */
import type { Span } from "../../../data/samples/explain.ts";

export interface DataFiles {
  /** FOLDER of `lorafit ui`. */
  folder: string;
  files: DataFile[];
  /** Model folders below FOLDER, and models that runs below FOLDER have used. */
  models: string[];
  /** Folders of adapters that runs below FOLDER have written, absolute. */
  adapters: string[];
  /** Whether there are more files than are listed. */
  isCut: boolean;
  /** Every option that limits pictures. */
  limits: string[];
}

export interface DataFile {
  /** Path below FOLDER, with `/`. */
  path: string;
  bytes: number;
  /** Path of the run below FOLDER whose data or evaluation data this is. */
  run?: string;
}

export interface DataQuestion {
  /** Path below FOLDER. */
  file: string;
  /** Model folder or downloaded repository, whose tokenizer counts the tokens of text. */
  model?: string | undefined;
  /** Limit of the pictures' tokens, by the option of the model's pictures. Absent: the model's default. */
  limits: Record<string, number | undefined>;
}

export interface SamplesQuestion extends DataQuestion {
  /** Place of the first wanted sample, from 0. */
  from: number;
  count: number;
}

export type SurveyReply =
  /** The option that limits the model's pictures, with the value in use; the first reply to a survey. */
  | { kind: "pictures"; pictures: { option: string; value: number; most: number } }
  | { kind: "samples"; samples: SampleView[] }
  | { kind: "progress"; survey: Survey }
  | { kind: "end"; survey: Survey }
  | { kind: "problem"; error: string; fix?: string };

/** Counts of a data set, as far as it has been read. */
export interface Survey {
  /** Records read. total: of all files; absent as long as it is not known. */
  records: number;
  total?: number;
  /** Samples that can be trained on if max_length allows. */
  usable: number;
  pictures: number;
  tokens: number;
  labelTokens: number;
  /** Pairs of a length in tokens and the number of samples that have it, the shortest first. */
  lengths: [tokens: number, samples: number][];
  /** The longest samples, the longest first. */
  longest: { index: number; tokens: number; title: string }[];
  /** Samples that can't be used; `bad` has the first of them. */
  badCount: number;
  bad: { index: number; error: string; fix: string }[];
  /** Notices about whole files, such as fields that are not read. */
  warnings: string[];
  /** Whether lengths are known: samples of text need a tokenizer. */
  isCounted: boolean;
}

export interface SampleView {
  /** Place among all records of the data set, from 0. */
  index: number;
  /** File and place in it. */
  title: string;
  spans: Span[];
  /** Whether the text is longer than what spans hold. */
  isCut: boolean;
  pictures: PictureView[];
  /** Tokens with those of the pictures; absent without a tokenizer. */
  tokens?: number;
  labelTokens?: number;
  /** Reason why the sample can't be used. */
  problem?: { error: string; fix: string };
}

export interface PictureView {
  name: string;
  /** Whether GET /api/data/picture shows it: it lies below FOLDER, or in the data. */
  isShown: boolean;
  /** Absent if the picture can't be read. */
  size?: { width: number; height: number };
  /** Tokens of the picture at the asked limit. */
  tokens?: number;
}

/** Query of GET /api/data/picture; the limit is a value under its option's name, as hd_num=16. */
export interface DataPicture extends DataQuestion {
  index: number;
  picture: number;
}
