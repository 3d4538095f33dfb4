/** Tokens of a corpus in files are those in memory; what was made is found again, and what is damaged is made anew. */
import assert from "node:assert/strict";
import { corpusOf, openCorpus } from "../../data/corpus.ts";
import { ownEncoder } from "../../data/documents.ts";
import { countOf } from "../../data/packed_texts.ts";
import {
  type PreparationOptions,
  type PreparedTokens,
  prepareTokens,
} from "../../data/tokens/prepare_tokens.ts";
import { smallPreparation } from "./small_preparation.ts";

const LINES = Array.from(
  { length: 3000 },
  (_, i) => `line ${i % 2500} says ${"word ".repeat(i % 9)}${i * i}`,
);

async function inDirectory(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    await use(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Everything that training sees. */
function seen({ store, hashes, tokenizer, report }: PreparedTokens) {
  const documents = Array.from({ length: store.documents }, (_, d) => {
    const ids = new Uint32Array(store.length(d));
    store.read(d, 0, ids);
    return ids.join(" ");
  });
  const { documents: count, distinct } = hashes;
  const found = {
    documents,
    count,
    distinct,
    all: [...hashes.all()],
    json: tokenizer.toJSON(),
    sha256: report.sha256,
  };
  store.close();
  return found;
}

/** The one file of a kind in the cache. */
function cached(cache: string, kind: string): string {
  const [entry] = [...Deno.readDirSync(cache)];
  const names = [...Deno.readDirSync(`${cache}/${entry!.name}`)].map(({ name }) => name);
  const found = names.filter((name) => name.startsWith(kind));
  assert.equal(found.length, 1, names.join(" "));
  return `${cache}/${entry!.name}/${found[0]}`;
}

Deno.test("tokens in a file are those in memory, and a second run reads no data", async () => {
  await inDirectory(async (dir) => {
    const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`];
    await Deno.writeTextFile(input, LINES.join("\n"));
    const memory = seen(
      await prepareTokens(
        await openCorpus({ input }),
        smallPreparation(undefined, { memoryCharacters: 1e9 }),
      ),
    );
    assert.equal(memory.documents.length, 3000);
    assert.deepEqual(seen(await prepareTokens(await openCorpus({ input }), smallPreparation(cache))), memory);
    const untouched = await openCorpus({ input });
    untouched.blocks = untouched.textBlocks = () => assert.fail("the data was read again");
    assert.deepEqual(seen(await prepareTokens(untouched, smallPreparation(cache))), memory);
    // another process at the same time, and texts that can be read only once
    const both = await Promise.all(
      [1, 2].map(async () =>
        await prepareTokens(await openCorpus({ input }), smallPreparation(`${dir}/two`))
      ),
    );
    for (const one of both) assert.deepEqual(seen(one), memory);
    const once = seen(await prepareTokens(corpusOf("text", LINES.values()), smallPreparation(cache)));
    assert.deepEqual([once.documents, once.json], [memory.documents, memory.json]);
  });
});

Deno.test("a block that cannot be encoded is the caller's error, however long the next one takes to come", async () => {
  await inDirectory(async (dir) => {
    const input = `${dir}/a.txt`;
    await Deno.writeTextFile(input, LINES.join("\n"));
    const corpus = await openCorpus({ input });
    const textBlocks = corpus.textBlocks.bind(corpus);
    corpus.textBlocks = async function* (...args) {
      for await (const block of textBlocks(...args)) {
        yield block;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    const encoderOf: PreparationOptions["encoderOf"] = (tokenizer) => ({
      ...ownEncoder(tokenizer),
      texts: () => Promise.reject(new Error("refused")),
    });
    await assert.rejects(prepareTokens(corpus, smallPreparation(`${dir}/cache`, { encoderOf })), {
      message: "refused",
    });
  });
});

Deno.test("prepared data that was cut or changed is made anew, and that is said", async () => {
  await inDirectory(async (dir) => {
    const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`];
    await Deno.writeTextFile(input, LINES.join("\n"));
    const good = seen(await prepareTokens(await openCorpus({ input }), smallPreparation(cache)));
    for (const kind of ["tokens", "hashes", "tokenizer"]) {
      const bytes = await Deno.readFile(cached(cache, kind));
      const changed = bytes.slice();
      changed[bytes.length >> 1]! ^= 1;
      for (const bad of [bytes.slice(0, -9), changed, new Uint8Array()]) {
        await Deno.writeFile(cached(cache, kind), bad);
        const prepared = await prepareTokens(await openCorpus({ input }), smallPreparation(cache));
        if (kind !== "hashes" || bad !== changed) {
          assert.match(
            prepared.notices.join(),
            /^warning: prepared data in .* is not used, it is .*made anew$|its /,
          );
        }
        if (kind === "hashes" && bad === changed) {
          assert.throws(() => prepared.hashes.all(), { message: /is damaged: remove it$/ });
          prepared.store.close();
          await Deno.remove(cached(cache, kind));
          assert.deepEqual(
            seen(await prepareTokens(await openCorpus({ input }), smallPreparation(cache))),
            good,
          );
        } else assert.deepEqual(seen(prepared), good);
      }
    }
  });
});

Deno.test("a preparation of data that comes but once ends when it is told to", async () => {
  const stop = new AbortController();
  let given = 0;
  const documents = (async function* () {
    for (const line of LINES) {
      if (given++ === LINES.length / 2) stop.abort(new Error("stopped"));
      yield line;
    }
  })();
  await assert.rejects(
    prepareTokens(corpusOf("text", documents), smallPreparation(undefined, { signal: stop.signal })),
    { message: "stopped" },
  );
  assert(given < LINES.length, `all of ${given} documents were read`);
});

Deno.test("a preparation that was stopped goes on behind the blocks that are whole", async () => {
  await inDirectory(async (dir) => {
    const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`];
    await Deno.writeTextFile(input, LINES.join("\n"));
    const { tokenizer, ...good } = await prepareTokens(
      await openCorpus({ input }),
      smallPreparation(`${dir}/whole`),
    );
    const expected = seen({ tokenizer, ...good });
    const whole = await Deno.readFile(cached(`${dir}/whole`, "tokens"));
    /** Prepares, and counts what is encoded. */
    const prepare = async (signal?: AbortSignal, seenBlock?: (blocks: number) => void) => {
      let encoded = 0;
      const encoderOf: PreparationOptions["encoderOf"] = (tokenizer) => {
        const own = ownEncoder(tokenizer);
        return {
          ...own,
          texts: async (texts) => {
            encoded += countOf(texts);
            const tokens = await own.texts(texts);
            seenBlock?.(encoded);
            return tokens;
          },
        };
      };
      const more = { encoderOf, tokenizer, ...(signal ? { signal } : {}) };
      const prepared = await prepareTokens(await openCorpus({ input }), smallPreparation(cache, more));
      return { encoded, prepared };
    };
    const stop = new AbortController();
    await assert.rejects(
      prepare(stop.signal, (encoded) => encoded > 1000 && stop.abort(new Error("stopped"))),
      { message: "stopped" },
    );
    const part = cached(cache, "tokens");
    assert.match(part, /\.part$/);
    const left = await Deno.readFile(part);
    const finished = part.slice(0, -5);
    let { encoded, prepared } = await prepare();
    assert(encoded > 0 && encoded < 2100, `${encoded} of 3000 documents were encoded again`);
    assert.deepEqual(seen(prepared), expected);
    assert.deepEqual(await Deno.readFile(finished), whole);
    // what is cut within a block, changed, or something else
    const changed = left.slice();
    changed[left.length >> 1]! ^= 1;
    for (const bad of [left.slice(0, -50), changed, left.slice(0, 17), new Uint8Array(400).fill(7)]) {
      await Deno.remove(finished);
      await Deno.writeFile(part, bad);
      ({ encoded, prepared } = await prepare());
      assert(encoded > 0);
      assert.deepEqual(seen(prepared), expected);
      assert.deepEqual(await Deno.readFile(finished), whole);
    }
    // other data, of which the first blocks are the same
    await Deno.remove(finished);
    await Deno.writeFile(part, left);
    await Deno.writeTextFile(input, [...LINES.slice(0, 500), "new", ...LINES.slice(500)].join("\n"));
    const fresh = await prepareTokens(
      await openCorpus({ input }),
      smallPreparation(undefined, { tokenizer }),
    );
    assert.deepEqual(seen((await prepare()).prepared), seen(fresh));
  });
});
