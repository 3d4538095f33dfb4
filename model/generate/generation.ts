/** Text from a model: prompts in, pieces of text out as they are drawn. */
import type { Tokenizer } from "../../data/tokenizer.ts";
import { checkOptions, type Options } from "../../device/options.ts";
import type { ModelConfig } from "../config.ts";
import { Decoder, type Start } from "./decoder.ts";
import type { Device } from "../../device/device.ts";
import { SAMPLING, samplingOf, type SamplingOptions } from "./sampling.ts";
import type { Weights } from "../network.ts";
import { networkOf } from "../networks.ts";
import { foreignPrompt, type ForeignRules } from "./foreign.ts";
import { buildPrompt, type PromptOptions, sampleText } from "./prompt.ts";

/** Options of `generate` besides those of sampling. */
export const GENERATION = {
  numSamples: { type: "whole", min: 1, max: 1e7, default: 20, help: "samples to print" },
} as const satisfies Options;

/** How to generate. */
export interface GenerateOptions extends PromptOptions, SamplingOptions {
  /** how many; default 20 */
  numSamples?: number;
  /** ends the generation early, without an error */
  signal?: AbortSignal;
}

/** A piece of a sample. */
export interface SamplePiece {
  /** which sample, from 0 */
  index: number;
  /** whole characters; may be empty */
  text: string;
  /** tokens it came from */
  tokens: number;
  /** the sample is complete */
  done: boolean;
}

/** What generation works on. */
export interface GenerationModel {
  device: Device;
  config: ModelConfig;
  weights: Weights;
  tokenizer: Tokenizer;
  chat: boolean;
  /** of a model of others */
  foreign?: ForeignRules;
}

/** Most bytes that the caches of one batch of samples take. */
const CACHE_BYTES = 256 << 20;
const MAX_BATCH = 256;
/** Models of others have contexts of up to a million tokens: keys and values of one sequence take at most so many bytes. */
const FOREIGN_LINE_BYTES = 512 << 20;

/** The longest sequence that a model is used for, in tokens. */
export function contextOf({ config, foreign }: GenerationModel): number {
  if (!foreign) return config.block_size;
  return Math.min(config.block_size, Math.floor(FOREIGN_LINE_BYTES / (networkOf(config).cacheWidth * 4)));
}

/**
 * Checks what a person may have mistyped.
 * @throws {MicrogptError} naming the option, its range and what was got
 */
export function checkGenerateOptions(options: GenerateOptions): void {
  checkOptions(SAMPLING, options);
  checkOptions(GENERATION, options);
}

/**
 * Generates samples, many at a time in one batch, and yields their text as it grows. Pieces of different samples
 * are interleaved; those of one sample are in order.
 * @throws {MicrogptError} for options out of range, a prompt that fills the context, messages without chat tokens
 */
export async function* generateSamples(
  model: GenerationModel,
  options: GenerateOptions = {},
): AsyncGenerator<SamplePiece, void, void> {
  checkGenerateOptions(options);
  const { device, config, weights, tokenizer } = model;
  const { numSamples = GENERATION.numSamples.default, signal } = options;
  const { seed, maxTokens: mostTokens, ...drawn } = samplingOf(options);
  const longest = contextOf(model);
  const start = model.foreign
    ? foreignPrompt(tokenizer, model.foreign, longest, options)
    : buildPrompt(tokenizer, model.chat, longest, options);
  const prompt = start.ids;
  const maxTokens = Math.min(mostTokens, longest - prompt.length + 1);
  const context = Math.min(longest, prompt.length + maxTokens);
  const lineBytes = context * networkOf(config).cacheWidth * 4;
  const batch = Math.max(1, Math.min(numSamples, MAX_BATCH, Math.floor(CACHE_BYTES / lineBytes)));
  const decoder = new Decoder(device, config, weights, batch, context);
  const fed = prompt.length - 1; // its last token is what the samples start from
  try {
    // decoding writes after it, so the next samples find it in their cache lines too
    decoder.feed(0, prompt.slice(0, fed), 0);
    decoder.copy(0, fed, Array.from({ length: batch - 1 }, (_, i) => i + 1));
    for (let first = 0; first < numSamples && !signal?.aborted; first += batch) {
      const n = Math.min(batch, numSamples - first);
      const starts = Array.from({ length: n }, (_, sequence): Start => {
        return { sequence, token: prompt[fed]!, position: fed, seed: seed + first + sequence, said: prompt };
      });
      const streams = starts.map(() => sampleText(tokenizer, start));
      const drawing = {
        ...drawn,
        suppressed: start.suppressed,
        stopTokens: start.stopTokens,
        minTokens: start.minTokens,
        maxTokens,
        ...(signal ? { signal } : {}),
      };
      for await (const events of decoder.decode(starts, drawing)) {
        for (const { sequence, tokens, done } of events) {
          const stream = streams[sequence]!;
          const text = stream(tokens, done);
          yield { index: first + sequence, text, tokens: tokens.length, done };
        }
      }
    }
  } finally {
    decoder.close();
  }
}

/** Whole samples, in order, each as soon as it and all before it are complete. */
export async function* wholeSamples(pieces: AsyncIterable<SamplePiece>): AsyncGenerator<string, void, void> {
  const texts: string[] = [];
  const complete: boolean[] = [];
  let next = 0;
  for await (const { index, text, done } of pieces) {
    texts[index] = (texts[index] ?? "") + text;
    complete[index] = done;
    for (; complete[next]; next++) yield texts[next]!;
  }
}
