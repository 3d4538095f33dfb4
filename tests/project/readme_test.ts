/** Every command of the README runs, in its order, in a folder that looks like a checkout. Training stops after a few steps. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { openTestGpu } from "../device/test_gpu.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const README = await Deno.readTextFile(join(ROOT, "README.md"));

/** The lines of all code blocks of a language, without comments. */
function blocks(language: string): string[] {
  return [...README.matchAll(new RegExp("```" + language + "\\n([^]*?)```", "g"))].map((match) => match[1]!);
}

/** What the test runs for a printed command: the same, but for the length of a training run. */
function shortened(command: string): string | undefined {
  if (/\btask test\b/.test(command)) return undefined; // this very run
  if (/\btask compile\b/.test(command)) return undefined; // compiled_test.ts does it
  // the program itself, so that it is asked to stop; its port may be in use here
  if (/\btask serve\b/.test(command)) {
    return command.replace("deno task serve", "exec deno run -A cli.ts serve").replace(
      /--port \d+/,
      "--port 0",
    );
  }
  if (!/\b(?:train|sweep)\b/.test(command)) return command;
  return `${command.replace(/ --steps \d+/, "")} --steps 3 --threads 2`;
}

/** What lies in the folders of the checkout, which the copy for the commands only links to. */
async function contents(): Promise<string[]> {
  const found: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(ROOT)) {
    if (!isDirectory || name.startsWith(".") || name === "dist") continue;
    for await (const entry of Deno.readDir(join(ROOT, name))) found.push(`${name}/${entry.name}`);
  }
  return found.sort();
}

async function checkoutWithData(): Promise<string> {
  const dir = await Deno.makeTempDir();
  for await (const { name } of Deno.readDir(ROOT)) {
    if (!name.startsWith(".") && !name.endsWith("-model")) {
      await Deno.symlink(join(ROOT, name), join(dir, name));
    }
  }
  await Deno.mkdir(join(dir, ".bin"));
  await Deno.symlink(Deno.execPath(), join(dir, ".bin/deno"));
  const names = (await Deno.readTextFile(join(ROOT, "data/samples/names.txt"))).split("\n").slice(0, 200);
  await Deno.writeTextFile(join(dir, "my.txt"), names.join("\n"));
  await Deno.writeTextFile(join(dir, "prompts.txt"), "an\nbe\n");
  const chats = names.slice(0, 40).map((name) => [
    { role: "user", content: `Who is ${name}?` },
    { role: "assistant", content: `${name} is a name.` },
  ]);
  await Deno.writeTextFile(join(dir, "chats.jsonl"), chats.map((chat) => JSON.stringify(chat)).join("\n"));
  return dir;
}

async function run(dir: string, command: string): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-c", command],
    cwd: dir,
    env: { PATH: `${join(dir, ".bin")}:${Deno.env.get("PATH")}`, NO_COLOR: "1" },
    stdin: "null",
    // a server runs until it is told to stop, and says then whether all was well
    ...(command.startsWith("exec ") ? { signal: AbortSignal.timeout(8000) } : {}),
  }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.equal(code, 0, `${command}\n${text}`);
}

Deno.test("every command of the README runs", { ignore: Deno.build.os === "windows" }, async (t) => {
  const device = await openTestGpu({ dtype: "f32" });
  device?.destroy();
  const before = await contents();
  const dir = await checkoutWithData();
  const commands = blocks("sh").join("\n").split("\n").map((line) => line.replace(/\s+#.*/, "").trim());
  assert(commands.length > 10);
  for (const printed of commands.filter((line) => line !== "")) {
    const command = shortened(printed);
    if (command === undefined || (!device && command.includes("webgpu"))) continue;
    await t.step(printed, () => run(dir, command));
  }
  for (const [i, source] of blocks("ts").entries()) {
    await t.step(`example ${i + 1}`, async () => {
      const file = join(dir, `example${i}.ts`);
      const short = source.replace(/(train\(\{[^}]*)\}/, "$1, steps: 3 }").replace(
        /"\.\//g,
        `"${dirname(file)}/`,
      );
      await Deno.writeTextFile(file, short);
      await run(dir, `deno run -A ${file}`);
    });
  }
  assert.deepEqual(await contents(), before, "a command of the README writes into the project's own folders");
  await Deno.remove(dir, { recursive: true });
});
