import {
  CORPUS_OPTIONS,
  DEVICE_OPTIONS,
  PRESETS,
  RUN_OPTIONS,
  SETTINGS,
  sweep,
  type SweepOptions,
  type SweepResult,
  type SweptValues,
} from "../mod.ts";
import { type Command, type Flag, type FlagValues, parseFlag } from "./command.ts";
import { flagsOf } from "./flags.ts";
import { harmlessLine } from "./harmless.ts";
import { onInterrupt } from "./interrupt.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { LiveProgress } from "./progress.ts";
import { columns, isTerminal, LiveLine, print, printError, printJson, say } from "./terminal.ts";

/** The settings' flags, as `train` has them. */
const SETTING_FLAGS = flagsOf(SETTINGS);

/** Names parts with commas between: no list of values. */
const NO_LIST = ["--freeze"];

/** Of the options of a run, those that a sweep has too. */
const { tokenizerSample, cacheDir, cacheSize } = RUN_OPTIONS;

export const command: Command = {
  flags: [
    ...flagsOf(CORPUS_OPTIONS),
    { name: "--output", value: "dir", help: "where the runs go, each into a directory", default: "sweep" },
    { name: "--chat", help: "the input is conversations, such as JSONL of [{role, content}, …]" },
    { name: "--preset", value: "name", help: "settings to start from", choices: Object.keys(PRESETS) },
    { name: "--from", value: "dir", help: `start from the weights of ${ANY_MODEL}` },
    ...SETTING_FLAGS.map(asList),
    ...flagsOf(DEVICE_OPTIONS),
    ...flagsOf({ tokenizerSample, cacheDir, cacheSize }),
    { name: "--json", help: "print a JSON object a run, the best first" },
  ],
  run: runSweep,
};

/** A setting's flag that takes several values: "0.003,0.006". */
function asList(flag: Flag): Flag {
  if (flag.value === undefined || NO_LIST.includes(flag.name)) return flag;
  const { type: _, choices, ...rest } = flag;
  return { ...rest, help: flag.help + (choices ? ` (${choices.join(", ")})` : "") };
}

/** The values of the settings: of those that have several as lists, of the others as they are. */
function settingsOf(given: FlagValues): { values: SweptValues; single: FlagValues } {
  const values: Record<string, unknown[]> = {};
  const single: FlagValues = { ...given };
  for (const flag of SETTING_FLAGS) {
    const text = given[flag.key!];
    if (typeof text !== "string" || NO_LIST.includes(flag.name)) continue;
    const list = text.split(",").map((word) => parseFlag(flag, word.trim()));
    if (list.length === 1) single[flag.key!] = list[0]!;
    else {
      values[flag.key!] = [...new Set(list)];
      delete single[flag.key!];
    }
  }
  return { values: values as SweptValues, single };
}

/** @returns the exit code: 130 where it was interrupted, 1 where no run came to its end */
async function runSweep({ json, ...given }: FlagValues): Promise<number> {
  const { values, single } = settingsOf(given);
  const from = given.from === undefined ? {} : { from: await localModelDir(given.from as string) };
  const interrupt = new AbortController();
  const stopListening = onInterrupt(() => {
    say("\nstopping after this step and saving; the same command goes on from there");
    interrupt.abort();
  });
  try {
    const options = { ...single, ...from, values, signal: interrupt.signal } as SweepOptions;
    const results = await follow(options);
    if (json) { for (const result of results) printJson(fieldsOf(result)); }
    else for (const line of [...table(results), "", ...chart(results)]) print(line);
    if (interrupt.signal.aborted) return 130;
    return results.length > 0 ? 0 : 1;
  } finally {
    stopListening();
  }
}

/** Shows how the runs go. @returns what they came to, the best first */
async function follow(options: SweepOptions): Promise<SweepResult[]> {
  const results: SweepResult[] = [];
  const live = new LiveLine();
  let progress: LiveProgress | undefined;
  for await (const event of sweep(options)) {
    if (event.type === "step") {
      progress?.step(event, event.loss);
      continue;
    }
    live.clear();
    if (event.type === "plan" && isTerminal()) progress = new LiveProgress(event.totalSteps, live);
    if (event.type === "run") say(`run ${event.number} of ${event.count}: ${flagsText(event.values)}`);
    if (event.type !== "result") continue;
    if (event.failure) printError(event.failure);
    else if (event.result) {
      results.push(event.result);
      const { bitsPerByte, bestStep, seconds } = event.result;
      say(
        `  ${bitsPerByte.toFixed(4)} bits per byte at step ${bestStep}, ${seconds.toFixed(1)} s of training`,
      );
    }
  }
  return results.sort((a, b) => a.bitsPerByte - b.bitsPerByte);
}

const flagNames = new Map(SETTING_FLAGS.map(({ key, name }) => [key!, name]));

/** "--lr 0.003 --n-layer 2" */
function flagsText(values: SweepResult["values"]): string {
  return harmlessLine(
    Object.entries(values).map(([name, value]) => `${flagNames.get(name)} ${value}`).join(" "),
  );
}

function fieldsOf({ values, directory, step, seconds, loss, bitsPerByte, bestStep }: SweepResult) {
  return { ...values, directory, step, seconds, loss, bits_per_byte: bitsPerByte, best_step: bestStep };
}

/** A row a run, the best first. */
function table(results: readonly SweepResult[]): string[] {
  if (results.length === 0) return [];
  const varied = Object.keys(results[0]!.values);
  const head = [
    ...varied.map((name) => flagNames.get(name)!.slice(2)),
    "loss",
    "bits/byte",
    "at step",
    "training",
    "directory",
  ];
  const rows = results.map(({ values, loss, bitsPerByte, bestStep, seconds, directory }) => [
    ...varied.map((name) => String(values[name as keyof typeof values])),
    loss.toFixed(4),
    bitsPerByte.toFixed(4),
    String(bestStep),
    `${seconds.toFixed(1)} s`,
    harmlessLine(directory),
  ]);
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]!.length)));
  const last = head.length - 1;
  return [head, ...rows].map((row) =>
    row.map((cell, i) => i === last ? cell : cell.padStart(widths[i]!)).join("  ")
  );
}

/** Narrower than this, the places of the runs could not be told apart. */
const NARROWEST = 16;

/** Where each run lies between the best and the worst. */
function chart(results: readonly SweepResult[]): string[] {
  if (results.length < 2) return [];
  const labels = results.map(({ values }) => flagsText(values));
  const label = Math.max(...labels.map((text) => text.length));
  const width = Math.min(60, columns() - label - 12);
  if (width < NARROWEST) return [];
  const [best, worst] = [results[0]!.bitsPerByte, results.at(-1)!.bitsPerByte];
  const place = (bits: number) => Math.round((bits - best) / (worst - best || 1) * (width - 1));
  const [from, to] = [best.toFixed(4), worst.toFixed(4)];
  return [
    ...results.map(({ bitsPerByte }, i) => {
      const at = place(bitsPerByte);
      return `${labels[i]!.padEnd(label)} │${"─".repeat(at)}●${" ".repeat(width - 1 - at)}│ ${
        bitsPerByte.toFixed(4)
      }`;
    }),
    `${" ".repeat(label + 2)}${from}${to.padStart(width - from.length)}  bits per byte`,
  ];
}
