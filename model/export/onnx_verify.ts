/** Checks an exported graph: its logits in onnxruntime-web against ours on the same prompts. */
import type { ModelConfig } from "../config.ts";
import type { Device } from "../../device/device.ts";
import type { GptConfig } from "../gpt.ts";
import { freeDecodeMemory } from "../network.ts";
import { networkOf } from "../networks.ts";
import { OnnxSession } from "./onnx_session.ts";
import { flatTensor } from "../parameters.ts";
import { mixSeed, uniform } from "../../device/random.ts";

/** Our logits of a prompt: [ids.length, V] end to end, row t after seeing ids[0 … t]. */
export type PromptLogits = (ids: number[]) => Promise<Float32Array>;

/** Longest of the fixed prompts; a full context of 1024 would take seconds on one WebAssembly thread. */
const LONGEST_PROMPT = 256;
/** Tokens fed one by one through the cache at the end of each prompt. */
const SINGLE_STEPS = 4;

/** The prompts an export is checked on: one token, a few, and many; drawn once and for all. */
function verificationPrompts(config: ModelConfig): number[][] {
  const seed = mixSeed(7);
  const lengths = [1, 9, LONGEST_PROMPT].map((length) => Math.min(length, config.block_size));
  return [...new Set(lengths)].map((length, p) =>
    Array.from({ length }, (_, i) => Math.floor(uniform(seed, 1000 * p + i) * config.vocab_size))
  );
}

/**
 * Runs the graph on fixed prompts in three ways (at once; all but the last tokens, then those one by one through
 * the cache; two prompts of different length in one batch, padded in front) and compares each with `expected`.
 * @param bytes an ONNX file as `buildOnnx` makes it
 * @returns the largest absolute difference of any logit; NaN when a logit is not a number
 * @throws {MicrogptError} when the runtime rejects the graph
 */
export async function verifyOnnx(
  bytes: Uint8Array,
  config: GptConfig,
  expected: PromptLogits,
): Promise<number> {
  const session = await OnnxSession.open(bytes, config);
  try {
    const prompts = verificationPrompts(config);
    const references = [];
    for (const prompt of prompts) references.push(await expected(prompt));
    const differences = [];
    for (const [i, prompt] of prompts.entries()) {
      const whole = await session.run({ tokens: [prompt], positions: [countFrom(0, prompt.length)] });
      differences.push(largestDifference(whole.logits, references[i]!));
      const stepwise = await runInSteps(session, prompt);
      differences.push(largestDifference(stepwise, references[i]!.subarray(-stepwise.length)));
    }
    const [short, long] = [prompts.length - 2, prompts.length - 1];
    if (short >= 0) {
      const [shortLogits, longLogits] = await runPadded(session, prompts[short]!, prompts[long]!);
      differences.push(largestDifference(shortLogits, references[short]!));
      differences.push(largestDifference(longLogits, references[long]!));
    }
    return Math.max(...differences);
  } finally {
    await session.close();
  }
}

/** Feeds the front of a prompt at once and its last tokens one by one. @returns logits of the last feeds */
async function runInSteps(session: OnnxSession, prompt: number[]): Promise<Float32Array> {
  const front = Math.max(1, prompt.length - SINGLE_STEPS);
  let step = await session.run({ tokens: [prompt.slice(0, front)], positions: [countFrom(0, front)] });
  const V = step.logits.length / front;
  const rows = [step.logits.subarray(-V)];
  for (let i = front; i < prompt.length; i++) {
    step = await session.run({ tokens: [[prompt[i]!]], positions: [[i]], cache: step.cache });
    rows.push(step.logits);
  }
  const logits = new Float32Array(rows.length * V);
  rows.forEach((row, i) => logits.set(row, i * V));
  return logits;
}

/** Feeds two prompts as one batch, the shorter padded in front. @returns logits of each, without the padding's */
async function runPadded(
  session: OnnxSession,
  short: number[],
  long: number[],
): Promise<[Float32Array, Float32Array]> {
  const padding = long.length - short.length;
  const { logits } = await session.run({
    tokens: [[...Array(padding).fill(0), ...short], long],
    positions: [[...Array(padding).fill(0), ...countFrom(0, short.length)], countFrom(0, long.length)],
    visible: [long.map((_, i) => i >= padding), long.map(() => true)],
  });
  const V = logits.length / (2 * long.length);
  return [logits.subarray(padding * V, long.length * V), logits.subarray(long.length * V)];
}

const countFrom = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i);

/** Largest |a − b|; NaN when any element is. */
function largestDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new RangeError(`${a.length} logits against ${b.length}`);
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  return largest;
}

/**
 * Our own logits, by the network's decoding step on a device.
 * @param device one whose dtype is f32, if small differences matter
 * @param params [layout.length] f32 weights
 * @param run receives the function; the device's memory for it is freed when `run` ends
 */
export async function withPromptLogits<T>(
  device: Device,
  config: ModelConfig,
  params: Float32Array,
  run: (logits: PromptLogits) => Promise<T>,
): Promise<T> {
  const network = networkOf(config);
  const flat = flatTensor(device, "weights", network.layout, "work");
  const rows = Math.min(config.block_size, LONGEST_PROMPT);
  const memory = network.allocateDecodeMemory(device, rows, 1, config.block_size);
  const logits = device.tensor("logits", rows, config.vocab_size, "f32"); // of all rows, not only of the last
  const feed = {
    tokens: device.tensor("tokens", rows, 1, "u32"),
    positions: device.tensor("positions", rows, 1, "u32"),
    sequences: device.tensor("sequences", rows, 1, "u32"),
  };
  device.write(flat, params);
  const weights = network.views(device, flat);
  try {
    return await run(async (ids) => {
      const n = ids.length;
      if (n > rows) throw new RangeError(`${n} ids, at most ${rows} at once`);
      for (const tensor of Object.values(feed)) tensor.rows = n;
      device.write(feed.tokens, Uint32Array.from(ids));
      device.write(feed.positions, Uint32Array.from(ids, (_, i) => i));
      device.write(feed.sequences, new Uint32Array(n));
      network.decodeStep(device, weights, { ...memory, logits }, feed, config.block_size, n);
      device.submit();
      return await device.read(logits) as Float32Array;
    });
  } finally {
    freeDecodeMemory(device, memory);
    for (const tensor of [...Object.values(feed), logits, flat]) device.free(tensor);
  }
}
