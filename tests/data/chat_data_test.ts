import assert from "node:assert/strict";
import {
  cleanChat,
  cleanupNotice,
  countEmptyMessages,
  emptyMessagesNotice,
  loadChat,
  type Message,
} from "../../data/chat.ts";
import { MicrogptError } from "../../device/errors.ts";
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

Deno.test("chat: lines may end with \\r alone", async () => {
  const line = jsonl([user("a\r\nb"), assistant("c")]);
  const data = await withFile(`${line}\r${line}\r`, loadChat);
  assert.deepEqual(data.conversations, [[user("a\r\nb"), assistant("c")], [user("a\r\nb"), assistant("c")]]);
});

Deno.test("chat: no cleanup, no line", async () => {
  const data = await withFile(jsonl([user("hi"), assistant("hello")]), loadChat);
  assert.equal(cleanupNotice(data), undefined);
});

Deno.test("chat: messages that say nothing are counted", () => {
  const notice = (...contents: string[]) =>
    emptyMessagesNotice(countEmptyMessages(contents.map((content) => assistant(content))));
  assert.equal(notice("a"), undefined);
  assert.equal(notice("", "a", " \n"), "warning: 2 messages are empty, and are trained on as such");
});

Deno.test("chat: conversations in memory are checked as those of a file", () => {
  const good = [user("hi"), assistant("hello")];
  const refused = (...conversations: unknown[]) => {
    try {
      cleanChat("(memory)", conversations as Message[][]);
    } catch (error) {
      return (error as Error).message;
    }
  };
  assert.equal(refused(good), undefined);
  const role = 'expected "role" to be "user" or "assistant"';
  assert.equal(
    refused(good, good, good, [user("a"), { role: "system", content: "b" }]),
    `conversations[3]: message 2: ${role}, got "system"`,
  );
  assert.equal(refused([{ role: Symbol("x") }]), `conversations[0]: message 1: ${role}, got a symbol`);
  const content = 'conversations[0]: message 1: expected "content" to be';
  assert.equal(refused([{ role: "user" }]), `${content} a string, got none`);
  assert.equal(refused([user("\ud800")]), `${content} well-formed Unicode, got a lone surrogate`);
  const object = 'expected an object {"role", "content"}';
  assert.equal(refused(good, new Array(2)), `conversations[1]: message 1: ${object}, got none`);
  const array = 'expected an array of {"role", "content"} messages';
  assert.equal(refused(good, undefined), `conversations[1]: ${array}, got none`);
  assert.equal(refused({ messages: good }), `conversations[0]: ${array}, got an object`);
  assert.throws(() => cleanChat("(memory)", good[0] as unknown as Message[][]), {
    message: "conversations: expected an array of conversations, got an object",
  });
});

Deno.test("chat: an object around the messages, or an array around all conversations, is named", async () => {
  const good = [user("hi"), assistant("hello")];
  assert.match(
    await refusal(JSON.stringify({ messages: good })),
    /got an object \| leave out the object around the array: jq -c \.messages$/u,
  );
  assert.match(
    await refusal(JSON.stringify([good, good])),
    /got an array \| each conversation must be on one line of its own$/u,
  );
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
    `${got} (Unexpected token 'e') | is this a plain text file? then drop \`chat\``,
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
