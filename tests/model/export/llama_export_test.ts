/** Llamas that go to other programs: what is written, what is compared, and what is never replaced. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { exportModel } from "../../../mod.ts";
import { exportGgufDirectory } from "../../../model/export/llama_export.ts";
import { saveInferenceModel } from "../../../model/files/checkpoint.ts";
import { OWN_TEMPLATE } from "../../../model/files/description.ts";
import { loadModel } from "../../../model/generate/language_model.ts";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { configOf } from "../../../model/llama_config.ts";
import { networkOf } from "../../../model/networks.ts";
import { NativeTokenizer } from "../../../native/tokenizer.ts";
import { inDirectory, tinyModel, writeTiny } from "../files/tiny_llama.ts";
import { tinyModel as tinyGpt } from "./onnx_fixture.ts";

const ON = { device: "reference" } as const;

/** A chat model of this program with random weights. */
async function saveOwn(dir: string): Promise<void> {
  using tokenizer = NativeTokenizer.train(["hello hi hello"], { vocabSize: 266, chat: true });
  const shape = { nEmbd: 32, nHead: 4, nKvHead: 2, nLayer: 2, blockSize: 64 };
  const config = configOf(shape, tokenizer.vocabSize);
  const params = networkOf(config).initialParameters(1, 0.3);
  await saveInferenceModel(dir, { config, chat: true, tokenizerJson: tokenizer.toJSON(), params });
}

async function namesIn(dir: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(dir), ({ name }) => name)).toSorted();
}

Deno.test("a Llama of ours answers the same as a HuggingFace directory and as a GGUF file, and goes on from one to the other", () =>
  inDirectory(async (dir) => {
    const at = (name: string) => join(dir, name);
    await saveOwn(at("own"));
    const hf = await exportModel(at("own"), at("hf"), { format: "hf" });
    assert.equal(hf.file, join(at("hf"), "model.safetensors"));
    const gguf = await exportModel(at("hf"), at("gguf"), { format: "gguf" });
    await exportModel(gguf.file, at("again"), { format: "hf", type: "f32" });
    const options = { messages: [{ role: "user" as const, content: "hi" }], numSamples: 2, maxTokens: 12 };
    const answers: string[][] = [];
    for (const path of ["own", "hf", "gguf/model.gguf", "again"]) {
      using model = await loadModel(at(path), ON);
      assert.equal(model.chat, true);
      // our own way never draws <bos>, which ends an answer of the others
      const drawn = path === "own" ? [] : await model.samples({ ...options, temperature: 1 });
      answers.push([...await model.samples({ ...options, temperature: 0 }), ...drawn]);
    }
    const [own, ...others] = answers;
    for (const other of others) assert.deepEqual(other, others[0]);
    assert.deepEqual(others[0]!.slice(0, 2), own);
    assert.equal((await readAnyModel(at("hf"))).chatTemplate, OWN_TEMPLATE);
    assert.doesNotMatch((await readAnyModel(gguf.file)).chatTemplate!, /generation %/);
    assert.deepEqual(await namesIn(at("gguf")), ["Modelfile", "model.gguf"]);
    assert.match(
      await Deno.readTextFile(join(at("gguf"), "Modelfile")),
      /^FROM \.\/model\.gguf\n[^]*PARAMETER stop "<end_turn>"\n/,
    );
  }));

Deno.test("every type is written and replaces an earlier export", () =>
  inDirectory(async (dir) => {
    await Deno.mkdir(join(dir, "from"));
    const model = tinyModel({ qk_norm: true });
    await writeTiny(join(dir, "from"), { ...model, params: model.params.map((value) => value / 3) });
    for (const type of ["f32", "f16", "bf16", "q8_0"] as const) {
      const { file } = await exportModel(join(dir, "from"), join(dir, "gguf"), { format: "gguf", type });
      const { fileDtype } = await readAnyModel(file);
      assert.equal(fileDtype.split("+")[0], type.toUpperCase());
      if (type === "q8_0") continue;
      await exportModel(join(dir, "from"), join(dir, "hf"), { format: "hf", type });
      assert.equal((await readAnyModel(join(dir, "hf"))).fileDtype, type.toUpperCase());
    }
  }));

Deno.test("a model without a template does not take over the template of the export before", () =>
  inDirectory(async (dir) => {
    const { chatTemplate: _, ...text } = tinyModel();
    for (const [name, model] of [["chat", tinyModel()], ["text", text]] as const) {
      await Deno.mkdir(join(dir, name));
      await writeTiny(join(dir, name), model);
      await exportModel(join(dir, name), join(dir, "hf"), { format: "hf" });
    }
    assert.equal((await readAnyModel(join(dir, "hf"))).chatTemplate, undefined);
  }));

Deno.test("what an export did not write, or a person changed, is not replaced", () =>
  inDirectory(async (dir) => {
    const from = join(dir, "from");
    await Deno.mkdir(from);
    await writeTiny(from);
    const refused = async (
      format: "hf" | "gguf",
      prepare: (to: string) => Promise<void>,
      expected: RegExp,
    ) => {
      const to = join(dir, "to");
      await exportModel(from, to, { format });
      await prepare(to);
      const before = await contents(to);
      await assert.rejects(exportModel(from, to, { format }), expected);
      assert.deepEqual(await contents(to), before);
      await Deno.remove(to, { recursive: true });
    };
    const write = (name: string, text: string) => (to: string) => Deno.writeTextFile(join(to, name), text);
    await refused(
      "hf",
      write("chat_template.jinja", "mine"),
      /holds chat_template\.jinja, which microgpt did not/,
    );
    await refused("hf", write("config.json", "{}"), /holds config\.json, which microgpt did not write/);
    await refused("hf", write("model.safetensors", "x"), /holds model\.safetensors, which microgpt did not/);
    await refused("hf", (to) => Deno.remove(join(to, "model.safetensors")), /there is no model\.safetensors/);
    await refused("hf", write("meta.json", "{}"), /holds a model \(meta\.json\)/);
    await refused("gguf", write("Modelfile", "FROM x"), /holds Modelfile, which microgpt did not write/);
    await refused("gguf", write("model.gguf", "GGUF"), /holds model\.gguf, which microgpt did not write/);
  }));

async function contents(dir: string): Promise<[string, string][]> {
  const names = await namesIn(dir);
  return await Promise.all(names.map(async (name): Promise<[string, string]> => {
    return [name, new TextDecoder("latin1").decode(await Deno.readFile(join(dir, name)))];
  }));
}

Deno.test("an export that reads back otherwise does not count", () =>
  inDirectory(async (dir) => {
    const model = { ...tinyModel(), name: "tiny" };
    // an end that is no token is written, and found when it is read
    const broken = { ...model, ends: { ...model.ends, eos: [99999] } };
    await assert.rejects(exportGgufDirectory(join(dir, "to"), broken, "f32"), /eos_token_id is 99999/);
    assert.deepEqual(await namesIn(join(dir, "to")), []);
  }));

Deno.test("options that do not go together, and models that do not become that", () =>
  inDirectory(async (dir) => {
    const gpt = join(dir, "gpt");
    await saveInferenceModel(gpt, { ...tinyGpt(true), chat: true });
    const hf = join(dir, "hf");
    await Deno.mkdir(hf);
    await writeTiny(hf);
    const to = join(dir, "to");
    const rejects = (promise: Promise<unknown>, expected: RegExp) => assert.rejects(promise, expected);
    await rejects(
      exportModel(gpt, to, { format: "gguf" }),
      /`format` gguf is for the architecture llama, and .*gpt is a gpt$/,
    );
    await rejects(exportModel(hf, to), /is a HuggingFace directory, which does not become safetensors$/);
    await rejects(exportModel(hf, to, { format: "hf", type: "q8_0" }), /`type` q8_0 is for `format` gguf/);
    await rejects(exportModel(gpt, to, { type: "f16" }), /`type` is for the formats hf and gguf/);
    await rejects(
      exportModel(hf, to, { format: "hf", type: "f32", half: true }),
      /`half` is f16, `type` says f32/,
    );
    await rejects(exportModel(hf, hf, { format: "hf" }), /would replace the model it is made from/);
  }));
