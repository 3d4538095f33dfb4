/** Paths of models, of which those of HuggingFace's hub are downloaded first. */
import { isHubName } from "./name.ts";

/** How far a download is. */
export interface DownloadProgress {
  /** the file that comes */
  file: string;
  /** bytes of all files of the model that are here */
  received: number;
  /** bytes of all files of the model */
  total: number;
}

/** What a caller may want to hear while a model is downloaded. */
export interface DownloadOptions {
  /** called as bytes come */
  progress?: (progress: DownloadProgress) => void;
  /** called with what a person should know */
  notice?: (message: string) => void;
}

/**
 * The path of a model: of `hf:OWNER/NAME[@REVISION][:FILE.gguf]` the directory or file in the cache, after what is missing
 * was downloaded; any other path as it is. Asks the hub at HF_ENDPOINT (default: huggingface.co), with HF_TOKEN where it is
 * set. A model that was downloaded before needs no network.
 *
 * @example
 * ```ts
 * import { localModel } from "../../../mod.ts";
 *
 * console.log(await localModel("names-model")); // names-model
 * ```
 *
 * @param options progress and notices
 * @throws {MicrogptError} when there is no such model, it is of a kind that is not read, the network fails, or what came is
 *   not what the hub lists; what came until the network failed is kept, and the next call goes on
 */
export async function localModel(path: string, options: DownloadOptions = {}): Promise<string> {
  if (!isHubName(path)) return path;
  const { downloadModel } = await import("./download.ts");
  return await downloadModel(path, options);
}
