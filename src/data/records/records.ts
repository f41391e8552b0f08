/**
 * Turns one record of a dataset file into one sample. A table holds the forms of records, each known by a
 * field that it must have: the official conversations, samples of token ids, and the forms of ms-swift,
 * LLaMA-Factory, TRL and OpenAI.
 */
import { z } from "zod";
import { formatCount, plural } from "../../errors.ts";
import { PICTURE_LIMITS } from "../pictures/limits.ts";
import {
  IMAGE_PLACEHOLDER,
  type RecordLimits,
  type Sample,
  type SampleSource,
  type Turn,
} from "../samples/sample.ts";
import { trimStart } from "../text/whitespace.ts";
import {
  isEmpty,
  looksLikePictures,
  OTHER_MEDIA_FIELDS,
  PICTURE_FIELDS,
  picturesOfRecord,
} from "./pictureFields.ts";
import { RecordFault, shownValue, wrongField } from "./recordFault.ts";
import { LEARNED_FLAGS, plainTurn, type ReadTurn, readTurns, type UnusedFields } from "./turns.ts";

type Fields = Record<string, unknown>;
type DialogueSample = Extract<Sample, { kind: "dialogue" }>;

export interface ParsedRecord {
  sample: Sample;
  /** Fields of the record that hold something and are not read. */
  unused: UnusedFields;
}

const OFFICIAL_FORM =
  'The official form is {"image": ["page.png"], "conversations": [{"from": "user", "value": "<ImageHere>..."}, ...]}.';

const Text = z.string();
const History = z.array(z.tuple([z.string(), z.string()])).nullish();
const Query = z.object({ query: Text, response: Text, history: History });
const Instruction = z.object({ instruction: Text, input: Text.nullish(), output: Text, history: History });
const System = z.object({ system: Text.nullish() });
const Limit = z.int().positive();
const Limits = z.union([Limit, z.array(Limit)]).nullish();

/** Pictures of the largest sample. Their tokens alone would be millions. */
const PICTURES_MAX = 10_000;
const TURNS_MAX = 100_000;

interface DialogueForm {
  /** Fields that the form reads. */
  fields: readonly string[];
  turns(record: Fields, unused: UnusedFields): ReadTurn[];
}

/** Forms of dialogues, by the field that each must have. */
const DIALOGUE_FORMS: Readonly<Record<string, DialogueForm>> = {
  conversations: {
    fields: ["conversations"],
    turns: ({ conversations }, unused) => readTurns(conversations, "conversations", unused),
  },
  messages: {
    fields: ["messages"],
    turns: ({ messages }, unused) => readTurns(messages, "messages", unused),
  },
  query: {
    fields: ["query", "response", "history"],
    turns(record) {
      const { query, response, history } = checked(Query, record);
      return exchanges([...(history ?? []), [query, response]]);
    },
  },
  instruction: {
    fields: ["instruction", "input", "output", "history"],
    turns(record) {
      const { instruction, input, output, history } = checked(Instruction, record);
      return exchanges([...(history ?? []), [[instruction, input].filter(Boolean).join("\n"), output]]);
    },
  },
  prompt: {
    fields: ["prompt", "completion"],
    turns: ({ prompt, completion }, unused) => [
      ...turnsOrText(prompt, "prompt", "user", unused),
      ...turnsOrText(completion, "completion", "assistant", unused),
    ],
  },
};

/** Fields that limit the tokens of a record's pictures. */
const LIMIT_FIELDS = Object.keys(PICTURE_LIMITS);
const TOKEN_FIELDS = ["input_ids", "labels", "attention_mask", ...LIMIT_FIELDS];
const COMMON_FIELDS = ["id", "system", ...PICTURE_FIELDS, ...OTHER_MEDIA_FIELDS];

/**
 * Returns the sample in a parsed record, with its picture paths as they are written. Throws a RecordFault
 * that names the field.
 */
export function parseRecord(record: unknown, place: SampleSource): ParsedRecord {
  if (!isFields(record)) throw new RecordFault("isn't a record", OFFICIAL_FORM);
  const source = { ...place, ...idOf(record) };
  refuseOtherTasks(record);
  refuseManyTurns(record);
  const unused: UnusedFields = new Set();
  if ("input_ids" in record) {
    const sample = tokenSample(record, source);
    noteUnused(record, TOKEN_FIELDS, sample, unused);
    return { sample, unused };
  }
  const form = Object.entries(DIALOGUE_FORMS).find(([key]) => key in record)?.[1];
  if (!form) {
    const keys = ["input_ids", ...Object.keys(DIALOGUE_FORMS)].join(", ");
    throw new RecordFault(`has none of the fields that make a sample (${keys})`, OFFICIAL_FORM);
  }
  const { system } = checked(System, record);
  const turns = form.turns(record, unused);
  const all = system ? [plainTurn("system", system), ...turns] : turns;
  const sample: DialogueSample = { kind: "dialogue", source, ...dialogue(all, picturesOfRecord(record)) };
  refuseGrounding(record, sample.turns);
  noteUnused(record, form.fields, sample, unused);
  refuseMarks(sample);
  return { sample, unused };
}

/** Refuses a dialogue of more turns than any model was trained for, before each turn becomes an object. */
function refuseManyTurns(record: Fields): void {
  for (const key of ["conversations", "messages", "history", "prompt", "completion"]) {
    const { length } = Array.isArray(record[key]) ? record[key] : [];
    if (length <= TURNS_MAX) continue;
    const most = formatCount(TURNS_MAX);
    const clause = `has ${formatCount(length)} turns in ${shownValue(key)}; a sample can have at most ${most}`;
    throw new RecordFault(clause, "Split the record.");
  }
}

function isFields(record: unknown): record is Fields {
  return typeof record === "object" && record !== null && !Array.isArray(record);
}

function idOf({ id }: Fields): { id?: string } {
  return typeof id === "string" || typeof id === "number" ? { id: String(id) } : {};
}

/** Names of fields of preference data. */
const PREFERENCE_FIELD = /^(?:chosen|rejected|positive|negative)(?:_|$)|^kto_tag$/;

/** Refuses records whose fields ask for something else than to learn each answer. */
function refuseOtherTasks(record: Fields): void {
  for (const [key, value] of Object.entries(record)) {
    if (isEmpty(value)) continue;
    if (PREFERENCE_FIELD.test(key) || (key === "label" && typeof value === "boolean")) {
      const fix = "Keep the answers to learn as an ordinary dialogue, and remove the others.";
      throw new RecordFault(`is preference data (${shownValue(key)}), which cannot be trained on here`, fix);
    }
    if (key === "tools") {
      throw new RecordFault('uses tools ("tools"), which cannot be trained on here', "Remove the sample.");
    }
    if (
      key !== "label" &&
      LEARNED_FLAGS.includes(key) &&
      (value === false || value === 0 || Array.isArray(value))
    ) {
      const fix = `Write it at the turns ({"from": "assistant", "value": "...", "loss": false}), or remove the sample.`;
      throw new RecordFault(`says of the whole sample what is not to be learned (${shownValue(key)})`, fix);
    }
  }
}

/**
 * Refuses ms-swift's grounding data, whose texts have marks where names and coordinates are to be filled in.
 */
function refuseGrounding({ objects }: Fields, turns: readonly Turn[]): void {
  if (isEmpty(objects) || !turns.some(({ text }) => /<(?:bbox|ref-object)>/.test(text))) return;
  const fix = "Write the names and coordinates into the text, in the form that the model should learn.";
  throw new RecordFault('is grounding data ("objects"), whose marks are not filled in here', fix);
}

/**
 * Notes the fields that hold something and are not read. A field that seems to hold the sample's pictures is
 * an error.
 */
function noteUnused(record: Fields, read: readonly string[], { images }: Sample, unused: UnusedFields): void {
  for (const [key, value] of Object.entries(record)) {
    if (read.includes(key) || COMMON_FIELDS.includes(key) || isEmpty(value)) continue;
    if (images.length === 0 && looksLikePictures(key, value)) {
      throw new RecordFault(
        `seems to name its picture as ${shownValue(key)}, which is not read`,
        'Name the field "image" or "images".',
      );
    }
    unused.add(key);
  }
}

/**
 * Refuses marks of pictures that the sample does not name. The model would learn to answer without seeing
 * them.
 */
function refuseMarks({ turns, images }: DialogueSample): void {
  const pattern = images.length === 0 ? /<image>|<img>|<ImageHere>/ : /<img>(?=[^<]{1,4096}<\/img>)/;
  for (const { text } of turns) {
    const mark = pattern.exec(text)?.[0];
    if (mark === undefined) continue;
    if (mark === "<img>") {
      const fix = `Write the path into "images", and ${IMAGE_PLACEHOLDER} into the text instead of <img>...</img>.`;
      throw new RecordFault("marks a picture with <img>, which is not read", fix);
    }
    const fix =
      'Name the picture\'s file in "images"; if the text only speaks of the mark, write it with a space.';
    throw new RecordFault(`has ${mark} in its text and names no picture`, fix);
  }
}

function checked<T>(shape: z.ZodType<T>, record: Fields): T {
  const result = shape.safeParse(record);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw wrongField(fieldName(issue?.path ?? []), issue?.message ?? "", OFFICIAL_FORM);
}

/** Returns a path of keys as "conversations[2].from". */
function fieldName(path: readonly PropertyKey[]): string {
  return path
    .map((key, index) => (typeof key === "number" ? `[${key}]` : `${index > 0 ? "." : ""}${String(key)}`))
    .join("");
}

function tokenSample(record: Fields, source: SampleSource): Sample {
  const inputIds = idsOf(record.input_ids, "input_ids");
  const labels = isEmpty(record.labels) ? undefined : idsOf(record.labels, "labels");
  const images = picturesOfRecord(record);
  if (inputIds.length === 0)
    throw new RecordFault("has no token ids", "Write the ids into input_ids, or remove the record.");
  if (labels && inputIds.length !== labels.length) {
    const fix =
      "Write one label for each id: -100 for an id that is not learned, and for every picture (-200 in input_ids).";
    throw new RecordFault(`has ${inputIds.length} input_ids but ${plural(labels.length, "label")}`, fix);
  }
  const limits = limitsOf(record, images);
  return { kind: "tokens", source, inputIds, labels, images, ...(limits && { limits }) };
}

/** Returns the record's own limit of each picture; undefined if it has none. */
function limitsOf(record: Fields, images: readonly string[]): RecordLimits | undefined {
  const [option, ...others] = LIMIT_FIELDS.filter((field) => !isEmpty(record[field]));
  if (option === undefined) return undefined;
  const stated = checked(z.object({ [option]: Limits }), record)[option];
  const values = typeof stated === "number" ? images.map(() => stated) : (stated ?? undefined);
  if (values && values.length !== images.length) {
    const fix = `Write one ${option} for all pictures, or one for each.`;
    throw new RecordFault(
      `has ${values.length} values of ${option} for ${plural(images.length, "picture")}`,
      fix,
    );
  }
  return values && { option, values, ...(others.length > 0 && { others }) };
}

/** Returns a list of ids. A zod schema would keep a message for each of a million wrong ids. */
function idsOf(list: unknown, field: string): Int32Array {
  const fix = "Ids and labels are lists of whole numbers.";
  if (!Array.isArray(list)) throw wrongField(field, `${shownValue(list)} is no list of ids`, fix);
  const wrong = list.findIndex((id) => !Number.isInteger(id) || Math.abs(id) >= 2 ** 31);
  if (wrong >= 0) throw wrongField(`${field}[${wrong}]`, `${shownValue(list[wrong])} is no id`, fix);
  return Int32Array.from(list);
}

function exchanges(pairs: (readonly [string, string])[]): ReadTurn[] {
  return pairs.flatMap(([question, answer]) => [plainTurn("user", question), plainTurn("assistant", answer)]);
}

/** Returns the turns of TRL's prompt or completion, which is a text or a list of turns. */
function turnsOrText(value: unknown, field: string, role: Turn["role"], unused: UnusedFields): ReadTurn[] {
  return typeof value === "string" ? [plainTurn(role, value)] : readTurns(value, field, unused);
}

/** Returns the turns, and their pictures in the order of the text. */
function dialogue(
  read: readonly ReadTurn[],
  ofRecord: readonly string[],
): { turns: Turn[]; images: string[] } {
  const images = picturesInOrder(
    read.flatMap(({ pictures }) => pictures),
    ofRecord,
  );
  if (images.length > PICTURES_MAX) {
    const clause = `has ${formatCount(images.length)} pictures; a sample can have at most ${formatCount(PICTURES_MAX)}`;
    throw new RecordFault(clause, "Split the record.");
  }
  const turns = read.map(({ turn }) => turn);
  return { turns: markPictures(turns, images.length), images };
}

/**
 * Returns the pictures of content parts: each part's own, or the record's next one. Without such parts,
 * returns the record's pictures.
 */
function picturesInOrder(ofParts: readonly (string | undefined)[], ofRecord: readonly string[]): string[] {
  const named = ofParts.filter((picture) => picture !== undefined);
  if (named.length === 0) return [...ofRecord];
  const isSame =
    named.length === ofRecord.length && named.every((picture, index) => picture === ofRecord[index]);
  const rest = isSame ? [] : [...ofRecord];
  return [...ofParts.flatMap((picture) => picture ?? rest.shift() ?? []), ...rest];
}

/**
 * Returns the turns with IMAGE_PLACEHOLDER in the places of pictures. Without the placeholder, `<image>` (the
 * mark of other trainers) is the place. A single picture without any mark stands before the first question:
 * the official code puts it after the answer, where the answer cannot see it.
 */
function markPictures(turns: Turn[], pictures: number): Turn[] {
  if (pictures === 0 || turns.some(({ text }) => text.includes(IMAGE_PLACEHOLDER))) return turns;
  if (turns.some(({ text }) => text.includes("<image>"))) {
    return turns.map((turn) => ({ ...turn, text: turn.text.replaceAll("<image>", IMAGE_PLACEHOLDER) }));
  }
  const first = turns.findIndex(({ role }) => role === "user");
  if (pictures > 1 || first < 0) return turns;
  return turns.map((turn, index) =>
    index === first ? { ...turn, text: IMAGE_PLACEHOLDER + trimStart(turn.text) } : turn,
  );
}
