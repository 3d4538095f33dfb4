/** Chat tokens for a tokenizer that was made for plain text. */
import { MicrogptError } from "../device/errors.ts";
import { SPECIAL_TOKENS } from "./tokenizer.ts";
import { parseTokenizerJson } from "./tokenizer_json.ts";

/** The tokens of a chat besides `<bos>`, which a tokenizer for text has in one form or another. */
export const CHAT_TOKENS: readonly string[] = [
  SPECIAL_TOKENS.user,
  SPECIAL_TOKENS.assistant,
  SPECIAL_TOKENS.endTurn,
];

/**
 * Adds those of the chat tokens that a tokenizer lacks, with the next free ids.
 * @param json the text of a `tokenizer.json`
 * @returns the new text, and the names of the tokens added
 * @throws {MicrogptError} when one of them is an ordinary token there, which text becomes
 */
export function withChatTokens(json: string): { json: string; added: string[] } {
  const { tokens, ids } = parseTokenizerJson(json);
  for (const name of CHAT_TOKENS) {
    const id = ids.get(name);
    if (id === undefined || tokens[id]!.special) continue;
    throw new MicrogptError(`the tokenizer has an ordinary token ${name}, so it cannot mark turns`, {
      hint: "start from another model, or train on plain text without `chat`",
    });
  }
  const added = CHAT_TOKENS.filter((name) => !ids.has(name));
  const root = JSON.parse(json) as { added_tokens?: object[] };
  const entries = added.map((content, i) => ({
    id: tokens.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  return { json: JSON.stringify({ ...root, added_tokens: [...root.added_tokens ?? [], ...entries] }), added };
}
