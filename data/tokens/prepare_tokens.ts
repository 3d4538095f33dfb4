/**
 * From a corpus to its tokens: words are counted for a new tokenizer, documents are encoded. What is small stays in memory,
 * the rest goes through the cache, block by block, where a second run finds it.
 */

import { Cleanup } from "../../platform/cleanup.ts";
import project from "../../deno.json" with { type: "json" };
import { files, isFileError } from "../../platform/files.ts";
import { os } from "../../platform/host.ts";
import { resolve } from "../../platform/paths.ts";
import type { Corpus, CorpusReport } from "../corpus.ts";
import type { DocumentEncoder } from "../documents.ts";
import { type HashSummary, splitHashes, summaryOf } from "../split.ts";
import type { Tokenizer, WordCounter } from "../tokenizer.ts";
import { CacheEntry, cannotPrepare, trimCache } from "./cache.ts";
import { HashFileWriter, readHashFile } from "./hash_file.ts";
import { bytesOf, digestOf, PreparedFileError } from "./indexed_file.ts";
import { Spool } from "./spool.ts";
import {
  bitsOf,
  BLOCK_CHARACTERS,
  type DocumentBlock,
  documentBlocks,
  encodeBlock,
  type EncodingWay,
  textsOf,
} from "./token_block.ts";
import { openTokenFile, TokenFileWriter } from "./token_file.ts";
import { storeInMemory, type TokenStore } from "./token_store.ts";

/** How far it is. */
export interface PreparationProgress {
  /** waiting for another process that prepares the same data, counting words, or encoding */
  phase: "waiting" | "words" | "tokens";
  /** bytes of input that this phase has read */
  bytes: number;
  /** of all input, where that is known */
  totalBytes: number | undefined;
}

/** How data is prepared. */
export interface PreparationOptions {
  /** the tokenizer of a run that goes on; without it one is made */
  tokenizer?: Tokenizer | undefined;
  /** how documents become tokens */
  encoderOf(tokenizer: Tokenizer): DocumentEncoder;
  /** only answers will count as targets: they must be known */
  answersOnly: boolean;
  /** makes the tokenizer */
  newTokenizer: NewTokenizer;
  /** of the split */
  seed: number;
  /** where prepared data is kept; undefined: nowhere, beyond this run */
  cacheDir: string | undefined;
  /** most bytes that it may take there */
  cacheBytes: number;
  /** UTF-16 units of text that may stay in memory, and that a block has */
  memoryCharacters?: number;
  onProgress?: ((progress: PreparationProgress) => void) | undefined;
  /** ends the preparation of large data with its reason; what is done is kept */
  signal?: AbortSignal | undefined;
}

/** How a tokenizer is made. */
export interface NewTokenizer {
  /** all that it depends on, besides the corpus */
  key: string;
  /** most UTF-16 units of text that are counted; 0 = all */
  sample: number;
  openCounter(): Promise<WordCounter>;
  load(json: string): Promise<Tokenizer>;
  /** where several processes train: whether this one makes the tokenizer, and hands it to the others */
  share?: { isFirst: boolean; text(json: string): string } | undefined;
}

/** A corpus, ready to be trained on. */
export interface PreparedTokens {
  tokenizer: Tokenizer;
  store: TokenStore;
  hashes: HashSummary;
  report: CorpusReport;
  /** what a person should know of the preparation */
  notices: string[];
}

/** Reads the blocks of a corpus, as often as needed. */
type ReadBlocks = () => AsyncGenerator<DocumentBlock>;

/**
 * Makes tokens of a corpus, or finds them made.
 * @throws {MicrogptError} when the corpus cannot be read, or prepared data not written
 */
export async function prepareTokens(corpus: Corpus, options: PreparationOptions): Promise<PreparedTokens> {
  const { memoryCharacters = BLOCK_CHARACTERS, signal } = options;
  const again: ReadBlocks = () => documentBlocks(corpus, signal, memoryCharacters);
  if ((corpus.totalBytes ?? 0) > memoryCharacters) return await prepareInFiles(corpus, () => again, options);
  // of files it is over in a moment; what comes but once may take its time
  const blocks = documentBlocks(corpus, corpus.rereadable ? undefined : signal, memoryCharacters);
  const first = await blocks.next();
  const second = await blocks.next();
  if (second.done) return await prepareInMemory(corpus, first.value!, options);
  if (corpus.rereadable) {
    await blocks.return(undefined);
    return await prepareInFiles(corpus, () => again, options);
  }
  const all: ReadBlocks = async function* () {
    for (const { value } of [first, second]) {
      signal?.throwIfAborted();
      yield value!;
    }
    for await (const block of blocks) {
      signal?.throwIfAborted();
      yield block;
    }
  };
  if (options.tokenizer) return await prepareInFiles(corpus, () => all, options);
  using opened = new Cleanup();
  const spooled = (path: string): ReadBlocks => {
    const spool = new Spool(path, all());
    opened.defer(() => spool[Symbol.dispose]());
    return () => spool.blocks();
  };
  return await prepareInFiles(corpus, spooled, options);
}

async function prepareInMemory(
  corpus: Corpus,
  { documents }: DocumentBlock,
  options: PreparationOptions,
): Promise<PreparedTokens> {
  const once: ReadBlocks = async function* () {
    yield { documents, characters: 0, bytesRead: corpus.report().bytes };
  };
  const tokenizer = options.tokenizer ??
    await agreed(options, () => makeTokenizer(corpus, once, options));
  const store = storeInMemory([await encodeBlock(documents, wayOf(tokenizer, options))]);
  const hashes = summaryOf(splitHashes(documents, options.seed));
  return { tokenizer, store, hashes, report: corpus.report(), notices: [] };
}

/** How a tokenizer's documents are encoded. */
function wayOf(tokenizer: Tokenizer, { encoderOf, answersOnly }: PreparationOptions): EncodingWay {
  return { encoder: encoderOf(tokenizer), answersOnly, vocabSize: tokenizer.vocabSize };
}

/**
 * Where several processes train, one makes the tokenizer and hands it to the others. These wait for it without a lock, or the
 * one might wait for theirs.
 */
async function agreed(
  { newTokenizer: { share, load } }: PreparationOptions,
  make: () => Promise<Tokenizer>,
): Promise<Tokenizer> {
  if (!share) return await make();
  if (!share.isFirst) return await load(share.text(""));
  const tokenizer = await make();
  share.text(tokenizer.toJSON());
  return tokenizer;
}

/** Counts words and trains. */
async function makeTokenizer(
  corpus: Corpus,
  read: ReadBlocks,
  { newTokenizer, onProgress }: PreparationOptions,
): Promise<Tokenizer> {
  const { sample, openCounter } = newTokenizer;
  const counter = await openCounter();
  try {
    const { totalBytes } = corpus;
    // of a large corpus every nth block, so that all parts of it have a say
    const every = sample > 0 && totalBytes ? Math.max(Math.ceil(totalBytes / sample), 1) : 1;
    let counted = 0;
    let number = 0;
    let counting = Promise.resolve();
    for await (const { documents, characters, bytesRead } of read()) {
      await counting;
      onProgress?.({ phase: "words", bytes: bytesRead, totalBytes });
      if (sample > 0 && counted >= sample) break;
      if (number++ % every !== 0) continue;
      counted += characters;
      counting = counter.add(textsOf(documents));
      counting.catch(() => {}); // it is thrown where it is awaited, which may be a read later
    }
    await counting;
    return await counter.train();
  } finally {
    counter.close();
  }
}

/** Everything that is kept of a corpus lies in one directory. */
async function prepareInFiles(
  corpus: Corpus,
  open: (path: string) => ReadBlocks,
  options: PreparationOptions,
): Promise<PreparedTokens> {
  const { cacheDir, cacheBytes, signal, onProgress } = options;
  let dir = cacheDir ?? "the directory for temporary files";
  try {
    if (cacheDir === undefined || !corpus.rereadable || corpus.files.length === 0) {
      dir = await files.makeTempDir({ prefix: "microgpt-" });
      return await prepareOnce(corpus, open(`${dir}/spool`), dir, options);
    }
    const waiting = () => onProgress?.({ phase: "waiting", bytes: 0, totalBytes: corpus.totalBytes });
    const openEntry = () =>
      CacheEntry.open(cacheDir, keyOf(corpus), { ...(signal ? { signal } : {}), waiting });
    const read = open("");
    const notices: string[] = [];
    const tokenizer = options.tokenizer ?? await agreed(options, async () => {
      using entry = await openEntry();
      return await keptTokenizer(corpus, read, dir = entry.dir, options, notices);
    });
    using entry = await openEntry();
    dir = entry.dir;
    const prepared = await prepareIn(corpus, read, dir, { ...options, tokenizer }, notices);
    await trimCache(cacheDir, cacheBytes, dir).catch((error) => {
      notices.push(
        `warning: ${cacheDir} holds more than it should, but cannot be made smaller: ${error.message}`,
      );
    });
    return prepared;
  } catch (error) {
    throw cannotPrepare(dir, error);
  }
}

/** In a directory that goes when the tokens are closed, or at once where open files stay readable. */
async function prepareOnce(
  corpus: Corpus,
  read: ReadBlocks,
  dir: string,
  options: PreparationOptions,
): Promise<PreparedTokens> {
  const remove = () => files.remove(dir, { recursive: true });
  try {
    const notices: string[] = [];
    const tokenizer = options.tokenizer ??
      await agreed(options, () => keptTokenizer(corpus, read, dir, options, notices));
    const prepared = await prepareIn(corpus, read, dir, { ...options, tokenizer }, notices);
    const close = prepared.store.onClose;
    if (os !== "windows") await remove();
    else {
      prepared.store.onClose = () => {
        close?.();
        void remove().catch(() => {});
      };
    }
    return prepared;
  } catch (error) {
    await remove().catch(() => {});
    throw error;
  }
}

/** Says which corpus prepared data is of: which files, what they were like, and how they are read. */
function keyOf(corpus: Corpus): string {
  const identity = {
    version: project.version,
    settings: corpus.settings,
    files: corpus.files.map(({ path, bytes, modified }) => [resolve(path), bytes, modified]),
  };
  return digestOf(new TextEncoder().encode(JSON.stringify(identity))).slice(0, 32);
}

/** Uses what is there, and makes what is not. */
async function prepareIn(
  corpus: Corpus,
  read: ReadBlocks,
  dir: string,
  options: PreparationOptions & { tokenizer: Tokenizer },
  notices: string[],
): Promise<PreparedTokens> {
  const { tokenizer } = options;
  const way = wayOf(tokenizer, options);
  // our own way marks answers in any case
  const key = way.encoder.key === "" ? "" : JSON.stringify([way.encoder.key, way.answersOnly]);
  const digest = digestOf(new TextEncoder().encode(tokenizer.toJSON() + key));
  const paths = {
    tokens: `${dir}/tokens-${digest.slice(0, 16)}`,
    hashes: `${dir}/hashes-${options.seed}`,
  };
  const found = () => ({
    tokens: usable(paths.tokens, notices, () => openTokenFile(paths.tokens, tokenizer.vocabSize)),
    hashes: usable(paths.hashes, notices, () => readHashFile(paths.hashes)),
  });
  let { tokens, hashes } = found();
  if (!tokens || !hashes) {
    tokens?.store.close();
    hashes?.close();
    await writeTokens(corpus, read, way, paths, { ...options, encoded: tokens !== undefined });
    ({ tokens, hashes } = found());
  }
  const { store, known } = tokens!;
  const kept = hashes!;
  store.onClose = () => kept.close();
  return { tokenizer, store, hashes: kept, report: known as CorpusReport, notices };
}

/** @returns undefined for a file that is not there, or is damaged, which is said */
function usable<T>(path: string, notices: string[], open: () => T): T | undefined {
  try {
    return open();
  } catch (error) {
    if (isFileError(error, "NotFound")) return undefined;
    if (!(error instanceof PreparedFileError)) throw error;
    notices.push(`warning: prepared data in ${path} is not used, ${error.message}: it is made anew`);
    files.removeSync(path);
    return undefined;
  }
}

/** The tokenizer that was made of the corpus before, or a new one. */
async function keptTokenizer(
  corpus: Corpus,
  read: ReadBlocks,
  dir: string,
  options: PreparationOptions,
  notices: string[],
): Promise<Tokenizer> {
  const { newTokenizer: { key, load } } = options;
  const path = `${dir}/tokenizer-${digestOf(new TextEncoder().encode(key)).slice(0, 16)}`;
  const kept = usable(path, notices, () => keptText(path));
  if (kept !== undefined) return await load(kept);
  const tokenizer = await makeTokenizer(corpus, read, options);
  const json = tokenizer.toJSON();
  const digest = digestOf(new TextEncoder().encode(json));
  await staged(path, (part) => files.writeTextFile(part, `${digest}\n${json}`));
  return tokenizer;
}

/** A text behind its digest. */
function keptText(path: string): string {
  const text = files.readTextFileSync(path);
  const json = text.slice(65);
  if (text.slice(0, 64) === digestOf(new TextEncoder().encode(json))) return json;
  throw new PreparedFileError("it is damaged");
}

/** Writes under another name, and renames what is whole. */
async function staged(path: string, write: (part: string) => Promise<void>): Promise<void> {
  const part = `${path}.part`;
  await write(part);
  await files.rename(part, path);
}

/** Reads the corpus and writes its tokens, unless they are there, and its hashes. */
async function writeTokens(
  corpus: Corpus,
  read: ReadBlocks,
  way: EncodingWay,
  paths: { tokens: string; hashes: string },
  { seed, onProgress, encoded }: PreparationOptions & { encoded: boolean },
): Promise<void> {
  await staged(paths.hashes, async (hashPart) => {
    using hashFile = new HashFileWriter(hashPart);
    const encode = async (tokenPart?: string) => {
      using tokenFile = tokenPart === undefined
        ? undefined
        : new TokenFileWriter(tokenPart, bitsOf(way.vocabSize));
      let encoding = Promise.resolve();
      try {
        for await (const { documents, bytesRead } of read()) {
          const hashes = splitHashes(documents, seed);
          await encoding;
          onProgress?.({ phase: "tokens", bytes: bytesRead, totalBytes: corpus.totalBytes });
          hashFile.append(hashes);
          const source = digestOf(bytesOf(hashes));
          if (!tokenFile || tokenFile.keep(source)) continue;
          encoding = encodeBlock(documents, way).then((block) => tokenFile.append(block, source));
          encoding.catch(() => {}); // it is thrown where it is awaited, which may be a read later
        }
      } finally {
        await encoding;
      }
      await tokenFile?.finish(corpus.report());
    };
    if (encoded) await encode();
    else await staged(paths.tokens, encode);
    await hashFile.finish();
  });
}
