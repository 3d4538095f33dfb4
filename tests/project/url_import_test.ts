/**
 * The library imported by URL, in processes of their own with the fewest permissions. The modules and the release come
 * from a server of this machine, on a port that Deno's cache has not seen.
 */
import assert from "node:assert/strict";
import { saveInferenceModel } from "../../model/files/checkpoint.ts";
import { exportOnnx } from "../../model/export/onnx_export.ts";
import { referenceOf, tinyModel } from "../model/export/onnx_fixture.ts";
import { ReleaseServer } from "./release_server.ts";
import { openTestGpu } from "../device/test_gpu.ts";

/** Deno's cache; the npm packages in it are used. */
const DENO_DIR: string = await (async () => {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  return JSON.parse(new TextDecoder().decode(stdout)).denoDir;
})();

/** A user's folder with a model, an export and a text, and a cache of its own. */
class User implements AsyncDisposable {
  private constructor(readonly server: ReleaseServer, readonly folder: string) {}

  static async create(server: ReleaseServer): Promise<User> {
    const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "microgpt-test-" }));
    const model = tinyModel(false);
    await saveInferenceModel(`${folder}/model`, { ...model, chat: false });
    await exportOnnx(`${folder}/onnx`, model, { reference: referenceOf(model) });
    const words = Array.from({ length: 60 }, (_, i) => `word${i % 7} and word${i % 5}`);
    await Deno.writeTextFile(`${folder}/text.txt`, words.join("\n"));
    return new User(server, folder);
  }

  /** Where a downloaded library is kept. */
  get cache(): string {
    return Deno.build.os === "windows" ? `${this.folder}/microgpt` : `${this.folder}/cache/microgpt`;
  }

  /** The names in the cache. */
  kept(): string[] {
    try {
      return Array.from(Deno.readDirSync(this.cache), ({ name }) => name);
    } catch {
      return [];
    }
  }

  /** Runs a program that imports mod.ts by URL. @returns what it prints, or how it fails */
  async run(program: string, permissions: string[], env: Record<string, string> = {}): Promise<string> {
    const path = `${this.folder}/program.ts`;
    const source =
      `import { loadModel, MicrogptError, OnnxModel, train } from "http://${this.server.host}/mod.ts";
      try { ${program} } catch (error) {
        if (!(error instanceof MicrogptError)) throw error;
        console.log("error: " + error.message + "\\nhint: " + error.hint);
      }`;
    await Deno.writeTextFile(path, source);
    const flags = [
      "--no-prompt",
      "--no-check",
      "--no-lock",
      "--no-config",
      `--allow-import=${this.server.host}`,
    ];
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", ...flags, ...permissions, path],
      cwd: this.folder,
      env: {
        DENO_DIR,
        HOME: this.folder,
        XDG_CACHE_HOME: `${this.folder}/cache`,
        LOCALAPPDATA: this.folder,
        MICROGPT_NATIVE: "",
        NO_COLOR: "1",
        ...env,
      },
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    assert.ok(success, text(stderr) + text(stdout));
    return text(stdout);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
    const { hostname, port } = new URL(`http://${this.server.host}`);
    for (const kind of ["remote", "gen"]) {
      const cached = `${DENO_DIR}/${kind}/http/${hostname}_PORT${port}`;
      await Deno.remove(cached, { recursive: true }).catch((error) => {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      });
    }
  }
}

const generate = (device: string) =>
  `using model = await loadModel("model", { device: "${device}" });
   console.log("samples", (await model.samples({ numSamples: 2, maxTokens: 5 })).length, model.device.kind);`;

const TRAIN =
  `const options = { input: "text.txt", output: "trained", steps: 3, vocabSize: 280, nEmbd: 8, nHead: 2,
     nLayer: 1, blockSize: 16, evalEvery: 0 };
   for await (const event of train(options)) if (event.type === "step") console.log("step", event.step);`;

/** What the native library needs besides what is read and written. */
const native = ({ server, cache }: User) => [
  `--allow-ffi=${cache}`,
  "--allow-env=HOME,XDG_CACHE_HOME,LOCALAPPDATA",
  `--allow-net=${server.host}`,
  `--allow-write=${cache}`,
];

Deno.test("imported by URL, with the fewest permissions", async (t) => {
  await using server = await ReleaseServer.start();
  await using user = await User.create(server);

  await t.step("nothing happens at import", async () => {
    assert.equal(
      await user.run(`console.log(typeof train, typeof loadModel, typeof OnnxModel);`, []),
      "function ".repeat(3).trim(),
    );
    assert.equal(server.requests.releases, 0);
  });
  await t.step("generates on the reference device with leave to read the model", async () => {
    assert.equal(await user.run(generate("reference"), ["--allow-read=model"]), "samples 2 reference");
    assert.equal(server.requests.releases, 0);
  });
  await t.step("runs an ONNX export with leave to read it and the npm packages'", async () => {
    const program = `const model = await OnnxModel.load("onnx");
      for await (const piece of model.generate({ prompt: "a", maxTokens: 3 })) void piece;
      console.log("generated");`;
    // onnxruntime-web reads its WebAssembly from the npm cache
    assert.equal(await user.run(program, [`--allow-read=onnx,${DENO_DIR}/npm`]), "generated");
  });
  await t.step("generates on the GPU with leave to read the model", async () => {
    const gpu = await openTestGpu({ dtype: "f32" });
    if (gpu === undefined) return;
    gpu.destroy();
    assert.equal(await user.run(generate("webgpu"), ["--allow-read=model"]), "samples 2 webgpu");
  });
  await t.step("the cpu without permissions says what to allow and what else there is", async () => {
    const message = await user.run(generate("cpu"), ["--allow-read=model"]);
    assert.match(
      message,
      /^error: there is no native library: .*\nhint: run Deno with --allow-env=\S+ --allow-ffi/,
    );
    assert.match(message, /--allow-net=127\.0\.0\.1:\d+ .*--allow-write.* use `device` webgpu or reference$/);
  });
  await t.step("training on the cpu needs the native library, and says so", async () => {
    const message = await user.run(TRAIN, ["--allow-read=.", "--allow-write=."]);
    assert.match(message, /^error: there is no native library: .*\nhint: run Deno with /);
  });
  await t.step("trains on the reference device without the native library, tokenizer and all", async () => {
    const program = TRAIN.replace("{", '{ device: "reference",');
    const permissions = [`--allow-read=.,${DENO_DIR}/npm`, "--allow-write=."];
    assert.equal(await user.run(program, permissions), "step 1\nstep 2\nstep 3");
  });
  await t.step("a tampered library is refused and not kept", async () => {
    server.answers = ["tampered"];
    const message = await user.run(generate("cpu"), ["--allow-read", ...native(user)]);
    assert.match(
      message,
      /^error: http\S+ is not the file of the release: its SHA-256 is [0-9a-f]{64}\nhint: /,
    );
    assert.deepEqual([server.requests.releases, user.kept()], [1, []]);
  });
  await t.step("a release without the file is an error", async () => {
    server.answers = ["missing", "missing"]; // to the tokenizer, then to the device
    const message = await user.run(generate("cpu"), ["--allow-read", ...native(user)]);
    assert.match(message, /^error: there is no native library: it cannot be downloaded: .* answers 404/);
  });
  await t.step("a failed download is not remembered", async () => {
    server.answers = ["missing", "missing"]; // to the tokenizer, then to the device
    const twice = `await loadModel("model", { device: "cpu" }).catch((error) => console.log(error.message));
      ${generate("cpu")}`;
    const printed = await user.run(twice, ["--allow-read", ...native(user)]);
    assert.match(printed, /^there is no native library: .* answers 404 Not Found\nsamples 2 cpu$/);
    await Deno.remove(user.cache, { recursive: true });
  });
  await t.step("a connection that breaks is tried again", async () => {
    server.requests.releases = 0;
    server.answers = ["broken", "broken"];
    const read = `--allow-read=model,${user.cache}`;
    assert.equal(await user.run(generate("cpu"), [read, ...native(user)]), "samples 2 cpu");
    assert.equal(server.requests.releases, 3);
    assert.equal(user.kept().length, 1, "one file, and no part of one");
  });
  await t.step("trains on the cpu, with the library from the cache and no network", async () => {
    server.requests.releases = 0;
    const permissions = [
      `--allow-ffi=${user.cache}`,
      "--allow-env=HOME,XDG_CACHE_HOME,LOCALAPPDATA",
      `--allow-read=.,${user.cache}`,
      "--allow-write=.",
    ];
    assert.equal(await user.run(TRAIN, permissions), "step 1\nstep 2\nstep 3");
    assert.equal(server.requests.releases, 0);
  });
  await t.step("MICROGPT_RELEASES names a mirror", async () => {
    await Deno.remove(user.cache, { recursive: true });
    const flags = native(user).map((flag) =>
      flag.startsWith("--allow-env") ? `${flag},MICROGPT_RELEASES` : flag
    );
    const permissions = [`--allow-read=model,${user.cache}`, ...flags];
    const mirror = { MICROGPT_RELEASES: `http://${server.host}/mirror/` };
    assert.equal(await user.run(generate("cpu"), permissions, mirror), "samples 2 cpu");
    assert.deepEqual(server.requests, { releases: 0, mirror: 1 });
  });
  await t.step("a damaged cache is replaced", async () => {
    const [name] = user.kept();
    await Deno.truncate(`${user.cache}/${name}`, 1000);
    const read = `--allow-read=model,${user.cache}`;
    assert.equal(await user.run(generate("cpu"), [read, ...native(user)]), "samples 2 cpu");
    assert.equal(server.requests.releases, 1);
  });
  await t.step("a cache that cannot be written is done without", async () => {
    await Deno.remove(`${user.folder}/cache`, { recursive: true });
    await Deno.writeTextFile(`${user.folder}/cache`, "a file where the directory should be");
    const permissions = ["--allow-read", "--allow-write", "--allow-ffi", ...native(user).slice(1, 3)];
    const temporary = { TMPDIR: `${user.folder}/tmp`, TEMP: `${user.folder}/tmp` };
    await Deno.mkdir(temporary.TMPDIR);
    assert.equal(await user.run(generate("cpu"), permissions, temporary), "samples 2 cpu");
    if (Deno.build.os === "windows") return; // an open library cannot be removed there
    assert.deepEqual([...Deno.readDirSync(temporary.TMPDIR)], [], "nothing is left behind");
  });
});
