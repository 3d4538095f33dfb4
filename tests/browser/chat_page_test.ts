/** The server's page: talking with a model. */
import assert from "node:assert/strict";
import { parseConversation } from "../../data/chat.ts";
import { KNOWN, served } from "../model/serve/served.ts";
import { Chromium, chromiumTest } from "./chromium.ts";
import { ServedPage } from "./served_page.ts";

const DONE = "document.getElementById('stop').hidden";

/** Says something, and waits for the whole answer. */
async function say(page: ServedPage, text: string): Promise<void> {
  await page.page.type("#say", text);
  await page.page.keyboard.press("Enter");
  await page.until(DONE);
}

const said = (page: ServedPage) => page.texts(".said .text");

/** The widest thing must fit. */
async function fits(page: ServedPage, width: number): Promise<void> {
  assert.ok(await page.value<number>("document.documentElement.scrollWidth") <= width);
  const wide = await page.value(`[...document.querySelectorAll("body *")].filter((e) =>
    e.checkVisibility() && e.getBoundingClientRect().right > ${
    width + 1
  }).map((e) => e.outerHTML.slice(0, 80))`);
  assert.deepEqual(wide, []);
}

chromiumTest("the server's page: chat", async (t) => {
  await using server = await served({ temperature: 0 });
  await using chromium = await Chromium.start({ webgpu: false });
  await using page = await ServedPage.open(chromium, server.serve);
  await page.until("document.body.dataset.ready !== undefined");

  /** What the server says to these messages, the first the user's. */
  const answer = async (...said: string[]): Promise<string> => {
    const messages = said.map((content, i) => ({ role: i % 2 ? "assistant" : "user", content }));
    const response = await server.ask("/v1/chat/completions", { messages });
    return (await response.json()).choices[0].message.content;
  };
  const second = await answer("hello", KNOWN.hello!, "count");

  await t.step("an answer comes as it is written, with its speed and the context it took", async () => {
    await page.picture("chat-welcome");
    await say(page, "hello");
    assert.deepEqual(await said(page), ["hello", KNOWN.hello]);
    await say(page, "count");
    assert.deepEqual(await said(page), ["hello", KNOWN.hello, "count", second]);
    const used = /^(\d+) \/ 256$/.exec((await page.texts("#context-text"))[0]!);
    assert.ok(Number(used?.[1]) > 20, `${await page.texts("#context-text")}`);
    assert.match((await page.texts("#speed"))[0]!, /^[\d,]{1,7} tokens\/s$/);
    assert.match((await page.texts(".said.assistant .tools"))[0]!, /seed \d+/);
    await page.picture("chat-answers");
  });

  await t.step("another answer is a branch beside the first, as is an edited question", async () => {
    await page.page.click("#show-settings");
    await page.fill("#setting-temperature", "2");
    await page.fill("#setting-seed", "5");
    await page.press("Regenerate", ".said");
    await page.until(DONE);
    assert.deepEqual(await page.texts(".branches"), ["‹2/2›"]);
    const [, , , other] = await said(page);
    assert.notEqual(other, second);
    assert.match((await page.texts(".said.assistant .tools")).at(-1)!, /seed 5$/);
    await page.press("‹");
    assert.equal((await said(page)).at(-1), second);
    await page.fill("#setting-temperature", "0");
    await page.page.click(".said.user .tools button"); // the first question's Edit
    await page.fill("#edited", "what is your name?");
    await page.picture("chat-edit");
    await page.page.keyboard.press("Enter");
    await page.until(DONE);
    assert.deepEqual(await said(page), ["what is your name?", KNOWN["what is your name?"]]);
    await page.press("‹");
    assert.deepEqual(await said(page), ["hello", KNOWN.hello, "count", second]);
    await page.press("Close", "#settings");
  });

  await t.step("stop ends an answer, and keeps what came", async () => {
    await page.press("New chat");
    page.pace = 50;
    await page.page.type("#say", "count");
    await page.page.keyboard.press("Enter");
    await page.until("document.querySelector('.written')?.innerText.length > 8");
    await page.picture("chat-writing");
    await page.page.keyboard.press("Escape");
    await page.until(DONE);
    page.pace = 0;
    const last = (await said(page)).at(-1)!;
    assert.ok(last !== KNOWN.count && KNOWN.count!.startsWith(last), last);
    assert.match((await page.texts(".said .tools")).at(-1)!, /stopped$/);
    assert.match(await (await server.ask("/metrics")).text(), /^microgpt_requests_active 0$/m);
  });

  await t.step("conversations outlive the page, and are found again", async () => {
    const before = await said(page);
    await page.page.reload();
    await page.until("document.body.dataset.ready !== undefined");
    assert.deepEqual(await said(page), before);
    assert.deepEqual(await page.texts("#conversation-list .title"), ["count", "hello"]);
    await page.press("hello", "#conversation-list");
    assert.equal((await said(page)).length, 4);
    await page.page.keyboard.down("Alt");
    await page.page.keyboard.press("KeyN");
    await page.page.keyboard.up("Alt");
    assert.deepEqual(await said(page), []);
    await say(page, "count");
    assert.deepEqual(await page.texts("#conversation-list .title"), ["count", "count", "hello"]);
    await page.page.type("#search", "Hello!");
    assert.deepEqual(await page.texts("#conversation-list .title"), ["hello"]);
    await page.fill("#search", "x");
    await page.page.keyboard.press("Backspace");
  });

  await t.step("a conversation that is deleted while its answer comes stays away", async () => {
    await page.press("New chat");
    page.pace = 300;
    await page.page.type("#say", "count");
    await page.page.keyboard.press("Enter");
    await page.until("document.querySelectorAll('#conversation-list .title').length === 4");
    await page.page.click("#conversation-list li button:last-child");
    await page.press("Delete", "#sure-dialog");
    await page.until("document.querySelectorAll('#conversation-list .title').length === 3");
    await page.until(DONE);
    page.pace = 0;
    await page.page.reload();
    await page.until("document.body.dataset.ready !== undefined");
    assert.deepEqual(await page.texts("#conversation-list .title"), ["count", "count", "hello"]);
  });

  await t.step("the export is what train reads, and comes in again", async () => {
    await page.value(
      `globalThis.files = []; URL.createObjectURL = (blob) => (files.push(blob.text()), "blob:none")`,
    );
    await page.value(
      `HTMLAnchorElement.prototype.click = function () { globalThis.fileName = this.download }`,
    );
    await page.press("Export all");
    const text = await page.value<string>("files[0]");
    assert.equal(await page.value("fileName"), "known.jsonl");
    const lines = text.trimEnd().split("\n");
    assert.deepEqual(parseConversation(lines[0]!, "line 1"), [
      { role: "user", content: "count" },
      { role: "assistant", content: KNOWN.count },
    ]);
    assert.equal(parseConversation(lines[2]!, "line 3").length, 4);
    const path = `${await Deno.makeTempDir()}/some.jsonl`;
    await Deno.writeTextFile(
      path,
      '[{"role":"user","content":"from a file"},{"role":"assistant","content":"yes"}]\n',
    );
    const input = await page.page.$("#import-file");
    await (input as unknown as { uploadFile(path: string): Promise<void> }).uploadFile(path);
    await page.until("document.querySelector('#conversation-list .title').innerText === 'from a file'");
  });

  await t.step(
    "what is too long for the context loses its oldest turns, and it is said how much",
    async () => {
      for (let i = 0; i < 6; i++) {
        await say(page, `a long message with the number ${i}, again and again and again`);
      }
      assert.match((await page.texts("#context-text"))[0]!, /\d+ \/ 256 · \d+ tokens dropped$/);
      assert.match((await page.texts(".said .tools")).at(-1)!, /\d+ tokens dropped/);
      await page.picture("chat-dropped");
    },
  );

  await t.step("a fraction between the arrows' steps is sent", async () => {
    await page.page.click("#show-settings");
    await page.fill("#setting-temperature", "0.725");
    await page.press("Regenerate", ".said");
    await page.until(DONE);
    assert.deepEqual(await page.texts("#messages"), [""]);
    await page.press("Close", "#settings");
  });

  await t.step("a setting that cannot be sent is named, and nothing is lost", async () => {
    await page.page.click("#show-settings");
    await page.fill("#setting-temperature", "7");
    await page.page.type("#say", "hello");
    await page.page.keyboard.press("Enter");
    await page.until("document.getElementById('messages').innerText.includes('Temperature: ')");
    assert.equal((await said(page)).at(-1), "hello");
    await page.picture("chat-wrong-setting");
    await page.press("Back to the server’s");
    await page.press("Ask");
    await page.until(DONE);
    await page.press("×", "#messages");
  });

  await t.step("it fits a phone, in the dark too", async () => {
    await page.dark();
    await page.picture("chat-dark");
    await page.page.setViewport({ width: 375, height: 740 });
    await fits(page, 375);
    await page.picture("chat-phone");
    for (const panel of ["conversations", "settings"]) {
      await page.page.click(`#show-${panel}`);
      await fits(page, 375);
      await page.picture(`chat-phone-${panel}`);
      await page.page.keyboard.press("Escape");
      assert.equal(await page.value(`document.getElementById("${panel}").hidden`), true);
    }
  });

  await t.step("everything has a name for those who hear the page", async () => {
    const tree = await page.page.accessibility.snapshot({ interestingOnly: true });
    const nameless: string[] = [];
    const look = ({ role, name, children }: { role: string; name?: string; children?: unknown[] }) => {
      if (["button", "textbox", "tab", "spinbutton", "checkbox"].includes(role) && !name) {
        nameless.push(role);
      }
      for (const child of children ?? []) look(child as Parameters<typeof look>[0]);
    };
    look(tree as Parameters<typeof look>[0]);
    assert.deepEqual(nameless, []);
  });
  assert.deepEqual(page.problems, []);
});

chromiumTest("the server's page asks for a key when the server wants one", async () => {
  await using server = await served({ apiKey: "open sesame" });
  await using chromium = await Chromium.start({ webgpu: false });
  await using page = await ServedPage.open(chromium, server.serve);
  await page.until("document.getElementById('key-dialog').open");
  await page.picture("key");
  await page.page.type("#key", "wrong");
  await page.page.keyboard.press("Enter");
  await page.until(
    "document.getElementById('key-dialog').open && document.getElementById('key').value === ''",
  );
  await page.page.type("#key", "open sesame");
  await page.page.keyboard.press("Enter");
  await page.until("document.body.dataset.ready !== undefined");
  await say(page, "hello");
  assert.equal((await said(page)).length, 2);
  const refused = page.problems.filter((problem) => !/status of 401/.test(problem));
  assert.deepEqual(refused, []);
});
