/** llama.cpp reads our GGUF: the same tokens, the same logits in every type, and others where rows lie in another order. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { exportModel } from "../../mod.ts";
import { openDevice } from "../../model/devices.ts";
import { saveInferenceModel } from "../../model/files/checkpoint.ts";
import { isInterleaved } from "../../model/files/gguf/llama_tensors.ts";
import { interleavedToHalves } from "../../model/files/gguf/rope_order.ts";
import { configOf, type LlamaConfig } from "../../model/llama_config.ts";
import { networkOf } from "../../model/networks.ts";
import { NativeTokenizer } from "../../native/tokenizer.ts";
import { type LlamaCpp, llamaCppTest } from "../llama_cpp/llama_cpp.ts";
import { inDirectory } from "./files/tiny_llama.ts";
import { HARD } from "./hard_texts.ts";
import { RunningModel } from "./running_model.ts";

const CONTEXT = 256;
const NAMES = await Deno.readTextFile(new URL("../../data/samples/names.txt", import.meta.url));
using tokenizer = NativeTokenizer.train(NAMES.split("\n"), { vocabSize: 400, chat: true });
const TOKENIZER_JSON = tokenizer.toJSON();

/** <bos> and names: tokens whose logits are compared. */
const TOKENS = [0, ...tokenizer.encodeOne(NAMES.slice(0, 200))].slice(0, 60);

/** Shared keys and values, heads wider than E / H, rows that Q8_0 can hold. */
function smallConfig(change: Partial<LlamaConfig>): LlamaConfig {
  const shape = { nEmbd: 64, nHead: 4, nKvHead: 2, nLayer: 2, ffn: 96, blockSize: CONTEXT };
  return { ...configOf(shape, tokenizer.vocabSize), head_dim: 32, ...change };
}

/** Saves a chat model of ours with random weights. @param prepare may change them before */
async function saveRandom(
  dir: string,
  config: LlamaConfig,
  prepare = (_params: Float32Array) => {},
): Promise<void> {
  const params = networkOf(config).initialParameters(1, 0.2);
  prepare(params);
  await saveInferenceModel(dir, { config, chat: true, tokenizerJson: TOKENIZER_JSON, params });
}

/** Largest difference between llama.cpp's logits of TOKENS and ours of the same file. */
async function apart(llamaCpp: LlamaCpp, running: RunningModel): Promise<number> {
  const theirs = (await llamaCpp.ask({ do: "logits", tokens: TOKENS })).flat();
  const ours = await running.logits(TOKENS);
  assert.equal(ours.length, theirs.length);
  return ours.reduce((most, logit, i) => Math.max(most, Math.abs(logit - theirs[i]!)), 0);
}

/**
 * How far apart logits of up to 7 may be. In f32 both compute the same. llama.cpp rounds what it multiplies a matrix with
 * to the matrix's type (Q8_0: to 8 bits, a scale for every 32), where we stay in f32; and its cache, unless it is told
 * otherwise, holds keys and values in f16. Measured: 1.4e-5, 0.013, 0.13, 0.22, and with the cache in f16 0.024, 0.030,
 * 0.096, 0.20.
 */
const ALLOWED = {
  F32: { f32: 1e-4, f16: 0.03, bf16: 0.25, q8_0: 0.4 },
  F16: { f32: 0.06, f16: 0.08, bf16: 0.25, q8_0: 0.4 },
} as const;

for (const tie of [false, true]) {
  await llamaCppTest(
    `llama.cpp computes our GGUF of every type${tie ? ", tied" : ""}`,
    (llamaCpp) =>
      inDirectory(async (dir) => {
        await saveRandom(join(dir, "own"), smallConfig({ tie }));
        for (const type of ["f32", "f16", "bf16", "q8_0"] as const) {
          const { file } = await exportModel(join(dir, "own"), join(dir, type), { format: "gguf", type });
          const device = await openDevice({ device: "cpu", threads: 1 });
          const running = await RunningModel.read(device, file, CONTEXT);
          for (const cache of ["F32", "F16"] as const) {
            const warnings = await llamaCpp.open(file, { cache });
            // <end_turn> is not on llama.cpp's list of names; it then counts as an end all the same
            assert.deepEqual(
              warnings.filter((text) => !/special_eo[st]_id is not in special_eog/.test(text)),
              [],
            );
            const most = await apart(llamaCpp, running);
            assert(most <= ALLOWED[cache][type], `${type}, cache ${cache}: logits ${most} apart`);
            if (type !== "f32") continue;
            const ours = await running.greedy(TOKENS.slice(0, 10), 50);
            const theirs = await llamaCpp.ask({
              do: "greedy",
              tokens: TOKENS.slice(0, 10),
              count: 50,
              top: 1,
            });
            assert.deepEqual(ours.map(({ token }) => token), theirs);
          }
          device.destroy();
        }
      }),
  );
}

await llamaCppTest(
  "llama.cpp tokenizes as we do by our GGUF, and gives the text back",
  (llamaCpp) =>
    inDirectory(async (dir) => {
      await saveRandom(join(dir, "own"), smallConfig({}));
      const { file } = await exportModel(join(dir, "own"), join(dir, "gguf"), { format: "gguf" });
      await llamaCpp.open(file, { cache: "F16" });
      using ours = NativeTokenizer.fromJson(TOKENIZER_JSON);
      const theirs = await llamaCpp.ask({ do: "tokenize", texts: HARD });
      theirs.forEach((ids, i) =>
        assert.deepEqual(ids, [...ours.encodeOne(HARD[i]!)], JSON.stringify(HARD[i]))
      );
      // whole texts lose the space before a "!" in llama.cpp, whatever the file says; text that is streamed keeps it
      const kept = HARD.map((text, i) => ({ text, ids: theirs[i]! })).filter(({ text }) =>
        !/ [?!.,]/.test(text)
      );
      const texts = await llamaCpp.ask({ do: "detokenize", tokens: kept.map(({ ids }) => ids) });
      assert.deepEqual(texts, kept.map(({ text }) => text));
    }),
);

await llamaCppTest(
  "a GGUF whose q and k keep HuggingFace's order of rows is found out by its logits",
  (llamaCpp) =>
    inDirectory(async (dir) => {
      const config = smallConfig({});
      const { layout } = networkOf(config);
      await saveRandom(join(dir, "right"), config);
      // the export brings these rows to where the right model has them
      await saveRandom(join(dir, "wrong"), config, (params) => {
        for (const { name, offset, rows, cols } of layout.entries) {
          if (!isInterleaved(name, config)) continue;
          interleavedToHalves(params.subarray(offset, offset + rows * cols), config.head_dim, cols);
        }
      });
      const device = await openDevice({ device: "cpu", threads: 1 });
      const running = await RunningModel.read(device, join(dir, "right"), CONTEXT);
      const found: Record<string, number> = {};
      for (const name of ["right", "wrong"]) {
        const { file } = await exportModel(join(dir, name), join(dir, `${name}-gguf`), { format: "gguf" });
        await llamaCpp.open(file, { cache: "F32" });
        found[name] = await apart(llamaCpp, running);
      }
      device.destroy();
      assert(found.right! <= ALLOWED.F32.f32, `the right file: ${found.right} apart`);
      assert(found.wrong! > 1, `the wrong file: only ${found.wrong} apart`);
    }),
);
