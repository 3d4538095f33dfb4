/** The directory of a Llama is one of HuggingFace's, with what is ours beside it, and is as safe as any other model's. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Message } from "../../../data/chat.ts";
import { MicrogptError } from "../../../device/errors.ts";
import { readAnyModel } from "../../../model/files/any_model.ts";
import { readCheckpoint, readModel, saveInferenceModel } from "../../../model/files/checkpoint.ts";
import { CHECKPOINT_FILES, LLAMA_FILES } from "../../../model/files/directory.ts";
import type { TrainOptions } from "../../../model/train/options.ts";
import { train, type TrainEvent } from "../../../model/train/train.ts";
import { networkOf } from "../../../model/networks.ts";
import { inDirectory } from "./tiny_llama.ts";

const DOCUMENTS = ["anna", "bob", "carla", "dora", "emma", "frida", "gustav", "hanna"];
const CONVERSATIONS: Message[][] = DOCUMENTS.map((name) => [
  { role: "user", content: `hello ${name}` },
  { role: "assistant", content: `hi ${name}` },
]);
const SMALL = { steps: 4, nEmbd: 16, nHead: 2, nLayer: 1, blockSize: 32, device: "cpu", threads: 1 } as const;
const LLAMA = { ...SMALL, arch: "llama", nKvHead: 1, vocabSize: 264 } as const;
const GPT = { ...SMALL, documents: DOCUMENTS, vocabSize: 260 } as const;

async function run(options: TrainOptions): Promise<TrainEvent[]> {
  return await Array.fromAsync(train(options));
}

async function namesIn(dir: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(dir), ({ name }) => name)).sort();
}

/** Without what the run kept. */
async function modelNames(dir: string): Promise<string[]> {
  return (await namesIn(dir)).filter((name) => name !== "checkpoints");
}

async function digestOf(path: string): Promise<string> {
  return createHash("sha256").update(await Deno.readFile(path)).digest("hex");
}

function sorted(names: readonly string[]): string[] {
  return [...names].sort();
}

async function refused(reading: Promise<unknown>): Promise<string> {
  const error = await reading.then(() => undefined, (error) => error);
  assert(error instanceof MicrogptError, String(error));
  return error.message;
}

Deno.test("a trained Llama is a HuggingFace directory, and the same model without what is ours", () =>
  inDirectory(async (dir) => {
    const output = join(dir, "model");
    await run({ ...LLAMA, conversations: CONVERSATIONS, output, evalEvery: 2 });
    assert.deepEqual(await namesIn(output), sorted([...CHECKPOINT_FILES.llama, "checkpoints"]));
    assert.deepEqual(await namesIn(join(output, "checkpoints", "best")), sorted(CHECKPOINT_FILES.llama));
    const own = await readAnyModel(output);
    assert.deepEqual([own.kind, own.ownWay], ["microgpt", true]);

    const plain = join(dir, "plain");
    await Deno.mkdir(plain);
    for (const name of LLAMA_FILES) {
      if (name !== "meta.json") await Deno.copyFile(join(output, name), join(plain, name));
    }
    const theirs = await readAnyModel(plain);
    assert.deepEqual([theirs.kind, theirs.chat], ["huggingface", true]);
    assert.deepEqual(theirs.config, own.config);
    assert.deepEqual([theirs.ends, theirs.addBos], [own.ends, own.addBos]);
    assert.equal(theirs.chatTemplate, own.chatTemplate);
    assert.equal(theirs.tokenizer.first, "<bos>");
    const { layout } = networkOf(own.config);
    const [a, b] = [await theirs.readParameters(layout), await own.readParameters(layout)];
    assert(a.length === b.length && a.every((value, i) => value === b[i]));
  }));

Deno.test("a resumed Llama goes on with the same bits and the same tokenizer.json", () =>
  inDirectory(async (dir) => {
    const [whole, halves] = [join(dir, "whole"), join(dir, "halves")];
    const options = { ...LLAMA, conversations: CONVERSATIONS };
    await run({ ...options, steps: 6, output: whole });
    await run({ ...options, steps: 6, output: halves, checkpointEvery: 3, keep: 5 });
    const kept = join(halves, "checkpoints", "step-000003");
    const middle = await Deno.readTextFile(join(kept, "tokenizer.json"));
    await run({ conversations: CONVERSATIONS, resume: kept, device: "cpu", threads: 1 });
    const resumed = `${halves}-step-000003`;
    for (const name of ["model.safetensors", "optimizer_v.safetensors"]) {
      assert.equal(await digestOf(join(resumed, name)), await digestOf(join(whole, name)), name);
    }
    assert.equal(await Deno.readTextFile(join(resumed, "tokenizer.json")), middle);
    await Deno.writeTextFile(join(resumed, "config.json"), "{}\n");
    assert.match(
      await refused(readCheckpoint(resumed)),
      /config\.json is not the file that train_state\.json/,
    );
  }));

Deno.test("a model of the other architecture moves out whole, in both directions", () =>
  inDirectory(async (dir) => {
    const output = join(dir, "model");
    await run({ ...LLAMA, documents: DOCUMENTS, output });
    await run({ ...GPT, output });
    assert.deepEqual(await modelNames(output), sorted(CHECKPOINT_FILES.gpt));
    assert.deepEqual(await modelNames(`${output}.old`), sorted(CHECKPOINT_FILES.llama));
    assert.equal((await readModel(`${output}.old`)).config.architecture, "llama");
    await run({ ...LLAMA, documents: DOCUMENTS, output });
    assert.deepEqual(await modelNames(output), sorted(CHECKPOINT_FILES.llama));
    assert.deepEqual(await modelNames(`${output}.old`), sorted(CHECKPOINT_FILES.gpt));
    assert.equal((await readModel(`${output}.old`)).config.architecture, undefined);
  }));

Deno.test("names that only a Llama has are a person's elsewhere", () =>
  inDirectory(async (dir) => {
    const output = join(dir, "model");
    await Deno.mkdir(output);
    await Deno.writeTextFile(join(output, "config.json"), '{"mine": true}');
    await run({ ...GPT, output });
    await run({ ...GPT, output });
    assert.equal(await Deno.readTextFile(join(output, "config.json")), '{"mine": true}');
    assert.match(
      await refused(run({ ...LLAMA, documents: DOCUMENTS, output })),
      /holds config\.json, which microgpt did not write/,
    );
    const model = { ...await readModel(output), config: (await llama(join(dir, "llama"))).config };
    await Deno.mkdir(join(dir, "export"));
    await Deno.writeTextFile(join(dir, "export", "config.json"), '{"mine": true}');
    assert.match(
      await refused(saveInferenceModel(join(dir, "export"), model)),
      /holds config\.json, which microgpt did not write/,
    );
  }));

Deno.test("an exported Llama is replaced unless somebody changed it", () =>
  inDirectory(async (dir) => {
    const model = await llama(join(dir, "llama"));
    const to = join(dir, "export");
    await saveInferenceModel(to, model);
    assert.deepEqual(await namesIn(to), sorted(LLAMA_FILES));
    await saveInferenceModel(to, model, { half: true });
    assert.equal((await readModel(to)).fileDtype, "F16");
    await Deno.writeTextFile(join(to, "generation_config.json"), '{"temperature": 0}');
    assert.match(
      await refused(saveInferenceModel(to, model)),
      /holds generation_config\.json, which microgpt did/,
    );
    await Deno.remove(join(to, "generation_config.json"));
    // a gpt takes its place: nothing of the Llama stays
    await run({ ...GPT, output: join(dir, "gpt") });
    await saveInferenceModel(to, await readModel(join(dir, "gpt")));
    assert.deepEqual(await namesIn(to), ["meta.json", "tokenizer.json", "weights.safetensors"]);
  }));

Deno.test("a Llama as unreleased versions saved it is refused in one line", () =>
  inDirectory(async (dir) => {
    await llama(join(dir, "llama"));
    const path = join(dir, "llama");
    await Deno.rename(join(path, "model.safetensors"), join(path, "weights.safetensors"));
    assert.match(await refused(readModel(path)), /holds a Llama as unreleased versions saved it/);
  }));

async function llama(output: string) {
  await run({ ...LLAMA, documents: DOCUMENTS, output });
  return await readModel(output);
}
