/** How a token is drawn from logits, as a plain formula. */
import { IN_PROMPT, LEAST_TEMPERATURE, type Sampling } from "./device.ts";

/** Most runs of neighbouring ids that can be suppressed. */
export const MAX_RUNS = 8;

/** Where the runs begin in a row of `Draws.settings`. */
const RUNS_AT = 8;

/** Columns of `Draws.settings`: settings, then the first id of each suppressed run and the one after its last. */
export const SAMPLING_COLUMNS = RUNS_AT + 2 * MAX_RUNS;

/** Nothing is cut off, nothing counts against being said again. */
export const PLAIN_SAMPLING: Sampling = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  suppressed: [],
};

/** Whether what was said counts. */
export function hasPenalties({ repetitionPenalty, frequencyPenalty, presencePenalty }: Sampling): boolean {
  return repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
}

/** Runs of neighbours among ids: first, and the one after the last. */
function runsOf(ids: readonly number[]): [number, number][] {
  const runs: [number, number][] = [];
  for (const id of ids.toSorted((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && id <= last[1]) last[1] = id + 1;
    else runs.push([id, id + 1]);
  }
  return runs;
}

/**
 * A row of `Draws.settings`. A temperature that counts as 0 is 0 there. Ids are below 2²⁴, which f32 holds exactly.
 * @throws {RangeError} when the suppressed ids are more than 8 runs of neighbours
 */
export function samplingRow(sampling: Sampling): Float32Array<ArrayBuffer> {
  const { temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty } = sampling;
  const runs = runsOf(sampling.suppressed);
  if (runs.length > MAX_RUNS) {
    throw new RangeError(`at most ${MAX_RUNS} runs of neighbouring ids can be suppressed`);
  }
  const row = new Float32Array(SAMPLING_COLUMNS);
  const above = temperature < LEAST_TEMPERATURE ? 0 : temperature;
  row.set([above, Math.min(topK, 2 ** 24), topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty]);
  row.set(runs.flat(), RUNS_AT);
  return row;
}

/** What row `sequence` of `Draws.settings` says. */
export function readSampling(settings: ArrayLike<number>, sequence: number): Sampling {
  const row = Array.from({ length: SAMPLING_COLUMNS }, (_, i) => settings[sequence * SAMPLING_COLUMNS + i]!);
  const [temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty] = row as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const suppressed: number[] = [];
  for (let run = RUNS_AT; run < SAMPLING_COLUMNS; run += 2) {
    for (let id = row[run]!; id < row[run + 1]!; id++) suppressed.push(id);
  }
  return { temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty, suppressed };
}

/** A row of `Draws.said` before anything is drawn: the prompt has `ids`, of which `except` do not count. */
export function saidIn(
  ids: readonly number[],
  vocabulary: number,
  except: readonly number[],
): Uint32Array<ArrayBuffer> {
  const said = new Uint32Array(vocabulary);
  for (const id of ids) said[id] = IN_PROMPT;
  for (const id of except) said[id] = 0;
  return said;
}

/**
 * Lowers the logits of what was said.
 * @param logits [V], changed in place
 * @param said [V] how often each id was drawn, with `IN_PROMPT` where the prompt has it
 */
export function penalize(
  logits: Float64Array,
  said: Uint32Array,
  { repetitionPenalty, frequencyPenalty, presencePenalty }: Sampling,
): void {
  for (let id = 0; id < said.length; id++) {
    const count = said[id]!;
    if (count === 0) continue;
    const drawn = count % IN_PROMPT;
    const logit = logits[id]! > 0 ? logits[id]! / repetitionPenalty : logits[id]! * repetitionPenalty;
    logits[id] = logit - (frequencyPenalty * drawn + (drawn > 0 ? presencePenalty : 0));
  }
}

/**
 * Picks a token: drops suppressed ids, then top-k, softmax at the temperature, top-p, min-p, and the first id whose
 * cumulative probability exceeds the draw. NaN is never drawn; an infinite logit always is.
 * @param logits [V], changed in place
 * @param draw uniform in [0, 1)
 * @returns the id
 */
export function drawToken(
  logits: Float64Array,
  draw: number,
  { temperature, topK, topP, minP, suppressed }: Sampling,
): number {
  for (const id of suppressed) if (id < logits.length) logits[id] = -Infinity;
  for (let id = 0; id < logits.length; id++) if (Number.isNaN(logits[id])) logits[id] = -Infinity;
  const greedy = logits.reduce((best, logit, id) => logit > logits[best]! ? id : best, 0);
  if (temperature < LEAST_TEMPERATURE || !Number.isFinite(logits[greedy])) return greedy;
  if (topK > 0 && topK < logits.length) {
    const kth = logits.toSorted()[logits.length - topK]!;
    for (let id = 0; id < logits.length; id++) if (logits[id]! < kth) logits[id] = -Infinity;
  }
  const max = logits[greedy]!;
  const p = logits.map((logit) => Math.exp((logit - max) / temperature));
  let total = p.reduce((sum, value) => sum + value, 0);
  if (topP < 1) {
    let kept = 0;
    let threshold = 0;
    for (const value of p.toSorted().reverse()) {
      threshold = value;
      kept += value;
      if (kept >= topP * total) break;
    }
    for (let id = 0; id < p.length; id++) if (p[id]! < threshold) p[id] = 0;
    total = p.reduce((sum, value) => sum + value, 0);
  }
  if (minP > 0) {
    // the most probable one is exp(0)
    for (let id = 0; id < p.length; id++) if (p[id]! < minP) p[id] = 0;
    total = p.reduce((sum, value) => sum + value, 0);
  }
  let cumulative = 0;
  for (let id = 0; id < p.length; id++) {
    cumulative += p[id]!;
    if (p[id]! > 0 && cumulative > draw * total) return id;
  }
  return greedy;
}
