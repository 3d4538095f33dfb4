/** A tokenizer.json that puts a token in front of each text, for programs that take the file at its word. */
import type { TokenizerFile } from "./tokenizer_json.ts";

/**
 * The text of a tokenizer whose post-processor puts a token in front: without one, transformers' `tokenizer(text)` gives
 * none. A file that does so already stays as it is.
 * @param id of the token; undefined: none
 */
export function withLeadingToken(file: TokenizerFile, id: number | undefined): string {
  const token = id === undefined ? undefined : file.tokens[id]?.name;
  if (token === undefined || file.first === token) return file.json;
  const template = (sequences: string[]) => [
    { SpecialToken: { id: token, type_id: 0 } },
    ...sequences.map((sequence) => ({ Sequence: { id: sequence, type_id: 0 } })),
  ];
  const post_processor = {
    type: "TemplateProcessing",
    single: template(["A"]),
    pair: template(["A", "B"]),
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  };
  return JSON.stringify({ ...JSON.parse(file.json), post_processor }, null, 2) + "\n";
}
