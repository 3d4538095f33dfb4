import assert from "node:assert/strict";
import { syntaxNotice } from "../../data/text_syntax.ts";

const notice = (...documents: string[]) => syntaxNotice("a.txt", documents);
const chat = JSON.stringify([{ role: "user", content: "hi" }, { role: "assistant", content: "hello" }]);

Deno.test("text that looks like conversations is told, other text is not", () => {
  assert.equal(
    notice(chat, chat, chat, "more"),
    "warning: the lines of a.txt look like conversations; without `chat` they are plain text",
  );
  assert.notEqual(notice(chat), undefined);
  for (const other of ["emma", "[]", "[1]", "{}", "[", '[{"role": "x"}]', "[1, 2]", "{x} and {y}"]) {
    assert.equal(notice(other), undefined, other);
    assert.equal(notice(chat, other), undefined, other);
  }
});

Deno.test("text of JSON objects is told, with a way to the text in them", () => {
  const objects =
    "warning: the lines of a.txt are JSON objects and would be learned with all of that syntax: ";
  const text = JSON.stringify({ id: 1, text: "a" });
  assert.equal(notice(text, text), `${objects}jq -r '.text | gsub("\\\\s+"; " ")' makes plain text of them`);
  const messages = JSON.stringify({ messages: [] });
  assert.equal(notice(messages), `${objects}jq -c .messages makes conversations of them, for \`chat\``);
  assert.equal(notice(JSON.stringify({ prompt: "a" })), `${objects}write one document a line`);
  assert.equal(notice(text, "plain"), undefined);
});

Deno.test("one JSON array is told where it takes many lines, and refused on a single one", () => {
  assert.match(notice("[", "{", '"text": "a"', "}", "]")!, /^warning: a\.txt is JSON over many lines/u);
  assert.match(notice("{", '"data": [', "]", "}")!, /JSON over many lines/u);
  assert.equal(notice("[", "Stage direction", "]"), undefined);
  for (const array of [["a", "b"], [{ text: "a" }, { text: "b" }], [JSON.parse(chat), JSON.parse(chat)]]) {
    assert.throws(() => notice(JSON.stringify(array)), {
      name: "MicrogptError",
      message: "a.txt is a JSON array on one line, which would be a single document",
    });
  }
});

Deno.test("a table is told by its header, not by its commas", () => {
  const table = /^warning: a\.txt looks like a CSV table/u;
  assert.match(notice("id,text,label", "1,hello,x", '2,"a, b",y')!, table);
  assert.match(notice('"question";"answer"', "a;b")!, table);
  assert.match(notice("Title\tBody", "a\tb")!, table);
  assert.equal(notice("Smith, John", "Miller, Ann"), undefined);
  assert.equal(notice("name, text and the rest, said she", "no comma", "none here"), undefined);
  assert.equal(notice("text", "hello"), undefined);
});
