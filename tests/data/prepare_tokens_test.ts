/** Tokens of a corpus in files are those in memory; what was made is found again, and what is damaged is made anew. */
import assert from "node:assert/strict";
import { corpusOf, openCorpus } from "../../data/corpus.ts";
import { ownEncoder } from "../../data/documents.ts";
import {
  type PreparationOptions,
  type PreparedTokens,
  prepareTokens,
} from "../../data/tokens/prepare_tokens.ts";
import { openTokenizer, openWordCounter } from "../../model/devices.ts";

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

function options(cacheDir: string | undefined, more: Partial<PreparationOptions> = {}): PreparationOptions {
  return {
    encoderOf: ownEncoder,
    answersOnly: false,
    newTokenizer: {
      key: "300",
      sample: 0,
      openCounter: () => openWordCounter({ vocabSize: 300, chat: false }),
      load: (json) => openTokenizer(json),
    },
    seed: 42,
    cacheDir,
    cacheBytes: 1e9,
    memoryCharacters: 1000,
    ...more,
  };
}

/** Everything that training sees. */
function seen({ store, hashes, tokenizer, report }: PreparedTokens) {
  const documents = [...store.lengths].map((length, d) => {
    const ids = new Uint32Array(length);
    store.read(d, 0, ids);
    return ids.join(" ");
  });
  store.close();
  const { documents: count, distinct } = hashes;
  return {
    documents,
    count,
    distinct,
    all: [...hashes.all()],
    json: tokenizer.toJSON(),
    sha256: report.sha256,
  };
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
      await prepareTokens(await openCorpus({ input }), options(undefined, { memoryCharacters: 1e9 })),
    );
    assert.equal(memory.documents.length, 3000);
    assert.deepEqual(seen(await prepareTokens(await openCorpus({ input }), options(cache))), memory);
    const untouched = await openCorpus({ input });
    untouched.blocks = () => assert.fail("the data was read again");
    assert.deepEqual(seen(await prepareTokens(untouched, options(cache))), memory);
    // another process at the same time, and texts that can be read only once
    const both = await Promise.all(
      [1, 2].map(async () => await prepareTokens(await openCorpus({ input }), options(`${dir}/two`))),
    );
    for (const one of both) assert.deepEqual(seen(one), memory);
    const once = seen(await prepareTokens(corpusOf("text", LINES.values()), options(cache)));
    assert.deepEqual([once.documents, once.json], [memory.documents, memory.json]);
  });
});

Deno.test("prepared data that was cut or changed is made anew, and that is said", async () => {
  await inDirectory(async (dir) => {
    const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`];
    await Deno.writeTextFile(input, LINES.join("\n"));
    const good = seen(await prepareTokens(await openCorpus({ input }), options(cache)));
    for (const kind of ["tokens", "hashes", "tokenizer"]) {
      const bytes = await Deno.readFile(cached(cache, kind));
      const changed = bytes.slice();
      changed[bytes.length >> 1]! ^= 1;
      for (const bad of [bytes.slice(0, -9), changed, new Uint8Array()]) {
        await Deno.writeFile(cached(cache, kind), bad);
        const prepared = await prepareTokens(await openCorpus({ input }), options(cache));
        if (kind !== "hashes" || bad !== changed) {
          assert.match(
            prepared.notices.join(),
            /^warning: prepared data in .* is not used, it is .*made anew$|its /,
          );
        }
        if (kind === "hashes" && bad === changed) {
          prepared.store.close();
          assert.throws(() => prepared.hashes.all(), { message: /is damaged: remove it$/ });
          await Deno.remove(cached(cache, kind));
          assert.deepEqual(seen(await prepareTokens(await openCorpus({ input }), options(cache))), good);
        } else assert.deepEqual(seen(prepared), good);
      }
    }
  });
});

Deno.test("what a preparation that was stopped has left does no harm", async () => {
  await inDirectory(async (dir) => {
    const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`];
    await Deno.writeTextFile(input, LINES.join("\n"));
    const good = seen(await prepareTokens(await openCorpus({ input }), options(cache)));
    const path = cached(cache, "tokens");
    const bytes = await Deno.readFile(path);
    for (const part of [bytes.slice(0, -50), bytes.slice(0, 5000), new Uint8Array(400).fill(7)]) {
      await Deno.remove(path);
      await Deno.writeFile(`${path}.part`, part);
      assert.deepEqual(seen(await prepareTokens(await openCorpus({ input }), options(cache))), good);
    }
  });
});
