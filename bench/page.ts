/**
 * The page in Chromium, from an empty profile, beside Deno on the adapter that it has: time to the first step, time of a
 * step, longest tasks of the page. Without a GPU these are SwiftShader and llvmpipe, two programs of their own.
 *
 *     deno run -A bench/page.ts [--preset names] [--steps 30] [--adapter hardware]
 */
import { parseArgs } from "node:util";
import { type PresetName, train } from "../mod.ts";
import { buildSite, serveFolder } from "../scripts/web.ts";
import { Chromium } from "../tests/browser/chromium.ts";
import { PageTasks } from "../tests/browser/page_tasks.ts";

const { values } = parseArgs({
  options: {
    preset: { type: "string", default: "names" },
    steps: { type: "string", default: "30" },
    adapter: { type: "string", default: "swiftshader" },
  },
});
const steps = Number(values.steps);
const preset = values.preset as PresetName;

/** Notes what the worker tells, and when; starts training as soon as it can be. */
const WATCH = `
  globalThis.told = [];
  globalThis.Worker = class extends Worker {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", ({ data: { event, data } }) => {
        if (event) told.push({ at: performance.now(), event, step: data?.step, milliseconds: data?.milliseconds });
      });
    }
  };
  const waiting = setInterval(() => {
    const start = document.getElementById("start");
    if (!start || start.disabled) return;
    clearInterval(waiting);
    const preset = document.getElementById("preset");
    preset.value = ${JSON.stringify(preset)};
    preset.onchange();
    document.getElementById("steps").value = ${steps};
    globalThis.started = performance.now();
    start.click();
  }, 10);
`;

interface Told {
  at: number;
  event: string;
  step?: number;
  milliseconds?: number;
}

function median(numbers: number[]): number {
  return numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;
}

async function inPage(): Promise<void> {
  const folder = await buildSite(await Deno.makeTempDir());
  const server = serveFolder(folder, 0);
  await using chromium = await Chromium.start({ hardware: values.adapter === "hardware" });
  const page = await chromium.browser.newPage();
  await page.evaluateOnNewDocument(WATCH);
  const tasks = await PageTasks.watch(page);
  await page.goto(`http://127.0.0.1:${server.addr.port}/`);
  await page.waitForFunction("told.some(({ event }) => event === 'end')", { timeout: 600_000 });
  const told = await page.evaluate("told") as Told[];
  const started = await page.evaluate("started") as number;
  const longest = await tasks.stop();
  const lasted = Math.max(...longest.map(({ lasted }) => lasted));
  const all = told.filter(({ event }) => event === "step");
  console.log(`Chromium: ${await page.evaluate("document.getElementById('device').textContent")}`);
  console.log(`  ready to train after ${seconds(started)}, first step after ${seconds(all[0]!.at)}`);
  console.log(
    `  a step ${median(all.slice(2).map(({ milliseconds }) => milliseconds!)).toFixed(1)} ms (median)`,
  );
  console.log(
    `  the page's longest task computes ${longest[0]!.computed.toFixed(1)} ms (${longest[0]!.parts}); ` +
      `of those that compute most the longest lasts ${Math.round(lasted)} ms on the clock`,
  );
  await server.shutdown();
}

async function inDeno(): Promise<void> {
  const input = new URL("../data/samples/names.txt", import.meta.url).pathname;
  const output = await Deno.makeTempDir();
  const times: number[] = [];
  let device = "";
  const every = Math.max(10, Math.round(steps / 20));
  const began = performance.now();
  let first = NaN;
  for await (
    const event of train({
      preset,
      steps,
      input,
      output,
      device: "webgpu",
      evalEvery: every,
      sampleEvery: every,
      checkpointEvery: every,
    })
  ) {
    if (event.type === "plan") device = event.device;
    if (event.type !== "step") continue;
    if (times.length === 0) first = performance.now() - began;
    times.push(event.milliseconds);
  }
  console.log(`Deno: ${device}`);
  console.log(`  first step after ${seconds(first)}`);
  console.log(`  a step ${median(times.slice(2)).toFixed(1)} ms (median)`);
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

await inPage();
await inDeno();
