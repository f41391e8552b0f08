/**
 * Reads the turns of a dialogue. Speaker and text stand under `from` and `value` or `role` and `content`. The
 * text is a string or a list of parts (OpenAI, TRL, LLaMA-Factory v1). Flags say whether a turn is learned.
 */

import { IMAGE_PLACEHOLDER, type Turn } from "../samples/sample.ts";
import { isEmpty, looksLikePictures, pictureOf } from "./pictureFields.ts";
import { RecordFault, shownValue, wrongField } from "./recordFault.ts";

/** A turn, and the picture of each picture part of its content; undefined means the record's next picture. */
export interface ReadTurn {
  turn: Turn;
  pictures: (string | undefined)[];
}

/** Names of fields that hold something and are not read. */
export type UnusedFields = Set<string>;

const SPEAKERS: Readonly<Record<Turn["role"], readonly string[]>> = {
  user: ["user", "human"],
  assistant: ["assistant", "gpt", "bot", "model", "chatbot"],
  system: ["system"],
};

const ROLES = new Map(
  Object.entries(SPEAKERS).flatMap(([role, names]) => names.map((name) => [name, role as Turn["role"]])),
);

const TOOL_SPEAKERS = new Set([
  ...["tool", "tool_call", "tool_calls", "tool_response", "tool_responses", "ipython", "environment"],
  ...["function", "function_call", "function_response", "observation", "observations"],
]);

const TOOL_FIELDS = ["tool_calls", "function_call", "tool_call_id"];

/** Flags of a turn: false or 0 keeps an answer from being learned. */
export const LEARNED_FLAGS = [
  "loss",
  "loss_weight",
  "loss_scale",
  "loss_mask",
  "weight",
  "train",
  "trainable",
  "label",
];

const TURN_FORM = 'A turn is {"from": "user", "value": "..."} or {"role": "user", "content": "..."}.';
const NO_TOOLS =
  "Remove the sample, or write the call and its result into the text of a user's or assistant's turn.";

/** Reads the turns of a list. `field`: the list's name in the record. */
export function readTurns(list: unknown, field: string, unused: UnusedFields): ReadTurn[] {
  if (!Array.isArray(list)) throw wrongField(field, `${shownValue(list)} is no list of turns`, TURN_FORM);
  return list.map((turn, index) => readTurn(turn, `${field}[${index}]`, { list: field, unused }));
}

/** Makes a turn of plain text, for records without a list of turns. */
export function plainTurn(role: Turn["role"], text: string): ReadTurn {
  return { turn: { role, text }, pictures: [] };
}

function readTurn(turn: unknown, field: string, seen: { list: string; unused: UnusedFields }): ReadTurn {
  if (typeof turn !== "object" || turn === null || Array.isArray(turn))
    throw wrongField(field, `${shownValue(turn)} is no turn`, TURN_FORM);
  const { from, role, value, content, ...others } = turn as Record<string, unknown>;
  for (const key of TOOL_FIELDS) if (!isEmpty(others[key])) throw toolFault(`${field}.${key}`);
  const speaker = readSpeaker(from ?? role, `${field}.${from === undefined ? "role" : "from"}`);
  const { text, pictures } = readContent(
    value ?? content,
    `${field}.${value === undefined ? "content" : "value"}`,
  );
  const learned = readFlags(others, field);
  for (const key of Object.keys(others)) {
    if (isEmpty(others[key])) continue;
    if (looksLikePictures(key, others[key])) throw pictureInTurn(`${field}.${key}`);
    if (!isFlag(key, others[key])) seen.unused.add(`${seen.list}[].${key}`);
    else if (learned && speaker === "user") seen.unused.add(`${seen.list}[].${key} of a user's turn`);
  }
  const isContext = learned === false && speaker === "assistant";
  return { turn: { role: speaker, text, ...(isContext && { learned: false }) }, pictures };
}

function readSpeaker(name: unknown, field: string): Turn["role"] {
  if (typeof name !== "string") throw wrongField(field, "the speaker is missing", TURN_FORM);
  const known = name.trim().toLowerCase();
  const role = ROLES.get(known);
  if (role) return role;
  if (TOOL_SPEAKERS.has(known.replaceAll("-", "_"))) throw toolFault(`${field} ${shownValue(name)}`);
  const names = Object.entries(SPEAKERS).map(([meaning, all]) => `${all.join(", ")} (${meaning})`);
  throw wrongField(field, `${shownValue(name)} is no known speaker`, `Speakers are ${names.join("; ")}.`);
}

function toolFault(what: string): RecordFault {
  return new RecordFault(`uses tools (${what}), which cannot be trained on here`, NO_TOOLS);
}

/** Returns whether flags let the turn be learned; undefined if there is no flag. */
function readFlags(turn: Record<string, unknown>, field: string): boolean | undefined {
  let learned: boolean | undefined;
  for (const key of LEARNED_FLAGS) {
    const flag = turn[key];
    if (flag === undefined || flag === null || !isFlag(key, flag)) continue;
    if (![true, false, 0, 1].includes(flag as boolean | number)) {
      const fix = "Write true or false. A turn is learned whole or not at all.";
      throw wrongField(`${field}.${key}`, `${shownValue(flag)} is neither true, false, 1 nor 0`, fix);
    }
    learned = (learned ?? true) && Boolean(flag);
  }
  return learned;
}

/** Returns whether a field is a flag. A `label` that is neither true nor false is a note of the user's. */
function isFlag(key: string, value: unknown): boolean {
  return LEARNED_FLAGS.includes(key) && (key !== "label" || typeof value === "boolean");
}

function pictureInTurn(field: string): RecordFault {
  return new RecordFault(
    `names a picture in ${field}, which is not read`,
    `Write it into "images" of the record, and ${IMAGE_PLACEHOLDER} into the text where the model should see it.`,
  );
}

function readContent(content: unknown, field: string): { text: string; pictures: ReadTurn["pictures"] } {
  if (typeof content === "string") return { text: content, pictures: [] };
  if (!Array.isArray(content)) throw wrongField(field, `${shownValue(content)} is no text`, TURN_FORM);
  const pictures: ReadTurn["pictures"] = [];
  const texts = content.map((part, index) => {
    const read = readPart(part, `${field}[${index}]`);
    if ("text" in read) return read.text;
    pictures.push(read.picture);
    return IMAGE_PLACEHOLDER;
  });
  return { text: texts.join(""), pictures };
}

const TEXT_PARTS = ["text", "input_text", "output_text"];
const PICTURE_PARTS = ["image", "image_url", "input_image"];
const PART_FORM = 'Parts are {"type": "text", "text": "..."} and {"type": "image", "image": "a.png"}.';

/** Reads a part of a content: text, or a picture. */
function readPart(part: unknown, field: string): { text: string } | { picture: string | undefined } {
  if (typeof part === "string") return { text: part };
  if (typeof part !== "object" || part === null || Array.isArray(part))
    throw wrongField(field, `${shownValue(part)} is no part of a text`, PART_FORM);
  const { type, ...parts } = part as Record<string, unknown>;
  if (TEXT_PARTS.includes(String(type))) {
    const text = parts.text ?? parts.value;
    if (typeof text !== "string") throw wrongField(field, "the text is missing", PART_FORM);
    return { text };
  }
  if (!PICTURE_PARTS.includes(String(type)))
    throw wrongField(`${field}.type`, `${shownValue(type)} is neither text nor image`, PART_FORM);
  for (const key of ["image", "image_url", "url", "path", "value", "source"]) {
    const picture = pictureOf(key === "source" ? sourceOf(parts[key]) : parts[key], `${field}.${key}`);
    if (picture !== undefined) return { picture };
  }
  if (!isEmpty(parts.bytes)) return { picture: pictureOf(parts, field) };
  return { picture: undefined };
}

/** Returns the picture in Anthropic's {"type": "base64", "media_type", "data"} or {"type": "url", "url"}. */
function sourceOf(source: unknown): unknown {
  const { data, url } = (source ?? {}) as { data?: unknown; url?: unknown };
  return isEmpty(data) ? url : { bytes: data };
}
