/**
 * Training steps per preset, measured in rounds that alternate with PyTorch's on the same documents, and with another
 * preset's. A Llama is measured beside LlamaForCausalLM of transformers.
 *
 *     deno run -A bench/train_step.ts --preset chat-small --tokens documents.bin --python python3
 *     deno run -A bench/train_step.ts --preset chat-llama --beside chat-medium --tokens documents.bin --python python3
 *     deno run -A bench/train_step.ts --preset chat-medium --tokens documents.bin --python python3 --device webgpu
 *     deno run -A bench/train_step.ts --tokens documents.bin --profile
 *
 * The documents file is that of bench/pytorch_step.py: little-endian u32, the number of documents n, their n + 1 start
 * offsets, then the ids end to end. Step k trains on documents [k·batch, (k+1)·batch), each cut to
 * block size + 1. Only real target tokens count. Both sides are measured on the same steps.
 */
import { parseArgs } from "node:util";
import { type DeviceName, openDevice } from "../model/devices.ts";
import type { AdamState, Device, Dtype, PackedDocuments } from "../device/device.ts";
import type { Network } from "../model/network.ts";
import { networkKind } from "../model/networks.ts";
import { flatTensor } from "../model/parameters.ts";
import { DEFAULTS, type PresetName, PRESETS, type Settings } from "../model/settings.ts";
import { lines } from "../scripts/lines.ts";
import { median, readBatches } from "./documents_file.ts";
import { printProfile, type Profile, profiled } from "./profile.ts";

const { values: flags } = parseArgs({
  options: {
    /** of `microgpt train`, or `defaults` */
    preset: { type: "string", default: "defaults" },
    /** another preset, trained on the same documents in the same rounds */
    beside: { type: "string" },
    tokens: { type: "string" },
    /** threads of both sides */
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "7" },
    /** steps a round of ours; 0 = as many as take about two seconds */
    steps: { type: "string", default: "0" },
    /** interpreter with torch; without it only ours is measured */
    python: { type: "string" },
    /** PyTorch's: `compile` needs a C++ compiler, and a minute or two */
    modes: { type: "string", default: "eager,compile" },
    /** of ours; PyTorch takes the CPU beside `cpu`, else CUDA where it finds it */
    device: { type: "string", default: "cpu" },
    /** of both sides; PyTorch's bf16 is autocast */
    dtype: { type: "string", default: "f32" },
    /** print where our time goes, kernel by kernel */
    profile: { type: "boolean", default: false },
  },
});
if (flags.tokens === undefined) throw new Error("--tokens is needed: a documents file");

/** The settings of a preset; `defaults` is one, too. */
function settingsOf(preset: string): Settings {
  if (preset === "defaults") return DEFAULTS;
  if (!(preset in PRESETS)) throw new Error(`a preset is defaults, ${Object.keys(PRESETS).join(", ")}`);
  return { ...DEFAULTS, ...PRESETS[preset as PresetName] };
}

/** A new model of a preset. */
function networkOf(settings: Settings): Network {
  const kind = networkKind(settings.arch);
  return kind.create(kind.configOf(settings, settings.vocabSize));
}

const settings = settingsOf(flags.preset);
const network = networkOf(settings);

/**
 * Floating-point operations that training takes for a token, counted as is usual: 2 for each multiply-add, forward once and
 * backward twice. A product of a token with a matrix of P numbers is 6 P; attention of H heads, D wide, over c tokens is
 * two products of c · H · D: 12 c · H · D a layer, c being the mean number of tokens that a token of the batches sees. Norms,
 * activations, embeddings and the optimizer are left out.
 */
function flopsPerToken({ layout, config, toShape }: Network, batches: PackedDocuments[]): number {
  const matrices = layout.entries.filter(({ role, name }) => {
    return role === "matrix" || role === "head" || toShape().tie && name.includes("embed_tokens");
  });
  const numbers = matrices.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  let [seen, tokens] = [0, 0];
  for (const { starts } of batches) {
    for (let d = 0; d + 1 < starts.length; d++) {
      const length = starts[d + 1]! - starts[d]!;
      seen += length * (length + 1) / 2;
      tokens += length;
    }
  }
  const heads = config.n_head * (toShape().headDim || config.n_embd / config.n_head);
  return 6 * numbers + 12 * config.n_layer * heads * (seen / tokens);
}

/** Our side: a model with fresh weights that trains on one batch after another. */
class Trainer {
  readonly #device: Device;
  readonly #batches: PackedDocuments[];
  readonly #step: (documents: PackedDocuments) => Promise<void>;
  #next = 0;

  constructor(device: Device, network: Network, batches: PackedDocuments[]) {
    const { layout } = network;
    const params = flatTensor(device, "weights", layout, "f32");
    device.write(params, network.initialParameters(42));
    const work = device.workType === "f32" ? params : flatTensor(device, "working weights", layout, "work");
    const state: AdamState = {
      params,
      work,
      gradients: flatTensor(device, "gradients", layout, "f32"),
      m: flatTensor(device, "m", layout, "f32"),
      v: flatTensor(device, "v", layout, "f32"),
      control: device.tensor("control", 1, 4),
    };
    device.write(state.control, new Float32Array([0, device.dtype === "f16" ? 2 ** 15 : 1, 0, 0]));
    const maxTokens = Math.max(...batches.map((b) => b.tokens.length));
    const activations = network.allocateActivations(device, maxTokens);
    const batch = device.createBatch(maxTokens, batches[0]!.starts.length - 1);
    const metrics = device.tensor("metrics", 1, 4);
    const weights = network.views(device, work);
    const gradients = network.views(device, state.gradients);
    const hyper = {
      learningRate: 0.001,
      beta1: 0.85,
      beta2: 0.99,
      epsilon: 1e-8,
      weightDecay: 0,
    };
    this.#device = device;
    this.#batches = batches;
    this.#step = async (documents) => {
      device.loadBatch(batch, documents);
      const scale = 1 / documents.tokens.length;
      network.forwardBackward(device, weights, gradients, activations, batch, scale, state.control, false);
      device.sumLoss(metrics, 0, activations.losses, false);
      device.gradNorm(metrics, 0, state.gradients, state.control);
      device.decideStep(metrics, 0, state.control, 1);
      device.adam(state, hyper);
      device.submit();
      if (device.stepsInFlight === 1) await device.read(metrics);
    };
    this.finish = async () => (await device.read(metrics))[0]!;
  }

  /** Waits for all steps and returns the last loss. */
  readonly finish: () => Promise<number>;

  /** Trains for some steps. */
  async run(steps: number): Promise<{ tokens: number; seconds: number }> {
    let tokens = 0;
    const start = performance.now();
    for (let i = 0; i < steps; i++) {
      const documents = this.#batches[this.#next++ % this.#batches.length]!;
      await this.#step(documents);
      tokens += documents.tokens.length;
    }
    if (this.#device.stepsInFlight > 1) await this.finish();
    return { tokens, seconds: (performance.now() - start) / 1000 };
  }
}

/** PyTorch's side: bench/pytorch_step.py as a server, one for eager and one for compiled. */
class PyTorch {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: AsyncIterator<string, void>;

  constructor(readonly mode: string, python: string, tokens: string) {
    const script = new URL("./pytorch_step.py", import.meta.url).pathname;
    const { arch, nEmbd, nHead, nLayer, blockSize, nKvHead, ffn, tie } = network.toShape();
    const options = {
      "--arch": arch ?? "gpt",
      "--n-embd": nEmbd,
      "--n-head": nHead,
      "--n-layer": nLayer,
      "--block-size": blockSize,
      "--vocab-size": settings.vocabSize,
      "--batch-size": settings.batchSize,
      ...(arch === "llama" ? { "--n-kv-head": nKvHead, "--ffn": ffn } : {}),
      "--threads": flags.threads,
      "--dtype": flags.dtype,
      "--device": flags.device === "cpu" ? "cpu" : "auto",
    };
    this.#process = new Deno.Command(python, {
      args: [
        ...[script, "--server", "--mode", mode, "--tokens", tokens, ...tie ? ["--tie"] : []],
        ...Object.entries(options).flatMap(([flag, value]) => [flag, String(value)]),
      ],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#lines = lines(this.#process.stdout);
  }

  /** Trains for some steps and returns what the script printed. */
  async run(
    steps: number,
  ): Promise<{ tokens_per_second: number; ms_per_step: number; peak_rss_mb: number; device: string }> {
    await this.#input.write(new TextEncoder().encode(`run ${steps}\n`));
    const line = await this.#lines.next();
    if (line.done) throw new Error(`bench/pytorch_step.py --mode ${this.mode} ended`);
    return JSON.parse(line.value);
  }

  async close(): Promise<void> {
    await this.#input.close();
    await this.#process.status;
  }
}

/** The most memory this process has held, in MB; where the system tells. */
function peakMegabytes(): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))?.[1] ?? NaN) / 1024;
  } catch {
    return NaN;
  }
}

const batches = readBatches(flags.tokens, settings.batchSize, settings.blockSize);
const opened = await openDevice({
  device: flags.device as DeviceName,
  dtype: flags.dtype as Dtype,
  threads: Number(flags.threads),
});
const profile: Profile = new Map();
const trainer = new Trainer(flags.profile ? profiled(opened, profile) : opened, network, batches);
console.log(`${flags.preset}, ${flags.dtype}, on ${opened.name}`);

/** Warms up, and says how many steps a round has. */
async function stepsOf(trainer: Trainer): Promise<number> {
  const warm = await trainer.run(10);
  return Number(flags.steps) || Math.max(5, Math.round(20 / warm.seconds));
}
const steps = await stepsOf(trainer);
profile.clear();

/** Another preset of ours, with what a token takes there against a token here. */
const beside = flags.beside === undefined ? undefined : await (async (preset: string) => {
  const other = networkOf(settingsOf(preset));
  const trainer = new Trainer(opened, other, batches);
  const flops = [flopsPerToken(network, batches), flopsPerToken(other, batches)] as const;
  const [here, there] = flops.map((flops) => (flops / 1e6).toFixed(1));
  console.log(`a token takes ${here} MFLOP, one of ${preset} ${there}`);
  return { preset, trainer, steps: await stepsOf(trainer), weight: flops[0] / flops[1] };
})(flags.beside);

const others = flags.python === undefined
  ? []
  : flags.modes.split(",").map((mode) => new PyTorch(mode, flags.python!, flags.tokens!));
const theirs = new Map<PyTorch, number>();
for (const other of others) {
  try {
    const { ms_per_step, peak_rss_mb, device } = await other.run(5);
    theirs.set(other, Math.max(3, Math.round(2000 / ms_per_step)));
    console.log(`PyTorch ${other.mode} on ${device}: peak memory ${peak_rss_mb.toFixed(0)} MB`);
  } catch (error) {
    // torch.compile needs a compiler that not every machine has; eager is measured all the same.
    if (other.mode === "eager") throw error;
    console.log(`PyTorch ${other.mode} left out: ${(error as Error).message}`);
  }
}

const speeds: number[] = [];
const ratios: number[] = [];
const atEqualFlops: number[] = [];
let total = 0;
for (let round = 0; round < Number(flags.rounds); round++) {
  const { tokens, seconds } = await trainer.run(steps);
  total += steps;
  const ours = tokens / seconds;
  speeds.push(ours);
  const parts = [`ours ${ours.toFixed(0)} tok/s, ${(seconds * 1000 / steps).toFixed(2)} ms a step`];
  if (beside) {
    const other = await beside.trainer.run(beside.steps);
    const theirs = other.tokens / other.seconds;
    atEqualFlops.push(ours * beside.weight / theirs);
    parts.push(`${beside.preset} ${theirs.toFixed(0)}, at equal flops ${atEqualFlops.at(-1)!.toFixed(2)}`);
  }
  let best = 0;
  for (const [other, count] of theirs) {
    const { tokens_per_second } = await other.run(count);
    best = Math.max(best, tokens_per_second);
    parts.push(`PyTorch ${other.mode} ${tokens_per_second.toFixed(0)}`);
  }
  if (best > 0) {
    ratios.push(ours / best);
    parts.push(`ratio ${(ours / best).toFixed(2)}`);
  }
  console.log(parts.join(" | "));
}
console.log(
  `median ${median(speeds).toFixed(0)} tok/s, loss ${(await trainer.finish()).toFixed(3)}, ` +
    `peak memory ${peakMegabytes().toFixed(0)} MB`,
);
if (ratios.length > 0) console.log(`median ratio to PyTorch's better mode: ${median(ratios).toFixed(2)}`);
if (beside) {
  console.log(`median ratio to ${beside.preset} at equal flops: ${median(atEqualFlops).toFixed(2)}`);
}
if (flags.profile) printProfile(profile, total);
for (const other of theirs.keys()) await other.close();
opened.destroy();
