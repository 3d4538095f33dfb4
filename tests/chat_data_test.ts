import assert from "node:assert/strict";
import { cleanupNotice, conversationsNotice, loadChat } from "../data/chat.ts";
import { MicrogptError } from "../model/errors.ts";
import { withFile } from "./temporary_file.ts";

const user = (content: string) => ({ role: "user" as const, content });
const assistant = (content: string) => ({ role: "assistant" as const, content });
const jsonl = (...conversations: unknown[]) => conversations.map((c) => JSON.stringify(c)).join("\n");

/** Loads content that must be refused; "message | hint", the directory cut off. */
function refusal(content: string): Promise<string> {
  return withFile(content, async (path) => {
    const error = await loadChat(path).then(() => undefined, (error) => error);
    assert(error instanceof MicrogptError, `not refused as it should be: ${error}`);
    const message = error.message.replaceAll(path.replace(/chats\.jsonl$/u, ""), "");
    return error.hint ? `${message} | ${error.hint}` : message;
  }, "chats.jsonl");
}

Deno.test("chat: conversations are cut after the last assistant turn, those without one are skipped", async () => {
  const content = jsonl(
    [user("hi"), assistant("hello")],
    [user("a"), assistant("b"), user("c"), user("d")],
    [user("alone")],
    [],
    [assistant("first"), assistant(""), user("<bos>")],
  );
  const data = await withFile(`\n\ufeff${content}\r\n\r\n`, loadChat);
  assert.deepEqual(data.conversations, [
    [user("hi"), assistant("hello")],
    [user("a"), assistant("b")],
    [assistant("first"), assistant("")],
  ]);
  assert.equal(
    cleanupNotice(data),
    "data cleanup: 2 conversations trimmed (trailing user turn removed), 2 skipped (no assistant turn)",
  );
});

Deno.test("chat: no cleanup, no line", async () => {
  const data = await withFile(jsonl([user("hi"), assistant("hello")]), loadChat);
  assert.equal(cleanupNotice(data), undefined);
});

Deno.test("text that looks like conversations is told, other text is not", () => {
  const notice = (...documents: string[]) =>
    conversationsNotice({ mode: "text", path: "a.jsonl", documents });
  const chat = jsonl([user("hi"), assistant("hello")]);
  assert.equal(
    notice(chat, chat, chat, "more"),
    "warning: the lines of a.jsonl look like conversations; without --chat they are plain text",
  );
  assert.notEqual(notice(chat), undefined);
  for (
    const other of ["emma", "[]", "[1]", "{}", '{"role": "user", "content": ""}', "[", '[{"role": "x"}]']
  ) {
    assert.equal(notice(other), undefined, other);
    assert.equal(notice(chat, other), undefined, other);
  }
});

Deno.test("chat: other fields are ignored, escapes and whitespace of contents kept", async () => {
  const line = '[{"id": 7, "role": "user", "content": " a\\n\\u00e9\\ud83d\\udc4b "}, ' +
    '{"content": "ok", "role": "assistant", "labels": {"x": [null]}}]';
  const data = await withFile(line, loadChat);
  assert.deepEqual(data.conversations, [[user(" a\né👋 "), assistant("ok")]]);
});

Deno.test("chat: wrong shapes are refused with line, expectation and a hint", async () => {
  const hint = ' | write [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]';
  const good = jsonl([user("hi"), assistant("hello")]) + "\n\n";
  const shape = 'expected an array of {"role", "content"} messages';
  assert.equal(
    await refusal(good + '{"role": "user"}'),
    `chats.jsonl line 3: ${shape}, got an object${hint}`,
  );
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
  const role = 'message 1: expected "role" to be "user" or "assistant"';
  assert.equal(
    await refusal('[{"role":"system","content":""}]'),
    `chats.jsonl line 1: ${role}, got "system" | there are no other roles: leave such messages out`,
  );
  assert.equal(await refusal('[{"content":""}]'), `chats.jsonl line 1: ${role}, got none${hint}`);
  const content = 'message 1: expected "content" to be a string';
  assert.equal(
    await refusal('[{"role":"user","content":null}]'),
    `chats.jsonl line 1: ${content}, got null${hint}`,
  );
  assert.equal(await refusal('[{"role":"user"}]'), `chats.jsonl line 1: ${content}, got none${hint}`);
  assert.equal(
    await refusal('[{"role":"user","content":["a"]}]'),
    `chats.jsonl line 1: ${content}, got an array${hint}`,
  );
});

Deno.test("chat: invalid JSON is refused with the reason, and a hint where the cause is likely", async () => {
  const got = 'chats.jsonl line 1: expected an array of {"role", "content"} messages, got invalid JSON';
  assert.equal(
    await refusal("emma\nolivia\n"),
    `${got} (Unexpected token 'e') | is this a plain text file? then drop --chat`,
  );
  assert.equal(
    await refusal('[\n  {"role": "user"}\n]'),
    `${got} (Unexpected end of JSON input) | each conversation must be on one line of its own`,
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
