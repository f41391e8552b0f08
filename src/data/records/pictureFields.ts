/**
 * Reads the pictures of a record in each form that tools write: a path, a `file:` URL, a data URI, or an
 * object with the path or the bytes (the Image feature of Hugging Face datasets). Pictures on the web are
 * refused, because a run must not depend on a server.
 */
import { fileURLToPath } from "node:url";
import { RecordFault, shownValue, wrongField } from "./recordFault.ts";

/** Fields of a record that hold its pictures. */
export const PICTURE_FIELDS = ["image", "images"] as const;

const MEDIA_FIELDS = ["video", "videos", "audio", "audios"] as const;

/** Fields of other media; they may be empty. */
export const OTHER_MEDIA_FIELDS: readonly string[] = MEDIA_FIELDS;

/** Characters of the longest path that Linux allows. A longer text is a picture itself. */
const PATH_MAX_CHARACTERS = 4096;

/** Depth to which lists within lists may be empty. Anything nested deeper counts as a value. */
const EMPTY_DEPTH = 4;

const PICTURE_NAME = /(?:^|[_.-]|[a-z](?=[A-Z]))(?:image|img|picture|photo|pixel)/i;

/** Returns whether a value holds nothing: null, "", [], [""], [null], and objects of such values. */
export function isEmpty(value: unknown, depth = 0): boolean {
  if (value === null || value === undefined || value === "") return true;
  if (typeof value !== "object" || depth === EMPTY_DEPTH) return false;
  return Object.values(value).every((one) => isEmpty(one, depth + 1));
}

/**
 * Returns whether a field that is not read seems to hold pictures: by its name, and by a value that may be a
 * path.
 */
export function looksLikePictures(key: string, value: unknown): boolean {
  return PICTURE_NAME.test(key) && !isEmpty(value) && typeof value !== "number" && typeof value !== "boolean";
}

/** Returns the pictures of a record's fields, in their order. */
export function picturesOfRecord(record: Record<string, unknown>): string[] {
  for (const key of MEDIA_FIELDS) {
    if (isEmpty(record[key])) continue;
    throw wrongField(key, "only pictures can be trained on", "Remove the sample, or its media.");
  }
  return PICTURE_FIELDS.flatMap((key) => picturesOf(record[key], key));
}

/** Returns the pictures of one field: one, a list, or a list within a list. Empty values are no pictures. */
function picturesOf(value: unknown, field: string): string[] {
  if (Array.isArray(value))
    return value.flat().flatMap((one, index) => pictureOf(one, `${field}[${index}]`) ?? []);
  const picture = pictureOf(value, field);
  return picture === undefined ? [] : [picture];
}

/** Returns a picture as a path or a data URI; undefined if the value is empty. */
export function pictureOf(value: unknown, field: string): string | undefined {
  if (isEmpty(value)) return undefined;
  if (typeof value === "string") return pictureOfText(value);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw noPicture(value, field);
  const { bytes, path, url } = value as { bytes?: unknown; path?: unknown; url?: unknown };
  if (!isEmpty(bytes)) return pictureOfBytes(bytes, field);
  const named = path ?? url;
  if (typeof named !== "string") throw noPicture(value, field);
  return pictureOfText(named);
}

function pictureOfText(text: string): string {
  if (/^data:/i.test(text)) return text;
  if (text.length > PATH_MAX_CHARACTERS) {
    const clause = `names a picture by ${text.length} characters, ${shownValue(text)}, which is no path`;
    throw new RecordFault(clause, 'Write base64 as data:image/png;base64,... or as {"bytes": "..."}.');
  }
  const scheme = /^[a-z][a-z0-9+.-]*(?=:\/\/)/i.exec(text)?.[0].toLowerCase();
  if (scheme !== undefined && scheme !== "file") {
    throw new RecordFault(
      `names a picture on the web, ${shownValue(text)}: download it first`,
      "Download the picture, and write the path of its file.",
    );
  }
  return /^file:/i.test(text) ? pathOfUrl(text) : text;
}

/** Returns the path of "file:///folder/a.png", or of "file:a.png", which is relative. */
function pathOfUrl(url: string): string {
  const rest = url.slice("file:".length);
  try {
    if (rest.startsWith("///")) return fileURLToPath(url);
    return decodeURIComponent(rest.replace(/^\/\//, ""));
  } catch {
    throw new RecordFault(
      `names a picture by a broken URL, ${shownValue(url)}`,
      "Write the path of the file.",
    );
  }
}

/** Returns a data URI of bytes as JSON holds them: base64, or a list of numbers. */
function pictureOfBytes(bytes: unknown, field: string): string {
  if (typeof bytes === "string") return /^data:/i.test(bytes) ? bytes : `data:;base64,${bytes}`;
  const list = Array.isArray(bytes) ? bytes : (bytes as { data?: unknown }).data; // Node's Buffer has `data`
  const isBytes = (value: unknown): boolean =>
    Number.isInteger(value) && Number(value) >= 0 && Number(value) < 256;
  if (!Array.isArray(list) || !list.every(isBytes)) throw noPicture(bytes, `${field}.bytes`);
  return `data:;base64,${Buffer.from(list).toString("base64")}`;
}

function noPicture(value: unknown, field: string): RecordFault {
  return wrongField(
    field,
    `${shownValue(value)} is no picture`,
    'A picture is a path, a data URI, {"path": "a.png"} or {"bytes": "..."} (base64).',
  );
}
