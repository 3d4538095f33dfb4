/**
 * Conversations as a model of others wants them: its chat template (Jinja) is rendered, and the text becomes ids. Special
 * tokens come of the template alone. What people typed stays text: special-token text in it is hidden while the template
 * runs and put back before the pieces between special tokens are encoded, so the template sees the rest as it is, and
 * text without special tokens gets the ids that transformers gives it.
 */
import { addedPattern, AddedTokens } from "../../data/added_tokens.ts";
import type { Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import { printable } from "../files/directory.ts";
import { commonLength } from "./script.ts";

/** A turn; a system message says how to answer. */
export interface TemplateMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

/** What a template may take: real ones take a few hundred steps a message. */
const MAX_STEPS = 1_000_000;
const MAX_MILLISECONDS = 2000;
const MAX_TEMPLATE = 1 << 20;
const MAX_TEXT = 1 << 26;
const MAX_LIST = 1 << 16;

type Render = (variables: Record<string, unknown>) => string;

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
    const { hide, restore, marks: [end] } = this.#hiding(messages);
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
      const text = this.#render({ messages, add_generation_prompt: false, ...this.#names });
      return messages.reduce((at, { content }) => at < 0 ? at : text.indexOf(content, at), 0) >= 0;
    } catch (error) {
      if (error instanceof MicrogptError) return false; // it refuses it
      throw error;
    }
  }

  /**
   * A whole conversation to learn from.
   * @param answersOnly find what the assistant says
   * @returns its ids, and for each 1 where the assistant says it or it ends the assistant's turn
   * @throws {MicrogptError} as `encode`, and when `answersOnly` and the template changes what the assistant says
   */
  encodeWhole(
    messages: readonly TemplateMessage[],
    answersOnly: boolean,
  ): { ids: number[]; answers: number[] } {
    const { hide, restore, marks: [begin, end] } = this.#hiding(messages);
    const text = this.#render({
      messages: messages.map(({ role, content }) => {
        return {
          role,
          content: answersOnly && role === "assistant" ? marked(hide(content), begin, end) : hide(content),
        };
      }),
      add_generation_prompt: false,
      ...this.#names,
    });
    const spoken = messages.filter(({ role }) => role === "assistant").length;
    const found = text.match(new RegExp(`[${begin}${end}]`, "gu"))?.join("") ?? "";
    if (answersOnly && found !== (begin + end).repeat(spoken)) {
      throw new MicrogptError("the model's chat template changes what the assistant says", {
        hint: "train with `loss` all",
      });
    }
    return this.#pieces(this.#special.split(text), begin, end, restore);
  }

  /** Hides special-token text, and has marks that neither the template nor a message has. */
  #hiding(messages: readonly TemplateMessage[]) {
    const taken = [this.#source, ...messages.map(({ content }) => content)];
    const [open, close, ...marks] = unusedCharacters(4, taken) as [string, string, string, string];
    const hidden: string[] = [];
    const hide = (text: string) => {
      if (!this.#hidden) return text;
      return text.replace(this.#hidden, (found) => open + (hidden.push(found) - 1) + close);
    };
    const restore = (part: string) =>
      part.replace(new RegExp(`${open}(\\d+)${close}`, "gu"), (_, i) => hidden[i]!);
    return { hide, restore, marks };
  }

  /** Rendered text, cut at special tokens, as ids; what stands between two marks is the assistant's. */
  #pieces(pieces: (string | number)[], begin: string, end: string, restore: (text: string) => string) {
    const ids: number[] = [];
    const answers: number[] = [];
    let speaking = false;
    /** where what may belong to the end of a turn begins: white space, then a token that ends it */
    let ending: number | undefined;
    const add = (id: number, answer: boolean) => {
      ids.push(id);
      answers.push(answer ? 1 : 0);
    };
    for (const piece of pieces) {
      if (typeof piece === "number") {
        const ends = ending !== undefined && this.#ends.includes(piece);
        if (ends) answers.fill(1, ending);
        add(piece, ends || speaking);
        ending = undefined;
        continue;
      }
      const text = restore(piece);
      const whole = this.#tokenizer.encodeOne(text.replaceAll(begin, "").replaceAll(end, ""));
      let [said, done] = ["", 0];
      for (const part of text.split(new RegExp(`([${begin}${end}])`, "u"))) {
        if (part === begin || part === end) {
          speaking = part === begin;
          ending = speaking ? undefined : ids.length;
          continue;
        }
        said += part;
        const until = commonLength(this.#tokenizer.encodeOne(said), whole);
        for (; done < until; done++) add(whole[done]!, speaking);
        if (!speaking && /\S/u.test(part)) ending = undefined;
      }
      for (; done < whole.length; done++) add(whole[done]!, speaking);
    }
    return { ids, answers };
  }
}

/** A text with marks around it, inside the white space at its ends, which templates cut off. */
function marked(text: string, begin: string, end: string): string {
  const core = text.trim();
  const at = text.length - text.trimStart().length;
  return text.slice(0, at) + begin + core + end + text.slice(at + core.length);
}

/** The text before a mark. */
function upTo(text: string, mark: string): string {
  const at = text.lastIndexOf(mark);
  if (at >= 0) return text.slice(0, at);
  throw new MicrogptError("the chat template leaves out the assistant's message that is to be continued");
}

/** Private-use characters that none of the texts has. */
function unusedCharacters(count: number, texts: readonly string[]): string[] {
  const found: string[] = [];
  for (let code = 0xe000; found.length < count; code++) {
    if (code > 0xf8ff) throw new MicrogptError("the messages use all of Unicode's private characters");
    const char = String.fromCharCode(code);
    if (!texts.some((text) => text.includes(char))) found.push(char);
  }
  return found;
}

/** Parses a template. @returns what renders it within its bounds */
async function renderer(source: string): Promise<Render> {
  if (source.length > MAX_TEMPLATE) {
    throw new MicrogptError(
      `the chat template has ${source.length} characters, at most ${MAX_TEMPLATE} are read`,
    );
  }
  const { Environment, Interpreter, Template } = await import("npm:@huggingface/jinja@0.5.11");
  const program = attempt("is not valid", () => new Template(source).parsed);
  /** Jinja that counts what it does. */
  class Bounded extends Interpreter {
    #steps = 0;
    readonly #started = performance.now();

    override evaluate(...args: Parameters<InstanceType<typeof Interpreter>["evaluate"]>) {
      this.#steps++;
      if (this.#steps > MAX_STEPS) throw new TooMuch("takes too long");
      // often: a loop without a body takes a step in all, and some 50 ms
      if (this.#steps % 8 === 0 && performance.now() - this.#started > MAX_MILLISECONDS) {
        throw new TooMuch("takes too long");
      }
      const result = super.evaluate(...args);
      const { value } = result;
      if (typeof value === "string" && value.length > MAX_TEXT) throw new TooMuch("makes too much text");
      if (Array.isArray(value) && value.length > MAX_LIST) throw new TooMuch("makes too long a list");
      return result;
    }
  }
  return (variables) =>
    attempt("fails", () => {
      const environment = new Environment();
      for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) environment.set(name, value);
      return String(new Bounded(environment).run(program).value);
    });
}

/** A template went beyond its bounds. */
class TooMuch extends Error {}
/** A template refuses a conversation. */
class Refusal extends Error {}

/** What templates find beside the conversation. No clock: the same messages make the same prompt on any day. */
const GLOBALS = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: unknown) => {
    throw new Refusal(String(message));
  },
  range: (start: unknown, stop?: unknown, step: unknown = 1) => {
    const [from, to] = typeof stop === "number" ? [Number(start), stop] : [0, Number(start)];
    const by = Number(step);
    const count = by === 0 ? Infinity : Math.max(0, Math.ceil((to - from) / by));
    if (!(count <= MAX_LIST)) throw new TooMuch("makes too long a list");
    return Array.from({ length: count }, (_, i) => from + i * by);
  },
};

/** Runs what a template does; whatever it throws becomes one line. */
function attempt<T>(what: string, run: () => T): T {
  const hint = "take the model's template from its newest release, or leave the template out";
  try {
    return run();
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause;
    if (cause instanceof Refusal) {
      throw new MicrogptError(
        `the model's chat template refuses the conversation: ${printable(cause.message)}`,
        {
          cause,
        },
      );
    }
    const reason = cause instanceof TooMuch
      ? cause.message
      : cause instanceof RangeError
      ? "runs out of memory"
      : `${what}: ${printable(cause.message)}`;
    throw new MicrogptError(`the model's chat template ${reason}`, { hint, cause });
  }
}
