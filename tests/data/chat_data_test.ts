import assert from "node:assert/strict";
import { countEmptyMessages } from "../../data/chat.ts";
import { readContent, refusal as refusalOfContent } from "./corpus_reading.ts";

const user = (content: string) => ({ role: "user" as const, content });
const assistant = (content: string) => ({ role: "assistant" as const, content });
const jsonl = (...conversations: unknown[]) => conversations.map((c) => JSON.stringify(c)).join("\n");

const CHATS = "chats.jsonl";

/** "message | hint" of what must be refused. */
const refusal = (content: string) => refusalOfContent(content, { chat: true }, CHATS);
const read = (content: string) => readContent(content, { chat: true }, CHATS);

Deno.test("chat: conversations are cut after the last assistant turn, those without one are skipped", async () => {
  const content = jsonl(
    [user("hi"), assistant("hello")],
    [user("a"), assistant("b"), user("c"), user("d")],
    [user("alone")],
    [],
    [assistant("first"), assistant(""), user("<bos>")],
  );
  const data = await read(`\n\ufeff${content}\r\n\r\n`);
  assert.deepEqual(data.documents, [
    [user("hi"), assistant("hello")],
    [user("a"), assistant("b")],
    [assistant("first"), assistant("")],
  ]);
  const cleanup =
    "data cleanup: 2 conversations trimmed (trailing user turn removed), 2 skipped (no assistant turn)";
  assert(data.report.notices.includes(cleanup), data.report.notices.join());
});

Deno.test("chat: lines may end with \\r alone", async () => {
  const line = jsonl([user("a\r\nb"), assistant("c")]);
  const data = await read(`${line}\r${line}\r`);
  assert.deepEqual(data.documents, [[user("a\r\nb"), assistant("c")], [user("a\r\nb"), assistant("c")]]);
});

Deno.test("chat: no cleanup, no line", async () => {
  const data = await read(jsonl([user("hi"), assistant("hello")]));
  assert(!data.report.notices.some((notice) => notice.startsWith("data cleanup")));
});

Deno.test("chat: messages that say nothing are counted", () => {
  const empty = (...contents: string[]) => countEmptyMessages(contents.map((content) => assistant(content)));
  assert.equal(empty("a"), 0);
  assert.equal(empty("", "a", " \n"), 2);
});

Deno.test("chat: other fields are ignored, escapes and whitespace of contents kept", async () => {
  const line = '[{"id": 7, "role": "user", "content": " a\\n\\u00e9\\ud83d\\udc4b "}, ' +
    '{"content": "ok", "role": "assistant", "labels": {"x": [null]}}]';
  const data = await read(line);
  assert.deepEqual(data.documents, [[user(" a\né👋 "), assistant("ok")]]);
});

Deno.test("chat: wrong shapes are refused with line, expectation and a hint", async () => {
  const hint = ' | write [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]';
  const good = jsonl([user("hi"), assistant("hello")]) + "\n\n";
  const shape = 'expected an array of {"role", "content"} messages';
  assert.equal(await refusal(good + "null"), `chats.jsonl line 3: ${shape}, got null${hint}`);
  assert.equal(await refusal("12"), `chats.jsonl line 1: ${shape}, got 12${hint}`);
  const message = 'message 2: expected an object {"role", "content"}';
  assert.equal(
    await refusal('[{"role":"user","content":""},"x"]'),
    `chats.jsonl line 1: ${message}, got "x"${hint}`,
  );
  assert.equal(
    await refusal('[{"role":"user","content":""},[]]'),
    `chats.jsonl line 1: ${message}, got an array${hint}`,
  );
  assert.equal(
    await refusal('[{"role":"user","content":""},null]'),
    `chats.jsonl line 1: ${message}, got null${hint}`,
  );
  const fields =
    "messages, conversations, instruction/output, prompt/completion, question/answer; or name one with `field`";
  assert.equal(
    await refusal('[{"content":""}]'),
    `chats.jsonl line 1: ${shape}, got an object | its fields are "content"; known are ${fields}`,
  );
  const content = 'message 1: expected "content" to be a string';
  assert.equal(
    await refusal('[{"role":"user","content":null}]'),
    `chats.jsonl line 1: ${content}, got null${hint}`,
  );
});

Deno.test("chat: invalid JSON is refused with the reason, and a hint where the cause is likely", async () => {
  const got = 'chats.jsonl line 1: expected an array of {"role", "content"} messages, got invalid JSON';
  assert.equal(
    await refusal("emma\nolivia\n"),
    `${got} (Unexpected token 'e') | is this a plain text file? then drop \`chat\`, or to measure a chat model give \`format\` text`,
  );
  assert.match(await refusal('[{"role": "user", "content": "cut of'), /line 1: .* \(Unterminated string/u);
});

Deno.test("chat: a file with nothing to learn from is an error", async () => {
  const hint = 'write one conversation a line: an array of {"role", "content"} messages';
  assert.equal(await refusal("\n"), `chats.jsonl holds no conversation | ${hint}`);
  assert.equal(
    await refusal(jsonl([user("hi")], [])),
    `chats.jsonl holds no conversation with an assistant turn (2 without) | ${hint}`,
  );
});
