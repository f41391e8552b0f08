/** A sample as the dataset files give it: turns of text or token ids, with their pictures. */

/** Marks the place of a picture in the text of a turn. */
export const IMAGE_PLACEHOLDER = "<ImageHere>";

/** The id of a picture in token ids, until the picture's rows are laid out. */
export const IMAGE_SLOT = -200;

/** The label of a token that is not learned. */
export const IGNORE = -100;

/** The place of a sample in the dataset files. */
export interface SampleSource {
  file: string;
  /** Place within the file, from 0. */
  index: number;
  /** Line of a jsonl file, from 1. */
  line?: number;
  /** The record's `id`; records of one file with the same id are of one document. */
  id?: string;
}

export interface Turn {
  role: "user" | "assistant" | "system";
  /** Text as written; IMAGE_PLACEHOLDER stands for a picture. */
  text: string;
  /** False for an answer that the model reads and does not learn. Default: answers are learned. */
  learned?: boolean;
}

/** A record's own limits of its pictures. */
export interface RecordLimits {
  /** The option that they replace. */
  option: string;
  /** A limit for each picture. */
  values: number[];
  /** Limits of other kinds of pictures that the record gives besides; no model has two kinds. */
  others?: string[];
}

/** `images` are absolute paths or data URIs, in the order of their places in the text. */
export type Sample =
  | { kind: "dialogue"; source: SampleSource; turns: Turn[]; images: string[] }
  | {
      kind: "tokens";
      source: SampleSource;
      inputIds: Int32Array;
      /** One label for each id; undefined if the record has none, which is enough to generate from it. */
      labels: Int32Array | undefined;
      images: string[];
      /** The record's own limit for each picture; absent if an option decides. */
      limits?: RecordLimits;
    };
