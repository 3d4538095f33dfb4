import type { Command, Flag } from "./command.ts";
import { COMMANDS } from "./commands.ts";
import { print } from "./terminal.ts";

const SHELLS = ["bash", "zsh", "fish"] as const;
type Shell = (typeof SHELLS)[number];

/** A subcommand with what `COMMANDS` says about it. */
interface NamedCommand extends Command {
  name: string;
  summary: string;
}

/** Every subcommand takes it. */
const HELP: Flag = { name: "--help", help: "show the flags" };

export const command: Command = {
  argument: { name: "shell", key: "shell", help: "bash, zsh or fish", choices: SHELLS },
  flags: [],
  run: async ({ shell }) => {
    const commands = await Promise.all(
      Object.entries(COMMANDS).map(async ([name, { summary, load }]) => ({
        name,
        summary,
        ...(await load()).command,
      })),
    );
    print(SCRIPTS[shell as Shell](commands).join("\n"));
  },
};

/** The script of each shell, in lines. */
const SCRIPTS: Record<Shell, (commands: NamedCommand[]) => string[]> = { bash, zsh, fish };

function flagsOf(command: Command): Flag[] {
  return [...command.flags, HELP];
}

/** No mapfile: macOS has bash 3.2. One completion a line, so that names with spaces stay whole. */
function bash(commands: NamedCommand[]): string[] {
  const reply = (source: string) => `COMPREPLY=( $(IFS=' '; compgen ${source} -- "$word") )`;
  const values = (flag: Flag): string => {
    if (flag.choices) return reply(`-W '${flag.choices.join(" ")}'`);
    if (flag.value === "dir") return reply("-d");
    return flag.value === "file" ? reply("-f") : ":";
  };
  const perCommand = commands.flatMap((command) => {
    const words = [...command.argument?.choices ?? [], ...flagsOf(command).map(({ name }) => name)];
    return [
      `    ${command.name})`,
      `      case "$previous" in`,
      ...command.flags.filter(({ value }) => value)
        .map((flag) => `        ${flag.name}) ${values(flag)}; return ;;`),
      `      esac`,
      `      ${reply(`-W '${words.join(" ")}'`)}`,
      `      ;;`,
    ];
  });
  const names = [...commands.map(({ name }) => name), "help", "--help", "--version"];
  return [
    "# bash completion for microgpt",
    "_microgpt() {",
    `  local word="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"`,
    "  local IFS=$'\\n'",
    "  COMPREPLY=()",
    `  if [ "$COMP_CWORD" -eq 1 ]; then`,
    `    ${reply(`-W '${names.join(" ")}'`)}`,
    "    return",
    "  fi",
    `  case "\${COMP_WORDS[1]}" in`,
    ...perCommand,
    "  esac",
    "}",
    "complete -o filenames -F _microgpt microgpt",
  ];
}

/** A text between single quotes. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function zsh(commands: NamedCommand[]): string[] {
  // in a specification of _arguments these three end or divide it
  const escaped = (text: string) => text.replace(/[[\]:]/g, "\\$&");
  const values = ({ value, choices }: Pick<Flag, "value" | "choices">): string => {
    if (choices) return `:${value ?? "value"}:(${choices.join(" ")})`;
    if (value === undefined) return "";
    return `:${value}:${value === "dir" ? "_directories" : value === "file" ? "_files" : ""}`;
  };
  const perCommand = commands.flatMap((command) => [
    `    ${command.name})`,
    "      _arguments \\",
    ...(command.argument
      ? [
        `        ${
          quoted(`1${values({ value: command.argument.name, choices: command.argument.choices ?? [] })}`)
        } \\`,
      ]
      : []),
    ...flagsOf(command).map((flag, i, all) =>
      `        ${quoted(`${flag.name}[${escaped(flag.help)}]${values(flag)}`)}${
        i < all.length - 1 ? " \\" : ""
      }`
    ),
    "      ;;",
  ]);
  return [
    "#compdef microgpt",
    "# zsh completion for microgpt",
    "_microgpt() {",
    "  local -a commands",
    "  commands=(",
    ...commands.map(({ name, summary }) => `    ${quoted(`${name}:${summary}`)}`),
    "    'help:show the subcommands'",
    "  )",
    "  if (( CURRENT == 2 )); then",
    "    _describe command commands",
    "    return",
    "  fi",
    "  local command=$words[2]",
    "  shift words",
    "  (( CURRENT-- ))",
    "  case $command in",
    ...perCommand,
    "  esac",
    "}",
    "if [[ ${funcstack[1]} == _microgpt ]]; then _microgpt; else compdef _microgpt microgpt; fi",
  ];
}

function fish(commands: NamedCommand[]): string[] {
  const complete = (condition: string, rest: string) =>
    `complete -c microgpt -n ${quoted(condition)} ${rest}`;
  const values = ({ value, choices }: Pick<Flag, "value" | "choices">): string => {
    if (choices) return ` -x -a ${quoted(choices.join(" "))}`;
    if (value === "file") return " -r -F";
    if (value === "dir") return " -x -a '(__fish_complete_directories)'";
    return value === undefined ? "" : " -x";
  };
  return [
    "# fish completion for microgpt",
    "complete -c microgpt -f",
    ...commands.map(({ name, summary }) =>
      complete("__fish_use_subcommand", `-a ${name} -d ${quoted(summary)}`)
    ),
    ...commands.flatMap((command) => {
      const inside = `__fish_seen_subcommand_from ${command.name}`;
      const flags = flagsOf(command).map((flag) =>
        complete(inside, `-l ${flag.name.slice(2)} -d ${quoted(flag.help)}${values(flag)}`)
      );
      const { argument } = command;
      if (!argument?.choices) return flags;
      return [
        complete(inside, `-a ${quoted(argument.choices.join(" "))} -d ${quoted(argument.help)}`),
        ...flags,
      ];
    }),
  ];
}
