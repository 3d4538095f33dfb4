/** kill -9 at random instants while checkpoints are saved; `crash_test.ts` covers each instant once, but only in thought. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { hash32 } from "../../../device/random.ts";
import { loadedStep, namesIn, withDirectory } from "./checkpoint_fixture.ts";

const KILLS = 200;

/** Runs the writer until it has saved once, then kills it `delay` milliseconds later. @returns its last reported step */
async function saveUntilKilled(dir: string, metrics: string, first: number, delay: number): Promise<number> {
  const writer = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", join(import.meta.dirname!, "kill_writer.ts"), dir, metrics, `${first}`],
    stdout: "piped",
  }).spawn();
  let said = "";
  let timer: ReturnType<typeof setTimeout> | undefined;
  for await (const chunk of writer.stdout.pipeThrough(new TextDecoderStream())) {
    said += chunk;
    timer ??= setTimeout(() => writer.kill("SIGKILL"), delay);
  }
  const { signal } = await writer.status;
  assert.equal(signal, "SIGKILL", "the writer ended by itself");
  return Number(said.split("\n").at(-2));
}

Deno.test({
  name: `the last complete checkpoint loads after each of ${KILLS} kills`,
  ignore: Deno.build.os === "windows", // has no SIGKILL
  fn: () =>
    withDirectory(async (root) => {
      const dir = join(root, "model");
      let step = 0;
      for (let kill = 0; kill < KILLS; kill++) {
        const reported = await saveUntilKilled(dir, join(root, "metrics"), step + 1, hash32(kill) % 60);
        step = await loadedStep(dir);
        // the save that was under way may be complete too
        assert(step === reported || step === reported + 1, `step ${step} after ${reported} was saved`);
        const best = join(dir, "checkpoints/best");
        const entries = await namesIn(best).catch(() => []);
        if (entries.some((name) => name !== ".saving")) await loadedStep(best);
      }
    }),
});
