/** What every attack must get: one clear line, nothing written, bounded memory. */

import assert from "node:assert/strict";
import { dirname } from "node:path";
import { readCheckpoint, readModel, readModelHeader } from "../../model/files/checkpoint.ts";
import { MicrogptError } from "../../device/errors.ts";
import { contentsOf } from "../model/files/checkpoint_fixture.ts";

/**
 * Loads a directory in each way there is; all must refuse it with the same line.
 * @param ways fewer, where `info`, which reads no weights, has nothing to refuse
 * @returns the line, with DIR for the directory
 */
export async function refusal(
  dir: string,
  ways: ((dir: string) => Promise<unknown>)[] = [readModel, readModelHeader, readCheckpoint],
): Promise<string> {
  const root = dirname(dir);
  const before = await contentsOf(root);
  const messages = new Set<string>();
  for (const read of ways) {
    const error = await read(dir).then(() => undefined, (error) => error);
    assert(error instanceof MicrogptError, `${read.name} did not refuse: ${error?.stack ?? "loaded"}`);
    for (const line of [error.message, error.hint ?? ""]) {
      assert.doesNotMatch(line, /[\p{Cc}\u2028\u2029]/u);
      assert(line.length < 400, `${line.length} characters`);
    }
    messages.add(error.message.replaceAll(dir, "DIR"));
  }
  assert.deepEqual(await contentsOf(root), before, "reading wrote something");
  assert.equal(messages.size, 1, [...messages].join(" | "));
  return [...messages][0]!;
}

/** The user `nobody`, for whom file modes mean something where the tests run as root. */
const NOBODY = { uid: 65534, gid: 65534 };

/**
 * Loads a directory in a process of its own.
 * @param unprivileged as a user who may not read everything
 * @returns its error, and the most memory it ever held in MB
 */
export async function refusalAndPeak(
  dir: string,
  unprivileged = false,
): Promise<{ message: string; peak: number }> {
  const program = `
    import { peakMegabytes } from ${JSON.stringify(import.meta.resolve("./peak.ts"))};
    import { readModel } from ${JSON.stringify(import.meta.resolve("../../model/files/checkpoint.ts"))};
    const message = await readModel(${
    JSON.stringify(dir)
  }).then(() => "loaded", (e) => e.name + ": " + e.message);
    console.log(JSON.stringify({ message, peak: peakMegabytes() }));`;
  const cache = await Deno.makeTempDir({ prefix: "microgpt-test-" });
  try {
    await Deno.chmod(cache, 0o777);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", `data:application/typescript,${encodeURIComponent(program)}`],
      ...(unprivileged && Deno.uid() === 0 ? { ...NOBODY, env: { DENO_DIR: cache, HOME: cache } } : {}),
    }).output();
    const text = new TextDecoder().decode(stdout);
    assert.notEqual(text, "", new TextDecoder().decode(stderr));
    const { message, peak } = JSON.parse(text);
    return { message: message.replaceAll(dir, "DIR"), peak };
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
}
