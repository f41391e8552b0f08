/**
 * Encodes and decodes text with a tokenizer.json: byte-level BPE, as the Qwen models have it. Hugging Face's
 * package makes the ids. Names of special tokens in a text are ordinary text unless the caller wants them
 * read; other added tokens, such as `<think>`, are always read.
 */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Tokenizer as Encoder } from "@huggingface/tokenizers";
import { z } from "zod";
import { faultOf, UserError } from "../../errors.ts";
import type { DialogueForm } from "../samples/dialogueForm.ts";
import { jsonOfSlowFiles } from "./bpeJson.ts";
import { byteOfCharacter } from "./byteCharacters.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A tokenizer with the names of its tokens, from which a family makes its form of dialogues. */
export interface BpeTokens extends Omit<Tokenizer, "dialogue"> {
  /** Returns the id of a special token. Throws UserError if the file has none of this name. */
  idOf(name: string): number;
}

const TokenizerJson = z.object({
  added_tokens: z.array(z.looseObject({ id: z.int(), content: z.string(), special: z.boolean() })),
  pre_tokenizer: z.looseObject({ type: z.string() }),
  model: z.looseObject({
    type: z.literal("BPE"),
    byte_fallback: z.literal(false).nullish(),
    vocab: z.record(z.string(), z.int()),
  }),
});

/** The file that holds the tokenizer, in a model's folder. */
const FILE = "tokenizer.json";

/**
 * Loads the tokenizer of a model's folder: tokenizer.json, or the files of the slow tokenizer. Returns
 * undefined if the folder has none. Throws UserError if the file is not byte-level BPE.
 */
export async function loadBpeTokenizer(
  folder: string,
  dialogueOf: (tokens: BpeTokens) => DialogueForm,
): Promise<Tokenizer | undefined> {
  const file = join(folder, FILE);
  if (statSync(file, { throwIfNoEntry: false })?.isFile())
    return bpeTokenizer(readFileSync(file, "utf8"), file, dialogueOf);
  const made = jsonOfSlowFiles(folder);
  return made && bpeTokenizer(made.text, made.file, dialogueOf);
}

/** Makes a tokenizer of a file's text. */
export async function bpeTokenizer(
  text: string,
  file: string,
  dialogueOf: (tokens: BpeTokens) => DialogueForm,
): Promise<Tokenizer> {
  const json = parsed(text, file);
  const { Tokenizer: Package } = await import("@huggingface/tokenizers"); // most commands need no text
  const plain = { ...json, added_tokens: json.added_tokens.filter(({ special }) => !special) };
  const tokens = new ByteLevelTokens(json, new Package(plain, {}), file);
  return Object.assign(tokens, { dialogue: dialogueOf(tokens) });
}

function parsed(text: string, file: string): z.output<typeof TokenizerJson> {
  const unusable = (why: string, cause?: unknown): UserError =>
    new UserError(`${file} can't be used: ${why}.`, {
      fix: "Download tokenizer.json of the model again; it must be byte-level BPE.",
      cause,
    });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw unusable(`it is not JSON (${faultOf(cause)})`, cause);
  }
  const result = TokenizerJson.loose().safeParse(json);
  if (!result.success) {
    const issue = result.error.issues[0];
    throw unusable(`${issue?.path.join(".")}: ${issue?.message}`);
  }
  if (!JSON.stringify(result.data.pre_tokenizer).includes('"ByteLevel"'))
    throw unusable("its texts are not cut into bytes");
  return result.data;
}

const UTF8 = new TextEncoder();

class ByteLevelTokens implements BpeTokens {
  readonly vocabSize: number;
  readonly controlIds: readonly number[];
  readonly #names: string[] = [];
  readonly #specials: ReadonlyMap<string, number>;
  readonly #added: ReadonlySet<number>;
  readonly #pattern: RegExp | undefined;
  readonly #encoder: Encoder;
  readonly #file: string;

  constructor({ added_tokens, model }: z.output<typeof TokenizerJson>, encoder: Encoder, file: string) {
    for (const [name, id] of Object.entries(model.vocab)) this.#names[id] = name;
    for (const { id, content } of added_tokens) this.#names[id] = content;
    const specials = added_tokens.filter(({ special }) => special);
    this.#specials = new Map(specials.map(({ content, id }) => [content, id]));
    this.#added = new Set(added_tokens.map(({ id }) => id));
    this.#pattern = anyOf(specials.map(({ content }) => content));
    this.#encoder = encoder;
    this.#file = file;
    this.vocabSize = this.#names.length;
    this.controlIds = [...this.#specials.values()];
  }

  /** `bos` puts nothing before a text: these models have no token for the beginning. */
  encode(text: string, { specials = true }: { bos?: boolean; specials?: boolean } = {}): number[] {
    const whole = text.replace(/\p{Surrogate}/gu, "\ufffd");
    if (!specials || !this.#pattern) return this.#encodePart(whole);
    return whole
      .split(this.#pattern) // names at odd places
      .flatMap((part, index) =>
        index % 2 === 1 ? (this.#specials.get(part) as number) : this.#encodePart(part),
      );
  }

  decode(ids: Iterable<number>, { skipSpecial = false }: { skipSpecial?: boolean } = {}): string {
    const bytes: number[] = [];
    for (const id of ids) {
      const name = this.#names[id];
      if (name === undefined || (skipSpecial && this.#specials.has(name))) continue; // rows without a token
      for (const byte of this.#bytesOf(id, name)) bytes.push(byte);
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }

  piece(id: number): string {
    const name = this.#names[id];
    if (name !== undefined) return name;
    throw new RangeError(`token id ${id} is outside the vocabulary of ${this.vocabSize}`);
  }

  idOf(name: string): number {
    const id = this.#specials.get(name);
    if (id !== undefined) return id;
    throw new UserError(`${this.#file} has no token ${name}.`, {
      fix: "Use the tokenizer.json of the model itself.",
    });
  }

  #encodePart(text: string): number[] {
    return text === "" ? [] : this.#encoder.encode(text, { add_special_tokens: false }).ids;
  }

  #bytesOf(id: number, name: string): Uint8Array {
    if (this.#added.has(id)) return UTF8.encode(name);
    return Uint8Array.from(name, (character) => byteOfCharacter(character));
  }
}

/** Returns a pattern that keeps the names when a text is split by it; undefined without names. */
function anyOf(names: readonly string[]): RegExp | undefined {
  if (names.length === 0) return undefined;
  const longestFirst = [...names].sort((a, b) => b.length - a.length);
  return new RegExp(`(${longestFirst.map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`);
}
