/**
 * Generates text from an exported ONNX model in onnxruntime-web: without FFI, without a GPU, without our own kernels.
 */
import { files } from "../../platform/files.ts";
import { join, pathOfUrl } from "../../platform/paths.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { gpt, type GptConfig } from "../gpt.ts";
import type { Sampling } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { checkGenerateOptions } from "../generate/generation.ts";
import { samplingOf, type SamplingOptions } from "../generate/sampling.ts";
import { fileError, parseObject } from "../files/directory.ts";
import type { OnnxCache, OnnxSession } from "./onnx_session.ts";
import { buildPrompt, type PromptOptions, sampleText, type SpecialIds } from "../generate/prompt.ts";
import { mixSeed, uniform } from "../../device/random.ts";
import { drawToken, hasPenalties, penalize, saidIn } from "../../device/sampling.ts";

/** How to generate; what is left out is as in `microgpt generate`. */
export interface OnnxGenerateOptions extends PromptOptions, SamplingOptions {
  /** ends the generation early, without an error */
  signal?: AbortSignal;
}

/**
 * An exported model, ready to generate.
 *
 * @example
 * ```ts
 * import { exportModel, OnnxModel, train } from "../../mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * for await (const _ of train({ documents, output, steps: 2, nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 }));
 * await exportModel(output, `${output}/onnx`, { format: "onnx" });
 *
 * const model = await OnnxModel.load(`${output}/onnx`);
 * for await (const piece of model.generate({ prompt: "an", maxTokens: 20 })) console.log(piece);
 * await model.close();
 * ```
 */
export class OnnxModel {
  private constructor(
    /** the architecture */
    readonly config: GptConfig,
    private readonly session: OnnxSession,
    private readonly tokenizer: Tokenizer,
    private readonly special: SpecialIds,
  ) {}

  /**
   * Loads what `exportOnnx` wrote: `model.onnx`, `config.json` and `tokenizer.json`.
   * @param folder path or URL of the folder; `https:` URLs are fetched
   * @throws {MicrogptError} when a file is missing or is not an export of this program
   */
  static async load(folder: string | URL): Promise<OnnxModel> {
    const base = place(folder);
    const text = async (name: string) => decodeUtf8(await readFile(base, name), name);
    const config = readConfig(await text("config.json"));
    const { HfTokenizer } = await import("../../data/hf_tokenizer.ts");
    const { specialTokens, withoutLeadingBos } = await import("./onnx_config.ts");
    const { OnnxSession } = await import("./onnx_session.ts");
    const tokenizer = await HfTokenizer.fromJson(withoutLeadingBos(await text("tokenizer.json")));
    if (tokenizer.vocabSize !== config.vocab_size) {
      throw new MicrogptError(
        `tokenizer.json has ${tokenizer.vocabSize} tokens, config.json asks for ${config.vocab_size}`,
        { hint: "the files come from different models; copy the whole folder" },
      );
    }
    const special = specialTokens(tokenizer.toJSON(), config.vocab_size);
    const session = await OnnxSession.open(await readFile(base, "model.onnx"), config);
    return new OnnxModel(config, session, tokenizer, special);
  }

  /** True when the model was trained on conversations. */
  get isChat(): boolean {
    return this.special.chat !== undefined;
  }

  /**
   * Generates text and yields it in pieces of whole characters, until the model ends it. With the same seed and logits
   * it draws the same tokens as `microgpt generate`.
   * @throws {MicrogptError} for options out of range, when the prompt fills the context, or messages are given to a
   * model without chat tokens
   */
  async *generate(options: OnnxGenerateOptions = {}): AsyncGenerator<string, void, void> {
    checkGenerateOptions(options);
    const { signal } = options;
    const { seed, maxTokens, ...drawn } = samplingOf(options);
    const prompt = buildPrompt(this.tokenizer, this.isChat, this.config.block_size, options);
    const mixedSeed = mixSeed(seed);
    const text = sampleText(this.tokenizer, prompt);
    const V = this.config.vocab_size;
    const said = hasPenalties(drawn as Sampling) ? saidIn(prompt.ids, V, prompt.stopTokens) : undefined;
    let feed = prompt.ids;
    let position = 0;
    let cache: OnnxCache | undefined;
    for (let n = 0; n < maxTokens && !signal?.aborted && position < this.config.block_size; n++) {
      const positions = feed.map((_, i) => position + i);
      const step = await this.session.run({
        tokens: [feed],
        positions: [positions],
        ...(cache ? { cache } : {}),
      });
      cache = step.cache;
      position += feed.length;
      const logits = Float64Array.from(step.logits.subarray(-V));
      const suppressed = n < prompt.minTokens
        ? [...prompt.suppressed, ...prompt.stopTokens]
        : prompt.suppressed;
      const sampling: Sampling = { ...drawn, suppressed };
      if (said) penalize(logits, said, sampling);
      const token = drawToken(logits, uniform(mixedSeed, position - 1), sampling);
      if (said) said[token]!++;
      if (prompt.stopTokens.includes(token)) break;
      const piece = text([token], false);
      if (piece) yield piece;
      feed = [token];
    }
    const rest = text([], true);
    if (rest) yield rest;
  }

  /** Frees the model's memory; does nothing the second time. A generation under way ends with an error. */
  async close(): Promise<void> {
    await this.session.close();
  }
}

/** Reads the architecture from config.json, where the fields have the names of GPT-2. */
function readConfig(text: string): GptConfig {
  const fields = parseObject(text, "config.json");
  const config = {
    vocab_size: fields.vocab_size,
    n_embd: fields.n_embd,
    n_head: fields.n_head,
    n_layer: fields.n_layer,
    block_size: fields.n_positions,
  } as GptConfig;
  const name = (field: string) => `config.json: ${field === "block_size" ? "n_positions" : field}`;
  gpt.checkConfig(config, { name });
  return config;
}

/** The folder's path, or its URL with the slash at its end that makes names relative to it. */
function place(folder: string | URL): string | URL {
  if (!(folder instanceof URL || /^(https?|file):/.test(folder))) return folder;
  const url = new URL(folder);
  if (url.protocol === "file:") return pathOfUrl(url);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

async function readFile(base: string | URL, name: string): Promise<Uint8Array> {
  if (typeof base === "string") {
    const path = join(base, name);
    try {
      return await files.readFile(path);
    } catch (error) {
      throw fileError(`cannot read ${path}`, error, "name the folder that the ONNX export wrote");
    }
  }
  const url = new URL(name, base);
  let response: Response;
  try {
    response = await fetch(url);
  } catch (cause) {
    throw new MicrogptError(`cannot fetch ${url}: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
  if (response.ok) return await response.bytes();
  await response.body?.cancel();
  throw new MicrogptError(
    `cannot fetch ${url}: the server answers ${response.status} ${response.statusText}`,
  );
}

function decodeUtf8(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new MicrogptError(`${name} is not valid UTF-8`, { cause });
  }
}
