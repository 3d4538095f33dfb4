/**
 * Tokens that are no part of BPE but stand in a text as they are, such as Qwen's `<tool_call>`: a text is cut at them
 * before anything else. Special tokens are none of them: no text becomes one.
 */
import type { EncodedDocuments } from "./tokenizer.ts";

/** Such a token. */
export interface AddedToken {
  /** its number */
  id: number;
  /** its text */
  content: string;
  /** white space before it is part of it */
  lstrip: boolean;
  /** white space after it is part of it */
  rstrip: boolean;
  /** only where no letter or digit touches it */
  singleWord: boolean;
}

/** A pattern that finds tokens in a text, of several that begin at one place the longest. */
export function addedPattern(tokens: readonly AddedToken[]): RegExp {
  const longestFirst = tokens.toSorted((a, b) => b.content.length - a.content.length);
  const parts = longestFirst.map(({ content, lstrip, rstrip, singleWord }) => {
    const escaped = content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
    const word = singleWord ? String.raw`(?<![\p{L}\p{N}_])(${escaped})(?![\p{L}\p{N}_])` : `(${escaped})`;
    return (lstrip ? String.raw`\s*` : "") + word + (rstrip ? String.raw`\s*` : "");
  });
  return new RegExp(parts.join("|"), "gu");
}

/** Cuts texts at added tokens. */
export class AddedTokens {
  readonly #pattern: RegExp | undefined;
  readonly #ids: Map<string, number>;

  constructor(tokens: readonly AddedToken[]) {
    this.#pattern = tokens.length === 0 ? undefined : addedPattern(tokens);
    this.#ids = new Map(tokens.map(({ content, id }) => [content, id]));
  }

  /** The pieces of a text: text between the tokens, and their ids. */
  split(text: string): (string | number)[] {
    if (!this.#pattern) return [text];
    const pieces: (string | number)[] = [];
    let at = 0;
    for (const match of text.matchAll(this.#pattern)) {
      if (match.index > at) pieces.push(text.slice(at, match.index));
      pieces.push(this.#ids.get(match.slice(1).find((part) => part !== undefined)!)!);
      at = match.index + match[0].length;
    }
    if (at < text.length) pieces.push(text.slice(at));
    return pieces;
  }

  /**
   * Encodes documents around the tokens in them.
   * @param encode encodes texts without such tokens
   */
  encode(
    documents: readonly string[],
    encode: (texts: readonly string[]) => EncodedDocuments,
  ): EncodedDocuments {
    if (!this.#pattern) return encode(documents);
    const cut = documents.map((document) => this.split(document));
    const texts = cut.flatMap((pieces) => pieces.filter((piece) => typeof piece === "string"));
    const { ids, offsets: ends } = encode(texts);
    const all = new Uint32Array(ids.length + cut.reduce((sum, { length }) => sum + length, 0) - texts.length);
    const offsets = new Uint32Array(documents.length + 1);
    let [text, at] = [0, 0];
    cut.forEach((pieces, d) => {
      for (const piece of pieces) {
        if (typeof piece === "number") all[at++] = piece;
        else {
          const part = ids.subarray(ends[text], ends[++text]);
          all.set(part, at);
          at += part.length;
        }
      }
      offsets[d + 1] = at;
    });
    return { ids: all, offsets };
  }
}
