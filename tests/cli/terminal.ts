/** A program in a pseudo-terminal, played by tests/cli/play_terminal.py. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { programArgs } from "./program.ts";

/** What to do next: type something, read until a text comes, change the width, or, at last, close the terminal. */
export type Step = { send: string } | { wait: string } | { columns: number } | { hangUp: true };

/** Keys as a terminal sends them. */
export const KEY = {
  enter: "\r",
  up: "\x1b[A",
  left: "\x1b[D",
  backspace: "\x7f",
  ctrlC: "\x03",
  ctrlD: "\x04",
  pasteStart: "\x1b[200~",
  pasteEnd: "\x1b[201~",
};

/** Whether there are pseudo-terminals and a Python to drive them. */
export const TERMINAL_TESTS = Deno.build.os !== "windows" && await hasPython();

async function hasPython(): Promise<boolean> {
  try {
    return (await new Deno.Command("python3", { args: ["--version"] }).output()).success;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.error("skipped: the program in a terminal (no python3)");
    return false;
  }
}

/**
 * Runs `microgpt` in a terminal, of 100 columns at first.
 * @returns exit code, and what came up to each `wait`, then the rest
 */
export async function inTerminal(
  args: string[],
  steps: Step[],
  { cwd, env }: { cwd?: string; env?: Record<string, string> } = {},
): Promise<{ code: number; pieces: string[] }> {
  const process = new Deno.Command("python3", {
    args: [fileURLToPath(new URL("play_terminal.py", import.meta.url)), ...programArgs(args)],
    env: { MICROGPT_DEBUG: "", TERM: "xterm-256color", ...env },
    ...(cwd === undefined ? {} : { cwd }),
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = process.stdin.getWriter();
  await writer.write(new TextEncoder().encode(JSON.stringify(steps)));
  await writer.close();
  const { success, stdout, stderr } = await process.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert.ok(success, text(stderr));
  return JSON.parse(text(stdout));
}
