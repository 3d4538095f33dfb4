/** The documents of a run: found, prepared, split, and packed into batches. */
import { batchesInOrder, BatchSampler, type InputMask } from "../../data/batches.ts";
import { bytesOfTokens, targetBytes } from "../../data/bits_per_byte.ts";
import { type CleanupRow, copyRows } from "../../data/cleanup.ts";
import { type Corpus, corpusOf, type CorpusOptions, isDataFile, openCorpus } from "../../data/corpus.ts";
import type { DocumentNumbers } from "../../data/document_numbers.ts";
import { CORPUS_OPTIONS } from "../../data/corpus_options.ts";
import {
  type HashSummary,
  type Split,
  splitByCount,
  splitDocuments,
  summaryOf,
  trainingDocuments,
} from "../../data/split.ts";
import { type LongDocuments, piecesOf } from "../../data/tokens/pieces.ts";
import type { PreparedTokens } from "../../data/tokens/prepare_tokens.ts";
import type { TokenStore } from "../../data/tokens/token_store.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import { isFileError } from "../../platform/files.ts";
import type { LoadedCheckpoint } from "../files/checkpoint.ts";
import type { TrainState } from "../files/train_state.ts";
import { longDocuments, type Settings } from "../settings.ts";
import type { TrainOptions } from "./options.ts";
import type { TrainingData } from "./trainer.ts";

/**
 * Checks that no option would be ignored.
 * @throws {MicrogptError} naming two options that exclude each other
 */
export function checkDataSource(options: TrainOptions): void {
  const { input, documents, conversations, chat } = options;
  const given = Object.entries({ documents, conversations, input }).filter(([, value]) =>
    value !== undefined
  );
  if (given.length > 1) {
    const [[first], [second]] = given as [[string, unknown], [string, unknown]];
    throw new MicrogptError(`${first} and ${second} are both given`, {
      hint: "the data comes from one of them",
      usage: true,
    });
  }
  if (documents && chat) {
    throw new MicrogptError("documents and chat: true are both given, but documents are plain text", {
      hint: "hand conversations over as `conversations`",
      usage: true,
    });
  }
  if (conversations && chat === false) {
    throw new MicrogptError("conversations and chat: false are both given", {
      hint: "conversations make a chat model: leave out `chat`",
      usage: true,
    });
  }
}

/**
 * Finds the data that options or the checkpoint name, and reads none of it yet.
 * @param keepSystem where the model takes system messages
 * @throws {MicrogptError} for data that is not there, or not of the kind that the checkpoint was trained on
 */
export async function openData(
  options: TrainOptions,
  checkpoint: LoadedCheckpoint | undefined,
  keepSystem: boolean | "first" = false,
): Promise<Corpus> {
  const saved = checkpoint?.trainState;
  const { documents, conversations } = options;
  if (documents && saved?.dataset_mode === "chat") {
    throw new MicrogptError("`documents`: the checkpoint was trained on conversations", { usage: true });
  }
  if (conversations && saved?.dataset_mode === "text") {
    throw new MicrogptError("`conversations`: the checkpoint was trained on plain text", { usage: true });
  }
  if (documents !== undefined) return corpusOf("text", documents);
  if (conversations !== undefined) return corpusOf("chat", conversations, { keepSystem });
  if (options.input === undefined && saved === undefined) {
    throw new MicrogptError("`input` is required", {
      hint: "name a text file with one document a line, or JSONL with `chat`",
      usage: true,
    });
  }
  if (options.input === undefined && !isDataFile(saved!.dataset_path)) {
    throw new MicrogptError(
      "the run was trained on data that came from no file, which cannot be read again",
      { hint: "give the same data with `input`" },
    );
  }
  const chat = checkedMode(options.chat, saved?.dataset_mode) === "chat";
  const reading = { ...(saved ? readingOf(saved) : {}), ...givenReading(options), chat, keepSystem };
  try {
    return await openCorpus(reading as CorpusOptions);
  } catch (error) {
    const remembered = options.input === undefined && error instanceof MicrogptError &&
      isFileError(error.cause, "NotFound");
    if (!remembered) throw error;
    throw new MicrogptError(error.message, {
      hint: "the path is as it was where the run began; say where its data is now with `input`",
      cause: error.cause,
    });
  }
}

function checkedMode(chat: boolean | undefined, saved: "text" | "chat" | undefined): "text" | "chat" {
  const mode = saved ?? (chat ? "chat" : "text");
  if (chat && mode === "text") {
    throw new MicrogptError("`chat`: the checkpoint was trained on plain text", { usage: true });
  }
  if (chat === false && mode === "chat") {
    throw new MicrogptError("`chat` false: the checkpoint was trained on conversations", { usage: true });
  }
  return mode;
}

/** How data is read, as it was asked for. */
function givenReading(options: TrainOptions): Partial<CorpusOptions> {
  const names = Object.keys(CORPUS_OPTIONS) as (keyof typeof CORPUS_OPTIONS)[];
  return Object.fromEntries(
    names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]),
  );
}

/** How a checkpoint's data was read. */
function readingOf(saved: TrainState): Partial<CorpusOptions> {
  const input = saved.dataset_inputs ?? [saved.dataset_path];
  return { input, ...saved.dataset_reading } as Partial<CorpusOptions>;
}

/** How data is read, for a checkpoint: what the paths do not tell. */
export function savedReading(corpus: Corpus): Pick<TrainState, "dataset_inputs" | "dataset_reading"> {
  const { format, document, field, strict } = corpus.settings as Partial<CorpusOptions>;
  const reading = {
    ...(format === undefined ? {} : { format }),
    ...(document === undefined ? {} : { document }),
    ...(field === undefined ? {} : { field }),
    ...(strict ? { strict } : {}),
  };
  return {
    ...(corpus.inputs.length > 1 ? { dataset_inputs: [...corpus.inputs] } : {}),
    ...(Object.keys(reading).length > 0 ? { dataset_reading: reading } : {}),
  };
}

/** What one document is called, in the plural. */
export function unitOf(mode: "text" | "chat"): "documents" | "conversations" {
  return mode === "chat" ? "conversations" : "documents";
}

/** What a person should know about the data that was read, and what is different from when the run began. */
export function dataNotices(
  corpus: Corpus,
  { report, notices: preparation }: PreparedTokens,
  checkpoint: LoadedCheckpoint | undefined,
): string[] {
  const saved = checkpoint?.trainState;
  // a resumed run goes on with data that was there before
  const notices = !saved || corpus.mode === "chat" ? [...preparation, ...report.notices] : [...preparation];
  if (!saved) return notices;
  if (corpus.inputs.length > 0 && corpus.path !== saved.dataset_path) {
    notices.push(`warning: \`input\` changes from ${saved.dataset_path} to ${corpus.path}`);
  }
  if (corpus.inputs.length > 0 && isChanged(saved, report.sha256)) {
    notices.push(
      `warning: the data changed since the checkpoint: ${saved.dataset_path} was ${
        saved.dataset_sha256!.slice(0, 12)
      }…, ${corpus.path} is ${report.sha256.slice(0, 12)}…`,
    );
  }
  return notices;
}

function isChanged({ dataset_sha256: before }: TrainState, now: string): boolean {
  return before !== undefined && before !== now;
}

/** The documents that are trained on and held out, by number. */
export interface Parts {
  split: Split;
  training: DocumentNumbers;
  validation: Uint32Array;
}

/**
 * Chooses what is held out; a resumed run keeps each document on its side.
 * @param kept numbers of the documents to split; undefined: all
 */
export function splitData(
  { hashes: all, report }: PreparedTokens,
  kept: Uint32Array | undefined,
  mode: "text" | "chat",
  settings: Settings,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
  cleanup: CleanupRow[],
): Parts {
  const hashes = kept ? summaryOf(picked(all, kept)) : all;
  const split =
    (checkpoint && earlierSplit(report.sha256, hashes.documents, settings, checkpoint, notices)) ??
      splitDocuments(hashes, settings.valFraction, checkpoint?.trainState.val_threshold);
  if (split.notice) notices.push(split.notice);
  cleanup.push(...copyRows(hashes.documents - hashes.distinct, unitOf(mode), split.leftOut.length));
  const training = trainingDocuments(split, hashes.documents);
  if (!kept) return { split, training, validation: split.validation };
  return {
    split,
    training: Uint32Array.from(training, (d) => kept[d]!),
    validation: split.validation.map((d) => kept[d]!),
  };
}

function picked(hashes: HashSummary, documents: Uint32Array): Float64Array {
  const all = hashes.all();
  return Float64Array.from(documents, (d) => all[d]!);
}

/** The split of a checkpoint without a threshold, as long as its data are the same; undefined otherwise. */
function earlierSplit(
  digest: string,
  count: number,
  settings: Settings,
  { trainState: saved }: LoadedCheckpoint,
  notices: string[],
): Split | undefined {
  if (saved.val_threshold !== undefined) return undefined;
  const split = splitByCount(count, settings.valFraction, settings.seed);
  const skipsOthers = saved.skip_long !== undefined &&
    saved.skip_long !== (longDocuments(settings) === "skip");
  const held = saved.val_documents ?? split.validation.length;
  const same = !isChanged(saved, digest) && !skipsOthers && held === split.validation.length;
  if (split.validation.length > 0 && (!same || saved.val_fraction === undefined)) {
    notices.push(
      "warning: the checkpoint does not say which documents it held out: " +
        "it may have been trained on some of those that are held out now",
    );
  }
  return same ? split : undefined;
}

/** Most tokens of an evaluation's batch, unless one document has more. */
const EVALUATION_TOKENS = 1024;

/** @throws {MicrogptError} where no token says nothing */
function maskOf({ maskTokens: share }: Settings, end: number | undefined): InputMask | undefined {
  if (share === 0) return undefined;
  if (end !== undefined) return { share, token: end };
  throw new MicrogptError(
    "`maskTokens` puts the token that ends a document in their place: the model has none",
    {
      hint: "leave it out",
      usage: true,
    },
  );
}

/**
 * Tokens as the trainer takes them.
 * @param end the token that ends a document
 */
export function batches(
  store: TokenStore,
  { training, validation }: Parts,
  long: LongDocuments,
  settings: Settings,
  tokenizer: Tokenizer,
  end?: number,
): TrainingData {
  const { blockSize, loss } = settings;
  const answersOnly = loss === "answers";
  const pieces = piecesOf(store, training, blockSize, long, answersOnly);
  const { batchSize, seed, dropout, zLoss } = settings;
  const sampler = new BatchSampler(pieces, batchSize, seed, { mask: maskOf(settings, end), dropout, zLoss });
  const held = piecesOf(store, validation, blockSize, long, answersOnly);
  const maxTokens = Math.max(sampler.maxTokens, held.longest);
  // full batches would touch activations that training batches, of mixed lengths, hardly ever reach
  const heldTokens = Math.max(held.longest, Math.min(maxTokens, EVALUATION_TOKENS));
  const maxDocuments = Math.max(settings.batchSize, Math.min(held.count, 64));
  const inOrder = () => batchesInOrder(held, heldTokens, maxDocuments);
  const tokenBytes = bytesOfTokens(tokenizer, end);
  let validationBytes = 0;
  for (const batch of inOrder()) validationBytes += targetBytes(batch, tokenBytes);
  return {
    maxTokens,
    maxDocuments,
    batch: (number) => sampler.batch(number),
    validation: inOrder,
    validationBytes,
    close: () => store.close(),
  };
}
