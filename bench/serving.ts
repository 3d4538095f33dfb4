/** A server to measure, as a process, and a client that costs little beside it: for bench/serve.ts. */

/** A request for a completion, and what came of it. */
export interface Ask {
  prompt: string;
  maxTokens: number;
  seed: number;
}

/** What an answer took, in milliseconds. */
export interface Answered {
  firstMs: number;
  ms: number;
  tokens: number;
  text: string;
}

/** Draws from the model's own distribution, whatever the server's usual filters are. */
const PLAIN = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, repeat_penalty: 1, cache_prompt: false };

/** How a server is started. */
export interface ServerCommand {
  name: string;
  command: string;
  args: (port: number) => string[];
  env?: Record<string, string>;
  /** the server's own fields in place of, or beside, `PLAIN` */
  fields?: Record<string, unknown>;
}

/** A port that nobody listens on. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

/** A server that runs. */
export class MeasuredServer implements AsyncDisposable {
  /** milliseconds from its start until `/health` is 200 */
  readyMs = 0;
  readonly url: string;
  /** the end of what it said */
  #said = "";
  readonly #process: Deno.ChildProcess;
  readonly #client = Deno.createHttpClient({ poolMaxIdlePerHost: 2000 });

  readonly #port: number;

  private constructor(readonly command: ServerCommand, port: number) {
    this.#port = port;
    this.url = `http://127.0.0.1:${port}`;
    const { command: program, args, env = {} } = command;
    const log = { stdin: "null", stdout: "null", stderr: "piped" } as const;
    this.#process = new Deno.Command(program, { args: args(port), env, ...log }).spawn();
    this.#listen();
  }

  async #listen(): Promise<void> {
    for await (const text of this.#process.stderr.pipeThrough(new TextDecoderStream())) {
      this.#said = (this.#said + text).slice(-2000);
    }
  }

  static async start(command: ServerCommand): Promise<MeasuredServer> {
    const started = performance.now();
    const server = new MeasuredServer(command, freePort());
    let ended = false;
    server.#process.status.then(() => ended = true);
    while (!await server.#isReady()) {
      if (ended) throw new Error(`${command.name} ended: ${server.#said}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    server.readyMs = performance.now() - started;
    return server;
  }

  async #isReady(): Promise<boolean> {
    try {
      const response = await fetch(`${this.url}/health`, { client: this.#client });
      await response.body?.cancel();
      return response.ok;
    } catch (error) {
      if (error instanceof TypeError) return false; // nobody listens yet
      throw error;
    }
  }

  /** Memory in use, in MB (2²⁰). */
  get residentMb(): number {
    const status = Deno.readTextFileSync(`/proc/${this.#process.pid}/status`);
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) / 1024;
  }

  /** Seconds of processor time so far. */
  get processorSeconds(): number {
    const stat = Deno.readTextFileSync(`/proc/${this.#process.pid}/stat`);
    const [user, system] = stat.slice(stat.lastIndexOf(")") + 2).split(" ").slice(11, 13).map(Number);
    return (user! + system!) / 100;
  }

  #body({ prompt, maxTokens, seed }: Ask, stream: boolean): string {
    const fields = { prompt, max_tokens: maxTokens, seed, ...PLAIN, ...this.command.fields };
    return JSON.stringify({
      ...fields,
      ...(stream ? { stream, stream_options: { include_usage: true } } : {}),
    });
  }

  /**
   * Asks for a stream over a connection of its own. What comes is looked at when it is over, so that the client costs little.
   * @param pauseMs between looks at the connection, from the first token on
   */
  async stream(ask: Ask, pauseMs = 0): Promise<Answered> {
    const body = this.#body(ask, true);
    const head = `POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:${this.#port}\r\nconnection: close\r\n` +
      `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    const request = new TextEncoder().encode(head + body); // words and numbers: a byte a character
    const started = performance.now();
    using connection = await Deno.connect({ hostname: "127.0.0.1", port: this.#port });
    for (let sent = 0; sent < request.length;) sent += await connection.write(request.subarray(sent));
    let firstMs = 0;
    let start = "";
    const pieces: Uint8Array[] = [];
    const buffer = new Uint8Array(64 << 10);
    for (let n; (n = await connection.read(buffer)) !== null;) {
      pieces.push(buffer.slice(0, n));
      if (firstMs > 0) {
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
        continue;
      }
      start += new TextDecoder().decode(pieces.at(-1));
      // servers begin a stream before there is anything to say; a token's event is longer than a comment
      const end = start.indexOf("\r\n\r\n");
      if (end > 0 && start.length - end > 60) firstMs = performance.now() - started;
    }
    const ms = performance.now() - started;
    const said = new TextDecoder().decode(await new Blob(pieces as Uint8Array<ArrayBuffer>[]).bytes());
    if (!said.startsWith("HTTP/1.1 200") && !said.startsWith("HTTP/1.0 200")) {
      throw new Error(`${this.command.name}: ${said.slice(0, 300)}`);
    }
    // without the lengths of chunks, which stand in lines of their own
    const text = said.replace(/\r\n[0-9a-f]+\r\n/gi, "");
    if (!text.includes("data: [DONE]")) {
      throw new Error(`${this.command.name} broke off: ${text.slice(-300)}`);
    }
    const tokens = [...text.matchAll(/"completion_tokens":\s*(\d+)/g)].at(-1)?.[1];
    if (tokens === undefined) throw new Error(`${this.command.name} says no usage: ${text.slice(-300)}`);
    const events = [...text.matchAll(/^data: (\{.*)/gm)].map(([, json]) => JSON.parse(json!));
    const answer = events.map(({ choices }) => choices?.[0]?.text ?? "").join("");
    return { firstMs, ms, tokens: Number(tokens), text: answer };
  }

  /** Asks for a whole answer. @returns its text */
  async whole(ask: Ask): Promise<string> {
    const response = await fetch(`${this.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: this.#body(ask, false),
      client: this.#client,
    });
    const body = await response.json();
    if (!response.ok) throw new Error(`${this.command.name}: ${response.status} ${JSON.stringify(body)}`);
    return body.choices[0].text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
    this.#process.kill("SIGKILL");
    await this.#process.status;
  }
}
