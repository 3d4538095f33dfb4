import assert from "node:assert/strict";
import { bytesOfTokens, targetBytes } from "../../data/bits_per_byte.ts";
import { batchesInOrder, countedTargets } from "../../data/batches.ts";
import { encodeChat, encodeText, MARKS, type TokenDocuments } from "../../data/documents.ts";
import { LengthCounts } from "../../data/lengths.ts";
import { fitDocuments, type LongDocuments, piecesOf } from "../../data/tokens/pieces.ts";
import { storeInMemory } from "../../data/tokens/token_store.ts";
import { idsOf, pieces, storeOf } from "./token_pieces.ts";
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

Deno.test("documents: it is known what the assistant says, and where messages begin", () => {
  const conversations = [[
    turn("user", "a"),
    turn("assistant", "bc"),
    turn("user", "d"),
    turn("assistant", ""),
  ]];
  const documents = encodeChat(conversations, CHAT);
  const having = (mark: number) => [...documents.marks!].map((marks) => marks & mark ? 1 : 0);
  // <bos> <user> a <end_turn> <assistant> b c <end_turn> <user> d <end_turn> <assistant> <end_turn> <bos>
  const answers = [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0];
  assert.deepEqual(having(MARKS.answer), answers);
  assert.deepEqual(having(MARKS.message), [0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0]);
  assert.deepEqual(having(MARKS.question), [0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
  const store = storeOf(encodeChat([...conversations, ...conversations], CHAT));
  for (const from of [0, 3, 13]) {
    const into = new Uint8Array(14 - from);
    store.readAnswers(1, from, into);
    assert.deepEqual([...into], answers.slice(from));
  }
  assert.equal(encodeText(["a"], TEXT).marks, undefined);
});

Deno.test("documents: a conversation that is cut off before its answer is left out, and that is said", () => {
  const long = [turn("user", "abcdefgh"), turn("assistant", "i")];
  const short = [turn("user", "a"), turn("assistant", "bcdefghi")];
  const store = storeOf(encodeChat([long, short], CHAT));
  const fitted = fitDocuments(store, countsOf([13, 13]), 6, "truncate", true, "chat");
  assert.deepEqual([...fitted.kept!], [1]);
  assert.deepEqual(fitted.notices.slice(0, 2), [
    "warning: 2 / 2 docs are longer than block_size (6) and will be truncated",
    "1 conversations are left out: they have no answer within block_size (6)",
  ]);
  const [batch] = batchesInOrder(piecesOf(store, fitted.kept!, 6, "truncate", true), 100, 10);
  assert.deepEqual([...batch!.weights!], [0, 0, 0, 0, 1, 1]);
  assert.equal(countedTargets(batch!), 2);
  // of the answer, "b" and "c" are left
  assert.equal(targetBytes(batch!, bytesOfTokens(CHAT)), 2);
  const none = storeOf(encodeChat([long], CHAT));
  assert.throws(() => fitDocuments(none, countsOf([13]), 6, "truncate", true, "chat"), {
    name: "MicrogptError",
    message: "none of the 1 conversations has an answer within block_size (6), nothing is left to train on",
  });
});

Deno.test("documents: of a split conversation the pieces with an answer are left, and every answer counts once", () => {
  // 0 <bos>, 1 <user>, 2-9 text, 10 <end>, 11 <assistant>, 12-17 text, 18 <end>, 19 <user>, 20 text, 21 <end>,
  // 22 <assistant>, 23 text, 24 <end>, 25 <bos>
  const long = [
    turn("user", "abcdefgh"),
    turn("assistant", "ijklmn"),
    turn("user", "o"),
    turn("assistant", "p"),
  ];
  const short = [turn("user", "a"), turn("assistant", "b")];
  const store = storeOf(encodeChat([long, short], CHAT));
  for (const blockSize of [3, 5, 8, 12, 30]) {
    const all = piecesOf(store, Uint32Array.of(0, 1), blockSize, "split");
    const answered = piecesOf(store, Uint32Array.of(0, 1), blockSize, "split", true);
    const counts: number[] = [];
    let targets = 0;
    for (let piece = 0; piece < answered.count; piece++) {
      const counted = answered.counted(piece)!;
      counts.push(counted.subarray(1).reduce((sum, one) => sum + one, 0));
      targets += counts.at(-1)!;
      assert(answered.inputs(piece) <= blockSize);
    }
    // six letters and their end, a letter and its end; and of the short one a letter and its end
    assert.equal(targets, 7 + 2 + 2, `block ${blockSize}`);
    assert(counts.every((count) => count > 0), `block ${blockSize}: ${counts}`);
    const silent = Array.from({ length: all.count }, (_, piece) => idsOf(all)[piece]!.join())
      .filter((ids) => !idsOf(answered).some((other) => other.join() === ids));
    assert.equal(all.count - answered.count, silent.length);
  }
});

function turn(role: "user" | "assistant", content: string) {
  return { role, content };
}

function countsOf(lengths: number[]): LengthCounts {
  const counts = new LengthCounts();
  counts.add(lengths);
  return counts;
}

/** What is said about documents of these lengths in ids. */
function notices(lengths: number[], blockSize: number, long: LongDocuments, mode: "text" | "chat" = "text") {
  const offsets = new Uint32Array(lengths.length + 1);
  lengths.forEach((length, d) => offsets[d + 1] = offsets[d]! + length);
  const store = storeInMemory([{ offsets, spans: new Uint32Array(), ids: new Uint32Array() }]);
  return fitDocuments(store, countsOf(lengths), blockSize, long, false, mode).notices;
}

Deno.test("pieces: block_size + 1 ids fit, one more does not", () => {
  const documents = encodeText(["abcd", "abcde", "a"], TEXT); // 6, 7 and 3 ids
  assert.deepEqual(notices([6, 7, 3], 6, "truncate"), []);
  assert.deepEqual(idsOf(pieces(documents, undefined, 6)), lists(documents));
  assert.deepEqual(notices([6, 7, 3], 5, "truncate"), [
    "warning: 1 / 3 docs are longer than block_size (5) and will be truncated",
  ]);
  assert.deepEqual(idsOf(pieces(documents, undefined, 5)), [
    [0, 98, 99, 100, 101, 0],
    [0, 98, 99, 100, 101, 102],
    [0, 98, 0],
  ]);
});

Deno.test("pieces: skip drops long documents, and says so", () => {
  const lengths = [7, 3, 8, 4, 4];
  assert.equal(
    notices(lengths, 4, "skip")[0],
    "`skipLong`: dropped 2 documents exceeding block_size (4)",
  );
  assert.equal(
    notices(lengths, 4, "skip", "chat")[0],
    "`skipLong`: dropped 2 conversations exceeding block_size (4)",
  );
});

Deno.test("pieces: when most of the data is cut off or dropped, it is said in numbers", () => {
  const left = (long: LongDocuments) => notices([10_000, 3], 4, long)[1];
  const hint = "raise `blockSize`, or use `long` split";
  assert.equal(
    left("truncate"),
    `warning: 99.9 % of the data is not trained on, 8 of 10003 tokens are left: ${hint}`,
  );
  assert.equal(
    left("skip"),
    `warning: 99.9 % of the data is not trained on, 3 of 10003 tokens are left: ${hint}`,
  );
});

Deno.test("pieces: skip that leaves none is an error", () => {
  assert.throws(() => notices([5, 6], 2, "skip"), {
    name: "MicrogptError",
    message: "`skipLong`: all 2 documents exceed block_size (2), nothing is left to train on",
    hint: /`blockSize`/u,
  });
});

Deno.test("bits per byte: the bytes of the text, and one for the end of a document", () => {
  const all = (documents: TokenDocuments, blockSize?: number) => [
    ...batchesInOrder(pieces(documents, undefined, blockSize), 1000, 100),
  ];
  const text = all(encodeText(["añb", "👋"], TEXT));
  assert.equal(targetBytes(text[0]!, bytesOfTokens(TEXT)), 4 + 1 + 4 + 1);
  const chat = encodeChat(
    [[{ role: "user", content: "hi" }, { role: "assistant", content: "<bos>" }]],
    CHAT,
  );
  assert.equal(targetBytes(all(chat)[0]!, bytesOfTokens(CHAT)), 2 + 5 + 1);
  // Of a truncated document what is left counts, and no end.
  const cut = all(encodeText(["abcdef"], TEXT), 3);
  assert.equal(targetBytes(cut[0]!, bytesOfTokens(TEXT)), 3);
});

Deno.test("split: a text is cut into windows, and each of its tokens is the target of one", () => {
  const documents = encodeText(["abcdefgh", "ij"], TEXT);
  const [first, second] = lists(documents);
  const all = idsOf(pieces(documents, undefined, 4, "split"));
  assert.deepEqual(all, [first!.slice(0, 5), first!.slice(4, 9), first!.slice(8), second!]);
});

Deno.test("split: a conversation is cut where a question begins, else where an answer does, else anywhere", () => {
  const long = [
    turn("user", "a"),
    turn("assistant", "b"),
    turn("user", "c"),
    turn("assistant", "d".repeat(9)),
    turn("user", "e"),
    turn("assistant", "f"),
  ];
  const documents = encodeChat([long], CHAT);
  const [ids] = lists(documents);
  const begins = [...documents.marks!].flatMap((marks, i) => marks & MARKS.message ? [i] : []);
  const all = idsOf(pieces(documents, undefined, 9, "split"));
  const targets = all.flatMap((piece) => piece.slice(1));
  assert.deepEqual(targets, ids!.slice(1));
  assert(all.every((piece) => piece.length <= 10));
  // the first piece ends where the second question begins, and what follows begins with it
  assert.deepEqual(all[0], ids!.slice(0, begins[2]! + 1));
  assert.equal(all[1]![0], ids![begins[2]!]);
});
