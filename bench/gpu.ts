/**
 * How close the WebGPU kernels come to what the adapter can do: GFLOP/s of every matrix product of the presets, GB/s of
 * the kernels that only move memory, milliseconds of a training step and of a decoded token.
 *
 *     deno run -A bench/gpu.ts                          all presets
 *     deno run -A bench/gpu.ts --preset chat-medium --dtype bf16
 *     deno run -A bench/gpu.ts --preset chat-medium --tiles    each product with every tile and split, the fastest three
 *     deno run -A bench/gpu.ts --leak                    memory over 10,000 steps of a tiny model
 *
 * Shares are of the peak measured in the same run (gpu/peak.ts). Documents are random ids of the usual lengths.
 */
import { parseArgs } from "node:util";
import type { GpuTensor } from "../gpu/buffers.ts";
import { type GpuDevice, openGpuDevice } from "../gpu/device.ts";
import { measurePeak, type Peak, timeOnGpu } from "../gpu/peak.ts";
import { matmul } from "../gpu/matmul.ts";
import { MATVEC_ROWS, planTiles, possibleCuts, type TilePlan } from "../gpu/tiles.ts";
import type {
  AdamState,
  Dtype,
  ElementType,
  MatmulForm,
  MatmulFusion,
  PackedDocuments,
  Tensor,
} from "../device/device.ts";
import { type GptConfig, gptNetwork } from "../model/gpt.ts";
import { flatTensor } from "../model/parameters.ts";
import { type PresetName, PRESETS } from "../model/settings.ts";
import { mixSeed, uniform } from "../device/random.ts";
import { PLAIN_SAMPLING, SAMPLING_COLUMNS, samplingRow } from "../device/sampling.ts";

const { values: flags } = parseArgs({
  options: {
    preset: { type: "string", default: "all" },
    dtype: { type: "string", default: "f32" },
    subgroups: { type: "string", default: "auto" },
    leak: { type: "boolean", default: false },
    tiles: { type: "boolean", default: false },
  },
});

/** Lengths of a batch's documents, as the sample data has them; `defaults` is the command line without a preset. */
const CASES: Record<string, { preset: PresetName; vocabSize: number; lengths: number[] }> = {
  defaults: { preset: "names", vocabSize: 4096, lengths: new Array(8).fill(3) },
  names: { preset: "names", vocabSize: 512, lengths: new Array(96).fill(5) },
  "chat-small": { preset: "chat-small", vocabSize: 4096, lengths: new Array(8).fill(285) },
  "chat-medium": { preset: "chat-medium", vocabSize: 4096, lengths: [290, 300, 330, 323] },
  "chat-large": { preset: "chat-large", vocabSize: 4096, lengths: [290, 300, 330, 323] },
};

/** A timing runs about this long. */
const RUN_MS = 40;

const hyper = {
  learningRate: 1e-3,
  beta1: 0.85,
  beta2: 0.99,
  epsilon: 1e-8,
  weightDecay: 0,
};

function randomDocuments(lengths: number[], V: number): PackedDocuments {
  const starts = new Uint32Array(lengths.length + 1);
  lengths.forEach((length, i) => starts[i + 1] = starts[i]! + length);
  const seed = mixSeed(1);
  const ids = (salt: number) =>
    Uint32Array.from({ length: starts.at(-1)! }, (_, t) => Math.floor(uniform(seed, 2 * t + salt) * V));
  return { tokens: ids(0), targets: ids(1), starts };
}

/** Prints a row of right-aligned columns, the first left-aligned. */
function row(...cells: (string | number)[]): void {
  const widths = [44, 9, 7, 10, 10, 8];
  console.log(
    cells.map((cell, i) => i === 0 ? String(cell).padEnd(widths[0]!) : String(cell).padStart(widths[i]!))
      .join(" "),
  );
}

class Bench {
  readonly #marker: GpuTensor;
  constructor(readonly d: GpuDevice, readonly peak: Peak) {
    this.#marker = d.tensor("marker", 1, 4) as GpuTensor;
  }

  /** Milliseconds of one call: as many calls as take about RUN_MS, the fastest of three such runs. */
  async time(call: () => void): Promise<number> {
    await timeOnGpu(this.d, this.#marker, call);
    const once = await timeOnGpu(this.d, this.#marker, call);
    const calls = Math.max(1, Math.min(2000, Math.round(RUN_MS / Math.max(once, 0.01))));
    let best = Infinity;
    for (let run = 0; run < (once > 1000 ? 1 : 3); run++) {
      const milliseconds = await timeOnGpu(this.d, this.#marker, () => {
        for (let i = 0; i < calls; i++) call();
      });
      best = Math.min(best, milliseconds / calls);
    }
    return best;
  }

  filled(rows: number, cols: number, type: ElementType): Tensor {
    const tensor = this.d.tensor("bench", rows, cols, type);
    const values = new Float32Array(rows * cols);
    for (let i = 0; i < values.length; i++) values[i] = ((i * 2654435761) % 1000) / 500 - 1;
    this.d.write(tensor, values);
    return tensor;
  }

  /** Times one product of the model and prints its row. */
  async product(
    name: string,
    form: MatmulForm,
    [M, N, K]: [number, number, number],
    types: [ElementType, ElementType, ElementType],
    fusion: "add" | "relu" | "mask" | "accumulate" | undefined,
  ): Promise<number> {
    const { d } = this;
    const a = form === "TN" ? this.filled(K, M, types[0]) : this.filled(M, K, types[0]);
    const b = form === "NT" ? this.filled(N, K, types[1]) : this.filled(K, N, types[1]);
    const out = d.tensor("bench out", M, N, types[2]);
    const extra = fusion === "add" || fusion === "mask"
      ? this.filled(M, N, fusion === "mask" ? "work" : "f32")
      : out;
    const fusions: Record<string, MatmulFusion> = {
      add: { add: extra },
      relu: { relu: true },
      mask: { reluMask: extra },
      accumulate: { add: out },
    };
    const timed = (plan?: TilePlan) =>
      this.time(() => {
        const [to, left, right] = [out, a, b] as GpuTensor[] as [GpuTensor, GpuTensor, GpuTensor];
        matmul(d, to, left, right, form, fusion ? fusions[fusion]! : {}, plan);
      });
    const describe = ({ tile, parts }: TilePlan) => `${tile.name}${parts > 1 ? `/${parts}` : ""}`;
    const print = (label: string, way: string, ms: number) => {
      const gigaflops = 2 * M * N * K / ms / 1e6;
      const share = `${(100 * gigaflops / this.peak.gigaflops).toFixed(0)} %`;
      row(label, way, "", ms.toFixed(3), gigaflops.toFixed(1), share);
    };
    const ms = await timed();
    const byRows = form === "NT" && M <= MATVEC_ROWS;
    print(
      `${name} ${form} ${M}×${N} over ${K}`,
      byRows ? "rows" : describe(planTiles(M, N, K, d.hardware)),
      ms,
    );
    if (flags.tiles) {
      const ways: { way: string; ms: number }[] = [];
      for (const plan of possibleCuts(M, N, K, d.hardware)) {
        ways.push({ way: describe(plan), ms: await timed(plan) });
      }
      for (const { way, ms } of ways.sort((x, y) => x.ms - y.ms).slice(0, 3)) print("  fastest", way, ms);
    }
    for (const tensor of new Set([a, b, out, extra])) d.free(tensor);
    return ms;
  }

  /** Times a kernel that moves `bytes` and prints its row. */
  async movement(name: string, bytes: number, call: () => void): Promise<void> {
    const ms = await this.time(call);
    const gigabytes = bytes / ms / 1e6;
    const share = `${(100 * gigabytes / this.peak.gigabytesPerSecond).toFixed(0)} %`;
    row(name, "", `${(bytes / 1e6).toFixed(1)} MB`, ms.toFixed(3), `${gigabytes.toFixed(1)} GB`, share);
  }
}

async function products(bench: Bench, config: GptConfig, T: number): Promise<void> {
  const { n_embd: E, vocab_size: V } = config;
  const chunk = Math.min(T, Math.floor((8 << 20) / (4 * V)));
  row("product", "tile", "", "ms", "GFLOP/s", "of peak");
  const w = "work", f = "f32";
  await bench.product("qkv", "NT", [T, 3 * E, E], [w, w, w], undefined);
  await bench.product("attn_wo", "NT", [T, E, E], [w, w, f], "add");
  await bench.product("mlp_fc1", "NT", [T, 4 * E, E], [w, w, w], "relu");
  await bench.product("mlp_fc2", "NT", [T, E, 4 * E], [w, w, f], "add");
  await bench.product("lm_head", "NT", [chunk, V, E], [f, w, f], undefined);
  await bench.product("d lm_head input", "NN", [chunk, E, V], [f, w, f], undefined);
  await bench.product("d lm_head", "TN", [V, E, chunk], [f, f, f], "accumulate");
  await bench.product("d mlp_fc2", "TN", [E, 4 * E, T], [f, w, f], undefined);
  await bench.product("d fc1", "NN", [T, 4 * E, E], [f, w, w], "mask");
  await bench.product("d mlp_fc1", "TN", [4 * E, E, T], [w, w, f], undefined);
  await bench.product("d norm2", "NN", [T, E, 4 * E], [w, w, w], undefined);
  await bench.product("d attn_wo", "TN", [E, E, T], [f, w, f], undefined);
  await bench.product("d heads", "NN", [T, E, E], [f, w, w], undefined);
  await bench.product("d qkv weights", "TN", [3 * E, E, T], [w, w, f], undefined);
  await bench.product("d norm1", "NN", [T, E, 3 * E], [w, w, w], undefined);
}

/** A model with its optimizer, ready to train and to decode. */
function setUp(d: GpuDevice, config: GptConfig, lengths: number[]) {
  const network = gptNetwork(config);
  const { layout } = network;
  const initial = network.initialParameters(1);
  const params = flatTensor(d, "params", layout, "f32");
  d.write(params, initial);
  const work = d.workType === "f32" ? params : flatTensor(d, "work", layout, "work");
  if (work !== params) d.write(work, initial);
  const flat = (label: string) => flatTensor(d, label, layout, "f32");
  const state: AdamState = {
    params,
    work,
    gradients: flat("gradients"),
    m: flat("m"),
    v: flat("v"),
    control: d.tensor("control", 1, 4),
  };
  d.write(state.control, new Float32Array([0, d.dtype === "f16" ? 2 ** 15 : 1, 0, 0]));
  const documents = randomDocuments(lengths, config.vocab_size);
  const T = documents.tokens.length;
  const activations = network.allocateActivations(d, T);
  const batch = d.createBatch(T, lengths.length);
  const metrics = d.tensor("metrics", 16, 4);
  const weights = network.views(d, work);
  const gradients = network.views(d, state.gradients);
  d.loadBatch(batch, documents);
  const step = () => {
    d.loadBatch(batch, documents);
    network.forwardBackward(d, weights, gradients, activations, batch, 1 / T, state.control, false);
    d.sumLoss(metrics, 0, activations.losses, false);
    d.gradNorm(metrics, 0, state.gradients, state.control);
    d.decideStep(metrics, 0, state.control, 1);
    d.adam(state, hyper);
    d.submit();
  };
  return { network, layout, state, weights, activations, batch, metrics, step, T };
}

async function movements(bench: Bench, config: GptConfig, model: ReturnType<typeof setUp>): Promise<void> {
  const { d } = bench;
  const { n_embd: E, vocab_size: V, n_head: H } = config;
  const { layout, state, activations, batch, metrics, T, weights } = model;
  const n = layout.length;
  const work = d.dtype === "f32" ? 4 : 2;
  const layer = activations.layers[0]!;
  for (const tensor of [layer.xIn, layer.norm1, activations.dx, activations.dNorm]) tensor.rows = T;
  const rows = activations.logits.rows;
  row("other kernels", "", "", "ms", "", "of copy");
  await bench.movement("adam", n * (28 + (work === 2 ? 2 : 0)), () => d.adam(state, hyper));
  await bench.movement("gradNorm", 4 * n, () => d.gradNorm(metrics, 0, state.gradients, state.control));
  await bench.movement(
    "embed",
    T * E * (2 * work + 4),
    () => d.embed(layer.xIn, batch, weights.wte, weights.wpe),
  );
  await bench.movement("rmsNorm", T * E * (4 + work), () => d.rmsNorm(layer.norm1, layer.xIn));
  await bench.movement(
    "rmsNorm backward",
    T * E * (12 + work),
    () => d.rmsNormBackward(activations.dx, activations.dNorm, layer.xIn),
  );
  await bench.movement(
    `crossEntropy of ${rows} rows`,
    12 * rows * V,
    () => d.crossEntropy(activations.logits, activations.losses, batch, 0, 1 / T, state.control),
  );
  await bench.movement(
    "attention",
    T * E * 4 * work,
    () => d.attention(layer.heads, layer.lse, layer.qkv, batch, H),
  );
  await bench.movement(
    "attention backward",
    T * E * 9 * work,
    () =>
      d.attentionBackward(activations.dQkv, activations.dHeads, layer.heads, layer.lse, layer.qkv, batch, H),
  );
}

/** Time of a decoded token in one stream at full context, 16 a read-back. */
async function decoding(bench: Bench, config: GptConfig, model: ReturnType<typeof setUp>): Promise<void> {
  const { d } = bench;
  const { network, weights } = model;
  const memory = network.allocateDecodeMemory(d, 1, 1, config.block_size);
  const column = (label: string, value: number) => {
    const tensor = d.tensor(label, 1, 1, "u32");
    d.write(tensor, Uint32Array.of(value));
    return tensor;
  };
  const rows = {
    tokens: column("token", 1),
    positions: column("position", 0),
    sequences: column("sequence", 0),
  };
  const settings = d.tensor("sampling", 1, SAMPLING_COLUMNS);
  d.write(settings, samplingRow({ ...PLAIN_SAMPLING, temperature: 0.5 }));
  const draws = { seeds: column("seeds", 1), settings, said: column("said", 0) };
  const output = d.tensor("output", 16, 1, "u32");
  const ms = await bench.time(() => {
    d.write(rows.positions, Uint32Array.of(config.block_size - 17));
    for (let step = 0; step < 16; step++) {
      network.decodeStep(d, weights, memory, rows, config.block_size, 1);
      d.sample(rows, memory.logits, output, step, draws);
    }
    d.submit();
  });
  row("decoding, one stream, full context", "", "", (ms / 16).toFixed(3), `${(16000 / ms).toFixed(0)} tok/s`);
}

async function benchmark(name: string, dtype: Dtype): Promise<void> {
  const { preset, vocabSize, lengths } = CASES[name]!;
  const { nEmbd, nHead, nLayer, blockSize } = PRESETS[preset];
  const config = {
    vocab_size: vocabSize,
    n_embd: nEmbd,
    n_head: nHead,
    n_layer: nLayer,
    block_size: blockSize,
  };
  const d = await openGpuDevice({ dtype, subgroups: flags.subgroups as "auto" | "on" | "off" });
  const peak = await measurePeak(d);
  const bench = new Bench(d, peak);
  const model = setUp(d, config, lengths);
  console.log(
    `\n${name}, ${dtype}, ${model.T} tokens a step, on ${d.name} (subgroups ${
      d.subgroups ? "on" : "off"
    }): ` +
      `${peak.gigaflops.toFixed(0)} GFLOP/s, ${peak.gigabytesPerSecond.toFixed(0)} GB/s`,
  );
  await products(bench, config, model.T);
  if (flags.tiles) return d.destroy();
  await movements(bench, config, model);
  const encoding: number[] = [];
  const ms = await bench.time(() => {
    const start = performance.now();
    model.step();
    encoding.push(performance.now() - start);
  });
  row("training step", "", "", ms.toFixed(2), `${(1000 * model.T / ms).toFixed(0)} tok/s`);
  // On a software adapter `submit` computes, so only the fastest call says anything of the host's part.
  const host = encoding.toSorted((x, y) => x - y)[encoding.length >> 1]!;
  if (!d.description.software) row("of which the host, median", "", "", host.toFixed(2));
  await decoding(bench, config, model);
  d.destroy();
}

/** Memory of the process and the device over many steps of a tiny model. */
async function leak(dtype: Dtype): Promise<void> {
  const d = await openGpuDevice({ dtype });
  const config = { vocab_size: 32, n_embd: 16, n_head: 2, n_layer: 1, block_size: 64 };
  const { step, metrics } = setUp(d, config, [5, 7]);
  for (let s = 1; s <= 10_000; s++) {
    step();
    if (s % 16 === 0) await d.read(metrics);
    if (s === 100 || s % 1000 === 0) {
      const mb = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
      const { rss, heapUsed } = Deno.memoryUsage();
      console.log(
        `step ${s}: process ${mb(rss)}, JavaScript heap ${mb(heapUsed)}, ` +
          `device ${mb(d.allocatedBytes)} in ${d.bufferCount} buffers`,
      );
    }
  }
  d.destroy();
}

const dtype = flags.dtype as Dtype;
if (flags.leak) await leak(dtype);
else if (flags.preset === "all") { for (const name of Object.keys(CASES)) await benchmark(name, dtype); }
else if (CASES[flags.preset]) await benchmark(flags.preset, dtype);
else throw new Error(`--preset is one of all, ${Object.keys(CASES).join(", ")}`);
