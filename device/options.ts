/**
 * Options declared once. A table names each option with its type, range, default and help; checks, flags of the command
 * line, fields of a checkpoint and documentation follow from it.
 *
 * Messages call an option by its name between backticks, as in "`nEmbd` must be …": that is what a calling program
 * knows it by. The command line turns such a name into its flag.
 */
import { MicrogptError } from "./errors.ts";

/** What an option takes. */
export interface Option {
  /** `whole` and `number` are numbers in a range, a `switch` is on or off, a `choice` one of some words, `text` any */
  readonly type: "whole" | "number" | "switch" | "choice" | "text";
  /** one line; names of other options between backticks */
  readonly help: string;
  /** its value when nobody chooses one; an option without a default says in its help what happens then */
  readonly default?: number | boolean | string;
  /** smallest number */
  readonly min?: number;
  /** largest number */
  readonly max?: number;
  /** `min` itself is not allowed */
  readonly exclusive?: boolean;
  /** the words of a choice */
  readonly choices?: readonly string[];
  /** may be given several times: its value is a list */
  readonly repeatable?: true;
  /** what its value is called in the help of the command line: "file" */
  readonly value?: string;
  /** its flag, where that is not simply the name in kebab-case */
  readonly flag?: string;
  /** its field in `train_state.json`, where a checkpoint keeps it */
  readonly saved?: string;
  /** its field in the model's configuration, where it shapes the network */
  readonly config?: string;
}

/** Options by name. */
export type Options = Readonly<Record<string, Option>>;

/** The type of an option's value. */
export type OptionValue<O extends Option> = O extends { repeatable: true } ? string[]
  : O["type"] extends "switch" ? boolean
  : O["type"] extends "text" ? string
  : O extends { choices: readonly (infer Word)[] } ? Word
  : number;

/** Values of all options of a table. */
export type OptionValues<T extends Options> = { -readonly [Name in keyof T]: OptionValue<T[Name]> };

/** The defaults of a table whose options all have one. */
export function defaultsOf<T extends Options>(table: T): OptionValues<T> {
  return Object.fromEntries(
    Object.entries(table).map(([name, option]) => [name, option.default]),
  ) as OptionValues<T>;
}

/**
 * Checks every option of a table that is given; other properties of `given` are not looked at.
 * @throws {MicrogptError} naming the option, its range and what was got
 */
export function checkOptions(table: Options, given: object): void {
  for (const [name, option] of Object.entries(table)) {
    const value = (given as Record<string, unknown>)[name];
    if (value === undefined || accepts(option, value)) continue;
    throw new MicrogptError(`\`${name}\` must be ${expected(option)}, got ${shown(value)}`, { usage: true });
  }
}

function accepts(option: Option, value: unknown): boolean {
  if (option.repeatable) {
    return Array.isArray(value) && value.length > 0 && value.every((word) => typeof word === "string");
  }
  if (option.type === "text") return typeof value === "string" && value !== "";
  if (option.type === "switch") return typeof value === "boolean";
  if (option.type === "choice") return option.choices!.includes(value as string);
  const { min = -Infinity, max = Infinity, exclusive } = option;
  return typeof value === "number" && Number.isFinite(value) &&
    (option.type !== "whole" || Number.isInteger(value)) &&
    value <= max && (exclusive ? value > min : value >= min);
}

/** "a whole number from 1 to 16384" */
function expected({ type, min, max, exclusive, choices, repeatable }: Option): string {
  if (repeatable) return "a list of texts";
  if (type === "text") return "a text that is not empty";
  if (type === "switch") return "true or false";
  if (type === "choice") return `one of ${choices!.join(", ")}`;
  const noun = type === "whole" ? "a whole number" : "a number";
  const from = min === undefined ? "" : exclusive ? ` above ${min}` : ` from ${min}`;
  return noun + from + (max === undefined ? "" : ` to ${max}`);
}

function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : String(value);
}

/** The flag of an option: `--n-embd` of `nEmbd`. */
export function flagOf(name: string, { flag }: Pick<Option, "flag"> = {}): string {
  return flag ?? `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
