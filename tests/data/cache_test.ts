/** The cache of prepared data counts and removes what is its own. */
import assert from "node:assert/strict";
import { cacheUsage, trimCache } from "../../data/tokens/cache.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";

Deno.test("trimming a cache removes prepared data, and nothing that somebody else put there", () =>
  withDirectory(async (cache) => {
    const corpus = `${cache}/${"0123456789abcdef".repeat(2)}`;
    const prepared = ["tokens-0123456789abcdef", "hashes-42", "tokenizer-0123456789abcdef", "hashes-7.part"];
    for (const dir of [corpus, `${cache}/my-thesis/figures`]) await Deno.mkdir(dir, { recursive: true });
    for (const name of prepared) await Deno.writeTextFile(`${corpus}/${name}`, "x".repeat(100));
    const own = [`${cache}/notes.txt`, `${cache}/my-thesis/figures/one.png`, `${corpus}/tokens-of-mine`];
    for (const path of own) await Deno.writeTextFile(path, "mine");
    assert.deepEqual(await cacheUsage(cache), { corpora: 1, files: 4, bytes: 400 });
    await trimCache(cache, 400, "");
    assert.deepEqual(await cacheUsage(cache), { corpora: 1, files: 4, bytes: 400 });
    await trimCache(cache, 0, "");
    assert.deepEqual(await cacheUsage(cache), { corpora: 1, files: 0, bytes: 0 });
    for (const path of own) assert.equal(await Deno.readTextFile(path), "mine");
    await Deno.remove(`${corpus}/tokens-of-mine`);
    await trimCache(cache, -1, "");
    assert.deepEqual([...Deno.readDirSync(cache)].map(({ name }) => name).sort(), ["my-thesis", "notes.txt"]);
  }));
