/**
 * Writes native/manifest.json for a release: the version of deno.json, where the assets will lie, and the size and
 * SHA-256 of each platform's native library.
 *
 *   deno task manifest --releases https://github.com/OWNER/microgpt/releases/download DIR
 *
 * DIR holds the libraries as the release names them: microgpt_native-<target>.<so|dylib|dll>.
 */
import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import project from "../deno.json" with { type: "json" };
import { MicrogptError } from "../device/errors.ts";
import type { NativeFile, NativeManifest } from "../native/download.ts";

const ASSET = /^microgpt_native-(.+)\.(so|dylib|dll)$/;

/**
 * The manifest of the libraries in a folder.
 * @param releases the URL under which `v<version>/<file>` will be found
 * @throws {MicrogptError} when the folder holds no library
 */
export async function nativeManifest(
  directory: string,
  releases: string,
  version: string,
): Promise<NativeManifest> {
  const files: Record<string, NativeFile> = {};
  const names = Array.from(Deno.readDirSync(directory), ({ name }) => name).sort();
  for (const file of names) {
    const target = ASSET.exec(file)?.[1];
    if (target === undefined) continue;
    const bytes = await Deno.readFile(`${directory}/${file}`);
    files[target] = {
      file,
      bytes: bytes.length,
      sha256: createHash("sha256").update(bytes).digest("hex"),
    };
  }
  if (Object.keys(files).length === 0) {
    throw new MicrogptError(
      `${directory} holds no library named microgpt_native-<target>.so, .dylib or .dll`,
    );
  }
  return { version, releases: releases.replace(/\/+$/, ""), files };
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    args: Deno.args,
    options: { releases: { type: "string" } },
    allowPositionals: true,
  });
  if (values.releases === undefined || positionals.length !== 1) {
    console.error("usage: deno task manifest --releases URL DIR");
    Deno.exit(2);
  }
  const manifest = await nativeManifest(positionals[0]!, values.releases, project.version);
  const path = new URL("../native/manifest.json", import.meta.url);
  await Deno.writeTextFile(path, JSON.stringify(manifest, null, 2) + "\n");
  console.log(`native/manifest.json: ${Object.keys(manifest.files).join(", ")}`);
}
