/** The page in Chromium while its tab is hidden, as behind another one: training goes on, and what became of it is said. */
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import type { Page } from "npm:puppeteer-core@25.16.0";
import { buildSite, serveFolder } from "../../scripts/web.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { chooseFile, press, pressKept, ready, says, text } from "./driven_page.ts";

/** A run of them lasts while tabs change. */
const LINES = Array.from(
  { length: 300 },
  (_, i) => `${["cat", "dog", "hen"][i % 3]} ${i % 7} saw ${i % 5}`,
).join("\n");
const STEPS = 400;

/** Waits for a condition in a page that is hidden. It is asked from here: its own timers are slow, and no frame is drawn. */
async function hiddenUntil(page: Page, condition: string): Promise<void> {
  const end = performance.now() + 60_000;
  while (!await page.evaluate(`(async () => document.hidden && (${condition}))()`)) {
    assert(performance.now() < end, `it never came to ${condition}: ${await text(page, "status")}`);
    await delay(50);
  }
}

async function start(page: Page): Promise<void> {
  await ready(page);
  await chooseFile(page, "lines.txt", LINES);
  await says(page, "looked", /lines\.txt: \d/);
  await page.evaluate(`document.getElementById("steps").value = ${STEPS}`);
  await press(page, "start");
  await says(page, "status", new RegExp(`^step \\d+ of ${STEPS}`));
}

/** The weights that the browser keeps of a model, in base64, and the steps in its log. */
async function keptOf(page: Page, name: string): Promise<{ weights: string; steps: number[] }> {
  return await page.evaluate(`import("./microgpt.js").then(async ({ kept }) => {
    const files = await kept(${JSON.stringify(name)});
    const log = (await files["metrics.jsonl"].text()).trim().split("\\n").map((line) => JSON.parse(line));
    const weights = new Uint8Array(await files["weights.safetensors"].arrayBuffer()).toBase64();
    return { weights, steps: log.filter(({ loss }) => loss !== undefined).map(({ step }) => step) };
  })`) as { weights: string; steps: number[] };
}

chromiumTest("the page while its tab is hidden", async (t) => {
  const server = serveFolder(await buildSite(await Deno.makeTempDir()), 0);
  const url = `http://127.0.0.1:${server.addr.port}/`;
  await using chromium = await Chromium.start({ webgpu: false, slowsHidden: true });
  const problems: string[] = [];
  const page = await chromium.open(url, problems);
  const other = await chromium.browser.newPage();
  await page.bringToFront();

  await t.step("training goes on to its end, which the title says", async () => {
    await start(page);
    await other.bringToFront();
    await hiddenUntil(page, `!/^Done/.test(document.getElementById("status").textContent)`);
    await hiddenUntil(page, `document.title === "done · microgpt"`);
    assert.match(await text(page, "status"), /^Done: 400 steps/);
    assert.equal(await text(page, "messages"), "");
  });

  await t.step("whoever comes back reads how far it went, and finds all of it", async () => {
    await page.bringToFront();
    await says(page, "messages", /training went on while the tab was hidden: \d+ steps/);
    assert.equal(await page.title(), "microgpt");
    assert.equal(await page.evaluate("document.getElementById('progress').value"), 1);
    await says(page, "chart-read", /^loss \d/); // drawn
    const { steps } = await keptOf(page, "lines");
    assert.deepEqual(steps, Array.from({ length: STEPS }, (_, i) => i + 1));
  });

  await t.step("a hidden tab that the browser closes loses nothing before its last checkpoint", async () => {
    const closed = await chromium.open(url, problems);
    await start(closed);
    await other.bringToFront();
    await hiddenUntil(closed, `(await import("./state.js")).state.run.kept`);
    assert.doesNotMatch(await text(closed, "status"), /Done/);
    await closed.close();
    await page.bringToFront();
    await page.reload();
    await says(page, "kept", /lines 2, \d+ of 400 steps/);
    await pressKept(page, "lines 2", "Continue training");
    await says(page, "status", /^Done: 400 steps/);
    assert.deepEqual(await keptOf(page, "lines 2"), await keptOf(page, "lines"));
  });
  assert.deepEqual(problems, []);
  await server.shutdown();
});
