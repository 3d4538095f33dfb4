/** What a data file holds, before anything is trained on it: what `microgpt info --input` shows. */
import type { Corpus, CorpusBlock, CorpusOptions } from "../../data/corpus.ts";
import type { Inspection } from "../../data/inspection.ts";
import type { PreparationProgress } from "../../data/tokens/prepare_tokens.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import { openTokenizer, trainTokenizer } from "../devices.ts";
import { checkSettings, DEFAULTS } from "../settings.ts";

/** Text that a tokenizer is made of, in UTF-16 units: enough to count with. */
const TOKENIZER_CHARACTERS = 64e6;

/** What a text costs beside its characters, in as many characters. */
const TEXT_COST = 32;

/** What to inspect, and with which tokenizer. */
export interface InspectDataOptions extends CorpusOptions {
  /** a model whose tokenizer counts; default: one is trained on the data */
  modelDir?: string;
  /** size of that one */
  vocabSize?: number;
  /** longest sequence to train on; default: the model's, where there is one */
  blockSize?: number;
  /** told how far it is */
  onProgress?: (progress: PreparationProgress) => void;
}

/** What was found. */
export interface InspectedData {
  /** what the documents are */
  mode: "text" | "chat";
  /** what a person should know about the files */
  notices: string[];
  /** counts, lengths, alphabet, copies, what would be left out, and some documents as a model sees them */
  inspection: Inspection;
}

/**
 * Reads data as a training run would, and measures it.
 * @throws {MicrogptError} for data that cannot be used, and a model that does not load
 */
export async function inspectData(options: InspectDataOptions): Promise<InspectedData> {
  const { modelDir, vocabSize, blockSize: asked, chat: _, onProgress, ...corpusOptions } = options;
  if (modelDir !== undefined && vocabSize !== undefined) {
    throw new MicrogptError(
      "`vocabSize` makes a tokenizer, `modelDir` takes the model's: give one of them",
      { usage: true },
    );
  }
  checkSettings({
    ...(vocabSize === undefined ? {} : { vocabSize }),
    ...(asked === undefined ? {} : { blockSize: asked }),
  });
  const { openCorpus } = await import("../../data/corpus.ts");
  const { inspectCorpus } = await import("../../data/inspection.ts");
  const model = modelDir === undefined ? undefined : await described(modelDir);
  const { keepSystem = false, encoder } = model ?? {};
  const { readsConversations } = await import("./base_model.ts");
  const opened = await openCorpus({ ...corpusOptions, keepSystem, chat: readsConversations(model, options) });
  const notices: string[] = [];
  const [corpus, tokenizer] = model
    ? [opened, model.tokenizer]
    : await withTokenizer(opened, vocabSize ?? DEFAULTS.vocabSize, notices, onProgress);
  const blockSize = asked ?? model?.config.block_size;
  const inspection = await inspectCorpus(corpus, tokenizer, {
    ...(encoder ? { encoder } : {}),
    ...(blockSize === undefined ? {} : { blockSize }),
    onRead: (bytes) => onProgress?.({ phase: "tokens", bytes, totalBytes: corpus.totalBytes }),
  });
  return { mode: corpus.mode, notices: [...notices, ...corpus.report().notices], inspection };
}

/** A model of any kind, and how it writes documents. */
async function described(modelDir: string) {
  const { encoderOf, readBase } = await import("./base_model.ts");
  const base = await readBase(modelDir, false);
  const tokenizer = await openTokenizer(base.tokenizerJson);
  return { config: base.config, chat: base.chat, tokenizer, ...await encoderOf(base, tokenizer) };
}

/**
 * Trains a tokenizer as a run on the data would; on large data, on its first part.
 * @returns the corpus with what was read of it put back, and the tokenizer
 */
async function withTokenizer(
  corpus: Corpus,
  vocabSize: number,
  notices: string[],
  onProgress?: InspectDataOptions["onProgress"],
): Promise<[Omit<Corpus, "textBlocks">, Tokenizer]> {
  const read: CorpusBlock[] = [];
  const texts: string[] = [];
  let [characters, held] = [0, 0];
  const rest = corpus.blocks();
  while (held < TOKENIZER_CHARACTERS) {
    const { done, value } = await rest.next();
    if (done) break;
    read.push(value);
    onProgress?.({ phase: "words", bytes: value.bytesRead, totalBytes: corpus.totalBytes });
    for (const text of value.documents.flatMap(textsOf)) {
      texts.push(text);
      characters += text.length;
      held += text.length + TEXT_COST;
    }
  }
  if (held >= TOKENIZER_CHARACTERS) {
    notices.push(
      `the tokenizer is made of the first ${
        (characters / 1e6).toFixed(characters < 1e7 ? 1 : 0)
      } million characters`,
    );
  }
  const tokenizer = await trainTokenizer(texts, { vocabSize, chat: corpus.mode === "chat" });
  async function* blocks(): AsyncGenerator<CorpusBlock> {
    while (read.length > 0) yield read.shift()!;
    yield* rest;
  }
  const { mode, path, inputs, files, totalBytes, settings } = corpus;
  const again = { mode, path, inputs, files, totalBytes, settings, rereadable: false, blocks };
  return [{ ...again, report: () => corpus.report() }, tokenizer];
}

function textsOf(document: CorpusBlock["documents"][number]): string[] {
  return typeof document === "string" ? [document] : document.map(({ content }) => content);
}
