/**
 * Writes the documents of a preset's training batches, in the order of its steps, for bench/train_step.ts and
 * bench/pytorch_step.py.
 *
 *     deno run -A bench/documents.ts --preset defaults --input data/samples/names.txt > names.bin
 *     deno run -A bench/documents.ts --preset chat-medium --chat --input chats.jsonl > medium.bin
 */
import { parseArgs } from "node:util";
import { BatchSampler } from "../data/batches.ts";
import { fitDocuments, piecesOf } from "../data/tokens/pieces.ts";
import { DEFAULTS, type PresetName, PRESETS, type Settings } from "../model/settings.ts";
import { splitData } from "../model/train/training_data.ts";
import { documentsFile, tokensOfFile } from "./documents_file.ts";

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

const { chat } = flags;
const { blockSize, seed } = settings;
const tokens = await tokensOfFile(flags.input, { chat, vocabSize: settings.vocabSize, seed });
const [mode, long] = chat ? ["chat", "skip"] as const : ["text", "truncate"] as const;
const { kept } = fitDocuments(tokens.store, tokens.store.counts, blockSize, long, false, mode);
const parts = splitData(tokens, kept, mode, settings, undefined, [], []);
const pieces = piecesOf(tokens.store, parts.training, blockSize, long);
const sampler = new BatchSampler(pieces, settings.batchSize, seed);

function* documents(): Generator<Uint32Array> {
  for (let step = 0; step < Number(flags.steps); step++) {
    const { tokens, targets, starts } = sampler.batch(step);
    for (let d = 0; d + 1 < starts.length; d++) {
      const end = starts[d + 1]!;
      yield Uint32Array.of(...tokens.subarray(starts[d], end), targets[end - 1]!);
    }
  }
}
const out = documentsFile(documents());
for (let done = 0; done < out.length;) done += Deno.stdout.writeSync(out.subarray(done));
