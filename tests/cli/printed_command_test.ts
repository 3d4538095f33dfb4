/** Commands that the program prints: a shell runs them, and they do what they say. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { shellPath, shellWord } from "../../cli/printed_command.ts";
import { withDirectory } from "../model/files/checkpoint_fixture.ts";
import { type Finished, microgpt, NAMES, programArgs, TINY } from "./program.ts";

const windows = Deno.build.os === "windows";
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Runs a line in bash, where `deno` is the one that runs this. */
async function bash(line: string, cwd?: string): Promise<Finished> {
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-c", `deno() { "$DENO" "$@"; }; ${line}`],
    env: { DENO: Deno.execPath() },
    ...(cwd === undefined ? {} : { cwd }),
  }).output();
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

Deno.test("words as a shell must get them", { ignore: windows }, async () => {
  const words = [
    ...[
      "plain-1.0_x/y",
      "",
      "two words",
      "it's",
      '"',
      "$HOME `date` \\",
      "~",
      "*",
      "a;b|c&d",
      "#",
      "=x",
      "!!",
      "é漢",
    ],
    ...["line\nend", "\x1b[31mred's\\", "\x9bx", "\x7f0"],
  ];
  const { stdout } = await bash(`printf '%s\\0' ${words.map((word) => shellWord(word, "linux")).join(" ")}`);
  assert.deepEqual(stdout.split("\0").slice(0, -1), words);
  assert.equal(shellWord("plain-1.0_x/y", "linux"), "plain-1.0_x/y");
  // deno-lint-ignore no-control-regex
  assert.doesNotMatch(words.map((word) => shellWord(word, "linux")).join(""), /[\x00-\x1f\x7f-\x9f]/);
  assert.equal(shellPath("-x y", "linux"), "'./-x y'");
  assert.equal(shellPath("-", "linux"), "./-");
});

Deno.test("words as cmd and PowerShell must get them", () => {
  const cases = { "C:\\models\\a": "C:\\models\\a", "my model": '"my model"', "my dir\\": '"my dir\\\\"' };
  for (const [word, quoted] of Object.entries(cases)) assert.equal(shellWord(word, "windows"), quoted);
});

/** Trains on standard input until the first step, then Ctrl-C. @returns what it said */
async function interrupted(args: string[], stdin: string, cwd: string): Promise<string> {
  const [command, ...rest] = programArgs(args);
  const run = new Deno.Command(command!, { args: rest, cwd, stdin: "piped", stderr: "piped", stdout: "null" })
    .spawn();
  const writer = run.stdin.getWriter();
  await writer.write(new TextEncoder().encode(stdin));
  await writer.close();
  let said = "";
  let sent = false;
  for await (const piece of run.stderr.pipeThrough(new TextDecoderStream())) {
    said += piece;
    if (sent || !/^step 1 /m.test(said)) continue;
    run.kill("SIGINT");
    sent = true;
  }
  assert.equal((await run.status).code, 130, said);
  return said;
}

Deno.test(
  "the line that resumes a run works as it is printed, whatever the names",
  { ignore: windows },
  async () => {
    await withDirectory(async (dir) => {
      const data = "-it's $HOME.txt";
      await Deno.writeTextFile(`${dir}/${data}`, NAMES);
      const long = [
        ...TINY,
        "--steps",
        "100000000",
        "--checkpoint-every",
        "90000000",
        "--sample-every",
        "80000000",
      ];
      for (const input of [data, "-"]) {
        const output = input === "-" ? "-m o\td\x1b[31m" : "-it's a `model` $HOME";
        const said = await interrupted(
          ["train", `--input=${input}`, `--output=${output}`, ...long],
          NAMES,
          dir,
        );
        const [, resume] = /^resume with: (.*)$/m.exec(said)!;
        assert.match(resume!, / --sample-every 80000000 --checkpoint-every 90000000$/);
        assert.equal(resume!.includes(" --input FILE"), input === "-", resume!);
        assert.equal(/^FILE is the same data in a file: /m.test(said), input === "-");
        const again = await bash(resume!.replace("FILE", `./${shellWord(data)}`) + " --steps 2", dir);
        assert.equal(again.code, 0, again.stderr);
        const [, next] = /^next: (.*)$/m.exec(again.stderr)!;
        assert.match((await bash(`${next} --num-samples 1`, dir)).stdout, /^sample {2}1: .*\n$/);
        const info = await bash(next!.replace(" generate ", " info "), dir);
        assert.equal(info.code, 0, info.stderr);
        // deno-lint-ignore no-control-regex
        assert.doesNotMatch(said + again.stderr + info.stdout, /[\x00-\x08\x0b-\x1f\x7f]/);
      }
    });
  },
);

Deno.test("info says how to go on with a run that is not complete", { ignore: windows }, async () => {
  await withDirectory(async (dir) => {
    const args = ["train", "--input", "-", "--output", "m o d", ...TINY, "--steps", "100000000"];
    await interrupted(args, NAMES, dir);
    const { stdout } = await microgpt(["info", "--model-dir", "m o d"], { cwd: dir });
    assert.match(
      stdout,
      /^training +step \d+ of 100000000, `.* train --resume 'm o d' --input FILE` goes on$/m,
    );
  });
});

Deno.test("resuming from another directory, where the data's path leads nowhere, hints at --input", async () => {
  await withDirectory(async (dir) => {
    await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
    const train = ["train", "--input", "names.txt", "--output", "model", ...TINY];
    assert.equal((await microgpt(train, { cwd: dir })).code, 0);
    await Deno.mkdir(`${dir}/other`);
    const resume = ["train", "--resume", "../model", "--steps", "1"];
    const there = await microgpt(resume, { cwd: `${dir}/other` });
    assert.match(
      there.stderr,
      /^error: cannot read names\.txt: no such file\nhint: the path is as it was where the run began; .*--input\n$/,
    );
    assert.equal(there.code, 1);
    const named = await microgpt([...resume, "--input", "../names.txt"], { cwd: `${dir}/other` });
    assert.equal(named.code, 0, named.stderr);
  });
});

Deno.test("notices name where a directory is, not what leads there", { ignore: windows }, async () => {
  await withDirectory(async (directory) => {
    const dir = await Deno.realPath(directory);
    await Deno.mkdir(`${dir}/real`);
    await Deno.symlink("real", `${dir}/link`);
    await Deno.writeTextFile(`${dir}/names.txt`, NAMES);
    const train = async (output: string) => {
      const args = ["train", "--input", "../names.txt", "--output", output, ...TINY, "--steps", "1"];
      const { code, stderr } = await microgpt(args, { cwd: `${dir}/real` });
      assert.equal(code, 0, stderr);
      return stderr;
    };
    const lines = (said: string) =>
      said.split("\n").filter((line) => /^model in|holds a model/.test(line))
        .map((line) => line.replace(/: step .*/, ""));
    assert.deepEqual(lines(await train(".")), [`model in . (${dir}/real)`]);
    for (const output of [".", "../real/", "../link"]) {
      const [notice, end] = lines(await train(output));
      assert.match(notice!, new RegExp(`then moves to ${dir}/real.old($|,)`));
      assert.equal(end, output === "../real/" ? "model in ../real/" : `model in ${output} (${dir}/real)`);
    }
  });
});

Deno.test("`deno task train`: flags that are given win", async () => {
  const root = new URL("../../", import.meta.url);
  const script = fileURLToPath(new URL("scripts/train_names.ts", root));
  const { stderr, code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "-A", script, "--preset=chat-small", "--n-embd", "16", "--dry-run"],
    cwd: root,
  }).output();
  assert.equal(code, 0, text(stderr));
  assert.match(text(stderr), /^model +4 layers, 4 heads, width 16,.*\ndata +data\/samples\/names\.txt: /m);
});
