/** `lorafit chat`: talks with the model line by line, with pictures. */

import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { imageSize } from "../../data/pictures/decode.ts";
import { limitOf } from "../../data/pictures/limits.ts";
import { encodePrompt, requireTokenizer } from "../../data/samples/dialogue.ts";
import type { Turn } from "../../data/samples/sample.ts";
import { UserError } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import { listOfChoices } from "../../options.ts";
import type { Evaluator } from "../../train/evaluate/evaluate.ts";
import { answerPrompt, withPlaceholders } from "../answers.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { type Output, table } from "../output/output.ts";
import { inspectModel, withModel } from "../session.ts";

type ChatOptions = OptionsOf<"chat">;

interface Conversation {
  turns: Turn[];
  /** Pictures of all turns. */
  images: string[];
  /** Pictures that the next question will show. */
  waiting: string[];
}

export async function run(options: ChatOptions, output: Output): Promise<void> {
  for (const file of options.image) await imageSize(file, options.image_compat); // throws if it is not a picture
  const known = await inspectModel(options.model, options);
  requireTokenizer(known.tokenizer);
  await withModel(known, options, output, (session) => converse(session, options, output));
}

async function converse(session: Evaluator, options: ChatOptions, output: Output): Promise<void> {
  const conversation: Conversation = { turns: [], images: [], waiting: [...options.image] };
  const lines = createInterface({ input: process.stdin, output: process.stderr, prompt: "> " });
  let answering: AbortController | undefined;
  lines.on("SIGINT", () => (answering ? answering.abort() : lines.close()));
  if (!output.json) output.note(START);
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

/**
 * Does what a line asks for: answers a question, or runs a command. Throws UserError for a command that is
 * not known.
 */
async function take(line: string, conversation: Conversation, answering: Answering): Promise<void> {
  const [, word, rest = ""] = /^\/(\S*)\s*(.*)$/.exec(line) ?? [];
  if (line === "") return;
  if (word === undefined) return answer(line, conversation, answering);
  const command = Object.hasOwn(COMMANDS, word) ? COMMANDS[word as keyof typeof COMMANDS] : undefined;
  if (!command) throw new UserError(`There is no /${word}.`, { fix: HELP });
  await command.run(rest, conversation, answering);
}

interface ChatCommand {
  usage: string;
  help: string;
  run: (rest: string, conversation: Conversation, answering: Answering) => unknown;
}

const COMMANDS = {
  image: { usage: "/image FILE", help: "show a picture with the next question", run: addImage },
  reset: {
    usage: "/reset",
    help: "forget the conversation and its pictures",
    run: (_, conversation) => Object.assign(conversation, { turns: [], images: [], waiting: [] }),
  },
  help: { usage: "/help", help: "show these commands", run: (_, __, { output }) => output.note(HELP) },
  quit: { usage: "/quit", help: "end; so does Ctrl-D. Ctrl-C stops an answer", run: () => {} },
} as const satisfies Record<string, ChatCommand>;

const HELP = table(Object.values(COMMANDS).map(({ usage, help }) => [usage, help]));

/** The commands in one line, for the start. */
const START = `Ask a question, or type ${listOfChoices(Object.values(COMMANDS).map(({ usage }) => usage))}.`;

async function addImage(
  typed: string,
  conversation: Conversation,
  { options, output }: Answering,
): Promise<void> {
  const file = typedPath(typed);
  if (file === "") throw new UserError("/image needs a file.", { fix: "/image page.png" });
  const { width, height } = await imageSize(file, options.image_compat);
  conversation.waiting.push(file);
  output.note(`${file} (${width} x ${height}) goes with the next question`);
}

/**
 * Returns the path in a line as terminals paste it: in quotes, with spaces behind backslashes, or as it is; ~
 * is the home folder.
 */
export function typedPath(typed: string): string {
  const [, inQuotes] = /^(?:'([^']*)'|"([^"]*)")$/.exec(typed)?.filter((part) => part !== undefined) ?? [];
  const path = inQuotes ?? (existsSync(typed) ? typed : typed.replaceAll(/\\(.)/g, "$1"));
  return path.startsWith("~/") ? join(homedir(), path.slice(2)) : path;
}

/** Answers a question. After an error the conversation is as it was before. */
async function answer(
  question: string,
  conversation: Conversation,
  { session, options, output, signal }: Answering,
): Promise<void> {
  const user: Turn = { role: "user", text: withPlaceholders(question, conversation.waiting.length) };
  const turns = [...conversation.turns, user];
  const images = [...conversation.images, ...conversation.waiting.map((file) => resolve(file))];
  const limit = limitOf(options, pictureFormOf(session.model.config).limit);
  const source = { file: "chat", index: turns.length - 1 };
  const prompt = encodePrompt({ kind: "dialogue", source, turns, images }, session.tokenizer, limit);
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
