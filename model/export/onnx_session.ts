/**
 * Runs exported graphs with onnxruntime-web: WebAssembly on one thread, without FFI and without a GPU. The runtime is
 * loaded when the first session is opened.
 */
import type { InferenceSession, Tensor } from "npm:onnxruntime-web@1.30.0";
import type { GptConfig } from "../gpt.ts";
import { MicrogptError } from "../../device/errors.ts";

type Runtime = typeof import("npm:onnxruntime-web@1.30.0");

/** The cache after a step: values of `past_key_values.…` by name, for the next step. */
export type OnnxCache = ReadonlyMap<string, Tensor>;

/** What one step feeds. All rows of a batch have the same length; shorter ones are padded in front. */
export interface OnnxFeed {
  /** [b][s] */
  tokens: number[][];
  /** [b][s] place of each token in its sequence, from 0; any valid one for padding */
  positions: number[][];
  /** [b][p + s] false hides a token, for padding; by default all are seen */
  visible?: boolean[][];
  /** from the step before; none at the start */
  cache?: OnnxCache;
}

/** An exported graph, ready to run. */
export class OnnxSession {
  /** the steps requested, one after the other: the runtime takes one at a time */
  #running: Promise<unknown> = Promise.resolve();
  #released: Promise<void> | undefined;

  private constructor(
    private readonly runtime: Runtime,
    private readonly session: InferenceSession,
    private readonly config: GptConfig,
  ) {}

  /**
   * Loads onnxruntime-web and the graph.
   * @param bytes an ONNX file as `buildOnnx` makes it
   * @throws {MicrogptError} when the runtime rejects the graph or a file of the runtime cannot be read
   */
  static async open(bytes: Uint8Array, config: GptConfig): Promise<OnnxSession> {
    const runtime = await import("npm:onnxruntime-web@1.30.0");
    runtime.env.wasm.numThreads = 1; // more need shared memory and workers, which not every host grants
    try {
      const session = await runtime.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
      const names = cacheNames(config);
      if (!names.every((name) => session.inputNames.includes(name))) {
        await session.release();
        throw new MicrogptError(`the ONNX graph has no key-value cache of ${config.n_layer} layers`);
      }
      return new OnnxSession(runtime, session, config);
    } catch (error) {
      if (error instanceof MicrogptError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new MicrogptError(`onnxruntime-web cannot load the graph: ${reason.split("\n")[0]}`, {
        cause: error,
      });
    }
  }

  /**
   * One step.
   * @throws {MicrogptError} when the session is closed
   * @returns logits [b, s, V] end to end, and the cache to pass to the next step
   */
  async run(feed: OnnxFeed): Promise<{ logits: Float32Array; cache: OnnxCache }> {
    const { config, runtime } = this;
    const batch = feed.tokens.length;
    const past = feed.cache?.values().next().value?.dims[2] ?? 0;
    const visible = feed.visible ?? feed.tokens.map((row) => Array(past + row.length).fill(true));
    const feeds: Record<string, Tensor> = {
      input_ids: this.#integers(feed.tokens),
      attention_mask: this.#integers(visible),
      position_ids: this.#integers(feed.positions),
    };
    const emptyShape = [batch, config.n_head, 0, config.n_embd / config.n_head];
    for (const name of cacheNames(config)) {
      feeds[name] = feed.cache?.get(name) ?? new runtime.Tensor("float32", new Float32Array(0), emptyShape);
    }
    const outputs = await this.#run(feeds);
    const cache = new Map(
      cacheNames(config).map((name) => [name, outputs[name.replace("past_key_values", "present")]!]),
    );
    return { logits: outputs.logits!.data as Float32Array, cache };
  }

  /** Frees the graph's memory once the running step is done; does nothing the second time. */
  async close(): Promise<void> {
    await (this.#released ??= this.#running.then(() => this.session.release()));
  }

  async #run(feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
    if (this.#released) throw new MicrogptError("the model is closed", { hint: "load it again" });
    const outputs = this.#running.then(() => this.session.run(feeds));
    // Whoever awaits the step gets its error; the next step does not fail because of it.
    this.#running = outputs.catch(() => {});
    return await outputs as Record<string, Tensor>;
  }

  #integers(rows: (number | boolean)[][]): Tensor {
    const data = BigInt64Array.from(rows.flat(), (value) => BigInt(value));
    return new this.runtime.Tensor("int64", data, [rows.length, rows[0]!.length]);
  }
}

function cacheNames(config: GptConfig): string[] {
  return Array.from({ length: config.n_layer }, (_, i) => [
    `past_key_values.${i}.key`,
    `past_key_values.${i}.value`,
  ]).flat();
}
