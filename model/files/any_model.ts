/**
 * Reads a model of any kind: a directory of this program, a HuggingFace directory or a GGUF file. What it is shows in the
 * files, not in their names; an ONNX export is recognised too, but has no weights to go on from.
 */
import { type FileHandle, type FileInfo, files, isFileError } from "../../platform/files.ts";
import { basename, join } from "../../platform/paths.ts";
import { parseTokenizerJson, type TokenizerFile } from "../../data/tokenizer_json.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { ModelConfig } from "../config.ts";
import type { ParameterLayout } from "../parameters.ts";
import { readModel, readModelHeader, sendModelWeights } from "./checkpoint.ts";
import { ownRules, type TextRules } from "./description.ts";
import { fileError, ifThere, isOnnxExport } from "./directory.ts";
import { readHfConfig, readHfDirectory } from "./hf/directory.ts";
import { GPT_TYPE, readGptHfDirectory, torchLayout } from "./hf/gpt_directory.ts";
import { type HfWeights, readHfWeights, sendHfWeights } from "./hf/weights.ts";
import { newParameters } from "./safetensors.ts";
import type { WeightSource } from "./weight_source.ts";

/** What a model is on disk. */
export type ModelKind = "microgpt" | "huggingface" | "gguf";

/** A model, described; its weights are not read yet. */
export interface AnyModel extends TextRules, WeightSource {
  kind: ModelKind;
  path: string;
  /** what people call it: the name of its file or directory */
  name: string;
  config: ModelConfig;
  /** ids from its tokens to vocab_size are never to be drawn */
  tokenizer: TokenizerFile;
  /** it was trained on conversations */
  chat: boolean;
  /** texts and conversations are written in this program's own way; the template tells other programs of it */
  ownWay: boolean;
  /** element types in the file, several joined with "+" */
  fileDtype: string;
  /** bytes of the weights in the file */
  weightsBytes: number;
  /**
   * Reads the weights, each straight to its place.
   * @param layout of the config's network
   * @returns [layout.length], zeros between blocks
   * @throws {MicrogptError} when a file changed since it was described, or a value is not finite
   */
  readParameters(layout: ParameterLayout): Promise<Float32Array<ArrayBuffer>>;
}

/**
 * What a path is taken for. Whatever is not known for a model of others counts as ours, also where there is nothing:
 * reading it then says what is wrong.
 */
export async function modelKind(path: string): Promise<ModelKind> {
  try {
    const info = await look(path);
    if (info?.isFile) return /\.gguf$/i.test(path) || await startsAsGguf(path) ? "gguf" : "microgpt";
    for (const name of ["meta.json", ".saved", "model.onnx"]) {
      if (await look(join(path, name))) return "microgpt";
    }
    return await look(join(path, "config.json")) ? "huggingface" : "microgpt";
  } catch (error) {
    if (error instanceof MicrogptError) return "microgpt"; // it may not be looked at
    throw error;
  }
}

async function startsAsGguf(path: string): Promise<boolean> {
  using file = await open(path);
  const bytes = new Uint8Array(4);
  return await file.read(bytes) === 4 && new TextDecoder().decode(bytes) === "GGUF";
}

/**
 * Finds out what a path is and describes the model there.
 * @throws {MicrogptError} when there is none, it is of a kind or network that is not read, or its files are malformed
 */
export async function readAnyModel(path: string): Promise<AnyModel> {
  const info = await look(path);
  if (!info) {
    throw new MicrogptError(`there is no model at ${path}`, {
      hint: "name a directory that `train` wrote, a HuggingFace directory or a .gguf file",
    });
  }
  if (info.isFile) {
    const { describeGguf } = await import("./gguf/describe.ts");
    return await describeGguf(path);
  }
  if (!info.isDirectory) throw new MicrogptError(`${path} is neither a file nor a directory`);
  if (await look(join(path, "meta.json")) || await look(join(path, ".saved"))) return await describeOwn(path);
  if (await isOnnxExport(path)) {
    throw new MicrogptError(
      `${path} is an ONNX export: it runs in transformers.js, onnxruntime and \`OnnxModel\``,
      { hint: "name the directory that it was exported from" },
    );
  }
  if (await look(join(path, "config.json"))) return await describeHf(path);
  throw new MicrogptError(`${path} holds no model: there is neither meta.json nor config.json`, {
    hint: "name a directory that `train` wrote, a HuggingFace directory or a .gguf file",
  });
}

async function look(path: string): Promise<FileInfo | undefined> {
  try {
    return await ifThere(files.stat(path));
  } catch (error) {
    if (isFileError(error, "NotADirectory")) return undefined;
    throw fileError(`cannot look at ${path}`, error);
  }
}

async function describeOwn(path: string): Promise<AnyModel> {
  const header = await readModelHeader(path);
  const { config, chat, tokenizerJson, rules, fileDtype, weightsBytes, types } = header;
  const tokenizer = parseTokenizerJson(tokenizerJson);
  return {
    kind: "microgpt",
    path,
    name: basename(path),
    config,
    tokenizer,
    chat,
    ownWay: rules === undefined,
    ...(rules ?? ownRules(tokenizer.ids, chat)),
    fileDtype,
    weightsBytes,
    types,
    readParameters: async () => (await readModel(path)).params,
    readWeights: (_, sink) => sendModelWeights(path, header, sink),
  };
}

/** A gpt of this program that was exported for transformers. */
async function describeGptHf(path: string, json: Record<string, unknown>): Promise<AnyModel> {
  const { config, weights, types, tokenizer, chat } = await readGptHfDirectory(path, json);
  return {
    kind: "huggingface",
    path,
    name: basename(path),
    config,
    tokenizer,
    chat,
    ownWay: true,
    ...ownRules(tokenizer.ids, chat),
    types,
    ...weightsOf(path, weights, torchLayout),
  };
}

async function describeHf(path: string): Promise<AnyModel> {
  const json = await readHfConfig(path);
  if (json.model_type === GPT_TYPE) return await describeGptHf(path, json);
  const { config, weights, tokenizer, chatTemplate, ends, addBos } = await readHfDirectory(path, json);
  return {
    kind: "huggingface",
    path,
    name: basename(path),
    config,
    tokenizer,
    chat: chatTemplate !== undefined,
    ownWay: false,
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ends,
    addBos,
    types: new Map([...weights.places].map(([name, { tensor }]) => [name, tensor.dtype])),
    ...weightsOf(path, weights, (layout) => layout),
  };
}

/** How the weights of a HuggingFace directory are read. @param named gives a layout the names that the files have */
function weightsOf(
  path: string,
  weights: HfWeights,
  named: (layout: ParameterLayout) => ParameterLayout,
): Pick<AnyModel, "fileDtype" | "weightsBytes" | "readParameters" | "readWeights"> {
  return {
    fileDtype: weights.dtype,
    weightsBytes: weights.bytes,
    readParameters: async (layout) => {
      const flat = newParameters(layout, path);
      await readHfWeights(weights, named(layout), flat);
      return flat;
    },
    readWeights: (layout, sink) => sendHfWeights(weights, named(layout), sink),
  };
}

async function open(path: string): Promise<FileHandle> {
  try {
    return await files.open(path);
  } catch (error) {
    throw fileError(`cannot read ${path}`, error);
  }
}
