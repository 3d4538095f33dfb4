/** The part of the device suite about ends: closing and freeing, twice and in any order, and what is used after. */
import assert from "node:assert/strict";
import { LanguageModel } from "../../model/generate/language_model.ts";
import { Decoder } from "../../model/generate/decoder.ts";
import type { Device, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { OnnxSource } from "../../model/export/onnx_export.ts";
import { networkOf } from "../../model/networks.ts";
import { flatTensor } from "../../model/parameters.ts";
import { byteTokenizer } from "../data/byte_tokenizer.ts";
import { HfTokenizer } from "../../data/hf_tokenizer.ts";
import { tinyModel } from "../model/export/onnx_fixture.ts";

/** One rule of a device's end; `device` is its own. */
export interface LifetimeCase {
  name: string;
  run(device: Device): Promise<void>;
}

const CONFIG = { vocab_size: 20, n_embd: 8, n_head: 2, n_layer: 1, block_size: 60 };

function isClosed(error: unknown): boolean {
  assert(error instanceof MicrogptError, `${error}`);
  assert.match(error.message, /closed/);
  return true;
}

function decoderOn(device: Device): Decoder {
  const network = networkOf(CONFIG);
  const flat = flatTensor(device, "weights", network.layout, "work", "weights");
  device.write(flat, network.initialParameters(3, 0.2));
  return new Decoder(device, CONFIG, network.views(device, flat), 2, 60);
}

const OPTIONS = { temperature: 1, topK: 0, topP: 1, suppressed: [0], stopTokens: [0], maxTokens: 50 };

function decode(decoder: Decoder) {
  return decoder.decode([{ sequence: 0, token: 1, position: 0, seed: 5 }], OPTIONS);
}

async function chatModel(device: Device): Promise<LanguageModel> {
  const source: OnnxSource = tinyModel(true, 1);
  const tokenizer = await HfTokenizer.fromJson(source.tokenizerJson);
  return new LanguageModel({ ...source, chat: true }, source.params, tokenizer, device);
}

/** Every call of a device but those of kernels, on a tensor of it. */
function calls(d: Device, x: Tensor): Record<string, () => unknown> {
  return {
    tensor: () => d.tensor("late", 1, 1),
    createBatch: () => d.createBatch(1, 1),
    view: () => d.view(x, 0, 1, 1),
    write: () => d.write(x, new Float32Array(1)),
    read: () => d.read(x),
    zero: () => d.zero(x),
    copy: () => d.copy(x, x),
    submit: () => d.submit(),
    rmsNorm: () => d.rmsNorm(x, x),
  };
}

export const LIFETIME_CASES: LifetimeCase[] = [
  {
    name:
      "destroy twice, and free before, after and twice, are harmless; the rest says that the device is closed",
    async run(d) {
      const [x, y] = [d.tensor("x", 2, 2), d.tensor("y", 2, 2)];
      const view = d.view(y, 0, 1, 2);
      const reading = d.read(x);
      d.free(y);
      d.free(view);
      d.destroy();
      d.destroy();
      for (const tensor of [x, x, y, view]) d.free(tensor);
      for (const [name, call] of Object.entries(calls(d, x))) assert.throws(call, isClosed, name);
      await reading.then((values) => assert.equal(values.length, 4), isClosed);
    },
  },
  {
    name: "a tensor that was freed is an error, and the device goes on",
    async run(d) {
      const [freed, other] = [d.tensor("short-lived", 1, 4), d.tensor("other", 1, 4)];
      d.free(freed);
      const again = d.tensor("again", 1, 4); // may take its place
      d.write(again, new Float32Array([1, 2, 3, 4]));
      d.free(freed);
      const uses = [
        () => d.write(freed, new Float32Array(1)),
        () => d.zero(freed),
        () => d.read(freed),
        () => d.copy(other, freed),
        () => d.copy(freed, other),
        () => d.rmsNorm(other, freed),
      ];
      for (const use of uses) assert.throws(use, /"short-lived".* was freed/, use.toString());
      assert.deepEqual([...await d.read(again)], [1, 2, 3, 4]);
    },
  },
  {
    name: "a decoder closed twice, before and after its device",
    run(d) {
      const [early, late] = [decoderOn(d), decoderOn(d)];
      early.close();
      early.close();
      assert.throws(() => early.feed(0, [1], 0), isClosed);
      d.destroy();
      late.close();
      late.close();
      return Promise.resolve();
    },
  },
  {
    name: "a decoder, and then a device, that are closed while a generation runs end it with an error",
    async run(d) {
      for (const end of [(decoder: Decoder) => decoder.close(), () => d.destroy()]) {
        const decoder = decoderOn(d);
        const generation = decode(decoder);
        assert.equal((await generation.next()).done, false);
        end(decoder);
        await assert.rejects(Array.fromAsync(generation), isClosed);
        decoder.close();
      }
    },
  },
  {
    name: "a decoder that finds no room gives back what it had",
    run(d) {
      const held = new Set<Tensor>();
      const short = Object.create(d, {
        stepsInFlight: { value: 1 },
        tensor: {
          value: (label: string, rows: number, cols: number, type?: "f32" | "u32" | "work") => {
            if (label === "decoding output") throw new MicrogptError("no room");
            const tensor = d.tensor(label, rows, cols, type);
            held.add(tensor);
            return tensor;
          },
        },
        free: {
          value: (tensor: Tensor) => {
            held.delete(tensor);
            d.free(tensor);
          },
        },
      }) as Device;
      const network = networkOf(CONFIG);
      const flat = flatTensor(d, "weights", network.layout, "work");
      const weights = network.views(d, flat);
      assert.throws(() => new Decoder(short, CONFIG, weights, 2, 60), /no room/);
      assert.equal(held.size, 0);
      return Promise.resolve();
    },
  },
  {
    name: "a model and its conversations, closed twice, in any order and in the middle of an answer",
    async run(d) {
      const model = await chatModel(d);
      const [first, second, third] = [model.startChat(), model.startChat(), model.startChat()];
      first.close();
      first.close();
      await assert.rejects(first.send("a").next(), isClosed);
      const answer = second.send("a");
      await answer.next();
      second.close();
      await answer.next().then(({ done }) => assert(done), isClosed);
      const samples = model.generate({ messages: [{ role: "user", content: "a" }], numSamples: 2 });
      await samples.next();
      model.close();
      await assert.rejects(Array.fromAsync(samples), isClosed);
      third.close();
      model.close();
      await assert.rejects(third.send("a").next(), isClosed);
      await assert.rejects(model.samples(), isClosed);
      assert.throws(() => model.startChat(), isClosed);
    },
  },
];

/** A model whose generation takes a moment only, for counting what many calls leave. */
export function smallestModel(device: Device): LanguageModel {
  const tokenizer = byteTokenizer(["<bos>"]);
  const config = { ...CONFIG, vocab_size: tokenizer.vocabSize, n_embd: 4, block_size: 4 };
  const network = networkOf(config);
  const description = { config, chat: false } as ConstructorParameters<typeof LanguageModel>[0];
  return new LanguageModel(description, network.initialParameters(3, 0.2), tokenizer, device);
}
