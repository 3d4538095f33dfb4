/** What a subcommand is: a table of flags and a function. `cli.ts` turns them into the command line. */
import type { DeviceOptions } from "../devices.ts";
import { MicrogptError } from "../model/errors.ts";

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
  /** shown in the help; the command itself applies it */
  default?: string | number;
  /** the only values it takes */
  choices?: readonly string[];
}

/** Values of the flags that were given, by their keys. */
export type FlagValues = Record<string, string | number | boolean | undefined>;

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
 * @throws {MicrogptError} when it is no number, none of the choices, or no name of a file or directory
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

/** What the flags that say where to compute were given as. */
export function deviceOptions({ device, dtype, threads }: FlagValues): DeviceOptions {
  const given = Object.entries({ device, dtype, threads }).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as DeviceOptions;
}
