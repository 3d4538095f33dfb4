/** How tokens are drawn: the options that `generate` and `chat` share. */
import type { Options, OptionValues } from "../../device/options.ts";

/** Each option, declared once. */
export const SAMPLING = {
  temperature: {
    type: "number",
    min: -1000,
    max: 1000,
    default: 0.5,
    help: "0 takes the most probable token always",
  },
  topK: {
    type: "whole",
    min: 0,
    max: 1e9,
    default: 0,
    help: "draw from the n most probable tokens; 0 = all",
  },
  topP: {
    type: "number",
    min: 0,
    max: 1,
    default: 1,
    help: "draw from the tokens that together reach this mass; 1 = all",
  },
  minP: {
    type: "number",
    min: 0,
    max: 1,
    default: 0,
    help: "draw from the tokens at least this share as probable as the most probable; 0 = all",
  },
  repetitionPenalty: {
    type: "number",
    min: 0.01,
    max: 100,
    default: 1,
    help: "tokens that prompt or text have are this much less likely: 1.1 a little; 1 = off",
  },
  frequencyPenalty: {
    type: "number",
    min: -2,
    max: 2,
    default: 0,
    help: "less likely with every time that a token was drawn; 0 = off",
  },
  presencePenalty: {
    type: "number",
    min: -2,
    max: 2,
    default: 0,
    help: "less likely once a token was drawn; 0 = off",
  },
  maxTokens: {
    type: "whole",
    min: 1,
    max: 1e9,
    help: "tokens that a sample or an answer gets at most (default: what the context holds)",
  },
  seed: {
    type: "whole",
    min: 0,
    max: Number.MAX_SAFE_INTEGER - 1e7,
    default: 42,
    help: "sample or answer number i uses seed + i",
  },
} as const satisfies Options;

/** How tokens are drawn. */
export type SamplingOptions = Partial<OptionValues<typeof SAMPLING>>;

/** The options with their defaults; without `maxTokens` the context is the limit. */
export function samplingOf({
  temperature = SAMPLING.temperature.default,
  topK = SAMPLING.topK.default,
  topP = SAMPLING.topP.default,
  minP = SAMPLING.minP.default,
  repetitionPenalty = SAMPLING.repetitionPenalty.default,
  frequencyPenalty = SAMPLING.frequencyPenalty.default,
  presencePenalty = SAMPLING.presencePenalty.default,
  maxTokens = Infinity,
  seed = SAMPLING.seed.default,
}: SamplingOptions): Required<SamplingOptions> {
  const penalties = { repetitionPenalty, frequencyPenalty, presencePenalty };
  return { temperature, topK, topP, minP, ...penalties, maxTokens, seed };
}
