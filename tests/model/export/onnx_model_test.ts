import assert from "node:assert/strict";
import { OnnxModel } from "../../../model/export/onnx_model.ts";
import { HfTokenizer } from "../../../data/hf_tokenizer.ts";
import { Decoder } from "../../../model/generate/decoder.ts";
import type { OnnxSource } from "../../../model/export/onnx_export.ts";
import { gptNetwork } from "../../../model/gpt.ts";
import { flatTensor } from "../../../model/parameters.ts";
import { ReferenceDevice } from "../../../device/reference_device.ts";
import { naiveGreedy, tinyModel, withExport } from "./onnx_fixture.ts";

async function withModel(source: OnnxSource, use: (model: OnnxModel) => Promise<void>): Promise<void> {
  await withExport(source, async (folder) => {
    const model = await OnnxModel.load(folder);
    try {
      await use(model);
    } finally {
      await model.close();
    }
  });
}

const textOf = async (pieces: AsyncIterable<string>) => (await Array.fromAsync(pieces)).join("");

Deno.test("OnnxModel continues a prompt greedily as the network does", async () => {
  const source = tinyModel(false, 3);
  const tokenizer = await HfTokenizer.fromJson(source.tokenizerJson);
  await withModel(source, async (model) => {
    assert.equal(model.isChat, false);
    for (const prompt of ["", "the band, and ü", "<bos>"]) {
      const ids = [0, ...tokenizer.encodeOne(prompt)];
      const expected = naiveGreedy(source, ids, 0).slice(ids.length);
      assert.equal(await textOf(model.generate({ prompt, temperature: 0 })), tokenizer.decode(expected));
    }
  });
});

Deno.test("OnnxModel samples the tokens that a device samples with the same seed", async () => {
  const source = tinyModel(false, 6);
  const { config, layout, params } = source;
  const tokenizer = await HfTokenizer.fromJson(source.tokenizerJson);
  const device = new ReferenceDevice("f32");
  const flat = flatTensor(device, "weights", layout, "work");
  device.write(flat, params);
  const weights = gptNetwork(config).views(device, flat);
  const decoder = new Decoder(device, config, weights, 1, config.block_size);
  const plain = { temperature: 1.5, topK: 40, topP: 0.9 };
  await withModel(source, async (model) => {
    const texts = new Set<string>();
    const penalties = { repetitionPenalty: 1.5, frequencyPenalty: 0.5, presencePenalty: 0.5 };
    for (const [seed, more] of [[1, {}], [2, {}], [42, {}], [42, penalties]] as const) {
      const tokens: number[] = [];
      const start = { sequence: 0, token: 0, position: 0, seed };
      const sampling = { ...plain, ...more };
      const options = { ...sampling, suppressed: [], stopTokens: [0], maxTokens: 12 };
      for await (const events of decoder.decode([start], options)) tokens.push(...events[0]!.tokens);
      const text = await textOf(model.generate({ ...sampling, seed, maxTokens: 12 }));
      assert.equal(text, tokenizer.decode(tokens));
      texts.add(text);
    }
    assert.equal(texts.size, 4, "seeds differ, and so do penalties");
  });
  decoder.close();
  device.destroy();
});

Deno.test("OnnxModel answers a conversation and streams whole characters", async () => {
  const source = tinyModel(true, 2);
  const tokenizer = await HfTokenizer.fromJson(source.tokenizerJson);
  await withModel(source, async (model) => {
    assert(model.isChat);
    const messages = [
      { role: "user", content: " in" },
      { role: "assistant", content: "<end_turn>" },
      { role: "user", content: "you" },
    ] as const;
    const encode = (text: string) => tokenizer.encodeOne(text);
    const prompt = [0, 1, ...encode(" in"), 3, 2, ...encode("<end_turn>"), 3, 1, ...encode("you"), 3, 2];
    const expected = naiveGreedy(source, prompt, 3, [0, 1, 2]).slice(prompt.length);
    const answer = model.generate({ messages: [...messages], temperature: 0 });
    assert.equal(await textOf(answer), tokenizer.decode(expected));

    const pieces = await Array.fromAsync(model.generate({ temperature: 2, maxTokens: 25 }));
    assert(pieces.length > 3, "in pieces");
    const abort = new AbortController();
    const some: string[] = [];
    for await (const piece of model.generate({ temperature: 2, signal: abort.signal })) {
      some.push(piece);
      if (some.length === 2) abort.abort();
    }
    assert.equal(some.slice(0, 2).join(""), pieces.slice(0, 2).join(""));
    assert(some.length <= 3, "an aborted generation ends");
  });
});

Deno.test("OnnxModel loads from a URL", async () => {
  const source = tinyModel(false, 3);
  await withExport(source, async (folder) => {
    const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
      const path = `${folder}${new URL(request.url).pathname}`;
      return new Response(await Deno.readFile(path).catch(() => null), {
        status: await Deno.stat(path).then(() => 200, () => 404),
      });
    });
    const url = `http://127.0.0.1:${server.addr.port}`;
    try {
      const remote = await OnnxModel.load(url);
      const local = await OnnxModel.load(folder);
      const options = { prompt: "in", temperature: 0 };
      assert.equal(await textOf(remote.generate(options)), await textOf(local.generate(options)));
      await remote.close();
      await local.close();
      await assert.rejects(OnnxModel.load(`${url}/elsewhere`), { name: "MicrogptError", message: /404/ });
    } finally {
      await server.shutdown();
    }
  });
});

Deno.test("OnnxModel runs with no more than leave to read", async () => {
  await withExport(tinyModel(false, 3), async (folder) => {
    const program = `import { OnnxModel } from ${
      JSON.stringify(import.meta.resolve("../../../model/export/onnx_model.ts"))
    };
      const model = await OnnxModel.load(${JSON.stringify(folder)});
      for await (const piece of model.generate({ prompt: "the", temperature: 0 })) console.log(piece);
      await model.close();`;
    await Deno.writeTextFile(`${folder}/run.ts`, program);
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--no-lock", "--allow-read", `${folder}/run.ts`],
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert(stdout.length > 0);
  });
});

Deno.test("OnnxModel refuses what is no export in one line", async () => {
  const refuses = (promise: Promise<unknown>, message: RegExp) =>
    assert.rejects(promise, (error) => {
      assert(error instanceof Error && error.name === "MicrogptError", String(error));
      assert.match(error.message, message);
      assert(!error.message.includes("\n"), "one line");
      return true;
    });
  await refuses(OnnxModel.load("/nowhere"), /cannot read .*config\.json/);
  await withExport(tinyModel(false), async (folder) => {
    const model = await OnnxModel.load(folder);
    await refuses(model.generate({ prompt: "x".repeat(32) }).next(), /prompt has 33 tokens.*context is 32/);
    await refuses(model.generate({ messages: [] }).next(), /no chat tokens/);
    await model.close();

    const change = async (name: string, content: string, message: RegExp) => {
      const before = await Deno.readFile(`${folder}/${name}`);
      await Deno.writeTextFile(`${folder}/${name}`, content);
      await refuses(OnnxModel.load(folder), message);
      await Deno.writeFile(`${folder}/${name}`, before);
    };
    const config = JSON.parse(await Deno.readTextFile(`${folder}/config.json`));
    const changed = (fields: object) => JSON.stringify({ ...config, ...fields });
    await change("model.onnx", "not a graph", /cannot load the graph/);
    await change("config.json", "{", /config\.json is not valid JSON/);
    await change("config.json", changed({ n_layer: 1e9 }), /n_layer must be/);
    await change("config.json", changed({ n_layer: 3 }), /cache of 3 layers/);
    await change("config.json", changed({ vocab_size: 9999 }), /config\.json asks for 9999/);
    await change("tokenizer.json", "{}", /./);
    await Deno.remove(`${folder}/model.onnx`);
    await refuses(OnnxModel.load(folder), /cannot read .*model\.onnx/);
  });
});

Deno.test("an OnnxModel that is closed, twice or during a generation, says so", async () => {
  await withExport(tinyModel(false, 3), async (folder) => {
    const model = await OnnxModel.load(folder);
    const pieces = model.generate({ prompt: "the", seed: 1, temperature: 2 });
    await pieces.next();
    const running = Array.fromAsync(pieces);
    await Promise.all([model.close(), model.close()]);
    await assert.rejects(running, { name: "MicrogptError", message: "the model is closed" });
    await model.close();
    await assert.rejects(model.generate({ prompt: "the" }).next(), { message: "the model is closed" });
  });
});
