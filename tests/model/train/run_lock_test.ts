/** One process at a time writes to a directory: who comes second learns who is first, and a dead one holds nobody up. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { MicrogptError } from "../../../device/errors.ts";
import { LOCK_FILE, LostDirectoryError, RunLock } from "../../../model/files/lock.ts";
import { readCheckpoint } from "../../../model/files/checkpoint.ts";
import { train } from "../../../model/train/train.ts";
import { namesIn, withDirectory } from "../files/checkpoint_fixture.ts";
import { microgpt, NAMES, programArgs, TINY } from "../../cli/program.ts";

const refused = (message: RegExp, hint: RegExp) => (error: unknown) => {
  assert(error instanceof MicrogptError, `${error}`);
  assert.match(error.message, message);
  assert.match(error.hint!, hint);
  return true;
};

/** The lock that a process of this description left. */
async function leaveLock(dir: string, holder: Record<string, unknown>): Promise<void> {
  const text = { pid: 1, started: "2026-01-01T00:00:00.000Z", command: "train --input a.txt", ...holder };
  await Deno.writeTextFile(join(dir, LOCK_FILE), JSON.stringify(text));
}

Deno.test("a lock names its holder, and leaves nothing behind", () =>
  withDirectory(async (root) => {
    const dir = join(root, "deep/model");
    const lock = await RunLock.take(dir);
    await assert.rejects(
      RunLock.take(dir),
      refused(
        new RegExp(`model is in use by process ${Deno.pid} on ${Deno.hostname()} \\(since 20\\d\\d-`),
        /wait/,
      ),
    );
    lock.release();
    lock.release();
    assert.deepEqual(await namesIn(root), []);
    const again = await RunLock.take(dir);
    await Deno.writeTextFile(join(dir, "mine"), "");
    again.release();
    assert.deepEqual(await namesIn(dir), ["mine"]);
  }));

Deno.test("a lock left by a dead process is taken over, one of another machine is respected", () =>
  withDirectory(async (dir) => {
    await leaveLock(dir, { host: Deno.hostname() }); // its pid is alive: it was given to another process since
    (await RunLock.take(dir)).release();
    await Deno.writeTextFile(join(dir, LOCK_FILE), "");
    (await RunLock.take(dir)).release();
    await leaveLock(dir, { host: "elsewhere", boot: "another" });
    const path = join(dir, LOCK_FILE);
    await assert.rejects(
      RunLock.take(dir),
      refused(
        /is locked by process 1 on elsewhere \(since 2026-01-01/,
        new RegExp(`if not, remove ${path}$`),
      ),
    );
    await Deno.remove(path);
    (await RunLock.take(dir)).release();
  }));

Deno.test("of many that lock at the same instant exactly one succeeds", () =>
  withDirectory(async (root) => {
    for (let round = 0; round < 20; round++) {
      const dir = join(root, "model");
      const taken = await Promise.allSettled(Array.from({ length: 8 }, () => RunLock.take(dir)));
      const locks = taken.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
      assert.equal(locks.length, 1);
      for (const { reason } of taken.filter((one) => one.status === "rejected")) {
        assert(reason instanceof MicrogptError, `${reason}`);
      }
      locks[0]!.release();
      assert.deepEqual(await namesIn(root), []);
    }
  }));

Deno.test("a lock that a person removed is not removed from its next holder", () =>
  withDirectory(async (dir) => {
    const first = await RunLock.take(dir);
    await Deno.remove(join(dir, LOCK_FILE));
    const second = await RunLock.take(dir);
    first.release();
    await assert.rejects(RunLock.take(dir), MicrogptError);
    second.release();
  }));

Deno.test({
  name:
    "while a run goes on no other and no export writes there; generate reads; after kill -9 the next run does",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withDirectory(async (dir) => {
      const at = (name: string) => join(dir, name);
      await Deno.writeTextFile(at("a.txt"), NAMES);
      const train = ["train", "--input", at("a.txt"), "--output", at("model"), ...TINY];
      assert.equal((await microgpt([...train.slice(0, 4), at("other"), ...TINY])).code, 0);
      const long = [...train, "--steps", "100000000", "--checkpoint-every", "1"];
      const [command, ...args] = programArgs(long);
      const run = new Deno.Command(command!, { args, stderr: "piped", stdout: "null" }).spawn();
      let said = "";
      for await (const piece of run.stderr.pipeThrough(new TextDecoderStream())) {
        said += piece;
        if (said.includes("checkpoint saved")) break;
      }
      const inUse = new RegExp(`^error: .*model is in use by process ${run.pid} .*: train --input`, "m");
      for (
        const other of [train, ["train", "--resume", at("model"), "--input", at("a.txt"), "--steps", "2"]]
      ) {
        const { code, stderr } = await microgpt(other);
        assert.match(stderr, inUse);
        assert.equal(code, 1);
      }
      const exported = await microgpt(["export", "--model-dir", at("other"), "--output", at("model")]);
      assert.match(exported.stderr, inUse);
      assert.equal((await microgpt([...train, "--dry-run"])).code, 0);
      assert.equal((await microgpt(["generate", "--model-dir", at("model"), "--num-samples", "1"])).code, 0);
      run.kill("SIGKILL");
      await run.status;
      assert((await namesIn(at("model"))).includes(LOCK_FILE));
      const next = await microgpt(["train", "--resume", at("model"), "--input", at("a.txt"), "--steps", "2"]);
      assert.equal(next.code, 0, next.stderr);
      assert(!(await namesIn(at("model"))).includes(LOCK_FILE));
    }),
});

Deno.test("a run that is refused leaves no directory", () =>
  withDirectory(async (dir) => {
    const { code } = await microgpt(["train", "--input", "nowhere.txt", "--output", "deep/model"], {
      cwd: dir,
    });
    assert.equal(code, 1);
    assert.deepEqual(await namesIn(dir), []);
  }));

Deno.test("a fresh run replaces no DIR.old that another run writes to", () =>
  withDirectory(async (dir) => {
    const output = join(dir, "model");
    const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260, steps: 1 };
    const run = () => Array.fromAsync(train({ documents: ["anna", "bob"], output, ...small }));
    await run();
    using lock = await RunLock.take(`${output}.old`);
    await run();
    assert.deepEqual(await namesIn(`${output}.old`), [LOCK_FILE]);
    assert((await namesIn(`${output}.old-2`)).includes("weights.safetensors"));
    lock.release();
  }));

/** A run of 60 steps; `during` is called once, after its first checkpoint. */
async function runWith(output: string, during: () => Promise<void>): Promise<string[]> {
  const said: string[] = [];
  let called = false;
  const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260, steps: 60, checkpointEvery: 20, keep: 2 };
  const documents = ["anna", "bob", "carla", "dora", "emil", "frida", "gustav", "hanna", "ida", "jonas"];
  const options = { documents, output, ...small, valFraction: 0.2, evalEvery: 10 };
  for await (const event of train(options)) {
    if (event.type === "notice") said.push(event.message);
    if (event.type !== "checkpoint" || called) continue;
    called = true;
    await during();
  }
  return said;
}

const RENAMES_OPEN = Deno.build.os !== "windows";

for (const removes of [true, false]) {
  Deno.test({
    name: `a run whose directory is ${removes ? "removed" : "moved away"} saves to a new one of that name`,
    ignore: !RENAMES_OPEN,
    fn: () =>
      withDirectory(async (root) => {
        const dir = join(root, "model");
        const away = join(root, "away");
        await runWith(dir, () => removes ? Deno.remove(dir, { recursive: true }) : Deno.rename(dir, away));
        const { trainState, params } = await readCheckpoint(dir);
        assert.equal(trainState.step, 60);
        const lines = (await Deno.readTextFile(join(dir, "metrics.jsonl"))).trim().split("\n");
        const steps = lines.map((line) => JSON.parse(line)).filter((line) => "loss" in line);
        assert.deepEqual(steps.map(({ step }) => step), Array.from({ length: 60 }, (_, i) => i + 1));
        assert.deepEqual((await namesIn(dir)).filter((name) => /^\.|part$/.test(name)), []);
        const undisturbed = join(root, "undisturbed");
        await runWith(undisturbed, async () => {});
        assert.deepEqual((await readCheckpoint(undisturbed)).params, params);
        if (!removes) assert((await readCheckpoint(away)).trainState.step < 60);
      }),
  });
}

Deno.test({
  name: "a run writes nothing into a directory that has its own directory's name since",
  ignore: !RENAMES_OPEN,
  fn: () =>
    withDirectory(async (root) => {
      const dir = join(root, "model");
      const lock = await RunLock.take(dir);
      await Deno.rename(dir, join(root, "away"));
      const other = await RunLock.take(dir);
      await assert.rejects(lock.renew(), LostDirectoryError);
      other.release();
      await Deno.mkdir(dir);
      await Deno.writeTextFile(join(dir, "mine"), "");
      await assert.rejects(lock.renew(), LostDirectoryError);
      assert.deepEqual(await namesIn(dir), ["mine"]);
      await Deno.remove(join(dir, "mine"));
      assert.equal(await lock.renew(), true);
      await assert.rejects(RunLock.take(dir), MicrogptError);
      assert.equal(await lock.renew(), false);
      await Deno.remove(join(dir, LOCK_FILE));
      assert.equal(await lock.renew(), false); // the same directory, locked again
      await assert.rejects(RunLock.take(dir), MicrogptError);
      lock.release();
      assert.deepEqual(await namesIn(root), ["away"]);
    }),
});
