/** The page, driven in Chromium as on a machine without a GPU: from the text to a model that is taken home. */
import assert from "node:assert/strict";
import type { Page } from "npm:puppeteer-core@25.16.0";
import { buildSite, serveFolder } from "../../scripts/web.ts";
import { Chromium, chromiumTest } from "./chromium.ts";

const text = (page: Page, id: string) =>
  page.evaluate(`document.getElementById(${JSON.stringify(id)}).textContent`) as Promise<string>;

async function says(page: Page, id: string, pattern: RegExp): Promise<void> {
  await page.waitForFunction(`${pattern}.test(document.getElementById(${JSON.stringify(id)}).textContent)`, {
    timeout: 60_000,
  });
}

/** Clicks a button as soon as it can be. */
async function press(page: Page, id: string): Promise<void> {
  await page.waitForFunction(`!document.getElementById("${id}").disabled`, { timeout: 60_000 });
  await page.click(`#${id}`);
}

async function chooseFile(page: Page, name: string, contents: string | Uint8Array): Promise<void> {
  const path = `${await Deno.makeTempDir()}/${name}`;
  if (typeof contents === "string") await Deno.writeTextFile(path, contents);
  else await Deno.writeFile(path, contents);
  const input = await page.$("#file");
  await (input as unknown as { uploadFile(path: string): Promise<void> }).uploadFile(path);
}

/** Longest pauses of the page itself, in milliseconds, since this was called first. */
const WATCH = `globalThis.pauses ??= [];
  new PerformanceObserver((list) => pauses.push(...list.getEntries().map(({ duration }) => duration)))
    .observe({ entryTypes: ["longtask"] });`;

chromiumTest("the page without a GPU", async (t) => {
  const folder = await buildSite(await Deno.makeTempDir());
  const server = serveFolder(folder, 0);
  const url = `http://127.0.0.1:${server.addr.port}/`;
  await using chromium = await Chromium.start({ webgpu: false });
  const problems: string[] = [];
  const page = await chromium.open(url, problems);
  const ready = async () => {
    await page.waitForSelector("body[data-ready]", { timeout: 60_000 });
    await page.waitForFunction("!document.getElementById('start').disabled", { timeout: 60_000 });
  };
  await ready();

  await t.step("says which browsers have WebGPU, and that it goes slowly", async () => {
    assert.match(await text(page, "messages"), /Chrome and Edge 113.*Safari 26.*Firefox 141/s);
    assert.match(await text(page, "device"), /no WebGPU.*slowly/);
    assert.match(await text(page, "looked"), /names\.txt: 31,9\d\d documents.*512 of them held back/);
  });

  await t.step("a file that is no text is refused, and an empty one", async () => {
    await chooseFile(page, "picture.txt", new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0, 0, 1]));
    await says(page, "messages", /picture\.txt is no text/);
    await chooseFile(page, "nothing.txt", "");
    await says(page, "messages", /nothing\.txt is empty/);
    assert.equal(await page.evaluate("document.getElementById('start').disabled"), true);
  });

  await t.step("trains on a person's file, pauses, and the page never waits", async () => {
    await chooseFile(
      page,
      "pets.txt",
      Array.from({ length: 600 }, (_, i) => `${["cat", "dog", "hen"][i % 3]} ${i % 7}`).join("\n"),
    );
    await page.waitForFunction("!document.getElementById('start').disabled", { timeout: 60_000 });
    await page.evaluate(WATCH);
    await page.evaluate("document.getElementById('steps').value = 400");
    await press(page, "start");
    await says(page, "status", /step (?:[3-9]\d|\d{3}) of 400/);
    await page.click("#pause");
    await says(page, "status", /Paused after \d+ steps/);
    assert.match(await text(page, "samples"), /after \d+ steps/);
    const pauses = await page.evaluate("pauses") as number[];
    assert(Math.max(0, ...pauses) < 200, `the page stood still for ${pauses} ms`); // a busy machine adds its own
  });

  await t.step("writes, and shows what it sees and where its tokens lie", async () => {
    await press(page, "write");
    await page.waitForSelector("#written pre", { timeout: 60_000 });
    assert.equal(await page.evaluate("document.querySelectorAll('#written pre').length"), 5);
    await page.click('[data-tab="see"]');
    await page.evaluate("document.getElementById('look-at').value = 'cat 3'");
    await press(page, "look");
    await page.waitForSelector("#seen canvas", { timeout: 60_000 });
    const tokens = await page.evaluate(
      "[...document.querySelectorAll('#seen > p:first-child .token')].map((e) => e.title)",
    );
    assert(
      (tokens as string[]).length > 2 &&
        (tokens as string[]).slice(1).every((title) => /^probability .* %\nexpected here:/.test(title)),
    );
    await page.click('[data-tab="map"]');
    await page.waitForSelector("#token-map svg text", { timeout: 60_000 });
  });

  await t.step("goes on after the tab was closed, to the end", async () => {
    const before = Number(/after ([\d,]+) steps/.exec(await text(page, "status"))![1]);
    await page.goto("about:blank");
    await page.goto(url);
    await ready();
    await says(page, "kept", new RegExp(`pets, ${before} steps`));
    await page.evaluate(
      "[...document.querySelectorAll('#kept button')].find((b) => b.textContent === 'Continue training').click()",
    );
    await says(page, "status", /Done: 400 steps/);
    await press(page, "write");
    await page.waitForFunction("/(cat|dog|hen)/.test(document.getElementById('written').textContent)", {
      timeout: 60_000,
    });
  });

  await t.step("a GPU model's file is taken home as the command line has it", async () => {
    // the same bytes that a download gets
    const names = await page.evaluate(`import("./tar.js").then(async ({ tar }) => {
      const bytes = new Uint8Array(await tar("pets", { "a.txt": new Blob(["hello"]) }).arrayBuffer());
      return [bytes.length, new TextDecoder().decode(bytes.subarray(512, 517))];
    })`);
    assert.deepEqual(names, [2048, "hello"]);
  });

  await t.step("what the browser cannot keep is said, and training goes on", async () => {
    await page.evaluate(`document.getElementById("messages").replaceChildren()`);
    const session = await page.createCDPSession();
    await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(url).origin, quotaSize: 1000 });
    await page.evaluate("document.getElementById('steps').value = 20");
    await press(page, "start");
    await says(page, "status", /Done: 20 steps/);
    assert.match(await text(page, "messages"), /could not be kept in this browser.*no more room/s);
  });
  assert.deepEqual(problems, []);
  await server.shutdown();
});
