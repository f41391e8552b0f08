/**
 * One record of a dataset file to one sample. A table of record shapes, told apart by a key that each must have: the
 * official conversations, samples that are token ids already, and the ways in which ms-swift and LLaMA-Factory write theirs.
 */
import { z } from "zod";
import { trim } from "../text/whitespace.ts";
import { sampleError } from "./badSamples.ts";
import { IMAGE_PLACEHOLDER } from "./dialogue.ts";
import type { Sample, SampleSource, Turn } from "./samples.ts";

const Id = z.int32();
const Paths = z
  .union([z.string(), z.array(z.string())])
  .nullish()
  .transform((paths) => [paths ?? []].flat());
const Unsupported = z.array(z.unknown()).max(0, { error: "only pictures can be trained on" }).optional();
const HdNum = z.int().positive();
const Media = { image: Paths, images: Paths, videos: Unsupported, audios: Unsupported };
const History = z.array(z.tuple([z.string(), z.string()])).nullish();

const ROLES = new Map<string, Turn["role"]>([
  ["user", "user"],
  ["human", "user"],
  ["assistant", "assistant"],
  ["gpt", "assistant"],
  ["system", "system"],
]);

const Role = z.string().transform((name, context): Turn["role"] => {
  const role = ROLES.get(name.toLowerCase());
  if (role) return role;
  const message = `"${name}" is no speaker: use ${[...ROLES.keys()].join(", ")}`;
  context.addIssue({ code: "custom", message });
  return z.NEVER;
});

const TokenRecord = z.object({
  input_ids: z.array(Id),
  labels: z.array(Id),
  images: Paths,
  hd_num: z.union([HdNum, z.array(HdNum)]).nullish(),
});

const ConversationRecord = z
  .object({
    conversations: z.array(z.object({ from: Role, value: z.string() })),
    system: z.string().nullish(),
    ...Media,
  })
  .transform(({ conversations, system, ...media }) =>
    dialogue(
      system,
      conversations.map(({ from, value }): Turn => ({ role: from, text: value })),
      media,
    ),
  );

const MessageRecord = z
  .object({
    messages: z.array(z.object({ role: Role, content: z.string() })),
    system: z.string().nullish(),
    ...Media,
  })
  .transform(({ messages, system, ...media }) =>
    dialogue(
      system,
      messages.map(({ role, content }): Turn => ({ role, text: content })),
      media,
    ),
  );

const QueryRecord = z
  .object({
    query: z.string(),
    response: z.string(),
    history: History,
    system: z.string().nullish(),
    ...Media,
  })
  .transform(({ query, response, history, system, ...media }) =>
    dialogue(system, exchanges([...(history ?? []), [query, response]]), media),
  );

const InstructionRecord = z
  .object({
    instruction: z.string(),
    input: z.string().nullish(),
    output: z.string(),
    history: History,
    system: z.string().nullish(),
    ...Media,
  })
  .transform(({ instruction, input, output, history, system, ...media }) => {
    const question = [instruction, input].filter(Boolean).join("\n");
    return dialogue(system, exchanges([...(history ?? []), [question, output]]), media);
  });

const DIALOGUE_RECORDS = {
  conversations: ConversationRecord,
  messages: MessageRecord,
  query: QueryRecord,
  instruction: InstructionRecord,
} as const;

const OFFICIAL_FORM =
  'The official form is {"image": ["page.png"], "conversations": [{"from": "user", "value": "<ImageHere>..."}, ...]}.';

/** The sample in a parsed record, its picture paths as they are written; throws UserError that names the field. */
export function parseRecord(record: unknown, source: SampleSource): Sample {
  if (typeof record !== "object" || record === null) {
    throw sampleError(source, "isn't a record", OFFICIAL_FORM);
  }
  if ("input_ids" in record) return tokenSample(checked(TokenRecord, record, source), source);
  for (const [key, shape] of Object.entries(DIALOGUE_RECORDS)) {
    if (key in record) return { kind: "dialogue", source, ...checked(shape, record, source) };
  }
  const keys = ["input_ids", ...Object.keys(DIALOGUE_RECORDS)].join(", ");
  throw sampleError(source, `has none of the fields that make a sample (${keys})`, OFFICIAL_FORM);
}

function checked<T>(shape: z.ZodType<T>, record: unknown, source: SampleSource): T {
  const result = shape.safeParse(record);
  if (result.success) return result.data;
  const issues = result.error.issues.slice(0, 3).map(({ path, message }) => `${fieldName(path)}: ${message}`);
  throw sampleError(source, `has wrong fields: ${issues.join("; ")}`, OFFICIAL_FORM);
}

/** "conversations[2].from". */
function fieldName(path: readonly PropertyKey[]): string {
  return path
    .map((key, index) => (typeof key === "number" ? `[${key}]` : `${index > 0 ? "." : ""}${String(key)}`))
    .join("");
}

function tokenSample(record: z.output<typeof TokenRecord>, source: SampleSource): Sample {
  const { input_ids, labels, images, hd_num } = record;
  if (input_ids.length !== labels.length) {
    const fix =
      "Write one label for each id: -100 where there is none, and for every picture (-200 in input_ids).";
    throw sampleError(source, `has ${input_ids.length} input_ids but ${labels.length} labels`, fix);
  }
  const hdNums = typeof hd_num === "number" ? images.map(() => hd_num) : hd_num;
  if (hdNums && hdNums.length !== images.length) {
    const fix = "Write one hd_num for all pictures, or one for each.";
    throw sampleError(source, `has ${hdNums.length} values of hd_num for ${images.length} pictures`, fix);
  }
  return {
    kind: "tokens",
    source,
    inputIds: Int32Array.from(input_ids),
    labels: Int32Array.from(labels),
    images,
    ...(hdNums ? { hdNums } : {}),
  };
}

function exchanges(pairs: (readonly [string, string])[]): Turn[] {
  return pairs.flatMap(([question, answer]): Turn[] => [
    { role: "user", text: question },
    { role: "assistant", text: answer },
  ]);
}

interface MediaFields {
  image: string[];
  images: string[];
}

function dialogue(system: string | null | undefined, turns: Turn[], { image, images }: MediaFields) {
  const all: Turn[] = system ? [{ role: "system", text: system }, ...turns] : turns;
  const paths = [...image, ...images];
  const trimmed = all.map(({ role, text }): Turn => ({ role, text: trim(text) }));
  return { turns: markPictures(trimmed, paths.length), images: paths };
}

/**
 * The turns with `<ImageHere>` where the pictures go. Where there is none, `<image>` (the mark of other trainers) is taken
 * for it, and a single picture without any mark stands before the first question: the official code puts it after the
 * answer, where the answer can't see it.
 */
function markPictures(turns: Turn[], pictures: number): Turn[] {
  if (pictures === 0 || turns.some(({ text }) => text.includes(IMAGE_PLACEHOLDER))) return turns;
  if (turns.some(({ text }) => text.includes("<image>"))) {
    return turns.map(({ role, text }) => ({ role, text: text.replaceAll("<image>", IMAGE_PLACEHOLDER) }));
  }
  const first = turns.findIndex(({ role }) => role === "user");
  if (pictures > 1 || first < 0) return turns;
  return turns.map((turn, index) =>
    index === first ? { role: turn.role, text: IMAGE_PLACEHOLDER + turn.text } : turn,
  );
}
