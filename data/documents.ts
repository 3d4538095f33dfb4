/** Token documents: what text and conversations become, and how long they may be. */

import { MicrogptError } from "../device/errors.ts";
import type { Message } from "./chat.ts";
import type { Texts } from "./packed_texts.ts";
import { type EncodedDocuments, SPECIAL_TOKENS, type Tokenizer } from "./tokenizer.ts";

/** Documents end to end. Document d is ids[offsets[d] … offsets[d+1]). */
export interface TokenDocuments {
  ids: Uint32Array;
  /** [documents + 1] */
  offsets: Uint32Array;
  /** [ids] of conversations, what is known of each id: a sum of {@link MARKS} */
  marks?: Uint8Array;
}

/** How documents become tokens, which depends on whose model it is. */
export interface DocumentEncoder {
  /** tells it from others that the same tokenizer may have */
  readonly key: string;
  /** the token that ends a document, where one does; as a target it counts as a byte of text */
  readonly end: number | undefined;
  /** Texts as documents. */
  texts(documents: Texts): Promise<TokenDocuments>;
  /**
   * Conversations as documents.
   * @param answersOnly what the assistant says will count as a target, and the end of its turns, and nothing else: it
   * must be marked
   */
  conversations(conversations: Message[][], answersOnly: boolean): Promise<TokenDocuments>;
}

/** This program's own way: documents stand between two `<bos>`. */
export function ownEncoder(tokenizer: Tokenizer): DocumentEncoder {
  return {
    key: "",
    end: tokenizer.id(SPECIAL_TOKENS.bos),
    texts: async (documents) => aroundTexts(tokenizer, await tokenizer.encodeInBackground(documents)),
    conversations: async (conversations) => {
      const texts = conversations.flat().map(({ content }) => content);
      return encodeChat(conversations, tokenizer, await tokenizer.encodeInBackground(texts));
    },
  };
}

/** What is known of the ids of a conversation. */
export const MARKS = {
  /** it is part of what the assistant says, or the end of its turn: a target that counts where only answers do */
  answer: 1,
  /** a message begins with it */
  message: 2,
  /** a message of the user begins with it */
  question: 4,
} as const;

/**
 * Text documents as tokens: `[<bos>, …tokens…, <bos>]`.
 * @param documents any text; special-token text in it stays text
 * @throws {MicrogptError} when the tokenizer has no `<bos>`
 */
export function encodeText(documents: readonly string[], tokenizer: Tokenizer): TokenDocuments {
  return aroundTexts(tokenizer, tokenizer.encode(documents));
}

function aroundTexts(tokenizer: Tokenizer, encoded: EncodedDocuments): TokenDocuments {
  const bos = specialId(tokenizer, SPECIAL_TOKENS.bos);
  const documents = encoded.offsets.length - 1;
  const ids = new Uint32Array(encoded.ids.length + 2 * documents);
  const offsets = new Uint32Array(documents + 1);
  let at = 0;
  for (let d = 0; d < documents; d++) {
    ids[at++] = bos;
    at = copyIds(encoded, d, ids, at);
    ids[at++] = bos;
    offsets[d + 1] = at;
  }
  return { ids, offsets };
}

/**
 * Conversations as tokens: `[<bos>, (<user>|<assistant>), …tokens…, <end_turn>, …, <bos>]`.
 * @param encoded their messages in order, where they are encoded already
 * @throws {MicrogptError} when the tokenizer has no chat tokens
 */
export function encodeChat(
  conversations: Message[][],
  tokenizer: Tokenizer,
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
  const marks = new Uint8Array(ids.length);
  const offsets = new Uint32Array(conversations.length + 1);
  let at = 0;
  let turn = 0;
  conversations.forEach((messages, d) => {
    ids[at++] = bos;
    for (const message of messages) {
      marks[at] = MARKS.message + (message.role === "user" ? MARKS.question : 0);
      ids[at++] = role[message.role];
      const start = at;
      at = copyIds(encoded, turn, ids, at);
      ids[at++] = endTurn;
      if (message.role === "assistant") marks.fill(MARKS.answer, start, at);
      turn++;
    }
    ids[at++] = bos;
    offsets[d + 1] = at;
  });
  return { ids, offsets, marks };
}

/** Copies the ids of text `t` to `ids` from `at` on. @returns where they end */
function copyIds(encoded: EncodedDocuments, t: number, ids: Uint32Array, at: number): number {
  const [start, end] = [encoded.offsets[t]!, encoded.offsets[t + 1]!];
  if (end - start > 64) ids.set(encoded.ids.subarray(start, end), at);
  else for (let i = start; i < end; i++) ids[at + i - start] = encoded.ids[i]!;
  return at + end - start;
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
