/** Signals that end a training run: it saves, whatever its output goes to; nohup keeps its word. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readCheckpoint } from "../../model/files/checkpoint.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";
import { NAMES, programArgs, TINY } from "./program.ts";

/** Starts a long run with its output in a pipe; `use` gets it once it has done a step. @returns exit code and signal */
async function trained(
  dir: string,
  use: (run: Deno.ChildProcess) => void,
  { through = [], flags = [] }: { through?: string[]; flags?: string[] } = {},
): Promise<Deno.CommandStatus> {
  await Deno.writeTextFile(join(dir, "a.txt"), NAMES);
  const train = ["train", "--input", "a.txt", "--output", "model", ...TINY, "--steps", "100000000", ...flags];
  const [command, ...args] = [...through, ...programArgs(train)];
  const run = new Deno.Command(command!, { args, cwd: dir, stdin: "null", stdout: "null", stderr: "piped" })
    .spawn();
  let said = "";
  let used = false;
  for await (const piece of run.stderr.pipeThrough(new TextDecoderStream())) {
    said += piece;
    if (used || !/^step \d+ \//m.test(said)) continue;
    used = true;
    use(run);
  }
  assert(used, said);
  return await run.status;
}

const ignore = Deno.build.os === "windows";

for (const signals of [["SIGHUP"], ["SIGTERM"], ["SIGTERM", "SIGHUP"], ["SIGHUP", "SIGHUP"]] as const) {
  Deno.test({
    name: `a run whose output is redirected saves after ${signals.join(" and ")}`,
    ignore,
    fn: () =>
      withDirectory(async (dir) => {
        const { code } = await trained(dir, async (run) => {
          for (const signal of signals) {
            run.kill(signal);
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
        });
        assert.equal(code, 130);
        assert((await readCheckpoint(join(dir, "model"))).trainState.step > 0);
      }),
  });
}

Deno.test({
  name: "with nohup a run goes on after SIGHUP",
  ignore,
  fn: () =>
    withDirectory(async (dir) => {
      const { code, signal } = await trained(dir, (run) => {
        run.kill("SIGHUP");
        setTimeout(() => run.kill("SIGKILL"), 400);
      }, { through: ["nohup"] });
      assert.deepEqual([code, signal], [137, "SIGKILL"]);
    }),
});

/** Says what it is told, and never ends by itself. */
const LISTENER = `
  import { onInterrupt } from ${JSON.stringify(import.meta.resolve("../../cli/interrupt.ts"))};
  onInterrupt(() => console.log("stop"));
  console.log("ready");
  setInterval(() => {}, 1000);`;

Deno.test({
  name: "one Ctrl-C that comes twice, as below deno task, is one; the next ends the program at once",
  ignore,
  fn: () =>
    withDirectory(async (dir) => {
      await Deno.writeTextFile(join(dir, "listener.ts"), LISTENER);
      const args = ["run", "-A", "--no-check", join(dir, "listener.ts")];
      const listener = new Deno.Command(Deno.execPath(), { args, stdout: "piped" }).spawn();
      let said = "";
      for await (const piece of listener.stdout.pipeThrough(new TextDecoderStream())) {
        said += piece;
        if (said === "ready\n") {
          listener.kill("SIGINT");
          setTimeout(() => listener.kill("SIGINT"), 10);
          setTimeout(() => said += "still there\n", 300);
          setTimeout(() => listener.kill("SIGINT"), 400);
        }
      }
      assert.equal(said, "ready\nstop\nstill there\n");
      assert.equal((await listener.status).code, 130);
    }),
});
