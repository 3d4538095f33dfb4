/**
 * Writes the documents of a preset's training batches, in the order of its steps, for bench/train_step.ts and
 * bench/pytorch_step.py.
 *
 *     deno run -A bench/documents.ts --preset defaults --input data/samples/names.txt > names.bin
 *     deno run -A bench/documents.ts --preset chat-medium --chat --input chats.jsonl > medium.bin
 *
 * Format: little-endian u32, the number of documents n, their n + 1 start offsets, then the ids end to end.
 */
import { parseArgs } from "node:util";
import { BatchSampler } from "../data/batches.ts";
import { openCorpus } from "../data/corpus.ts";
import { ownEncoder } from "../data/documents.ts";
import { fitDocuments, piecesOf } from "../data/tokens/pieces.ts";
import { prepareTokens } from "../data/tokens/prepare_tokens.ts";
import { openTokenizer, openWordCounter } from "../model/devices.ts";
import { DEFAULTS, type PresetName, PRESETS, type Settings } from "../model/settings.ts";
import { splitData } from "../model/train/training_data.ts";

const { values: flags } = parseArgs({
  options: {
    preset: { type: "string", default: "defaults" },
    input: { type: "string" },
    /** the input is conversations; long ones are dropped */
    chat: { type: "boolean", default: false },
    steps: { type: "string", default: "2000" },
  },
});
if (flags.input === undefined) {
  throw new Error("--input is needed: a text file, or conversations with --chat");
}
const settings: Settings = {
  ...DEFAULTS,
  ...(flags.preset === "defaults" ? {} : PRESETS[flags.preset as PresetName]),
};

const corpus = await openCorpus({ input: flags.input, chat: flags.chat });
const { vocabSize, blockSize, seed } = settings;
const tokens = await prepareTokens(corpus, {
  newTokenizer: {
    key: `${vocabSize}`,
    sample: 0,
    openCounter: () => openWordCounter({ vocabSize, chat: flags.chat }),
    load: (json) => openTokenizer(json),
  },
  encoderOf: ownEncoder,
  answersOnly: false,
  seed,
  cacheDir: undefined,
  cacheBytes: 0,
});
const long = flags.chat ? "skip" : "truncate";
const { kept } = fitDocuments(tokens.store, tokens.store.counts, blockSize, long, false, corpus.mode);
const parts = splitData(tokens, kept, corpus.mode, settings, undefined, [], []);
const pieces = piecesOf(tokens.store, parts.training, blockSize, long);
const sampler = new BatchSampler(pieces, settings.batchSize, seed);

const ids: number[] = [];
const offsets = [0];
for (let step = 0; step < Number(flags.steps); step++) {
  const { tokens, targets, starts } = sampler.batch(step);
  for (let d = 0; d + 1 < starts.length; d++) {
    for (let t = starts[d]!; t < starts[d + 1]!; t++) ids.push(tokens[t]!);
    ids.push(targets[starts[d + 1]! - 1]!);
    offsets.push(ids.length);
  }
}
const words = Uint32Array.from([offsets.length - 1, ...offsets]);
const out = new Uint8Array(4 * (words.length + ids.length));
out.set(new Uint8Array(words.buffer));
out.set(new Uint8Array(Uint32Array.from(ids).buffer), words.byteLength);
for (let done = 0; done < out.length;) done += Deno.stdout.writeSync(out.subarray(done));
