/** What can go wrong while large data is prepared: one line, and nothing half-written is ever taken for whole. */

import assert from "node:assert/strict";
import { openCorpus } from "../../data/corpus.ts";
import { CacheEntry } from "../../data/tokens/cache.ts";
import { type PreparationOptions, prepareTokens } from "../../data/tokens/prepare_tokens.ts";
import { smallPreparation } from "../data/small_preparation.ts";
import { withFiles } from "../data/corpus_reading.ts";

const LINES = Array.from({ length: 60_000 }, (_, i) => `line ${i} says ${"word ".repeat(i % 9)}${i * i}`);

/** Prepares a file. @returns how many documents it has */
async function prepare(
  input: string,
  cache: string,
  more: Partial<PreparationOptions> = {},
): Promise<number> {
  const { store } = await prepareTokens(await openCorpus({ input }), smallPreparation(cache, more));
  store.close();
  return store.documents;
}

/** Files of the cache that count as whole, by what they are. */
function whole(cache: string): string[] {
  const names: string[] = [];
  for (const { name } of Deno.readDirSync(cache)) {
    for (const entry of Deno.readDirSync(`${cache}/${name}`)) {
      if (!/\.part$|^\.lock$/u.test(entry.name)) names.push(entry.name.replace(/-.*/u, ""));
    }
  }
  return names.sort();
}

Deno.test("attack: a broken line in the middle ends the preparation, and nothing of it counts", async () => {
  const records = LINES.map((text) => JSON.stringify({ text }));
  const broken = records.with(40_000, '{"text": "cut of');
  await withFiles({ "a.jsonl": broken.join("\n") }, async (dir) => {
    const [input, cache] = [`${dir}/a.jsonl`, `${dir}/cache`];
    await assert.rejects(prepare(input, cache), /a\.jsonl line 40001: expected a record, got invalid JSON/u);
    assert.deepEqual(whole(cache), []);
    await Deno.writeTextFile(input, records.join("\n"));
    assert.equal(await prepare(input, cache), LINES.length);
  });
});

Deno.test("attack: data that grows, shrinks or vanishes between its two readings is no data", async () => {
  const text = LINES.join("\n");
  const changes: [RegExp, (path: string) => Promise<void>][] = [
    [/a\.txt has grown while it was read/u, (path) => Deno.writeTextFile(path, "more\n", { append: true })],
    [/a\.txt ended after \d+ of its \d+ bytes/u, (path) => Deno.truncate(path, 100_000)],
    [/cannot read .*a\.txt: no such file/u, (path) => Deno.remove(path)],
  ];
  for (const [message, change] of changes) {
    await withFiles({ "a.txt": text }, async (dir) => {
      const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`];
      const { newTokenizer } = smallPreparation(cache);
      const load = newTokenizer.openCounter;
      // words are counted, then tokens are made
      const openCounter = async () => {
        const counter = await load();
        const train = counter.train.bind(counter);
        counter.train = async () => {
          await change(input);
          return await train();
        };
        return counter;
      };
      await assert.rejects(
        prepare(input, cache, { newTokenizer: { ...newTokenizer, openCounter } }),
        message,
      );
      assert.deepEqual(whole(cache), ["tokenizer"]);
    });
  }
});

/** Runs a command. @returns whether it succeeded */
async function succeeds(command: string, ...args: string[]): Promise<boolean> {
  return (await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()).success;
}

Deno.test("attack: a full disk under the cache is one line, and the next run goes on once there is room", () =>
  withFiles({ "a.txt": LINES.join("\n") }, async (dir) => {
    const [input, cache] = [`${dir}/a.txt`, `${dir}/small`];
    await Deno.mkdir(cache);
    const mount = (...flags: string[]) => succeeds("mount", "-t", "tmpfs", ...flags, "tmpfs", cache);
    const isRoot = Deno.build.os === "linux" && Deno.uid() === 0;
    if (!isRoot || !await mount("-o", "size=1m")) {
      return console.log("skipped: only root on Linux mounts a small disk");
    }
    try {
      const full = { message: /^cannot write prepared data to .*small\/\w+: no space is left on the disk$/u };
      await assert.rejects(prepare(input, cache), full);
      await assert.rejects(prepare(input, cache), full);
      assert(!whole(cache).includes("tokens"), whole(cache).join());
      assert(await succeeds("mount", "-o", "remount,size=64m", cache));
      assert.equal(await prepare(input, cache), LINES.length);
      assert.deepEqual(whole(cache), ["hashes", "tokenizer", "tokens"]);
    } finally {
      assert(await succeeds("umount", cache));
    }
  }));

Deno.test("attack: a cache at its limit gives up what was not used for longest, and nothing that is in use", () =>
  withFiles(
    Object.fromEntries(["a", "b", "c"].map((name) => [`${name}.txt`, LINES.map((l) => name + l).join("\n")])),
    async (dir) => {
      const cache = `${dir}/cache`;
      const dirs = () => [...Deno.readDirSync(cache)].map(({ name }) => name);
      await prepare(`${dir}/a.txt`, cache);
      const [first] = dirs();
      const size = [...Deno.readDirSync(`${cache}/${first}`)]
        .reduce((sum, { name }) => sum + Deno.statSync(`${cache}/${first}/${name}`).size, 0);
      const limit = { cacheBytes: Math.round(2.5 * size) };
      await prepare(`${dir}/b.txt`, cache, limit);
      assert.equal(dirs().length, 2);
      {
        using _inUse = await CacheEntry.open(cache, first!);
        await prepare(`${dir}/c.txt`, cache, limit);
        assert(dirs().includes(first!));
      }
      assert.equal(dirs().length, 2);
      // larger than the limit alone: it is used all the same, and the others go
      assert.equal(await prepare(`${dir}/b.txt`, cache, { cacheBytes: 1 }), LINES.length);
      assert.equal(dirs().length, 1);
    },
  ));

Deno.test("attack: three processes that prepare the same data at once all have all of it", () =>
  withFiles({ "a.txt": LINES.join("\n") }, async (dir) => {
    const from = (path: string) => JSON.stringify(import.meta.resolve(path));
    const [input, cache] = [`${dir}/a.txt`, `${dir}/cache`].map((path) => JSON.stringify(path));
    const program = `
      import { openCorpus } from ${from("../../data/corpus.ts")};
      import { prepareTokens } from ${from("../../data/tokens/prepare_tokens.ts")};
      import { smallPreparation } from ${from("../data/small_preparation.ts")};
      const prepared = prepareTokens(await openCorpus({ input: ${input} }), smallPreparation(${cache}));
      const { store, tokenizer } = await prepared;
      console.log(JSON.stringify([store.documents, store.tokens, tokenizer.vocabSize]));`;
    const args = ["run", "-A", "--no-check", `data:application/typescript,${encodeURIComponent(program)}`];
    const ran = await Promise.all([1, 2, 3].map(() => new Deno.Command(Deno.execPath(), { args }).output()));
    const said = ran.map(({ stdout, stderr }) =>
      new TextDecoder().decode(stdout) || new TextDecoder().decode(stderr)
    );
    assert.equal(JSON.parse(said[0]!)[0], LINES.length);
    assert.deepEqual(new Set(said).size, 1, said.join());
    assert.deepEqual(whole(`${dir}/cache`), ["hashes", "tokenizer", "tokens"]);
  }));
