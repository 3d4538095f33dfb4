/** A trained model, loaded and ready to generate or to chat: what `generate` and `chat` do, for programs. */
import type { Tokenizer } from "../../data/tokenizer.ts";
import { type InferenceDeviceOptions, openDevice } from "../devices.ts";
import { type ChatOptions, ChatSession } from "./chat.ts";
import type { ModelConfig } from "../config.ts";
import type { Device, Tensor } from "../../device/device.ts";
import type { ForeignRules } from "./foreign.ts";
import {
  type GenerateOptions,
  generateSamples,
  type GenerationModel,
  type SamplePiece,
  wholeSamples,
} from "./generation.ts";
import type { ModelDescription } from "../files/description.ts";
import type { Weights } from "../network.ts";
import { networkOf } from "../networks.ts";
import type { ParameterLayout } from "../parameters.ts";
import { noChatTokens } from "./prompt.ts";
import { placeWeights } from "./placed_weights.ts";

/**
 * Loads a model.
 *
 * @example
 * ```ts
 * import { loadModel, train } from "../../mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * for await (const _ of train({ documents, output, steps: 2, nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 }));
 * using model = await loadModel(output);
 * for await (const { text } of model.generate({ numSamples: 1, prompt: "an" })) console.log(text);
 * ```
 *
 * @param path a directory that `train` or an export wrote, a HuggingFace directory of a Llama, a GGUF file of one,
 * or either of the hub as `localModel` takes it
 * @param options where to compute; default: cpu with all cores
 * @returns the model, to be closed
 * @throws {MicrogptError} when it does not load or the device is not there
 */
export async function loadModel(
  path: string,
  options: InferenceDeviceOptions = {},
): Promise<LanguageModel> {
  const { describeForUse, loadWeights } = await import("./described_model.ts");
  const { source, tokenizer, foreign } = await describeForUse(path, options.threads);
  const { layout } = networkOf(source.config);
  const on = async (device: Device) => {
    const weights = await loadWeights(device, layout, source, options.dtype);
    return new LanguageModel(source, weights, tokenizer, device, foreign);
  };
  const trial = async (candidate: Device) => await timeDecoding(await on(candidate));
  const device = await openDevice(options, { trial, inference: true });
  try {
    return await on(device);
  } catch (error) {
    device.destroy();
    throw error;
  }
}

/** Times a few tokens, for the device `auto`. */
async function timeDecoding(model: LanguageModel): Promise<number> {
  const run = () => model.samples({ numSamples: 1, maxTokens: 32, temperature: 1 });
  await run();
  const started = performance.now();
  await run();
  return performance.now() - started;
}

/** A model on a device. `close` it, or declare it with `using`. */
export class LanguageModel implements Disposable {
  /** the architecture */
  readonly config: ModelConfig;
  /** it was trained on conversations */
  readonly chat: boolean;
  /** text to tokens and back */
  readonly tokenizer: Tokenizer;
  /**
   * what computes
   * @internal
   */
  readonly device: Device;
  /**
   * names and places of the parameters
   * @internal
   */
  readonly layout: ParameterLayout;
  readonly #weights: Weights;
  readonly #foreign: ForeignRules | undefined;

  /**
   * @param weights in the parameter layout: on the device, or to be put there in f32
   * @param foreign of a model of others
   * @internal
   */
  constructor(
    description: Pick<ModelDescription, "config" | "chat">,
    weights: Tensor | Float32Array,
    tokenizer: Tokenizer,
    device: Device,
    foreign?: ForeignRules,
  ) {
    this.#foreign = foreign;
    this.config = description.config;
    this.chat = description.chat;
    this.tokenizer = tokenizer;
    this.device = device;
    const network = networkOf(this.config);
    this.layout = network.layout;
    const flat = weights instanceof Float32Array ? placeWeights(device, this.layout, weights) : weights;
    this.#weights = network.views(device, flat);
  }

  /** The hardware that computes, by its own name. */
  get deviceName(): string {
    return this.device.name;
  }

  /** Whether a conversation is written by the model's own template, which may take system messages. */
  get hasTemplate(): boolean {
    return this.#foreign?.template !== undefined;
  }

  /** How many parameters it has. */
  get parameters(): number {
    return this.layout.count;
  }

  /**
   * Generates samples and yields their text as it grows; pieces of different samples are interleaved.
   * @throws {MicrogptError} for options out of range
   */
  generate(options: GenerateOptions = {}): AsyncGenerator<SamplePiece, void, void> {
    return generateSamples(this.generationModel(), options);
  }

  /** Generates whole samples, in order. */
  async samples(options: GenerateOptions = {}): Promise<string[]> {
    return await Array.fromAsync(wholeSamples(this.generate(options)));
  }

  /**
   * Starts a conversation.
   *
   * @example
   * ```ts
   * import { loadModel, train } from "../../mod.ts";
   *
   * const conversations = [[{ role: "user" as const, content: "hi" }, { role: "assistant" as const, content: "hello" }]];
   * const output = await Deno.makeTempDir();
   * const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 264, valFraction: 0 };
   * for await (const _ of train({ conversations, output, steps: 2, ...small }));
   * using model = await loadModel(output);
   * using chat = model.startChat({ maxTokens: 20 });
   * for await (const piece of chat.send("hi")) console.log(piece);
   * ```
   *
   * @throws {MicrogptError} when the model was not trained on conversations
   */
  startChat(options: ChatOptions = {}): ChatSession {
    if (!this.chat) throw noChatTokens();
    return new ChatSession(this.generationModel(), options);
  }

  /** Frees the device; does nothing the second time. A generation under way ends with an error. */
  close(): void {
    this.device.destroy();
  }

  /** The same as `close`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * What generation works on.
   * @internal
   */
  generationModel(): GenerationModel {
    const { device, config, tokenizer, chat } = this;
    const foreign = this.#foreign;
    return { device, config, weights: this.#weights, tokenizer, chat, ...(foreign ? { foreign } : {}) };
  }
}
