import assert from "node:assert/strict";
import { harmless, harmlessLine, HarmlessText } from "../../cli/harmless.ts";

/** Hostile text, and what of it may be shown. */
const CASES: [string, string, string][] = [
  ["plain text", "héllo\tworld\n👋", "héllo\tworld\n👋"],
  ["colours", "a\x1b[31;1mred\x1b[0mb", "aredb"],
  ["a window title", "a\x1b]0;title\x07b\x1b]2;t\x1b\\c", "abc"],
  ["a clipboard write", "a\x1b]52;c;aGk=\x07b", "ab"],
  ["a device control string", "a\x1bPq#0\x1b\\b", "ab"],
  ["eight-bit controls", "a\x9b2Jb\x9d0;t\x9cc", "abc"],
  ["a character set", "a\x1b(0b", "ab"],
  ["cursor movements", "a\r\b\x0b\x0c\x7fb\x1bcd", "abd"],
  ["an answer-back request", "a\x05\x1b[6n\x1b[cb", "ab"],
  ["a sequence cut by text of another script", "a\x1b[3é", "aé"],
  ["a sequence in a sequence", "a\x1b[3\x1b[31mb", "ab"],
  ["a string that never ends", `a\x1b]0;${"x".repeat(400)}`, `a${"x".repeat(400 + 2 - 255)}`],
  ["a string that a line ends", "a\x1b]0;x\nb", "a\nb"],
];

for (const [what, text, expected] of CASES) {
  Deno.test(`harmless: ${what}`, () => {
    assert.equal(harmless(text), expected);
    for (let at = 0; at <= text.length; at++) {
      const stream = new HarmlessText();
      assert.equal(stream.push(text.slice(0, at)) + stream.push(text.slice(at)), expected, `split at ${at}`);
    }
    const letters = new HarmlessText();
    assert.equal(text.split("").map((c) => letters.push(c)).join(""), expected);
  });
}

Deno.test("harmlessLine: one line, trimmed", () => {
  assert.equal(harmlessLine(" a\n\n  b\x1b[2J\r\n"), "a b");
});
