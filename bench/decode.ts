/**
 * Decoding speed: one stream of chat-medium over its whole context, and 200 samples of names in one call.
 *
 *     deno run -A bench/decode.ts [--device cpu] [--threads 2] [--rounds 5] [--names names-model]
 *
 * With --model, that model instead: a prompt of 512 tokens, and one stream of 96 after 32.
 *
 *     deno run -A bench/decode.ts --model model.gguf [--dtype q8] [--threads 1]
 *
 * With --types, a Llama beside llama.cpp (bench/llama_cpp_decode.py, with the libraries of MICROGPT_LLAMA_CPP): its GGUF
 * of each type is written, both read it, and rounds alternate. llama.cpp's time is that inside `llama_decode` alone; ours
 * is all that a token takes, drawing included. Both keep what they do by default: llama.cpp its keys and values in f16, we
 * in f32.
 *
 *     deno run -A bench/decode.ts --model DIR-OR-GGUF --types f32,f16,bf16,q8_0 --python python3
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { exportModel } from "../mod.ts";
import { type DeviceName, openDevice } from "../model/devices.ts";
import { loadModel } from "../model/generate/language_model.ts";
import { Decoder } from "../model/generate/decoder.ts";
import { loadWeights } from "../model/generate/working_weights.ts";
import { gptNetwork } from "../model/gpt.ts";
import { networkOf } from "../model/networks.ts";
import { readAnyModel } from "../model/files/any_model.ts";
import type { Device, WeightType } from "../device/device.ts";
import { flatTensor } from "../model/parameters.ts";
import { PRESETS } from "../model/settings.ts";
import { lines } from "../scripts/lines.ts";
import { median } from "./documents_file.ts";
import { printProfile, type Profile, profiled } from "./profile.ts";

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "cpu" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "5" },
    /** a model of names, as `deno task train` makes it */
    names: { type: "string" },
    /** any model that `generate` takes */
    model: { type: "string" },
    /** type of its weights */
    dtype: { type: "string" },
    /** types of GGUF to measure beside llama.cpp */
    types: { type: "string" },
    /** interpreter that calls llama.cpp */
    python: { type: "string", default: "python3" },
    /** print where our time goes, kernel by kernel */
    profile: { type: "boolean", default: false },
  },
});
const where = { device: flags.device as DeviceName, threads: Number(flags.threads) };
const rounds = Number(flags.rounds);

/** Tokens a second of one stream from position 0 to the end of the context. */
async function oneStream(): Promise<void> {
  const { nEmbd, nHead, nLayer, blockSize } = PRESETS["chat-medium"];
  const config = { vocab_size: 4096, n_embd: nEmbd, n_head: nHead, n_layer: nLayer, block_size: blockSize };
  const device = await openDevice(where);
  const network = gptNetwork(config);
  const { layout } = network;
  const flat = flatTensor(device, "weights", layout, "work");
  device.write(flat, network.initialParameters(1));
  const decoder = new Decoder(device, config, network.views(device, flat), 1, blockSize);
  const sampling = {
    temperature: 0.5,
    topK: 0,
    topP: 1,
    suppressed: [0],
    stopTokens: [0],
    maxTokens: blockSize,
  };
  const speeds: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    const started = performance.now();
    let tokens = 0;
    for await (
      const [event] of decoder.decode([{ sequence: 0, token: 1, position: 0, seed: round }], sampling)
    ) {
      tokens += event!.tokens.length;
    }
    if (round > 0) speeds.push(1000 * tokens / (performance.now() - started)); // the first warms up
  }
  console.log(
    `chat-medium, one stream of ${blockSize} tokens on ${device.name}: ${median(speeds).toFixed(0)} tok/s`,
  );
  device.destroy();
}

/** Tokens a second of 200 samples that are drawn together. */
async function manySamples(directory: string): Promise<void> {
  using model = await loadModel(directory, where);
  const speeds: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    const started = performance.now();
    let tokens = 0;
    for await (const piece of model.generate({ numSamples: 200, seed: 1000 * round })) {
      tokens += piece.tokens + Number(piece.done);
    }
    if (round > 0) speeds.push(1000 * tokens / (performance.now() - started));
  }
  console.log(
    `200 samples of ${directory} on ${model.device.name}: ${
      median(speeds).toFixed(0)
    } tok/s (each end counted as a token)`,
  );
}

const PROMPT = 512;
const STREAM = { start: 32, count: 96 };

const profile: Profile = new Map();

/** A model of any kind, to be timed: greedy, whatever its tokens mean. */
class Subject {
  constructor(
    readonly device: Device,
    readonly decoder: Decoder,
    readonly prompt: Uint32Array,
    readonly vocabSize: number,
  ) {}

  static async open(path: string): Promise<Subject> {
    const model = await readAnyModel(path);
    const { config } = model;
    const network = networkOf(config);
    const opened = await openDevice(where, { inference: true });
    const device = flags.profile ? profiled(opened, profile) : opened;
    const weights = await loadWeights(device, network.layout, model, flags.dtype as WeightType | undefined);
    const decoder = new Decoder(device, config, network.views(device, weights), 1, config.block_size);
    const length = Math.min(PROMPT, config.block_size);
    const prompt = Uint32Array.from({ length }, (_, i) => (100 + 37 * i) % config.vocab_size);
    return new Subject(device, decoder, prompt, config.vocab_size);
  }

  /** Tokens a second of the prompt and of the stream. */
  async round(): Promise<Speeds> {
    let start = performance.now();
    this.decoder.feed(0, this.prompt, 0);
    const prompt = 1000 * this.prompt.length / (performance.now() - start);
    const { start: position, count } = STREAM;
    const sampling = { temperature: 0, topK: 0, topP: 1, suppressed: [], stopTokens: [], maxTokens: count };
    start = performance.now();
    for await (const _ of this.decoder.decode([{ sequence: 0, token: 5, position, seed: 1 }], sampling));
    return { prompt, stream: 1000 * count / (performance.now() - start) };
  }
}

/** Tokens a second. */
interface Speeds {
  prompt: number;
  stream: number;
}

const medianOf = (all: Speeds[], key: keyof Speeds) => median(all.map((speeds) => speeds[key]));

async function oneModel(path: string): Promise<void> {
  const subject = await Subject.open(path);
  const speeds: Speeds[] = [];
  await subject.round();
  profile.clear();
  for (let round = 0; round < rounds; round++) speeds.push(await subject.round());
  const [stream, prompt] = [medianOf(speeds, "stream"), medianOf(speeds, "prompt")];
  const what = `${path}, ${flags.dtype ?? "types of the file"}, ${subject.device.name}`;
  console.log(`${what}: ${stream.toFixed(0)} tok/s, a prompt ${prompt.toFixed(0)} tok/s`);
  if (flags.profile) printProfile(profile, rounds);
  subject.device.destroy();
}

/** llama.cpp with a GGUF file: bench/llama_cpp_decode.py. */
class LlamaCpp {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: AsyncIterator<string, void>;

  constructor(file: string, vocabSize: number) {
    const folder = Deno.env.get("MICROGPT_LLAMA_CPP");
    if (!folder) {
      throw new Error("MICROGPT_LLAMA_CPP is the folder where tests/llama_cpp/package.json is installed");
    }
    const options = {
      "--libraries": join(folder, "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"),
      "--model": file,
      "--vocab-size": vocabSize,
      "--threads": where.threads,
    };
    const script = new URL("./llama_cpp_decode.py", import.meta.url).pathname;
    this.#process = new Deno.Command(flags.python, {
      args: [script, ...Object.entries(options).flatMap(([flag, value]) => [flag, String(value)])],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#lines = lines(this.#process.stdout);
  }

  async round(promptLength: number): Promise<Speeds> {
    const request = `run ${promptLength} ${STREAM.start} ${STREAM.count}\n`;
    await this.#input.write(new TextEncoder().encode(request));
    const line = await this.#lines.next();
    if (line.done) throw new Error("bench/llama_cpp_decode.py ended");
    return JSON.parse(line.value);
  }

  async close(): Promise<void> {
    await this.#input.close();
    await this.#process.status;
  }
}

/** A model's GGUF of each type, here and in llama.cpp. */
async function besideLlamaCpp(path: string, types: string[]): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const type of types) {
      const { file } = await exportModel(path, join(folder, type), { format: "gguf", type: type as "f32" });
      const subject = await Subject.open(file);
      const llamaCpp = new LlamaCpp(file, subject.vocabSize);
      const [ours, theirs]: [Speeds[], Speeds[]] = [[], []];
      for (let round = 0; round <= rounds; round++) {
        const [one, other] = [await subject.round(), await llamaCpp.round(subject.prompt.length)];
        if (round === 0) continue; // warms up
        ours.push(one);
        theirs.push(other);
      }
      const row = (["stream", "prompt"] as const).map((key) => {
        const ratio = median(ours.map((speeds, i) => speeds[key] / theirs[i]![key]));
        const [one, other] = [medianOf(ours, key), medianOf(theirs, key)];
        return `${key} ${one.toFixed(0)} tok/s, llama.cpp ${other.toFixed(0)}, ratio ${ratio.toFixed(2)}`;
      });
      console.log(`${type}, ${subject.device.name}: ${row.join(" | ")}`);
      subject.device.destroy();
      await llamaCpp.close();
      await Deno.remove(join(folder, type), { recursive: true });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (flags.model) {
  await (flags.types ? besideLlamaCpp(flags.model, flags.types.split(",")) : oneModel(flags.model));
  Deno.exit();
}
await oneStream();
if (flags.names) await manySamples(flags.names);
