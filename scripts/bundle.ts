/**
 * Makes `dist/web/microgpt.js`, the module for browsers: `mod.ts` and what it imports as ES modules, minified, with source
 * maps and types. What a page may never need (exports, other programs' files, packages of npm) lies beside it in
 * files of their own, which load when they are used.
 *
 *     deno task bundle [--output DIR]
 */
import { gzipSync } from "node:zlib";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as esbuild from "npm:esbuild@0.28.2";
import ts from "npm:typescript@5.9.3";

const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * What is bundled. `native/` and the server behind `model/serve/serve.ts` are for programs of the operating system, and
 * stay imports that a page never reaches.
 */
const SOURCES = ["mod.ts", "deno.json", "deno.lock", "device", "platform", "data", "gpu", "model"];

/** What the module may be loaded by; what is newer in the language is written in older words. */
const BROWSERS = ["chrome123", "edge123", "safari26", "firefox141"];

/** Safari does not know the name by which things are freed. */
const BANNER = 'Symbol.dispose??=Symbol.for("Symbol.dispose");';

/** A kernel without comments, indentation and empty lines: its text is a third of the bundle. */
export function minifiedWgsl(source: string): string {
  return source.split("\n").map((line) => line.replace(/\/\/.*$/, "").trim()).filter((line) => line !== "")
    .join("\n") + "\n";
}

async function copySources(from: string, to: string): Promise<void> {
  const info = await Deno.stat(from);
  if (info.isDirectory) {
    await Deno.mkdir(to, { recursive: true });
    for await (const { name } of Deno.readDir(from)) await copySources(join(from, name), join(to, name));
  } else if (from.endsWith(".wgsl")) {
    await Deno.writeTextFile(to, minifiedWgsl(await Deno.readTextFile(from)));
  } else if (/\.(ts|json|lock|py)$/.test(from)) await Deno.copyFile(from, to);
}

/** Bundles the copy of the sources in `from`. @throws {Error} when `deno bundle` fails */
async function bundleSources(from: string, output: string): Promise<void> {
  await Deno.writeTextFile(join(from, "microgpt.ts"), 'export * from "./mod.ts";\n');
  const args = [
    "--platform",
    "browser",
    "--format",
    "esm",
    "--minify",
    "--code-splitting",
  ];
  args.push("--sourcemap", "inline", "--external", "../native/*", "--external", "../../native/*");
  for (const file of ["app", "metrics", "runs", "service"]) args.push("--external", `./${file}.ts`);
  args.push("--outdir", output, "microgpt.ts");
  await denoBundle(args, from);
}

/** Writes each file for `BROWSERS`, with its source map beside it, which names the files of the project, not of the copy. */
async function finish(output: string, copy: string): Promise<void> {
  for (const name of await namesOf(output, ".js")) {
    const path = join(output, name);
    const { code, map } = await esbuild.transform(await Deno.readTextFile(path), {
      target: BROWSERS,
      format: "esm",
      minify: true,
      banner: BANNER,
      sourcemap: "external",
      sourcefile: name,
    });
    const { sources, ...rest } = JSON.parse(map) as { sources: string[] };
    const named = sources.map((source) => {
      const place = relative(copy, join(output, source));
      return place.startsWith("..") ? `npm/${basename(source)}` : `microgpt/${place.replaceAll("\\", "/")}`;
    });
    await Deno.writeTextFile(`${path}.map`, JSON.stringify({ ...rest, sources: named }));
    await Deno.writeTextFile(path, `${code}//# sourceMappingURL=${name}.map\n`);
  }
  await esbuild.stop();
}

/** Types of the module, as TypeScript sees them: `microgpt.d.ts` and one file for each module in `types/`. */
async function writeTypes(output: string): Promise<void> {
  const types = join(output, "types");
  const program = ts.createProgram([join(root, "mod.ts")], {
    declaration: true,
    emitDeclarationOnly: true,
    noCheck: true,
    allowImportingTsExtensions: true,
    noResolve: false,
    rootDir: root,
    outDir: types,
    target: ts.ScriptTarget.ESNext,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ["lib.esnext.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts", "lib.dom.asynciterable.d.ts"],
    strict: true,
    exactOptionalPropertyTypes: true,
    stripInternal: true,
  });
  const written: [string, string][] = [];
  program.emit(undefined, (path, text) => written.push([path, text]));
  for (const [path, text] of written) {
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeTextFile(path, text.replace(/((?:from|import\()\s*"\.[^"]*)\.ts"/g, '$1.d.ts"'));
  }
  await Deno.writeTextFile(join(output, "microgpt.d.ts"), 'export * from "./types/mod.d.ts";\n');
}

async function namesOf(dir: string, end: string): Promise<string[]> {
  const names = await Array.fromAsync(Deno.readDir(dir), ({ name }) => name);
  return names.filter((name) => name.endsWith(end)).sort();
}

/** Sizes in bytes after gzip. */
export interface BundleSizes {
  /** `microgpt.js` with all that it imports at once */
  eager: number;
  /** with what a model is read by, the kernels and the tokenizer: what a page loads to generate on a GPU */
  generating: number;
  /** with what trains too */
  training: number;
  /** all files */
  all: number;
}

/** What a file imports at once, itself included. */
async function closure(
  output: string,
  names: Iterable<string>,
  seen = new Set<string>(),
): Promise<Set<string>> {
  for (const name of names) {
    if (seen.has(name)) continue;
    seen.add(name);
    const text = await Deno.readTextFile(join(output, name));
    const imports = [...text.matchAll(/(?:from|import)"\.\/([^"]+\.js)"/g)].map(([, file]) => file!);
    await closure(output, imports, seen);
  }
  return seen;
}

async function sizesOf(output: string): Promise<BundleSizes> {
  const size = async (names: Iterable<string>) => {
    let sum = 0;
    for (const name of names) sum += gzipSync(await Deno.readFile(join(output, name)), { level: 9 }).length;
    return sum;
  };
  const names = await namesOf(output, ".js");
  const loading = async (...parts: string[]) => {
    const lazy = names.filter((name) => parts.includes(name.replace(/-\w+\.js$/, "")));
    return await size(await closure(output, ["microgpt.js", ...lazy]));
  };
  const device = ["device", "hf_tokenizer", "tokenizer_json", "tokenizers"];
  return {
    eager: await loading(),
    generating: await loading("described_model", ...device),
    training: await loading("training", "bpe_trainer", ...device),
    all: await size(names),
  };
}

/**
 * Bundles the library for browsers.
 * @param output the folder to write to, emptied before; default `dist/web`
 * @throws {Error} when bundling fails
 */
export async function bundle(
  output = join(root, "dist", "web"),
  { types = true } = {},
): Promise<BundleSizes> {
  const copy = await Deno.makeTempDir({ prefix: "microgpt-bundle-" });
  try {
    await Deno.remove(output, { recursive: true }).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
    for (const name of SOURCES) await copySources(join(root, name), join(copy, name));
    await bundleSources(copy, output);
    await finish(output, copy);
  } finally {
    await Deno.remove(copy, { recursive: true });
  }
  if (types) await writeTypes(output);
  return await sizesOf(output);
}

/**
 * A module for pages as one JavaScript text.
 * @param module its path
 * @throws {Error} when `deno bundle` fails
 */
export async function bundleModule(module: string): Promise<string> {
  const dir = await Deno.makeTempDir({ prefix: "microgpt-bundle-" });
  try {
    const output = join(dir, "out.js");
    const args = ["--platform", "browser", "--external", "../native/*", "--output", output, module];
    await denoBundle(args, root);
    return await Deno.readTextFile(output);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function denoBundle(args: string[], cwd: string): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", ...args],
    cwd,
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`deno bundle: ${new TextDecoder().decode(stderr)}`);
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { output: { type: "string" } } });
  const { eager, generating, training, all } = await bundle(values.output);
  const kb = (bytes: number) => `${(bytes / 1000).toFixed(1)} KB`;
  console.log(
    `${values.output ?? "dist/web"}/microgpt.js: ${kb(eager)} gzipped, with what it imports at once`,
  );
  console.log(`to generate on a GPU ${kb(generating)}, to train ${kb(training)}`);
  console.log(`all files, most of which load when they are used, ${kb(all)}`);
}
