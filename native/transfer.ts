/** Fetches a file of known size: it holds no more than its bytes, and no server can keep the caller waiting. */
import { granted } from "../platform/permissions.ts";

/** How long and how far a transfer may go. */
export interface TransferLimits {
  /** tries; a connection that breaks or stalls is tried again */
  tries: number;
  /** before the second try, in ms; doubles with each further one */
  pause: number;
  /** without any data, in ms: the try has failed */
  stall: number;
  /** for all tries together, in ms */
  total: number;
  /** redirects that are followed */
  redirects: number;
}

const LIMITS: TransferLimits = { tries: 4, pause: 250, stall: 20_000, total: 300_000, redirects: 5 };

/**
 * The bytes; or why there are none; or an address that we may not contact; or, with `larger`, more bytes than expected.
 */
export type Transfer =
  | { bytes: Uint8Array<ArrayBuffer> }
  | { why: string; again: boolean }
  | { denied: URL }
  | { larger: true };

/**
 * Fetches a file. Nobody is asked for permissions, not for the targets of redirects either.
 * @param size bytes that it must have
 */
export async function transfer(url: URL, size: number, limits = LIMITS): Promise<Transfer> {
  const end = performance.now() + limits.total;
  let result: Transfer = { why: `${url} was not asked`, again: true };
  for (let attempt = 0; attempt < limits.tries; attempt++) {
    if (attempt > 0) {
      await new Promise((resolve) => setTimeout(resolve, limits.pause * 2 ** (attempt - 1)));
    }
    result = await tryOnce(url, size, limits, end);
    if (!("why" in result && result.again) || performance.now() >= end) break;
  }
  return result;
}

async function tryOnce(url: URL, size: number, limits: TransferLimits, end: number): Promise<Transfer> {
  const abort = new AbortController();
  const give = (up: string) => abort.abort(new Error(up));
  let again = true;
  const late = setTimeout(() => {
    again = false; // said here, since a timer may fire a little before its time
    give(`not finished after ${limits.total / 1000} seconds`);
  }, Math.max(0, end - performance.now()));
  let silence: ReturnType<typeof setTimeout> | undefined;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => give(`no data for ${limits.stall / 1000} seconds`), limits.stall);
  };
  try {
    heard();
    const response = await follow(url, limits.redirects, abort.signal);
    return response instanceof Response ? await readBody(url, response, size, heard) : response;
  } catch (error) {
    const reason = abort.signal.aborted ? abort.signal.reason : error;
    const message = reason instanceof Error ? reason.message : String(reason);
    return { why: `${url}: ${message.split("\n")[0]}`, again };
  } finally {
    clearTimeout(late);
    clearTimeout(silence);
    abort.abort();
  }
}

/** The response at the end of the redirects. */
async function follow(url: URL, redirects: number, signal: AbortSignal): Promise<Response | Transfer> {
  let at = url;
  for (let hop = 0; hop <= redirects; hop++) {
    if (!granted({ name: "net", host: at.host })) return { denied: at };
    const response = await fetch(at, { signal, redirect: "manual" });
    if (response.ok) return response;
    await response.body?.cancel();
    const { status, statusText } = response;
    const target = response.headers.get("location");
    if (status < 300 || status > 399 || target === null) {
      const why = `${at}: the server answers ${status} ${statusText}`.trimEnd();
      return { why, again: status >= 500 || status === 429 };
    }
    const next = URL.canParse(target, at) ? new URL(target, at) : undefined;
    if (next === undefined || !/^https?:$/.test(next.protocol)) {
      return { why: `${at} redirects to what is no web address: ${JSON.stringify(target)}`, again: false };
    }
    at = next;
  }
  return { why: `${url} redirects more than ${redirects} times`, again: false };
}

async function readBody(url: URL, response: Response, size: number, heard: () => void): Promise<Transfer> {
  const bytes = new Uint8Array(size);
  let filled = 0;
  for await (const chunk of response.body ?? []) {
    heard();
    if (filled + chunk.length > size) return { larger: true }; // leaving the loop cancels the body
    bytes.set(chunk, filled);
    filled += chunk.length;
  }
  if (filled === size) return { bytes };
  return { why: `${url} ended after ${filled} of ${size} bytes`, again: true };
}
