import assert from "node:assert/strict";
import { bytesOfTokens, targetBytes } from "../../data/bits_per_byte.ts";
import { batchesInOrder, countedTargets } from "../../data/batches.ts";
import { encodeChat, encodeText, fitDocuments, type TokenDocuments } from "../../data/documents.ts";
import { byteTokenizer } from "./byte_tokenizer.ts";

const TEXT = byteTokenizer(["<bos>"]);
const CHAT = byteTokenizer(["<bos>", "<user>", "<assistant>", "<end_turn>"]);
const lists = ({ ids, offsets }: TokenDocuments) =>
  Array.from({ length: offsets.length - 1 }, (_, d) => [...ids.subarray(offsets[d], offsets[d + 1])]);

Deno.test("documents: text stands between two <bos>", () => {
  assert.deepEqual(lists(encodeText(["ab", "é"], TEXT)), [[0, 98, 99, 0], [0, 0xc3 + 1, 0xa9 + 1, 0]]);
});

Deno.test("documents: special-token text stays text", () => {
  const [document] = lists(encodeText(["<bos>"], TEXT));
  assert.equal(document!.length, 7);
  assert.equal(document!.slice(1, -1).filter((id) => id === 0).length, 0);
});

Deno.test("documents: a conversation marks each turn's role and end", () => {
  const conversations = [
    [{ role: "user" as const, content: "a" }, { role: "assistant" as const, content: "bc" }],
    [{ role: "assistant" as const, content: "" }],
  ];
  assert.deepEqual(lists(encodeChat(conversations, CHAT)), [
    [0, 1, 97 + 4, 3, 2, 98 + 4, 99 + 4, 3, 0],
    [0, 2, 3, 0],
  ]);
});

Deno.test("documents: chat needs a tokenizer with chat tokens", () => {
  assert.throws(() => encodeChat([[{ role: "user", content: "a" }]], TEXT), {
    name: "MicrogptError",
    message: "the tokenizer has no <end_turn> token",
  });
});

Deno.test("documents: with answers only, what the assistant says and the end of its turn count", () => {
  const turn = (role: "user" | "assistant", content: string) => ({ role, content });
  const conversations = [[
    turn("user", "a"),
    turn("assistant", "bc"),
    turn("user", "d"),
    turn("assistant", ""),
  ]];
  const { counted } = encodeChat(conversations, CHAT, true);
  // <bos> <user> a <end_turn> <assistant> b c <end_turn> <user> d <end_turn> <assistant> <end_turn> <bos>
  assert.deepEqual([...counted!], [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0]);
  assert.equal(encodeChat(conversations, CHAT).counted, undefined);
});

Deno.test("documents: a conversation that is cut off before its answer is left out, and that is said", () => {
  const turn = (role: "user" | "assistant", content: string) => ({ role, content });
  const long = [turn("user", "abcdefgh"), turn("assistant", "i")];
  const short = [turn("user", "a"), turn("assistant", "bcdefghi")];
  const fitted = fitDocuments(encodeChat([long, short], CHAT, true), 6, false, "chat");
  assert.deepEqual([...fitted.numbers], [1]);
  assert.deepEqual([...fitted.counted!], [0, 0, 0, 0, 0, 1, 1]);
  assert.deepEqual(fitted.notices.slice(0, 2), [
    "warning: 2 / 2 docs are longer than block_size (6) and will be truncated",
    "1 conversations are left out: they have no answer within block_size (6)",
  ]);
  const [batch] = batchesInOrder(fitted, Uint32Array.of(0), 100, 10);
  assert.deepEqual([...batch!.weights!], [0, 0, 0, 0, 1, 1]);
  assert.equal(countedTargets(batch!), 2);
  // of the answer, "b" and "c" are left
  assert.equal(targetBytes(batch!, bytesOfTokens(CHAT)), 2);
  assert.throws(() => fitDocuments(encodeChat([long], CHAT, true), 6, false, "chat"), {
    name: "MicrogptError",
    message: "none of the 1 conversations has an answer within block_size (6), nothing is left to train on",
  });
});

Deno.test("documents: block_size + 1 ids fit, one more does not", () => {
  const documents = encodeText(["abcd", "abcde", "a"], TEXT); // 6, 7 and 3 ids
  const whole = fitDocuments(documents, 6, false, "text");
  assert.deepEqual(whole.notices, []);
  assert.deepEqual([...whole.numbers], [0, 1, 2]);
  const truncated = fitDocuments(documents, 5, false, "text");
  assert.deepEqual(truncated.notices, [
    "warning: 1 / 3 docs are longer than block_size (5) and will be truncated",
  ]);
  assert.deepEqual(lists(truncated), [
    [0, 98, 99, 100, 101, 0],
    [0, 98, 99, 100, 101, 102],
    [0, 98, 0],
  ]);
});

Deno.test("documents: skipLong drops them, and says so", () => {
  const documents = encodeText(["abcde", "a", "abcdef", "bc", "ab"], TEXT);
  const text = fitDocuments(documents, 4, true, "text");
  assert.equal(text.notices[0], "`skipLong`: dropped 2 documents exceeding block_size (4)");
  assert.deepEqual(lists(text), [[0, 98, 0], [0, 99, 100, 0], [0, 98, 99, 0]]);
  assert.deepEqual([...text.numbers], [1, 3, 4]);
  assert.equal(
    fitDocuments(documents, 4, true, "chat").notices[0],
    "`skipLong`: dropped 2 conversations exceeding block_size (4)",
  );
});

Deno.test("documents: when most of the data is cut off or dropped, it is said in numbers", () => {
  const documents = encodeText(["x".repeat(9_998), "a"], TEXT); // 10,000 and 3 ids
  const left = (skipLong: boolean) => fitDocuments(documents, 4, skipLong, "text").notices[1];
  const hint = "raise `blockSize`, or split long documents";
  assert.equal(
    left(false),
    `warning: 99.9 % of the data is not trained on, 8 of 10003 tokens are left: ${hint}`,
  );
  assert.equal(
    left(true),
    `warning: 99.9 % of the data is not trained on, 3 of 10003 tokens are left: ${hint}`,
  );
});

Deno.test("documents: skipLong that leaves none is an error", () => {
  assert.throws(() => fitDocuments(encodeText(["abc", "abcd"], TEXT), 2, true, "text"), {
    name: "MicrogptError",
    message: "`skipLong`: all 2 documents exceed block_size (2), nothing is left to train on",
    hint: /`blockSize`/u,
  });
});

Deno.test("bits per byte: the bytes of the text, and one for the end of a document", () => {
  const all = (documents: TokenDocuments) => {
    const indices = Uint32Array.from({ length: documents.offsets.length - 1 }, (_, d) => d);
    return [...batchesInOrder(documents, indices, 1000, 100)];
  };
  const text = all(encodeText(["añb", "👋"], TEXT));
  assert.equal(targetBytes(text[0]!, bytesOfTokens(TEXT)), 4 + 1 + 4 + 1);
  const chat = encodeChat(
    [[{ role: "user", content: "hi" }, { role: "assistant", content: "<bos>" }]],
    CHAT,
  );
  assert.equal(targetBytes(all(chat)[0]!, bytesOfTokens(CHAT)), 2 + 5 + 1);
  // Of a truncated document what is left counts, and no end.
  const cut = all(fitDocuments(encodeText(["abcdef"], TEXT), 3, false, "text"));
  assert.equal(targetBytes(cut[0]!, bytesOfTokens(TEXT)), 3);
});
