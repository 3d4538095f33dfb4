/**
 * Documents files: tokens for benches of ours and for PyTorch's (bench/pytorch_step.py and bench/quality/peer_recipes.py).
 *
 * Format: little-endian u32, the number of documents n, their n + 1 start offsets, then the ids end to end.
 */
import { openCorpus } from "../data/corpus.ts";
import { ownEncoder } from "../data/documents.ts";
import { type PreparedTokens, prepareTokens } from "../data/tokens/prepare_tokens.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { PackedDocuments } from "../device/device.ts";
import { openTokenizer, openWordCounter } from "../model/devices.ts";

/** Tokens of a file, in memory. @param tokenizer without it one of `vocabSize` tokens is made from the file */
export async function tokensOfFile(
  input: string,
  { chat, vocabSize, seed, tokenizer }: {
    chat: boolean;
    vocabSize: number;
    seed: number;
    tokenizer?: Tokenizer;
  },
): Promise<PreparedTokens> {
  return await prepareTokens(await openCorpus({ input, chat }), {
    tokenizer,
    newTokenizer: {
      key: `${vocabSize}`,
      sample: 0,
      openCounter: () => openWordCounter({ vocabSize, chat }),
      load: (json) => openTokenizer(json),
    },
    encoderOf: ownEncoder,
    answersOnly: false,
    seed,
    cacheDir: undefined,
    cacheBytes: 0,
  });
}

/** A documents file of some documents. @param documents the ids of each; an array may be used again for the next */
export function documentsFile(documents: Iterable<Uint32Array>): Uint8Array<ArrayBuffer> {
  const ids: number[] = [];
  const offsets = [0];
  for (const document of documents) {
    for (const id of document) ids.push(id);
    offsets.push(ids.length);
  }
  return new Uint8Array(Uint32Array.from([offsets.length - 1, ...offsets, ...ids]).buffer);
}

/**
 * The batches of consecutive steps: batch k holds documents [k · size, (k + 1) · size), each cut to block size + 1 ids.
 * @param path a documents file
 */
export function readBatches(path: string, size: number, blockSize: number): PackedDocuments[] {
  const words = new Uint32Array(Deno.readFileSync(path).buffer);
  const count = words[0]!;
  const offsets = words.subarray(1, count + 2);
  const ids = words.subarray(count + 2);
  const batches: PackedDocuments[] = [];
  for (let first = 0; first + size <= count; first += size) {
    const documents = Array.from(
      { length: size },
      (_, i) => ids.subarray(offsets[first + i]!, offsets[first + i + 1]!).subarray(0, blockSize + 1),
    );
    const starts = new Uint32Array(size + 1);
    documents.forEach((document, i) => starts[i + 1] = starts[i]! + document.length - 1);
    const tokens = new Uint32Array(starts[size]!);
    const targets = new Uint32Array(starts[size]!);
    documents.forEach((document, i) => {
      tokens.set(document.subarray(0, -1), starts[i]);
      targets.set(document.subarray(1), starts[i]);
    });
    batches.push({ tokens, targets, starts });
  }
  return batches;
}

/** Of some measurements. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}
