/** Names the pictures of answers. A picture within the data is named by a hash instead of all its bytes. */
import { createHash } from "node:crypto";
import { isEmbedded } from "../../../data/pictures/source.ts";
import type { AnswerRecord } from "../../../train/folder/runLog.ts";

/** Returns the answer with names for its pictures that fit an address. */
export function shownPictures(answer: AnswerRecord): AnswerRecord {
  const { pictures } = answer;
  if (!Array.isArray(pictures)) return { ...answer, pictures: [] };
  return { ...answer, pictures: pictures.filter((path) => typeof path === "string").map(pictureKey) };
}

/** Returns a path as it is; for a data URI "embedded:" and its hash. */
export function pictureKey(path: string): string {
  return isEmbedded(path) ? `embedded:${createHash("sha256").update(path).digest("hex").slice(0, 32)}` : path;
}
