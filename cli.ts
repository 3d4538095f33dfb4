/** The program: subcommands, and from errors to exit codes. Results go to stdout, progress and errors to stderr. */
import { Argument, Command as Commander, CommanderError, Option } from "npm:commander@15.1.0";
import project from "./deno.json" with { type: "json" };
import { checkWords, type Command, type Flag, type FlagValues, parseFlag } from "./cli/command.ts";
import { COMMANDS } from "./cli/commands.ts";
import { programName } from "./cli/printed_command.ts";
import { printError, writeOut } from "./cli/terminal.ts";
import { MicrogptError } from "./mod.ts";

/**
 * Runs the program.
 * @param args the command line after the program's name
 * @returns the exit code: 0, 1 for an error, 2 for wrong usage
 */
export async function main(args: string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    return printError(error);
  }
}

async function run(args: string[]): Promise<number> {
  const program = new Commander("microgpt")
    .description("Trains small GPTs on your own text, and generates, chats, inspects and exports.")
    .version(project.version);
  quiet(program);
  let exitCode = 0;
  checkHelp(args);
  for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
    if (!args.some((arg) => arg === name || arg === "help")) {
      quiet(program.command(name).description(summary));
      continue;
    }
    const { command } = await load();
    if (args[0] === name) checkWords(command.flags, args.slice(1));
    const sub = quiet(program.command(name).description(summary));
    const options = command.flags.map((flag) => ({ flag, option: option(flag) }));
    for (const { option } of options) sub.addOption(option);
    if (command.argument) sub.addArgument(argument(command.argument));
    sub.action(async (...called: unknown[]) => {
      const given = sub.opts() as FlagValues;
      const values: FlagValues = {};
      for (const { flag, option } of options) {
        const name = option.attributeName();
        // commander takes --no-auth as the opposite of an auth that is true where nobody says anything
        const value = option.negate ? !given[name] || undefined : given[name];
        if (value !== undefined) values[flag.key ?? name] = value;
      }
      if (command.argument) values[command.argument.key] = called[0] as string;
      exitCode = await command.run(values) ?? 0;
    });
  }
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0;
    if (error.code === "commander.help") return 2;
    throw usageError(error);
  }
  return exitCode;
}

/** Where commander does not know the word, it prints the general help. */
function checkHelp([first, word, ...more]: string[]): void {
  if (first !== "help" || word === undefined) return;
  if (more.length > 0) {
    throw new MicrogptError("help takes one subcommand", { usage: true, hint: helpHint() });
  }
  if (Object.hasOwn(COMMANDS, word) || word === "help" || word.startsWith("-")) return;
  throw new MicrogptError(`unknown command '${word}'`, { usage: true, hint: helpHint() });
}

function helpHint(): string {
  return `\`${programName()} help\` lists the subcommands, \`${programName()} help train\` their flags`;
}

/** Commander throws instead of exiting, and prints only help; a reader who stops reading early is not an error. */
function quiet(command: Commander): Commander {
  return command.exitOverride().configureOutput({
    writeOut,
    writeErr: (text) => text.startsWith("Usage") && writeHelp(text),
  });
}

function writeHelp(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}

function option(flag: Flag): Option {
  const value = flag.value && (flag.optional ? ` [${flag.value}]` : ` <${flag.value}>`);
  const made = new Option(`${flag.name}${value ?? ""}`, help(flag));
  if (flag.repeatable) {
    made.argParser((text, before: string[] | undefined) => [...before ?? [], String(parseFlag(flag, text))]);
  } else if (flag.value) made.argParser((text) => parseFlag(flag, text));
  return made;
}

function argument({ name, help, choices }: NonNullable<Command["argument"]>): Argument {
  const made = new Argument(`<${name}>`, help);
  return choices ? made.choices(choices) : made;
}

function help(flag: Flag): string {
  const choices = flag.choices ? ` (${flag.choices.join(", ")})` : "";
  return flag.help + choices + (flag.default === undefined ? "" : `; default ${flag.default}`);
}

/** Commander's own complaints in our form: "error: unknown option '--stpes'", hint "did you mean --steps?". */
function usageError({ message }: CommanderError): MicrogptError {
  const [first, ...rest] = message.replace(/^error: /, "").split("\n");
  const suggestion = /\(Did you mean (.*)\?\)/.exec(rest.join(" "))?.[1];
  const hint = suggestion ? `did you mean ${suggestion}?` : helpHint();
  return new MicrogptError(first!, { usage: true, hint });
}

if (import.meta.main) {
  const exitCode = await main(Deno.args);
  // exits at once: the terminal and worker threads would keep the process alive for a moment
  Deno.exit(exitCode);
}
