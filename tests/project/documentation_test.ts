/** The public API is documented without gaps, and its examples run. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

async function deno(...args: string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert(success, `deno ${args.join(" ")}\n${text(stdout)}${text(stderr)}`);
}

/** TypeScript files in a folder and in those within it. */
function below(folder: string): string[] {
  return Array.from(Deno.readDirSync(`${ROOT}/${folder}`)).flatMap(({ name, isDirectory }) => {
    if (isDirectory) return below(`${folder}/${name}`);
    return name.endsWith(".ts") ? [`${folder}/${name}`] : [];
  });
}

Deno.test("every exported name of mod.ts has documentation, and types that are exported too", async () => {
  await deno("doc", "--lint", "mod.ts");
});

Deno.test("the examples of the documentation run", async () => {
  const sources = ["mod.ts", "cli.ts", ...["cli", "data", "device", "gpu", "model", "native"].flatMap(below)];
  const files = sources.filter((path) => Deno.readTextFileSync(`${ROOT}/${path}`).includes("* ```ts"));
  assert.ok(files.length > 4, `examples in ${files}`);
  await deno("test", "--doc", "-A", "--no-check", ...files);
});
