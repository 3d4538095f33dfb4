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

Deno.test("every exported name of mod.ts has documentation, and types that are exported too", async () => {
  await deno("doc", "--lint", "mod.ts");
});

Deno.test("the examples of the documentation run", async () => {
  const files = [
    "mod.ts",
    "model/train/train.ts",
    "model/generate/language_model.ts",
    "model/export/export.ts",
    "model/export/onnx_model.ts",
  ];
  await deno("test", "--doc", "-A", "--no-check", ...files);
});
