/**
 * Reads the body of a chat completion request. Source of the fields: OpenAI's API reference, "Create chat
 * completion". Fields that lorafit does not know are ignored, as clients send many. A field that would change
 * the answer and is not supported is an error.
 */
import { z } from "zod";
import { LIMIT_OPTIONS, type LimitOption, type LimitValues } from "../../data/pictures/limits.ts";
import { IMAGE_PLACEHOLDER, type Turn } from "../../data/samples/sample.ts";
import { ApiError } from "./apiError.ts";

export interface ChatRequest {
  /** Name of the base model, or of an adapter. */
  model: string;
  turns: Turn[];
  /** URLs of the pictures as the client gave them, in the order of their places in the turns. */
  pictureUrls: string[];
  /** Absent: the server's default. */
  maxTokens?: number;
  temperature: number;
  topP: number;
  repetitionPenalty: number;
  /** Absent: drawn for each request. */
  seed?: number;
  /** Texts that end the answer and are not part of it. */
  stop: string[];
  /** Limit of the pictures' tokens, by its option. Absent: the server's default. */
  limits?: LimitValues;
  isStreamed: boolean;
  /** Whether a stream ends with a chunk of token counts. */
  withUsage: boolean;
}

/** OpenAI allows 4; more are harmless. */
const MOST_STOPS = 16;
const MOST_MESSAGES = 4096;

const url = z.string().min(1);
const Part = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text"), text: z.string() }),
  z.object({ type: z.literal("image_url"), image_url: z.union([url, z.object({ url })]) }),
]);
const content = z.union([z.string(), z.array(Part)]);
const Message = z.object({
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: content.nullish(),
});
const count = z.int().positive();
const stopText = z.string().min(1);

const Body = z.object({
  model: z.string(),
  messages: z.array(Message).min(1).max(MOST_MESSAGES),
  max_tokens: count.nullish(),
  max_completion_tokens: count.nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  seed: z.int().nullish(),
  stop: z.union([stopText, z.array(stopText).max(MOST_STOPS)]).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  ...limitFields(),
});

/** Fields that are accepted only with a value that changes nothing. */
const UNSUPPORTED: Record<string, { isIdle: (value: unknown) => boolean; fix: string }> = {
  n: { isIdle: (value) => value === 1, fix: "Send a request for each answer." },
  tools: { isIdle: isEmptyList, fix: "The model was not trained to call tools." },
  functions: { isIdle: isEmptyList, fix: "The model was not trained to call functions." },
  logprobs: { isIdle: (value) => value === false, fix: "Leave it out." },
  logit_bias: { isIdle: isEmptyObject, fix: "Leave it out." },
  frequency_penalty: { isIdle: (value) => value === 0, fix: "Use repetition_penalty." },
  presence_penalty: { isIdle: (value) => value === 0, fix: "Use repetition_penalty." },
  response_format: {
    isIdle: (value) => (value as { type?: unknown })?.type === "text",
    fix: "Ask for JSON in the prompt.",
  },
};

/** Reads the body. Throws ApiError with the field that is wrong. */
export function readChatRequest(body: unknown): ChatRequest {
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new ApiError(400, "The request's body is not a JSON object.");
  refuseUnsupported(body as Record<string, unknown>);
  const parsed = Body.safeParse(body);
  if (!parsed.success) throw badField(parsed.error);
  const { data } = parsed;
  const maxTokens = data.max_completion_tokens ?? data.max_tokens;
  const limits = limitsIn(data);
  return {
    model: data.model,
    ...dialogueOf(data.messages),
    ...(maxTokens != null && { maxTokens }),
    temperature: data.temperature ?? 1,
    topP: data.top_p ?? 1,
    repetitionPenalty: data.repetition_penalty ?? 1,
    ...(data.seed != null && { seed: Math.abs(data.seed) }),
    stop: typeof data.stop === "string" ? [data.stop] : (data.stop ?? []),
    ...(limits && { limits }),
    isStreamed: data.stream ?? false,
    withUsage: data.stream_options?.include_usage ?? false,
  };
}

/** Returns the fields that limit pictures, one for each kind of them. */
function limitFields() {
  const fields = LIMIT_OPTIONS.map((option) => [option, count.nullish()] as const);
  return Object.fromEntries(fields) as Record<LimitOption, z.ZodOptional<z.ZodNullable<z.ZodInt>>>;
}

function limitsIn(data: { [Option in LimitOption]?: number | null | undefined }): LimitValues | undefined {
  const given = LIMIT_OPTIONS.filter((option) => data[option] != null);
  return given.length > 0 ? Object.fromEntries(given.map((option) => [option, data[option]])) : undefined;
}

function refuseUnsupported(body: Record<string, unknown>): void {
  for (const [field, { isIdle, fix }] of Object.entries(UNSUPPORTED)) {
    const value = Object.hasOwn(body, field) ? body[field] : undefined;
    if (value === undefined || value === null || isIdle(value)) continue;
    throw new ApiError(400, `${field} is not supported. ${fix}`, {
      param: field,
      code: "unsupported_parameter",
    });
  }
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}

function isEmptyObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/** Says which field is wrong, in the first of its faults. */
function badField({ issues }: z.ZodError): ApiError {
  const issue = issues[0];
  const param = pathOf(issue?.path ?? []);
  const message = issue?.code === "invalid_union" ? "must be a text, or a list of parts" : issue?.message;
  return new ApiError(400, `${param}: ${message}`, { param });
}

function pathOf(path: readonly PropertyKey[]): string {
  return path
    .map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))
    .join("")
    .replace(/^\./, "");
}

type Content = z.infer<typeof content>;

/** Returns the turns with a placeholder at the place of each picture, and the pictures. */
function dialogueOf(
  messages: readonly z.infer<typeof Message>[],
): Pick<ChatRequest, "turns" | "pictureUrls"> {
  const pictureUrls: string[] = [];
  const turns = messages.map(({ role, content: given }, index): Turn => {
    const at = `messages[${index}].content`;
    const { text, urls } = turnText(given ?? "", at);
    if (urls.length > 0 && role !== "user")
      throw new ApiError(400, "Pictures can stand in messages of the user only.", { param: at });
    pictureUrls.push(...urls);
    return { role: role === "developer" ? "system" : role, text };
  });
  return { turns, pictureUrls };
}

/** Joins parts: texts by line breaks, pictures where they stand. */
function turnText(given: Content, at: string): { text: string; urls: string[] } {
  const parts = typeof given === "string" ? [{ type: "text" as const, text: given }] : given;
  const urls: string[] = [];
  let text = "";
  for (const [index, part] of parts.entries()) {
    if (part.type === "image_url") {
      urls.push(typeof part.image_url === "string" ? part.image_url : part.image_url.url);
      text += IMAGE_PLACEHOLDER;
      continue;
    }
    if (part.text.includes(IMAGE_PLACEHOLDER))
      throw new ApiError(
        400,
        `${at}: ${IMAGE_PLACEHOLDER} marks the place of a picture. Send the picture as a part of type image_url.`,
        { param: at },
      );
    if (index > 0 && parts[index - 1]!.type === "text") text += "\n";
    text += part.text;
  }
  return { text, urls };
}
