/**
 * Decoding speed: one stream of chat-medium over its whole context, and 200 samples of names in one call.
 *
 *     deno run -A bench/decode.ts [--device cpu] [--threads 2] [--rounds 5] [--names names-model]
 *
 * With --model, that model instead: one stream of 96 tokens after 32, and a prompt of 512.
 *
 *     deno run -A bench/decode.ts --model model.gguf [--dtype q8] [--threads 1]
 */
import { parseArgs } from "node:util";
import { type DeviceName, openDevice } from "../model/devices.ts";
import { loadModel } from "../model/generate/language_model.ts";
import { Decoder } from "../model/generate/decoder.ts";
import { loadWeights } from "../model/generate/working_weights.ts";
import { gptNetwork } from "../model/gpt.ts";
import { networkOf } from "../model/networks.ts";
import { readAnyModel } from "../model/files/any_model.ts";
import type { WeightType } from "../device/device.ts";
import { flatTensor } from "../model/parameters.ts";
import { PRESETS } from "../model/settings.ts";

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
  },
});
const where = { device: flags.device as DeviceName, threads: Number(flags.threads) };
const rounds = Number(flags.rounds);

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

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

/** Tokens a second of a model's own network: greedy, whatever its tokens mean. */
async function oneModel(path: string): Promise<void> {
  const model = await readAnyModel(path);
  const { config } = model;
  const network = networkOf(config);
  const device = await openDevice(where, { inference: true });
  const weights = await loadWeights(device, network.layout, model, flags.dtype as WeightType | undefined);
  const decoder = new Decoder(device, config, network.views(device, weights), 1, config.block_size);
  const length = Math.min(512, config.block_size);
  const prompt = Uint32Array.from({ length }, (_, i) => (100 + 37 * i) % config.vocab_size);
  const sampling = { temperature: 0, topK: 0, topP: 1, suppressed: [], stopTokens: [], maxTokens: 96 };
  const [steps, prompts]: [number[], number[]] = [[], []];
  for (let round = 0; round <= rounds; round++) {
    let before = performance.now();
    decoder.feed(0, prompt, 0);
    if (round > 0) prompts.push(1000 * length / (performance.now() - before));
    before = performance.now();
    for await (const _ of decoder.decode([{ sequence: 0, token: 5, position: 32, seed: 1 }], sampling)) {
      const now = performance.now();
      if (round > 0) steps.push(1000 / (now - before));
      before = now;
    }
  }
  const what = `${path}, ${flags.dtype ?? "types of the file"}, ${device.name}`;
  console.log(`${what}: ${median(steps).toFixed(0)} tok/s, a prompt ${median(prompts).toFixed(0)} tok/s`);
  device.destroy();
}

if (flags.model) {
  await oneModel(flags.model);
  Deno.exit();
}
await oneStream();
if (flags.names) await manySamples(flags.names);
