/**
 * nanoGPT's and nanochat's recipes in PyTorch (peer_recipes.py), on the same data, at the same width, depth and context as
 * a preset of ours, for the same seconds of training: held-out bits per byte, to be compared with bench/quality/recipes.ts.
 *
 *     deno run -A bench/quality/peers.ts --input chats.jsonl --chat --preset chat-small --test 20 --vocab-size 4096 \
 *       --seconds 600 --python python3 -- "nanogpt" "nanochat --rate 0.25"
 *
 * The tokenizer is ours, made from the lines that are trained on. What is measured are the lines of `--test`, cut as
 * `microgpt eval` cuts them, after the last step and, as nanoGPT keeps its best checkpoint, at the best of 20 evaluations,
 * which are not counted as time.
 */
import { parseArgs } from "node:util";
import { bytesOfTokens } from "../../data/bits_per_byte.ts";
import { AllBut } from "../../data/document_numbers.ts";
import { type Pieces, piecesOf } from "../../data/tokens/pieces.ts";
import { DEFAULTS, type PresetName, PRESETS } from "../../model/settings.ts";
import { documentsFile, tokensOfFile } from "../documents_file.ts";
import { splitLines } from "./lines.ts";

const { values: flags, positionals: recipes } = parseArgs({
  allowPositionals: true,
  options: {
    input: { type: "string" },
    chat: { type: "boolean", default: false },
    preset: { type: "string", default: "names" },
    /** every so many lines one that is measured, and that neither tokenizer nor training sees */
    test: { type: "string", default: "20" },
    "vocab-size": { type: "string" },
    seed: { type: "string", default: "42" },
    /** of training */
    seconds: { type: "string", default: "60" },
    threads: { type: "string", default: "2" },
    python: { type: "string", default: "python3" },
  },
});
if (flags.input === undefined || recipes.length === 0) throw new Error("--input and recipes are needed");
const { chat, preset, threads, seconds } = flags;
const seed = Number(flags.seed);
const settings = { ...DEFAULTS, ...PRESETS[preset as PresetName] };
const vocabSize = Number(flags["vocab-size"] ?? settings.vocabSize);
const script = new URL("peer_recipes.py", import.meta.url).pathname;

const lines = await splitLines(flags.input, Number(flags.test));
const training = await tokensOfFile(lines.input, { chat, vocabSize, seed });
const { tokenizer } = training;
const test = await tokensOfFile(lines.test, { chat, vocabSize, seed, tokenizer });
const whole = piecesOf(training.store, new AllBut(training.store.documents), 2 ** 31, "truncate");
const windows = piecesOf(test.store, new AllBut(test.store.documents), settings.blockSize, "split");

const folder = await Deno.makeTempDir({ prefix: "microgpt-peers-" });
try {
  await Deno.writeFile(`${folder}/training.bin`, documentsFile(idsOf(whole)));
  await Deno.writeFile(`${folder}/test.bin`, documentsFile(idsOf(windows)));
  const tokenBytes = bytesOfTokens(tokenizer);
  let [tokens, bytes] = [0, 0];
  for (const ids of idsOf(windows)) {
    tokens += ids.length - 1;
    for (const id of ids.subarray(1)) bytes += tokenBytes[id]!;
  }
  /** @param nats mean of a target */
  const bitsPerByte = (nats: number) => (nats * tokens / bytes / Math.LN2).toFixed(4);
  console.log("| recipe | bits per byte | best, at step | steps | seconds | tokens/s |");
  console.log("|---|---|---|---|---|---|");
  for (const recipe of recipes) {
    const shape = {
      nEmbd: "--n-embd",
      nHead: "--n-head",
      nLayer: "--n-layer",
      blockSize: "--block-size",
    } as const;
    const args = [
      ...[script, "--training", `${folder}/training.bin`, "--test", `${folder}/test.bin`],
      ...["--seconds", seconds, "--threads", threads, "--seed", flags.seed],
      ...["--vocab-size", String(tokenizer.vocabSize)],
      ...Object.entries(shape).flatMap((
        [name, flag],
      ) => [flag, String(settings[name as keyof typeof shape])]),
      ...["--recipe", ...recipe.split(" ")],
    ];
    const { success, stdout } = await new Deno.Command(flags.python, { args, stderr: "inherit" }).output();
    if (!success) throw new Error(`${recipe}: peer_recipes.py failed`);
    const { loss, best, bestStep, steps, ...run } = JSON.parse(new TextDecoder().decode(stdout));
    const speed = Math.round(run.tokens / run.seconds);
    const cells = [
      bitsPerByte(loss),
      `${bitsPerByte(best)} at ${bestStep}`,
      steps,
      run.seconds.toFixed(1),
      speed,
    ];
    console.log(`| ${[recipe, ...cells].join(" | ")} |`);
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}

function* idsOf(pieces: Pieces): Generator<Uint32Array> {
  for (let piece = 0; piece < pieces.count; piece++) yield pieces.ids(piece);
}
