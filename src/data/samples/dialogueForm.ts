/** The form in which a model family writes dialogues as token ids. */
import type { Turn } from "./sample.ts";

export interface DialogueForm {
  /** Returns the turns of a data set's record as the family's own trainer reads them. */
  readRecord(turns: readonly Turn[]): readonly Turn[];
  /**
   * Returns the ids of a training sample, with IMAGE_SLOT for each picture, and a label for each id: the id
   * itself if it is learned, else IGNORE. labelNewline: also learns the line end behind the answers' ends.
   */
  encode(
    turns: readonly Turn[],
    options?: { labelNewline?: boolean },
  ): { inputIds: Int32Array; labels: Int32Array };
  /** Returns the ids of a dialogue up to the place where the assistant speaks next. */
  prompt(turns: readonly Turn[]): Int32Array;
  /** Returns the text of the turn before the answer that begins at a row, without pictures. */
  questionBefore(inputIds: Int32Array, start: number): string;
  /** Ids that end an answer. */
  stopIds: readonly number[];
}
