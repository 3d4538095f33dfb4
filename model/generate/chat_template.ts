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

/** A turn; a system message says how to answer. */
export interface TemplateMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

/** How this program's own models write a conversation, for other programs; between the marks is what is learned. */
export const OWN_TEMPLATE = "{{ bos_token }}{% for message in messages %}" +
  "{% if message['role'] == 'assistant' %}" +
  "{{ '<assistant>' }}{% generation %}{{ message['content'] + '<end_turn>' }}{% endgeneration %}" +
  "{% elif message['role'] == 'user' %}{{ '<user>' + message['content'] + '<end_turn>' }}" +
  "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

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

  private constructor(
    source: string,
    render: Render,
    tokenizer: Tokenizer,
    names: { bos_token?: string; eos_token?: string },
  ) {
    const special = tokenizer.special;
    this.#source = source;
    this.#render = render;
    this.#tokenizer = tokenizer;
    this.#names = names;
    const plain = special.map((token) => ({ ...token, lstrip: false, rstrip: false, singleWord: false }));
    this.#hidden = special.length === 0 ? undefined : addedPattern(plain);
    this.#special = new AddedTokens(special);
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
    return new ChatTemplate(source, await renderer(source), tokenizer, names);
  }

  /**
   * The ids of a conversation. When the last message is the assistant's they end with its content, to be continued;
   * else with what opens the assistant's turn.
   * @throws {MicrogptError} when the template refuses the conversation, fails, or takes too long
   */
  encode(messages: readonly TemplateMessage[]): number[] {
    const continued = messages.at(-1)?.role === "assistant";
    const marks = unusedCharacters(3, [this.#source, ...messages.map(({ content }) => content)]);
    const [open, close, end] = marks as [string, string, string];
    const hidden: string[] = [];
    const hide = (text: string) => {
      if (!this.#hidden) return text;
      return text.replace(this.#hidden, (found) => open + (hidden.push(found) - 1) + close);
    };
    const last = messages.length - 1;
    let text = this.#render({
      messages: messages.map(({ role, content }, i) => {
        return { role, content: hide(content) + (continued && i === last ? end : "") };
      }),
      add_generation_prompt: !continued,
      ...this.#names,
    });
    if (continued) text = upTo(text, end);
    const restore = (part: string) =>
      part.replace(new RegExp(`${open}(\\d+)${close}`, "gu"), (_, i) => hidden[i]!);
    const ids: number[] = [];
    for (const piece of this.#special.split(text)) {
      if (typeof piece === "number") ids.push(piece);
      // no `push(...)`: a long message has more ids than a call may have arguments
      else for (const id of this.#tokenizer.encodeOne(restore(piece))) ids.push(id);
    }
    return ids;
  }
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
