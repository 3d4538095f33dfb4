import { cleanupOf, renderCleanup } from "../../data/cleanup.ts";
import assert from "node:assert/strict";
import { readContent, refusal } from "./corpus_reading.ts";

const user = (content: string) => ({ role: "user" as const, content });
const assistant = (content: string) => ({ role: "assistant" as const, content });
const system = (content: string) => ({ role: "system" as const, content });
const jsonl = (...values: unknown[]) => values.map((value) => JSON.stringify(value)).join("\n") + "\n";
const read = (content: string, options = {}) =>
  readContent(content, { chat: true, ...options }, "chats.jsonl");
const refused = (content: string, options = {}) =>
  refusal(content, { chat: true, ...options }, "chats.jsonl");

Deno.test("conversations: every shape becomes messages of user and assistant", async () => {
  const expected = [user("hi"), assistant("hello")];
  const shapes: [unknown, string][] = [
    [[{ role: "user", content: "hi" }, { role: "assistant", content: "hello" }], ""],
    [{ id: 1, messages: expected }, ", field messages"],
    [{
      messages: [
        { role: "user", content: [{ type: "text", text: "h" }, { type: "text", text: "i" }] },
        expected[1],
      ],
    }, ", field messages"],
    [
      { conversations: [{ from: "human", value: "hi" }, { from: "gpt", value: "hello" }] },
      ", field conversations",
    ],
    [{ conversation: expected }, ", field conversation"],
    [{ instruction: "hi", input: "", output: "hello" }, ", fields instruction, input, output"],
    [
      { instruction: "hi", context: "", response: "hello", category: "x" },
      ", fields instruction, context, response",
    ],
    [{ prompt: "hi", completion: "hello" }, ", fields prompt, completion"],
    [{ prompt: [expected[0]], completion: [expected[1]] }, ", fields prompt, completion"],
    [{ question: "hi", answer: "hello" }, ", fields question, answer"],
  ];
  for (const [shape, said] of shapes) {
    const lines = await read(jsonl(shape, shape));
    assert.deepEqual(lines.documents, [expected, expected]);
    assert.deepEqual(lines.report.notices, [`chats.jsonl: 2 conversations${said}`]);
    for (const indent of [0, 2]) {
      const array = await readContent(
        JSON.stringify([shape, shape], null, indent),
        { chat: true },
        "chats.json",
      );
      assert.deepEqual(array.documents, [expected, expected]);
      assert.deepEqual(array.report.notices, [`chats.json: 2 conversations${said}`]);
    }
  }
  const alpaca = await read(jsonl({ instruction: "add", input: "1 2", output: "3" }));
  assert.deepEqual(alpaca.documents, [[user("add\n\n1 2"), assistant("3")]]);
});

Deno.test("conversations: CSV, and a field that is named", async () => {
  const table = await readContent("id,question,answer\n1,hi,hello\n", { chat: true }, "chats.csv");
  assert.deepEqual(table.documents, [[user("hi"), assistant("hello")]]);
  const named = await read(jsonl({ dialog: [user("hi"), assistant("hello")], messages: 1 }), {
    field: "dialog",
  });
  assert.deepEqual(named.documents, [[user("hi"), assistant("hello")]]);
  assert.deepEqual(named.report.notices, ["chats.jsonl: 1 conversation, field dialog"]);
});

Deno.test("conversations: system text goes in front of the next user message, or stays where the model has it", async () => {
  const content = jsonl(
    [system("be kind"), user("hi"), assistant("hello")],
    { system: "be kind", conversations: [{ from: "human", value: "hi" }, { from: "gpt", value: "hello" }] },
    [system("a"), assistant("b"), system(" "), user("c"), assistant("d")],
    [user("plain"), assistant("e")],
  );
  const { documents, report } = await read(content);
  assert.deepEqual(documents, [
    [user("be kind\n\nhi"), assistant("hello")],
    [user("be kind\n\nhi"), assistant("hello")],
    [user("a"), assistant("b"), user("c"), assistant("d")],
    [user("plain"), assistant("e")],
  ]);
  assert.equal(report.cleaned["system text put in front of a user message"], 3);
  const kept = await read(content, { keepSystem: true });
  assert.deepEqual(kept.documents.slice(0, 3), [
    [system("be kind"), user("hi"), assistant("hello")],
    [system("be kind"), user("hi"), assistant("hello")],
    [system("a"), assistant("b"), user("c"), assistant("d")],
  ]);
  assert.deepEqual(kept.report.cleaned, { "system text kept": 3 });
  const talk = [system("a"), user("b"), assistant("c"), system("d"), user("e"), assistant("f")];
  const first = await read(jsonl(talk), { keepSystem: "first" });
  assert.deepEqual(first.documents, [[...talk.slice(0, 3), user("d\n\ne"), assistant("f")]]);
  assert.deepEqual(first.report.cleaned, {
    "system text kept": 1,
    "system text put in front of a user message": 1,
  });
});

Deno.test("conversations: tool calls and images are skipped and counted; strict stops with file and line", async () => {
  const good = [user("hi"), assistant("hello")];
  const content = jsonl(
    good,
    {
      messages: [user("x"), { role: "assistant", content: null, tool_calls: [{}] }, {
        role: "tool",
        content: "1",
      }],
    },
    {
      messages: [
        { role: "user", content: [{ type: "image_url", image_url: { url: "u" } }] },
        assistant("a cat"),
      ],
    },
    [user("alone")],
    [...good, user("more")],
    [{ role: "assistant", content: "x", tool_calls: [] }],
  );
  const { documents, report } = await read(content);
  assert.deepEqual(documents, [good, good, [assistant("x")]]);
  assert.deepEqual(report.skipped, {
    "tool calls": 1,
    "images or other content that is no text": 1,
    "no assistant turn": 1,
  });
  assert.deepEqual(report.notices, [
    "chats.jsonl: 3 conversations, in several shapes",
    "data cleanup: 1 conversations trimmed (trailing user turn removed), 1 skipped (no assistant turn)",
  ]);
  assert.deepEqual(renderCleanup(cleanupOf(report, "conversations")), [
    "cleanup:",
    "  1 conversation left out: tool calls",
    "  1 conversation left out: images or other content that is no text",
    "  1 conversation left out: no assistant turn",
    "  1 conversation changed: trailing user turn removed",
  ]);
  assert.equal(
    await refused(content, { strict: true }),
    "chats.jsonl line 2: tool calls | without `strict` it is skipped and counted",
  );
});

Deno.test("conversations: records without any are left out and counted", async () => {
  const good = { messages: [user("hi"), assistant("hello")] };
  const { documents, report } = await read(
    jsonl(
      good,
      { messages: null },
      { prompt: "x", completion: null },
      { question: null, answer: "y" },
      good,
      {
        ...{ prompt: null, completion: null, question: "hi", answer: "hello" },
      },
    ),
  );
  assert.deepEqual(documents, [good.messages, good.messages, good.messages]);
  assert.deepEqual(report.skipped, { "no text in the field": 3 });
});

Deno.test("conversations: messages that say nothing are counted", async () => {
  const { report } = await read(jsonl([user(""), assistant("a")], [user("b"), assistant(" ")]));
  assert.deepEqual(cleanupOf(report, "conversations"), [
    { count: 2, unit: "messages", effect: "kept", reason: "empty" },
  ]);
});

Deno.test("conversations: what is in no known shape stops with file, line and a hint", async () => {
  const good = jsonl([user("hi"), assistant("hello")]);
  const shape = String.raw`expected an array of \{"role", "content"\} messages`;
  assert.match(
    await refused(good + jsonl({ x: 1 })),
    new RegExp(
      `^chats.jsonl line 2: ${shape}, got an object \\| its fields are "x"; known are messages`,
      "u",
    ),
  );
  assert.match(await refused(good + "null\n"), new RegExp(`^chats.jsonl line 2: ${shape}, got null`, "u"));
  assert.match(
    await refused(good + "[{]\n"),
    new RegExp(`^chats.jsonl line 2: ${shape}, got invalid JSON`, "u"),
  );
  assert.match(await refused(jsonl([{ role: "narrator", content: "" }])), /"role" to be .* got "narrator"/u);
  assert.match(
    await refused(jsonl([{ role: "user", content: 1 }])),
    /message 1: expected "content" to be a string, got 1/u,
  );
  assert.match(
    await refused(jsonl({ prompt: "a", completion: 2 })),
    /line 1: expected "completion" to be a string, got 2/u,
  );
  assert.match(
    await refused('[{"role":"user","content":"\\ud800"}]'),
    /well-formed Unicode, got a lone surrogate/u,
  );
  assert.match(
    await refused("emma\nolivia\n"),
    /invalid JSON .* \| is this a plain text file\? then drop `chat`, or to measure a chat model give `format` text$/u,
  );
  assert.match(await refused("emma\n", { format: "text" }), /conversations are not read from plain text/u);
  assert.match(
    await refused(jsonl([user("hi")], [])),
    /^chats.jsonl holds no conversation with an assistant turn \(2 without\) \| /u,
  );
});
