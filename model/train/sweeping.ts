/** Runs a sweep, and finds again what was done of it. */
import { files } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { flagOf, type Options } from "../../device/options.ts";
import { holdsCheckpoint, readTrainState } from "../files/checkpoint.ts";
import { fileError, ifThere } from "../files/directory.ts";
import { SETTINGS, type Settings } from "../settings.ts";
import { checkTrainOptions, deviceOptions } from "./options.ts";
import type { SweepEvent, SweepOptions, SweepResult, SweepRun, SweptValues } from "./sweep.ts";
import { train, type TrainEvent } from "./train.ts";

/** What tells that a directory's runs are of this sweep. */
const RECORD = "sweep.json";

/** All combinations of values. */
export function combinations(values: SweptValues): Partial<Settings>[] {
  let all: Partial<Settings>[] = [{}];
  for (const [name, list] of Object.entries(values)) {
    all = all.flatMap((before) => list.map((value) => ({ ...before, [name]: value })));
  }
  return all;
}

/** A directory's name for a combination: "lr-0.003 n-layer-2", with what no file system minds. */
function nameOf(values: Partial<Settings>): string {
  return Object.entries(values).map(([name, value]) => {
    return `${flagOf(name, (SETTINGS as Options)[name]).slice(2)}-${value}`;
  }).join("_");
}

/** What `sweep` does, which loads it when it is called. */
export async function* sweepEvents(options: SweepOptions): AsyncGenerator<SweepEvent, void, void> {
  const { values, output = "sweep", ...common } = options;
  const runs = combinations(values).map((values): SweepRun => {
    return { values, directory: join(output, nameOf(values)) };
  });
  for (const { values } of runs) checkTrainOptions({ ...common, ...values });
  if (common.preset === "auto") {
    throw new MicrogptError("`preset` auto chooses the settings of one run, and a sweep compares several", {
      hint: "choose another preset",
      usage: true,
    });
  }
  if (Object.values(values).some((list) => list.length === 0) || Object.keys(values).length === 0) {
    throw new MicrogptError("a sweep varies at least one setting", {
      hint: "give several values to one, such as a `learningRate` of 0.003 and of 0.006",
      usage: true,
    });
  }
  if (runs.some(({ values }) => (values.valFraction ?? common.valFraction) === 0)) {
    throw new MicrogptError("a sweep compares held-out losses: with `valFraction` 0 there are none", {
      usage: true,
    });
  }
  await checkRecord(output, common, Object.keys(values));
  for (const [i, run] of runs.entries()) {
    yield { type: "run", number: i + 1, count: runs.length, ...run };
    try {
      if (!await isDone(run.directory)) yield* trainRun(run, common);
    } catch (failure) {
      if (!(failure instanceof MicrogptError)) throw failure;
      yield { type: "result", failure };
      continue;
    }
    if (common.signal?.aborted) return;
    yield { type: "result", result: { ...run, ...await resultOf(run.directory) } };
  }
}

async function* trainRun(
  { values, directory }: SweepRun,
  common: Omit<SweepOptions, "values" | "output">,
): AsyncGenerator<TrainEvent, void, void> {
  const { signal, input, documents, conversations } = common;
  const given = {
    ...(signal ? { signal } : {}),
    ...(input === undefined ? {} : { input }),
    ...(documents ? { documents } : {}),
    ...(conversations ? { conversations } : {}),
  };
  const begun = await holdsCheckpoint(directory);
  yield* train(
    begun
      ? { ...given, ...deviceOptions(common), resume: directory }
      : { ...common, ...values, output: directory },
  );
}

/** Whether a run came to its end. */
async function isDone(directory: string): Promise<boolean> {
  return await holdsCheckpoint(directory) && (await readTrainState(directory))?.final === true;
}

/** What the log of a finished run says. */
async function resultOf(directory: string): Promise<Omit<SweepResult, keyof SweepRun>> {
  const result = { step: 0, seconds: 0, loss: Infinity, bitsPerByte: Infinity, bestStep: 0 };
  const log = await files.readTextFile(join(directory, "metrics.jsonl"));
  for (const line of log.split("\n").filter(Boolean)) {
    const { step, ms, val_loss: loss, val_bits_per_byte: bitsPerByte } = JSON.parse(line);
    if (typeof ms === "number") Object.assign(result, { step, seconds: result.seconds + ms / 1000 });
    if (typeof loss !== "number" || loss >= result.loss) continue;
    Object.assign(result, { loss, bitsPerByte, bestStep: step });
  }
  return result;
}

/** Writes what the runs in `output` have in common, or compares it with what is written there. */
async function checkRecord(
  output: string,
  { signal: _, onPreparing: __, documents: ___, conversations: ____, ...common }: Omit<
    SweepOptions,
    "values" | "output"
  >,
  varied: readonly string[],
): Promise<void> {
  const record: SweepRecord = JSON.parse(JSON.stringify({ varied, common }));
  const path = join(output, RECORD);
  let text: string | undefined;
  try {
    await files.mkdir(output, { recursive: true });
    text = await ifThere(files.readTextFile(path));
    if (text === undefined) return await files.writeTextFile(path, JSON.stringify(record, null, 2) + "\n");
  } catch (error) {
    throw fileError(`cannot write ${path}`, error);
  }
  const before = recordIn(text, path);
  const all = ({ varied, common }: SweepRecord): Record<string, unknown> => ({ varied, ...common });
  const [then, now] = [all(before), all(record)];
  const changed = Object.keys({ ...then, ...now }).find((name) => {
    return JSON.stringify(then[name]) !== JSON.stringify(now[name]);
  });
  if (changed === undefined) return;
  const what = changed === "varied"
    ? `that varies ${before.varied.map((name) => `\`${name}\``).join(", ")}`
    : `whose \`${changed}\` is ${JSON.stringify(then[changed]) ?? "not given"}`;
  throw new MicrogptError(`${output} holds a sweep ${what}`, {
    hint: "values may be added to a sweep, everything else must stay; choose another directory with `output`",
    usage: true,
  });
}

/** What the runs of a sweep have in common, as it is written. */
interface SweepRecord {
  /** names of the settings that differ */
  varied: string[];
  /** everything else */
  common: Record<string, unknown>;
}

function recordIn(text: string, path: string): SweepRecord {
  try {
    const record = JSON.parse(text);
    if (Array.isArray(record.varied) && typeof record.common === "object") return record;
  } catch {
    // said below
  }
  throw new MicrogptError(`${path} is no record of a sweep`, {
    hint: "choose another directory with `output`",
  });
}
