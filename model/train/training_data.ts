/** The documents of a run: read, split, and packed into batches. */
import { isFileError } from "../../platform/files.ts";
import { batchesInOrder, BatchSampler, longestInput } from "../../data/batches.ts";
import { bytesOfTokens, targetBytes } from "../../data/bits_per_byte.ts";
import {
  dataNotices,
  type Dataset,
  datasetInMemory,
  documentsOf,
  isDataFile,
  loadDataset,
  unitOf,
} from "../../data/dataset.ts";
import type { FittedDocuments, TokenDocuments } from "../../data/documents.ts";
import { copiesNotice, type Split, splitByCount, splitDocuments, splitHashes } from "../../data/split.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { LoadedCheckpoint } from "../files/checkpoint.ts";
import type { Settings } from "../settings.ts";
import type { TrainOptions } from "./options.ts";
import type { TrainingData } from "./trainer.ts";

/**
 * Reads the documents that options or the checkpoint name.
 * @param notices receives what a person should know about them
 * @throws {MicrogptError} for unusable data
 */
export async function loadData(
  options: TrainOptions,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
): Promise<Dataset> {
  const saved = checkpoint?.trainState;
  const data = await readData(options, saved?.dataset_mode, saved?.dataset_path);
  // a resumed run goes on with data that was there before
  if (!saved || data.mode === "chat") notices.push(...dataNotices(data));
  if (!saved) return data;
  if (options.input !== undefined && options.input !== saved.dataset_path) {
    notices.push(`warning: \`input\` changes from ${saved.dataset_path} to ${options.input}`);
  }
  const { dataset_sha256: savedHash } = saved;
  if (savedHash !== undefined && data.hash !== undefined && savedHash !== data.hash) {
    notices.push(
      `warning: the data changed since the checkpoint: ${saved.dataset_path} was ${
        savedHash.slice(0, 12)
      }…, ` +
        `${data.path} is ${data.hash.slice(0, 12)}…`,
    );
  }
  return data;
}

async function readData(
  options: TrainOptions,
  savedMode: "text" | "chat" | undefined,
  savedPath: string | undefined,
): Promise<Dataset> {
  const { documents, conversations } = options;
  if (documents && savedMode === "chat") {
    throw new MicrogptError("`documents`: the checkpoint was trained on conversations", { usage: true });
  }
  if (conversations && savedMode === "text") {
    throw new MicrogptError("`conversations`: the checkpoint was trained on plain text", { usage: true });
  }
  const inMemory = datasetInMemory(options);
  if (inMemory) return inMemory;
  const path = options.input ?? savedPath;
  if (path === undefined) {
    throw new MicrogptError("`input` is required", {
      hint: "name a text file with one document a line, or JSONL with `chat`",
      usage: true,
    });
  }
  if (options.input === undefined && !isDataFile(path)) {
    throw new MicrogptError(
      "the run was trained on data that came from no file, which cannot be read again",
      {
        hint: "give the same data with `input`",
      },
    );
  }
  const mode = savedMode ?? (options.chat ? "chat" : "text");
  if (options.chat && mode === "text") {
    throw new MicrogptError("`chat`: the checkpoint was trained on plain text", { usage: true });
  }
  if (options.chat === false && mode === "chat") {
    throw new MicrogptError("`chat` false: the checkpoint was trained on conversations", { usage: true });
  }
  return await loadFile(path, mode, options.input === undefined);
}

/** @param remembered the path is the checkpoint's, not one given now */
async function loadFile(path: string, mode: "text" | "chat", remembered: boolean): Promise<Dataset> {
  try {
    return await loadDataset(path, mode);
  } catch (error) {
    if (!remembered || !(error instanceof MicrogptError)) throw error;
    if (!isFileError(error.cause, "NotFound")) throw error;
    throw new MicrogptError(error.message, {
      hint: "the path is as it was where the run began; say where its data is now with `input`",
      cause: error.cause,
    });
  }
}

/** Chooses what is held out; a resumed run keeps each document on its side. */
export function splitData(
  data: Dataset,
  fitted: FittedDocuments,
  settings: Settings,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
): Split {
  const all = splitHashes(documentsOf(data), settings.seed);
  const hashes = Float64Array.from(fitted.numbers, (d) => all[d]!);
  const split = (checkpoint && earlierSplit(data, hashes.length, settings, checkpoint, notices)) ??
    splitDocuments(hashes, settings.valFraction, checkpoint?.trainState.val_threshold);
  if (split.notice) notices.push(split.notice);
  const copies = copiesNotice(hashes, unitOf(data), split);
  if (copies) notices.push(copies);
  return split;
}

/** The split of a checkpoint without a threshold, as long as its data are the same; undefined otherwise. */
function earlierSplit(
  data: Dataset,
  count: number,
  settings: Settings,
  { trainState: saved }: LoadedCheckpoint,
  notices: string[],
): Split | undefined {
  if (saved.val_threshold !== undefined) return undefined;
  const split = splitByCount(count, settings.valFraction, settings.seed);
  const { dataset_sha256: savedHash } = saved;
  const changed = savedHash !== undefined && data.hash !== undefined && savedHash !== data.hash;
  const skipsOthers = saved.skip_long !== undefined && saved.skip_long !== settings.skipLong;
  const held = saved.val_documents ?? split.validation.length;
  const same = !changed && !skipsOthers && held === split.validation.length;
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

/**
 * Token documents as the trainer takes them.
 * @param end the token that ends a document
 */
export function batches(
  documents: TokenDocuments,
  split: { training: Uint32Array; validation: Uint32Array },
  settings: Settings,
  tokenizer: Tokenizer,
  end?: number,
): TrainingData {
  const sampler = new BatchSampler(documents, split.training, settings.batchSize, settings.seed);
  const held = split.validation;
  const longestHeld = held.length > 0 ? longestInput(documents, held) : 0;
  const maxTokens = Math.max(sampler.maxTokens, longestHeld);
  // full batches would touch activations that training batches, of mixed lengths, hardly ever reach
  const heldTokens = Math.max(longestHeld, Math.min(maxTokens, EVALUATION_TOKENS));
  const maxDocuments = Math.max(settings.batchSize, Math.min(held.length, 64));
  const validation = () => batchesInOrder(documents, held, heldTokens, maxDocuments);
  const tokenBytes = bytesOfTokens(tokenizer, end);
  let validationBytes = 0;
  for (const batch of validation()) validationBytes += targetBytes(batch, tokenBytes);
  return { maxTokens, maxDocuments, batch: (number) => sampler.batch(number), validation, validationBytes };
}
