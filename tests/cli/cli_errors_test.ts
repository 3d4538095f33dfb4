/** What people get wrong: one clear line each, exit code 1 or 2, nothing left behind. */
import assert from "node:assert/strict";
import { main } from "../../cli.ts";
import type { Flag } from "../../cli/command.ts";
import { COMMANDS } from "../../cli/commands.ts";
import { saveInferenceModel } from "../../model/files/checkpoint.ts";
import { contentsOf, withDirectory } from "../model/files/checkpoint_fixture.ts";
import { tinyModel } from "../model/export/onnx_fixture.ts";
import { CHATS, microgpt, NAMES, programArgs, TINY } from "./program.ts";
import { TERMINAL_TESTS } from "./terminal.ts";

/** The error, and perhaps a hint; nothing else. */
const ERROR = /^error: [^\n]+\n(hint: [^\n]+\n)?$/;

/** The last lines are the error's; what a run said before it failed may stand above. */
function errorOf(stderr: string): string {
  const found = /(^|\n)(error: [^\n]+\n(hint: [^\n]+\n)?)$/.exec(stderr)?.[2];
  assert.ok(found, stderr);
  return found;
}

/** Runs the program in a new directory of these files, and checks that it fails and leaves them as they were. */
async function fails(
  files: Record<string, string | Uint8Array>,
  args: string[],
  message: RegExp,
  code: 1 | 2,
): Promise<void> {
  await withDirectory(async (dir) => {
    for (const [name, content] of Object.entries(files)) {
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      await Deno.writeFile(`${dir}/${name}`, bytes);
    }
    const before = await contentsOf(dir);
    const result = await microgpt(args, { cwd: dir });
    assert.match(errorOf(result.stderr), message);
    assert.equal(result.code, code, result.stderr);
    assert.equal(result.stdout, "");
    assert.deepEqual(await contentsOf(dir), before);
  });
}

const train = (...args: string[]) => ["train", "--input", "data.txt", "--output", "model", ...TINY, ...args];
const binary = Uint8Array.from({ length: 4096 }, (_, i) => (i * 167) % 256);

for (
  const [what, files, args, message, code] of [
    ["a missing file", {}, train(), /^error: cannot read data\.txt: no such file\n/, 1],
    ["an empty file", { "data.txt": "" }, train(), /^error: data\.txt holds no document\nhint: /, 1],
    [
      "a file of empty lines",
      { "data.txt": "\n  \n\t\n" },
      train(),
      /^error: data\.txt holds no document\nhint/,
      1,
    ],
    ["a binary file", { "data.txt": binary }, train(), /^error: data\.txt is not a text file: /, 1],
    [
      "a file that is not UTF-8",
      { "data.txt": Uint8Array.of(97, 10, 0xe9, 10) },
      train(),
      /^error: data\.txt line 2 is not valid UTF-8: bad byte at offset 2\nhint: /,
      1,
    ],
    [
      "patience without evaluations",
      { "data.txt": NAMES },
      train("--patience", "2", "--eval-every", "0"),
      /^error: --patience counts evaluations, and with --eval-every 0 there are none on the way\nhint: /,
      2,
    ],
    ["no input", {}, ["train", ...TINY], /^error: --input is required\nhint: /, 2],
    [
      "heads that do not divide",
      { "data.txt": NAMES },
      train("--n-embd", "10", "--n-head", "3"),
      /--n-embd 10 .*--n-head 3/,
      2,
    ],
    [
      "a vocabulary smaller than the alphabet",
      { "data.txt": CHATS },
      train("--chat", "--vocab-size", "259"),
      /^error: a vocabulary of 259 is not possible: .* at least 260\nhint: --vocab-size /,
      2,
    ],
    [
      "text in chat mode",
      { "data.txt": NAMES },
      train("--chat"),
      /^error: data\.txt line 1: expected an array of .*\nhint: is this a plain text file\? then drop --chat, or to measure a chat model give --format text\n/,
      1,
    ],
    [
      "an output below a file",
      { "data.txt": NAMES },
      train("--output", "data.txt/model"),
      /^error: cannot write to data\.txt\/model: Not a directory\nhint: choose another directory with --output\n/,
      1,
    ],
    [
      "an output that is a file",
      { "data.txt": NAMES },
      train("--output", "data.txt"),
      /^error: cannot write to data\.txt: /,
      1,
    ],
    [
      "documents longer than the block, all dropped",
      { "data.txt": NAMES },
      train("--skip-long", "--block-size", "1"),
      /--block-size/,
      1,
    ],
    [
      "a model larger than any memory",
      { "data.txt": NAMES },
      train("--n-embd", "16384", "--n-layer", "1024"),
      /^error: not enough memory for weights: [\d,]+ MB\nhint: .*--n-embd/,
      1,
    ],
    [
      "a device that is not there",
      { "data.txt": NAMES },
      train("--device", "gpu"),
      /^error: --device must be one of cpu/,
      2,
    ],
    [
      "a type that the device has not",
      { "data.txt": NAMES },
      train("--dtype", "f16"),
      /f32.*f16.*\nhint: /,
      2,
    ],
    [
      "a flag for a directory's name",
      { "data.txt": NAMES },
      ["train", "--input", "data.txt", "--output", "--chat"],
      /^error: --output has no value: --chat after it is a flag\nhint: .* write --output=--chat\n/,
      2,
    ],
    [
      "a switch with a value",
      {},
      ["info", "--json=no"],
      /^error: --json takes no value, got --json=no\n/,
      2,
    ],
    ["help with what is no command", {}, ["help", "trian"], /^error: unknown command 'trian'\nhint: /, 2],
    ["help with two commands", {}, ["help", "train", "chat"], /^error: help takes one subcommand\nhint: /, 2],
    ["too many words", { "data.txt": NAMES }, ["train", "data.txt"], /^error: too many arguments/, 2],
    [
      "an empty name",
      { "data.txt": NAMES },
      train("--output", ""),
      /^error: --output is empty\nhint: name a directory\n/,
      2,
    ],
    ["no value", {}, ["train", "--input"], /^error: option '--input <file>' argument missing\n/, 2],
    [
      "a resumed run that is none",
      {},
      ["train", "--resume", "nowhere"],
      /^error: .*nowhere does not exist\n/,
      1,
    ],
    [
      "generate without a model",
      {},
      ["generate"],
      /^error: model directory output does not exist\nhint: /,
      1,
    ],
    [
      "chat without a model",
      {},
      ["chat", "--model-dir", "nowhere"],
      /^error: model directory nowhere does not exist/,
      1,
    ],
    [
      "info on a file",
      { "data.txt": NAMES },
      ["info", "--model-dir", "data.txt"],
      /^error: data\.txt is a file/,
      1,
    ],
    [
      "a model whose meta.json was changed",
      { "meta.json": '{"vocab_size": "512"}' },
      ["generate", "--model-dir", "."],
      /^error: meta\.json: vocab_size is not a number\nhint: the file was changed or damaged; copy /,
      1,
    ],
    [
      "info with a flag for data only",
      {},
      ["info", "--vocab-size", "300"],
      /^error: --vocab-size is about a data file/,
      2,
    ],
    ["no command", {}, ["trian"], /^error: unknown command 'trian'\nhint: did you mean train\?\n$/, 2],
    [
      "an escape sequence in an argument",
      {},
      ["info", "--model-dir", "\x1b[31mred"],
      /^error: model directory red does/,
      1,
    ],
  ] as [string, Record<string, string | Uint8Array>, string[], RegExp, 1 | 2][]
) {
  Deno.test(`bad input: ${what}`, () => fails(files, args, message, code));
}

Deno.test("bad input: an output that cannot be written is said before the data is read", async () => {
  const args = ["train", "--input", "nowhere.txt", "--output", "data.txt/deep/model"];
  await fails({ "data.txt": NAMES }, args, /^error: cannot write to data\.txt\/deep\/model: /, 1);
  await fails({}, ["train", "--input", "nowhere.txt", "--output", "deep/model"], /^error: cannot read/, 1);
});

Deno.test({
  name: "bad input: no permission to write",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    // root may write anywhere but into the kernel's own trees
    await fails(
      { "data.txt": NAMES },
      train("--output", "/proc/microgpt-model"),
      /^error: cannot write to \/proc\/microgpt-model: .*\nhint: choose another directory with --output\n/,
      1,
    );
  },
});

/** Makes writing a file beyond 8000 bytes an error, as a full disk does, then becomes the program. */
const SMALL_DISK = `import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
os.execvp(sys.argv[1], sys.argv[1:])`;

Deno.test({
  name: "bad input: no room to save: the checkpoint before stays whole",
  ignore: !TERMINAL_TESTS,
  fn: async () => {
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/data.txt`, NAMES);
      assert.equal((await microgpt(train(), { cwd: dir })).code, 0);
      const before = await contentsOf(dir);
      const { code, stderr } = await new Deno.Command("python3", {
        args: ["-c", SMALL_DISK, ...programArgs(["train", "--resume", "model", "--steps", "2"])],
        cwd: dir,
      }).output();
      assert.match(
        errorOf(new TextDecoder().decode(stderr)),
        /^error: cannot save to model: File too large\nhint: what was saved there before is untouched\n$/,
      );
      assert.equal(code, 1);
      assert.deepEqual(await contentsOf(dir), before);
    });
  },
});

/** Runs the program in this process. @returns its exit code and what it wrote to stderr */
async function captured(args: string[]): Promise<{ code: number; stderr: string }> {
  const decoder = new TextDecoder();
  let stderr = "";
  const { writeSync } = Deno.stderr;
  Deno.stderr.writeSync = (bytes: Uint8Array) => {
    stderr += decoder.decode(bytes);
    return bytes.length;
  };
  try {
    return { code: await main(args), stderr };
  } finally {
    Deno.stderr.writeSync = writeSync;
  }
}

/** Values that no number flag takes. */
const NEVER = ["", "abc", "NaN", "1e99", "-1e9", "Infinity", "-Infinity", "12abc"];
/** Flags for which zero makes no sense. */
const NOT_ZERO =
  "--steps --lr --muon-lr --n-embd --n-head --n-layer --block-size --batch-size --vocab-size --grad-accum --num-samples --max-tokens --minutes"
    .split(" ");
/** Flags that take fractions. */
const FRACTIONS = [
  "--rope-theta",
  "--minutes",
  "--lr",
  "--muon-lr",
  "--request-timeout",
  "--reader-timeout",
  "--grace",
  "--grad-clip",
  "--weight-decay",
  "--val-fraction",
  "--temperature",
  "--top-p",
  "--min-p",
  "--repetition-penalty",
  "--frequency-penalty",
  "--presence-penalty",
];
/** Flags that may be less than zero. */
const SIGNED = ["--temperature", "--frequency-penalty", "--presence-penalty"];

/** What else each command needs, so that only the flag is wrong. */
const OTHERWISE: Record<string, (dir: string) => string[]> = {
  train: (dir) => ["--input", `${dir}/names.txt`, "--output", `${dir}/trained`, "--dry-run"],
  sweep: (dir) => ["--input", `${dir}/names.txt`, "--output", `${dir}/swept`, "--lr", "0.1,0.2"],
  generate: (dir) => ["--model-dir", `${dir}/model`],
  chat: (dir) => ["--model-dir", `${dir}/model`],
  serve: (dir) => ["--model-dir", `${dir}/model`],
  eval: (dir) => ["--model-dir", `${dir}/model`, "--input", `${dir}/names.txt`],
  info: (dir) => ["--input", `${dir}/names.txt`],
  export: (dir) => ["--model-dir", `${dir}/model`, "--output", `${dir}/exported`, "--format", "onnx"],
};

for (const [name, { load }] of Object.entries(COMMANDS)) {
  Deno.test(`${name}: numbers that are none, negative, zero or huge, for every flag`, async (t) => {
    const { command } = await load();
    const numbers = command.flags.filter(({ type }) => type === "number");
    assert.equal(numbers.length > 0, name in OTHERWISE);
    await withDirectory(async (dir) => {
      await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
      await saveInferenceModel(`${dir}/model`, { ...tinyModel(true), chat: true });
      const before = await contentsOf(dir);
      for (const flag of numbers) {
        await t.step(flag.name, () => refusesNumbers(name, flag, OTHERWISE[name]!(dir)));
      }
      assert.deepEqual(await contentsOf(dir), before);
    });
  });
}

async function refusesNumbers(command: string, { name }: Flag, otherwise: string[]): Promise<void> {
  const values = [...NEVER];
  if (NOT_ZERO.includes(name)) values.push("0");
  if (!FRACTIONS.includes(name)) values.push("1.5");
  if (!SIGNED.includes(name)) values.push("-1");
  for (const value of values) {
    const { code, stderr } = await captured([command, ...otherwise, `${name}=${value}`]);
    assert.match(stderr, ERROR, `${name}=${value}`);
    assert.ok(stderr.startsWith(`error: ${name} must be `), stderr);
    assert.equal(code, 2, stderr);
  }
}

Deno.test("serve: other machines are let in with a key, or where --no-auth says so, and not otherwise", async () => {
  const serve = (...more: string[]) =>
    captured(["serve", "--model-dir", "nowhere", "--host", "0.0.0.0", "--port", "0", ...more]);
  const { code, stderr } = await serve();
  assert.equal(
    stderr,
    "error: everyone who reaches 0.0.0.0 could use the server\n" +
      "hint: set --api-key, or say --no-auth if that is meant\n",
  );
  assert.equal(code, 2);
  for (const allowed of [["--no-auth"], ["--api-key", "secret"]]) {
    assert.match((await serve(...allowed)).stderr, /error: model directory nowhere does not exist/);
  }
});

Deno.test("a flag that is given twice is an error, for every flag; a switch says the same twice", async () => {
  for (const [subcommand, { load }] of Object.entries(COMMANDS)) {
    const { command } = await load();
    for (const { name, value, repeatable } of command.flags) {
      if (repeatable) continue;
      if (value === undefined) {
        const { code, stderr } = await captured([subcommand, name, name, "--nonsense"]);
        assert.match(stderr, /^error: unknown option '--nonsense'\n/);
        assert.equal(code, 2);
        continue;
      }
      for (const twice of [[name, "1", name, "1"], [name, "1", `${name}=2`], [`${name}=`, name, "2"]]) {
        const { code, stderr } = await captured([subcommand, ...twice]);
        assert.equal(stderr, `error: ${name} is given twice\nhint: give it once\n`);
        assert.equal(code, 2);
      }
    }
  }
});

Deno.test("flags with choices say which", async () => {
  for (const [subcommand, { load }] of Object.entries(COMMANDS)) {
    const { command } = await load();
    for (const { name, choices } of command.flags) {
      if (!choices) continue;
      const { code, stderr } = await captured([subcommand, name, "nonsense"]);
      assert.equal(stderr, `error: ${name} must be one of ${choices.join(", ")}, got "nonsense"\n`);
      assert.equal(code, 2);
    }
  }
});
