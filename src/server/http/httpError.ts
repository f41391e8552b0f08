/** Errors with an HTTP status, and the answers that state them. */
import type { Context } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { UserError } from "../../errors.ts";

/** An error of a request. Its answer states message and fix as JSON. */
export class HttpError extends UserError {
  readonly status: ContentfulStatusCode;

  constructor(status: ContentfulStatusCode, message: string, more: { fix?: string; cause?: unknown } = {}) {
    super(message, more);
    this.status = status;
  }
}

/**
 * Answers a request that threw: user errors with their text, defects with a sentence alone. `report` gets the
 * defects.
 */
export function errorAnswer(
  thrown: unknown,
  context: Context,
  report: (thrown: unknown) => void,
): Response | Promise<Response> {
  if (thrown instanceof HttpError) return context.json(errorBody(thrown), thrown.status);
  if (thrown instanceof UserError) return context.json(errorBody(thrown), 400);
  report(thrown);
  return context.json(
    { error: "lorafit failed to answer this request; its terminal shows the defect." },
    500,
  );
}

function errorBody({ message, fix }: UserError): { error: string; fix?: string } {
  return { error: message, ...(fix !== undefined && { fix }) };
}
