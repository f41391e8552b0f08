/** Errors in the form of OpenAI's API, which its clients turn into exceptions of their own. */
import { messageOf, UserError } from "../../errors.ts";
import { HttpError } from "../http/httpError.ts";

/** HTTP status codes that the API answers with, and the `type` that OpenAI gives each. */
const TYPES = {
  400: "invalid_request_error",
  401: "invalid_request_error",
  403: "invalid_request_error",
  404: "invalid_request_error",
  405: "invalid_request_error",
  413: "invalid_request_error",
  415: "invalid_request_error",
  429: "rate_limit_error",
  500: "server_error",
  503: "server_error",
} as const;

export type ErrorStatus = keyof typeof TYPES;

export interface ErrorDetails {
  /** The field of the request that is wrong, as "messages[0].content". */
  param?: string | undefined;
  /** A word for programs, such as "model_not_found". */
  code?: string | undefined;
}

/** An answer other than 200. */
export class ApiError extends Error {
  readonly status: ErrorStatus;
  readonly param: string | null;
  readonly code: string | null;

  constructor(status: ErrorStatus, message: string, { param, code }: ErrorDetails = {}) {
    super(message);
    this.status = status;
    this.param = param ?? null;
    this.code = code ?? null;
  }
}

/** The body of an answer with an error. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

/** Returns the status and the body for anything thrown: the user's errors are 400, defects are 500. */
export function errorAnswer(thrown: unknown): { status: ErrorStatus; body: ErrorBody } {
  const error = apiErrorOf(thrown);
  const { status, message, param, code } = error;
  return { status, body: { error: { message, type: TYPES[status], param, code } } };
}

function apiErrorOf(thrown: unknown): ApiError {
  if (thrown instanceof ApiError) return thrown;
  if (thrown instanceof UserError) {
    const status = thrown instanceof HttpError && isKnown(thrown.status) ? thrown.status : 400;
    const code = status === 401 ? "invalid_api_key" : undefined;
    return new ApiError(status, textOf(thrown), { code });
  }
  return new ApiError(500, `This is a defect of lorafit: ${messageOf(thrown)}`);
}

/** Returns the message of an error with its fix. */
export function textOf({ message, fix }: UserError): string {
  return [message, fix].filter(Boolean).join(" ");
}

function isKnown(status: number): status is ErrorStatus {
  return Object.hasOwn(TYPES, status);
}
