/**
 * Conversations as a model of others wants them: its chat template (Jinja) is rendered, and the text becomes ids. Special
 * tokens come of the template alone. What people typed stays text: special-token text in it is hidden while the template
 * runs and put back before the pieces between special tokens are encoded, so the template sees the rest as it is, and
 * text without special tokens gets the ids that transformers gives it.
 */
import { addedPattern, AddedTokens } from "../../data/added_tokens.ts";
import { MARKS } from "../../data/documents.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import { type Render, renderer } from "./jinja.ts";
import { commonLength } from "./script.ts";
import { type Signs, TemplateTurns } from "./template_turns.ts";

/** A turn; a system message says how to answer. */
export interface TemplateMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

/** A model's way to write conversations. */
export class ChatTemplate {
  readonly #render: Render;
  readonly #source: string;
  readonly #tokenizer: Tokenizer;
  readonly #names: { bos_token?: string; eos_token?: string };
  readonly #hidden: RegExp | undefined;
  readonly #special: AddedTokens;
  /** end a turn */
  readonly #ends: readonly number[];
  readonly #turns: TemplateTurns;
  #keepsSystem: boolean | "first" | undefined;

  private constructor(
    source: string,
    render: Render,
    tokenizer: Tokenizer,
    names: { bos_token?: string; eos_token?: string },
    ends: readonly number[],
  ) {
    const special = tokenizer.special;
    this.#source = source;
    this.#render = render;
    this.#tokenizer = tokenizer;
    this.#names = names;
    const plain = special.map((token) => ({ ...token, lstrip: false, rstrip: false, singleWord: false }));
    this.#hidden = special.length === 0 ? undefined : addedPattern(plain);
    this.#special = new AddedTokens(special);
    this.#ends = ends;
    this.#turns = new TemplateTurns(
      (messages) => this.#write(messages),
      special.map(({ content }) => content),
    );
  }

  /**
   * Reads a template.
   * @param source Jinja, from anywhere: it can neither run for long nor reach anything but the conversation
   * @param ends the tokens that it may ask for by name
   * @throws {MicrogptError} when it is no template
   */
  static async read(
    source: string,
    tokenizer: Tokenizer,
    ends: { bos?: number; eos: readonly number[] },
  ): Promise<ChatTemplate> {
    const name = (id: number | undefined) => tokenizer.special.find((token) => token.id === id)?.content;
    const [bos, eos] = [name(ends.bos), name(ends.eos[0])];
    const names = {
      ...(bos === undefined ? {} : { bos_token: bos }),
      ...(eos === undefined ? {} : { eos_token: eos }),
    };
    return new ChatTemplate(source, await renderer(source), tokenizer, names, ends.eos);
  }

  /**
   * The ids of a conversation. When the last message is the assistant's they end with its content, to be continued;
   * else with what opens the assistant's turn.
   * @throws {MicrogptError} when the template refuses the conversation, fails, or takes too long
   */
  encode(messages: readonly TemplateMessage[]): number[] {
    const continued = messages.at(-1)?.role === "assistant";
    const { hide, restore, signs: { end } } = this.#hiding(messages);
    const last = messages.length - 1;
    let text = this.#render({
      messages: messages.map(({ role, content }, i) => {
        return { role, content: hide(content) + (continued && i === last ? end : "") };
      }),
      add_generation_prompt: !continued,
      ...this.#names,
    });
    if (continued) text = upTo(text, end);
    const ids: number[] = [];
    for (const piece of this.#special.split(text)) {
      if (typeof piece === "number") ids.push(piece);
      // no `push(...)`: a long message has more ids than a call may have arguments
      else for (const id of this.#tokenizer.encodeOne(restore(piece))) ids.push(id);
    }
    return ids;
  }

  /** Where in a conversation the template takes system messages: anywhere, in front of all others, or nowhere. */
  get keepsSystem(): boolean | "first" {
    return this.#keepsSystem ??=
      this.#shows(["system", "user", "assistant", "system", "user", "assistant"]) ||
      (this.#shows(["system", "user", "assistant"]) ? "first" : false);
  }

  /** Whether a conversation of these roles is rendered with all that is said, in order. */
  #shows(roles: TemplateMessage["role"][]): boolean {
    const messages = roles.map((role, i) => ({ role, content: `said by ${i}.` }));
    try {
      const text = this.#write(messages);
      return messages.reduce((at, { content }) => at < 0 ? at : text.indexOf(content, at), 0) >= 0;
    } catch (error) {
      if (error instanceof MicrogptError) return false; // it refuses it
      throw error;
    }
  }

  /** Writes a whole conversation. */
  #write(messages: readonly TemplateMessage[]): string {
    return this.#render({ messages, add_generation_prompt: false, ...this.#names });
  }

  /**
   * A whole conversation to learn from.
   * @param answersOnly what the assistant says must be found
   * @returns its ids, and what is known of each, a sum of {@link MARKS}: what the assistant says and the end of its turns,
   * and where each message but the first begins, as far as the template writes messages as they are
   * @throws {MicrogptError} as `encode`, and when `answersOnly` and the template changes what the assistant says
   */
  encodeWhole(
    messages: readonly TemplateMessage[],
    answersOnly: boolean,
  ): { ids: number[]; marks: number[] } {
    const { hide, restore, signs } = this.#hiding(messages);
    const hidden = messages.map(({ role, content }) => ({ role, content: hide(content) }));
    const { text, found } = this.#turns.signed(hidden, signs, answersOnly);
    const any = new RegExp(`([${Object.values(signs).join("")}])`, "u");
    const ids: number[] = [];
    const marks: number[] = [];
    let [message, speaking, opening] = [-1, false, 0];
    /** where what may belong to the end of the assistant's turn begins: white space, then a token that ends it */
    let ending: number | undefined;
    const add = (id: number, answer: boolean) => {
      ids.push(id);
      marks.push((answer ? MARKS.answer : 0) + opening);
      opening = 0;
    };
    for (const piece of this.#special.split(text)) {
      if (typeof piece === "number") {
        const ends = ending !== undefined && this.#ends.includes(piece);
        for (let i = ending!; ends && i < marks.length; i++) marks[i]! |= MARKS.answer;
        add(piece, ends || speaking);
        ending = undefined;
        continue;
      }
      const parts = restore(piece).split(any);
      const { ids: whole, until } = this.#encodeParts(parts.filter((_, i) => i % 2 === 0));
      let done = 0;
      parts.forEach((part, i) => {
        if (i % 2 === 0) {
          for (; done < until[i / 2]!; done++) add(whole[done]!, speaking);
          if (!speaking && /\S/u.test(part)) ending = undefined;
        } else if (part === signs.begin) {
          speaking = found[++message]!.role === "assistant";
          ending = undefined;
        } else if (part === signs.end) {
          ending = speaking ? ids.length : undefined;
          speaking = false;
        } else opening = MARKS.message + (part === signs.question ? MARKS.question : 0);
      });
    }
    return { ids, marks };
  }

  /** Encodes a text that has parts. @returns its ids, and how many of them lie before the end of each part */
  #encodeParts(parts: readonly string[]): { ids: Uint32Array; until: number[] } {
    const text = parts.join("");
    const ids = this.#tokenizer.encodeOne(text);
    if (parts.length === 1) return { ids, until: [ids.length] };
    const until: number[] = [];
    const bytes = (part: string) => new TextEncoder().encode(part).length;
    if (ids.reduce((sum, id) => sum + this.#tokenizer.tokenBytes(id).length, 0) === bytes(text)) {
      let [at, count, end] = [0, 0, 0];
      for (const part of parts) {
        end += bytes(part);
        while (count < ids.length && at + this.#tokenizer.tokenBytes(ids[count]!).length <= end) {
          at += this.#tokenizer.tokenBytes(ids[count++]!).length;
        }
        until.push(count);
      }
    } else {
      // a tokenizer that changes text
      let before = "";
      for (const part of parts) {
        before += part;
        until.push(Math.max(until.at(-1) ?? 0, commonLength(this.#tokenizer.encodeOne(before), ids)));
      }
      until[until.length - 1] = ids.length;
    }
    return { ids, until };
  }

  /** Hides special-token text, and has signs that neither the template nor a message has. */
  #hiding(messages: readonly TemplateMessage[]) {
    const taken = [this.#source, ...messages.map(({ content }) => content)];
    const unused = unusedCharacters(taken);
    const [open, close] = [unused(), unused()];
    const signs: Signs = { begin: unused(), end: unused(), question: unused(), other: unused() };
    const hidden: string[] = [];
    const hide = (text: string) => {
      if (!this.#hidden) return text;
      return text.replace(this.#hidden, (found) => open + (hidden.push(found) - 1) + close);
    };
    const restore = (part: string) =>
      part.replace(new RegExp(`${open}(\\d+)${close}`, "gu"), (_, i) => hidden[i]!);
    return { hide, restore, signs };
  }
}

/** The text before a sign. */
function upTo(text: string, sign: string): string {
  const at = text.lastIndexOf(sign);
  if (at >= 0) return text.slice(0, at);
  throw new MicrogptError("the chat template leaves out the assistant's message that is to be continued");
}

/** Private-use characters that none of the texts has: each call returns another. */
function unusedCharacters(texts: readonly string[]): () => string {
  let code = 0xe000;
  return () => {
    for (; code <= 0xf8ff; code++) {
      const char = String.fromCharCode(code);
      if (texts.some((text) => text.includes(char))) continue;
      code++;
      return char;
    }
    throw new MicrogptError("the messages use all of Unicode's private characters");
  };
}
