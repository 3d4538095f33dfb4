/** Commands that the program prints for a person to copy: they mean in the shell what they meant here. */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

/** Characters that no shell here treats as anything but themselves. */
const PLAIN = /^[\w./:@%+,-][\w./:=@%+,-]*$/;
const PLAIN_ON_WINDOWS = /^[\w./:\\=+-]+$/;
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

/**
 * A word as the shell must get it.
 * @param os whose shell: sh, bash, zsh and fish, or cmd and PowerShell
 */
export function shellWord(text: string, os: typeof Deno.build.os = Deno.build.os): string {
  if (os === "windows") {
    // within quotes a backslash before the closing one would escape it; file names hold no quotes there
    return PLAIN_ON_WINDOWS.test(text) ? text : `"${text.replace(/\\+$/, "$&$&")}"`;
  }
  if (PLAIN.test(text)) return text;
  if (!CONTROL.test(text)) return `'${text.replaceAll("'", `'\\''`)}'`;
  // bash and zsh spell control characters this way, and a terminal does not obey them
  return `$'${Array.from(text, escaped).join("")}'`;
}

function escaped(character: string): string {
  if (character === "'" || character === "\\") return `\\${character}`;
  if (!CONTROL.test(character)) return character;
  return Array.from(
    new TextEncoder().encode(character),
    (byte) => `\\x${byte.toString(16).padStart(2, "0")}`,
  ).join("");
}

/** A path as the shell must get it, in a form that cannot be taken for a flag or for standard input. */
export function shellPath(path: string, os: typeof Deno.build.os = Deno.build.os): string {
  return shellWord(path.startsWith("-") ? `./${path}` : path, os);
}

/**
 * The command that goes on with a run.
 * @param rereadable its data lie in files, whose names the checkpoint has
 */
export function resumeCommand(dir: string, rereadable: boolean): string {
  const input = rereadable ? "" : " --input FILE";
  return `${programName()} train --resume ${shellPath(dir)}${input}`;
}

/** How this program is called where it runs: a task knows the directory of its `deno.json` only. */
export function programName(): string {
  if (Deno.build.standalone) return "microgpt";
  const cli = new URL("../cli.ts", import.meta.url);
  if (cli.protocol !== "file:") return `deno run -A ${cli.href}`;
  const path = fileURLToPath(cli);
  return Deno.cwd() === dirname(path) ? "deno task microgpt" : `deno run -A ${shellPath(path)}`;
}
