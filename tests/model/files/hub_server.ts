/** A web server of this machine with the routes of HuggingFace's hub that a download asks, and another that stands for its storage. */
import { createHash } from "node:crypto";

/** The commit that every branch is at. */
export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** The model that is there. */
export const MODEL = "hf:tiny-org/tiny.model-1";

const API = "/api/models/tiny-org/tiny.model-1";
const FILES = "/tiny-org/tiny.model-1/resolve";

/** One entry of a listing. */
export interface Listed {
  type: string;
  path: string;
  size: number;
  oid: string;
  lfs?: { oid: string; size: number; pointerSize: number };
}

/** A hub with one model. */
export class HubServer implements AsyncDisposable {
  /** contents by name */
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>();
  /** the listing, where it is not that of `files` */
  listing: ((files: Listed[]) => unknown) | undefined;
  /** bodies of weights' files end after so many bytes, one transfer each */
  cuts: number[] = [];
  /** weights' files fall silent after so many bytes */
  silentAfter: number | undefined;
  /** what a file's bytes become on their way */
  tamper: ((name: string, bytes: Uint8Array) => Uint8Array) | undefined;
  /** every answer is this */
  status: { code: number; headers?: Record<string, string> } | undefined;
  /** files come from the storage, with a redirect */
  redirects = false;
  /** where redirects lead, if not to the storage */
  elsewhere: string | undefined;
  /** it sends whole files, whatever is asked for */
  ignoresRanges = false;
  /** "hub" or "storage", what was asked for, with its range and its authorization */
  readonly requests: { server: string; path: string; range: string | null; authorization: string | null }[] =
    [];

  readonly #hub: Deno.HttpServer<Deno.NetAddr>;
  readonly #storage: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    const serve = (server: string) =>
      Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
        const { pathname: path } = new URL(request.url);
        const { headers } = request;
        const [range, authorization] = [headers.get("range"), headers.get("authorization")];
        this.requests.push({ server, path, range, authorization });
        return server === "hub" ? this.#answer(path, range) : this.#file(path.slice(1), range);
      });
    [this.#hub, this.#storage] = [serve("hub"), serve("storage")];
  }

  /** Its address, for HF_ENDPOINT. */
  get endpoint(): string {
    return `http://127.0.0.1:${this.#hub.addr.port}`;
  }

  /** Takes the files of a directory. */
  async addDirectory(dir: string): Promise<void> {
    for await (const { name } of Deno.readDir(dir)) {
      this.files.set(name, await Deno.readFile(`${dir}/${name}`));
    }
  }

  #answer(path: string, range: string | null): Response {
    if (this.status) {
      return new Response("no", { status: this.status.code, headers: this.status.headers ?? {} });
    }
    if (path.startsWith(`${API}/revision/`)) {
      const revision = path.slice(`${API}/revision/`.length);
      if (!["main", "v1", COMMIT].includes(revision)) {
        return new Response("{}", { status: 404, headers: { "x-error-code": "RevisionNotFound" } });
      }
      return Response.json({
        _id: "1",
        id: "tiny-org/tiny.model-1",
        sha: COMMIT,
        lastModified: "2026-01-01",
      });
    }
    if (path === `${API}/tree/${COMMIT}`) return Response.json(this.#listed());
    if (!path.startsWith(`${FILES}/${COMMIT}/`)) return new Response("no", { status: 404 });
    const name = decodeURIComponent(path.slice(`${FILES}/${COMMIT}/`.length));
    if (!this.redirects) return this.#file(name, range);
    const location = this.elsewhere ?? `http://127.0.0.1:${this.#storage.addr.port}/${name}`;
    return new Response(null, { status: 302, headers: { location } });
  }

  #listed(): unknown {
    const files = [...this.files].map(([path, bytes]): Listed => {
      const git = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
      const entry = { type: "file", path, size: bytes.length, oid: git };
      if (!isLarge(path)) return entry;
      const oid = createHash("sha256").update(bytes).digest("hex");
      return { ...entry, lfs: { oid, size: bytes.length, pointerSize: 130 } };
    });
    return this.listing ? this.listing(files) : files;
  }

  #file(name: string, range: string | null): Response {
    const whole = this.files.get(name);
    if (!whole) return new Response("no", { status: 404, headers: { "x-error-code": "EntryNotFound" } });
    const start = this.ignoresRanges ? 0 : Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
    const bytes = (this.tamper?.(name, whole) ?? whole).slice(start);
    const cut = isLarge(name) ? this.cuts.shift() : undefined;
    const partly = range !== null && !this.ignoresRanges;
    const headers = {
      ...(partly ? { "content-range": `bytes ${start}-${whole.length - 1}/${whole.length}` } : {}),
      // a body that ends before that breaks its connection
      ...(cut === undefined ? {} : { "content-length": String(bytes.length) }),
    };
    const body = isLarge(name) && this.silentAfter !== undefined
      ? silent(bytes.slice(0, Math.max(0, this.silentAfter - start)))
      : cut === undefined
      ? bytes
      : new Blob([bytes.slice(0, cut)]).stream();
    return new Response(body, { status: partly ? 206 : 200, headers });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#hub.shutdown(), this.#storage.shutdown()]);
  }
}

/** The hub keeps such files outside of git. */
function isLarge(name: string): boolean {
  return /\.(safetensors|gguf)$/.test(name);
}

/** A body that never ends. */
function silent(bytes: Uint8Array): ReadableStream {
  return new ReadableStream({ start: (controller) => bytes.length > 0 && controller.enqueue(bytes) });
}
