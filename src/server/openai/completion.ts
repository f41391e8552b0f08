/** Answers of the chat completion API, whole and as chunks of a stream. */
import { randomUUID } from "node:crypto";
import type { Usage } from "../../serving/types.ts";

/** Token counts in OpenAI's form. cached_tokens: those of the prompt that the server had computed before. */
export interface CompletionUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

export type FinishReason = "stop" | "length";

/** Fields that all chunks of an answer share. */
export interface CompletionHead {
  id: string;
  created: number;
  model: string;
}

/** Returns the head of a new answer. nowMs: milliseconds since 1970. */
export function newCompletion(model: string, nowMs: number): CompletionHead {
  return { id: `chatcmpl-${randomUUID().replaceAll("-", "")}`, created: Math.floor(nowMs / 1000), model };
}

export function usageOf({ promptTokens, completionTokens, cachedTokens }: Usage): CompletionUsage {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

/** Returns the whole answer as one object. */
export function completion(
  head: CompletionHead,
  content: string,
  finish: FinishReason,
  usage: CompletionUsage,
) {
  const message = { role: "assistant", content, refusal: null };
  return {
    ...head,
    object: "chat.completion",
    choices: [{ index: 0, message, logprobs: null, finish_reason: finish }],
    usage,
  };
}

/** A part of what the assistant says. */
export interface Delta {
  role?: "assistant";
  content?: string;
}

/** Returns a chunk of a stream. With usage to come at the end, each chunk before has a null there. */
export function chunk(head: CompletionHead, delta: Delta, finish: FinishReason | null, withUsage: boolean) {
  return {
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
    ...(withUsage && { usage: null }),
  };
}

/** Returns the last chunk of a stream that counts its tokens. */
export function usageChunk(head: CompletionHead, usage: CompletionUsage) {
  return { ...head, object: "chat.completion.chunk", choices: [], usage };
}
