import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { HfTokenizer } from "../../data/hf_tokenizer.ts";
import { SPECIAL_TOKENS, StreamDecoder, type Tokenizer } from "../../data/tokenizer.ts";
import { MicrogptError } from "../../device/errors.ts";
import { NativeTokenizer } from "../../native/tokenizer.ts";

const NAMES = Deno.readTextFileSync(new URL("../../data/samples/names.txt", import.meta.url)).trim().split(
  "\n",
);

/** Text of every awkward kind. */
const AWKWARD = [
  "",
  " ",
  "<bos>",
  "a <bos><user> b<end_turn>",
  "Hello, world! It's 2024; they'll say \"naïve café\".",
  "line\r\nline\r\n\r\n  indented\ttabbed \n\n\n x",
  "👩‍👩‍👧‍👦 flag 🇩🇪 skin 👍🏽",
  "日本語のテキスト, 한국어, العربية, עברית, हिन्दी",
  "\u0000\u0001\u001f\u007f\u0080\u0085\u009f\u00a0\u00ad\ufeff\u200b\u2028\u2029\uffff",
  "x\u0085y\ufeffz \ufeff \u0085 end",
  "e\u0301 ﬁ Ⅷ ½ ²",
  "=".repeat(300) + " ".repeat(300) + "x",
];

/** Repeatable random numbers below n. */
function random(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * n);
  };
}

function randomTexts(): string[] {
  const next = random(1);
  const anyByte = () => String.fromCharCode(next(256));
  const anyCodePoint = () => String.fromCodePoint(next(4) ? next(0x3000) : next(0x110000));
  const build = (one: () => string) => Array.from({ length: next(60) }, one).join("");
  return Array.from({ length: 400 }, (_, i) => build(i % 2 ? anyByte : anyCodePoint));
}

const DOCUMENTS = [...AWKWARD, ...randomTexts(), ...NAMES.slice(0, 3000)];

Deno.test("any text comes back, whatever the tokenizer was trained on", () => {
  for (const corpus of [["only ascii here"], DOCUMENTS]) {
    using tokenizer = NativeTokenizer.train(corpus, { vocabSize: 600 });
    const { ids, offsets } = tokenizer.encode(DOCUMENTS);
    assert.equal(offsets.length, DOCUMENTS.length + 1);
    assert.equal(offsets[DOCUMENTS.length], ids.length);
    DOCUMENTS.forEach((document, d) => {
      const own = ids.subarray(offsets[d], offsets[d + 1]);
      assert.equal(tokenizer.decode(own), document.toWellFormed());
    });
  }
});

Deno.test("special tokens come first and never of text", () => {
  using text = NativeTokenizer.train(DOCUMENTS, { vocabSize: 300 });
  assert.equal(text.id(SPECIAL_TOKENS.bos), 0);
  assert.equal(text.id(SPECIAL_TOKENS.user), undefined);
  // A corpus full of the tokens' text must not merge it into the tokens either.
  const corpus = Array<string>(50).fill("<bos><user><assistant><end_turn> <bos>");
  using chat = NativeTokenizer.train(corpus, { vocabSize: 400, chat: true });
  const special = Object.values(SPECIAL_TOKENS);
  assert.deepEqual(special.map((token) => chat.id(token)), [0, 1, 2, 3]);
  for (const token of [...special, corpus[0]!]) {
    const ids = chat.encodeOne(token);
    assert.ok(ids.every((id) => id > 3), `${token} became ${ids}`);
    assert.equal(chat.decode(ids), token);
  }
  assert.deepEqual([...chat.tokenBytes(0)], []);
  assert.equal(chat.decode([0, ...chat.encodeOne("hi"), 3]), "hi");
});

Deno.test("vocabulary sizes", () => {
  for (const [chat, smallest] of [[false, 257], [true, 260]] as const) {
    using tokenizer = NativeTokenizer.train(NAMES, { vocabSize: smallest, chat });
    assert.equal(tokenizer.vocabSize, smallest);
    assert.equal(tokenizer.encodeOne("é🙂").length, 6);
    for (const vocabSize of [smallest - 1, 0, -1, NaN, 300.5, 2 ** 32]) {
      assert.throws(
        () => NativeTokenizer.train(NAMES, { vocabSize, chat }),
        (error) =>
          error instanceof MicrogptError && error.usage && error.message.includes(`at least ${smallest}`),
      );
    }
  }
  using exact = NativeTokenizer.train(NAMES, { vocabSize: 1000 });
  assert.equal(exact.vocabSize, 1000);
  // "ab" has one pair: there is nothing more to merge, however much is asked for.
  using small = NativeTokenizer.train(["ab"], { vocabSize: 2 ** 32 - 1 });
  assert.equal(small.vocabSize, 258);
  using none = NativeTokenizer.train([], { vocabSize: 4096 });
  assert.equal(none.vocabSize, 257);
});

Deno.test("training gives the same bytes in every process and with any number of threads", async () => {
  const train = async (threads: number) => {
    const code = `
      import { NativeTokenizer, setTokenizerThreads } from ${
      JSON.stringify(import.meta.resolve("../../native/tokenizer.ts"))
    };
      setTokenizerThreads(${threads});
      const names = Deno.readTextFileSync(${
      JSON.stringify(fileURLToPath(new URL("../../data/samples/names.txt", import.meta.url)))
    });
      const runs = Array.from({ length: 3000 }, (_, i) => "ab".repeat(i % 7) + "=".repeat(i % 40) + i % 97);
      const tokenizer = NativeTokenizer.train([...names.split("\\n"), ...runs], { vocabSize: 2000 });
      const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(tokenizer.toJSON()));
      console.log(new Uint8Array(hash).toHex(), tokenizer.vocabSize);`;
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args: ["eval", code] })
      .output();
    assert.ok(success, new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout).trim();
  };
  const first = await train(1);
  assert.match(first, /^[0-9a-f]{64} 2000$/);
  for (const threads of [1, 2, 5]) assert.equal(await train(threads), first, `${threads} threads`);
});

Deno.test("a saved tokenizer gives the same ids, and the fallback gives them too", async () => {
  using trained = NativeTokenizer.train(DOCUMENTS, { vocabSize: 900, chat: true });
  using loaded = NativeTokenizer.fromJson(trained.toJSON());
  const fallback = await HfTokenizer.fromJson(trained.toJSON());
  const expected = trained.encode(DOCUMENTS);
  for (const other of [loaded, fallback] as Tokenizer[]) {
    assert.equal(other.toJSON(), trained.toJSON());
    assert.deepEqual(other.encode(DOCUMENTS), expected);
    assert.equal(other.vocabSize, 900);
    for (let id = 0; id < 900; id++) assert.deepEqual(other.tokenBytes(id), trained.tokenBytes(id));
    for (const token of ["<bos>", "<end_turn>", "Ġ", "no such token"]) {
      assert.equal(other.id(token), trained.id(token));
    }
    assert.equal(other.decode(other.encodeOne(AWKWARD[6]!)), AWKWARD[6]);
    assert.throws(() => other.tokenBytes(900), RangeError);
    assert.throws(() => other.decode([-1]), RangeError);
  }
});

Deno.test("the saved file is in HuggingFace's format", () => {
  using trained = NativeTokenizer.train(NAMES, { vocabSize: 500 });
  const file = JSON.parse(trained.toJSON());
  assert.equal(file.version, "1.0");
  assert.deepEqual(file.pre_tokenizer, {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  });
  assert.equal(file.decoder.type, "ByteLevel");
  assert.equal(file.model.type, "BPE");
  assert.deepEqual(
    file.added_tokens.map((token: { id: number; content: string }) => [token.id, token.content]),
    [
      [0, "<bos>"],
    ],
  );
});

Deno.test("a stream holds back incomplete characters", () => {
  using tokenizer = NativeTokenizer.train(["x"], { vocabSize: 257 });
  const stream = new StreamDecoder(tokenizer);
  const pieces = Array.from(tokenizer.encodeOne("a🙂é\ufeff"), (id) => stream.push(id));
  assert.deepEqual(pieces, ["a", "", "", "", "🙂", "", "é", "", "", "\ufeff"]);
  assert.equal(stream.flush(), "");
  for (const id of tokenizer.encodeOne("🙂").subarray(0, 3)) assert.equal(stream.push(id), "");
  assert.equal(stream.flush(), "\ufffd");
  for (const text of AWKWARD) {
    const again = new StreamDecoder(tokenizer);
    assert.equal(
      Array.from(tokenizer.encodeOne(text), (id) => again.push(id)).join("") + again.flush(),
      text,
    );
  }
});

Deno.test("a closed tokenizer still decodes and no longer encodes", () => {
  const tokenizer = NativeTokenizer.train(["abc"], { vocabSize: 257 });
  const ids = tokenizer.encodeOne("abc");
  tokenizer.close();
  tokenizer.close();
  assert.equal(tokenizer.decode(ids), "abc");
  assert.throws(() => tokenizer.encodeOne("abc"), /closed/);
});

/** A tokenizer as the Rust program wrote them: only the bytes it had seen, merges as strings. */
function oldTokenizer() {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{ id: 0, content: "<bos>", single_word: false, normalized: false, special: true }],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null as number | null,
      unk_token: null as string | null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: { "<bos>": 0, a: 1, b: 2, Ġ: 3, ab: 4 } as Record<string, unknown>,
      merges: ["a b"] as unknown[],
    },
  };
}

Deno.test("tokenizers with a smaller alphabet load, and drop the bytes they do not know", async () => {
  const json = JSON.stringify(oldTokenizer());
  using native = NativeTokenizer.fromJson(json);
  for (const tokenizer of [native, await HfTokenizer.fromJson(json)]) {
    assert.deepEqual([...tokenizer.encodeOne("ab axb zé b")], [4, 3, 4, 3, 3, 2]);
    assert.equal(tokenizer.vocabSize, 5);
  }
});

Deno.test("hostile tokenizer.json files are refused by both tokenizers", async () => {
  type File = ReturnType<typeof oldTokenizer> & Record<string, unknown>;
  const changed = (change: (file: File) => unknown) => {
    const file = oldTokenizer() as File;
    change(file);
    return JSON.stringify(file);
  };
  const regex = { type: "Replace", pattern: { Regex: "((a*)*)*b" }, content: "" };
  const cases: [name: string, json: string, expected: RegExp][] = [
    ["empty file", "", /./],
    ["not JSON", '{"model": {', /./],
    ["deep nesting", "[".repeat(200_000), /./],
    ["another shape", "[]", /./],
    ["200 MB", " ".repeat(200 * 2 ** 20), /200 MB, at most 64 MB/],
    ["<bos> is text", changed((f) => f.added_tokens = []), /<bos> is not marked/],
    [
      "id out of range",
      changed((f) => f.model.vocab.ab = 4_000_000_000),
      /id 4000000000, but there are only 5/,
    ],
    ["id taken twice", changed((f) => f.model.vocab.ab = 2), /both have id 2/],
    ["half a character", changed((f) => f.model.vocab["\ud83d"] = 5), /token 5 is half a character/],
    ["negative id", changed((f) => f.model.vocab.ab = -1), /-1/],
    ["id of another type", changed((f) => f.model.vocab.ab = "4"), /4/],
    ["added id disagrees", changed((f) => f.added_tokens[0]!.id = 3), /two ids/],
    ["merge of nothing", changed((f) => f.model.merges = [["", "a"]]), /merge 0 needs the token ""/],
    ["merge into itself", changed((f) => f.model.merges = [["ab", "ab"]]), /merge 0 needs the token "abab"/],
    ["merge into <bos>", changed((f) => (f.model.merges = ["a <bos>"])), /"<bos>", which is special/],
    ["merge of three", changed((f) => f.model.merges = ["a b a"]), /not two tokens/],
    [
      "hostile normalizer",
      changed((f) => (f as { normalizer: unknown }).normalizer = regex),
      /the normalizer has a regular expression that could take for ever/,
    ],
    [
      "hostile splitter",
      changed((f) =>
        (f as { pre_tokenizer: unknown }).pre_tokenizer = {
          ...regex,
          type: "Split",
          behavior: "Isolated",
          invert: false,
        }
      ),
      /the pre_tokenizer has a regular expression that could take for ever/,
    ],
    ["another model", changed((f) => f.model.type = "WordPiece"), /model is WordPiece/],
    ["another decoder", changed((f) => f.decoder.type = "WordPiece"), /decoder is WordPiece/],
    ["another pre-tokenizer", changed((f) => f.pre_tokenizer.type = "Evil"), /pre_tokenizer is Evil/],
    ["random merges", changed((f) => f.model.dropout = 0.5), /dropout/],
  ];
  for (const [name, json, expected] of cases) {
    const refusal = (error: unknown) => {
      assert.ok(error instanceof MicrogptError, `${name}: ${error}`);
      assert.match(error.message, /^tokenizer\.json: /, name);
      assert.match(error.message, expected, name);
      assert.ok(!error.message.includes("\n"), name);
      return true;
    };
    let words: unknown;
    assert.throws(() => NativeTokenizer.fromJson(json), (error) => refusal(words = error));
    await assert.rejects(HfTokenizer.fromJson(json), (error) => {
      assert.equal((error as Error).message, (words as Error).message, name);
      return refusal(error);
    });
  }
});
