/** Hostile model directories: meta.json, tokenizer.json beside it, training state, and directories that are none. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { readCheckpoint, readModel, readModelHeader, readTrainState } from "../../model/files/checkpoint.ts";
import { MicrogptError } from "../../device/errors.ts";
import { contentsOf, withDirectory } from "../model/files/checkpoint_fixture.ts";
import { RUST_STATE, writeRustCheckpoint } from "../golden/rust_checkpoint.ts";
import { refusal, refusalAndPeak } from "./refusal.ts";

const META = { vocab_size: 32, n_embd: 8, n_head: 2, n_layer: 2, block_size: 16 };

/** A good model of the Rust program, with the architecture of `META`. */
const withModel = <T>(use: (dir: string) => Promise<T>): Promise<T> =>
  withDirectory(async (root) => {
    const dir = join(root, "model");
    await writeRustCheckpoint(dir, "F32");
    return await use(dir);
  });

const RULES =
  "DIR/meta.json: text_rules are bos, eos, pad and add_bos: ids of tokens, a list of them, one more, and true or false";

const META_ATTACKS: [name: string, meta: unknown, expected: string][] = [
  ["an empty file", "", "DIR/meta.json is not valid JSON"],
  ["half a file", '{"vocab_size": 32, "n_em', "DIR/meta.json is not valid JSON"],
  ["a number", 7, "DIR/meta.json is not a JSON object"],
  ["null", null, "DIR/meta.json is not a JSON object"],
  ["a million brackets", "[".repeat(1e6), "DIR/meta.json is not valid JSON"],
  [
    "2 MB of spaces",
    " ".repeat(2 << 20),
    "DIR/meta.json has 2097152 bytes, more than the 1048576 that can belong there",
  ],
  ["nothing in it", {}, "DIR/meta.json: vocab_size is missing"],
  ["no n_layer", { ...META, n_layer: undefined }, "DIR/meta.json: n_layer is missing"],
  ["a size that is text", { ...META, n_embd: "8" }, "DIR/meta.json: n_embd is not a number"],
  ["a size that is null", { ...META, n_embd: null }, "DIR/meta.json: n_embd is not a number"],
  [
    "zero layers",
    { ...META, n_layer: 0 },
    "DIR/meta.json: n_layer must be a whole number from 1 to 1024, got 0",
  ],
  [
    "a negative size",
    { ...META, n_embd: -8 },
    "DIR/meta.json: n_embd must be a whole number from 1 to 16384, got -8",
  ],
  [
    "a fraction",
    { ...META, n_head: 1.5 },
    "DIR/meta.json: n_head must be a whole number from 1 to 1024, got 1.5",
  ],
  [
    "a billion tokens",
    { ...META, vocab_size: 1e9 },
    "DIR/meta.json: vocab_size must be a whole number from 1 to 1048576, got 1000000000",
  ],
  [
    "a billion positions",
    { ...META, block_size: 1e9 },
    "DIR/meta.json: block_size must be a whole number from 1 to 1048576, got 1000000000",
  ],
  [
    "infinity",
    '{"vocab_size":32,"n_embd":1e999,"n_head":2,"n_layer":2,"block_size":16}',
    "DIR/meta.json: n_embd must be a whole number from 1 to 16384, got Infinity",
  ],
  ["rules that are null", { ...META, text_rules: null }, RULES],
  ["rules without ends", { ...META, text_rules: { add_bos: true } }, RULES],
  ["an end that is no token", { ...META, text_rules: { eos: [32], add_bos: true } }, RULES],
  ["a beginning that is text", { ...META, text_rules: { bos: "<bos>", eos: [0], add_bos: true } }, RULES],
  ["a beginning that is perhaps", { ...META, text_rules: { eos: [0], add_bos: 1 } }, RULES],
  [
    "a template that is a number",
    { ...META, text_rules: { eos: [0], add_bos: true, chat_template: 7 } },
    "DIR/meta.json: chat_template of text_rules is not a text",
  ],
  ["heads that do not fit", { ...META, n_head: 3 }, "DIR/meta.json: n_embd 8 is not divisible by n_head 3"],
  [
    "another vocabulary",
    { ...META, vocab_size: 31 },
    "DIR/tokenizer.json has 32 tokens, meta.json has vocab_size 31",
  ],
  [
    "the largest sizes",
    { vocab_size: 32, n_embd: 16384, n_head: 2, n_layer: 1024, block_size: 1 << 20 },
    "DIR/weights.safetensors: tensor layer0.attn_wk has shape [8, 8], meta.json asks for [16384, 16384]",
  ],
  [
    "one layer less",
    { ...META, n_layer: 1 },
    "DIR/weights.safetensors: tensor layer1.attn_wk is no part of this model",
  ],
  ["one layer more", { ...META, n_layer: 3 }, "DIR/weights.safetensors: tensor layer2.attn_wq is missing"],
  [
    "another context length",
    { ...META, block_size: 17 },
    "DIR/weights.safetensors: tensor wpe has shape [16, 8], meta.json asks for [17, 8]",
  ],
  [
    "special tokens that are no list",
    { ...META, special_tokens: "user" },
    "DIR/meta.json: special_tokens is not a list",
  ],
  [
    "special tokens of another program",
    { ...META, special_tokens: ["im_start"] },
    "DIR/meta.json: special_tokens of a chat model are user, assistant, end_turn",
  ],
  [
    "chat tokens that the tokenizer has not",
    { ...META, special_tokens: ["user", "assistant", "end_turn"] },
    "DIR/tokenizer.json has no token <user>",
  ],
];

for (const [name, meta, expected] of META_ATTACKS) {
  Deno.test(`meta.json: ${name}`, () =>
    withModel(async (dir) => {
      const text = typeof meta === "string" ? meta : JSON.stringify(meta);
      await Deno.writeTextFile(join(dir, "meta.json"), text);
      assert.equal(await refusal(dir), expected);
    }));
}

Deno.test("meta.json: not UTF-8", () =>
  withModel(async (dir) => {
    await Deno.writeFile(join(dir, "meta.json"), new Uint8Array([0x7b, 0xff, 0x7d]));
    assert.equal(await refusal(dir), "DIR/meta.json is not valid UTF-8");
  }));

type Tokenizer = { model: { vocab: Record<string, unknown> } | null; added_tokens: unknown };

const TOKENIZER_ATTACKS: [name: string, change: (json: Tokenizer) => void, expected: string][] = [
  ["no model", (json) => json.model = null, "DIR/tokenizer.json: model.vocab is missing"],
  [
    "a vocabulary that is a list",
    (json) => json.model!.vocab = [] as never,
    "DIR/tokenizer.json: model.vocab is missing",
  ],
  [
    "no <bos>",
    ({ model }) => {
      delete model!.vocab["<bos>"];
      model!.vocab["<eos>"] = 0;
    },
    "DIR/tokenizer.json has no token <bos>",
  ],
  [
    "an id out of range",
    ({ model }) => model!.vocab.a = 4096,
    "DIR/tokenizer.json: token a has id 4096, not 0 to 31",
  ],
  ["a negative id", ({ model }) => model!.vocab.a = -1, "DIR/tokenizer.json: token a has id -1, not 0 to 31"],
  [
    "an id that is text",
    ({ model }) => model!.vocab.a = "1",
    'DIR/tokenizer.json: token a has id "1", not 0 to 31',
  ],
  [
    "an id twice",
    ({ model }) => model!.vocab.a = 2,
    "DIR/tokenizer.json has 31 tokens, meta.json has vocab_size 32",
  ],
  [
    "added tokens that are null",
    (json) => json.added_tokens = [null],
    "DIR/tokenizer.json has 33 tokens, meta.json has vocab_size 32",
  ],
];

for (const [name, change, expected] of TOKENIZER_ATTACKS) {
  Deno.test(`tokenizer.json: ${name}`, () =>
    withModel(async (dir) => {
      const path = join(dir, "tokenizer.json");
      const json: Tokenizer = JSON.parse(await Deno.readTextFile(path));
      json.added_tokens = [];
      change(json);
      await Deno.writeTextFile(path, JSON.stringify(json));
      assert.equal(await refusal(dir), expected);
    }));
}

Deno.test("tokenizer.json: 200 MB are not read", () =>
  withModel(async (dir) => {
    using file = await Deno.open(join(dir, "tokenizer.json"), { write: true });
    await file.truncate(200e6);
    const { message, peak } = await refusalAndPeak(dir);
    assert.equal(
      message,
      "MicrogptError: DIR/tokenizer.json has 200000000 bytes, more than the 1081344 that can belong there",
    );
    assert(peak < 1000, `${peak} MB`);
  }));

Deno.test("tokenizer.json: as many tokens as 64 MB hold, and meta.json agrees", () =>
  withModel(async (dir) => {
    const vocabulary = 1 << 20;
    await Deno.writeTextFile(join(dir, "meta.json"), JSON.stringify({ ...META, vocab_size: vocabulary }));
    const entries = ['"<bos>":0'];
    for (let id = 1; id < vocabulary; id++) entries.push(`"${String(id).padStart(40, "x")}":${id}`);
    await Deno.writeTextFile(join(dir, "tokenizer.json"), `{"model":{"vocab":{${entries.join(",")}}}}`);
    const { message, peak } = await refusalAndPeak(dir);
    assert.equal(
      message,
      `MicrogptError: DIR/weights.safetensors: tensor lm_head has shape [32, 8], meta.json asks for [${vocabulary}, 8]`,
    );
    assert(peak < 1000, `${peak} MB`);
  }));

const STATE_ATTACKS: [name: string, state: unknown, expected: string][] = [
  ["an empty file", "", "is not valid JSON"],
  ["a list", [], "is not a JSON object"],
  ["no step", { ...RUST_STATE, step: undefined }, ": step is missing"],
  ["a negative step", { ...RUST_STATE, step: -1 }, ": step must be a whole number from 0, got -1"],
  [
    "a step of 2^63",
    { ...RUST_STATE, step: 2 ** 63 },
    ": step must be a whole number from 0, got 9223372036854776000",
  ],
  [
    "a learning rate of zero",
    { ...RUST_STATE, learning_rate: 0 },
    ": learning_rate must be a number above 0, got 0",
  ],
  ["an empty batch", { ...RUST_STATE, batch_size: 0 }, ": batch_size must be a whole number from 1, got 0"],
  ["a path that is a list", { ...RUST_STATE, dataset_path: ["a"] }, ': dataset_path must be text, got ["a"]'],
  [
    "another mode",
    { ...RUST_STATE, dataset_mode: "\x1b[2J" },
    ': dataset_mode must be "text" or "chat", got "\\u001b[2j"',
  ],
  [
    "another mode than the model's",
    { ...RUST_STATE, dataset_mode: "chat" },
    ": dataset_mode is chat, but meta.json describes no chat model",
  ],
  ["another dtype", { ...RUST_STATE, dtype: "f64" }, ': dtype must be "f32", "bf16" or "f16", got "f64"'],
  [
    "an optional field that is wrong",
    { ...RUST_STATE, seed: "x" },
    ': seed must be a whole number from 0, got "x"',
  ],
  ["digests that are no object", { ...RUST_STATE, files: 7 }, ": files has no bytes and sha256 of meta.json"],
  [
    "a digest of a file elsewhere only",
    { ...RUST_STATE, files: { "../../etc/passwd": { bytes: 1, sha256: "" } } },
    ": files has no bytes and sha256 of meta.json",
  ],
];

for (const [name, state, expected] of STATE_ATTACKS) {
  Deno.test(`train_state.json: ${name}`, () =>
    withModel(async (dir) => {
      const text = typeof state === "string" ? state : JSON.stringify(state);
      await Deno.writeTextFile(join(dir, "train_state.json"), text);
      const message = (await refusal(dir, [readCheckpoint])).replace(/^DIR\/train_state\.json ?/, "");
      assert.equal(message, expected);
      await readModel(dir); // for inference the state does not matter
    }));
}

for (const name of ["optimizer_m.safetensors", "optimizer_v.safetensors"]) {
  Deno.test(`${name}: of another model, or not finite`, () =>
    withModel(async (dir) => {
      const path = join(dir, name);
      const bytes = await Deno.readFile(path);
      new DataView(bytes.buffer).setFloat32(bytes.length - 4, NaN, true);
      await Deno.writeFile(path, bytes);
      assert.equal(await refusal(dir, [readCheckpoint]), `DIR/${name}: tensor wte holds NaN at [31, 7]`);
      await Deno.writeFile(path, bytes.subarray(0, 500));
      assert.match(
        await refusal(dir, [readCheckpoint]),
        new RegExp(`^DIR/${name}: the header claims \\d+ bytes`),
      );
    }));
}

Deno.test("a directory that is not there, a file, or a link to itself", {
  ignore: Deno.build.os === "windows",
}, () =>
  withDirectory(async (root) => {
    const dir = join(root, "model");
    assert.equal(await refusal(dir), "model directory DIR does not exist");
    await Deno.writeTextFile(dir, "x");
    assert.equal(await refusal(dir), "DIR is a file, a model is a directory");
    await assert.rejects(
      readModel(join(dir, "below")),
      new MicrogptError(`cannot open model directory ${join(dir, "below")}: Not a directory`),
    );
    await Deno.remove(dir);
    await Deno.symlink("model", dir);
    assert.equal(await refusal(dir), "cannot open model directory DIR: Too many levels of symbolic links");
    await Deno.remove(dir);
    await Deno.mkdir(dir);
    assert.equal(await refusal(dir, [readModel, readModelHeader]), "DIR/meta.json is missing");
    assert.equal(await refusal(dir, [readCheckpoint]), "DIR/train_state.json is missing");
  }));

Deno.test("files that are directories, links to themselves, or missing", {
  ignore: Deno.build.os === "windows",
}, () =>
  withModel(async (dir) => {
    for (const name of ["meta.json", "tokenizer.json", "weights.safetensors"]) {
      const path = join(dir, name);
      await Deno.rename(path, `${dir}-${name}`);
      assert.equal(await refusal(dir), `DIR/${name} is missing`);
      await Deno.mkdir(path);
      assert.equal(await refusal(dir), `DIR/${name} is not a regular file`);
      await Deno.remove(path);
      await Deno.symlink(name, path);
      assert.equal(await refusal(dir), `cannot read DIR/${name}: Too many levels of symbolic links`);
      await Deno.remove(path);
      await Deno.rename(`${dir}-${name}`, path);
    }
    await readModel(dir);
  }));

Deno.test({
  name: "files that never end or never begin",
  ignore: Deno.build.os === "windows", // has neither
  fn: () =>
    withModel(async (dir) => {
      for (const name of ["meta.json", "tokenizer.json", "weights.safetensors"]) {
        const path = join(dir, name);
        await Deno.rename(path, `${dir}-${name}`);
        await Deno.symlink("/dev/zero", path);
        assert.equal(await refusal(dir), `DIR/${name} is not a regular file`);
        await Deno.remove(path);
        await new Deno.Command("mkfifo", { args: [path] }).output();
        assert.equal(await refusal(dir), `DIR/${name} is not a regular file`);
        await Deno.remove(path);
        await Deno.rename(`${dir}-${name}`, path);
      }
    }),
});

Deno.test({
  name: "files and directories that may not be read",
  ignore: Deno.build.os === "windows", // has no such modes
  fn: () =>
    withModel(async (dir) => {
      await Deno.chmod(dirname(dir), 0o755);
      const whole = await refusalAndPeak(dir, true).catch(() => undefined);
      if (!whole) return console.warn("skipped: user `nobody` cannot run this deno or read this checkout");
      assert.equal(whole.message, "loaded");
      for (const name of ["meta.json", "tokenizer.json", "weights.safetensors"]) {
        await Deno.chmod(join(dir, name), 0o000);
        const { message } = await refusalAndPeak(dir, true);
        assert.equal(message, `MicrogptError: cannot read DIR/${name}: Permission denied`);
        await Deno.chmod(join(dir, name), 0o644);
      }
      await Deno.chmod(dir, 0o000);
      const { message } = await refusalAndPeak(dir, true);
      assert.equal(message, "MicrogptError: cannot read DIR/meta.json: Permission denied");
      await Deno.chmod(dir, 0o755);
    }),
});

Deno.test(
  "a save that was never finished",
  { ignore: Deno.build.os === "windows" },
  () =>
    withModel(async (dir) => {
      await Deno.mkdir(join(dir, ".saved"));
      await Deno.symlink("meta.json", join(dir, ".saved/meta.json"));
      assert.equal(await refusal(dir), "cannot read DIR/meta.json: Too many levels of symbolic links");
    }),
);

Deno.test("files of the training state that are not files", () =>
  withModel(async (dir) => {
    await Deno.remove(join(dir, "train_state.json"));
    await Deno.mkdir(join(dir, "train_state.json"));
    const before = await contentsOf(dir);
    const expected = new MicrogptError(`${join(dir, "train_state.json")} is not a regular file`);
    await assert.rejects(readTrainState(dir), expected);
    await assert.rejects(readCheckpoint(dir), expected);
    assert.deepEqual(await contentsOf(dir), before);
  }));
