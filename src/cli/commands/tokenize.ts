/** `lorafit tokenize`: reads texts from stdin and prints their token ids, line by line. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { resolveModel } from "../../checkpoint/folder.ts";
import { loadTokenizer, type Tokenizer } from "../../data/text/tokenizer.ts";
import { UserError } from "../../errors.ts";
import { tokenizerOf } from "../../models/families.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";

export async function run({ model, bos, specials }: OptionsOf<"tokenize">, output: Output): Promise<void> {
  const tokenizer = await tokenizerAt(existsSync(model) ? model : resolveModel(model));
  let line = 0;
  for await (const content of createInterface({ input: process.stdin })) {
    line += 1;
    const ids = tokenizer.encode(output.json ? textOf(content, line) : content, { bos, specials });
    output.record(ids);
    output.answer(ids.join(" "));
  }
}

/** Loads the tokenizer of a model's folder, or of a tokenizer.model alone. */
async function tokenizerAt(folderOrFile: string): Promise<Tokenizer> {
  const isModel = existsSync(join(folderOrFile, "config.json"));
  return (isModel && (await tokenizerOf(folderOrFile))) || loadTokenizer(folderOrFile);
}

function textOf(content: string, line: number): string {
  try {
    const text: unknown = JSON.parse(content);
    if (typeof text === "string") return text;
  } catch {
    // refused below
  }
  throw new UserError(`stdin:${line}: this is not a JSON string.`, {
    fix: "With --json each line is a JSON string. Without it, each line is a text as it stands.",
  });
}
