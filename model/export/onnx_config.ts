/** The JSON files beside `model.onnx`: what transformers.js needs to know to load it and generate as we do. */
import { SPECIAL_TOKENS } from "../../data/tokenizer.ts";
import type { GptConfig } from "../gpt.ts";
import { MicrogptError } from "../../device/errors.ts";
import { parseObject } from "../files/directory.ts";
import { type SpecialIds, specialIds } from "../generate/prompt.ts";
import { SAMPLING } from "../generate/sampling.ts";

/** What `model.onnx` says about who made it. */
export const PRODUCER = "microgpt";

/**
 * Finds the special tokens of a tokenizer.
 * @throws {MicrogptError} when `<bos>` is missing or an id is outside the model's vocabulary
 */
export function specialTokens(tokenizerJson: string, vocabSize: number): SpecialIds {
  const { added_tokens: added = [] } = parseObject(tokenizerJson, "tokenizer.json") as {
    added_tokens?: { id: number; content: string }[];
  };
  for (const token of added) {
    if (!(token.id < vocabSize)) {
      throw new MicrogptError(
        `tokenizer.json: ${token.content} has id ${token.id}, the model's vocabulary ends at ${vocabSize}`,
        { hint: "the tokenizer belongs to another model; copy the whole directory" },
      );
    }
  }
  return specialIds({ id: (content) => added.find((token) => token.content === content)?.id });
}

/** Where a text or an answer ends. */
const endOfText = (tokens: SpecialIds) => tokens.chat?.endTurn ?? tokens.bos;

/**
 * `config.json`. transformers.js picks a decoder with a key-value cache by `model_type`; GPT-2 is the one with learned
 * positions and these field names. Only the graph says what is computed, and it is not GPT-2's.
 */
export function modelConfig(config: GptConfig, tokens: SpecialIds): object {
  return {
    model_type: "gpt2",
    architectures: ["GPT2LMHeadModel"],
    vocab_size: config.vocab_size,
    n_embd: config.n_embd,
    n_head: config.n_head,
    n_layer: config.n_layer,
    n_inner: 4 * config.n_embd,
    n_positions: config.block_size,
    n_ctx: config.block_size,
    max_position_embeddings: config.block_size,
    activation_function: "relu",
    layer_norm_epsilon: 1e-5,
    tie_word_embeddings: false,
    bos_token_id: tokens.bos,
    eos_token_id: endOfText(tokens),
    // There is only model.onnx; a browser would look for model_quantized.onnx.
    "transformers.js_config": { dtype: "fp32" },
  };
}

/** `generation_config.json`: samples as `microgpt generate` and `chat` do, with the same tokens kept out. */
export function generationConfig(config: GptConfig, tokens: SpecialIds): object {
  const { bos, chat } = tokens;
  return {
    bos_token_id: bos,
    eos_token_id: endOfText(tokens),
    pad_token_id: bos,
    max_length: config.block_size + 1, // the last position still predicts a token
    do_sample: true,
    temperature: SAMPLING.temperature.default,
    top_k: SAMPLING.topK.default,
    ...(chat ? { suppress_tokens: [bos, chat.user, chat.assistant], min_new_tokens: 1 } : {}),
  };
}

/** Turns as they were trained on; a generation prompt opens the assistant's. */
const CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}" +
  "{% if message['role'] not in ['user', 'assistant'] %}" +
  "{{ raise_exception('roles are user and assistant') }}{% endif %}" +
  "{{ '<' + message['role'] + '>' + message['content'] + '" + SPECIAL_TOKENS.endTurn + "' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '" + SPECIAL_TOKENS.assistant + "' }}{% endif %}";

/** `tokenizer_config.json`: which tokens begin and end a text, and how a conversation is written. */
export function tokenizerConfig(config: GptConfig, tokens: SpecialIds): object {
  const { bos, ...chatTokens } = SPECIAL_TOKENS;
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: bos,
    eos_token: tokens.chat ? SPECIAL_TOKENS.endTurn : bos,
    pad_token: bos,
    padding_side: "left",
    model_max_length: config.block_size,
    model_input_names: ["input_ids", "attention_mask"],
    clean_up_tokenization_spaces: false,
    ...(tokens.chat
      ? { additional_special_tokens: Object.values(chatTokens), chat_template: CHAT_TEMPLATE }
      : {}),
  };
}

/** The tokenizer with a post-processor that puts `<bos>` in front: every document starts with it. */
export function withLeadingBos(tokenizerJson: string, bos: number): object {
  const { bos: token } = SPECIAL_TOKENS;
  const template = (sequences: string[]) => [
    { SpecialToken: { id: token, type_id: 0 } },
    ...sequences.map((id) => ({ Sequence: { id, type_id: 0 } })),
  ];
  return {
    ...parseObject(tokenizerJson, "tokenizer.json"),
    post_processor: {
      type: "TemplateProcessing",
      single: template(["A"]),
      pair: template(["A", "B"]),
      special_tokens: { [token]: { id: token, ids: [bos], tokens: [token] } },
    },
  };
}

/** The tokenizer as it was before `withLeadingBos`, as text. */
export function withoutLeadingBos(tokenizerJson: string): string {
  return JSON.stringify({ ...parseObject(tokenizerJson, "tokenizer.json"), post_processor: null });
}
