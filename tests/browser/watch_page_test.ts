/** The server's page: training runs as they go on. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { handler, train, type TrainEvent } from "../../mod.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { ServedPage } from "./served_page.ts";

const documents = Array.from({ length: 60 }, (_, i) => `word ${i % 7} and word ${i % 5}`);

/** A run of 40 steps with evaluations and samples. */
function run(output: string, learningRate: number): AsyncGenerator<TrainEvent> {
  const shape = { nEmbd: 16, nHead: 2, nLayer: 1, blockSize: 32, vocabSize: 300 };
  return train({ documents, output, ...shape, steps: 40, learningRate, evalEvery: 10, sampleEvery: 20 });
}

async function until(
  events: AsyncGenerator<TrainEvent>,
  isThere: (event: TrainEvent) => boolean,
): Promise<void> {
  for (;;) {
    const { done, value } = await events.next();
    if (done || isThere(value)) return;
  }
}

chromiumTest("the server's page: training runs", async (t) => {
  const folder = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const serve = await handler(undefined, { watch: [folder] });
  await using chromium = await Chromium.start({ webgpu: false });
  await using page = await ServedPage.open(chromium, serve);
  await page.until("document.body.dataset.ready !== undefined");
  const row = async (name: string) => {
    const rows = await page.value<string[][]>(
      `[...document.querySelectorAll('#run-rows tr')]
        .map((tr) => [...tr.children].map((td) => td.innerText.trim()))`,
    );
    return rows.find(([first]) => first === name)!;
  };
  const rowSays = (text: string) =>
    page.until(`document.getElementById("run-rows").innerText.includes("${text}")`);

  await t.step("a server without a model shows runs alone, and waits for the first", async () => {
    assert.deepEqual(await page.texts('[role="tab"]:not([hidden])'), ["Watch"]);
    await page.until("!document.getElementById('no-runs').hidden");
  });

  await t.step("a run that is over is there with its losses and samples", async () => {
    for await (const _ of run(join(folder, "slow"), 0.001));
    await rowSays("40 of 40");
    await rowSays("done");
    const [, , loss, held, best, speed, state] = await row("slow");
    assert.equal(state, "done");
    for (const number of [loss, held, best]) assert.ok(Number(number) > 1 && Number(number) < 7, `${number}`);
    assert.match(speed!, /^[\d.]+k?$/);
    await page.until("document.querySelectorAll('.sample').length === 2");
    const titles = (await page.texts(".sample small")).map((text) => text.trim());
    assert.deepEqual(titles, ["slow, after 40 steps", "slow, after 20 steps"]);
    assert.equal(await page.value("document.querySelectorAll('.sample pre').length"), 6);
  });

  await t.step("a run that goes on is seen as it goes on, beside the other", async () => {
    const events = run(join(folder, "fast"), 0.02);
    await until(events, (event) => event.type === "evaluation" && event.step === 20);
    await rowSays("running");
    await page.until("document.getElementById('read-held').textContent.includes('fast')");
    assert.match((await row("fast"))[1]!, /^20( of 40)?$/);
    assert.match((await page.texts("#read-loss"))[0]!, /^slow [\d.]+ · fast [\d.]+$/);
    await page.picture("watch-running");
    for await (const _ of events);
    await page.until("!/running/.test(document.getElementById('run-rows').innerText)");
    await page.until("document.getElementById('run-rows').innerText.match(/40 of 40/g)?.length === 2");
    assert.deepEqual([(await row("fast"))[1], (await row("fast"))[6]], ["40 of 40", "done"]);
    assert.ok(Number((await row("fast"))[3]) < Number((await row("slow"))[3]));
    await page.picture("watch-done");
  });

  await t.step("the pointer reads the curves, and a run can be hidden", async () => {
    const { x, y, width } = await page.value<DOMRect>(
      "document.getElementById('chart-loss').getBoundingClientRect().toJSON()",
    );
    await page.page.mouse.move(x + width / 2, y + 50);
    await page.until("document.getElementById('read-loss').textContent.startsWith('step ')");
    const said = (await page.texts("#read-loss"))[0]!;
    const [, step] = /^step (\d+): slow [\d.]+ · fast [\d.]+$/.exec(said) ?? [];
    assert.ok(Math.abs(Number(step) - 20) <= 2, said);
    await page.picture("watch-pointed");
    await page.page.click('[data-run="fast"]');
    await page.until("!document.getElementById('read-loss').textContent.includes('fast')");
    assert.equal(await page.value("document.querySelectorAll('.sample').length"), 2);
    await page.page.click('[data-run="fast"]');
    await page.until("document.querySelectorAll('.sample').length === 4");
    await page.until("document.getElementById('chart-held').ariaLabel.includes('fast')");
    const label = await page.value<string>("document.getElementById('chart-held').ariaLabel");
    assert.match(label, /^held-out loss by step: slow [\d.]+, fast [\d.]+$/);
    await page.page.click("#log-loss");
  });

  await t.step("it fits a phone, in the dark too", async () => {
    await page.dark();
    await page.picture("watch-dark");
    await page.page.setViewport({ width: 375, height: 740 });
    assert.equal(await page.value("document.documentElement.scrollWidth"), 375);
    await page.picture("watch-phone");
  });
  assert.deepEqual(page.problems, []);
  await serve.close();
  await Deno.remove(folder, { recursive: true });
});
