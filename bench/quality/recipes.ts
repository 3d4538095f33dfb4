/**
 * Compares recipes: the same data, the same seeds, equal steps or equal seconds of training; held-out bits per byte of each.
 *
 *     deno run -A bench/quality/recipes.ts --input data/samples/names.txt --preset names --steps 400 \
 *       --seeds 42,43,44 --results names.jsonl -- "" "--lr 0.01" "--optimizer muon --lr 0.01"
 *     deno run -A bench/quality/recipes.ts --input chats.jsonl --chat --preset chat-small --seconds 600 -- ""
 *
 * A recipe is flags of `microgpt train`; the first is what the others are compared with. `--common=FLAGS` are of all. With
 * `--seconds` a trial tells how fast a recipe's steps are, and the run gets as many as fit: its schedule ends there. Time is
 * that of steps; evaluations are not counted. Runs that `--results` has are not repeated, so that a long comparison can be
 * done in pieces.
 *
 * What training holds out its tokenizer has seen, which flatters large vocabularies. `--test 20` keeps every 20th line of the
 * input from both, and measures the finished model on these.
 */
import { parseArgs } from "node:util";
import { parseFlag } from "../../cli/command.ts";
import { flagsOf } from "../../cli/flags.ts";
import { evaluate, type PresetName, SETTINGS, type Settings, train, type TrainOptions } from "../../mod.ts";
import { splitLines } from "./lines.ts";

const { values: flags, positionals: recipes } = parseArgs({
  allowPositionals: true,
  options: {
    input: { type: "string" },
    /** the input is conversations */
    chat: { type: "boolean", default: false },
    preset: { type: "string" },
    /** flags that all recipes have */
    common: { type: "string", default: "" },
    seeds: { type: "string", default: "42" },
    steps: { type: "string" },
    /** of training, in place of steps */
    seconds: { type: "string" },
    threads: { type: "string", default: "2" },
    /** every so many lines one that neither tokenizer nor training sees: the finished model is measured on them */
    test: { type: "string" },
    /** JSON lines, one a run; what is there is not run again */
    results: { type: "string" },
  },
});
if (flags.input === undefined || recipes.length === 0) throw new Error("--input and recipes are needed");
if ((flags.steps === undefined) === (flags.seconds === undefined)) {
  throw new Error("--steps or --seconds is needed, one of them");
}

/** Steps of a trial that are not timed, and the seconds that are. */
const WARM_STEPS = 10;
const TRIAL_SECONDS = 6;

/** What a run came to. */
interface Result {
  /** all that decides it */
  key: string;
  steps: number;
  seconds: number;
  tokens: number;
  /** held out, after the last step */
  bitsPerByte: number;
  /** of the best evaluation, and its step */
  best: number;
  bestStep: number;
  /** of the lines of `--test` */
  test?: number;
}

const FLAGS = new Map(flagsOf(SETTINGS).map((flag) => [flag.name, flag]));

/** Settings of a recipe: "--lr 0.01 --tie". */
function settingsOf(words: string): Partial<Settings> {
  const settings: Record<string, unknown> = {};
  const list = words.split(/\s+/u).filter(Boolean);
  while (list.length > 0) {
    const word = list.shift()!;
    const flag = FLAGS.get(word);
    if (!flag) throw new Error(`${word} is no setting of \`microgpt train\``);
    settings[flag.key!] = flag.value === undefined ? true : parseFlag(flag, list.shift() ?? "");
  }
  return settings as Partial<Settings>;
}

/**
 * Trains, in a directory that is removed again.
 * @param seconds after which the run is ended
 * @param test a file to measure the model on
 */
async function run(options: TrainOptions, seconds = Infinity, test?: string): Promise<Omit<Result, "key">> {
  const output = await Deno.makeTempDir({ prefix: "microgpt-recipe-" });
  const stop = new AbortController();
  const result: Omit<Result, "key"> = {
    steps: 0,
    seconds: 0,
    tokens: 0,
    bitsPerByte: NaN,
    best: Infinity,
    bestStep: 0,
  };
  try {
    for await (const event of train({ ...options, output, signal: stop.signal })) {
      if (event.type === "step") {
        if (seconds < Infinity && event.step <= WARM_STEPS) continue;
        result.steps++;
        result.tokens += event.tokens;
        result.seconds += event.milliseconds / 1000;
        if (result.seconds > seconds) stop.abort();
      }
      if (event.type === "notice" && event.message.startsWith("warning")) console.error(event.message);
      if (event.type !== "evaluation") continue;
      result.bitsPerByte = event.bitsPerByte;
      if (event.bitsPerByte >= result.best) continue;
      result.best = event.bitsPerByte;
      result.bestStep = event.step;
    }
    if (test !== undefined) {
      const measured = await evaluate({
        modelDir: output,
        input: [test],
        device: "cpu",
        threads: Number(threads),
      });
      result.test = measured.bitsPerByte;
    }
  } finally {
    await Deno.remove(output, { recursive: true });
  }
  return result;
}

/** The recipe's own `--steps`, or those of all, or as many as fit `--seconds`. */
async function stepsOf(options: TrainOptions): Promise<number> {
  if (options.steps !== undefined) return options.steps;
  if (flags.steps !== undefined) return Number(flags.steps);
  const trial = await run({ ...options, steps: 1_000_000 }, TRIAL_SECONDS);
  return Math.max(1, Math.floor(Number(flags.seconds) * trial.steps / trial.seconds));
}

const earlier = new Map<string, Result>();
if (flags.results !== undefined) {
  const text = await Deno.readTextFile(flags.results).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  });
  for (const line of text.split("\n").filter(Boolean)) {
    const result = JSON.parse(line) as Result;
    earlier.set(result.key, result);
  }
}

const { input, chat, preset, common, threads } = flags;
/** The input without the lines of `--test`, and these. */
const parts: { input: string; test?: string } = flags.test === undefined
  ? { input }
  : await splitLines(input, Number(flags.test));
const found = new Map<string, Result[]>(recipes.map((recipe) => [recipe, []]));
for (const seed of flags.seeds.split(",").map(Number)) {
  for (const recipe of recipes) {
    const amount = flags.steps === undefined
      ? `${flags.seconds} s, ${threads} threads`
      : `${flags.steps} steps`;
    const all = `${common} ${recipe}`.trim();
    const key = [
      flags.test === undefined ? input : `${input} but every ${flags.test}th`,
      chat ? "chat" : "text",
      preset ?? "defaults",
      amount,
      `seed ${seed}`,
      all,
    ].join(" | ");
    let result = earlier.get(key);
    if (!result) {
      const options: TrainOptions = {
        input: parts.input,
        chat,
        ...(preset === undefined ? {} : { preset: preset as PresetName }),
        device: "cpu",
        threads: Number(threads),
        evalEvery: 0,
        ...settingsOf(all),
        seed,
      };
      result = { key, ...await run({ ...options, steps: await stepsOf(options) }, Infinity, parts.test) };
      if (flags.results !== undefined) {
        await Deno.writeTextFile(flags.results, JSON.stringify(result) + "\n", { append: true });
      }
    }
    const measured = result.test === undefined ? "" : `, test ${result.test.toFixed(4)}`;
    console.error(`seed ${seed}, ${recipe || "(as it is)"}: ${result.bitsPerByte.toFixed(4)}${measured}`);
    found.get(recipe)!.push(result);
  }
}

const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const first = found.get(recipes[0]!)!;
console.log(
  "| recipe | bits per byte | to the first | each seed | best, at step | test | steps | seconds | tokens/s |",
);
console.log("|---|---|---|---|---|---|---|---|---|");
for (const [recipe, results] of found) {
  const bits = results.map(({ bitsPerByte }) => bitsPerByte);
  const of = (pick: (result: Result) => number) => mean(results.map(pick));
  console.log(
    `| ${
      [
        recipe || "(as it is)",
        mean(bits).toFixed(4),
        mean(bits.map((value, i) => value - first[i]!.bitsPerByte)).toFixed(4),
        bits.map((value) => value.toFixed(3)).join(", "),
        results.map(({ best, bestStep }) => `${best.toFixed(3)} at ${bestStep}`).join(", "),
        flags.test === undefined ? "" : of(({ test }) => test!).toFixed(4),
        of(({ steps }) => steps).toFixed(0),
        of(({ seconds }) => seconds).toFixed(1),
        of(({ tokens, seconds }) => tokens / seconds).toFixed(0),
      ].join(" | ")
    } |`,
  );
}
