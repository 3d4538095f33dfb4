/** Whether a directory may take an export for other programs: only an earlier export that nobody changed is replaced. */
import { files } from "../../platform/files.ts";
import { sha256 } from "../../platform/hash.ts";
import { join } from "../../platform/paths.ts";
import { MicrogptError } from "../../device/errors.ts";
import { COMMITTED, GGUF_FILES, STAGING } from "../files/directory.ts";
import { fileSource } from "../files/gguf/file_source.ts";
import { readGguf } from "../files/gguf/read.ts";
import { HF_FILES, HF_PRODUCER } from "../files/hf/directory.ts";
import { checkWritable } from "../files/output_directory.ts";
import { checkStaged, isEntry, namesOf, notOurs } from "../files/own_files.ts";
import { readMetadata } from "../files/safetensors.ts";

/** In the metadata of a GGUF export: the SHA-256 of the Modelfile beside it. */
export const MODELFILE_KEY = "microgpt.modelfile.sha256";

/** The digest of a text, as marks have it. */
export function textDigest(text: string): string {
  return sha256().update(text).digest("hex");
}

/**
 * Checks that a HuggingFace directory may be written to `dir`. An earlier export is known by its weights' file, which
 * names the digests of the texts beside it.
 * @throws {MicrogptError} when it cannot be written, or holds a model or what is not ours
 */
export async function checkHfOutput(dir: string): Promise<void> {
  await checkOutput(dir, HF_FILES, "model.safetensors", async (path) => {
    using file = await files.open(path);
    const { format: _, producer, ...digests } = await readMetadata(file, path);
    return producer === HF_PRODUCER ? digests : undefined;
  });
}

/** Removes files of the earlier export that this one does not have, which would be taken for its own; all were checked. */
export async function removeOldHf(dir: string, written: readonly string[]): Promise<void> {
  const there = await namesOf(dir);
  for (const name of HF_FILES) {
    if (!written.includes(name) && there.includes(name)) await files.remove(join(dir, name));
  }
}

/**
 * Checks that a GGUF file and its Modelfile may be written to `dir`.
 * @throws {MicrogptError} when it cannot be written, or holds a model or what is not ours
 */
export async function checkGgufOutput(dir: string): Promise<void> {
  await checkOutput(dir, GGUF_FILES, "model.gguf", async (path) => {
    using file = await files.open(path);
    const { metadata } = await readGguf(await fileSource(file, path), path);
    return metadata.has(MODELFILE_KEY) ? { Modelfile: metadata.string(MODELFILE_KEY) } : undefined;
  });
}

/**
 * @param weights the name of the file that vouches for the others
 * @param digestsOf reads what it says of them: undefined when another program made it
 */
async function checkOutput(
  dir: string,
  names: readonly string[],
  weights: string,
  digestsOf: (path: string) => Promise<Record<string, string> | undefined>,
): Promise<void> {
  await checkWritable(dir);
  for (const name of [STAGING, COMMITTED]) await checkStaged(dir, name);
  if (await isEntry(dir, "meta.json", "file")) {
    throw new MicrogptError(`${dir} holds a model (meta.json), which this would break`, {
      hint: "choose another directory with `output`",
    });
  }
  // of an export that was not moved into place whole, the new files count
  const paths = new Map<string, string>();
  for (const name of names) {
    const staged = await isEntry(join(dir, COMMITTED), name, "file");
    if (await isEntry(dir, name, "file") || staged) {
      paths.set(name, staged ? join(dir, COMMITTED, name) : join(dir, name));
    }
  }
  const first = paths.keys().next().value;
  if (first === undefined) return;
  const vouching = paths.get(weights);
  if (vouching === undefined) throw notOurs(dir, first, `there is no ${weights} beside it`);
  const digests = await digestsOf(vouching).catch((error) => {
    if (error instanceof MicrogptError) throw notOurs(dir, weights, error.message);
    throw error;
  });
  if (!digests) throw notOurs(dir, weights, "another program made it");
  for (const [name, path] of paths) {
    if (name === weights || digests[name] === await digestOfSmall(path)) continue;
    throw notOurs(dir, name, "it is not what an export wrote");
  }
}

/** More than this no text of an export has. */
const MAX_TEXT_BYTES = 64 << 20;

async function digestOfSmall(path: string): Promise<string | undefined> {
  const { size } = await files.stat(path);
  return size > MAX_TEXT_BYTES ? undefined : textDigest(await files.readTextFile(path));
}
