/** A GGUF file of a Llama as a model of any kind. */
import { type FileHandle, files } from "../../../platform/files.ts";
import { basename } from "../../../platform/paths.ts";
import type { AnyModel } from "../any_model.ts";
import { fileError } from "../directory.ts";
import { llamaTensors } from "../hf/tensors.ts";
import { newParameters } from "../safetensors.ts";
import { fileSource } from "./file_source.ts";
import { llamaOfGguf } from "./llama_config.ts";
import { checkGgufTensors, ggufName, readGgufWeights } from "./llama_tensors.ts";
import { tokenizerOfGguf } from "./llama_tokenizer.ts";
import { readGguf } from "./read.ts";
import { sendGgufWeights } from "./send_weights.ts";

/** @throws {MicrogptError} when it is malformed, or of a network that is not read */
export async function describeGguf(path: string): Promise<AnyModel> {
  using file = await open(path);
  const gguf = await readGguf(await fileSource(file, path), path);
  const config = await llamaOfGguf(gguf);
  checkGgufTensors(gguf, config);
  const { tokenizer, chatTemplate, ends, addBos } = tokenizerOfGguf(gguf);
  // without the metadata, which has all tokens and merges once more
  const tensors = { path, byName: gguf.byName };
  return {
    kind: "gguf",
    path,
    name: basename(path).replace(/\.gguf$/i, ""),
    config,
    tokenizer,
    chat: chatTemplate !== undefined,
    ownWay: false,
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ends,
    addBos,
    fileDtype: [...new Set(gguf.tensors.map(({ type }) => type))].join("+"),
    weightsBytes: gguf.tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    types: new Map(
      [...llamaTensors(config).keys()].map((name) => [name, gguf.byName.get(ggufName(name))!.type]),
    ),
    readParameters: async (layout) => {
      using again = await open(path);
      const flat = newParameters(layout, path);
      await readGgufWeights({ ...tensors, source: await fileSource(again, path) }, config, layout, flat);
      return flat;
    },
    readWeights: async (layout, sink) => {
      using again = await open(path);
      await sendGgufWeights({ ...tensors, source: await fileSource(again, path) }, config, layout, sink);
    },
  };
}

async function open(path: string): Promise<FileHandle> {
  try {
    return await files.open(path);
  } catch (error) {
    throw fileError(`cannot read ${path}`, error);
  }
}
