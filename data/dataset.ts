/** The data of a run, text or conversations, from a file or from memory. */

import { MicrogptError } from "../device/errors.ts";
import {
  type ChatData,
  cleanChat,
  cleanupNotice,
  countEmptyMessages,
  emptyMessagesNotice,
  loadChat,
  type Message,
} from "./chat.ts";
import type { DocumentEncoder, TokenDocuments } from "./documents.ts";
import { loadText, type TextData, textInMemory } from "./text.ts";
import { syntaxNotice } from "./text_syntax.ts";

/** Documents or conversations, cleaned. */
export type Dataset = TextData | ChatData;

/** The path given to data that a program passed in. */
export const IN_MEMORY = "(memory)";

/** Whether a `dataset_path` names a file, which can be read again; "-" is standard input. */
export function isDataFile(datasetPath: string): boolean {
  return datasetPath !== "-" && datasetPath !== IN_MEMORY;
}

/** Where data can come from: one of them. */
export interface DataSource {
  input?: string;
  documents?: string[];
  conversations?: Message[][];
  chat?: boolean;
}

/**
 * Checks that no option would be ignored.
 * @throws {MicrogptError} naming two options that exclude each other
 */
export function checkDataSource({ input, documents, conversations, chat }: DataSource): void {
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
 * Loads a file.
 * @param path "-" is standard input
 * @throws {MicrogptError} when it cannot be read or holds nothing to train on
 */
export async function loadDataset(path: string, mode: "text" | "chat"): Promise<Dataset> {
  return mode === "chat" ? await loadChat(path) : await loadText(path);
}

/**
 * Takes data from memory.
 * @returns undefined where there is none
 * @throws {MicrogptError} saying where something cannot be trained on
 */
export function datasetInMemory({ documents, conversations }: DataSource): Dataset | undefined {
  if (documents !== undefined) return textInMemory(IN_MEMORY, documents);
  if (conversations !== undefined) return cleanChat(IN_MEMORY, conversations);
  return undefined;
}

/** The texts that a tokenizer is trained on. */
export function textsOf(data: Dataset): string[] {
  return data.mode === "chat" ? data.conversations.flat().map(({ content }) => content) : data.documents;
}

/** Texts or conversations, in order. */
export function documentsOf(data: Dataset): readonly (string | Message[])[] {
  return data.mode === "chat" ? data.conversations : data.documents;
}

/** What one of them is called, in the plural. */
export function unitOf({ mode }: Dataset): string {
  return mode === "chat" ? "conversations" : "documents";
}

/**
 * The documents as tokens.
 * @param answersOnly only what the assistant says counts as a target
 */
export function encodeDataset(data: Dataset, encoder: DocumentEncoder, answersOnly = false): TokenDocuments {
  return data.mode === "chat"
    ? encoder.conversations(data.conversations, answersOnly)
    : encoder.texts(data.documents);
}

/**
 * What a person should know about data before training on it: what was left out, and what looks like a mistake.
 * @throws {MicrogptError} when it can only be a mistake
 */
export function dataNotices(data: Dataset): string[] {
  const notices = data.mode === "chat"
    ? [cleanupNotice(data), emptyMessagesNotice(countEmptyMessages(data.conversations.flat()))]
    : [data.path === IN_MEMORY ? undefined : syntaxNotice(data.path, data.documents)];
  return notices.filter((notice) => notice !== undefined);
}
