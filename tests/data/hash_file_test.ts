/** Hashes in a file say the same of a corpus as all of them in memory do. */
import assert from "node:assert/strict";
import { summaryOf } from "../../data/split.ts";
import { HashFileWriter, readHashFile } from "../../data/tokens/hash_file.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";

/** Below 2⁵³, many of them several times. */
function someHashes(count: number, different: number): Float64Array<ArrayBuffer> {
  return Float64Array.from({ length: count }, (_, i) => {
    const number = Math.imul(i % different, 0x9e3779b1) >>> 0;
    return number * 2 ** 21 + number % 1000;
  });
}

Deno.test("hashes that are sorted range by range are counted as all at once", () =>
  withDirectory(async (dir) => {
    for (
      const [count, different] of [[0, 1], [1, 1], [3000, 3000], [90_000, 300], [300_000, 170_000]] as const
    ) {
      const hashes = someHashes(count, different);
      const { all: _, ...expected } = summaryOf(hashes);
      for (const most of [100_000, 7000]) {
        const path = `${dir}/${count}-${most}`;
        using writer = new HashFileWriter(path);
        for (let at = 0; at < count; at += 70_001) writer.append(hashes.slice(at, at + 70_001));
        await writer.finish(most);
        const { all, close, ...read } = readHashFile(path);
        assert.deepEqual(
          read,
          expected,
          `${count} hashes, ${different} of them different, ${most} at a time`,
        );
        assert.deepEqual(all(), hashes);
        close();
      }
    }
  }));
