/**
 * Writes varied text of any size, one document a line, for bench/prepare.ts. The same arguments give the same bytes.
 *
 *     deno run -A bench/corpus.ts --megabytes 1000 --sample data/samples/names.txt --sample chats.jsonl > corpus.txt
 *
 * Lines follow a Markov chain over the words of the samples: each word is followed by one that follows it there, so that
 * no megabyte repeats another. One word in twenty is drawn from an endless vocabulary by Zipf's law (exponent 1.25), so
 * that new words keep coming, as in real text: about 0.2 million different ones in 200 MB, 4 million in 10 GB.
 */
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    megabytes: { type: "string", default: "200" },
    /** text, or conversations in JSONL */
    sample: { type: "string", multiple: true },
    seed: { type: "string", default: "1" },
  },
});
if (!flags.sample) {
  throw new Error("--sample is needed: text files, or conversations as JSONL");
}
const size = Number(flags.megabytes) * 1e6;

/** One word in so many is an invented one. */
const INVENTED = 20;
/** One line end of the samples in so many ends a document. */
const LINES = 4;
/** Syllables that words are made of. */
const SYLLABLES = 5280;
/** Zipf's exponent of invented words, less one. */
const TAIL = 0.25;

/** Lines of a sample. */
function linesOf(path: string): string[] {
  const lines = Deno.readTextFileSync(path).split("\n").filter((line) => line !== "");
  if (!path.endsWith(".jsonl")) return lines;
  const messages = lines.flatMap((line) => JSON.parse(line) as { content: string }[]);
  return messages.flatMap(({ content }) => content.split("\n"));
}

// the samples as numbers of words; 0 ends a line
const numbers = new Map<string, number>([["\n", 0]]);
const lines: number[] = [0];
for (const line of flags.sample.flatMap(linesOf)) {
  for (const word of line.trim().split(/\s+/u)) {
    if (word === "") continue;
    if (!numbers.has(word)) numbers.set(word, numbers.size);
    lines.push(numbers.get(word)!);
  }
  if (lines.at(-1) !== 0) lines.push(0);
}
lines.push(0); // nothing follows it, so it is never gone on from
const stream = Uint32Array.from(lines);
// where each word occurs
const firsts = new Uint32Array(numbers.size + 1);
for (const word of stream.subarray(0, -1)) firsts[word + 1]!++;
for (let w = 0; w < numbers.size; w++) firsts[w + 1]! += firsts[w]!;
const places = new Uint32Array(stream.length);
const filled = firsts.slice();
stream.subarray(0, -1).forEach((word, at) => places[filled[word]!++] = at);

const encoder = new TextEncoder();
/** Texts end to end, and the start of each. */
function packed(texts: string[]): { bytes: Uint8Array; starts: Uint32Array } {
  const starts = new Uint32Array(texts.length + 1);
  const bytes = encoder.encode(texts.join(""));
  texts.forEach((text, i) => starts[i + 1] = starts[i]! + encoder.encode(text).length);
  return { bytes, starts };
}
const words = packed([...numbers.keys()].map((word) => word.slice(0, 256)));
const onsets = packed(
  "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sc sh sl st t th tr v w z"
    .split(" "),
);
const vowels = packed("a e i o u ai ea ou io ee".split(" "));
const codas = packed([
  "",
  "",
  "",
  "",
  ..."n r s t l m nd rt ck ng st x".split(" "),
]);
const digits = packed([..."0123456789"]);

/** Writes the text. In one function and with few calls, because ten gigabytes are written like this. */
function write(): void {
  const out = new Uint8Array(1 << 20);
  let [used, written, at] = [0, 0, 0];
  let lineEmpty = true;
  // an array, because numbers of 32 bits in a variable are allocated anew each time
  const state = Int32Array.of(Number(flags.seed) | 0 || 1);
  /** Marsaglia's xorshift: a whole number below 2^32. */
  const random = (): number => {
    let x = state[0]!;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    state[0] = x;
    return x >>> 0;
  };
  const put = ({ bytes, starts }: typeof words, number: number): void => {
    const end = starts[number + 1]!;
    for (let i = starts[number]!; i < end; i++) out[used++] = bytes[i]!;
  };
  /** Word number `rank` of the endless vocabulary: up to five syllables, or every ninth a number. */
  const invent = (rank: number): void => {
    if (rank % 9 === 0) {
      for (let rest = rank; rest > 0; rest = Math.floor(rest / 10)) {
        put(digits, rest % 10);
      }
      return;
    }
    for (let rest = rank; rest > 0; rest = Math.floor(rest / SYLLABLES)) {
      const mixed = Math.imul(rest % SYLLABLES + 1, 0x9e3779b1) >>> 0;
      put(onsets, mixed % 33);
      put(vowels, (mixed >>> 8) % 10);
      put(codas, (mixed >>> 16) % 16);
    }
  };
  const flush = () => {
    for (let done = 0; done < used;) {
      done += Deno.stdout.writeSync(out.subarray(done, used));
    }
    written += used;
    used = 0;
  };
  const { bytes: wordBytes, starts: wordStarts } = words;
  while (written + used < size) {
    if (used > out.length - 4096) flush();
    const word = stream[at + 1]!;
    const first = firsts[word]!;
    at = places[first + random() % (firsts[word + 1]! - first)]!;
    if (word === 0) {
      if (lineEmpty || random() % LINES > 0) continue;
      out[used++] = 10;
      lineEmpty = true;
      continue;
    }
    if (!lineEmpty) out[used++] = 32;
    lineEmpty = false;
    if (random() % INVENTED === 0) {
      invent(Math.floor(((random() + 1) / 2 ** 32) ** (-1 / TAIL) % 1e12));
    } else {
      const end = wordStarts[word + 1]!;
      let to = used;
      for (let i = wordStarts[word]!; i < end; i++) out[to++] = wordBytes[i]!;
      used = to;
    }
  }
  out[used++] = 10;
  flush();
}
write();
