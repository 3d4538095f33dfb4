/**
 * Saves checkpoints as fast as it can until it is killed, for `kill_test.ts`.
 * Usage: kill_writer.ts MODEL_DIR METRICS FIRST_STEP. Prints the step of each save that is complete.
 */
import { saveCheckpoint } from "../../../model/files/checkpoint.ts";
import { keepBest, keepCheckpoint } from "../../../model/files/kept_checkpoints.ts";
import { checkpointAt } from "./checkpoint_fixture.ts";

const [dir, metrics, first] = Deno.args as [string, string, string];
for (let step = Number(first);; step++) {
  await saveCheckpoint(dir, await checkpointAt(step, metrics));
  console.log(step);
  if (step % 3 === 0) await keepCheckpoint(dir, step, 2);
  if (step % 6 === 0) await keepBest(dir);
}
