/** The page, driven in Chromium as on a machine without a GPU: from the text to a model that is taken home. */
import assert from "node:assert/strict";
import { unzipSync } from "npm:fflate@0.8.3";
import type { Page } from "npm:puppeteer-core@25.16.0";
import { describeModel, train, writeDirectory } from "../../mod.ts";
import { buildSite, serveFolder } from "../../scripts/web.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { chooseFile, press, pressKept, ready, says, text } from "./driven_page.ts";
import { type PageTask, PageTasks } from "./page_tasks.ts";

/** What the browser keeps of a model, in base64. */
async function keptFiles(page: Page, name: string): Promise<Record<string, string>> {
  return await page.evaluate(`import("./microgpt.js").then(async ({ kept }) => {
    const files = Object.entries(await kept(${JSON.stringify(name)}));
    const encoded = files.map(async ([path, blob]) => [path, new Uint8Array(await blob.arrayBuffer()).toBase64()]);
    return Object.fromEntries(await Promise.all(encoded));
  })`) as Record<string, string>;
}

const PETS = Array.from({ length: 600 }, (_, i) => `${["cat", "dog", "hen"][i % 3]} ${i % 7}`).join("\n");

/** No task of the page computed 50 ms, after which one would notice it. */
function neverWaited([longest]: PageTask[]): void {
  assert(longest!.computed > 0.1 && longest!.computed < 50, JSON.stringify(longest));
}

/** Steps of a log that is long. */
const MANY = 100_000;

chromiumTest("the page without a GPU", async (t) => {
  const folder = await buildSite(await Deno.makeTempDir());
  const server = serveFolder(folder, 0);
  const url = `http://127.0.0.1:${server.addr.port}/`;
  await using chromium = await Chromium.start({ webgpu: false });
  const problems: string[] = [];
  const page = await chromium.open("about:blank", problems);
  const tasks = await PageTasks.watch(page);
  await page.goto(url);
  await ready(page);

  await t.step("says which browsers have WebGPU, and that it goes slowly", async () => {
    assert.match(await text(page, "device"), /no GPU.*slowly.*Chrome and Edge.*Safari 26.*Firefox 141/s);
    assert.match(await text(page, "looked"), /names\.txt: 31,9\d\d documents.*512 of them held back/);
  });

  await t.step("a file that is no text is refused, and an empty one", async () => {
    await chooseFile(page, "picture.txt", new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0, 0, 1]));
    await says(page, "messages", /picture\.txt is no text/);
    await chooseFile(page, "nothing.txt", "");
    await says(page, "messages", /nothing\.txt is empty/);
    assert.equal(await page.evaluate("document.getElementById('start').disabled"), true);
    await page.evaluate("for (const close of document.querySelectorAll('.message button')) close.click()");
    assert.equal(await text(page, "messages"), "");
  });

  await t.step("trains on a person's file, and pauses", async () => {
    await chooseFile(page, "pets.txt", PETS);
    await page.waitForFunction("!document.getElementById('start').disabled", { timeout: 60_000 });
    await page.evaluate("document.getElementById('steps').value = 400");
    await press(page, "start");
    await says(page, "status", /step (?:[3-9]\d|\d{3}) of 400/);
    await press(page, "pause");
    await says(page, "status", /Paused after \d+ steps/);
    assert.match(await text(page, "samples"), /after \d+ steps/);
  });

  await t.step("writes in coloured tokens, and shows what it sees and where its tokens lie", async () => {
    await press(page, "write");
    await page.waitForFunction("document.querySelectorAll('#written .text-token').length >= 5", {
      timeout: 60_000,
    });
    assert.equal(await page.evaluate("document.querySelectorAll('#written p').length"), 5);
    await page.evaluate("document.getElementById('look-at').value = 'cat 3'");
    await page.click('[data-tab="see"]');
    await page.waitForSelector("#seen .head canvas", { timeout: 60_000 });
    const tokens = await page.evaluate(
      "[...document.querySelectorAll('#seen .text-token')].map((e) => e.getAttribute('aria-label'))",
    ) as string[];
    assert(
      tokens.length > 2 && tokens.slice(1).every((label) => /, (< )?[\d.]+ %$/.test(label)),
      tokens.join("\n"),
    );
    await page.click('[data-tab="map"]');
    await page.waitForSelector("#token-map svg text", { timeout: 60_000 });
    await page.hover("#token-map svg text");
    assert.match(await text(page, "token-map"), /Most like/);
  });

  await t.step("goes on after the tab was closed, to the end", async () => {
    const before = Number(/after ([\d,]+) steps/.exec(await text(page, "status"))![1]);
    await page.goto("about:blank");
    await page.goto(url);
    await ready(page);
    await says(page, "kept", new RegExp(`pets, ${before} of 400 steps`));
    await page.evaluate(
      "[...document.querySelectorAll('#kept button')].find((b) => b.textContent === 'Continue training').click()",
    );
    await says(page, "status", /Done: 400 steps/);
    await press(page, "write");
    await page.waitForFunction("/(cat|dog|hen)/.test(document.getElementById('written').textContent)", {
      timeout: 60_000,
    });
  });

  await t.step("the page never waited, whatever was computed", async () => neverWaited(await tasks.stop()));

  await t.step("an interrupted run has the bits of one that was not", async () => {
    await page.evaluate("document.getElementById('file').accept = ''");
    await chooseFile(page, "pets.txt", PETS);
    await page.waitForFunction("!document.getElementById('start').disabled", { timeout: 60_000 });
    await page.evaluate("document.getElementById('steps').value = 400");
    await press(page, "start");
    await says(page, "run-name", /^pets 2$/); // the first is not written over
    await says(page, "status", /Done: 400 steps/);
    const [first, second] = [await keptFiles(page, "pets"), await keptFiles(page, "pets 2")];
    for (const name of ["weights.safetensors", "optimizer_m.safetensors", "optimizer_v.safetensors"]) {
      assert.equal(first[name], second[name], name);
    }
  });

  await t.step("a model is taken home as the command line has it, and comes back", async () => {
    const files = unzipSync(Uint8Array.fromBase64(
      await page.evaluate(`import("./state.js").then(async ({ calls }) => {
        const { file } = await calls.call("take", { name: "pets", kind: "model" });
        return new Uint8Array(await file.arrayBuffer()).toBase64();
      })`) as string,
    ));
    const kept = await keptFiles(page, "pets");
    assert.deepEqual(Object.keys(files).sort(), Object.keys(kept).map((name) => `pets/${name}`).sort());
    for (const [name, bytes] of Object.entries(files)) {
      assert.equal(bytes.toBase64(), kept[name.slice("pets/".length)], name);
    }
    const dir = `${await Deno.makeTempDir()}/pets`;
    const blobs = Object.entries(files).map((
      [name, bytes],
    ) => [name.slice(5), new Blob([new Uint8Array(bytes)])]);
    await writeDirectory(dir, Object.fromEntries(blobs));
    assert.equal((await describeModel(dir)).training!.state.step, 400);
    const steps: number[] = [];
    for await (
      const event of train({ resume: dir, documents: PETS.split("\n"), steps: 2, device: "reference" })
    ) {
      if (event.type === "step") steps.push(event.step);
    }
    assert.deepEqual(steps, [401, 402]);
    const names = await page.evaluate(`Promise.all([import("./state.js"), import("./kept.js")]).then(
      async ([{ calls, state }, { addFile }]) => {
        const { name, file } = await calls.call("take", { name: "pets", kind: "model" });
        await addFile(new File([file], "again.zip"));
        return state.model.name;
      })`);
    assert.equal(names, "pets");
  });

  await t.step("a model comes from an address", async () => {
    await Deno.mkdir(`${folder}/served`);
    const kept = await keptFiles(page, "pets");
    for (const name of ["meta.json", "tokenizer.json", "weights.safetensors"]) {
      await Deno.writeFile(`${folder}/served/${name}`, Uint8Array.fromBase64(kept[name]!));
    }
    await page.evaluate("document.getElementById('address').value = 'served/'");
    await press(page, "open-address");
    await says(page, "kept", /served, a model/);
    await says(page, "use-name", /served/);
  });

  await t.step("a long log is shown while the page goes on", async () => {
    await page.evaluate(`import("./microgpt.js").then(async ({ keep, kept }) => {
      const line = (step) => JSON.stringify({ step, loss: 3 + Math.sin(step / 50), lr: 0.1, grad_norm: 1, tokens: 9, ms: 2 });
      const log = Array.from({ length: ${MANY} }, (_, i) => line(i + 1)).join("\\n");
      const { "meta.json": meta } = await kept("pets");
      const state = JSON.stringify({ step: ${MANY}, steps_total: ${2 * MANY} });
      await keep("long", { "meta.json": meta, "metrics.jsonl": new Blob([log]), "train_state.json": new Blob([state]) });
      await (await import("./kept.js")).listKept();
    })`);
    const tasks = await PageTasks.watch(page);
    await pressKept(page, "long", "Continue training");
    await says(page, "messages", /training stopped: /); // there are no weights
    await says(page, "chart-read", /^loss [2-4]/);
    neverWaited(await tasks.stop());
    assert.equal(await page.evaluate("document.getElementById('progress').value"), 0.5);
    await page.evaluate("document.getElementById('messages').replaceChildren()");
  });

  await t.step("another tab that trains the same model is left alone", async () => {
    await page.evaluate(
      `navigator.locks.request("microgpt: pets 2", () => new Promise((r) => globalThis.release = r)), 0`,
    );
    await pressKept(page, "pets 2", "Train further");
    await says(page, "messages", /another tab is training pets 2/);
    await page.evaluate("release()");
  });

  await t.step("what the browser cannot keep is said, and training goes on", async () => {
    await page.evaluate(`document.getElementById("messages").replaceChildren()`);
    const session = await page.createCDPSession();
    await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(url).origin, quotaSize: 1000 });
    await page.evaluate("document.getElementById('steps').value = 400");
    await press(page, "start");
    await says(page, "status", /step \d+ of 400/);
    await press(page, "pause");
    await says(
      page,
      "status",
      /Paused after \d+ steps\. This browser could not keep it: continue, or take it home/,
    );
    await press(page, "resume");
    await says(page, "status", /Done: 400 steps/);
    await press(page, "write"); // it is here, though it is not kept
    await page.waitForSelector("#written p", { timeout: 60_000 });
    assert.match(await text(page, "messages"), /could not be kept in this browser.*no more room/s);
    await page.evaluate("document.getElementById('steps').value = 20");
    await pressKept(page, "pets", "Train further"); // what was kept of it before stays
    await says(page, "status", /Done: 420 steps/);
    await page.reload();
    await ready(page);
    await says(page, "kept", /pets, 400 steps/);
  });
  assert.deepEqual(problems, []);
  await server.shutdown();
});
