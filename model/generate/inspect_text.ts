/** What a model thinks of a text, and where it puts its tokens: for pictures that teach. */
import type { PromptOptions } from "./prompt.ts";

/** A token and how probable it is. */
export interface ProbableToken {
  /** its id */
  id: number;
  /** its text; a special token's name */
  text: string;
  /** 0 … 1 */
  probability: number;
}

/** A token of the text. */
export interface InspectedToken extends ProbableToken {
  /** what the model found most probable here, most probable first */
  expected: ProbableToken[];
}

/** A text as a model sees it. */
export interface TextInspection {
  /** T tokens; the first begins the text, and its probability is 1: nothing was before it */
  tokens: InspectedToken[];
  /** the first token of the text, or of the answer where one was given: those before it are what the model is given */
  start: number;
  /** what may come next */
  next: ProbableToken[];
  /** [layers][heads][T · T]: how much token t looks at token s, 0 for s > t; each row adds up to 1 */
  attention: Float32Array[][];
}

/**
 * Looks at a text with the eyes of a model that `train` wrote.
 * @param path its directory
 * @param prompt the document so far; of a chat model what the user says, or a conversation
 * @param answer what came after it
 * @throws {MicrogptError} when the model does not load, or the text has more than 128 tokens, or more than the context
 */
export async function inspectText(
  path: string,
  prompt: string | PromptOptions,
  answer = "",
): Promise<TextInspection> {
  const { lookAtText } = await import("./text_inspection.ts");
  return await lookAtText(path, typeof prompt === "string" ? { prompt } : prompt, answer);
}

/** Where a model puts its tokens: the most frequent of them, which come first in the vocabulary. */
export interface TokenMap {
  /** texts of the tokens */
  texts: string[];
  /** [tokens, 2] places in the plane in which they differ most */
  places: Float32Array;
  /** [tokens][5] the others that are most like each, by the cosine of all their numbers, nearest first */
  nearest: number[][];
  /** share of the differences that the plane shows, 0 … 1 */
  shown: number;
}

/**
 * Lays the embeddings of tokens in a plane: their two main components.
 * @param path directory of a model that `train` wrote
 * @param most how many tokens: single bytes that text uses, then those that training made, the most frequent first
 */
export async function mapTokens(path: string, most = 200): Promise<TokenMap> {
  const { placesOfTokens } = await import("./text_inspection.ts");
  return await placesOfTokens(path, most);
}
