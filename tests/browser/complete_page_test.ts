/** The server's page: a text, token by token. */
import assert from "node:assert/strict";
import { handler, loadModel, train } from "../../mod.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { ServedPage } from "./served_page.ts";

const ALPHABET = "a b c d e f g h i j k l m n o p q r s t u v w x y z";
const SECOND = "a b c d 1 2 3 4 5 6 7 8 9\nüber";

/** Learns two texts by heart; they part after "d". */
async function learned(): Promise<string> {
  const output = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  const documents = [ALPHABET, SECOND];
  const shape = { nEmbd: 32, nHead: 2, nLayer: 2, blockSize: 96, vocabSize: 257 };
  const recipe = { steps: 120, batchSize: 4, valFraction: 0, lr: 0.02, warmupSteps: 5 };
  for await (const _ of train({ documents, output, ...shape, ...recipe }));
  return output;
}

const DONE = "!document.getElementById('begin-text').disabled";

chromiumTest("the server's page: completion", async (t) => {
  const dir = await learned();
  using model = await loadModel(dir);
  const serve = await handler(model, { modelName: "alphabet" });
  await using chromium = await Chromium.start({ webgpu: false });
  await using page = await ServedPage.open(chromium, serve);
  await page.until("document.body.dataset.ready !== undefined");
  const text = async () => (await page.texts(".text-token")).join("");
  const names = () => page.texts("#expected code");
  const hover = async (place: number) => {
    await page.page.hover(`#tokens .text-token:nth-child(${place + 1})`);
    await page.until("!document.getElementById('expected').hidden");
  };

  await t.step("a model that knows no chats has this view alone", async () => {
    assert.deepEqual(await page.texts('[role="tab"]:not([hidden])'), ["Complete"]);
    assert.equal(await page.value("document.getElementById('conversations').hidden"), true);
    await page.picture("complete-empty");
  });

  await t.step("goes on with a text, each token in the colour of its probability", async () => {
    await page.page.click("#show-settings");
    assert.equal(await page.value("document.getElementById('setting-system').checkVisibility()"), false);
    await page.fill("#setting-temperature", "0");
    await page.fill("#setting-max_tokens", "30");
    await page.press("Close", "#settings");
    await page.page.type("#begin", "a b c d e");
    await page.page.keyboard.down("Control");
    await page.page.keyboard.press("Enter");
    await page.page.keyboard.up("Control");
    await page.until(`${DONE} && document.querySelectorAll('.text-token').length > 30`);
    assert.equal(await text(), ALPHABET.slice(0, 39));
    assert.equal(await page.value("document.querySelectorAll('.text-token.person').length"), 9);
    const [parting, known] = await page.value<[string, number][]>(
      `[9, 21].map((n) => document.querySelector("#tokens :nth-child(" + n + ")"))
        .map((e) => [e.style.background, parseInt(e.ariaLabel.split(", ")[1])])`,
    );
    // the texts part at the first, the second is known by heart
    assert.ok(parting![1] > 20 && parting![1] < 80 && known![1] > 90, `${parting} ${known}`);
    assert.ok(parting![0] !== "" && parting![0] !== known![0]);
    assert.match(
      (await page.texts("#text-note"))[0]!,
      /^cut off · 39 tokens · \d\.\d\d bits a token · .* tokens\/s/,
    );
    await page.picture("complete-text");
  });

  await t.step("shows what else was expected, and goes on from what is clicked", async () => {
    await hover(8);
    assert.deepEqual((await names()).slice(0, 2).sort(), ["1", "e"]);
    assert.match((await page.texts("#expected > small"))[0]!, /^e: \d+ %/);
    await page.picture("complete-expected");
    await page.press(
      "1\n" + (await page.texts("#expected .bar-row")).find((row) => row.startsWith("1"))!.slice(2),
      "#expected",
    );
    await page.until(DONE);
    assert.equal(await text(), "a b c d 1 2 3 4 5 6 7 8 9↵\n\\xc3\\xbcber");
    assert.equal(await page.value("document.getElementById('announced').textContent"), SECOND);
    assert.deepEqual(await page.texts(".text-token.choice"), ["1"]);
    assert.match((await page.texts("#text-note"))[0]!, /^it ended here/);
    await page.picture("complete-chosen");
    await page.press("Back");
    assert.equal(await text(), ALPHABET.slice(0, 39));
  });

  await t.step("the keyboard goes from token to token and chooses", async () => {
    await page.page.focus("#tokens [tabindex='0']");
    await page.value("document.querySelector('#tokens .text-token:nth-child(9)').focus()");
    await page.page.keyboard.press("ArrowRight");
    await page.page.keyboard.press("ArrowLeft");
    assert.equal(await page.value("document.getElementById('expected').checkVisibility()"), true);
    assert.match((await page.texts("#expected > small"))[0]!, /^e: /);
    await page.page.keyboard.press("ArrowDown");
    await page.page.keyboard.press("ArrowDown");
    await page.page.keyboard.press("ArrowUp");
    const rows = await names();
    if (rows[0] !== "1") await page.page.keyboard.press("ArrowDown");
    await page.page.keyboard.press("Enter");
    await page.until(`${DONE} && document.querySelector('.text-token.choice')`);
    assert.match(await text(), /^a b c d 1 2 3/);
    await page.press("Back");
    await page.press("Go on");
    await page.until(DONE);
    assert.equal(await text(), ALPHABET);
  });

  await t.step("stop ends it; an empty beginning begins a new text", async () => {
    page.pace = 40;
    await page.fill("#begin", " ");
    await page.page.keyboard.press("Backspace");
    await page.press("Continue");
    await page.until(
      "!document.querySelector('.text-token.person') && document.querySelectorAll('.text-token.model').length > 3",
    );
    await page.press("Stop");
    await page.until(DONE);
    page.pace = 0;
    assert.match((await page.texts("#text-note"))[0]!, /^stopped · \d+ tokens/);
    assert.match(await text(), /^a b/);
  });

  await t.step("stop ends the scoring of what the person wrote, too", async () => {
    const before = await text();
    page.hold = true;
    await page.fill("#begin", "z y x");
    await page.press("Continue");
    await page.until("!document.getElementById('stop-text').hidden");
    await page.press("Stop");
    await page.until(DONE);
    page.hold = false;
    assert.equal(await text(), before);
  });

  await t.step("it fits a phone, where a tap shows what was expected", async () => {
    await page.dark();
    await page.page.setViewport({ width: 375, height: 740 });
    await page.page.click("#tokens .text-token:nth-child(4)");
    await page.until("!document.getElementById('expected').hidden");
    const { left, right } = await page.value<{ left: number; right: number }>(
      "document.getElementById('expected').getBoundingClientRect().toJSON()",
    );
    assert.ok(left >= 0 && right <= 375, `${left} to ${right}`);
    assert.equal(await page.value("document.documentElement.scrollWidth"), 375);
    await page.picture("complete-phone");
  });
  assert.deepEqual(page.problems, []);
  await serve.close();
  await Deno.remove(dir, { recursive: true });
});
