/** Training in a page and in Deno: the same losses, samples and files, from one to the other and back. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Page } from "npm:puppeteer-core@25.16.0";
import { openAdapter } from "../../gpu/adapter.ts";
import { loadModel, readDirectory, train, type TrainOptions, writeDirectory } from "../../mod.ts";
import { bundle } from "../../scripts/bundle.ts";
import { Chromium, chromiumTest, PageServer } from "./chromium.ts";

const NAMES = await Deno.readTextFile(new URL("../../data/samples/names.txt", import.meta.url));

/** Runs `train` in the page. @returns losses, and the files of its directory in base64 */
const PAGE = `
import * as microgpt from "/microgpt.js";
const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const base64 = async (blob) => {
  let text = "";
  for (const byte of new Uint8Array(await blob.arrayBuffer())) text += String.fromCharCode(byte);
  return btoa(text);
};
globalThis.run = async (options, files, texts, stopAfter) => {
  if (texts) await microgpt.writeDirectory("/data", texts);
  if (files) {
    const blobs = Object.fromEntries(Object.entries(files).map(([name, text]) => [name, new Blob([bytes(text)])]));
    await microgpt.writeDirectory("/model", blobs);
  }
  const losses = [];
  let device;
  const stop = new AbortController();
  for await (const event of microgpt.train({ ...options, signal: stop.signal })) {
    if (event.type === "step" && event.step >= stopAfter) stop.abort();
    if (event.type === "step") losses.push(event.loss);
    if (event.type === "plan") device = event.device;
  }
  const tree = await microgpt.readDirectory("/model");
  const names = Object.keys(tree);
  return { device, losses, files: Object.fromEntries(await Promise.all(names.map(async (name) => [name, await base64(tree[name])]))) };
};
globalThis.samples = async (device) => {
  using model = await microgpt.loadModel("/model", { device });
  return await model.samples({ numSamples: 4, seed: 7, maxTokens: 30 });
};
globalThis.keepAndRead = async () => {
  const tree = await microgpt.readDirectory("/model");
  await microgpt.keep("a model", tree);
  await microgpt.keep("a model", tree);
  const again = await microgpt.kept("a model");
  const same = await Promise.all(Object.keys(tree).map(async (name) => await base64(tree[name]) === await base64(again[name])));
  const names = await microgpt.keptNames();
  await microgpt.removeKept("a model");
  return [Object.keys(again).length, same.every(Boolean), names, await microgpt.kept("a model") ?? null];
};
const IN_PLACE = \`
  import { keep, kept } from "\${location.origin}/microgpt.js";
  delete FileSystemFileHandle.prototype.createWritable;
  try {
    for (let i = 0; i < 12; i++) await keep("in place", { "a/b": new Blob(["weights " + 10 ** (11 - i)]), c: new Blob([new Uint8Array(3e6)]) });
    await keep("in place", { "a/b": new Blob(["weights 9"]), c: new Blob([new Uint8Array(3e6)]) });
    const tree = await kept("in place");
    postMessage([await tree["a/b"].text(), String(Object.keys(tree).length - 1), tree.c.size]);
  } catch (error) {
    postMessage(String(error.stack));
  }
\`;
globalThis.keptInPlace = () => {
  const worker = new Worker(URL.createObjectURL(new Blob([IN_PLACE], { type: "text/javascript" })), { type: "module" });
  return new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
};
globalThis.ready = true;
`;

interface Outcome {
  device: string;
  losses: number[];
  files: Record<string, string>;
}

async function runInPage(
  page: Page,
  options: TrainOptions,
  { files, texts, stopAfter }: {
    files?: Record<string, string>;
    texts?: Record<string, string>;
    stopAfter?: number;
  } = {},
): Promise<Outcome> {
  const call = `run(...${JSON.stringify([options, files ?? null, texts ?? null, stopAfter ?? 1e9])})`;
  return await page.evaluate(call) as Outcome;
}

async function runInDeno(options: TrainOptions, stopAfter = Infinity): Promise<number[]> {
  const losses: number[] = [];
  const stop = new AbortController();
  for await (const event of train({ ...options, signal: stop.signal })) {
    if (event.type === "step" && event.step >= stopAfter) stop.abort();
    if (event.type === "step") losses.push(event.loss);
  }
  return losses;
}

/** The files of a directory in base64. */
async function filesOf(dir: string): Promise<Record<string, string>> {
  const encoded: Record<string, string> = {};
  for (const [name, blob] of Object.entries(await readDirectory(dir))) {
    encoded[name] = new Uint8Array(await blob.arrayBuffer()).toBase64();
  }
  return encoded;
}

async function toDisk(files: Record<string, string>): Promise<string> {
  const dir = join(await Deno.makeTempDir(), "model");
  const blobs = Object.entries(files).map(([name, text]) => [name, new Blob([Uint8Array.fromBase64(text)])]);
  await writeDirectory(dir, Object.fromEntries(blobs));
  return dir;
}

function closest(a: number[], b: number[]): number {
  assert.equal(a.length, b.length);
  return Math.max(...a.map((loss, i) => Math.abs(loss - b[i]!)));
}

const TINY = {
  nEmbd: 16,
  nHead: 2,
  nLayer: 2,
  vocabSize: 300,
  blockSize: 24,
  batchSize: 8,
  evalEvery: 3,
} as const;
const MODEL = [
  "meta.json",
  "tokenizer.json",
  "weights.safetensors",
  "optimizer_m.safetensors",
  "optimizer_v.safetensors",
];

chromiumTest("training in Chromium", async (t) => {
  const web = await Deno.makeTempDir();
  await bundle(web, { types: false });
  await using server = new PageServer({ "": web }, {
    "": '<link rel="icon" href="data:,"><script type="module" src="/page.js"></script>',
    "page.js": PAGE,
  });
  await using chromium = await Chromium.start();
  const problems: string[] = [];
  const page = await chromium.open(`${server.url}/`, problems);
  await page.waitForFunction("globalThis.ready");

  await t.step("names: the losses of Deno's WebGPU within 1e-5, the same text", async () => {
    const steps = Number(Deno.env.get("MICROGPT_PAGE_STEPS") ?? 20);
    const options = { preset: "names", steps, evalEvery: 0, device: "webgpu", seed: 3 } as const;
    const inPage = await runInPage(
      page,
      { ...options, input: "/data/names.txt", output: "/model" },
      { texts: { "names.txt": NAMES } },
    );
    const output = join(await Deno.makeTempDir(), "model");
    const gpu = await openAdapter("f32", false).catch(() => undefined);
    gpu?.gpu.destroy();
    const device = gpu ? "webgpu" as const : "cpu" as const;
    const input = join(await Deno.makeTempDir(), "names.txt");
    await Deno.writeTextFile(input, NAMES);
    const inDeno = await runInDeno({ ...options, device, input, output });
    assert.equal(inPage.losses.length, steps);
    const off = closest(inPage.losses, inDeno);
    assert(off < 1e-5, `losses are ${off} apart`);
    assert.equal(inPage.files["tokenizer.json"], (await filesOf(output))["tokenizer.json"]);
    using model = await loadModel(output, { device });
    const expected = await model.samples({ numSamples: 4, seed: 7, maxTokens: 30 });
    assert.deepEqual(await page.evaluate('samples("webgpu")'), expected);
    using fromPage = await loadModel(await toDisk(inPage.files), { device });
    assert.deepEqual(await fromPage.samples({ numSamples: 4, seed: 7, maxTokens: 30 }), expected);
  });

  await t.step(
    "a checkpoint goes from the page to Deno and back, with the bits of a run in one place",
    async () => {
      const documents = NAMES.split("\n").slice(0, 400);
      const options: TrainOptions = { ...TINY, documents, device: "reference" };
      const whole = join(await Deno.makeTempDir(), "model");
      const losses = await runInDeno({ ...options, steps: 9, output: whole });
      await page.evaluate('import("/microgpt.js").then((m) => m.removeDirectory("/model"))');
      const first = await runInPage(page, { ...options, steps: 9, output: "/model" }, { stopAfter: 3 });
      const dir = await toDisk(first.files);
      const done = first.losses.length;
      const data = { documents, device: "reference" } as const;
      const second = await runInDeno({ ...data, steps: 9 - done, resume: dir }, done + 3);
      await page.evaluate('import("/microgpt.js").then((m) => m.removeDirectory("/model"))');
      const rest = 9 - done - second.length;
      assert(done < 9 && rest > 0);
      const last = { ...data, steps: rest, resume: "/model" };
      const third = await runInPage(page, last, { files: await filesOf(dir) });
      assert.deepEqual([...first.losses, ...second, ...third.losses], losses);
      const expected = await filesOf(whole);
      for (const name of MODEL) assert.equal(third.files[name], expected[name], name);
    },
  );

  await t.step("a directory is kept in the browser's files whole", async () => {
    const [count, same, names, gone] = await page.evaluate("keepAndRead()") as unknown[];
    assert((count as number) >= 7);
    assert.deepEqual([same, names, gone], [true, ["a model"], null]);
  });

  await t.step("and where files are written in place, as in Safari before 26", async () => {
    assert.deepEqual(await page.evaluate("keptInPlace()"), ["weights 9", "1", 3e6]);
  });
  assert.deepEqual(problems, []);
});
