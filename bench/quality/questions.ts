/**
 * Asks chat models twenty fixed questions whose answers can be checked, and counts what is right.
 *
 *     deno run -A bench/quality/questions.ts my-chat SmolLM2-135M-Instruct.Q4_1.gguf
 *
 * Each question is a conversation of its own, answered at temperature 0, in 80 tokens at most. An answer is right where
 * it has what `accepts` asks for (upper and lower case are the same unless the question is `exact`), and not what
 * `refuses` names.
 */
import { parseArgs } from "node:util";
import { loadModel } from "../../mod.ts";

/** A line of questions.jsonl. */
interface Question {
  /** what it takes to answer it */
  kind: string;
  question: string;
  /** a pattern that a right answer has */
  accepts: string;
  /** one that it does not have */
  refuses?: string;
  exact?: boolean;
}

const { values: flags, positionals: models } = parseArgs({
  allowPositionals: true,
  options: {
    /** print every answer */
    answers: { type: "boolean", default: false },
    tokens: { type: "string", default: "80" },
    device: { type: "string", default: "cpu" },
    threads: { type: "string", default: "2" },
  },
});
if (models.length === 0) throw new Error("name a chat model: a directory or a file");

const questions = Deno.readTextFileSync(new URL("questions.jsonl", import.meta.url)).trimEnd().split("\n")
  .map(
    (line) => JSON.parse(line) as Question,
  );
const kinds = [...new Set(questions.map(({ kind }) => kind))];

function isRight({ accepts, refuses, exact }: Question, answer: string): boolean {
  const has = (pattern: string) => new RegExp(pattern, exact ? "u" : "iu").test(answer);
  return has(accepts) && !(refuses !== undefined && has(refuses));
}

console.log(`| model | of ${questions.length} | ${kinds.join(" | ")} |`);
console.log(`|---|---|${kinds.map(() => "---|").join("")}`);
for (const path of models) {
  using model = await loadModel(path, { device: flags.device as "cpu", threads: Number(flags.threads) });
  using chat = model.startChat({ temperature: 0 });
  const right = new Map(kinds.map((kind) => [kind, 0]));
  for (const question of questions) {
    chat.clear();
    let [answer, tokens] = ["", 0];
    for await (const piece of chat.send(question.question)) {
      answer += piece;
      if (++tokens === Number(flags.tokens)) break;
    }
    const isGood = isRight(question, answer);
    if (isGood) right.set(question.kind, right.get(question.kind)! + 1);
    if (flags.answers) {
      console.error(`${isGood ? "right" : "wrong"}  ${question.question} ${JSON.stringify(answer)}`);
    }
  }
  const total = [...right.values()].reduce((sum, count) => sum + count);
  console.log(`| ${path.split("/").at(-1)} | ${total} | ${[...right.values()].join(" | ")} |`);
}
