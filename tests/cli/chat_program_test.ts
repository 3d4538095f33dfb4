/** `microgpt chat` from a pipe and in a terminal. */
import assert from "node:assert/strict";
import { likelyCommand } from "../../cli/chat.ts";
import { PasteReader, withLineEnds } from "../../cli/paste_reader.ts";
import { saveInferenceModel } from "../../model/files/checkpoint.ts";
import { namesIn, withDirectory } from "../model/files/checkpoint_fixture.ts";
import { gptNetwork } from "../../model/gpt.ts";
import { tinyModel, tinyTokenizerJson } from "../model/export/onnx_fixture.ts";
import { CHAT_RECIPE, CHATS, microgpt } from "./program.ts";
import { inTerminal, KEY, TERMINAL_TESTS } from "./terminal.ts";

const GREEDY = ["--temperature", "0"];
const COUNT = "one two three four five six seven eight nine ten";

/** Runs `use` in a directory with `model`, which knows `CHATS` by heart. */
async function withChatModel(use: (dir: string) => Promise<void>): Promise<void> {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(`${dir}/chats.jsonl`, CHATS);
    const train = ["train", "--input", "chats.jsonl", "--output", "model", ...CHAT_RECIPE];
    const { code, stderr } = await microgpt(train, { cwd: dir });
    assert.equal(code, 0, stderr);
    await use(dir);
  });
}

Deno.test("chat from a pipe: every line is a message, no commands, no prompts", async () => {
  await withChatModel(async (dir) => {
    const chat = async (stdin: string | Uint8Array, ...args: string[]) =>
      await microgpt(["chat", "--model-dir", "model", ...GREEDY, ...args], { cwd: dir, stdin });
    const plain = await chat("hello\n\n  fine \r\n");
    assert.deepEqual(plain, {
      code: 0,
      stdout: "Hello! How are you?\nI am glad to hear that.\n",
      stderr: "",
    });
    assert.equal((await chat("")).stdout, "");
    const slashes = ["say 5", "/usr/bin/env is what?", "/quit", "/clear", "//help", "a\u2028b", "say 7"];
    const answered = await chat(slashes.join("\n"), "--json", "--max-tokens", "1");
    const asked = answered.stdout.trimEnd().split("\n").map((line) => JSON.parse(line).message);
    assert.deepEqual(asked, slashes);

    const json = await chat("hello\ncount\n", "--json", "--max-tokens", "2");
    const [first] = json.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(Object.keys(first), ["message", "answer", "dropped_tokens"]);
    assert.equal(first.message, "hello");
    assert.ok("Hello! How are you?".startsWith(first.answer) && first.answer !== "");

    const long = await chat(`hello\n${"count ".repeat(50)}\n`);
    assert.match(long.stderr, /^note: dropped \d+ tokens at the start of the conversation/m);
    const huge = await chat(`${"a".repeat(130_000)}\nhello\n`, "--json", "--max-tokens", "1");
    assert.equal(huge.stdout.trimEnd().split("\n").length, 2, huge.stderr);
    const latin1 = await chat(Uint8Array.of(0x61, 0xff, 10));
    assert.match(latin1.stderr, /^error: standard input is not valid UTF-8 at line 1 .*\nhint: /);
    assert.equal(latin1.code, 1);
  });
});

Deno.test("chat with a model that has no chat tokens", async () => {
  await withDirectory(async (dir) => {
    await saveInferenceModel(`${dir}/text`, { ...tinyModel(false), chat: false });
    const { code, stderr } = await microgpt(["chat", "--model-dir", "text"], { cwd: dir, stdin: "hello\n" });
    assert.equal(code, 1);
    assert.match(stderr, /^error: the model has no chat tokens: .*\nhint: .*train --chat/);
  });
});

async function denoDir(): Promise<string> {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  return JSON.parse(new TextDecoder().decode(stdout)).denoDir;
}

Deno.test("chat copies the default model from Homebrew's share directory, once", async () => {
  await withChatModel(async (dir) => {
    const share = `${dir}/brew/share/microgpt/default-chat-model`;
    const exported = await microgpt(["export", "--model-dir", "model", "--output", share], { cwd: dir });
    assert.equal(exported.code, 0, exported.stderr);
    // Deno keeps its cache below HOME, unless it is told where
    const DENO_DIR = await denoDir();
    const chat = async (env: Record<string, string>) =>
      await microgpt(["chat", ...GREEDY], { cwd: dir, stdin: "hello\n", env: { DENO_DIR, ...env } });
    await Deno.mkdir(`${dir}/home`);
    const here = { HOME: `${dir}/home`, HOMEBREW_PREFIX: `${dir}/brew` };

    const first = await chat(here);
    assert.equal(first.stdout, "Hello! How are you?\n", first.stderr);
    assert.match(first.stderr, /^copied .*brew.* to .*home\/\.config\/microgpt\/default-chat-model\n$/);
    assert.deepEqual(await namesIn(`${dir}/home/.config/microgpt`), ["default-chat-model"]);
    const second = await chat({ ...here, HOMEBREW_PREFIX: `${dir}/gone` });
    assert.deepEqual([second.stdout, second.stderr], ["Hello! How are you?\n", ""]);

    // a GGUF file is used where it lies
    const llama = `${dir}/gguf/share/microgpt/default-chat-model`;
    await Deno.mkdir(llama, { recursive: true });
    await Deno.writeTextFile(`${llama}/model.gguf`, "GGUF of two bytes");
    await Deno.mkdir(`${dir}/other`);
    const broken = await chat({ HOME: `${dir}/other`, HOMEBREW_PREFIX: `${dir}/gguf` });
    assert.equal(broken.code, 1);
    assert.match(broken.stderr, /^error: .*gguf\/share\/microgpt\/default-chat-model\/model\.gguf/);
    assert.deepEqual(await namesIn(`${dir}/other`), []);

    // a home that cannot be written to
    await Deno.mkdir(`${dir}/closed`);
    await Deno.writeTextFile(`${dir}/closed/.config`, "");
    const third = await chat({ ...here, HOME: `${dir}/closed` });
    assert.equal(third.stdout, "Hello! How are you?\n", third.stderr);
    assert.match(third.stderr, /^warning: cannot copy the model to .*; using .*brew/);

    await Deno.mkdir(`${dir}/empty`);
    const none = await chat({ HOME: `${dir}/empty`, HOMEBREW_PREFIX: `${dir}/gone` });
    assert.equal(none.code, 1);
    assert.match(none.stderr, /^error: there is no default chat model \(.*\)\nhint: .*--model-dir/);
    assert.deepEqual(await namesIn(`${dir}/empty`), []);
  });
});

Deno.test({
  name: "chat in a terminal: streaming, history, commands, Ctrl-C and Ctrl-D",
  ignore: !TERMINAL_TESTS,
  fn: async () => {
    await withChatModel(async (dir) => {
      const { code } = await inTerminal(["chat", "--model-dir", "model", ...GREEDY], [
        { wait: "parameters on" },
        { wait: "> " },
        { send: `hello${KEY.enter}` },
        { wait: "Hello! How are you?\r\n" },
        { wait: "> " },
        { send: `/clear${KEY.enter}` },
        { wait: "the conversation begins anew" },
        { wait: "> " },
        { send: `/help${KEY.enter}` },
        { wait: "/quit " },
        { wait: "> " },
        // history: /help, /clear, hello; then the line is edited
        { send: `${KEY.up}${KEY.up}${KEY.up}` },
        { wait: "> hello" },
        { send: `${KEY.backspace.repeat(5)}cunt${KEY.left.repeat(3)}o${KEY.enter}` },
        { wait: COUNT },
        { wait: "> " },
        // what was mistyped is not sent; what is no command is a message
        { send: `/hepl${KEY.enter}` },
        { wait: "not sent: did you mean /help? //hepl sends it as a message" },
        { wait: "> " },
        { send: `/clear${KEY.enter}` },
        { wait: "begins anew" },
        { wait: "> " },
        { send: `/usr/bin/env is what?${KEY.enter}` },
        { wait: "\r\n" },
        { wait: "\r\n" },
        { wait: "> " },
        // Ctrl-C clears a line, says how to leave on an empty one, and leaves the second time
        { send: `half a line${KEY.ctrlC}` },
        { wait: "half a line" },
        { wait: "> " },
        { send: KEY.ctrlC },
        { wait: "Ctrl-D or /quit ends the conversation" },
        { wait: "> " },
        { send: `/quit${KEY.enter}` },
      ], { cwd: dir });
      assert.equal(code, 0);

      const left = await inTerminal(["chat", "--model-dir", "model"], [{ wait: "> " }, { send: KEY.ctrlD }], {
        cwd: dir,
        env: { NO_COLOR: "1" },
      });
      assert.equal(left.code, 0);
      const twice = [{ wait: "> " }, { send: KEY.ctrlC }, { wait: "> " }, { send: KEY.ctrlC }];
      assert.equal((await inTerminal(["chat", "--model-dir", "model"], twice, { cwd: dir })).code, 0);
    });
  },
});

/**
 * Saves a model that says "aaa…" to the end of its context, which takes the reference device many seconds: of two tokens, "a" and
 * "aa", one always has a logit above zero, the others' are zero.
 */
async function saveBabbler(dir: string): Promise<void> {
  const tokenizer = JSON.parse(tinyTokenizerJson(true));
  const { vocab, merges } = tokenizer.model;
  merges.push(["a", "a"]);
  vocab.aa = Object.keys(vocab).length;
  const config = { vocab_size: vocab.aa + 1, n_embd: 128, n_head: 2, n_layer: 4, block_size: 4096 };
  const network = gptNetwork(config);
  const { layout } = network;
  const params = network.initialParameters(1);
  const { offset, rows, cols } = layout.byName.get("lm_head")!;
  params.fill(0, offset, offset + rows * cols);
  for (let i = 0; i < cols; i++) {
    params[offset + vocab.a * cols + i] = Math.sin(i);
    params[offset + vocab.aa * cols + i] = -Math.sin(i);
  }
  await saveInferenceModel(dir, { config, chat: true, params, tokenizerJson: JSON.stringify(tokenizer) });
}

Deno.test({
  name: "chat in a terminal: Ctrl-C stops the answer, not the program; what was typed meanwhile comes next",
  ignore: !TERMINAL_TESTS,
  fn: async () => {
    await withDirectory(async (dir) => {
      await saveBabbler(`${dir}/model`);
      const chat = ["chat", "--model-dir", "model", "--device", "reference", ...GREEDY];
      const { code, pieces } = await inTerminal(chat, [
        { wait: "> " },
        { send: `hello${KEY.enter}` },
        { wait: "hello\r\r\n" },
        { wait: "aa" }, // some of the answer
        { send: `/help${KEY.enter}` },
        { send: KEY.ctrlC },
        { wait: "(stopped)" },
        { wait: "> /help" },
        { wait: "forget the conversation" },
        { wait: "> " },
        { send: `again${KEY.enter}` },
        { wait: "again\r\r\n" },
        { wait: "aa" },
        { send: KEY.ctrlC },
        { wait: "(stopped)" },
        { wait: "> " },
        { send: KEY.ctrlD },
      ], { cwd: dir });
      assert.equal(code, 0);
      assert.ok(!pieces[3]!.includes("/help"), "nothing that is typed during an answer is shown in it");
    });
  },
});

Deno.test({
  name:
    "chat in a terminal: lines that are pasted are one message, `//` begins one with a slash, at any width",
  ignore: !TERMINAL_TESTS,
  fn: async () => {
    await withDirectory(async (dir) => {
      await saveInferenceModel(`${dir}/model`, { ...tinyModel(true), chat: true });
      const chat = ["chat", "--model-dir", "model", "--json", "--max-tokens", "1"];
      const { code, pieces } = await inTerminal(chat, [
        { wait: "> " },
        { send: `${KEY.pasteStart}/quit\rtwo\x1b[31m\r\nthree${KEY.pasteEnd} four` },
        { wait: "/quit␤two␤three four" },
        { send: KEY.enter },
        { wait: '{"message":"/quit\\ntwo\\nthree four"' },
        { wait: "> " },
        { columns: 5 },
        { send: `//help me, 漢字${KEY.enter}` },
        { wait: '{"message":"/help me, 漢字"' },
        { wait: "> " },
        { columns: 1 },
        { send: `é${KEY.enter}` },
        { wait: '{"message":"é"' },
        { send: KEY.ctrlD },
      ], { cwd: dir });
      assert.equal(code, 0);
      assert.ok(pieces[0]!.includes("\x1b[?2004h") && pieces.at(-1)!.includes("\x1b[?2004l"));
      const dumb = await inTerminal(chat, [
        { wait: "> " },
        { send: `hello${KEY.enter}` },
        { wait: '{"message":"hello"' },
        { send: KEY.ctrlD },
      ], { cwd: dir, env: { TERM: "dumb" } });
      assert.equal(dumb.code, 0);
      assert.ok(!dumb.pieces.join("").includes("\x1b"));
    });
  },
});

Deno.test("pastes are told from keys, wherever the pieces end", () => {
  const bytes = new TextEncoder().encode(`a\x1b[Aé${KEY.pasteStart}x\ny${KEY.pasteEnd}b\x1b`);
  for (let cut = 0; cut <= bytes.length; cut++) {
    if (bytes[cut - 1] === 0x1b && cut < bytes.length) continue; // Escape alone is a key
    let read = "";
    const reader = new PasteReader({
      typed: (text) => read += text,
      pasted: (text) => read += `<${withLineEnds(text)}>`,
    });
    reader.push(bytes.subarray(0, cut));
    reader.push(bytes.subarray(cut));
    assert.equal(read, "a\x1b[Aé<x\ny>b\x1b", `cut at ${cut}`);
  }
});

Deno.test("a paste that the terminal does not end leaves Ctrl-C", () => {
  let typed = "";
  const reader = new PasteReader({ typed: (text) => typed += text, pasted: () => assert.fail() });
  for (const text of [`${KEY.pasteStart}abc`, KEY.ctrlC, "d"]) reader.push(new TextEncoder().encode(text));
  assert.equal(typed, `${KEY.ctrlC}d`);
});

Deno.test("what a mistyped command was meant to be", () => {
  for (const word of ["/hepl", "/HELP", "/h", "/hlep"]) assert.equal(likelyCommand(word), "/help", word);
  for (const word of ["/exit", "/q", "/quiit"]) assert.equal(likelyCommand(word), "/quit", word);
  for (const word of ["/nonsense", "/etc/hosts", "/help me", "//help", "/5", "/"]) {
    assert.equal(likelyCommand(word), undefined, word);
  }
});
