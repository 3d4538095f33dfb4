/** What a subcommand is: a table of flags and a function. `cli.ts` turns them into the command line. */
import { MicrogptError } from "../mod.ts";

/** A flag of a subcommand. */
export interface Flag {
  /** "--steps" */
  name: string;
  /** what its value is called in `FlagValues`; default: the name in camelCase */
  key?: string;
  /** what its value is called in the help, such as "n" or "dir"; a flag without is a switch */
  value?: string;
  /** numbers are parsed; text is as typed */
  type?: "number" | "text";
  help: string;
  /** may be given without a value, and is `true` then */
  optional?: boolean;
  /** may be given several times: its value is a list of texts */
  repeatable?: boolean;
  /** shown in the help; the command itself applies it */
  default?: string | number;
  /** the only values it takes */
  choices?: readonly string[];
}

/** Values of the flags that were given, by their keys. */
export type FlagValues = Record<string, string | number | boolean | string[] | undefined>;

/** Its name and its summary stand in cli/commands.ts, which is read without loading it. */
export interface Command {
  flags: Flag[];
  /** a word after the subcommand; its value is passed on as `key` */
  argument?: { name: string; key: string; help: string; choices?: readonly string[] };
  /** @returns the exit code, 0 when it returns nothing */
  run(values: FlagValues): Promise<number | void>;
}

/**
 * A flag's text as its value.
 * @throws {MicrogptError} when it is not a number, not one of the choices, or an empty name of a file or directory
 */
export function parseFlag(flag: Flag, text: string): string | number {
  if (flag.choices && !flag.choices.includes(text)) {
    throw new MicrogptError(
      `${flag.name} must be one of ${flag.choices.join(", ")}, got ${JSON.stringify(text)}`,
      {
        usage: true,
      },
    );
  }
  if (text === "" && (flag.value === "file" || flag.value === "dir")) {
    throw new MicrogptError(`${flag.name} is empty`, {
      hint: `name a ${flag.value === "dir" ? "directory" : "file"}`,
      usage: true,
    });
  }
  if (flag.type !== "number") return text;
  const value = Number(text);
  if (text.trim() !== "" && !Number.isNaN(value)) return value;
  throw new MicrogptError(`${flag.name} must be a number, got ${JSON.stringify(text)}`, { usage: true });
}

/**
 * Finds what commander would misread: of a flag that is given twice it takes the last, and a flag
 * without a value takes the next flag as its value. A switch may be given twice, which says no more than once.
 * @param words the command line after the subcommand
 * @throws {MicrogptError} naming the flag
 */
export function checkWords(flags: readonly Flag[], words: readonly string[]): void {
  const flagOf = (word: string) => flags.find(({ name }) => word === name || word.startsWith(`${name}=`));
  const given = new Set<string>();
  for (let i = 0; i < words.length && words[i] !== "--"; i++) {
    const word = words[i]!;
    const flag = flagOf(word);
    if (!flag) continue;
    const { name, value, repeatable, optional } = flag;
    if (value === undefined) {
      if (word !== name) throw new MicrogptError(`${name} takes no value, got ${word}`, { usage: true });
      continue;
    }
    if (given.has(name) && !repeatable) {
      throw new MicrogptError(`${name} is given twice`, { hint: "give it once", usage: true });
    }
    given.add(name);
    if (word !== name) continue;
    const next = words[++i];
    if (next === undefined || !flagOf(next)) continue;
    if (optional) {
      i--; // it has no value, and the next word is a flag of its own
      continue;
    }
    throw new MicrogptError(`${name} has no value: ${next} after it is a flag`, {
      hint: `should ${next} be the value, write ${name}=${next}`,
      usage: true,
    });
  }
}
