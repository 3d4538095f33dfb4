/** Token documents: what text and conversations become, and how long they may be. */

import { MicrogptError } from "../device/errors.ts";
import type { Message } from "./chat.ts";
import { type EncodedDocuments, SPECIAL_TOKENS, type Tokenizer } from "./tokenizer.ts";

/** Documents end to end. Document d is ids[offsets[d] … offsets[d+1]). */
export interface TokenDocuments {
  ids: Uint32Array;
  /** [documents + 1] */
  offsets: Uint32Array;
  /** [ids] 1 where an id counts as a target, 0 where it does not; absent: all count */
  counted?: Uint8Array;
}

/** How documents become tokens, which depends on whose model it is. */
export interface DocumentEncoder {
  /** the token that ends a document, where one does; as a target it counts as a byte of text */
  readonly end: number | undefined;
  /** Texts as documents. */
  texts(documents: string[]): TokenDocuments;
  /**
   * Conversations as documents.
   * @param answersOnly what the assistant says counts as a target, and the end of its turns; nothing else does
   */
  conversations(conversations: Message[][], answersOnly: boolean): TokenDocuments;
}

/** This program's own way: documents stand between two `<bos>`. */
export function ownEncoder(tokenizer: Tokenizer): DocumentEncoder {
  return {
    end: tokenizer.id(SPECIAL_TOKENS.bos),
    texts: (documents) => encodeText(documents, tokenizer),
    conversations: (conversations, answersOnly) => encodeChat(conversations, tokenizer, answersOnly),
  };
}

/**
 * Text documents as tokens: `[<bos>, …tokens…, <bos>]`.
 * @param documents any text; special-token text in it stays text
 * @param encoded them, where they are encoded already
 * @throws {MicrogptError} when the tokenizer has no `<bos>`
 */
export function encodeText(
  documents: string[],
  tokenizer: Tokenizer,
  encoded: EncodedDocuments = tokenizer.encode(documents),
): TokenDocuments {
  const bos = specialId(tokenizer, SPECIAL_TOKENS.bos);
  const ids = new Uint32Array(encoded.ids.length + 2 * documents.length);
  const offsets = new Uint32Array(documents.length + 1);
  let at = 0;
  for (let d = 0; d < documents.length; d++) {
    ids[at++] = bos;
    at = copyIds(encoded, d, ids, at);
    ids[at++] = bos;
    offsets[d + 1] = at;
  }
  return { ids, offsets };
}

/**
 * Conversations as tokens: `[<bos>, (<user>|<assistant>), …tokens…, <end_turn>, …, <bos>]`.
 * @param answersOnly what the assistant says counts as a target, and the end of its turns; nothing else does
 * @param encoded their messages in order, where they are encoded already
 * @throws {MicrogptError} when the tokenizer has no chat tokens
 */
export function encodeChat(
  conversations: Message[][],
  tokenizer: Tokenizer,
  answersOnly = false,
  encoded: EncodedDocuments = tokenizer.encode(
    conversations.flatMap((messages) => messages.map(({ content }) => content)),
  ),
): TokenDocuments {
  const bos = specialId(tokenizer, SPECIAL_TOKENS.bos);
  const endTurn = specialId(tokenizer, SPECIAL_TOKENS.endTurn);
  const role = {
    user: specialId(tokenizer, SPECIAL_TOKENS.user),
    assistant: specialId(tokenizer, SPECIAL_TOKENS.assistant),
    get system() {
      return specialId(tokenizer, "<system>");
    },
  };
  const messages = encoded.offsets.length - 1;
  const ids = new Uint32Array(encoded.ids.length + 2 * messages + 2 * conversations.length);
  const counted = answersOnly ? new Uint8Array(ids.length) : undefined;
  const offsets = new Uint32Array(conversations.length + 1);
  let at = 0;
  let turn = 0;
  conversations.forEach((messages, d) => {
    ids[at++] = bos;
    for (const message of messages) {
      ids[at++] = role[message.role];
      const start = at;
      at = copyIds(encoded, turn, ids, at);
      ids[at++] = endTurn;
      if (message.role === "assistant") counted?.fill(1, start, at);
      turn++;
    }
    ids[at++] = bos;
    offsets[d + 1] = at;
  });
  return { ids, offsets, ...(counted ? { counted } : {}) };
}

/** Copies the ids of text `t` to `ids` from `at` on. @returns where they end */
function copyIds(encoded: EncodedDocuments, t: number, ids: Uint32Array, at: number): number {
  const [start, end] = [encoded.offsets[t]!, encoded.offsets[t + 1]!];
  if (end - start > 64) ids.set(encoded.ids.subarray(start, end), at);
  else for (let i = start; i < end; i++) ids[at + i - start] = encoded.ids[i]!;
  return at + end - start;
}

/** Documents that all fit, and what it took to make them fit. */
export interface FittedDocuments extends TokenDocuments {
  /** the number each of them had before some were dropped */
  numbers: Uint32Array;
  /** what to print when some were too long */
  notices: string[];
}

/**
 * Makes every document fit a sequence: `blockSize` inputs and the targets that follow them, so at most blockSize + 1
 * ids, special tokens included. A document with more is long: it loses its end, or is dropped. One without a target that
 * counts is dropped, too.
 * @param skipLong drop instead of truncating
 * @param mode names the documents in messages
 * @throws {MicrogptError} when none is left
 */
export function fitDocuments(
  documents: TokenDocuments,
  blockSize: number,
  skipLong: boolean,
  mode: "text" | "chat",
): FittedDocuments {
  const { offsets } = documents;
  const count = offsets.length - 1;
  const limit = blockSize + 1;
  const kept = new Uint32Array(count);
  let long = 0;
  let total = 0;
  let silent = 0;
  for (let d = 0; d < count; d++) {
    const length = offsets[d + 1]! - offsets[d]!;
    if (length > limit) long++;
    kept[d] = length <= limit ? length : skipLong ? 0 : limit;
    if (kept[d]! > 0 && !hasTarget(documents, offsets[d]!, kept[d]!)) {
      kept[d] = 0;
      silent++;
    }
    total += kept[d]!;
  }
  if (long + silent === 0) return { ...documents, numbers: Uint32Array.from(kept.keys()), notices: [] };
  const unit = mode === "chat" ? "conversations" : "documents";
  if (total === 0 && silent > 0) {
    throw new MicrogptError(
      `none of the ${count} ${unit} has an answer within block_size (${blockSize}), nothing is left to train on`,
      { hint: "raise `blockSize`, or train with `loss` all" },
    );
  }
  if (total === 0) {
    throw new MicrogptError(
      `\`skipLong\`: all ${count} ${unit} exceed block_size (${blockSize}), nothing is left to train on`,
      { hint: "raise `blockSize`, or train without `skipLong`" },
    );
  }
  const notices = long === 0 ? [] : [
    skipLong
      ? `\`skipLong\`: dropped ${long} ${unit} exceeding block_size (${blockSize})`
      : `warning: ${long} / ${count} docs are longer than block_size (${blockSize}) and will be truncated`,
  ];
  if (silent > 0) {
    notices.push(`${silent} ${unit} are left out: they have no answer within block_size (${blockSize})`);
  }
  const all = offsets[count]! - offsets[0]!;
  if (total < all / 2) notices.push(lossNotice(total, all));
  return { ...pickPrefixes(documents, kept, total), notices };
}

/** Whether any of the first `length` ids of a document counts as a target; the first id is none. */
function hasTarget({ counted }: TokenDocuments, start: number, length: number): boolean {
  if (!counted) return true;
  const first = counted.indexOf(1, start + 1);
  return first >= 0 && first < start + length;
}

/** Most of the data is not trained on, which is hardly what was meant. */
function lossNotice(left: number, all: number): string {
  // rounded down, so that it never says 100 %
  const percent = Math.floor((1 - left / all) * 1000) / 10;
  return `warning: ${percent} % of the data is not trained on, ${left} of ${all} tokens are left: ` +
    "raise `blockSize`, or split long documents";
}

/** The first kept[d] ids of each document, without the documents that keep none. */
function pickPrefixes(
  documents: TokenDocuments,
  kept: Uint32Array,
  total: number,
): TokenDocuments & { numbers: Uint32Array } {
  const ids = new Uint32Array(total);
  const counted = documents.counted && new Uint8Array(total);
  const offsets = new Uint32Array(kept.length + 1);
  const numbers = new Uint32Array(kept.length);
  let at = 0;
  let count = 0;
  kept.forEach((length, d) => {
    if (length === 0) return;
    const start = documents.offsets[d]!;
    ids.set(documents.ids.subarray(start, start + length), at);
    counted?.set(documents.counted!.subarray(start, start + length), at);
    at += length;
    numbers[count] = d;
    offsets[++count] = at;
  });
  return {
    ids,
    offsets: offsets.slice(0, count + 1),
    numbers: numbers.slice(0, count),
    ...(counted ? { counted } : {}),
  };
}

function specialId(tokenizer: Tokenizer, token: string): number {
  const id = tokenizer.id(token);
  if (id === undefined) {
    throw new MicrogptError(`the tokenizer has no ${token} token`, {
      hint: token === SPECIAL_TOKENS.bos
        ? "it was not made for this program; train a new model"
        : "the model was trained on plain text; train a new one with `chat`",
    });
  }
  return id;
}
