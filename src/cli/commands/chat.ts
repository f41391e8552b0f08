/** `lorafit chat`: a conversation line by line, with pictures. */
import { resolve } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { imageSize } from "../../data/pictures/image.ts";
import { encodePrompt, requireTokenizer } from "../../data/samples/dialogue.ts";
import type { Turn } from "../../data/samples/sample.ts";
import { UserError } from "../../errors.ts";
import type { Evaluator } from "../../train/evaluate/evaluate.ts";
import { answerPrompt, withPlaceholders } from "../answers.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { inspectModel, withModel } from "../session.ts";

type ChatOptions = OptionsOf<"chat">;

interface Conversation {
  turns: Turn[];
  /** Of all turns. */
  images: string[];
  /** Pictures that the next question will show. */
  waiting: string[];
}

export async function run(options: ChatOptions, output: Output): Promise<void> {
  for (const file of options.image) await imageSize(file, options.image_compat); // says now what is wrong with it
  const known = await inspectModel(options.model);
  requireTokenizer(known.tokenizer);
  await withModel(known, options, output, (session) => converse(session, options, output));
}

async function converse(session: Evaluator, options: ChatOptions, output: Output): Promise<void> {
  const conversation: Conversation = { turns: [], images: [], waiting: [...options.image] };
  const lines = createInterface({ input: process.stdin, output: process.stderr, prompt: "> " });
  let answering: AbortController | undefined;
  lines.on("SIGINT", () => (answering ? answering.abort() : lines.close()));
  ask(lines);
  for await (const line of lines) {
    if (line.trim() === "/quit") break;
    answering = new AbortController();
    try {
      await take(line.trim(), conversation, { session, options, output, signal: answering.signal });
    } catch (thrown) {
      if (!(thrown instanceof UserError)) throw thrown;
      output.note([`error: ${thrown.message}`, ...(thrown.fix?.split("\n") ?? [])].join("\n  "));
    }
    answering = undefined;
    ask(lines);
  }
  lines.close();
}

interface Answering {
  session: Evaluator;
  options: ChatOptions;
  output: Output;
  signal: AbortSignal;
}

/** One line of the user: a question, or what to do. */
async function take(line: string, conversation: Conversation, answering: Answering): Promise<void> {
  const [, word, rest = ""] = /^\/(\S*)\s*(.*)$/.exec(line) ?? [];
  if (line === "") return;
  if (word === undefined) return answer(line, conversation, answering);
  if (word === "reset") {
    Object.assign(conversation, { turns: [], images: [], waiting: [] });
  } else if (word === "image") {
    const { width, height } = await imageSize(rest, answering.options.image_compat);
    conversation.waiting.push(rest);
    answering.output.note(`${rest} (${width} x ${height}) goes with the next question`);
  } else {
    throw new UserError(`There is no /${word}.`, { fix: "/image FILE, /reset and /quit are known." });
  }
}

/** Answers a question; after an error the conversation is as it was before it. */
async function answer(
  question: string,
  conversation: Conversation,
  { session, options, output, signal }: Answering,
): Promise<void> {
  const user: Turn = { role: "user", text: withPlaceholders(question, conversation.waiting.length) };
  const turns = [...conversation.turns, user];
  const images = [...conversation.images, ...conversation.waiting.map((file) => resolve(file))];
  const source = { file: "chat", index: turns.length - 1 };
  const prompt = encodePrompt({ kind: "dialogue", source, turns, images }, session.tokenizer, options.hd_num);
  const onText = (piece: string): void => output.piece(piece);
  const { ids, text } = await answerPrompt(prompt, session, options, { onText, signal });
  output.record({ ids, text });
  output.answer("");
  Object.assign(conversation, {
    turns: [...turns, { role: "assistant", text: text ?? "" }],
    images,
    waiting: [],
  });
}

function ask(lines: Interface): void {
  if (process.stdin.isTTY) lines.prompt();
}
