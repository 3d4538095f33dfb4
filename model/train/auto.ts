/**
 * `preset` auto: width, depth, vocabulary, batch and steps for the data at hand and the minutes that a run may take. The rule
 * and what it was fitted to are in docs/recipes.md.
 */
import type { Message } from "../../data/chat.ts";
import type { Corpus } from "../../data/corpus.ts";
import { ownEncoder } from "../../data/documents.ts";
import type { PackedDocuments } from "../../device/device.ts";
import { hash32 } from "../../device/random.ts";
import { MicrogptError } from "../../device/errors.ts";
import { openDevice, trainTokenizer } from "../devices.ts";
import { networkKind, networkOf } from "../networks.ts";
import { DEFAULTS, type Settings } from "../settings.ts";
import { deviceOptions, RUN_OPTIONS, type TrainOptions } from "./options.ts";
import { resolveRecipe } from "./resolve.ts";
import { Trainer, type TrainingData } from "./trainer.ts";
import { openData } from "./training_data.ts";

/** Shapes to choose from, each about twice as slow as the one before. */
const SHAPES = [
  { nEmbd: 48, nHead: 4, nLayer: 1 },
  { nEmbd: 64, nHead: 4, nLayer: 2 },
  { nEmbd: 96, nHead: 4, nLayer: 3 },
  { nEmbd: 128, nHead: 4, nLayer: 4 },
  { nEmbd: 192, nHead: 6, nLayer: 5 },
  { nEmbd: 256, nHead: 8, nLayer: 6 },
  { nEmbd: 384, nHead: 8, nLayer: 8 },
  { nEmbd: 512, nHead: 8, nLayer: 10 },
] as const;

/** The widest shape is taken that still sees the data so often. */
const LEAST_PASSES = 4;

/**
 * Data with so large a vocabulary has rare words, which embedding and head soon learn by heart. One matrix for both, dropout and
 * hidden tokens hold that off, and after so many passes a run ends.
 */
const LARGE_VOCABULARY = 4096;
const MOST_PASSES = 5;
const OF_LARGE_VOCABULARY: Partial<Settings> = {
  learningRate: 0.006,
  zeroInit: false,
  dropout: 0.2,
  maskTokens: 0.05,
};

/** A word that comes so often is worth a token; beside them bytes, special tokens and pieces of rarer words. */
const WORD_COUNT = 3;
const LEAST_VOCABULARY = 304;
const MOST_VOCABULARY = 16_384;

/** Tokens of a step, as far as the documents of a batch allow. */
const STEP_TOKENS = 2048;
const [LEAST_BATCH, MOST_BATCH] = [8, 96];
const [LEAST_CONTEXT, MOST_CONTEXT] = [64, 512];

/** UTF-16 units of text that are looked at, and documents whose tokens are counted. */
const SAMPLE_CHARACTERS = 16 << 20;
const SAMPLE_DOCUMENTS = 4000;

/** Share of the minutes that steps get; the rest is for evaluations and checkpoints. */
const STEP_SHARE = 0.95;
/** Milliseconds that a shape is timed for, and the fewest steps. */
const TRIAL_MS = 300;
const TRIAL_STEPS = 3;

/** What is known of the data before a shape is chosen. */
export interface DataSize {
  vocabSize: number;
  blockSize: number;
  batchSize: number;
  /** sequences that a pass trains on */
  sequences: number;
  /** mean tokens of one */
  sequenceTokens: number;
}

interface Shape {
  nEmbd: number;
  nHead: number;
  nLayer: number;
}

/** A shape with what it takes. */
export interface TimedShape extends Shape {
  /** of a step */
  milliseconds: number;
}

/**
 * The settings of a run with `preset` auto: those given, and the rest by the rule.
 * @returns options with settings in place of the preset, and what was chosen, in words
 * @throws {MicrogptError} for data that can be read only once, and where the shape that is asked for does not fit
 */
export async function withAutomaticSettings(
  options: TrainOptions,
): Promise<{ options: TrainOptions; notice: string }> {
  const { minutes = RUN_OPTIONS.minutes.default, distributed, resume } = options;
  if (resume !== undefined) return { options, notice: "" };
  if (distributed === "mpi") {
    throw new MicrogptError("`preset` auto measures one machine, and `distributed` has several", {
      hint: "choose another preset",
      usage: true,
    });
  }
  const corpus = await openData(options, undefined);
  if (!corpus.rereadable) {
    throw new MicrogptError("`preset` auto reads its data twice, and these can be read only once", {
      hint: "name files, or choose another preset",
      usage: true,
    });
  }
  const size = await sizeOf(corpus, options);
  const timed: TimedShape[] = [];
  const large = size.vocabSize >= LARGE_VOCABULARY && options.arch !== "gpt";
  const family: Partial<Settings> = large ? { arch: "llama", tie: true } : {};
  for (const shape of SHAPES) {
    const milliseconds = await timeStep({
      ...family,
      ...size,
      ...options,
      ...shape,
      ...given(options, shape),
    }, options);
    timed.push({ ...shape, ...given(options, shape), milliseconds });
    if (passesOf(size, stepsIn(minutes, milliseconds)) < LEAST_PASSES) break;
  }
  const chosen = chooseSettings(size, timed, minutes);
  const settings = { ...family, ...chosen.settings, ...options };
  const { nEmbd, nLayer, vocabSize, batchSize, steps } = settings;
  return {
    options: settings,
    notice:
      `auto: width ${nEmbd}, ${nLayer} layers, vocabulary ${vocabSize}, batch ${batchSize}: about ${steps} steps, ` +
      `${chosen.passes.toFixed(1)} passes, in ${chosen.minutes.toPrecision(2)} of ${minutes} minutes`,
  };
}

/** Those of a shape that somebody chose. */
function given(options: TrainOptions, shape: (typeof SHAPES)[number]): Partial<(typeof SHAPES)[number]> {
  const names = Object.keys(shape) as (keyof typeof shape)[];
  return Object.fromEntries(
    names.flatMap((name) => options[name] === undefined ? [] : [[name, options[name]]]),
  );
}

function stepsIn(minutes: number, milliseconds: number): number {
  return Math.max(1, Math.floor(STEP_SHARE * 60_000 * minutes / milliseconds));
}

function passesOf({ batchSize, sequences }: DataSize, steps: number): number {
  return steps * batchSize / sequences;
}

/**
 * The rule: the widest shape that sees the data often enough, the first where none does; more against learning by heart the more
 * often it sees them; and a smaller rate for a longer run.
 * @param timed from the fastest on
 */
export function chooseSettings(
  size: DataSize,
  timed: readonly TimedShape[],
  minutes: number,
): { settings: Partial<Settings>; passes: number; minutes: number } {
  const often = timed.filter(({ milliseconds }) => {
    return passesOf(size, stepsIn(minutes, milliseconds)) >= LEAST_PASSES;
  });
  const { milliseconds, ...shape } = often.at(-1) ?? timed[0]!;
  const { vocabSize, blockSize, batchSize, sequences } = size;
  const isLarge = vocabSize >= LARGE_VOCABULARY;
  const most = isLarge ? Math.ceil(MOST_PASSES * sequences / batchSize) : Infinity;
  const steps = Math.min(most, stepsIn(minutes, milliseconds));
  const passes = passesOf(size, steps);
  return {
    passes,
    minutes: steps * milliseconds / 60_000,
    settings: {
      ...shape,
      vocabSize,
      blockSize,
      batchSize,
      steps,
      optimizer: "muon",
      learningRate: 0.005,
      muonLearningRate: Math.min(0.02, Math.max(0.012, 0.02 * (1000 / steps) ** 0.74)),
      warmupSteps: Math.min(50, Math.ceil(steps / 10)),
      zeroInit: true,
      weightDecay: Math.min(0.3, Math.max(0.1, 0.02 * passes)),
      cautiousDecay: true,
      dropout: passes < 6 ? 0 : 0.1,
      long: "split",
      ...(isLarge ? OF_LARGE_VOCABULARY : {}),
    },
  };
}

/** Looks at the data: words, documents, and how many tokens these have. */
async function sizeOf(corpus: Corpus, options: TrainOptions): Promise<DataSize> {
  const { threads, blockSize: askedBlock, batchSize: askedBatch, signal } = options;
  const { valFraction = DEFAULTS.valFraction } = options;
  const counts = new Map<string, number>();
  const texts: string[] = [];
  const sample: (string | Message[])[] = [];
  let [characters, documents, bytesRead] = [0, 0, 0];
  for await (const block of corpus.blocks(signal)) {
    bytesRead = block.bytesRead;
    for (const document of block.documents) {
      documents++;
      if (sample.length < SAMPLE_DOCUMENTS) sample.push(document);
      for (const text of typeof document === "string" ? [document] : document.map(({ content }) => content)) {
        texts.push(text);
        characters += text.length;
        for (const [word] of text.matchAll(/ ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+/gu)) {
          counts.set(word, (counts.get(word) ?? 0) + 1);
        }
      }
    }
    if (characters >= SAMPLE_CHARACTERS) break;
  }
  const words = counts.values().reduce((sum, count) => sum + (count >= WORD_COUNT ? 1 : 0), 0);
  const vocabSize = options.vocabSize ?? vocabularyFor(words);
  const chat = corpus.mode === "chat";
  const encoder = ownEncoder(await trainTokenizer(texts, { vocabSize, chat, threads }));
  const { offsets } = chat
    ? await encoder.conversations(sample as Message[][], false)
    : await encoder.texts(sample as string[]);
  const inputs = Array.from(sample, (_, d) => offsets[d + 1]! - offsets[d]! - 1);
  const longest = inputs.reduce((most, length) => Math.max(most, length), 1);
  const blockSize = askedBlock ??
    Math.min(MOST_CONTEXT, Math.max(LEAST_CONTEXT, Math.ceil(longest / 64) * 64));
  const pieces = inputs.reduce((sum, length) => sum + Math.ceil(length / blockSize), 0);
  const sequenceTokens = inputs.reduce((sum, length) => sum + length, 0) / pieces;
  const whole = corpus.totalBytes !== undefined && bytesRead > 0 ? corpus.totalBytes / bytesRead : 1;
  const most = Math.round(STEP_TOKENS / sequenceTokens);
  return {
    vocabSize,
    blockSize,
    batchSize: askedBatch ?? Math.min(MOST_BATCH, Math.max(LEAST_BATCH, most)),
    sequences: Math.max(1, documents * whole * (1 - valFraction) * pieces / sample.length),
    sequenceTokens,
  };
}

/** The vocabulary of data with so many words that come at least `WORD_COUNT` times. */
export function vocabularyFor(words: number): number {
  return Math.min(MOST_VOCABULARY, LEAST_VOCABULARY + words);
}

/** Milliseconds of a step on made-up documents of the data's mean length. */
async function timeStep(
  { sequenceTokens, ...asked }: Partial<Settings> & DataSize,
  options: TrainOptions,
): Promise<number> {
  const settings: Settings = { ...DEFAULTS, optimizer: "muon", ...asked, steps: 1000 };
  const config = networkKind(settings.arch).configOf(settings, settings.vocabSize);
  const data = madeUp(settings, Math.min(settings.blockSize, Math.max(1, Math.round(sequenceTokens))));
  const params = networkOf(config).initialParameters(settings.seed);
  const recipe = resolveRecipe({ ...settings, evalEvery: 0, patience: 0 }, 0, config.n_layer);
  let best = Infinity;
  const trial = async (device: Awaited<ReturnType<typeof openDevice>>) => {
    const trainer = new Trainer(device, config, data, recipe);
    const state = { step: 0, adamStep: 0, params };
    trainer.load(state);
    const run = (steps: number) =>
      Array.fromAsync(trainer.run(trainer.step + steps, { lastGood: () => Promise.resolve(state) }));
    await run(1);
    const started = performance.now();
    let steps = 0;
    while (steps < TRIAL_STEPS || performance.now() - started < TRIAL_MS) {
      await run(TRIAL_STEPS);
      steps += TRIAL_STEPS;
    }
    return best = (performance.now() - started) / steps;
  };
  const device = await openDevice(deviceOptions(options), { trial });
  try {
    return best < Infinity ? best : await trial(device);
  } finally {
    device.destroy();
  }
}

/** Batches of random ids. */
function madeUp({ batchSize, vocabSize }: Settings, length: number): TrainingData {
  const T = batchSize * length;
  const ids = (salt: number) => Uint32Array.from({ length: T }, (_, t) => hash32(t ^ salt) % vocabSize);
  const documents: PackedDocuments = {
    tokens: ids(1),
    targets: ids(2),
    starts: Uint32Array.from({ length: batchSize + 1 }, (_, d) => d * length),
  };
  return {
    maxTokens: T,
    maxDocuments: batchSize,
    batch: () => documents,
    validation: () => [],
    validationBytes: 0,
  };
}
