/** A model's own copy. */
import { basename, dirname, join } from "node:path";
import { forEachChunk, writeHashed } from "./digest.ts";
import { fileError, ifThere, MODEL_FILES } from "./directory.ts";
import { syncDirectory } from "./publish.ts";

/**
 * Copies the files of an inference model, so that `to` appears whole or not at all.
 * @param from directory of a model or a training checkpoint
 * @param to directory that is not there yet; one that another program makes meanwhile is left as it is
 * @throws {MicrogptError} when something cannot be read or written
 */
export async function copyModel(from: string, to: string): Promise<void> {
  const parent = dirname(to);
  try {
    await Deno.mkdir(parent, { recursive: true });
    const staging = await Deno.makeTempDir({ dir: parent, prefix: `.${basename(to)}-` });
    try {
      await copyInto(from, staging);
      await Deno.rename(staging, to);
      await syncDirectory(parent);
    } catch (error) {
      await ifThere(Deno.remove(staging, { recursive: true }));
      // another program was quicker
      if (await ifThere(Deno.stat(join(to, "weights.safetensors")))) return;
      throw error;
    }
  } catch (error) {
    throw fileError(`cannot copy the model to ${to}`, error);
  }
}

async function copyInto(from: string, staging: string): Promise<void> {
  for (const name of MODEL_FILES) {
    // with permissions of its own: the files copied may be read-only
    using source = await Deno.open(join(from, name));
    await writeHashed(join(staging, name), (file) => forEachChunk(source, (chunk) => file.write(chunk)));
  }
  if (Deno.build.os !== "windows") await Deno.chmod(staging, 0o755);
  await syncDirectory(staging);
}
