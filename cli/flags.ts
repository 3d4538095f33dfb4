/** Flags of the options that the library declares, and the library's messages in the words of the command line. */
import {
  CORPUS_OPTIONS,
  DEVICE_OPTIONS,
  EXPORT_OPTIONS,
  flagOf,
  GENERATION,
  type Option,
  type Options,
  type OptionValues,
  RUN_OPTIONS,
  SAMPLING,
  SERVE_OPTIONS,
  SETTINGS,
} from "../mod.ts";
import type { Flag, FlagValues } from "./command.ts";

/** Options that a subcommand declares itself, because only it has them. */
const OTHER_OPTIONS = [
  "output",
  "resume",
  "from",
  "preset",
  "chat",
  "prompt",
  "promptFile",
  "modelDir",
];

const ALL: Options = {
  ...SETTINGS,
  ...RUN_OPTIONS,
  ...SAMPLING,
  ...GENERATION,
  ...DEVICE_OPTIONS,
  ...EXPORT_OPTIONS,
  ...CORPUS_OPTIONS,
  ...SERVE_OPTIONS,
};

const FLAGS = new Map<string, string>([
  ...OTHER_OPTIONS.map((name): [string, string] => [name, flagOf(name)]),
  ...Object.entries(ALL).map(([name, option]): [string, string] => [name, flagOf(name, option)]),
]);

/** A message of the library, which calls an option `nEmbd`, as the command line calls it: --n-embd. */
export function inFlags(message: string): string {
  return message.replace(/`([a-z][A-Za-z]*)`/g, (quoted, name) => FLAGS.get(name) ?? quoted);
}

/** The flags of a table of options. */
export function flagsOf(options: Options): Flag[] {
  return Object.entries(options).map(([name, option]) => ({
    name: flagOf(name, option),
    key: name,
    help: inFlags(option.help),
    ...valueOf(option),
    ...(option.default === undefined || option.type === "switch"
      ? {}
      : { default: option.default as string | number }),
  }));
}

/** What of a table's options was given. */
export function given<T extends Options>(table: T, values: FlagValues): Partial<OptionValues<T>> {
  const names = Object.keys(table).filter((name) => values[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, values[name]])) as Partial<OptionValues<T>>;
}

function valueOf(
  { type, choices, value, repeatable }: Option,
): Pick<Flag, "value" | "type" | "choices" | "repeatable"> {
  if (type === "switch") return {};
  if (type === "text") return { value: value ?? "text", ...(repeatable ? { repeatable } : {}) };
  if (type === "choice") return { value: "name", ...(choices ? { choices } : {}) };
  return { value: type === "whole" ? "n" : "x", type: "number" };
}
