/**
 * The compiled program, alone in an empty folder: no Deno, no source, no cache, no search path. Needs a `denort` that the
 * machine can run, named by DENORT_BIN; without one it is skipped, and its name says so.
 */
import assert from "node:assert/strict";
import { compile } from "../scripts/compile.ts";

const denort = Deno.env.get("DENORT_BIN") ?? "";
const skipped = denort === "" ? " (skipped: DENORT_BIN names no denort)" : "";

/** A file name that nobody can write, root included. */
const UNWRITABLE = "/proc/microgpt";

interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

Deno.test({
  name: `the compiled program works alone in an empty folder${skipped}`,
  ignore: denort === "",
  fn: async (t) => {
    const outside = await Deno.makeTempDir();
    const folder = `${outside}/alone`;
    try {
      await Deno.mkdir(folder);
      await Deno.mkdir(`${outside}/home`);
      const preload = new URL("./quickjs_ffi.ts", import.meta.url).pathname;
      await Deno.rename(
        await compile({ output: `${outside}/microgpt`, preload }),
        `${folder}/microgpt`,
      );
      await writeData(outside);
      const program = new Program(folder, `${outside}/home`);
      await checkProgram(t, program, outside);
    } finally {
      await Deno.remove(outside, { recursive: true });
    }
  },
});

/** Some names, and some conversations. */
async function writeData(directory: string): Promise<void> {
  const names = await Deno.readTextFile(new URL("../data/samples/names.txt", import.meta.url));
  await Deno.writeTextFile(`${directory}/names.txt`, names.split("\n").slice(0, 1000).join("\n"));
  const chats = Array.from({ length: 40 }, (_, i) =>
    JSON.stringify([
      { role: "user", content: `what is ${i} plus ${i}` },
      { role: "assistant", content: `it is ${2 * i}` },
    ]));
  await Deno.writeTextFile(`${directory}/chat.jsonl`, chats.join("\n"));
}

/** The program in its folder. */
class Program {
  constructor(readonly folder: string, readonly home: string) {}

  async run(args: string[], { stdin = "", env = {} }: { stdin?: string; env?: Record<string, string> } = {}) {
    const runtimeDirectory = Deno.env.get("XDG_RUNTIME_DIR"); // Vulkan complains without
    const child = new Deno.Command(`${this.folder}/microgpt`, {
      args,
      cwd: this.folder,
      clearEnv: true,
      env: {
        HOME: this.home,
        PATH: "/nowhere",
        ...(runtimeDirectory ? { XDG_RUNTIME_DIR: runtimeDirectory } : {}),
        ...env,
      },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(stdin)).then(() => writer.close()).catch(() => {});
    const { code, stdout, stderr } = await child.output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, stdout: text(stdout), stderr: text(stderr) } satisfies Result;
  }

  /** Runs what must succeed. */
  async ok(args: string[], options?: { stdin?: string; env?: Record<string, string> }): Promise<Result> {
    const result = await this.run(args, options);
    assert.equal(result.code, 0, `microgpt ${args.join(" ")}\n${result.stderr}`);
    return result;
  }

  /** Runs what must fail, with one line that matches. */
  async fails(code: number, args: string[], message: RegExp): Promise<void> {
    const result = await this.run(args);
    assert.match(result.stderr, message);
    assert.equal(result.code, code, result.stderr);
    const lines = result.stderr.trim().split("\n").filter((line) => !/^hint: /.test(line));
    assert.equal(lines.filter((line) => line.startsWith("error: ")).length, 1, result.stderr);
    assert.doesNotMatch(result.stderr, /^ {4}at |panicked/m);
  }
}

const SMALL = ["--vocab-size", "300", "--n-embd", "16", "--n-layer", "1", "--eval-every", "0"];

async function checkProgram(t: Deno.TestContext, program: Program, data: string): Promise<void> {
  const names = ["--input", `${data}/names.txt`, ...SMALL];
  await t.step("train on cpu, in a home that cannot be written", async () => {
    const env = { HOME: UNWRITABLE, XDG_CACHE_HOME: UNWRITABLE };
    const { stdout, stderr } = await program.ok(["train", ...names, "--steps", "50"], { env });
    assert.match(stderr, /step 50 \/ 50 .* loss \d/);
    assert.match(stdout, /^sample {2}1: /m);
  });
  await t.step("resume", async () => {
    const { stderr } = await program.ok(["train", "--resume", "output", "--steps", "5"]);
    assert.match(stderr, /step 55 \/ 55 /);
  });
  await t.step("generate", async () => {
    const { stdout } = await program.ok(["generate", "--num-samples", "3"]);
    assert.equal(stdout.trim().split("\n").length, 3);
  });
  await t.step("info", async () => {
    const { stdout } = await program.ok(["info", "--json"]);
    assert.match(stdout, /"vocab_size":\s*300\b/);
  });
  await t.step("export", async () => {
    await program.ok(["export", "--model-dir", "output", "--output", "exported", "--half"]);
    const { stdout } = await program.ok(["generate", "--model-dir", "exported", "--num-samples", "1"]);
    assert.match(stdout, /^sample {2}1: /);
  });
  await t.step(
    "an ONNX export that cannot be checked is refused in one line and leaves nothing",
    async () => {
      // the WebAssembly of this denort cannot run onnxruntime-web, so its error is all there is to see
      const onnx = ["export", "--model-dir", "output", "--output", "onnx", "--format", "onnx"];
      await program.fails(1, onnx, /^error: onnxruntime-web cannot load the graph: /m);
      await assert.rejects(Deno.stat(`${program.folder}/onnx`), Deno.errors.NotFound);
    },
  );
  await t.step("chat from a pipe", async () => {
    await program.ok([
      ...["train", "--chat", "--input", `${data}/chat.jsonl`, ...SMALL],
      ...["--steps", "20", "--output", "chatty"],
    ]);
    const { stdout } = await program.ok(["chat", "--model-dir", "chatty"], {
      stdin: "what is 1 plus 1\n/quit\n",
    });
    assert.notEqual(stdout.trim(), "");
  });
  await t.step("errors are one line", async () => {
    await program.fails(1, ["generate", "--model-dir", "nowhere"], /^error: .*nowhere/m);
    await program.fails(2, ["train", "--stpes", "3"], /^error: unknown option '--stpes'/m);
    await program.fails(1, ["train", "--input", "missing.txt"], /^error: .*missing\.txt/m);
  });
  if (!await navigator.gpu?.requestAdapter()) {
    console.error("skipped: the compiled program on webgpu (no WebGPU adapter on this machine)");
    return;
  }
  await t.step("train and generate on webgpu", async () => {
    const where = ["--device", "webgpu", "--output", "on-gpu"];
    const { stderr } = await program.ok(["train", ...names, "--steps", "50", ...where]);
    assert.match(stderr, /step 50 \/ 50 .* loss \d/);
    await program.ok(["generate", "--model-dir", "on-gpu", "--num-samples", "2", "--device", "webgpu"]);
  });
}
