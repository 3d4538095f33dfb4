/** A model of any kind as other programs are compared with it: logits, most probable tokens, likelihoods. */
import type { Device } from "../../device/device.ts";
import { readAnyModel } from "../../model/files/any_model.ts";
import type { DecodeMemory, Network, Weights } from "../../model/network.ts";
import { networkOf } from "../../model/networks.ts";
import { flatTensor } from "../../model/parameters.ts";
import { decodeRows } from "../device/case_data.ts";

/** Whose logits are asked for in pieces of so many tokens. */
const ROWS = 64;

/** A model on a device, with memory for one sequence. */
export class RunningModel {
  readonly #device: Device;
  readonly #network: Network;
  readonly #weights: Weights;
  readonly #memory: DecodeMemory;
  readonly #contextLength: number;

  /** @param params in the layout of the network */
  constructor(device: Device, network: Network, params: Float32Array, contextLength: number) {
    this.#device = device;
    this.#network = network;
    this.#contextLength = contextLength;
    const flat = flatTensor(device, "weights", network.layout, "work");
    device.write(flat, params);
    this.#weights = network.views(device, flat);
    this.#memory = network.allocateDecodeMemory(device, ROWS, ROWS, contextLength);
  }

  /** Reads what `generate --model-dir` takes. */
  static async read(device: Device, path: string, contextLength: number): Promise<RunningModel> {
    const model = await readAnyModel(path);
    const network = networkOf(model.config);
    const params = await model.readParameters(network.layout);
    return new RunningModel(device, network, params, contextLength);
  }

  /**
   * Logits after each token, for at most 64 tokens.
   * @param first position of the first token; those before were given earlier
   * @returns [tokens, V]
   */
  async logits(tokens: number[], first = 0): Promise<Float32Array> {
    const rows = decodeRows(this.#device, tokens, tokens.map((_, i) => first + i), tokens.map(() => 0));
    this.#network.decodeStep(
      this.#device,
      this.#weights,
      this.#memory,
      rows,
      this.#contextLength,
      tokens.length,
    );
    const logits = await this.#device.read(this.#memory.logits) as Float32Array;
    for (const tensor of Object.values(rows)) this.#device.free(tensor);
    return logits;
  }

  /** The most probable token after the prompt, after that, and so on, each with the logits it was taken from. */
  async greedy(prompt: number[], count: number): Promise<{ token: number; logits: Float32Array }[]> {
    const all: { token: number; logits: Float32Array }[] = [];
    const vocabulary = this.#network.config.vocab_size;
    let logits = (await this.logits(prompt)).slice(-vocabulary);
    while (all.length < count) {
      const token = largest(logits);
      all.push({ token, logits });
      logits = (await this.logits([token], prompt.length + all.length - 1)).slice(-vocabulary);
    }
    return all;
  }

  /** Natural logarithm of the probability of each token but the first. */
  async likelihood(tokens: number[]): Promise<number[]> {
    const vocabulary = this.#network.config.vocab_size;
    const all: number[] = [];
    for (let at = 0; at < tokens.length - 1; at += ROWS) {
      const piece = tokens.slice(at, Math.min(at + ROWS, tokens.length - 1));
      const logits = await this.logits(piece, at);
      piece.forEach((_, i) => {
        const row = logits.subarray(i * vocabulary, (i + 1) * vocabulary);
        const most = row[largest(row)]!;
        const total = row.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
        all.push(row[tokens[at + i + 1]!]! - most - Math.log(total));
      });
    }
    return all;
  }
}

/** The first place of the largest number. */
export function largest(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
