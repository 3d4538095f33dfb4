/** The program from the outside: train, generate, info, export, completions, doctor. */
import assert from "node:assert/strict";
import { contentsOf, namesIn, withDirectory } from "../model/files/checkpoint_fixture.ts";
import { CHAT_RECIPE, CHATS, type Finished, microgpt, NAMES, programArgs, TINY } from "./program.ts";

const windows = Deno.build.os === "windows";

function succeeded(result: Finished): Finished {
  assert.equal(result.code, 0, result.stderr);
  return result;
}

const lines = (text: string) => text.trimEnd().split("\n");

/** Runs `use` in a directory with names.txt and a model trained on it. */
async function withModel(use: (dir: string, trained: Finished) => Promise<void>): Promise<void> {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
    const trained = await microgpt(["train", "--input", "names.txt", "--output", "model", ...TINY], {
      cwd: dir,
    });
    await use(dir, succeeded(trained));
  });
}

Deno.test("train writes a whole checkpoint, and says in plain lines how it went", async () => {
  await withModel(async (dir, { stdout, stderr }) => {
    assert.deepEqual(await namesIn(`${dir}/model`), [
      "checkpoints",
      "meta.json",
      "metrics.jsonl",
      "optimizer_m.safetensors",
      "optimizer_v.safetensors",
      "tokenizer.json",
      "train_state.json",
      "weights.safetensors",
    ]);
    assert.ok(!stderr.includes("\x1b") && !stderr.includes("\r"), "not for a terminal");
    assert.match(
      stderr,
      /^model +1 layers, 2 heads, width 8, context 32, vocabulary \d+: [\d,]+ parameters$/m,
    );
    assert.match(stderr, /^data +names\.txt: 57 documents to train on, 3 held out$/m);
    assert.match(stderr, /^memory +\d+\.\d MB/m);
    assert.match(stderr, /^lengths: 60 documents, median \d+/m);
    assert.match(stderr, /^step 1 \/ 4 \| len \d+ \| loss \d\.\d{4} \| \S+s\/step \| eta \d+s$/m);
    assert.match(stderr, /^step 4 \/ 4 \| /m);
    assert.match(stderr, /^step 4: held out loss \d\.\d+, \d\.\d+ bits per byte$/m);
    assert.match(stderr, /^model in model: step 4, held out loss \d\.\d{4}, the best so far$/m);
    assert.match(stderr, /^next: .* generate --model-dir model$/m);
    assert.match(stderr, /┤/, "the loss curve");
    assert.equal(lines(stdout).length, 5);
    lines(stdout).forEach((line, i) => assert.ok(line.startsWith(`sample  ${i + 1}: `), line));
  });
});

Deno.test("train --resume goes on, in the same directory or another", async () => {
  await withModel(async (dir) => {
    const more = succeeded(await microgpt(["train", "--resume", "model", "--steps", "3"], { cwd: dir }));
    assert.match(more.stderr, /^training steps 4 … 7, batch 4/m);
    assert.match(more.stderr, /^step 7 \/ 7 /m);
    const other = [
      "train",
      "--resume",
      "model",
      "--steps",
      "2",
      "--output",
      "other",
      "--lr",
      "0.005",
      "--n-embd",
      "16",
    ];
    const { stderr } = succeeded(await microgpt(other, { cwd: dir }));
    assert.match(stderr, /^warning: --lr changes from 0\.01 to 0\.005$/m);
    assert.match(stderr, /^warning: --n-embd 16 is ignored, the checkpoint has 8$/m);
    const step = async (model: string) =>
      JSON.parse(await Deno.readTextFile(`${dir}/${model}/train_state.json`)).step;
    assert.deepEqual([await step("model"), await step("other")], [7, 9]);
  });
});

Deno.test("train --dry-run shows the plan and writes nothing", async () => {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
    const { stdout, stderr } = succeeded(
      await microgpt(["train", "--input", "names.txt", "--dry-run", ...TINY], { cwd: dir }),
    );
    assert.equal(stdout, "");
    assert.match(stderr, /^memory /m);
    assert.doesNotMatch(stderr, /^step/m);
    assert.deepEqual(await namesIn(dir), ["names.txt"]);
  });
});

Deno.test("a run that diverged says so at its end; a short or a healthy one does not", async () => {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
    const run = async (...args: string[]) =>
      succeeded(await microgpt(["train", "--input", "names.txt", ...TINY, ...args], { cwd: dir })).stderr;
    assert.match(
      await run("--steps", "60", "--lr", "30"),
      /^warning: training diverged: its loss ends at \d+\.\d+, .*; train anew with --lr below 30 or --grad-clip below 1$/m,
    );
    assert.doesNotMatch(await run("--steps", "20", "--lr", "30"), /diverged/);
    assert.doesNotMatch(await run("--steps", "60", "--batch-size", "1"), /diverged/);
    assert.doesNotMatch(await run("--steps", "60", "--lr", "0.02"), /diverged/);
    const ruin = ["train", "--resume", "output", "--steps", "60", "--lr", "30", "--grad-clip", "0"];
    assert.match(
      (await microgpt(ruin, { cwd: dir })).stderr,
      /^warning: training diverged: .* or --grad-clip 1$/m,
    );
  });
});

Deno.test("train reads standard input", async () => {
  await withDirectory(async (dir) => {
    succeeded(
      await microgpt(["train", "--input", "-", "--output", "m", ...TINY], { cwd: dir, stdin: NAMES }),
    );
    const again = await microgpt(["train", "--resume", "m", "--steps", "1"], { cwd: dir });
    assert.equal(again.code, 1);
    assert.match(again.stderr, /^error: the run was trained on data that came from no file/);
    const given = ["train", "--resume", "m", "--steps", "1", "--input", "-"];
    succeeded(await microgpt(given, { cwd: dir, stdin: NAMES }));
  });
});

Deno.test("generate prints a line a sample; --json an object; seed and prompt count", async () => {
  await withModel(async (dir) => {
    const generate = async (...args: string[]) =>
      succeeded(await microgpt(["generate", "--model-dir", "model", ...args], { cwd: dir })).stdout;
    const twenty = await generate();
    assert.equal(lines(twenty).length, 20);
    lines(twenty).forEach((line, i) =>
      assert.match(line, new RegExp(`^sample ${String(i + 1).padStart(2)}: `))
    );
    assert.equal(await generate("--device", "cpu", "--threads", "1"), twenty, "the same seed");
    const hot = ["--temperature", "1.5", "--num-samples", "3", "--json"];
    const objects = lines(await generate(...hot, "--seed", "5")).map((line) => JSON.parse(line));
    assert.deepEqual(objects.map(({ index, seed }) => [index, seed]), [[0, 5], [1, 6], [2, 7]]);
    const [second] = lines(await generate(...hot, "--seed", "6")).map((line) => JSON.parse(line));
    assert.equal(second.text, objects[1].text, "sample i uses seed + i");
    const prompted = lines(await generate("--prompt", "zq", "--num-samples", "2", "--max-tokens", "3"));
    prompted.forEach((line, i) => assert.ok(line.startsWith(`sample  ${i + 1}: zq`), line));
    assert.match(
      (await microgpt(["generate", "--model-dir", "model", "--prompt", "xyz".repeat(40)], { cwd: dir }))
        .stderr,
      /^error: the prompt has \d+ tokens, the model's context is 32\nhint: shorten the prompt\n$/,
    );
  });
});

/** Runs the program in a pipe of bash: `"$@"` is the program. */
async function inPipe(command: string, args: string[], cwd: string): Promise<Finished> {
  const process = new Deno.Command("bash", { args: ["-c", command, "bash", ...programArgs(args)], cwd });
  const { code, stdout, stderr } = await process.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

Deno.test({
  name: "a reader that leaves early ends generate quietly",
  ignore: windows,
  fn: async () => {
    await withModel(async (dir) => {
      const command = `"$@" | head -1; test \${PIPESTATUS[0]} -eq 0`;
      const generate = ["generate", "--model-dir", "model", "--num-samples", "3000"];
      const { code, stdout, stderr } = await inPipe(command, generate, dir);
      assert.equal(stderr, "");
      assert.match(stdout, /^sample {2}1: .*\n$/);
      assert.equal(code, 0);
    });
  },
});

Deno.test({
  name: "a reader that leaves early costs a training run nothing",
  ignore: windows,
  fn: async () => {
    await withModel(async (dir) => {
      const train = ["train", "--input", "names.txt", "--output", "piped", ...TINY, "--steps", "40"];
      const { stdout } = await inPipe(`"$@" 2>&1 | head -2`, [...train, "--eval-every", "1"], dir);
      assert.equal(lines(stdout).length, 2);
      const state = JSON.parse(await Deno.readTextFile(`${dir}/piped/train_state.json`));
      assert.deepEqual([state.step, state.final], [40, true]);
    });
  },
});

Deno.test({
  name: "a full disk behind stdout is an error, behind stderr it costs a training run nothing",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await withModel(async (dir) => {
      const { code, stderr } = await inPipe(`"$@" > /dev/full`, ["info", "--model-dir", "model"], dir);
      assert.equal(stderr, "error: cannot write to standard output: no space left\n");
      assert.equal(code, 1);
      succeeded(await inPipe(`"$@" 2> /dev/full`, ["train", "--resume", "model", "--steps", "2"], dir));
    });
  },
});

Deno.test("info describes a model and measures data", async () => {
  await withModel(async (dir) => {
    const info = async (...args: string[]) =>
      succeeded(await microgpt(["info", ...args], { cwd: dir })).stdout;
    const text = await info("--model-dir", "model");
    assert.match(text, /^network +1 layers, 2 heads, width 8, context 32 tokens$/m);
    assert.match(text, /^special +<bos>$/m);
    assert.match(text, /^weights +safetensors, F32, 0\.\d\d MB$/m);
    assert.match(text, /^training +step 4$/m);
    const model = JSON.parse(await info("--model-dir", "model", "--json"));
    assert.deepEqual([model.n_embd, model.kind, model.training.step], [8, "text", 4]);
    assert.equal(model.tokenizer.merges, model.vocab_size - 257);
    const file = await Deno.stat(`${dir}/model/weights.safetensors`);
    assert.equal(model.file.bytes, file.size);
    assert.match(await info("--input", "names.txt"), /^lengths: 60 documents, median \d+/);
    const counted = JSON.parse(await info("--input", "names.txt", "--model-dir", "model", "--json"));
    assert.deepEqual([counted.documents, counted.vocab_size], [60, model.vocab_size]);
    const fewer = JSON.parse(await info("--input", "names.txt", "--vocab-size", "257", "--json"));
    assert.equal(
      fewer.longest,
      Math.max(...NAMES.split("\n").map((name) => name.length)) + 2,
      "bytes and two <bos>",
    );
  });
});

Deno.test("info on conversations", async () => {
  await withDirectory(async (dir) => {
    const trailing = JSON.stringify([{ role: "user", content: "?" }]);
    await Deno.writeTextFile(`${dir}/chats.jsonl`, `${CHATS}\n${trailing}\n`);
    const { stdout, stderr } = succeeded(
      await microgpt(["info", "--input", "chats.jsonl", "--chat", "--vocab-size", "300"], { cwd: dir }),
    );
    assert.match(stdout, /^lengths: 3 conversations/);
    assert.match(stderr, /^data cleanup: 0 conversations trimmed .*, 1 skipped/m);
    for (const args of [["info", "--vocab-size", "300"], ["train", "--dry-run", ...TINY]]) {
      const forgotten = succeeded(await microgpt([...args, "--input", "chats.jsonl"], { cwd: dir }));
      assert.match(
        forgotten.stderr,
        /^warning: the lines of chats\.jsonl look like conversations; .*--chat/m,
      );
    }
  });
});

Deno.test("export writes inference models that generate the same text", async () => {
  await withModel(async (dir) => {
    const run = async (...args: string[]) => succeeded(await microgpt(args, { cwd: dir })).stdout;
    assert.match(
      await run("export", "--model-dir", "model", "--output", "plain"),
      /^exported model to plain\/weights/,
    );
    assert.deepEqual(await namesIn(`${dir}/plain`), ["meta.json", "tokenizer.json", "weights.safetensors"]);
    const half = JSON.parse(
      await run("export", "--model-dir", "model", "--output", "half", "--half", "--json"),
    );
    assert.equal(half.dtype, "f16");
    assert.match(await run("info", "--model-dir", "half"), /F16[^]*no state: an inference-only model/);
    const samples = ["--num-samples", "4", "--temperature", "1"];
    const expected = await run("generate", "--model-dir", "model", ...samples);
    assert.equal(await run("generate", "--model-dir", "plain", ...samples), expected);
    const onnx = await run("export", "--model-dir", "model", "--output", "onnx", "--format", "onnx");
    assert.match(onnx, /^checked in onnxruntime: logits differ from ours by at most \d(\.\d)?e-[4-9]$/m);
    assert.deepEqual(await namesIn(`${dir}/onnx`), [
      "config.json",
      "generation_config.json",
      "model.onnx",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    for (const args of [["generate", "--model-dir"], ["info", "--model-dir"], ["train", "--resume"]]) {
      const { code, stderr } = await microgpt([...args, "onnx"], { cwd: dir });
      assert.match(
        stderr,
        /^error: onnx is an ONNX export: .*\nhint: name the directory .* exported from\n$/,
      );
      assert.equal(code, 1);
    }
    const before = await contentsOf(dir);
    for (
      const [args, message] of [
        [["--output", "./plain/../model"], /^error: the export would replace the model it is made from: /],
        [["--output", "names.txt/x"], /^error: cannot write to names\.txt\/x: Not a directory\nhint: /],
        [["--output", "onnx"], /^error: onnx holds an ONNX export, which this would break\nhint: /],
        [
          ["--output", "plain", "--format", "onnx"],
          /^error: plain holds a model \(meta\.json\), which this would break\nhint: /,
        ],
        [[], /^error: --output is required\nhint: /],
      ] as const
    ) {
      const { code, stderr } = await microgpt(["export", "--model-dir", "model", ...args], { cwd: dir });
      assert.match(stderr, message);
      assert.ok(code === 1 || code === 2);
    }
    assert.deepEqual(await contentsOf(dir), before);
  });
});

Deno.test("generate goes on with a conversation given as JSON", async () => {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(`${dir}/chats.jsonl`, CHATS);
    succeeded(
      await microgpt(["train", "--input", "chats.jsonl", "--output", "m", ...CHAT_RECIPE], { cwd: dir }),
    );
    const generate = async (prompt: string) =>
      await microgpt(
        ["generate", "--model-dir", "m", "--num-samples", "1", "--temperature", "0", "--prompt", prompt],
        { cwd: dir },
      );
    const user = { role: "user", content: "count" };
    const begun = { role: "assistant", content: "one two three four" };
    assert.equal((await generate("hello")).stdout, "sample  1: Hello! How are you?\n");
    assert.match((await generate(JSON.stringify([user]))).stdout, /^sample {2}1: one two three four five/);
    assert.match((await generate(JSON.stringify([user, begun]))).stdout, /^sample {2}1: five six seven/);
    const wrong = await generate('[{"role": "system", "content": "x"}]');
    assert.equal(wrong.code, 1);
    assert.match(wrong.stderr, /^error: --prompt: message 1: expected "role" to be "user" or "assistant"/);
    const whole = await microgpt(["generate", "--model-dir", "m", "--num-samples", "1"], { cwd: dir });
    assert.match(whole.stdout, /^sample {2}1: user: .*\nassistant: .+\n/);
  });
});

Deno.test("completions are scripts that their shells accept", async (t) => {
  for (const [shell, check] of [["bash", "-n"], ["zsh", "-n"], ["fish", "-n"]] as const) {
    const { stdout } = succeeded(await microgpt(["completions", shell]));
    assert.match(stdout, /chat-medium/);
    assert.match(stdout, /top-p/);
    await withDirectory(async (dir) => {
      const script = `${dir}/microgpt.${shell}`;
      await Deno.writeTextFile(script, stdout);
      let output: Deno.CommandOutput | undefined;
      try {
        output = await new Deno.Command(shell, { args: [check, script] }).output();
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
      await t.step({
        name: output ? shell : `${shell} is not installed: skipped`,
        ignore: output === undefined,
        fn: () => assert.equal(new TextDecoder().decode(output!.stderr), ""),
      });
    });
  }
  assert.equal((await microgpt(["completions", "csh"])).code, 2);
});

Deno.test("completions of bash complete", { ignore: windows }, async () => {
  const { stdout: script } = succeeded(await microgpt(["completions", "bash"]));
  assert.doesNotMatch(script, /mapfile/, "which bash 3.2 does not know");
  const complete = async (...words: string[]) => {
    const setup = `${script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _microgpt; echo "\${COMPREPLY[*]}"`;
    const { stdout } = await new Deno.Command("bash", { args: ["-c", setup, "bash", ...words] }).output();
    return new TextDecoder().decode(stdout).trim();
  };
  assert.equal(await complete("microgpt", "ge"), "generate");
  assert.equal(await complete("microgpt", "export", "--fo"), "--format");
  assert.equal(await complete("microgpt", "train", "--preset", "chat-s"), "chat-small");
  assert.equal(await complete("microgpt", "completions", ""), "bash zsh fish --help");
});

Deno.test("doctor names the library and measures the devices", async () => {
  const { code, stdout } = await microgpt(["doctor", "--json"]);
  assert.equal(code, 0);
  const { version, library, cpu, webgpu, cache } = JSON.parse(stdout);
  assert.ok(cache.dir.endsWith("data") && cache.limit === 20e9, JSON.stringify(cache));
  assert.match(version, /^\d+\.\d+\.\d+$/);
  assert.ok((await Deno.stat(library.path)).isFile);
  assert.ok(cpu.name.length > 0 && cpu.productGigaflops > 0.1, JSON.stringify(cpu));
  assert.ok(webgpu.problem !== undefined || webgpu.peakGigaflops > 0.1, JSON.stringify(webgpu));
  const without = await microgpt(["doctor"], { env: { MICROGPT_NATIVE: "/nowhere/library.so" } });
  assert.match(
    without.stdout,
    /^library +MICROGPT_NATIVE names \/nowhere\/library\.so, which is not a file/m,
  );
});

Deno.test("help, version, and the nearest word", async () => {
  const help = await microgpt(["help", "train"]);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /--warmup-steps <n> +steps of linear warmup[^-]*--from 20; default 200\n/);
  assert.match((await microgpt(["--version"])).stdout, /^\d+\.\d+\.\d+\n$/);
  for (
    const [args, message] of [
      [["train", "--stesp", "3"], "error: unknown option '--stesp'\nhint: did you mean --steps?\n"],
      [["generat"], "error: unknown command 'generat'\nhint: did you mean generate?\n"],
    ] as const
  ) {
    const { code, stderr } = await microgpt([...args]);
    assert.equal(stderr, message);
    assert.equal(code, 2);
  }
  assert.match((await microgpt(["help", "toString"])).stderr, /^error: unknown command 'toString'\n/);
});
