/**
 * Training from the token file beside training from memory: the same steps on the same documents, in rounds that alternate.
 *
 *     deno run -A bench/from_file.ts --input corpus.txt --cache-dir cache --preset chat-small
 *
 * Also how long a batch takes from each, the first ones (nothing read yet) and later ones.
 */
import { parseArgs } from "node:util";
import { openCorpus } from "../data/corpus.ts";
import { ownEncoder } from "../data/documents.ts";
import { fitDocuments } from "../data/tokens/pieces.ts";
import { prepareTokens } from "../data/tokens/prepare_tokens.ts";
import type { Device } from "../device/device.ts";
import { openDevice } from "../model/devices.ts";
import { networkKind, networkOf } from "../model/networks.ts";
import { emptyState } from "../model/optimizer_state.ts";
import { DEFAULTS, type PresetName, PRESETS } from "../model/settings.ts";
import { newTokenizerOf } from "../model/train/prepare.ts";
import { resolveRecipe } from "../model/train/resolve.ts";
import { Trainer, type TrainingData } from "../model/train/trainer.ts";
import { batches, splitData } from "../model/train/training_data.ts";
import { median } from "./documents_file.ts";

const { values: flags } = parseArgs({
  options: {
    input: { type: "string" },
    "cache-dir": { type: "string" },
    preset: { type: "string", default: "defaults" },
    rounds: { type: "string", default: "7" },
    /** seconds a round */
    seconds: { type: "string", default: "2" },
  },
});
if (flags.input === undefined || flags["cache-dir"] === undefined) {
  throw new Error("--input and --cache-dir are needed");
}
const { input } = flags;
const preset = flags.preset === "defaults" ? {} : PRESETS[flags.preset as PresetName];
const settings = { ...DEFAULTS, ...preset, evalEvery: 0 };
const { blockSize, seed } = settings;

/** @param memoryCharacters most text that stays in memory */
async function open(cacheDir: string | undefined, memoryCharacters?: number) {
  const corpus = await openCorpus({ input });
  const tokens = await prepareTokens(corpus, {
    newTokenizer: newTokenizerOf({ ...settings, chat: false, tokenizerSample: 0 }),
    encoderOf: ownEncoder,
    answersOnly: false,
    seed,
    cacheDir,
    cacheBytes: 1e12,
    ...(memoryCharacters === undefined ? {} : { memoryCharacters }),
  });
  const { store, tokenizer } = tokens;
  const { kept } = fitDocuments(store, store.counts, blockSize, "truncate", false, "text");
  const parts = splitData(tokens, kept, "text", settings, undefined, [], []);
  return { data: batches(store, parts, "truncate", settings, tokenizer), tokens: tokenizer.vocabSize };
}

/** Milliseconds of each of some batches. */
function timeBatches({ batch }: TrainingData, first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const started = performance.now();
    batch(first + i);
    return performance.now() - started;
  });
}

/** Trains, a round at a time. */
class Rounds {
  readonly #trainer: Trainer;
  readonly #state;
  tokens = 0;

  constructor(device: Device, data: TrainingData, vocabulary: number) {
    const config = networkKind(settings.arch).configOf(settings, vocabulary);
    const network = networkOf(config);
    this.#state = {
      step: 0,
      adamStep: 0,
      params: network.initialParameters(seed),
      optimizer: emptyState(network.layout),
    };
    const counted = (number: number) => {
      const packed = data.batch(number);
      this.tokens += packed.tokens.length;
      return packed;
    };
    const recipe = resolveRecipe(settings, 0, settings.nLayer);
    this.#trainer = new Trainer(device, config, { ...data, batch: counted, validationBytes: 0 }, recipe);
    this.#trainer.load(this.#state);
  }

  /** @returns tokens a second of some steps */
  async run(steps: number): Promise<number> {
    const [before, started] = [this.tokens, performance.now()];
    const lastGood = () => Promise.resolve(this.#state);
    for await (const _ of this.#trainer.run(this.#trainer.step + steps, { lastGood }));
    return (this.tokens - before) / (performance.now() - started) * 1000;
  }
}

const file = await open(flags["cache-dir"]);
const memory = await open(undefined, (await Deno.stat(input)).size + 1);
const show = (times: number[]) => `${median(times).toFixed(3)} ms`;
for (const [name, { data }] of [["file", file], ["memory", memory]] as const) {
  const first = timeBatches(data, 1e6, 20);
  const later = timeBatches(data, 1e6 + 20, 2000);
  console.log(`a batch from ${name}: ${show(first)} (the first 20), ${show(later)} (the next 2000)`);
}
const device = await openDevice({ device: "cpu" });
const sides = {
  file: new Rounds(device, file.data, file.tokens),
  memory: new Rounds(device, memory.data, memory.tokens),
};
await sides.memory.run(3);
const started = performance.now();
await sides.file.run(3);
const steps = Math.max(Math.round(Number(flags.seconds) * 3000 / (performance.now() - started)), 1);
const ratios: number[] = [];
for (let round = 0; round < Number(flags.rounds); round++) {
  const speeds = { file: 0, memory: 0 };
  for (const side of round % 2 === 0 ? ["file", "memory"] as const : ["memory", "file"] as const) {
    speeds[side] = await sides[side].run(steps);
  }
  ratios.push(speeds.file / speeds.memory);
  console.log(
    `round ${round + 1}, ${steps} steps: ${speeds.file.toFixed(0)} tok/s from the file, ` +
      `${speeds.memory.toFixed(0)} from memory, ratio ${ratios.at(-1)!.toFixed(3)}`,
  );
}
console.log(`median ratio ${median(ratios).toFixed(3)}`);
device.destroy();
file.data.close?.();
memory.data.close?.();
