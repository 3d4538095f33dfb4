/**
 * Makes the program as one file: `deno compile` with the native library embedded, and of the npm packages only what
 * the program loads.
 *
 *   deno task compile [--target TARGET] [--output FILE] [--preload MODULE]
 *
 * The library is native/target/release/… for this machine; another target's must have been built with
 * `cargo build --release --target TARGET --manifest-path native/Cargo.toml`. --preload embeds a module that runs before
 * the program.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { MicrogptError } from "../device/errors.ts";
import { libraryFileName } from "../native/library.ts";

/** The systems that releases are made for, as Deno and Rust both call them. */
export const TARGETS = [
  "aarch64-apple-darwin",
  "x86_64-apple-darwin",
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "x86_64-pc-windows-msvc",
];

/** onnxruntime-web carries every build of its runtime for browsers, 130 MB; Deno loads these three files. */
const ONNX_RUNTIME = new Set([
  "ort.node.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
]);

/** What Deno loads of the hub's client is two files; its package of tasks, only types. */
const HUB_UNUSED = {
  "@huggingface/hub": ["src", "dist/src", "dist/browser", "dist/index.js", "dist/cli.js", "dist/cli.mjs"],
  "@huggingface/tasks": ["src", "dist"],
};

const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * Compiles the program.
 * @param output default: dist/microgpt, with .exe on Windows
 * @returns where it is
 * @throws {MicrogptError} when the target's native library is not there or `deno compile` fails
 */
export async function compile(
  { target = Deno.build.target, output, preload }: { target?: string; output?: string; preload?: string } =
    {},
): Promise<string> {
  if (!TARGETS.includes(target)) {
    throw new MicrogptError(`--target must be one of ${TARGETS.join(", ")}, got ${target}`, { usage: true });
  }
  const windows = target.includes("windows");
  const path = output ?? `${root}dist/microgpt${windows ? ".exe" : ""}`;
  const args = ["compile", "--quiet", "--no-check", "--allow-all", "--exclude-unused-npm"];
  if (target !== Deno.build.target) args.push("--target", target);
  for (const file of await unusedFiles()) args.push("--exclude", file);
  if (preload !== undefined) args.push("--preload", preload);
  args.push("--include", nativeLibrary(target), "--output", path, `${root}cli.ts`);
  const { success } = await new Deno.Command(Deno.execPath(), { args, cwd: root, ...environment() }).spawn()
    .status;
  if (!success) throw new MicrogptError("deno compile failed");
  return path;
}

/** An empty DENORT_BIN is none. */
function environment(): { env?: Record<string, string>; clearEnv?: boolean } {
  if (Deno.env.get("DENORT_BIN") !== "") return {};
  const { DENORT_BIN: _, ...env } = Deno.env.toObject();
  return { env, clearEnv: true };
}

function nativeLibrary(target: string): string {
  const os = target.includes("windows") ? "windows" : target.includes("darwin") ? "darwin" : "linux";
  const places = [`native/target/${target}/release/${libraryFileName(os)}`];
  if (target === Deno.build.target) places.unshift(`native/target/release/${libraryFileName(os)}`);
  for (const place of places) {
    try {
      if (Deno.statSync(root + place).isFile) return place;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  throw new MicrogptError(`the native library for ${target} is missing (${places[0]})`, {
    hint: `build it with \`cargo build --release --target ${target} --manifest-path native/Cargo.toml\``,
  });
}

/** Files of npm packages that the program never loads, in Deno's cache. */
async function unusedFiles(): Promise<string[]> {
  const found: string[] = [];
  for (const version of await packageVersions("onnxruntime-web")) {
    found.push(`${version}/lib`);
    for await (const { name } of Deno.readDir(`${version}/dist`)) {
      if (!ONNX_RUNTIME.has(name)) found.push(`${version}/dist/${name}`);
    }
  }
  for (const [name, parts] of Object.entries(HUB_UNUSED)) {
    for (const version of await packageVersions(name)) {
      found.push(...parts.map((part) => `${version}/${part}`));
    }
  }
  return found;
}

/** The cached versions of an npm package, as folders. */
export async function packageVersions(name: string): Promise<string[]> {
  await run(["cache", "--quiet", "cli.ts"]);
  const { npmCache } = JSON.parse(await run(["info", "--json"])) as { npmCache: string };
  const found: string[] = [];
  for (const registry of Deno.readDirSync(npmCache)) {
    try {
      for (const version of Deno.readDirSync(`${npmCache}/${registry.name}/${name}`)) {
        if (version.isDirectory) found.push(`${npmCache}/${registry.name}/${name}/${version.name}`);
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return found;
}

async function run(args: string[]): Promise<string> {
  const { success, stdout } = await new Deno.Command(Deno.execPath(), { args, cwd: root, stderr: "inherit" })
    .output();
  if (!success) throw new MicrogptError(`deno ${args.join(" ")} failed`);
  return new TextDecoder().decode(stdout);
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { target: { type: "string" }, output: { type: "string" }, preload: { type: "string" } },
  });
  try {
    const path = await compile(values);
    const megabytes = ((await Deno.stat(path)).size / 1e6).toFixed(0);
    console.log(`${path}: ${megabytes} MB`);
  } catch (error) {
    if (!(error instanceof MicrogptError)) throw error;
    console.error(`error: ${error.message}${error.hint ? `\nhint: ${error.hint}` : ""}`);
    Deno.exit(error.usage ? 2 : 1);
  }
}
