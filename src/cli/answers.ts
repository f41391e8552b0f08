/** Answers a prompt with pictures, and passes the text on as it comes: for generate and chat. */

import type { EncodedSample } from "../data/samples/dialogue.ts";
import { IMAGE_PLACEHOLDER } from "../data/samples/sample.ts";
import { layoutBatch } from "../data/stream/batches.ts";
import { TextStream } from "../data/text/textStream.ts";
import { type Generated, generate } from "../models/generation/generate.ts";
import type { Evaluator } from "../train/evaluate/evaluate.ts";
import { stopIdsOf } from "../train/planning/answerPlan.ts";

/** Options of generate and chat for answers. */
export interface AnswerOptions {
  max_new_tokens: number;
  ignore_eos: boolean;
  temperature: number;
  top_p: number;
  repetition_penalty: number;
  seed: number;
}

export interface AnswerHooks {
  /** Called with each new piece of the text. */
  onText?: (piece: string) => void;
  signal?: AbortSignal;
}

/** Lets the model answer a prompt. Returns its ids, and their text if there is a tokenizer. */
export async function answerPrompt(
  prompt: EncodedSample,
  { model, lora, policy, pictures, tokenizer }: Evaluator,
  options: AnswerOptions,
  { onText, signal }: AnswerHooks = {},
): Promise<Generated & { text: string | null }> {
  const images = await Promise.all(prompt.images.map(({ path, limit }) => pictures.load(path, limit)));
  const ends = stopIdsOf(tokenizer, model.config);
  const stream = tokenizer && onText && new TextStream(tokenizer);
  const pass = (piece = ""): void => {
    if (piece !== "") onText?.(piece);
  };
  const generated = await generate(model, lora, layoutBatch([{ sample: prompt, images }]), {
    sampling: {
      temperature: options.temperature,
      topP: options.top_p,
      repetitionPenalty: options.repetition_penalty,
      seed: options.seed,
    },
    maxNewTokens: options.max_new_tokens,
    stopIds: options.ignore_eos ? [] : ends,
    visionBatch: policy.visionBatchTiles,
    ...(stream && { onToken: (id: number) => pass(stream.add(id)) }),
    ...(signal && { signal }),
  });
  pass(stream?.end());
  return { ...generated, text: tokenizer?.decode(generated.ids, { skipSpecial: true }) ?? null };
}

/** Returns the text with a placeholder in front for each picture that has none. */
export function withPlaceholders(text: string, pictures: number): string {
  const placed = text.split(IMAGE_PLACEHOLDER).length - 1;
  return IMAGE_PLACEHOLDER.repeat(Math.max(0, pictures - placed)) + text;
}
