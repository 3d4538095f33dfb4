/** The real program, serving, in a process of its own that can be asked from outside, and ended in any way. */
import { programArgs } from "../../cli/program.ts";

/** How long anything that is waited for may take. */
const PATIENCE_MS = 60_000;

/** Ends when `look` gives something. @throws what `tell` says, when that takes too long */
export async function until<T>(
  look: () => Promise<T | undefined> | T | undefined,
  tell: () => string = () => "it took too long",
): Promise<T> {
  for (const started = performance.now(); performance.now() - started < PATIENCE_MS;) {
    const seen = await look();
    if (seen !== undefined) return seen;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(tell());
}

/** `microgpt serve`. */
export class ServerProcess implements AsyncDisposable {
  /** all that it said */
  said = "";
  url = "";
  readonly #process: Deno.ChildProcess;
  #client = Deno.createHttpClient({});
  readonly #listening: Promise<void>;

  private constructor(process: Deno.ChildProcess) {
    this.#process = process;
    this.#listening = this.#listen();
  }

  async #listen(): Promise<void> {
    const text = this.#process.stderr.pipeThrough(new TextDecoderStream());
    for await (const piece of text) this.said += piece;
  }

  /**
   * Starts it on a free port, and waits until it listens.
   * @param flags of `serve`, `--model-dir` among them
   */
  static async start(
    flags: string[],
    { through = [], port = 0 }: { through?: string[]; port?: number } = {},
  ): Promise<ServerProcess> {
    const [command, ...args] = [...through, ...programArgs(["serve", "--port", String(port), ...flags])];
    const options = { args, stdin: "null", stdout: "null", stderr: "piped" } as const;
    const server = new ServerProcess(new Deno.Command(command!, options).spawn());
    server.url = await server.says(/listening on (\S+)/);
    return server;
  }

  /** Waits until it has said something. @returns the first group of the pattern */
  async says(pattern: RegExp): Promise<string> {
    return await until(() => pattern.exec(this.said)?.[1], () => `it did not say ${pattern}: ${this.said}`);
  }

  get port(): number {
    return Number(new URL(this.url).port);
  }

  /** Waits until it has loaded its model. */
  async ready(): Promise<void> {
    await this.says(/^(serving) /m);
  }

  async post(
    path: string,
    body: unknown,
    init: RequestInit & { client?: Deno.HttpClient } = {},
  ): Promise<Response> {
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", headers, body: JSON.stringify(body), client: this.#client };
    return await fetch(this.url + path, { ...request, ...init });
  }

  /** Closes the connections that `post` and `metric` keep. */
  disconnect(): void {
    this.#client.close();
    this.#client = Deno.createHttpClient({});
  }

  /** A number of `/metrics`. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`, { client: this.#client })).text();
    const line = text.split("\n").find((line) => line.startsWith(`${name} `));
    return Number(line?.slice(name.length));
  }

  /** Memory that is in use, in MB (2²⁰). Linux only. */
  get residentMb(): number {
    const status = Deno.readTextFileSync(`/proc/${this.#process.pid}/status`);
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) / 1024;
  }

  /** Sockets that it has open. Linux only. */
  get sockets(): number {
    const folder = `/proc/${this.#process.pid}/fd`;
    return [...Deno.readDirSync(folder)].filter(({ name }) => {
      try {
        return Deno.readLinkSync(`${folder}/${name}`).startsWith("socket:");
      } catch {
        return false; // it was closed meanwhile
      }
    }).length;
  }

  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Waits for its end. */
  async ended(): Promise<Deno.CommandStatus> {
    await this.#listening;
    return await this.#process.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended
    }
    await this.ended();
    this.#client.close();
  }
}
