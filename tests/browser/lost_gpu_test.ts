/** The page in Chromium when its GPU is lost: said, and nothing is lost up to the last checkpoint. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { zipSync } from "npm:fflate@0.8.3";
import type { Page } from "npm:puppeteer-core@25.16.0";
import { train, type TrainOptions } from "../../mod.ts";
import { buildSite, serveFolder } from "../../scripts/web.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { chooseFile, press, pressKept, ready, says } from "./driven_page.ts";

const DOCUMENTS = Array.from({ length: 200 }, (_, i) => `${["cat", "dog", "hen"][i % 3]} ${i % 7}`);
/** So many that nothing is sampled or saved before a run is ended: kernels of decoding would take seconds to compile. */
const STEPS = 400;

interface LogLine {
  step: number;
  loss?: number;
}

async function runHere(options: TrainOptions, stopAfter = Infinity): Promise<Map<number, number>> {
  const losses = new Map<number, number>();
  const stop = new AbortController();
  for await (const event of train({ ...options, device: "reference", signal: stop.signal })) {
    if (event.type === "step") losses.set(event.step, event.loss);
    if (event.type === "step" && event.step >= stopAfter) stop.abort();
  }
  return losses;
}

/** The log that the browser keeps of a model. */
async function keptLog(page: Page, name: string): Promise<LogLine[]> {
  const log = await page.evaluate(
    `import("./microgpt.js").then(async ({ kept }) => (await kept("${name}"))["metrics.jsonl"].text())`,
  ) as string;
  return log.trim().split("\n").map((line) => JSON.parse(line) as LogLine);
}

chromiumTest("the page: a GPU that is lost", async () => {
  const dir = join(await Deno.makeTempDir(), "tiny");
  const documents = DOCUMENTS;
  const shape = { nEmbd: 16, nHead: 2, nLayer: 1, blockSize: 16, vocabSize: 300, batchSize: 4 } as const;
  await runHere({ ...shape, documents, steps: STEPS, output: dir }, 3);
  const files: Record<string, Uint8Array> = {};
  for await (const { name, isFile } of Deno.readDir(dir)) {
    if (isFile && !name.startsWith(".")) files[`tiny/${name}`] = await Deno.readFile(join(dir, name));
  }
  const expected = await runHere({ resume: dir, documents }, 40);

  const server = serveFolder(await buildSite(await Deno.makeTempDir()), 0);
  await using chromium = await Chromium.start();
  const page = await chromium.open(`http://127.0.0.1:${server.addr.port}/`);
  await ready(page);
  await chooseFile(page, "text.txt", DOCUMENTS.join("\n"));
  await says(page, "looked", /text\.txt: \d/);
  await chooseFile(page, "tiny.zip", zipSync(files), "model-file");
  await says(page, "kept", /tiny, 3 of 400 steps/);
  await pressKept(page, "tiny", "Continue training");
  await says(page, "status", /step \d+ of 400/);
  const browser = await chromium.browser.target().createCDPSession();
  await browser.send("Browser.crashGpuProcess").catch(() => {}); // nobody is left to answer
  await says(page, "messages", /training stopped: the GPU \(swiftshader\) was lost/);
  await says(page, "status", /^Stopped\. Nothing is lost up to the last checkpoint/);
  assert.equal((await keptLog(page, "tiny")).at(-1)!.step, 3);
  await says(page, "kept", /tiny, 3 of 400 steps/);

  await press(page, "resume");
  await says(page, "status", /step \d+ of 400/);
  await press(page, "pause");
  await says(page, "status", /^Paused after \d+ steps/);
  const losses = (await keptLog(page, "tiny")).filter(({ loss }) => loss !== undefined);
  assert(losses.length > 3, `${losses.length} steps`);
  assert.deepEqual(losses.map(({ step }) => step), losses.map((_, i) => i + 1));
  for (const { step, loss } of losses.slice(3)) {
    assert(Math.abs(loss! - expected.get(step)!) < 1e-4, `step ${step}: ${loss}, ${expected.get(step)}`);
  }

  await press(page, "start");
  await says(page, "status", /programs are compiled/);
  await browser.send("Browser.crashGpuProcess").catch(() => {});
  await says(page, "status", /^Stopped before the first checkpoint: there is nothing to continue from/);
  assert.equal(await page.evaluate("document.getElementById('resume').hidden"), true);
  await server.shutdown();
});
