/** Who may ask, and what a request may look like, before anything of it is used. */
import { timingSafeEqual } from "node:crypto";
import { ApiError } from "./api_error.ts";

/** Most bytes of a body. */
const MOST_BYTES = 2 << 20;

/** A body must have come after so long. */
const BODY_MS = 30_000;

/** What the guards go by. */
export interface GuardOptions {
  /** address that is listened on */
  host: string;
  apiKey: string | undefined;
  corsOrigins: readonly string[];
}

/** Whether an address is one that only this machine reaches. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[|\]$/g, "");
  return name === "localhost" || name.endsWith(".localhost") || name === "::1" ||
    /^127(\.\d{1,3}){3}$/.test(name);
}

/**
 * Refuses a request whose `Host` is a name of elsewhere: a web page can make its own name point to this machine (DNS
 * rebinding). Where other machines are served, any name may be ours.
 * @throws {ApiError} 403
 */
export function checkHost(request: Request, { host }: GuardOptions): void {
  if (!isLoopback(host)) return;
  const { hostname, host: own } = new URL(request.url);
  const given = request.headers.get("host") ?? own;
  if (!isLoopback(given.replace(/:\d*$/, "")) || !isLoopback(hostname)) {
    throw new ApiError(403, "this server answers to localhost only", { code: "host_not_allowed" });
  }
}

/** The origin of a web page that may read the answer; undefined: none asks, or it may not. */
export function allowedOrigin(request: Request, { corsOrigins }: GuardOptions): string | undefined {
  const origin = request.headers.get("origin");
  return origin !== null && corsOrigins.includes(origin) ? origin : undefined;
}

/**
 * Refuses what web pages of elsewhere send.
 * @throws {ApiError} 403
 */
export function checkOrigin(request: Request, options: GuardOptions): void {
  const origin = request.headers.get("origin");
  if (origin === null || options.corsOrigins.includes(origin)) return;
  const own = request.headers.get("host") ?? new URL(request.url).host;
  if (URL.canParse(origin) && new URL(origin).host === own) return;
  throw new ApiError(403, "pages of this origin may not use the server", { code: "origin_not_allowed" });
}

/**
 * Refuses a request without the key.
 * @throws {ApiError} 401
 */
export function checkKey(request: Request, { apiKey }: GuardOptions): void {
  if (apiKey === undefined) return;
  const bearer = /^Bearer +(.+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
  const given = bearer ?? request.headers.get("x-api-key");
  if (given !== null && given !== undefined && sameText(given, apiKey)) return;
  throw new ApiError(
    401,
    given ? "the API key is wrong" : "an API key is needed: `Authorization: Bearer KEY`",
    {
      code: "invalid_api_key",
    },
  );
}

/** Compares in a time that does not tell how much is the same. */
function sameText(a: string, b: string): boolean {
  // lengths differ: hash-free padding would still tell the length, which is no secret
  const [left, right] = [new TextEncoder().encode(a), new TextEncoder().encode(b)];
  const padded = new Uint8Array(right.length);
  padded.set(left.subarray(0, right.length));
  return timingSafeEqual(padded, right) && left.length === right.length;
}

/**
 * Reads a body of JSON.
 * @throws {ApiError} 415 for another type, 413 when it is too long, 408 when it takes too long, 400 when it is no JSON
 */
export async function readJson(request: Request): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    // a page of elsewhere may send text/plain without asking first
    throw new ApiError(415, "the body must be application/json", { code: "unsupported_media_type" });
  }
  const declared = Number(request.headers.get("content-length") ?? 0);
  if (declared > MOST_BYTES) throw tooLarge();
  const bytes = await readBytes(request);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ApiError(400, "the body is not UTF-8", { code: "invalid_json" });
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = error instanceof RangeError ? "it is nested too deeply" : "it cannot be parsed";
    throw new ApiError(400, `the body is not JSON: ${reason}`, { code: "invalid_json" });
  }
}

async function readBytes(request: Request): Promise<Uint8Array> {
  if (!request.body) return new Uint8Array(0);
  const reader = request.body.getReader();
  const pieces: Uint8Array[] = [];
  let length = 0;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    reader.cancel().catch(() => {});
  }, BODY_MS);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (late) throw new ApiError(408, "the body took too long to come", { code: "timeout" });
      if (done) break;
      length += value.length;
      if (length > MOST_BYTES) throw tooLarge();
      pieces.push(value);
    }
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(400, "the body did not come whole");
  } finally {
    clearTimeout(timer);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function tooLarge(): ApiError {
  return new ApiError(413, `the body may have ${MOST_BYTES} bytes`, { code: "body_too_large" });
}

/** Sets what browsers are told about an answer. */
export function secure(headers: Headers): void {
  headers.set("x-content-type-options", "nosniff");
  headers.set("x-frame-options", "DENY");
  headers.set("referrer-policy", "no-referrer");
  headers.set("cross-origin-resource-policy", "same-origin");
  if (!headers.has("content-security-policy")) {
    headers.set("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
  }
}
