/** Errors as OpenAI's API reports them, which its clients turn into their own kinds by status and code. */
import { MicrogptError } from "../../device/errors.ts";
import { QueueFull, ReaderStalled, ShuttingDown, TookTooLong } from "./scheduler.ts";

/** Statuses that this server answers with. */
export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 429 | 500 | 503 | 504;

/** What an error may say beside its message. */
export interface ApiErrorOptions {
  /** the field that is wrong */
  param?: string;
  code?: string;
  type?: string;
  /** seconds after which another try may help */
  retryAfter?: number;
}

/** An error that a client is told. */
export class ApiError extends Error {
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
  readonly retryAfter: number | undefined;

  constructor(readonly status: ErrorStatus, message: string, options: ApiErrorOptions = {}) {
    super(message);
    this.type = options.type ?? (status < 500 ? "invalid_request_error" : "server_error");
    this.param = options.param ?? null;
    this.code = options.code ?? null;
    this.retryAfter = options.retryAfter;
  }

  /** The body: `{"error": {"message", "type", "param", "code"}}`. */
  body(): { error: { message: string; type: string; param: string | null; code: string | null } } {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }

  /** The whole answer. */
  response(): Response {
    const retry = this.retryAfter === undefined ? {} : { "retry-after": String(this.retryAfter) };
    return Response.json(this.body(), { status: this.status, headers: retry });
  }
}

/** What a client is told of an error. Of one that it did not cause it learns nothing but that. */
export function apiErrorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof QueueFull) {
    const options = { type: "rate_limit_error", code: "queue_full", retryAfter: error.seconds };
    return new ApiError(429, error.message, options);
  }
  if (error instanceof ShuttingDown) return new ApiError(503, error.message, { code: "shutting_down" });
  if (error instanceof TookTooLong) return new ApiError(504, error.message, { code: "timeout" });
  if (error instanceof ReaderStalled) return new ApiError(408, error.message, { code: "timeout" });
  return new ApiError(500, "the server failed; its log says more");
}

/** A fault of the model's own checks as the client's: a template that refuses, messages that are no conversation. */
export function requestFault(error: unknown, param: string): unknown {
  if (!(error instanceof MicrogptError)) return error;
  return new ApiError(400, error.message + (error.hint ? `: ${error.hint}` : ""), { param });
}
