/** Server-Sent Events, as OpenAI's clients read them. */

/** Milliseconds without an event after which a comment keeps the connection open through proxies. */
const KEEP_ALIVE_MS = 15_000;

const HEADERS = {
  "Content-Type": "text/event-stream; charset=utf-8",
  "Cache-Control": "no-cache",
  "X-Accel-Buffering": "no", // nginx would hold the stream back
};

/**
 * Answers with a stream of JSON values, one event each, then "[DONE]". `cancel` is called if the
 * client leaves. A value that is undefined ends the stream without "[DONE]".
 */
export function eventStream(values: AsyncGenerator<object | undefined>, cancel: () => void): Response {
  const encoder = new TextEncoder();
  let beat: ReturnType<typeof setInterval> | undefined;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      beat = setInterval(() => controller.enqueue(encoder.encode(": waiting\n\n")), KEEP_ALIVE_MS);
    },
    async pull(controller) {
      const { value, done } = await values.next().catch((thrown: unknown) => {
        clearInterval(beat);
        throw thrown;
      });
      if (!done && value) {
        controller.enqueue(encoder.encode(`data: ${JSON.stringify(value)}\n\n`));
        return;
      }
      clearInterval(beat);
      if (done) controller.enqueue(encoder.encode("data: [DONE]\n\n"));
      controller.close();
    },
    cancel() {
      clearInterval(beat);
      cancel();
    },
  });
  return new Response(body, { headers: HEADERS });
}
