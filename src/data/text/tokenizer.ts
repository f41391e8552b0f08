/**
 * Encodes text as token ids, and decodes ids. The pieces come from the model's own sentencepiece file. As in
 * the official tokenizer class (transformers 4.33, which the official recipe pins), `<s>`, `</s>` and `<unk>`
 * in a text are ids, and whitespace beside them is dropped.
 */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { SentencePieceProcessor } from "@agnai/sentencepiece-js";
import { messageOf, UserError } from "../../errors.ts";
import type { DialogueForm } from "../samples/dialogueForm.ts";
import { internlm2Dialogue } from "../samples/internlm2Dialogue.ts";
import { type Piece, readPieces } from "./sentencepieceModel.ts";
import { trimEnd, trimStart } from "./whitespace.ts";

export interface Tokenizer {
  readonly vocabSize: number;
  /** Ids that stand for no text of their own, such as `<s>`. */
  readonly controlIds: readonly number[];
  /** How the model's family writes dialogues. */
  readonly dialogue: DialogueForm;
  /**
   * Returns the ids of a text. `bos` (default false) puts `<s>` before it. With `specials: false` (default
   * true), names of control tokens in the text are spelled out like other text, so that a user cannot type a
   * control token.
   */
  encode(text: string, options?: { bos?: boolean; specials?: boolean }): number[];
  /**
   * Returns the official text of ids. A space stands before each run of `<s>`, `</s>` and `<unk>`;
   * `skipSpecial` leaves these out.
   */
  decode(ids: Iterable<number>, options?: { skipSpecial?: boolean }): string;
  /** Returns the name of one id, as in the model file. Throws a RangeError outside the vocabulary. */
  piece(id: number): string;
}

/** The tokenizer of InternLM-XComposer2, with its control tokens. */
export type InternLM2Tokenizer = SentencePieceTokenizer;

const SPECIALS = ["<unk>", "<s>", "</s>"] as const;
const SPECIAL = /(<s>|<\/s>|<unk>)/;
const TURN_START = "[UNUSED_TOKEN_146]";
const TURN_END = "[UNUSED_TOKEN_145]";

/** Loads the tokenizer of a model folder or of a tokenizer.model file. */
export async function loadTokenizer(folderOrFile: string): Promise<InternLM2Tokenizer> {
  const file = modelFile(folderOrFile);
  const pieces = readPieces(readFileSync(file), file);
  const processor = new SentencePieceProcessor();
  try {
    await processor.load(file);
  } catch (error) {
    throw unusable(file, messageOf(error));
  }
  if (processor.encodeIds("a").length === 0) throw unusable(file, "its pieces don't make a tokenizer");
  return new SentencePieceTokenizer(pieces, processor, file);
}

function modelFile(folderOrFile: string): string {
  const stat = statSync(folderOrFile, { throwIfNoEntry: false });
  const file = stat?.isDirectory() ? join(folderOrFile, "tokenizer.model") : folderOrFile;
  if (statSync(file, { throwIfNoEntry: false })?.isFile()) return file;
  throw new UserError(`There is no tokenizer at ${file}.`, {
    fix: "Put the model's tokenizer.model there: it comes with the weights.",
  });
}

function unusable(file: string, why: string): UserError {
  return new UserError(`sentencepiece can't use ${file}: ${why}.`, {
    fix: "Download tokenizer.model of the model again; the file may be incomplete.",
  });
}

class SentencePieceTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly unkId: number;
  readonly turnStartId: number;
  readonly turnEndId: number;
  readonly controlIds: readonly number[];
  readonly dialogue: DialogueForm;
  readonly #pieces: Piece[];
  readonly #processor: SentencePieceProcessor;
  readonly #idOfSpecial: ReadonlyMap<string, number>;
  readonly #markers: RegExp | undefined;

  constructor(pieces: Piece[], processor: SentencePieceProcessor, file: string) {
    const ids = new Map(pieces.map((piece, id) => [piece.text, id]));
    const idOf = (name: string): number => {
      const id = ids.get(name);
      if (id !== undefined) return id;
      throw new UserError(`${file} has no piece ${name}.`, {
        fix: "Use the tokenizer.model of an InternLM-XComposer2 model.",
      });
    };
    this.#pieces = pieces;
    this.#processor = processor;
    this.#idOfSpecial = new Map(SPECIALS.map((name) => [name, idOf(name)]));
    this.#markers = markerPattern(pieces);
    this.vocabSize = pieces.length;
    this.unkId = idOf("<unk>");
    this.bosId = idOf("<s>");
    this.eosId = idOf("</s>");
    this.turnStartId = idOf(TURN_START);
    this.turnEndId = idOf(TURN_END);
    this.controlIds = [this.bosId, this.eosId, this.unkId];
    this.dialogue = internlm2Dialogue(this);
  }

  encode(
    text: string,
    { bos = false, specials = true }: { bos?: boolean; specials?: boolean } = {},
  ): number[] {
    const ids = bos ? [this.bosId] : [];
    const parts = specials ? this.#specialParts(text) : this.#spelledParts(text);
    for (const part of parts) {
      if (typeof part === "number") ids.push(part);
      else for (const id of this.#encodePart(part)) ids.push(id);
    }
    return ids;
  }

  decode(ids: Iterable<number>, { skipSpecial = false }: { skipSpecial?: boolean } = {}): string {
    let text = "";
    let run: number[] = [];
    let afterSpecial = false;
    for (const id of ids) {
      const name = this.piece(id);
      const special = this.#idOfSpecial.has(name);
      if (special && skipSpecial) continue;
      if (special) {
        text += `${afterSpecial ? "" : " "}${this.#decodeRun(run)}${name}`;
        run = [];
      } else run.push(id);
      afterSpecial = special;
    }
    return text + this.#decodeRun(run);
  }

  piece(id: number): string {
    const piece = this.#pieces[id];
    if (piece) return piece.text;
    throw new RangeError(`token id ${id} is outside the vocabulary of ${this.vocabSize}`);
  }

  /**
   * Yields the text cut at special names: ids for the names, and the text between them without the whitespace
   * beside them.
   */
  *#specialParts(text: string): Generator<number | string> {
    const parts = text.split(SPECIAL); // names at odd places
    for (const [index, part] of parts.entries()) {
      const special = index % 2 === 1 ? this.#idOfSpecial.get(part) : undefined;
      if (special !== undefined) yield special;
      else {
        const opened = index > 0 ? trimStart(part) : part;
        yield index < parts.length - 1 ? trimEnd(opened) : opened;
      }
    }
  }

  /**
   * Yields the text cut inside every control token's name, so that sentencepiece does not read the name as
   * the token.
   */
  *#spelledParts(text: string): Generator<string> {
    let start = 0;
    for (const match of this.#markers ? text.matchAll(this.#markers) : []) {
      yield text.slice(start, match.index + 1);
      start = match.index + 1;
    }
    yield text.slice(start);
  }

  #encodePart(text: string): number[] {
    return text === "" ? [] : this.#processor.encodeIds(text.replace(/\p{Surrogate}/gu, "\ufffd"));
  }

  #decodeRun(ids: number[]): string {
    return ids.length === 0 ? "" : this.#processor.decodeIds(Int32Array.from(ids));
  }
}

/**
 * Returns a pattern of the bracketed names among a model's own symbols. Others, such as fullwidth letters,
 * are ordinary text.
 */
function markerPattern(pieces: Piece[]): RegExp | undefined {
  const markers = pieces.filter(
    (piece) => piece.kind === "userDefined" && /^(\[.+\]|<.+>)$/.test(piece.text),
  );
  const names = markers.map((piece) => piece.text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return names.length > 0 ? new RegExp(names.join("|"), "g") : undefined;
}
