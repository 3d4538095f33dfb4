/** Prompts from files: one with --prompt-file, many with --input, as text and as JSONL. */
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { CHAT_RECIPE, CHATS, type Finished, microgpt, NAMES, TINY } from "./program.ts";

const CHEAP = ["--temperature", "0", "--max-tokens", "8"];

/** A model of text, one of conversations, and files beside them. */
async function withModels(
  files: Record<string, string | Uint8Array>,
  use: (run: (model: string, ...args: string[]) => Promise<Finished>, dir: string) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    const write = (name: string, content: string | Uint8Array) =>
      Deno.writeFile(
        `${dir}/${name}`,
        typeof content === "string" ? new TextEncoder().encode(content) : content,
      );
    for (const [name, content] of Object.entries({ ...files, "n.txt": NAMES, "c.jsonl": CHATS })) {
      await write(name, content);
    }
    const cwd = dir;
    const trained = await Promise.all([
      microgpt(["train", "--input", "n.txt", "--output", "text", ...TINY], { cwd }),
      microgpt(["train", "--input", "c.jsonl", "--output", "chat", ...CHAT_RECIPE], { cwd }),
    ]);
    for (const { code, stderr } of trained) assert.equal(code, 0, stderr);
    const run = (model: string, ...args: string[]) =>
      microgpt(["generate", "--model-dir", model, ...CHEAP, ...args], { cwd });
    await use(run, dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

const records = ({ stdout }: Finished) => stdout.trim().split("\n").map((line) => JSON.parse(line));

Deno.test("prompts of a file: each gets the sample that it gets alone", async () => {
  const conversation = [{ role: "user", content: "what is your name?" }];
  const files = {
    "prompts.txt": "an\r\n\r\nbo\n",
    "one.txt": "an\n",
    "prompts.jsonl.gz": gzipSync(
      ["count", { prompt: "hello" }, { messages: conversation }, conversation].map((p) => JSON.stringify(p))
        .join("\n"),
    ),
    "bad.jsonl": '{"prompt": "hello"}\n{"text": "hello"}\n',
    "long.txt": `an\n${"long ".repeat(40)}\nbo`,
    "empty.txt": "\n \n",
  };
  await withModels(files, async (run) => {
    const alone = records(await run("text", "--prompt", "an", "--num-samples", "2", "--json"));
    const many = await run("text", "--input", "prompts.txt", "--num-samples", "2", "--json");
    assert.equal(many.code, 0, many.stderr);
    assert.deepEqual(
      records(many).slice(0, 2),
      alone.map((record) => ({ line: 1, prompt: "an", ...record })),
    );
    assert.deepEqual(records(many).map(({ line, index }) => [line, index]), [[1, 0], [1, 1], [3, 0], [3, 1]]);
    const file = records(await run("text", "--prompt-file", "one.txt", "--num-samples", "2", "--json"));
    assert.deepEqual(file, alone);
    const lines = (await run("text", "--input", "prompts.txt")).stdout.split("\n");
    assert.match(lines[0]!, /^prompt {2}1: an/);
    assert.match(lines[1]!, /^prompt {2}2: bo/);

    const chat = await run("chat", "--input", "prompts.jsonl.gz", "--json");
    assert.equal(chat.code, 0, chat.stderr);
    const answers = records(chat);
    assert.deepEqual(answers.map(({ line }) => line), [1, 2, 3, 4]);
    assert.equal(answers[2].text, answers[3].text);
    assert.deepEqual(answers[2].messages, conversation);
    const [typed] = records(await run("chat", "--prompt", "count", "--num-samples", "1", "--json"));
    assert.equal(answers[0].text, typed.text);

    const long = await run("text", "--input", "long.txt", "--json");
    assert.equal(long.code, 1);
    assert.deepEqual(records(long).map(({ line }) => line), [1, 3]);
    assert.match(long.stderr, /^warning: long\.txt line 2 is left out: the prompt has \d+ tokens/m);
    const bad = await run("chat", "--input", "bad.jsonl", "--json");
    assert.equal(bad.code, 1);
    assert.match(bad.stderr, /^error: bad\.jsonl line 2: expected a text, \{"prompt": text\}/m);
    assert.match((await run("text", "--input", "empty.txt")).stderr, /^error: empty\.txt holds no prompt$/m);
    const both = await run("text", "--input", "one.txt", "--prompt", "a");
    assert.equal(both.code, 2);
    assert.match(both.stderr, /^error: --prompt and --input are both given$/m);
    assert.match((await run("text", "--prompt-file", "none.txt")).stderr, /^error: cannot read none\.txt/m);
  });
});

Deno.test("prompts come through a pipe, too", async () => {
  await withModels({}, async (_, cwd) => {
    const args = ["generate", "--model-dir", "text", ...CHEAP, "--json"];
    const many = await microgpt([...args, "--input", "-"], { cwd, stdin: "an\nbo" });
    assert.deepEqual(records(many).map(({ prompt }) => prompt), ["an", "bo"], many.stderr);
    const one = await microgpt([...args, "--prompt-file", "-", "--num-samples", "1"], { cwd, stdin: "an\n" });
    assert.equal(records(one)[0].text, records(many)[0].text);
  });
});
