/**
 * The connection to HuggingFace's hub: `npm:@huggingface/hub` knows its routes, and what it fetches goes through here, with
 * limits on time, size and redirects. The token goes to the hub itself and to nobody that it redirects to.
 */
import type { RepoDesignation } from "npm:@huggingface/hub@2.17.5";
import { MicrogptError } from "../../../device/errors.ts";
import { environment, granted } from "../../../platform/permissions.ts";
import { printable } from "../directory.ts";
import type { HubName } from "./name.ts";

const HUB = "https://huggingface.co";

/** How long and how far an answer may be waited for. */
export interface HubLimits {
  /** of an answer that is no file, in ms; without any data of a file, in ms */
  stall: number;
  /** tries in a row that brought nothing */
  tries: number;
  /** before the second try, in ms; doubles with each further one */
  pause: number;
}

export const LIMITS: HubLimits = { stall: 20_000, tries: 4, pause: 250 };

/** A listing of 20,000 files takes about 6 MB. */
const MAX_ANSWER_BYTES = 32 << 20;
const MAX_FILES = 20_000;
const MAX_REDIRECTS = 5;

/** The hub cannot be asked: no network, or it is out of order. */
export class UnreachableError extends MicrogptError {}

/** The program may not contact it: trying again is of no use. */
export class NotAllowedError extends UnreachableError {}

/** The server sends whole files only. */
export class NoRangesError extends Error {}

/** A file of a commit, as the hub lists it. */
export interface HubFile {
  name: string;
  bytes: number;
  /** of large files the SHA-256; of others git's SHA-1 of "blob BYTES\0" and the contents; hexadecimal */
  digest: { kind: "sha256" | "git"; value: string };
}

/** The hub at HF_ENDPOINT, asked with HF_TOKEN. */
export class Hub {
  readonly #library: typeof import("npm:@huggingface/hub@2.17.5");
  readonly #endpoint: string;
  readonly #token: string | undefined;
  readonly #limits: HubLimits;

  private constructor(
    library: typeof import("npm:@huggingface/hub@2.17.5"),
    endpoint: string,
    token: string | undefined,
    limits: HubLimits,
  ) {
    this.#library = library;
    this.#endpoint = endpoint;
    this.#token = token;
    this.#limits = limits;
  }

  /** @throws {MicrogptError} for an address or a token that cannot be one */
  static async open(limits: HubLimits = LIMITS): Promise<Hub> {
    const endpoint = (environment("HF_ENDPOINT") || HUB).replace(/\/+$/, "");
    const usage = (message: string, hint: string) => new MicrogptError(message, { hint, usage: true });
    if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
      throw usage(`HF_ENDPOINT is no web address: ${printable(endpoint)}`, `unset it for ${HUB}`);
    }
    const token = environment("HF_TOKEN") || undefined;
    if (token !== undefined && !/^hf_[\w-]+$/.test(token)) {
      throw usage("HF_TOKEN is no token of the hub: they begin with hf_", "unset it, or copy it again");
    }
    return new Hub(await import("npm:@huggingface/hub@2.17.5"), endpoint, token, limits);
  }

  /** Where a model is seen in a browser. */
  page({ owner, name }: HubName): string {
    return `${this.#endpoint}/${owner}/${name}`;
  }

  /**
   * The commit that a revision is at.
   * @throws {UnreachableError} when there is no answer
   * @throws {MicrogptError} when there is no such model or revision, or it may not be read
   */
  async commitOf(model: HubName): Promise<string> {
    const { sha } = await this.#ask(model, (how) => {
      const { owner, name, revision } = model;
      return this.#library.modelInfo({
        ...how,
        name: `${owner}/${name}`,
        revision,
        additionalFields: ["sha"],
      });
    });
    if (typeof sha === "string" && /^[0-9a-f]{40}$/.test(sha)) return sha;
    throw new MicrogptError(`${model.text}: ${this.#endpoint} names no commit`, { hint: NO_HUB });
  }

  /**
   * The files at the top of a commit; what is no file, or has no size or digest, is left out.
   * @throws as {@link commitOf}
   */
  async files(model: HubName, commit: string): Promise<HubFile[]> {
    return await this.#ask(model, async (how) => {
      const files: HubFile[] = [];
      let seen = 0;
      for await (const entry of this.#library.listFiles({ ...how, ...repoOf(model), revision: commit })) {
        if (++seen > MAX_FILES) throw new MicrogptError(`${model.text} has more than ${MAX_FILES} files`);
        const file = hubFile(entry);
        if (file) files.push(file);
      }
      return files;
    });
  }

  /**
   * The bytes of a file from `start` on.
   * @throws {NoRangesError} when only the whole file is to be had
   * @throws {UnreachableError} when the connection fails or falls silent
   */
  async *bytes(
    model: HubName,
    commit: string,
    { name, bytes }: HubFile,
    start: number,
  ): AsyncGenerator<Uint8Array, void, void> {
    const abort = new AbortController();
    let silence: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(silence);
      const { stall } = this.#limits;
      silence = setTimeout(
        () => abort.abort(unreachable(this.#endpoint, `no data for ${stall / 1000} seconds`)),
        stall,
      );
    };
    let failure: unknown;
    const url = `${this.page(model)}/resolve/${commit}/${encodeURIComponent(name)}`;
    try {
      heard();
      const blob = await this.#library.downloadFile({
        ...repoOf(model),
        path: name,
        revision: commit,
        hubUrl: this.#endpoint,
        // what else it would ask for is in the listing; over plain HTTP a transfer can be taken up again
        downloadInfo: { size: bytes, etag: "", url },
        xet: false,
        ...(this.#token === undefined ? {} : { accessToken: this.#token }),
        fetch: async (input, init) => {
          try {
            return await this.#fetch(model, input, init, abort.signal);
          } catch (error) {
            failure = error; // the library keeps its message only
            throw error;
          }
        },
      });
      for await (const chunk of blob!.slice(start, bytes).stream()) {
        heard();
        yield chunk;
      }
    } catch (error) {
      throw failure ?? asUnreachable(abort.signal.aborted ? abort.signal.reason : error, this.#endpoint);
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  /** Asks for what is no file; tries again where the hub is out of reach. */
  async #ask<T>(
    model: HubName,
    question: (how: { hubUrl: string; accessToken?: string; fetch: typeof fetch }) => Promise<T>,
  ): Promise<T> {
    const { stall, tries, pause } = this.#limits;
    for (let attempt = 1;; attempt++) {
      const late = AbortSignal.timeout(stall);
      const whole = async (input: URL | RequestInfo, init?: RequestInit) =>
        await buffered(await this.#fetch(model, input, init, late), this.#endpoint);
      try {
        return await question({
          hubUrl: this.#endpoint,
          fetch: whole,
          ...(this.#token === undefined ? {} : { accessToken: this.#token }),
        });
      } catch (error) {
        if (!(error instanceof MicrogptError)) {
          throw new MicrogptError(`${model.text}: what ${this.#endpoint} answers is not understood`, {
            hint: NO_HUB,
            cause: error,
          });
        }
        if (!(error instanceof UnreachableError) || error instanceof NotAllowedError || attempt >= tries) {
          throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, pause * 2 ** (attempt - 1)));
      }
    }
  }

  /** `fetch` that follows redirects itself and turns every answer but a good one into an error. */
  async #fetch(
    model: HubName,
    input: URL | RequestInfo,
    init: RequestInit | undefined,
    signal: AbortSignal,
  ): Promise<Response> {
    let url = new URL(input instanceof Request ? input.url : input);
    const headers = new Headers(init?.headers);
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      if (url.origin !== new URL(this.#endpoint).origin) headers.delete("authorization");
      checkAllowed(url);
      const response = await fetch(url, { ...init, headers, signal, redirect: "manual" })
        .catch((error) => {
          throw asUnreachable(signal.aborted ? signal.reason : error, url.host);
        });
      const target = response.headers.get("location");
      if (response.ok) return checkRange(response, headers);
      await response.body?.cancel();
      if (response.status < 300 || response.status > 399 || target === null) {
        throw this.#refusal(model, url, response);
      }
      url = redirected(url, target);
    }
    throw new MicrogptError(`${model.text}: ${this.#endpoint} redirects more than ${MAX_REDIRECTS} times`);
  }

  #refusal(model: HubName, url: URL, { status, headers }: Response): MicrogptError {
    const { text, revision } = model;
    const said = `${url.host} answers ${status}`;
    const code = headers.get("x-error-code");
    if (status === 401 || (status === 403 && code !== "GatedRepo")) {
      return new MicrogptError(`${text}: there is no such model, or it is private or gated (${said})`, {
        hint: this.#token === undefined
          ? "look whether the name is right; for a private or gated model set HF_TOKEN"
          : "look whether the name is right, and HF_TOKEN is of a user who may read it",
      });
    }
    if (status === 403) {
      return new MicrogptError(`${text} is given out on terms of its own (${said})`, {
        hint: `accept them at ${this.page(model)}, then set HF_TOKEN`,
      });
    }
    if (status === 404) {
      const what = code === "RevisionNotFound" ? `revision ${printable(revision)}` : "model";
      return new MicrogptError(`${text}: there is no such ${what} (${said})`, {
        hint: `look at ${code === "RevisionNotFound" ? this.page(model) : this.#endpoint}`,
      });
    }
    if (status >= 500 || status === 429) return unreachable(url.host, `it answers ${status}`);
    return new MicrogptError(`${text}: ${said}`, { hint: NO_HUB });
  }
}

const NO_HUB = "HF_ENDPOINT must be the address of a hub";

function repoOf({ owner, name }: HubName): { repo: RepoDesignation } {
  return { repo: { type: "model", name: `${owner}/${name}` } };
}

/** What a listing says of a file. Its words come from a server. */
function hubFile(entry: unknown): HubFile | undefined {
  const { type, path, size, oid, lfs } = Object(entry);
  const bytes = lfs?.size ?? size;
  const value = lfs?.oid ?? oid;
  if (type !== "file" || typeof path !== "string" || !Number.isSafeInteger(bytes) || bytes < 0) return;
  if (typeof value !== "string" || !(lfs ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(value)) return;
  return { name: path, bytes, digest: { kind: lfs ? "sha256" : "git", value } };
}

function unreachable(host: string, why: string, cause?: unknown): UnreachableError {
  return new UnreachableError(`${host} cannot be reached: ${why}`, { cause });
}

function asUnreachable(error: unknown, host: string): UnreachableError {
  if (error instanceof UnreachableError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return unreachable(host, printable(message.split("\n")[0]!), error);
}

/** Nobody is asked for permissions. */
function checkAllowed({ host }: URL): void {
  if (granted({ name: "net", host })) return;
  throw new NotAllowedError(`${host} may not be contacted`, {
    hint: `run Deno with --allow-net=${host}, and with what the hub redirects to`,
  });
}

function redirected(from: URL, target: string): URL {
  const next = URL.canParse(target, from) ? new URL(target, from) : undefined;
  if (next && (next.protocol === from.protocol || next.protocol === "https:")) return next;
  throw new MicrogptError(`${from.host} redirects to what is no safe web address: ${printable(target)}`);
}

/** @throws {NoRangesError} when a part was asked for and something else comes */
function checkRange(response: Response, headers: Headers): Response {
  const asked = /^bytes=(\d+)-/.exec(headers.get("range") ?? "");
  if (!asked) return response;
  const given = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  if (response.status === 206 && given?.[1] === asked[1]) return response;
  throw new NoRangesError(`asked for ${asked[0]}, got ${response.status}`);
}

/** The same answer with its body read, which is bounded. */
async function buffered(response: Response, endpoint: string): Promise<Response> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += chunk.length;
      if (bytes > MAX_ANSWER_BYTES) {
        throw new MicrogptError(`${endpoint} answers more than ${MAX_ANSWER_BYTES} bytes`, { hint: NO_HUB });
      }
      chunks.push(chunk);
    }
  } catch (error) {
    throw error instanceof MicrogptError ? error : asUnreachable(error, endpoint);
  }
  return new Response(new Blob(chunks as BlobPart[]), { status: response.status, headers: response.headers });
}
