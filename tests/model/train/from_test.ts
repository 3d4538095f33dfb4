/** Runs that start from the weights of a model: what they keep of it, what they change, and what they refuse. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Message } from "../../../data/chat.ts";
import { parseTokenizerJson } from "../../../data/tokenizer_json.ts";
import { readTrainState } from "../../../model/files/checkpoint.ts";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { exportGguf } from "../../../model/files/gguf/llama_export.ts";
import { OWN_TEMPLATE } from "../../../model/files/description.ts";
import { loadModel } from "../../../model/generate/language_model.ts";
import { exportModel } from "../../../model/export/export.ts";
import { networkOf } from "../../../model/networks.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { type EndEvent, type PlanEvent, train, type TrainEvent } from "../../../model/train/train.ts";
import { inDirectory, tinyModel, writeTiny } from "../files/tiny_llama.ts";

const ON = { device: "cpu", threads: 1 } as const;
const DOCUMENTS = Array.from({ length: 30 }, (_, i) => `the number ${i} comes after ${i - 1}`);
const CONVERSATIONS: Message[][] = Array.from({ length: 30 }, (_, i) => [
  { role: "user", content: `hello ${i} <end_turn>` },
  { role: "assistant", content: `hi ${i}` },
]);
/** A gpt that is made in a moment. */
const SMALL = { nEmbd: 16, nHead: 2, nLayer: 2, blockSize: 64, vocabSize: 280, batchSize: 4 };

async function run(options: TrainOptions): Promise<TrainEvent[]> {
  return await Array.fromAsync(train({ seed: 1, evalEvery: 0, ...ON, ...options }));
}

const evaluations = (events: TrainEvent[]) => events.filter((event) => event.type === "evaluation");
const notices = (events: TrainEvent[]) =>
  events.flatMap((event) => event.type === "notice" ? [event.message] : []);
const planOf = (events: TrainEvent[]) => events[0] as PlanEvent;

/** Weights of a model in its network's layout. */
async function weightsOf(
  path: string,
): Promise<{ params: Float32Array; of: (name: string) => Float32Array }> {
  const model = await readAnyModel(path);
  const { layout } = networkOf(model.config);
  const params = await model.readParameters(layout);
  const of = (name: string) => {
    const { offset, rows, cols } = layout.byName.get(name)!;
    return params.subarray(offset, offset + rows * cols);
  };
  return { params, of };
}

for (const arch of ["gpt", "llama"] as const) {
  Deno.test(`a run from an own ${arch} of text goes on where that was, with steps of its own`, () =>
    inDirectory(async (dir) => {
      const [base, output] = [join(dir, "base"), join(dir, "new")];
      const first = await run({ documents: DOCUMENTS, output: base, arch, steps: 30, ...SMALL });
      const events = await run({ documents: DOCUMENTS, from: base, output, steps: 6, batchSize: 4 });
      // the same documents are held out, so that it begins with the loss that the other ended with
      const [begin, end] = evaluations(events);
      assert.equal(begin!.step, 0);
      assert.equal(begin!.loss, evaluations(first).at(-1)!.loss);
      assert.equal(end!.step, 6);
      assert.notEqual(end!.loss, begin!.loss);
      const { settings, startStep, totalSteps } = planOf(events);
      assert.deepEqual([startStep, totalSteps, settings.learningRate, settings.loss], [0, 6, 2e-4, "all"]);
      // the start is no checkpoint of the run, so it is not its best
      assert.equal((events.at(-1) as EndEvent).best!.step, 6);
      const log = (await Deno.readTextFile(join(output, "metrics.jsonl"))).split("\n");
      assert.equal(JSON.parse(log[0]!).step, 0);
      assert.equal(JSON.parse(log[0]!).val_loss, begin!.loss);
      const state = await readTrainState(output);
      assert.deepEqual([state?.from, state?.start_step, state?.step], [base, 0, 6]);
      assert.equal(
        await Deno.readTextFile(join(output, "tokenizer.json")),
        await Deno.readTextFile(join(base, "tokenizer.json")),
      );
      const resumed = await run({ documents: DOCUMENTS, resume: output, steps: 2 });
      assert.equal(evaluations(resumed)[0]!.step, 8);
      assert.equal((await readTrainState(output))?.from, base);
    }));

  Deno.test(`an own ${arch} of text learns to chat: three tokens with the mean of all rows`, () =>
    inDirectory(async (dir) => {
      const [base, output] = [join(dir, "base"), join(dir, "chat")];
      await run({ documents: DOCUMENTS, output: base, arch, steps: 3, ...SMALL });
      const options = { conversations: CONVERSATIONS, from: base, output, batchSize: 4, blockSize: 48 };
      // a step so small that what it started from shows
      const events = await run({ ...options, steps: 1, learningRate: 1e-9 });
      assert.match(
        notices(events)[0]!,
        /^\S+ is a model of plain text: its tokenizer gets <user>, <assistant>, <end_turn>, each with the mean/,
      );
      assert.equal(planOf(events).settings.loss, "answers");
      assert.equal(planOf(events).config.block_size, 64);
      assert.equal((await readTrainState(output))?.block_size, 48);
      const [before, after] = [await weightsOf(base), await weightsOf(output)];
      const tables = arch === "gpt" ? ["wte", "lm_head"] : ["model.embed_tokens.weight", "lm_head.weight"];
      for (const name of tables) {
        const [old, grown] = [before.of(name), after.of(name)];
        assert.equal(grown.length, old.length + 3 * SMALL.nEmbd);
        for (let col = 0; col < SMALL.nEmbd; col++) {
          const column = old.filter((_, i) => i % SMALL.nEmbd === col);
          const mean = column.reduce((sum, x) => sum + x, 0) / column.length;
          for (const row of [0, 1, 2]) {
            assert(Math.abs(grown[old.length + row * SMALL.nEmbd + col]! - mean) < 1e-6, name);
          }
        }
        assert(old.every((value, i) => Math.abs(value - grown[i]!) < 1e-6), name);
      }
      const resumed = await run({ conversations: CONVERSATIONS, resume: output, steps: 2 });
      assert.equal(planOf(resumed).settings.blockSize, 48);
      assert.equal((await readTrainState(output))?.loss, "answers");
      using model = await loadModel(output, ON);
      assert.equal(model.chat, true);
      using chat = model.startChat({ maxTokens: 4, temperature: 0 });
      await Array.fromAsync(chat.send("hello"));
      // and on to text again, with its chat tokens kept
      const again = await run({ documents: DOCUMENTS, from: output, output: join(dir, "text"), steps: 2 });
      assert.equal(planOf(again).mode, "text");
      assert.equal((await readAnyModel(join(dir, "text"))).chat, true);
      await run({ documents: DOCUMENTS, resume: join(dir, "text"), steps: 1 });
    }));
}

Deno.test("a run from a HuggingFace directory keeps its template, tokens and unused rows", () =>
  inDirectory(async (dir) => {
    const [hf, output, out] = [join(dir, "hf"), join(dir, "new"), join(dir, "gguf")];
    await Deno.mkdir(hf);
    const given = { ...tinyModel({ tie: true }), chatTemplate: OWN_TEMPLATE };
    await writeTiny(hf, given);
    const options = { conversations: CONVERSATIONS, from: hf, batchSize: 4, learningRate: 1e-3 };
    const events = await run({ ...options, output, steps: 8 });
    const [begin, end] = evaluations(events);
    assert(end!.loss < begin!.loss, `${begin!.loss} to ${end!.loss}`);
    assert.equal(planOf(events).config.vocab_size, 280);
    const kept = await readAnyModel(output);
    assert.deepEqual(
      [kept.kind, kept.chat, kept.chatTemplate, kept.ends, kept.addBos, kept.tokenizer.tokens.length],
      ["microgpt", true, OWN_TEMPLATE, given.ends, true, 267],
    );
    // the same state after an interruption
    await run({ ...options, output: join(dir, "half"), steps: 8, checkpointEvery: 4, keep: 1 });
    const resumed = join(dir, "half", "checkpoints");
    const names = (await Array.fromAsync(Deno.readDir(resumed), ({ name }) => name)).sort();
    assert(names.includes("step-000008"), names.join());
    // what it says is what its export says
    await exportModel(output, out, { format: "gguf", type: "f32" });
    using a = await loadModel(output, ON);
    using b = await loadModel(join(out, "model.gguf"), ON);
    const samples = { numSamples: 2, prompt: "hello", maxTokens: 8, temperature: 1 };
    assert.deepEqual(await a.samples(samples), await b.samples(samples));
    using chat = a.startChat({ maxTokens: 4, temperature: 0 });
    using other = b.startChat({ maxTokens: 4, temperature: 0 });
    for (const message of ["hello", "hi <user>"]) {
      assert.deepEqual(await Array.fromAsync(chat.send(message)), await Array.fromAsync(other.send(message)));
    }
  }));

Deno.test("a GGUF file of plain text learns to chat, resumes, and is exported with its new tokens", () =>
  inDirectory(async (dir) => {
    const { chatTemplate: _, ...plain } = tinyModel();
    const root = JSON.parse(plain.tokenizer.json);
    // a tokenizer that knows no turns
    const names = ["<user>", "<assistant>", "<end_turn>"];
    root.added_tokens = root.added_tokens.map((token: { content: string }) =>
      names.includes(token.content) ? { ...token, content: token.content.replace("<", "<no_") } : token
    );
    for (const name of names) {
      if (root.model.vocab[name] === undefined) continue;
      root.model.vocab[name.replace("<", "<no_")] = root.model.vocab[name];
      delete root.model.vocab[name];
    }
    const model = {
      ...plain,
      tokenizer: parseTokenizerJson(JSON.stringify(root)),
      ends: { bos: 0, eos: [0], pad: 0 },
    };
    const gguf = join(dir, "base.gguf");
    await exportGguf(gguf, { name: "tiny", ...model, tokenizer: model }, "Q8_0");
    const output = join(dir, "chat");
    const events = await run({ conversations: CONVERSATIONS, from: gguf, output, steps: 2, batchSize: 4 });
    assert.match(notices(events)[0]!, /base\.gguf is a model of plain text: its tokenizer gets <user>/);
    const kept = await readAnyModel(output);
    // GGUF pads the vocabulary to the rows, so that the tokens come after them
    const end = JSON.parse(kept.tokenizer.json).added_tokens.find((token: { content: string }) =>
      token.content === "<end_turn>"
    );
    assert.deepEqual([kept.chatTemplate, kept.ends.eos], [OWN_TEMPLATE, [end.id, 0]]);
    assert.equal(kept.config.vocab_size, Math.max(280, kept.tokenizer.tokens.length));
    await run({ conversations: CONVERSATIONS, resume: output, steps: 1 });
    await exportModel(output, join(dir, "out"), { format: "hf", type: "f32" });
    using a = await loadModel(output, ON);
    using b = await loadModel(join(dir, "out"), ON);
    using chat = a.startChat({ maxTokens: 4, temperature: 0 });
    using other = b.startChat({ maxTokens: 4, temperature: 0 });
    assert.deepEqual(await Array.fromAsync(chat.send("hi")), await Array.fromAsync(other.send("hi")));
  }));

Deno.test("plain text trains a chat model of others as text between its ends", () =>
  inDirectory(async (dir) => {
    const [hf, output] = [join(dir, "hf"), join(dir, "new")];
    await Deno.mkdir(hf);
    await writeTiny(hf);
    const events = await run({ documents: DOCUMENTS, from: hf, output, steps: 2, batchSize: 4 });
    assert.deepEqual([planOf(events).mode, planOf(events).settings.loss], ["text", "all"]);
    assert.equal((await readAnyModel(output)).chat, true);
    await run({ documents: DOCUMENTS, resume: output, steps: 1 });
  }));

Deno.test("Qwens are trained further, and stay what they are", async () => {
  for (const flag of [{ qkv_bias: true }, { qk_norm: true }] as const) {
    await inDirectory(async (dir) => {
      const [hf, output, again] = ["hf", "out", "again"].map((name) => join(dir, name)) as [
        string,
        string,
        string,
      ];
      await Deno.mkdir(hf);
      await writeTiny(hf, tinyModel(flag));
      await run({ documents: DOCUMENTS, from: hf, output, steps: 3, batchSize: 4 });
      await run({ documents: DOCUMENTS, resume: output, steps: 1 });
      await exportModel(output, again, { format: "hf" });
      const { config, readParameters } = await readAnyModel(again);
      const { layout } = networkOf(config);
      const [before, after] = [
        await (await readAnyModel(hf)).readParameters(layout),
        await readParameters(layout),
      ];
      for (const { name, role, offset, cols } of layout.entries) {
        // a part of the network that gets no gradient would stay
        const own = role === "bias" || /[qk]_norm/.test(name);
        if (own) {
          assert.notDeepEqual(after.slice(offset, offset + cols), before.slice(offset, offset + cols), name);
        }
      }
      assert.deepEqual({ ...config, ...flag }, config);
    });
  }
});

Deno.test("what cannot be started from is refused in one line, and nothing is written", () =>
  inDirectory(async (dir) => {
    const [base, hf, onnx] = ["base", "hf", "onnx"].map((name) => join(dir, name));
    await run({ documents: DOCUMENTS, output: base!, steps: 1, ...SMALL });
    for (const path of [hf!, onnx!]) await Deno.mkdir(path);
    await writeTiny(hf!);
    await Deno.writeTextFile(join(onnx!, "model.onnx"), "\b");
    const wordPiece = join(dir, "wordpiece");
    await Deno.mkdir(wordPiece);
    await writeTiny(wordPiece);
    const tokenizer = JSON.parse(await Deno.readTextFile(join(wordPiece, "tokenizer.json")));
    tokenizer.model.type = "WordPiece";
    await Deno.writeTextFile(join(wordPiece, "tokenizer.json"), JSON.stringify(tokenizer));
    const output = join(dir, "none");
    const refused: [TrainOptions, RegExp][] = [
      [{ from: join(dir, "nowhere") }, /^there is no model at .*nowhere$/],
      [{ from: onnx! }, /onnx is an ONNX export: it runs in/],
      [{ from: wordPiece }, /wordpiece: tokenizer\.json: the model is WordPiece, only BPE is read$/],
      [{ from: base!, resume: base! }, /^`from` and `resume` are both given$/],
      [{ from: base!, preset: "names" }, /^`preset` is for new models, and `from` has a shape of its own$/],
      [{ from: base!, nLayer: 3 }, /^`nLayer` is 3, the model in .*base has 2$/],
      [{ from: base!, arch: "llama" }, /^`arch` is llama, the model in .*base has gpt$/],
      [{ from: base!, vocabSize: 300 }, /^`vocabSize` is 300, the model in .*base has \d+$/],
      [{ from: base!, blockSize: 65 }, /^`blockSize` is 65, the model in .*base has a context of 64$/],
      [{ from: base!, loss: "answers" }, /^`loss` answers is for conversations/],
      [{ from: base!, freeze: "layers:1-2" }, /^`freeze` names layer 2, the model has layers 0 to 1$/],
    ];
    for (const [options, message] of refused) {
      await assert.rejects(run({ documents: DOCUMENTS, output, steps: 1, ...options }), {
        name: "MicrogptError",
        message,
      });
    }
    await assert.rejects(Deno.stat(output), Deno.errors.NotFound);
    // the shape that it has may be named
    await run({ documents: DOCUMENTS, output, steps: 1, from: base!, nLayer: 2, nEmbd: 16, arch: "gpt" });
  }));

Deno.test("system text stays where the model's template takes it, else it opens what the user says", () =>
  inDirectory(async (dir) => {
    const conversations: Message[][] = CONVERSATIONS.map((messages) => [
      { role: "system", content: "be brief" },
      ...messages,
    ]);
    const [takes, refuses] = [join(dir, "takes"), join(dir, "refuses")];
    for (const path of [takes, refuses]) await Deno.mkdir(path);
    const plain = tinyModel();
    await writeTiny(takes, plain);
    await writeTiny(refuses, { ...plain, chatTemplate: OWN_TEMPLATE });
    const plans: PlanEvent[] = [];
    const moved = { effect: "changed", reason: "system text put in front of a user message" };
    for (
      const [from, row] of [
        [takes, { effect: "kept", reason: "with system text, which the model's template takes" }],
        [refuses, moved],
        [undefined, moved],
      ] as const
    ) {
      for (const loss of ["answers", "all"] as const) {
        const output = join(dir, `out-${plans.length}`);
        const shape = from === undefined ? SMALL : { from, batchSize: 4 };
        const events = await run({ conversations, output, steps: 2, loss, ...shape });
        const { cleanup } = planOf(events);
        assert.deepEqual(cleanup.find(({ reason }) => reason === row.reason), {
          count: 30,
          unit: "conversations",
          ...row,
        });
        assert(Number.isFinite(evaluations(events).at(-1)!.loss));
        plans.push(planOf(events));
      }
    }
  }));
