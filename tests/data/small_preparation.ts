/** A preparation of little data that goes the way of large data, for tests. */
import { ownEncoder } from "../../data/documents.ts";
import type { PreparationOptions } from "../../data/tokens/prepare_tokens.ts";
import { newTokenizerOf } from "../../model/train/prepare.ts";

/** A vocabulary of 300; what has more than 1,000 characters goes to token files. */
export function smallPreparation(
  cacheDir: string | undefined,
  more: Partial<PreparationOptions> = {},
): PreparationOptions {
  return {
    encoderOf: ownEncoder,
    answersOnly: false,
    newTokenizer: newTokenizerOf({ vocabSize: 300, arch: "gpt", chat: false, tokenizerSample: 0 }),
    seed: 42,
    cacheDir,
    cacheBytes: 1e9,
    memoryCharacters: 1000,
    ...more,
  };
}
