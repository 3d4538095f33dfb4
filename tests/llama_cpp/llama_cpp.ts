/** llama.cpp for tests and benchmarks: starts tests/llama_cpp/peer.ts and talks with it. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { peerTest } from "../peers.ts";
import { lines } from "../../scripts/lines.ts";
import type { Answers, Request } from "./peer.ts";

/** Where tests/llama_cpp/package.json was installed: MICROGPT_LLAMA_CPP, or beside it. */
const FOLDER = Deno.env.get("MICROGPT_LLAMA_CPP") || fileURLToPath(new URL(".", import.meta.url));

/** What is missing; absent: nothing. */
export async function missingLlamaCpp(): Promise<string | undefined> {
  try {
    await Deno.stat(join(FOLDER, "node_modules", "node-llama-cpp"));
    return undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return `node-llama-cpp in ${FOLDER}, see CONTRIBUTING.md`;
    throw error;
  }
}

/** A process with llama.cpp, to be closed. */
export class LlamaCpp implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: AsyncIterator<string, void>;

  constructor() {
    const peer = fileURLToPath(new URL("./peer.ts", import.meta.url));
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--no-lock", "--node-modules-dir=manual", peer, FOLDER],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#lines = lines(this.#process.stdout);
  }

  /** Asks and waits for the answer. @throws where the process ended, which said why on standard error */
  async ask<R extends Request>(request: R): Promise<Answers[R["do"]]> {
    await this.#input.write(new TextEncoder().encode(JSON.stringify(request) + "\n"));
    const line = await this.#lines.next();
    if (line.done) throw new Error(`llama.cpp ended when it was asked to ${request.do}`);
    return JSON.parse(line.value);
  }

  /**
   * Takes another model.
   * @param options.threads one for tests: several wait for each other by spinning, which takes minutes on a busy machine
   * @returns what llama.cpp complained about
   */
  async open(
    model: string,
    options: { cache: "F16" | "F32"; contextSize?: number; threads?: number },
  ): Promise<string[]> {
    const { warnings } = await this.ask({ do: "open", model, contextSize: 256, threads: 1, ...options });
    return warnings;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close();
    await this.#process.status;
  }
}

/** A test that needs llama.cpp, see `peerTest`. @param missing what else it needs and is not there */
export async function llamaCppTest(
  name: string,
  fn: (llamaCpp: LlamaCpp) => Promise<void>,
  missing?: string,
): Promise<void> {
  peerTest(name, await missingLlamaCpp() ?? missing, async () => {
    await using llamaCpp = new LlamaCpp();
    await fn(llamaCpp);
  });
}
