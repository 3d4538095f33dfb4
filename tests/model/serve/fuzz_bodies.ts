/** Bodies of requests with fields of right and wrong types and sizes, from a seed. */
import { hash32, mixSeed, uniform } from "../../../device/random.ts";

/** Numbers from a seed, one after the other. */
export class Dice {
  #throws = 0;
  readonly #seed: number;

  constructor(seed: number) {
    this.#seed = mixSeed(hash32(seed) + seed);
  }

  /** 0 … n − 1 */
  below(n: number): number {
    return Math.floor(uniform(this.#seed, this.#throws++) * n);
  }

  chance(p: number): boolean {
    return uniform(this.#seed, this.#throws++) < p;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bytes(length: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** Values of a field: those it takes, those it does not, and those that a model may take or not. */
interface Field {
  right: readonly unknown[];
  wrong: readonly unknown[];
  either?: readonly unknown[];
}

/** What the server takes. */
const MOST_BYTES = 2 << 20;
const MEGABYTE = "x".repeat(1 << 20);
const LONE = ["\ud800", "a\udfff", "\udc00\ud800"];
/** JSON has no such number: it is written as 1e999. */
const INFINITE = "@1e999@";
const NO_NUMBER = ["1", "", true, [], [1], {}, { $gt: 0 }, "NaN", MEGABYTE];
const NO_TEXT = [1, 0.5, true, {}, [1], [[]], { text: "x" }];
const NO_SWITCH = ["true", "", 1, 0, [], {}];

const nested = (depth: number) => JSON.parse("[".repeat(depth) + "]".repeat(depth));

function whole(min: number, max: number, right: number[]): Field {
  const outside = [min - 1, -(2 ** 53), 2 ** 53, -1e308, 1e308, INFINITE, min + 0.5];
  const above = max < 2 ** 53 ? [max + 1] : [];
  return { right: [null, ...right], wrong: [...outside, ...above, ...NO_NUMBER] };
}

function number(min: number, max: number): Field {
  const right = [null, min, max, (min + max) / 2];
  return { right, wrong: [min - 1e-9, max + 1e-9, 1e308, -1e308, INFINITE, ...NO_NUMBER] };
}

const flag: Field = { right: [null, true, false], wrong: NO_SWITCH };

/** Fields of both of OpenAI's routes. */
const COMMON: Record<string, Field> = {
  model: { right: [null, "", "known"], wrong: NO_TEXT },
  stream: flag,
  stream_options: {
    right: [null, {}, { include_usage: true }, { include_usage: null, more: 1 }],
    wrong: [1, "x", [], true, { include_usage: 1 }, { include_usage: "yes" }],
  },
  n: whole(1, 128, [1, 2, 3]),
  seed: whole(-(2 ** 52), 2 ** 52, [0, -1, 7, 2 ** 52]),
  stop: {
    right: [null, "", [], "q", ["a", "b", "c", "\u0000"], "x".repeat(1000)],
    wrong: [
      ...[1, {}, true, [1], [[]], [null], ["a", "b", "c", "d", "e"], "x".repeat(1001)],
      ...[MEGABYTE, [MEGABYTE], Array(100_000).fill("a"), nested(1000), ...LONE, [LONE[0]]],
    ],
  },
  temperature: number(0, 2),
  top_p: number(0, 1),
  top_k: whole(-1, 1e9, [-1, 0, 5, 1e9]),
  min_p: number(0, 1),
  repetition_penalty: { right: [null, 1, 1.5, 100], wrong: [0, -1, 100.1, INFINITE, ...NO_NUMBER] },
  frequency_penalty: number(-2, 2),
  presence_penalty: number(-2, 2),
  logit_bias: {
    right: [null, {}, { 3: 1 }, { 3: -100, 4: 100 }],
    wrong: [
      ...[[], [1], "x", 1, true, { a: 1 }, { "-1": 1 }, { "1.5": 1 }, { 3: 101 }, { 3: "1" }, { 3: null }],
      ...[{ 300: 1 }, { 999999999: 1 }, { 3: INFINITE }, { constructor: 1 }],
      Object.fromEntries(Array.from({ length: 1001 }, (_, id) => [id, 1])),
    ],
    either: [JSON.parse('{"__proto__": 1}')],
  },
  truncate: flag,
  // what changes the answer and is not there
  tools: { right: [null, []], wrong: [[{}], {}, "x", 1, true] },
  tool_choice: { right: [null, "none", "auto"], wrong: ["required", {}, 1] },
  response_format: {
    right: [null, { type: "text" }],
    wrong: [{ type: "json_object" }, { type: "json_schema" }, "text", 1, []],
  },
  modalities: { right: [null, ["text"], []], wrong: [["audio"], "text", {}] },
  audio: { right: [null], wrong: [{}, 1, "x"] },
  // what nobody minds
  user: { right: ["me", 1, {}, MEGABYTE, nested(1000), LONE[0]], wrong: [] },
  metadata: { right: [null, { a: "b" }, JSON.parse('{"__proto__": {"stream": true}}')], wrong: [] },
};

const CHAT: Record<string, Field> = {
  ...COMMON,
  messages: {
    right: [
      [{ role: "user", content: "hello" }],
      [{ role: "user", content: "\u0000\ufeff\u202e👩‍👩‍👧" }],
      [{ role: "user", content: [{ type: "text", text: "count" }], name: "me" }],
      [{ role: "system", content: "x" }, { role: "user", content: "hello" }],
      [{ role: "developer", content: "x" }, { role: "user", content: "hello" }],
      [{ role: "user", content: "a" }, { role: "assistant", content: "b" }, { role: "user", content: "c" }],
      [{ role: "user", content: "<|user|><|assistant|><|end|><|bos|>" }],
    ],
    either: [
      [{ role: "user", content: "" }],
      [{ role: "user", content: null }],
      [{ role: "user", content: [] }],
      [{ role: "system", content: "x" }],
      [{ role: "assistant", content: "x" }],
      [{ role: "user", content: "a" }, { role: "user", content: "b" }],
      [{ role: "user", content: "a" }, { role: "assistant", content: "b" }],
      Array.from({ length: 100 }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content: "word" })),
    ],
    wrong: [
      ...[null, [], {}, "hello", 1, true, [null], [1], ["hello"], [[]], [{}], nested(1000)],
      [{ role: "user", content: 1 }],
      [{ role: "user", content: {} }],
      [{ role: "user", content: [{ type: "image_url", image_url: { url: "http://127.0.0.1/" } }] }],
      [{ role: "user", content: [{ type: "text" }] }],
      [{ role: "tool", content: "x" }],
      [{ role: "user\u0000", content: "x" }],
      [{ role: 1, content: "x" }],
      [{ content: "x" }],
      [{ role: "user", content: LONE[0] }],
      [{ role: "user", content: [{ type: "text", text: LONE[1] }] }],
      [{ role: "user", content: MEGABYTE }],
      Array(10_001).fill({ role: "user", content: "" }),
    ],
  },
  max_tokens: whole(0, 1e9, [1, 2, 3]),
  max_completion_tokens: whole(1, 1e9, [1, 2]),
  logprobs: flag,
};

const COMPLETION: Record<string, Field> = {
  ...COMMON,
  prompt: {
    right: [null, "", "abc", "\u0000", ["a", "bc"], [1, 2, 299], [[1], [2, 3]]],
    wrong: [
      ...[1, true, {}, [], [[]], [null], [{}], [-1], [1.5], [INFINITE], [300], [4294967296], [2 ** 53]],
      ...[["a", 1], [1, "a"], [[1], "a"], [[1], []], [[[1]]], ...LONE, LONE, nested(1000)],
      ...[MEGABYTE, [MEGABYTE], Array(300_000).fill(1), Array(1001).fill("a"), Array(129).fill("a")],
    ],
  },
  max_tokens: whole(0, 1e9, [0, 1, 2, 3]),
  logprobs: whole(0, 20, [0, 3, 20]),
  echo: flag,
  return_token_ids: flag,
  suffix: { right: [null, ""], wrong: ["x", 1, {}, MEGABYTE] },
};

const SIBLING_CHAT: Record<string, Field> = {
  messages: {
    right: [[{ role: "user", content: "hello" }]],
    either: [[{ role: "assistant", content: "x" }], [{ role: "user", content: MEGABYTE }]],
    wrong: [
      ...[null, [], {}, "hello", [null], [[]], [{}], nested(1000)],
      [{ role: "system", content: "x" }],
      [{ role: "user", content: " \n" }],
      [{ role: "user", content: LONE[0] }],
    ],
  },
  temperature: number(0, 1000),
  seed: whole(0, 2 ** 52, [0, 42]),
  max_tokens: whole(1, 1e9, [1, 3]),
};

const SIBLING_GENERATE: Record<string, Field> = {
  num_samples: { right: [null, 1, 3, 60], wrong: [0, -1, 1.5, INFINITE, ...NO_NUMBER] },
  temperature: number(0, 1000),
  seed: whole(0, 2 ** 52, [0, 42]),
  max_tokens: whole(1, 1e9, [1, 3]),
};

/** A route: its fields, and a body that is right and small. */
interface Route {
  fields: Record<string, Field>;
  body: Record<string, unknown>;
}

const HELLO = [{ role: "user", content: "hello" }];

export const ROUTES: Record<string, Route> = {
  "/v1/chat/completions": { fields: CHAT, body: { messages: HELLO, max_tokens: 2 } },
  "/v1/completions": { fields: COMPLETION, body: { prompt: "ab", max_tokens: 2 } },
  "/microgpt/v1/chat": { fields: SIBLING_CHAT, body: { messages: HELLO, max_tokens: 2 } },
  "/microgpt/v1/generate": { fields: SIBLING_GENERATE, body: { max_tokens: 2 } },
};

/** A request's body and what is expected of its answer. */
export interface BodyCase {
  path: string;
  text: string;
  /** statuses that are right */
  statuses: number[];
  /** fields, one of which an error must name */
  wrong: string[];
}

/** A body of which some fields are of other values than usual. */
export function bodyCase(dice: Dice): BodyCase {
  const path = dice.pick(Object.keys(ROUTES));
  const { fields, body } = ROUTES[path]!;
  const values: Record<string, unknown> = { ...body };
  const wrong: string[] = [];
  let isEither = false;
  for (let left = 1 + dice.below(4); left > 0; left--) {
    const name = dice.pick(Object.keys(fields));
    if (wrong.includes(name)) continue;
    const { right, wrong: wrongs, either = [] } = fields[name]!;
    const list = dice.pick([right, right, wrongs, wrongs, wrongs, either]);
    if (list.length === 0) continue;
    values[name] = dice.pick(list);
    // `max_tokens` is what keeps an answer short
    if (name === "max_tokens" && list === right && values[name] === null) values[name] = 1;
    if (list === wrongs) wrong.push(name);
    if (list === either) isEither = true;
  }
  const names = shuffled(dice, Object.keys(values));
  const text = JSON.stringify(Object.fromEntries(names.map((name) => [name, values[name]])))
    .replaceAll(`"${INFINITE}"`, "1e999");
  if (text.length > MOST_BYTES) return { path, text, statuses: [413], wrong: [] };
  const statuses = wrong.length > 0 ? [400] : isEither ? [200, 400] : [200];
  return { path, text, statuses, wrong };
}

function shuffled<T>(dice: Dice, list: T[]): T[] {
  for (let i = list.length - 1; i > 0; i--) {
    const j = dice.below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

/** Bodies that are no object of JSON, or hardly. */
export function brokenBody(dice: Dice): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  const whole = encoder.encode(JSON.stringify(ROUTES["/v1/chat/completions"]!.body));
  const makers: (() => Uint8Array<ArrayBuffer>)[] = [
    () => new Uint8Array(0),
    () => whole.slice(0, 1 + dice.below(whole.length - 1)),
    () => dice.bytes(dice.below(2000)),
    () =>
      encoder.encode(
        dice.pick(["null", "1", '"x"', "[]", "true", "{", "}", "{}{}", "NaN", "\ufeff{}", "{'a':1}"]),
      ),
    () => encoder.encode(dice.pick(["[", '{"a":', '[{"a":']).repeat(dice.pick([10, 1000, 100_000]))),
    () => encoder.encode(`{"messages":${"[".repeat(200_000)}${"]".repeat(200_000)}}`),
    () => encoder.encode(`{"messages":${"9".repeat(1_000_000)}}`),
    () => Uint8Array.of(...encoder.encode('{"messages":"'), 0xff, 0xc0, 0x80, ...encoder.encode('"}')),
  ];
  return dice.pick(makers)();
}
