/** The decoder draws the same on every device, whether sequences are decoded together or one by one. */
import assert from "node:assert/strict";
import { openDevice } from "../../../model/devices.ts";
import { type DecodeOptions, Decoder, type Place, type Start } from "../../../model/generate/decoder.ts";
import { type Device, STEP_ROWS, type Tensor } from "../../../device/device.ts";
import { type GenerateOptions, generateSamples, wholeSamples } from "../../../model/generate/generation.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import { flatTensor } from "../../../model/parameters.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { byteTokenizer } from "../../data/byte_tokenizer.ts";
import { openTestGpu } from "../../device/test_gpu.ts";

const CONFIG = { vocab_size: 20, n_embd: 8, n_head: 2, n_layer: 2, block_size: 90 };
const STOP = 0;

const openers: Record<string, () => Promise<Device | undefined>> = {
  reference: () => Promise.resolve(new ReferenceDevice("f32")),
  cpu: () => openDevice({ device: "cpu", threads: 2 }),
  webgpu: () => openTestGpu({ dtype: "f32" }),
};

function decoderOn(device: Device, sequences: number): Decoder {
  const network = gptNetwork(CONFIG);
  const { layout } = network;
  const flat = flatTensor(device, "weights", layout, "work");
  device.write(flat, network.initialParameters(3, 0.2));
  return new Decoder(
    device,
    CONFIG,
    network.views(device, flat),
    sequences,
    CONFIG.block_size,
  );
}

/** Token lists of all sequences, after prompts of different lengths. */
async function draws(
  decoder: Decoder,
  seeds: number[],
  options: Partial<DecodeOptions>,
): Promise<number[][]> {
  const starts = seeds.map((seed, sequence): Start => {
    const prompt = Array.from({ length: seed % 5 }, (_, i) => 1 + (seed + i) % 19);
    decoder.feed(sequence, prompt, 0);
    return { sequence, token: 1 + seed % 19, position: prompt.length, seed };
  });
  return await drawsFrom(decoder, starts, options);
}

/** Token lists of sequences that were fed. */
async function drawsFrom(
  decoder: Decoder,
  starts: Start[],
  options: Partial<DecodeOptions>,
): Promise<number[][]> {
  const results: number[][] = starts.map(() => []);
  const all = {
    temperature: 1,
    topK: 0,
    topP: 1,
    suppressed: [],
    stopTokens: [STOP],
    maxTokens: 1000,
    ...options,
  };
  const done = new Set<number>();
  for await (const events of decoder.decode(starts, all)) {
    for (const event of events) {
      assert(!done.has(event.sequence), "nothing comes after the end");
      results[event.sequence]!.push(...event.tokens);
      if (event.done) done.add(event.sequence);
    }
  }
  assert.equal(done.size, starts.length);
  return results;
}

const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/** One sequence at a time, on the reference device. */
async function expectedDraws(options: Partial<DecodeOptions>): Promise<number[][]> {
  const results: number[][] = [];
  for (const seed of SEEDS) {
    const decoder = decoderOn(new ReferenceDevice("f32"), 1);
    results.push(...await draws(decoder, [seed], options));
  }
  return results;
}

for (const [name, open] of Object.entries(openers)) {
  Deno.test({
    name: `decoding together equals decoding one by one: ${name}`,
    sanitizeResources: false,
    async fn() {
      const device = await open();
      if (!device) return;
      const decoder = decoderOn(device, SEEDS.length);
      const settings: Partial<DecodeOptions>[] = [
        {},
        { maxTokens: 7 },
        { minTokens: 3 },
        { suppressed: [STOP] }, // to the end of the context
      ];
      for (const options of settings) {
        const expected = await expectedDraws(options);
        assert.deepEqual(await draws(decoder, SEEDS, options), expected, JSON.stringify(options));
        if (options.minTokens) assert(expected.every((tokens) => tokens.length >= 3));
        if (options.suppressed) {
          expected.forEach((tokens, i) => assert.equal(tokens.length, 90 - SEEDS[i]! % 5));
        }
      }
      decoder.close();
      device.destroy();
    },
  });
}

for (const [name, open] of Object.entries(openers)) {
  Deno.test({
    name: `sequences that share a prompt draw as if each were fed it: ${name}`,
    sanitizeResources: false,
    async fn() {
      const device = await open();
      if (!device) return;
      const prompt = Array.from({ length: 40 }, (_, i) => 1 + (7 * i) % 19);
      const shared = async (feed: (decoder: Decoder) => void) => {
        const decoder = decoderOn(device, SEEDS.length);
        feed(decoder);
        const starts = SEEDS.map((seed, sequence): Start => ({ sequence, token: 2, position: 40, seed }));
        const results = await drawsFrom(decoder, starts, {});
        decoder.close();
        return results;
      };
      const expected = await shared((decoder) => SEEDS.forEach((_, i) => decoder.feed(i, prompt, 0)));
      const actual = await shared((decoder) => {
        decoder.feed(0, prompt, 0);
        decoder.copy(0, prompt.length, SEEDS.map((_, i) => i).slice(1));
      });
      assert.deepEqual(actual, expected);
      assert(expected.some((tokens) => tokens.length > 3));
      device.destroy();
    },
  });
}

const drawers: Record<string, () => Promise<Device | undefined>> = {
  "cpu": () => openDevice({ device: "cpu", threads: 2 }),
  "webgpu in bf16": () => openTestGpu({ dtype: "bf16" }),
};

for (const [name, open] of Object.entries(drawers)) {
  Deno.test({
    name: `a sample depends on its seed, not on those beside it, in whatever batch: ${name}`,
    sanitizeResources: false,
    async fn() {
      const config = { vocab_size: 258, n_embd: 32, n_head: 2, n_layer: 1, block_size: 40 };
      const device = await open();
      if (!device) return;
      const network = gptNetwork(config);
      const { layout } = network;
      const flat = flatTensor(device, "weights", layout, "work");
      device.write(flat, network.initialParameters(3, 0.2));
      const weights = network.views(device, flat);
      const model = { device, config, weights, tokenizer: byteTokenizer(["<bos>"]), chat: false };
      const samples = (options: GenerateOptions) => {
        const drawing = { prompt: "what they all begin with", temperature: 1, maxTokens: 12, ...options };
        return Array.fromAsync(wholeSamples(generateSamples(model, drawing)));
      };
      const together = await samples({ numSamples: 300, seed: 7 }); // more than one batch holds
      assert.equal(together.length, 300);
      for (const i of [0, 1, 40, 100, 200, 255, 256, 299]) {
        assert.deepEqual(await samples({ numSamples: 1, seed: 7 + i }), [together[i]], `sample ${i}`);
      }
      const rarely = {
        repetitionPenalty: 1.5,
        frequencyPenalty: 0.3,
        presencePenalty: 2,
        minP: 0.1,
        topK: 40,
      };
      const varied = await samples({ numSamples: 20, seed: 7, ...rarely });
      for (const i of [0, 13, 19]) {
        assert.deepEqual(
          await samples({ numSamples: 1, seed: 7 + i, ...rarely }),
          [varied[i]],
          `sample ${i}`,
        );
      }
      const kinds = (texts: string[]) =>
        texts.reduce((sum, text) => sum + new Set(text).size / text.length, 0);
      const plain = await samples({ numSamples: 20, seed: 7, minP: 0.1, topK: 40 });
      assert(kinds(varied) > kinds(plain), "penalties make samples more varied");
      device.destroy();
    },
  });
}

// the CPU's are tested beside its working weights
for (const dtype of ["f32", "bf16"] as const) {
  Deno.test({
    name: `a row of a step has the same bits however many others there are: webgpu in ${dtype}`,
    sanitizeResources: false,
    async fn() {
      const config = { vocab_size: 300, n_embd: 72, n_head: 3, n_layer: 2, block_size: 40 };
      const device = await openTestGpu({ dtype });
      if (!device) return;
      const network = gptNetwork(config);
      const flat = flatTensor(device, "weights", network.layout, "work");
      device.write(flat, network.initialParameters(3, 0.2));
      const decoder = new Decoder(device, config, network.views(device, flat), STEP_ROWS, config.block_size);
      const places: Place[] = [];
      for (let sequence = 0; sequence < STEP_ROWS; sequence++) {
        const prompt = Array.from({ length: 1 + sequence % 7 }, (_, i) => (sequence * 37 + i) % 300);
        decoder.feed(sequence, prompt, 0);
        places.push({ sequence, token: sequence * 9, position: prompt.length });
      }
      const together = await decoder.step(places);
      for (const [first, count] of [[0, 1], [5, 2], [3, 3], [7, 8], [9, 9], [1, 30]] as const) {
        const some = await decoder.step(places.slice(first, first + count));
        assert.deepEqual(some, together.slice(first * 300, (first + count) * 300), `${count} rows`);
      }
      decoder.close();
      device.destroy();
    },
  });
}

Deno.test("slow steps of one stream are read a few at a time, with the same draws", async () => {
  const realNow = performance.now;
  let clock = 0;
  performance.now = () => clock;
  try {
    const windows: number[] = [];
    /** Its steps take 40 ms, and reads from it are slow. */
    class Slow extends ReferenceDevice {
      override readonly stepsInFlight = 64;
      override submit(): void {
        clock += 40;
      }
      override read(tensor: Tensor): Promise<Float32Array | Uint32Array> {
        windows.push(tensor.rows);
        return super.read(tensor);
      }
    }
    const toTheEnd = { suppressed: [STOP] };
    const expected = await draws(decoderOn(new ReferenceDevice(), 1), [5], toTheEnd);
    assert.deepEqual(await draws(decoderOn(new Slow(), 1), [5], toTheEnd), expected);
    assert.deepEqual(windows, [1, 1, 2, ...Array(28).fill(3), 2]);
    windows.length = 0;
    await draws(decoderOn(new Slow(), 2), [5, 10], toTheEnd);
    assert.deepEqual(windows, [1, 1, 2, 4, 8, 16, 32, 26]);
  } finally {
    performance.now = realNow;
  }
});
