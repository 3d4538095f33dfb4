/** Conversations of the server's page as trees, and as JSONL. */
import assert from "node:assert/strict";
import {
  add,
  branches,
  choose,
  fromJsonl,
  jsonl,
  newConversation,
  path,
  remove,
  ROOT,
  turns,
} from "../../web/chat/tree.js";

/** Two questions with their answers, and another answer to the first. */
function branched() {
  const conversation = newConversation();
  const question = add(conversation, ROOT, "user", "one");
  const answer = add(conversation, question.id, "assistant", "1");
  const second = add(conversation, answer.id, "user", "two");
  add(conversation, second.id, "assistant", "2");
  const other = add(conversation, question.id, "assistant", "I");
  return { conversation, question, answer, other };
}

const shown = (conversation: Parameters<typeof path>[0]) => path(conversation).map(({ content }) => content);

Deno.test("a branch is shown with what followed it", () => {
  const { conversation, answer, other } = branched();
  assert.deepEqual(shown(conversation), ["one", "I"]);
  assert.deepEqual(branches(conversation, other), [answer, other]);
  choose(conversation, answer);
  assert.deepEqual(shown(conversation), ["one", "1", "two", "2"]);
});

Deno.test("removing a message removes what follows it, and shows a branch beside it", () => {
  const { conversation, question, answer } = branched();
  choose(conversation, answer);
  remove(conversation, answer);
  assert.deepEqual(shown(conversation), ["one", "I"]);
  assert.equal(conversation.messages.length, 2);
  remove(conversation, question);
  assert.deepEqual([shown(conversation), conversation.messages, conversation.chosen], [[], [], {}]);
});

Deno.test("what is shown up to the last answer goes to JSONL and back", () => {
  const { conversation, answer } = branched();
  choose(conversation, answer);
  add(conversation, path(conversation).at(-1)!.id, "user", "three");
  const said = turns(conversation, false);
  assert.deepEqual(said.map(({ content }) => content), ["one", "1", "two", "2"]);
  const text = jsonl([said, turns(newConversation(), false), said]);
  assert.equal(text.split("\n").length, 3);
  const again = fromJsonl(text);
  assert.deepEqual(again.map(shown), [shown(conversation).slice(0, 4), shown(conversation).slice(0, 4)]);
  assert.equal(again[0]!.title, "one");
});

Deno.test("a system message is exported as the model saw it", () => {
  const { conversation } = branched();
  conversation.system = "be short";
  assert.deepEqual(turns(conversation, true)[0], { role: "system", content: "be short" });
  assert.deepEqual(turns(conversation, false)[0], { role: "user", content: "be short\n\none" });
  assert.equal(fromJsonl(jsonl([turns(conversation, true)]))[0]!.system, "be short");
});

Deno.test("JSONL that is none is refused with its line", () => {
  const line = '[{"role":"user","content":"a"}]\n';
  assert.throws(() => fromJsonl(`${line}{`), /^Error: line 2 is not JSON$/);
  assert.throws(() => fromJsonl(`${line}\n7`), /^Error: line 3 is not a list/);
  assert.throws(() => fromJsonl('[{"role":"tool","content":"x"}]'), /line 1 has a role/);
  assert.throws(() => fromJsonl('[{"role":"user"}]'), /line 1 has a message without a text/);
});
