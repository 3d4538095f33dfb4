/** Requests to the server that this page comes from. */

const KEY = "microgpt.key";

/** An error as the server tells it. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {string | null} [code] */
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Asks for a key; undefined: none is given. @type {() => Promise<{key: string, keep: boolean} | undefined>} */
let askForKey = () => Promise.resolve(undefined);
/** @type {Promise<boolean> | undefined} */
let asking;

/** @param {typeof askForKey} ask */
export function setKeyDialog(ask) {
  askForKey = ask;
}

/** One question at a time, however many requests were refused. @returns {Promise<boolean>} whether there is a new key */
function newKey() {
  asking ??= (async () => {
    const given = await askForKey();
    asking = undefined;
    if (!given) return false;
    sessionStorage.setItem(KEY, given.key);
    if (given.keep) localStorage.setItem(KEY, given.key);
    else localStorage.removeItem(KEY);
    return true;
  })();
  return asking;
}

/** @returns {Record<string, string>} */
function authorization() {
  const key = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
  return key === null ? {} : { authorization: `Bearer ${key}` };
}

/**
 * Asks the server; where it wants a key, the person is asked for one.
 * @param {string} path "v1/models", relative to the page
 * @param {{body?: object, signal?: AbortSignal}} [options] a body is posted as JSON
 * @returns {Promise<Response>} a good one
 * @throws {ApiError}
 */
export async function ask(path, { body, signal } = {}) {
  for (;;) {
    let response;
    try {
      response = await fetch(path, {
        ...(body ? { method: "POST", body: JSON.stringify(body) } : {}),
        headers: { ...authorization(), ...(body ? { "content-type": "application/json" } : {}) },
        ...(signal ? { signal } : {}),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "the server cannot be reached: is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401 && await newKey()) continue;
    const told = await response.json().catch(() => undefined);
    const message = told?.error?.message ?? `the server answers ${response.status}`;
    throw new ApiError(response.status, message, told?.error?.code);
  }
}

/**
 * Posts a request with `stream`, and yields its events as they come.
 * @param {string} path @param {object} body @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 * @throws {ApiError} also for an error that comes later, and for a stream that ends before its end
 */
export async function* stream(path, body, signal) {
  const response = await ask(path, { body: { ...body, stream: true }, signal });
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body)
    .pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = /** @type {string} */ (lines.pop());
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue; // comments keep the connection alive
        const data = line.slice("data: ".length);
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(200, event.error.message, event.error.code);
        yield event;
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "the connection was lost");
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError(0, "the answer ended before its end");
}
