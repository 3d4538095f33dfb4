/** Tokenizers of other models' kinds: the native one and the one in JavaScript agree, whatever the text. */

import assert from "node:assert/strict";
import { HfTokenizer } from "../../data/hf_tokenizer.ts";
import { preTokenizerOf, type SplitName, splitOfPreTokenizer, SPLITS } from "../../data/splits.ts";
import { parseTokenizerJson } from "../../data/tokenizer_json.ts";
import { NativeTokenizer } from "../../native/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";

const CORPUS = "the cat's hat, THE CAT'S 12 345\r\n\n  naïve 日本語 🙂 ... don't DON'T\t\tx = 10;\n".repeat(
  3,
);

/** A tokenizer.json that splits in this way, with added tokens of both kinds. */
function tokenizerJson(split: SplitName, nfc = false): string {
  using trained = NativeTokenizer.train([CORPUS], { vocabSize: 330 });
  const json = JSON.parse(trained.toJSON());
  const size = trained.vocabSize;
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  const added = (content: string, special: boolean, i: number, more = {}) => ({
    id: size + i,
    content,
    special,
    ...flags,
    ...more,
  });
  json.added_tokens.push(
    added("<|im_end|>", true, 0),
    added("<think>", false, 1),
    added("<thinking>", false, 2, { rstrip: true }),
    added("wörd", false, 3, { single_word: true }),
  );
  json.pre_tokenizer = preTokenizerOf(split);
  if (nfc) json.normalizer = { type: "NFC" };
  json.model.ignore_merges = SPLITS[split].ignoreMerges;
  return JSON.stringify(json);
}

const PIECES = [
  ..."aZé日5²!<'_ \n\t\0",
  ..."\u{a0}\u{85}\u{feff}\u{2003}\u{200b}\u{301}🙂",
  ...[
    "'s",
    "'S",
    "'ſ",
    "'Ll",
    "12345",
    "  ",
    "\r\n",
    "\n\n ",
    "<bos>",
    "<|im_end|>",
    "<think>",
    "<thinking>",
    "wörd",
    "e\u0301",
    "the",
    " cat",
  ],
];

for (const split of Object.keys(SPLITS) as SplitName[]) {
  Deno.test(`${split}: native and JavaScript give the same ids, and the text comes back`, async () => {
    const json = tokenizerJson(split, split === "qwen2");
    using native = NativeTokenizer.fromJson(json);
    const javascript = await HfTokenizer.fromJson(json);
    let state = 7;
    const random = (n: number) => (state = (state * 1103515245 + 12345) % 2 ** 31) % n;
    const documents = Array.from({ length: 2000 }, () => {
      return Array.from({ length: random(12) }, () => PIECES[(random(1 << 16) >> 4) % PIECES.length]).join(
        "",
      );
    });
    const [a, b] = [native.encode(documents), javascript.encode(documents)];
    assert.deepEqual(a.offsets, b.offsets);
    assert.deepEqual(a.ids, b.ids);
    documents.forEach((document, d) => {
      const ids = a.ids.subarray(a.offsets[d], a.offsets[d + 1]);
      assert(
        ids.every((id) => !native.special.some((token) => token.id === id)),
        "text became a special token",
      );
      if (document.includes("<thinking>")) return; // white space after it is part of it
      assert.equal(native.decode(ids), split === "qwen2" ? document.normalize("NFC") : document);
    });
  });
}

Deno.test("added tokens that are not special stand in text, and only whole where they must", () => {
  using tokenizer = NativeTokenizer.fromJson(tokenizerJson("gpt-2"));
  const [think, thinking, word] = ["<think>", "<thinking>", "wörd"].map((name) => tokenizer.id(name)!);
  const encoded = [...tokenizer.encodeOne("<think><thinking>  x wörd wörds<|im_end|>")];
  assert.deepEqual(encoded.slice(0, 2), [think, thinking]);
  assert.equal(encoded.filter((id) => id === word).length, 1);
  assert.equal(tokenizer.decode([think!, word!]), "<think>wörd");
});

Deno.test("pre-tokenizers are known by what they say, not by how it is written", () => {
  for (const name of Object.keys(SPLITS) as SplitName[]) {
    assert.equal(splitOfPreTokenizer(JSON.parse(JSON.stringify(preTokenizerOf(name)))), name);
  }
  assert.equal(splitOfPreTokenizer({ type: "ByteLevel", add_prefix_space: false }), "gpt-2");
  assert.equal(splitOfPreTokenizer({ type: "ByteLevel", add_prefix_space: true }), undefined);
});

Deno.test("a leading token is read from the post-processor; another post-processor is refused", () => {
  const json = JSON.parse(tokenizerJson("gpt-2"));
  const single = [{ SpecialToken: { id: "<bos>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  const template = { type: "TemplateProcessing", single, pair: [], special_tokens: {} };
  json.post_processor = { type: "Sequence", processors: [{ type: "ByteLevel" }, template] };
  assert.equal(parseTokenizerJson(JSON.stringify(json)).first, "<bos>");
  json.post_processor = { ...template, single: [...single, single[0]] };
  assert.throws(() => parseTokenizerJson(JSON.stringify(json)), MicrogptError);
});
