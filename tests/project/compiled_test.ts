/**
 * The compiled program, alone in an empty folder: no Deno, no source, no cache, no search path. MICROGPT_PROGRAM names one
 * that is there already, as in the release; else it is compiled with the `denort` that DENORT_BIN names, one with QuickJS.
 * Without either the test is skipped, and its name says so.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { ended, start } from "../model/train/distributed_run.ts";
import { LAUNCHERS } from "../native/mpi_launch.ts";
import { PAGE_PATHS, pageFile } from "../../model/serve/page.ts";
import { compile } from "../../scripts/compile.ts";

const made = Deno.env.get("MICROGPT_PROGRAM") ?? "";
const denort = Deno.env.get("DENORT_BIN") ?? "";
const skipped = made === "" && denort === "" ? " (skipped: DENORT_BIN names no denort)" : "";
const suffix = Deno.build.os === "windows" ? ".exe" : "";

interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

Deno.test({
  name: `the compiled program works alone in an empty folder${skipped}`,
  ignore: skipped !== "",
  fn: async (t) => {
    const outside = await Deno.makeTempDir();
    const folder = `${outside}/alone`;
    try {
      await Deno.mkdir(folder);
      await Deno.mkdir(`${outside}/home`);
      await Deno.copyFile(await programFile(outside), `${folder}/microgpt${suffix}`);
      await writeData(outside);
      const program = new Program(folder, `${outside}/home`);
      await checkProgram(t, program, outside);
    } finally {
      await Deno.remove(outside, { recursive: true });
    }
  },
});

/** The program to check. */
async function programFile(directory: string): Promise<string> {
  if (made !== "") return made;
  const preload = fileURLToPath(new URL("./quickjs_ffi.ts", import.meta.url));
  return await compile({ output: `${directory}/microgpt`, preload });
}

/** Some names, and some conversations. */
async function writeData(directory: string): Promise<void> {
  const names = await Deno.readTextFile(new URL("../../data/samples/names.txt", import.meta.url));
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

  start(args: string[], env: Record<string, string> = {}): Deno.ChildProcess {
    return new Deno.Command(`${this.folder}/microgpt${suffix}`, {
      args,
      cwd: this.folder,
      clearEnv: true,
      env: {
        HOME: this.home,
        LOCALAPPDATA: this.home,
        PATH: "/nowhere",
        ...systemVariables(),
        ...env,
      },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  }

  async run(args: string[], { stdin = "", env = {} }: { stdin?: string; env?: Record<string, string> } = {}) {
    const child = this.start(args, env);
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

/** What a system's own libraries want: Vulkan complains without the first, Windows does not start without the others. */
function systemVariables(): Record<string, string> {
  const names = ["XDG_RUNTIME_DIR", "SystemRoot", "TEMP"];
  return Object.fromEntries(names.flatMap((name) => {
    const value = Deno.env.get(name);
    return value === undefined ? [] : [[name, value]];
  }));
}

/** Serves a model of chats, and asks for all of the page and for an answer. */
async function checkServer(program: Program): Promise<void> {
  const server = program.start(["serve", "--port", "0", "--model-dir", "chatty"]);
  await server.stdin.close();
  let said = "";
  let isReady = () => {};
  const ready = new Promise<void>((resolve) => isReady = resolve);
  const listening = (async () => {
    for await (const text of server.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (/^serving /m.test(said)) isReady();
    }
  })();
  await Promise.race([ready, listening]);
  const url = /^listening on (\S+)$/m.exec(said)?.[1];
  assert(url, said);
  for (const path of PAGE_PATHS) {
    assert.equal(await (await fetch(url + path)).text(), await pageFile(path).text(), path);
  }
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ messages: [{ role: "user", content: "what is 1 plus 1" }], max_tokens: 3 }),
  });
  assert.match((await response.json()).choices[0].finish_reason, /^(stop|length)$/);
  server.kill("SIGTERM");
  const [{ code }] = await Promise.all([server.status, listening, server.stdout.cancel()]);
  if (Deno.build.os !== "windows") assert.equal(code, 0, said);
}

const SMALL = ["--vocab-size", "300", "--n-embd", "16", "--n-layer", "1", "--eval-every", "0"];

async function checkProgram(t: Deno.TestContext, program: Program, data: string): Promise<void> {
  const names = ["--input", `${data}/names.txt`, ...SMALL];
  await t.step("train on cpu, in a home that cannot be written", async () => {
    const home = `${data}/names.txt/home`; // below a file: nobody can write there, root included
    const env = { HOME: home, XDG_CACHE_HOME: home, LOCALAPPDATA: home };
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
  const onnx = ["export", "--model-dir", "output", "--output", "onnx", "--format", "onnx"];
  if (made !== "") {
    await t.step("export to ONNX", async () => {
      await program.ok(onnx);
    });
  } else {
    await t.step(
      "an ONNX export that cannot be checked is refused in one line and leaves nothing",
      async () => {
        // QuickJS cannot compile the WebAssembly of onnxruntime-web, so its error is all there is to see
        await program.fails(1, onnx, /^error: onnxruntime-web cannot load the graph: /m);
        await assert.rejects(Deno.stat(`${program.folder}/onnx`), Deno.errors.NotFound);
      },
    );
  }
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
  await t.step("serve, with its page", () => checkServer(program));
  for (const launcher of LAUNCHERS) {
    await t.step(`two ranks under ${launcher.program}`, async () => {
      const shared = ["--steps", "3", "--distributed", "mpi", "--threads", "1", "--grad-accum", "2"];
      const output = `${program.folder}/shared`;
      const words = ["train", ...names, ...shared, "--output", output];
      const { code, text } = await ended(
        start(launcher, 2, [], [`${program.folder}/microgpt${suffix}`, ...words]),
      );
      assert.equal(code, 0, text);
      assert.equal(text.split("model in ").length, 2, text); // only rank 0 speaks
      await Deno.remove(output, { recursive: true });
    });
  }
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
