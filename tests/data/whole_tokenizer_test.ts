/** Tokenizers that HuggingFace's implementations do whole: both give the same ids, and text never becomes a special token. */

import assert from "node:assert/strict";
import { HfTokenizer } from "../../data/hf_tokenizer.ts";
import { parseTokenizerJson } from "../../data/tokenizer_json.ts";
import { NativeTokenizer } from "../../native/tokenizer.ts";

const HARD = [
  "hello world",
  "  two  spaces ",
  "naïve café 日本語 🙂",
  "<s>hello</s> <unk>",
  "line\nline\r\n\ttab",
  "don't 12345 x=1;",
  "",
  " ",
  "e\u0301",
];

/** SentencePiece's BPE as Llama 2 has it. */
function sentencePiece(): string {
  const names = ["<unk>", "<s>", "</s>"];
  for (let byte = 0; byte < 256; byte++) {
    names.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  }
  names.push(
    ..."▁abcdefghijklmnopqrstuvwxyz",
    "he",
    "ll",
    "hell",
    "hello",
    "▁hello",
    "or",
    "wor",
    "▁wor",
    "▁▁",
  );
  const merges = ["h e", "l l", "he ll", "hell o", "▁ hello", "o r", "w or", "▁ wor", "▁ ▁"].map((pair) =>
    pair.split(" ")
  );
  const special = ["<unk>", "<s>", "</s>"].map((content, id) => {
    return {
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    };
  });
  const space = { type: "Replace", pattern: { String: "▁" }, content: " " };
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special,
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "Prepend", prepend: "▁" }, {
        type: "Replace",
        pattern: { String: " " },
        content: "▁",
      }],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [space, { type: "ByteFallback" }, { type: "Fuse" }, {
        type: "Strip",
        content: " ",
        start: 1,
        stop: 0,
      }],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(names.map((name, id) => [name, id])),
      merges,
    },
  });
}

/** Byte-level BPE with a regular expression of its own. */
function otherRegex(): string {
  using trained = NativeTokenizer.train(["hello world don't 12345"], { vocabSize: 280 });
  const json = JSON.parse(trained.toJSON());
  const Regex = String
    .raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  json.pre_tokenizer = {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
      { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  };
  return JSON.stringify(json);
}

for (
  const [name, json] of [["SentencePiece's BPE", sentencePiece()], [
    "another regular expression",
    otherRegex(),
  ]] as const
) {
  Deno.test(`${name}: native and JavaScript give the same ids, none of them special`, async () => {
    using native = NativeTokenizer.fromJson(json);
    const javascript = await HfTokenizer.fromJson(json);
    const special = new Set(native.special.map(({ id }) => id));
    for (const text of HARD) {
      const ids = [...native.encodeOne(text)];
      assert.deepEqual([...javascript.encodeOne(text)], ids, JSON.stringify(text));
      assert(ids.every((id) => !special.has(id)), `${JSON.stringify(text)} became a special token`);
      // SentencePiece puts a space in front of every text
      const front = name === "SentencePiece's BPE" && text !== "" ? " " : "";
      assert.equal(native.decode(ids), front + text);
    }
    assert.deepEqual([...native.encode(HARD).ids], HARD.flatMap((text) => [...native.encodeOne(text)]));
  });
}

Deno.test("SentencePiece's tokens are text with spaces, and bytes", () => {
  using tokenizer = NativeTokenizer.fromJson(sentencePiece());
  assert.deepEqual([...tokenizer.encodeOne("hello")], [tokenizer.id("▁hello")]);
  assert.equal(tokenizer.decode([tokenizer.id("▁hello")!, tokenizer.id("▁wor")!]), " hello wor");
  assert.deepEqual(tokenizer.tokenBytes(tokenizer.id("<0xE6>")!), Uint8Array.of(0xe6));
  assert.equal(parseTokenizerJson(sentencePiece()).first, "<s>");
});

Deno.test("regular expressions that could take for ever are refused", () => {
  for (const Regex of ["((a*)*)*b", "(?:a+)+", "(a|b+){3}", "((x+)y?)*", "(a|a)*b", "(a?){40}a{40}b"]) {
    const json = JSON.parse(otherRegex());
    json.pre_tokenizer.pretokenizers[0].pattern.Regex = Regex;
    assert.throws(() => parseTokenizerJson(JSON.stringify(json)), /could take for ever/, Regex);
  }
});
