/** A model's own copy. */
import { files } from "../../platform/files.ts";
import { os } from "../../platform/host.ts";
import { basename, dirname, join } from "../../platform/paths.ts";
import { forEachChunk, writeHashed } from "./digest.ts";
import { fileError, ifThere, MODEL_FILES } from "./directory.ts";

/**
 * Copies the files of an inference model, so that `to` appears whole or not at all.
 * @param from directory of a model or a training checkpoint
 * @param to directory that is not there yet; one that another program makes meanwhile is left as it is
 * @throws {MicrogptError} when something cannot be read or written
 */
export async function copyModel(from: string, to: string): Promise<void> {
  const { syncDirectory } = await import("./publish.ts");
  const parent = dirname(to);
  try {
    await files.mkdir(parent, { recursive: true });
    const staging = await files.makeTempDir({ dir: parent, prefix: `.${basename(to)}-` });
    try {
      await copyInto(from, staging);
      await syncDirectory(staging);
      await files.rename(staging, to);
      await syncDirectory(parent);
    } catch (error) {
      await ifThere(files.remove(staging, { recursive: true }));
      // another program was quicker
      if (await ifThere(files.stat(join(to, "weights.safetensors")))) return;
      throw error;
    }
  } catch (error) {
    throw fileError(`cannot copy the model to ${to}`, error);
  }
}

async function copyInto(from: string, staging: string): Promise<void> {
  for (const name of MODEL_FILES) {
    // with permissions of its own: the files copied may be read-only
    using source = await files.open(join(from, name));
    await writeHashed(join(staging, name), (file) => forEachChunk(source, (chunk) => file.write(chunk)));
  }
  if (os !== "windows") await files.chmod(staging, 0o755);
}
