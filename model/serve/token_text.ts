/** Tokens and their log-probabilities as OpenAI's two routes write them. */
import type { Tokenizer } from "../../data/tokenizer.ts";
import type { Scored, TokenScore } from "./logprobs.ts";

/** What OpenAI writes for a probability of 0, which JSON has no logarithm of. */
const LEAST_LOGPROB = -9999;

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Log-probabilities as `/v1/completions` has them. */
export interface CompletionLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[] | null;
  text_offset: number[];
  /** where ids were asked for, the same as chat completions have it, with ids */
  content?: unknown[];
}

/** Names and bytes of tokens. */
export class TokenText {
  constructor(readonly tokenizer: Tokenizer) {}

  /** A token's bytes, none of a special one or of an id without a token. */
  bytes(id: number): Uint8Array {
    return id < this.tokenizer.vocabSize ? this.tokenizer.tokenBytes(id) : new Uint8Array(0);
  }

  /** Its text; `bytes:\xe2\x82` where it is no whole characters; the name of a special one. */
  name(id: number): string {
    const bytes = this.bytes(id);
    if (bytes.length === 0) return this.tokenizer.special.find((token) => token.id === id)?.content ?? "";
    try {
      return strict.decode(bytes);
    } catch {
      return "bytes:" + Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }

  /** An entry of `logprobs.content` of a chat completion. */
  chatEntry({ top, ...token }: TokenScore) {
    return { ...this.#entry(token), top_logprobs: top.map((scored) => this.#entry(scored)) };
  }

  /** The same with ids. A text's first token has no probability and no alternatives. */
  entryWithId(token: TokenScore | { id: number }) {
    const entry = (scored: Scored) => ({ id: scored.id, ...this.#entry(scored) });
    if ("logprob" in token) return { ...entry(token), top_logprobs: token.top.map(entry) };
    return { ...entry({ id: token.id, logprob: 0 }), logprob: null, top_logprobs: [] };
  }

  #entry({ id, logprob }: Scored) {
    return { token: this.name(id), logprob: finite(logprob), bytes: [...this.bytes(id)] };
  }

  /**
   * The `logprobs` of a completion's tokens.
   * @param offset where their text begins, in characters
   * @param alternatives how many were asked for
   */
  completion(
    tokens: readonly (TokenScore | { id: number })[],
    offset: number,
    alternatives: number,
  ): CompletionLogprobs {
    const made: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const token of tokens) {
      const name = this.name(token.id);
      made.tokens.push(name);
      made.text_offset.push(offset);
      offset += [...this.tokenizer.decode(this.bytes(token.id).length > 0 ? [token.id] : [])].length;
      const scored = "logprob" in token;
      made.token_logprobs.push(scored ? finite(token.logprob) : null);
      made.top_logprobs!.push(scored ? this.#top(token) : null);
    }
    if (alternatives === 0) made.top_logprobs = null;
    return made;
  }

  /** The most probable tokens by name, and the token itself. */
  #top(token: TokenScore): Record<string, number> {
    // the more probable of two of one name stays
    const all = [...token.top, token].map((
      { id, logprob },
    ): [string, number] => [this.name(id), finite(logprob)]);
    return Object.fromEntries(all.reverse());
  }
}

function finite(logprob: number): number {
  return Math.max(LEAST_LOGPROB, logprob);
}
