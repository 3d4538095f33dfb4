/**
 * How probable a model finds each token of a text, what it expected instead, and where its attention
 * heads look. Computed on the reference device, whose every number can be seen; meant for a line or two and small models.
 */
import { StreamDecoder } from "../../data/tokenizer.ts";
import type { Device, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { ReferenceDevice } from "../../device/reference_device.ts";
import { openTokenizer } from "../devices.ts";
import { readModel } from "../files/checkpoint.ts";
import { networkOf } from "../networks.ts";
import { flatTensor } from "../parameters.ts";
import type { ProbableToken, TextInspection, TokenMap } from "./inspect_text.ts";
import { buildPrompt, type PromptOptions } from "./prompt.ts";

/** Tokens that are looked at, at most. */
const MAX_TOKENS = 128;
/** Tokens that are told of as most like one. */
const NEAREST = 5;
/** Alternatives that are told. */
const EXPECTED = 5;

/** Softmax of queries · keys of one head, for each row over it and those before it. */
function attentionOf(
  qkv: Float32Array,
  { T, stride, query, key, D }: { T: number; stride: number; query: number; key: number; D: number },
): Float32Array {
  const weights = new Float32Array(T * T);
  for (let t = 0; t < T; t++) {
    const scores = Array.from({ length: t + 1 }, (_, s) => {
      let dot = 0;
      for (let i = 0; i < D; i++) dot += qkv[t * stride + query + i]! * qkv[s * stride + key + i]!;
      return dot / Math.sqrt(D);
    });
    const largest = Math.max(...scores);
    const exps = scores.map((score) => Math.exp(score - largest));
    const sum = exps.reduce((total, value) => total + value, 0);
    exps.forEach((value, s) => weights[t * T + s] = value / sum);
  }
  return weights;
}

/** A reference device that hands what goes into attention to `seen`, on its way. */
class WatchedDevice extends ReferenceDevice {
  constructor(
    readonly seen: (
      qkv: Promise<Float32Array | Uint32Array>,
      width: number,
      heads: number,
      kvHeads: number,
    ) => void,
  ) {
    super("f32");
  }

  override attentionCached(...call: Parameters<ReferenceDevice["attentionCached"]>): void {
    const [out, qkv, , , , nHead, nKvHead = nHead] = call;
    this.seen(this.read(qkv), out.cols, nHead, nKvHead);
    super.attentionCached(...call);
  }
}

function probabilities(logits: Float32Array): Float32Array {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const exps = logits.map((logit) => Math.exp(logit - largest));
  const sum = exps.reduce((total, value) => total + value, 0);
  return exps.map((value) => value / sum);
}

function column(device: Device, label: string, values: number[]): Tensor {
  const tensor = device.tensor(label, values.length, 1, "u32");
  device.write(tensor, Uint32Array.from(values));
  return tensor;
}

/** What `inspectText` does, which loads it when it is called. */
export async function lookAtText(
  path: string,
  prompt: PromptOptions,
  answer: string,
): Promise<TextInspection> {
  const { config, chat, params, tokenizerJson } = await readModel(path);
  const tokenizer = await openTokenizer(tokenizerJson);
  const asked = buildPrompt(tokenizer, chat, config.block_size, prompt).ids;
  const ids = [...asked, ...tokenizer.encodeOne(answer)];
  const T = Math.min(ids.length, config.block_size); // a last token after them is only looked at
  if (ids.length > MAX_TOKENS || ids.length > T + 1) {
    const most = Math.min(MAX_TOKENS, config.block_size + 1);
    throw new MicrogptError(`the text has ${ids.length} tokens, at most ${most} are looked at`, {
      usage: true,
    });
  }
  const names = new Map(tokenizer.special.map(({ id, content }) => [id, content]));
  const textOf = (id: number) => {
    const decoder = new StreamDecoder(tokenizer);
    return names.get(id) ?? decoder.push(id) + decoder.flush();
  };
  const layers: {
    qkv: Promise<Float32Array | Uint32Array>;
    width: number;
    heads: number;
    kvHeads: number;
  }[] = [];
  const device = new WatchedDevice((qkv, width, heads, kvHeads) =>
    layers.push({ qkv, width, heads, kvHeads })
  );
  const network = networkOf(config);
  const flat = flatTensor(device, "weights", network.layout, "work");
  device.write(flat, params);
  const memory = network.allocateDecodeMemory(device, T, T, T); // logits for every row, all of one sequence
  const rows = {
    tokens: column(device, "tokens", ids.slice(0, T)),
    positions: column(device, "positions", ids.slice(0, T).map((_, i) => i)),
    sequences: column(device, "sequences", Array(T).fill(0)),
  };
  network.decodeStep(device, network.views(device, flat), memory, rows, T, T);
  const logits = await device.read(memory.logits) as Float32Array;
  const V = config.vocab_size;
  const distributions = Array.from({ length: T }, (_, t) => probabilities(logits.slice(t * V, (t + 1) * V)));
  const expectedOf = (distribution: Float32Array): ProbableToken[] =>
    [...distribution.keys()].sort((a, b) => distribution[b]! - distribution[a]!).slice(0, EXPECTED)
      .map((id) => ({ id, text: textOf(id), probability: distribution[id]! }));
  const attention = await Promise.all(layers.map(async ({ qkv, width, heads, kvHeads }) => {
    const values = await qkv as Float32Array;
    const [D, stride] = [width / heads, values.length / T];
    return Array.from({ length: heads }, (_, h) => {
      const key = width + Math.floor(h / (heads / kvHeads)) * D;
      return attentionOf(values, { T, stride, query: h * D, key, D });
    });
  }));
  device.destroy();
  return {
    tokens: ids.map((id, t) => ({
      id,
      text: textOf(id),
      probability: t === 0 ? 1 : distributions[t - 1]![id]!,
      expected: t === 0 ? [] : expectedOf(distributions[t - 1]!),
    })),
    start: answer === "" ? 1 : asked.length,
    next: expectedOf(distributions[T - 1]!),
    attention,
  };
}

/** The direction in which rows [n, width], which lie around 0, differ most, and how much; by repeated multiplication. */
function mainDirection(rows: Float32Array, width: number): { direction: Float64Array; variance: number } {
  const n = rows.length / width;
  let direction = Float64Array.from({ length: width }, (_, i) => Math.cos(i * 1.7 + 0.3));
  let variance = 0;
  for (let round = 0; round < 100; round++) {
    const next = new Float64Array(width);
    for (let r = 0; r < n; r++) {
      let dot = 0;
      for (let i = 0; i < width; i++) dot += rows[r * width + i]! * direction[i]!;
      for (let i = 0; i < width; i++) next[i]! += dot * rows[r * width + i]!;
    }
    variance = Math.hypot(...next);
    if (variance === 0) break;
    direction = next.map((value) => value / variance);
  }
  return { direction, variance };
}

/** Of each row [n, width] those whose cosine with it is largest. */
function nearestRows(rows: Float32Array, width: number): number[][] {
  const all = Array.from({ length: rows.length / width }, (_, r) => {
    const row = rows.subarray(r * width, (r + 1) * width);
    const length = Math.hypot(...row) || 1;
    return row.map((value) => value / length);
  });
  return all.map((row, r) => {
    const cosines = all.map((other) => other.reduce((sum, value, i) => sum + value * row[i]!, 0));
    return [...all.keys()].filter((other) => other !== r).sort((a, b) => cosines[b]! - cosines[a]!)
      .slice(0, NEAREST);
  });
}

/** What `mapTokens` does, which loads it when it is called. */
export async function placesOfTokens(path: string, most: number): Promise<TokenMap> {
  const { config, params, layout, tokenizerJson } = await readModel(path);
  const tokenizer = await openTokenizer(tokenizerJson);
  const table = layout.entries.find(({ rows, cols }) =>
    rows === config.vocab_size && cols === config.n_embd
  )!;
  const width = table.cols;
  const decoder = new TextDecoder();
  const readable = [...Array(config.vocab_size).keys()]
    .filter((id) => /^[\p{L}\p{N}\p{P} ]+$/u.test(decoder.decode(tokenizer.tokenBytes(id))))
    .slice(0, most);
  const rows = new Float32Array(readable.length * width);
  readable.forEach((id, r) =>
    rows.set(params.subarray(table.offset + id * width, table.offset + (id + 1) * width), r * width)
  );
  for (let i = 0; i < width; i++) {
    let mean = 0;
    for (let r = 0; r < readable.length; r++) mean += rows[r * width + i]! / readable.length;
    for (let r = 0; r < readable.length; r++) rows[r * width + i]! -= mean;
  }
  const nearest = nearestRows(rows, width);
  const total = rows.reduce((sum, value) => sum + value * value, 0);
  const places = new Float32Array(readable.length * 2);
  let shown = 0;
  for (const axis of [0, 1]) {
    const { direction, variance } = mainDirection(rows, width);
    shown += total > 0 ? variance / total : 0;
    for (let r = 0; r < readable.length; r++) {
      let dot = 0;
      for (let i = 0; i < width; i++) dot += rows[r * width + i]! * direction[i]!;
      places[2 * r + axis] = dot;
      for (let i = 0; i < width; i++) rows[r * width + i]! -= dot * direction[i]!;
    }
  }
  return { texts: readable.map((id) => decoder.decode(tokenizer.tokenBytes(id))), places, nearest, shown };
}
