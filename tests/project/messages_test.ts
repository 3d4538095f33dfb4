/** The library calls an option `nEmbd`: flags are the command line's, which makes them of these names. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { COMMANDS } from "../../cli/commands.ts";
import { inFlags } from "../../cli/flags.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** The rooms of the library. */
const LIBRARY = ["device", "data", "gpu", "native", "model"];

/** The names of all flags of the program. */
async function allFlags(): Promise<Set<string>> {
  const commands = await Promise.all(Object.values(COMMANDS).map(({ load }) => load()));
  return new Set(commands.flatMap(({ command }) => command.flags.map(({ name }) => name)));
}

async function* sources(dir: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(join(ROOT, dir))) {
    const path = `${dir}/${entry.name}`;
    if (entry.isDirectory && entry.name !== "target") yield* sources(path);
    else if (path.endsWith(".ts")) yield path;
  }
}

/** Code without its comments, without the declared names of flags, and without whole commands in backticks. */
function messagesIn(source: string): string {
  return source
    .replace(/\/\*[^]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ""))
    .replace(/^\s*\/\/.*$|\s\/\/ .*$/gm, "")
    .replace(/\bflag: "[^"]*"/g, "")
    .replace(/`microgpt [^`]*`/g, "");
}

Deno.test("no message of the library names a flag", async () => {
  const flags = await allFlags();
  assert.ok(flags.has("--n-embd") && flags.has("--resume"));
  const found: string[] = [];
  for (const room of LIBRARY) {
    for await (const path of sources(room)) {
      messagesIn(await Deno.readTextFile(join(ROOT, path))).split("\n").forEach((line, i) => {
        for (const [flag] of line.matchAll(/--[a-z][a-z-]*/g)) {
          if (flags.has(flag)) found.push(`${path}:${i + 1} ${flag}`);
        }
      });
    }
  }
  assert.deepEqual(found, []);
});

Deno.test("the command line turns an option's name into its flag", () => {
  assert.equal(
    inFlags("raise `blockSize`, lower `learningRate`, or use `device` cpu and `numSamples` 3"),
    "raise --block-size, lower --lr, or use --device cpu and --num-samples 3",
  );
  assert.equal(
    inFlags("`output`, `input`, `resume`, `chat`, `skipLong`, `half`, `format`"),
    "--output, --input, --resume, --chat, --skip-long, --half, --format",
  );
  assert.equal(inFlags("run `deno task build`, then `train`"), "run `deno task build`, then `train`");
});
