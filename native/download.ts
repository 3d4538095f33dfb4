/**
 * The native library of a release, for a module that was imported by URL: fetched once from the release that the
 * module's own manifest names, compared with the manifest's SHA-256, and kept in the user's cache directory.
 */
import { createHash, randomUUID } from "node:crypto";
import { CACHE_VARIABLES, cacheDirectory } from "../platform/cache_directory.ts";
import { MicrogptError } from "../device/errors.ts";
import { environment, granted } from "../platform/permissions.ts";
import { transfer } from "./transfer.ts";
import released from "./manifest.json" with { type: "json" };

/** What scripts/native_manifest.ts writes. In a tree that is not a release, `files` is empty. */
export interface NativeManifest {
  version: string;
  /** where assets lie: `<releases>/v<version>/<file>`; MICROGPT_RELEASES names a mirror */
  releases: string;
  /** by target, such as "aarch64-apple-darwin" */
  files: Record<string, NativeFile | undefined>;
}

/** One asset of a release. */
export interface NativeFile {
  file: string;
  bytes: number;
  sha256: string;
}

/** A library to open, or why there is none and what a person can do. */
export type Download = { path: string } | { why: string; hint: string };

const OTHER_DEVICES = "use `device` webgpu or reference";

/**
 * Finds the library of this release in the cache, or downloads it. Nobody is asked for permissions: without them, or
 * without a network, there is none.
 * @throws {MicrogptError} when what came is not the file of the release
 */
export async function downloadLibrary(): Promise<Download> {
  const { version, releases: origin, files }: NativeManifest = released;
  const releases = environment("MICROGPT_RELEASES") || origin;
  const { target } = Deno.build;
  const file = files[target];
  if (file === undefined || releases === "") {
    const why = Object.keys(files).length === 0
      ? `this copy of microgpt ${version} belongs to no release`
      : `microgpt ${version} was released without one for ${target}`;
    return { why, hint: `build it from a checkout with \`deno task build\`, or ${OTHER_DEVICES}` };
  }
  const url = new URL(`${releases.replace(/\/+$/, "")}/v${version}/${file.file}`);
  const cache = cacheDirectory();
  const flags = lacking(url, cache);
  const name = `${version}-${file.sha256.slice(0, 12)}-${file.file}`;
  if (!flags.some((flag) => /^(ffi|read|env)/.test(flag))) {
    const path = `${cache}/${name}`;
    const kept = await readKept(path, file.bytes);
    if (kept !== undefined && isFile(kept, file)) return { path };
  }
  if (flags.length > 0) return notAllowed(flags);
  const fetched = await transfer(url, file.bytes);
  if ("denied" in fetched) return notAllowed([netFlag(fetched.denied)]);
  if ("why" in fetched) {
    const hint = `try again with a network, set MICROGPT_RELEASES to a mirror, or ${OTHER_DEVICES}`;
    return { why: `it cannot be downloaded: ${fetched.why}`, hint };
  }
  if ("larger" in fetched) throw notTheFile(url, file, `it has more than ${file.bytes} bytes`);
  const { bytes } = fetched;
  if (!isFile(bytes, file)) throw notTheFile(url, file, `its SHA-256 is ${sha256(bytes)}`);
  return keep(cache, name, bytes);
}

function notTheFile(url: URL, { sha256 }: NativeFile, why: string): MicrogptError {
  return new MicrogptError(`${url} is not the file of the release: ${why}`, {
    hint:
      `its SHA-256 should be ${sha256}; nothing was kept. The server, or someone on the way, changed the file`,
  });
}

/** Keeps the file in the cache, or where that cannot be written, in a directory of this run. */
function keep(cache: string | undefined, name: string, bytes: Uint8Array): Download {
  try {
    if (cache !== undefined) {
      Deno.mkdirSync(cache, { recursive: true });
      return { path: write(`${cache}/${name}`, bytes) };
    }
  } catch { /* read-only or full: the directory of this run will do */ }
  try {
    const directory = Deno.makeTempDirSync({ prefix: "microgpt-" });
    globalThis.addEventListener("unload", () => removeQuietly(directory));
    return { path: write(`${directory}/${name}`, bytes) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return {
      why: `${cache ?? "the directory for temporary files"} cannot be written: ${reason}`,
      hint: "set XDG_CACHE_HOME to a directory that can",
    };
  }
}

/** Writes under another name and renames, so that nobody finds half a library. */
function write(path: string, bytes: Uint8Array): string {
  const part = `${path}.${randomUUID()}.part`;
  try {
    Deno.writeFileSync(part, bytes, { mode: 0o755 });
    Deno.renameSync(part, path);
    return path;
  } catch (error) {
    removeQuietly(part);
    throw error;
  }
}

/** Removes what may not be there, or, on Windows, may still be open. */
function removeQuietly(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch { /* it is of no use to anyone, and does no harm */ }
}

/** A file of that size in the cache. */
async function readKept(path: string, size: number): Promise<Uint8Array | undefined> {
  try {
    return (await Deno.stat(path)).size === size ? await Deno.readFile(path) : undefined;
  } catch {
    return undefined; // not there, or useless: it is downloaded again
  }
}

function isFile(bytes: Uint8Array, file: NativeFile): boolean {
  return bytes.length === file.bytes && sha256(bytes) === file.sha256;
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The permissions that a download lacks, as the text that follows `--allow-`. */
function lacking(url: URL, cache: string | undefined): string[] {
  const at = cache === undefined ? {} : { path: cache };
  const scope = cache === undefined ? "" : `=${cache}`;
  return [
    ...(CACHE_VARIABLES.some((variable) => granted({ name: "env", variable }))
      ? []
      : [`env=${CACHE_VARIABLES.join(",")}`]),
    ...(granted({ name: "ffi", ...at }) ? [] : ["ffi"]),
    ...(granted({ name: "net", host: url.host }) ? [] : [netFlag(url)]),
    ...(granted({ name: "read", ...at }) ? [] : [`read${scope}`]),
    ...(granted({ name: "write", ...at }) ? [] : [`write${scope}`]),
  ];
}

/** GitHub answers a request for an asset with a redirect to another host. */
function netFlag({ host }: URL): string {
  return `net=${host}${host === "github.com" ? ",release-assets.githubusercontent.com" : ""}`;
}

function notAllowed(flags: string[]): Download {
  return {
    why: "it is not allowed to be downloaded or opened",
    hint: `run Deno with ${flags.map((flag) => `--allow-${flag}`).join(" ")}, or ${OTHER_DEVICES}`,
  };
}
