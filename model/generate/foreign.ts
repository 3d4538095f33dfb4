/** Models of others: how they begin and end texts, how a conversation is written for them, and what they must not draw. */
import type { ModelConfig } from "../config.ts";
import type { TextRules } from "../files/description.ts";
import { MicrogptError } from "../../device/errors.ts";
import { MAX_RUNS } from "../../device/sampling.ts";
import { withTakenSystem } from "../../data/chat.ts";
import type { DocumentEncoder, TokenDocuments } from "../../data/documents.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import type { ChatTemplate } from "./chat_template.ts";
import { checkFits, noChatTokens, type Prompt, type PromptOptions } from "./prompt.ts";

/** What is known of a model of others beside its network. */
export interface ForeignRules {
  /** begins a text */
  bos?: number;
  /** any of them ends a text or an answer */
  eos: readonly number[];
  /** texts begin with `bos` */
  addBos: boolean;
  /** writes conversations; absent: a model of plain text */
  template?: ChatTemplate;
  /** ids that are never drawn */
  suppressed: number[];
}

/**
 * The rules of a model.
 * @param tokenizer the model's own
 * @throws {MicrogptError} when its chat template is none
 */
export async function foreignRules(
  model: TextRules & { config: ModelConfig },
  tokenizer: Tokenizer,
): Promise<ForeignRules> {
  const { ends, addBos, chatTemplate, config } = model;
  const special = tokenizer.special.map(({ id }) => id).filter((id) => !ends.eos.includes(id));
  return {
    ...(ends.bos === undefined ? {} : { bos: ends.bos }),
    eos: ends.eos,
    addBos,
    ...(chatTemplate === undefined ? {} : { template: await readTemplate(chatTemplate, tokenizer, ends) }),
    suppressed: suppressedIds(special, tokenizer.vocabSize, config.vocab_size),
  };
}

async function readTemplate(...[text, tokenizer, ends]: Parameters<typeof ChatTemplate.read>) {
  const { ChatTemplate } = await import("./chat_template.ts");
  return await ChatTemplate.read(text, tokenizer, ends);
}

/**
 * Special tokens, and rows of the head that have no token. Where these are more runs than a device takes, the shortest
 * of the special ones are left out: they have no text, so that one that is drawn does no harm.
 */
function suppressedIds(special: readonly number[], tokens: number, vocabulary: number): number[] {
  const beyond = Array.from({ length: vocabulary - tokens }, (_, i) => tokens + i);
  const runs: number[][] = [];
  for (const id of special.toSorted((a, b) => a - b)) {
    if (runs.at(-1)?.at(-1) === id - 1) runs.at(-1)!.push(id);
    else runs.push([id]);
  }
  return [beyond, ...runs.sort((a, b) => b.length - a.length)].slice(0, MAX_RUNS).flat();
}

/**
 * Documents of a model of others: texts between its tokens for their beginning and end, conversations by its template.
 * @throws {MicrogptError} from `texts` when the model has no token for either, from `conversations` when it has no
 * template, or that refuses one
 */
export function foreignEncoder(
  tokenizer: Tokenizer,
  { bos, eos, template }: ForeignRules,
  rules: TextRules,
): DocumentEncoder {
  const [begin, end] = [bos ?? eos[0], eos[0] ?? bos];
  return {
    // 2: conversations bring marks
    key: JSON.stringify([2, rules]),
    end,
    async texts(documents) {
      if (begin === undefined || end === undefined) {
        throw new MicrogptError("the model has no token that begins or ends a text", {
          hint: "start from another model",
        });
      }
      const { ids, offsets } = await tokenizer.encodeInBackground(documents);
      return joined(
        Array.from(
          { length: offsets.length - 1 },
          (_, d) => [begin, ...ids.subarray(offsets[d], offsets[d + 1]), end],
        ),
      );
    },
    // deno-lint-ignore require-await
    async conversations(conversations, answersOnly) {
      if (!template) throw noChatTokens();
      const encoded = conversations.map((messages) => template.encodeWhole(messages, answersOnly));
      const marks = Uint8Array.from(encoded.flatMap(({ marks }) => marks));
      return { ...joined(encoded.map(({ ids }) => ids)), marks };
    },
  };
}

/** Lists of ids end to end. */
function joined(documents: readonly number[][]): TokenDocuments {
  const offsets = new Uint32Array(documents.length + 1);
  documents.forEach(({ length }, d) => offsets[d + 1] = offsets[d]! + length);
  const ids = new Uint32Array(offsets.at(-1)!);
  documents.forEach((document, d) => ids.set(document, offsets[d]));
  return { ids, offsets };
}

/**
 * Makes the ids of a prompt, see `buildPrompt`: with a template a prompt is what the user says.
 * @throws {MicrogptError} when the prompt fills the context, the template refuses it, or nothing begins a text
 */
export function foreignPrompt(
  tokenizer: Tokenizer,
  { bos, eos, addBos, template, suppressed }: ForeignRules,
  context: number,
  { prompt = "", messages }: PromptOptions,
): Prompt {
  if (messages && !template) throw noChatTokens();
  const said = messages ??
    (template && prompt !== "" ? [{ role: "user" as const, content: prompt }] : undefined);
  const ids = said
    ? template!.encode(withTakenSystem(said, template!.keepsSystem))
    : [...tokenizer.encodeOne(prompt)];
  if (!said && bos !== undefined && (addBos || ids.length === 0)) ids.unshift(bos);
  // models without a token for beginnings saw the end of one text before the next
  if (ids.length === 0 && eos[0] !== undefined) ids.push(eos[0]);
  if (ids.length === 0) {
    throw new MicrogptError("the model has no token that begins a text", { hint: "give a prompt" });
  }
  checkFits(ids, context, messages !== undefined);
  return { ids, stopTokens: eos, suppressed, minTokens: 0, conversation: false };
}
