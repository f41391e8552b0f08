/** Reads a streamed chat completion. */
import { ApiProblem, apiUrl } from "../../api.ts";

export interface Message {
  role: "user" | "assistant";
  content: string | ({ type: "text"; text: string } | { type: "image_url"; image_url: { url: string } })[];
}

/** Asks a model, and gives each piece of its answer to `take`. Throws ApiProblem with the server's words. */
export async function complete(
  request: { model: string; messages: readonly Message[] },
  take: (piece: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const response = await fetch(apiUrl("chat/completions"), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, temperature: 0 }),
    signal,
  });
  if (!response.ok) throw await problemOf(response);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) takeEvent(event, take);
  }
}

function takeEvent(event: string, take: (piece: string) => void): void {
  const data = event.replace(/^data: /, "");
  if (data === "[DONE]" || !event.startsWith("data: ")) return;
  const { choices, error } = JSON.parse(data) as {
    choices?: { delta?: { content?: string | null } }[];
    error?: { message: string };
  };
  if (error) throw new ApiProblem(error.message, { status: 500 });
  const piece = choices?.[0]?.delta?.content;
  if (piece) take(piece);
}

/** The page's own errors are texts, those of `lorafit serve` are in OpenAI's form. */
async function problemOf(response: Response): Promise<ApiProblem> {
  const { error, fix } = (await response.json().catch(() => ({}))) as {
    error?: string | { message: string };
    fix?: string;
  };
  const message = typeof error === "string" ? error : error?.message;
  return new ApiProblem(message ?? `The server answered with status ${response.status}.`, {
    ...{ fix: fix === undefined ? [] : fix.split("\n"), status: response.status },
  });
}
