/**
 * Answers a request with the replies of a helper, a JSON line each. A closed connection cancels the question.
 */
import type { Context } from "hono";
import { stream } from "hono/streaming";
import type { UiContext } from "../context.ts";
import type { Helper } from "./helperProcess.ts";

export function streamReplies<Ask, Reply>(
  context: Context,
  { note }: Pick<UiContext, "note">,
  helper: Helper<Ask, Reply>,
  ask: Ask,
): Response {
  context.header("Content-Type", "application/x-ndjson; charset=utf-8");
  context.header("Cache-Control", "no-store");
  return stream(context, async (output) => {
    const cancel = new AbortController();
    output.onAbort(() => cancel.abort());
    let written: Promise<unknown> = Promise.resolve();
    const write = (reply: unknown): void => {
      written = written.then(() => output.write(`${JSON.stringify(reply)}\n`));
    };
    await helper.ask(ask, write, cancel.signal).catch((defect: Error) => {
      note(`a question of the page failed: ${defect.message}`);
      write({ kind: "problem", error: defect.message });
    });
    await written;
  });
}
