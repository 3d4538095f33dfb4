/** Runs the real program in a process of its own. */
import { fileURLToPath } from "node:url";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));

/** What a run came to. */
export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** what it reads; nothing by default */
  stdin?: string | Uint8Array;
  cwd?: string;
  env?: Record<string, string>;
}

/**
 * The command line of the program, to be started by something else. A test may give a flag of its recipe again, which the
 * program refuses: here the last one counts.
 */
export function programArgs(args: string[]): string[] {
  const isOverridden = (at: number) => args[at]!.startsWith("--") && args.indexOf(args[at]!, at + 1) > 0;
  const isValue = (at: number) => at > 0 && !args[at]!.startsWith("--");
  const words = args.filter((_, at) => !isOverridden(at) && !(isValue(at) && isOverridden(at - 1)));
  return [Deno.execPath(), "run", "--quiet", "--no-prompt", "--no-check", "-A", CLI, ...words];
}

/** Runs `microgpt` with arguments until it ends. */
export async function microgpt(args: string[], { stdin, cwd, env }: RunOptions = {}): Promise<Finished> {
  const [command, ...rest] = programArgs(args);
  const process = new Deno.Command(command!, {
    args: rest,
    ...(cwd === undefined ? {} : { cwd }),
    env: { MICROGPT_DEBUG: "", ...env },
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  if (stdin !== undefined) {
    const writer = process.stdin.getWriter();
    await writer.write(typeof stdin === "string" ? new TextEncoder().encode(stdin) : stdin);
    await writer.close();
  }
  const { code, stdout, stderr } = await process.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

/** Flags of the smallest model that trains. */
export const TINY =
  "--steps 4 --n-embd 8 --n-head 2 --n-layer 1 --block-size 32 --batch-size 4 --vocab-size 280"
    .split(" ");

/** Sixty names, one a line. */
export const NAMES = Array.from(
  { length: 60 },
  (_, i) => ["an", "bo", "ca", "da", "el"][i % 5]! + ["na", "bert", "rla"][i % 3]! + "x".repeat(i % 4),
).join("\n");

/** A few conversations as JSONL. */
export const CHATS = [
  [["hello", "Hello! How are you?"], ["fine", "I am glad to hear that."]],
  [["what is your name?", "I am a small model. What is yours?"]],
  [["count", "one two three four five six seven eight nine ten"]],
].map((pairs) =>
  JSON.stringify(pairs.flatMap(([user, assistant]) => [
    { role: "user", content: user },
    { role: "assistant", content: assistant },
  ]))
).join("\n");

/** Flags that make a model learn `CHATS` by heart, in a fraction of a second. */
export const CHAT_RECIPE =
  ("--chat --steps 80 --n-embd 32 --n-head 2 --n-layer 1 --block-size 64 --batch-size 4 " +
    "--vocab-size 300 --val-fraction 0 --lr 0.02 --warmup-steps 5").split(" ");
