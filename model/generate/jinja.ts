/**
 * Jinja, as chat templates of others use it: from anywhere, so a template can neither run for long nor reach anything
 * but the conversation.
 */
import { MicrogptError } from "../../device/errors.ts";
import { printable } from "../files/directory.ts";

/** What a template may take: real ones take a few hundred steps a message. */
const MAX_STEPS = 1_000_000;
const MAX_MILLISECONDS = 2000;
const MAX_TEMPLATE = 1 << 20;
const MAX_TEXT = 1 << 26;
const MAX_LIST = 1 << 16;

/** Renders a template with some variables. @throws {MicrogptError} when it refuses them, fails, or takes too much */
export type Render = (variables: Record<string, unknown>) => string;

/**
 * Parses a template.
 * @returns what renders it within its bounds
 * @throws {MicrogptError} when it is no template
 */
export async function renderer(source: string): Promise<Render> {
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
