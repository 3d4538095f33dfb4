/** The weights of a HuggingFace directory, in one safetensors file or in shards with an index; read by range. */
import { type FileHandle, files, SEEK_START } from "../../../platform/files.ts";
import { join } from "../../../platform/paths.ts";
import { MicrogptError } from "../../../device/errors.ts";
import type { ParameterEntry, ParameterLayout } from "../../parameters.ts";
import { fileError, ifThere, parseObject, printable } from "../directory.ts";
import { dtypeOf, readHeader, readTensorValues, type TensorInfo } from "../safetensors.ts";
import { sendRows } from "../safetensors_rows.ts";
import type { WeightSink } from "../weight_source.ts";
import { isIgnored } from "./tensors.ts";

/** The weights, where they are in one file. */
export const ONE_FILE = "model.safetensors";
/** Says which file each tensor is in, where there are several. */
export const INDEX = "model.safetensors.index.json";
/** An index takes about 100 bytes a tensor. */
const MAX_INDEX_BYTES = 8 << 20;
const MAX_SHARDS = 1024;

const HEAD = "lm_head.weight";
const EMBEDDING = "model.embed_tokens.weight";

/** Bytes of two tensors that are compared at a time. */
const COMPARED_BYTES = 1 << 20;

/** A tensor and the file that it is in. */
interface Place {
  tensor: TensorInfo;
  path: string;
}

/** The weights of a directory: where each tensor lies. No file is open. */
export interface HfWeights {
  /** by HuggingFace's names, ignored ones left out */
  places: Map<string, Place>;
  /** "F32", or several joined with "+" */
  dtype: string;
  /** size of all tensors in the files */
  bytes: number;
}

/** What the files of a model must hold. */
export interface ExpectedTensors {
  /** by name */
  shapes: ReadonlyMap<string, readonly number[]>;
  /** the head is the embedding, and need not be there */
  tied: boolean;
}

/**
 * Finds every tensor and compares names and shapes with the config; reads no values.
 * @throws {MicrogptError} for files that are missing or malformed, and tensors that are missing, there twice, or of
 *   another shape than the config asks for
 */
export async function findHfWeights(dir: string, expected: ExpectedTensors): Promise<HfWeights> {
  const index = await readIndex(dir);
  const names = index ? [...new Set(index.values())] : [ONE_FILE];
  const places = new Map<string, Place>();
  for (const name of names) {
    const path = join(dir, name);
    using file = await openWeights(path);
    for (const tensor of await readHeader(file, path)) {
      const before = places.get(tensor.name);
      if (before) {
        throw new MicrogptError(`${path}: tensor ${printable(tensor.name)} is in ${before.path} too`);
      }
      const expected = index?.get(tensor.name);
      if (index && expected !== name) {
        throw new MicrogptError(
          `${path} holds tensor ${printable(tensor.name)}, which ${INDEX} ${
            expected === undefined ? "does not name" : `puts in ${expected}`
          }`,
        );
      }
      places.set(tensor.name, { tensor, path });
    }
  }
  for (const [tensor, name] of index ?? []) {
    if (!places.has(tensor)) {
      throw new MicrogptError(
        `${join(dir, name)} has no tensor ${printable(tensor)}, which ${INDEX} puts there`,
      );
    }
  }
  const head = expected.tied && places.get(HEAD);
  if (head && places.has(EMBEDDING)) await checkTied(head, places.get(EMBEDDING)!);
  checkTensors(dir, places, expected);
  const tensors = [...places.values()].map(({ tensor }) => tensor);
  return { places, dtype: dtypeOf(tensors), bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/** The file of each tensor as the index has it; undefined where the weights are in one file. */
async function readIndex(dir: string): Promise<Map<string, string> | undefined> {
  const path = join(dir, INDEX);
  try {
    if (await ifThere(files.stat(join(dir, ONE_FILE)))) return undefined;
    const info = await ifThere(files.stat(path));
    if (!info) return undefined; // opening the one file says that it is missing
    if (info.size > MAX_INDEX_BYTES) throw new MicrogptError(`${path}: ${info.size} bytes are no index`);
    return shardsOf(parseObject(await files.readTextFile(path), path), path);
  } catch (error) {
    throw fileError(`cannot read ${path}`, error);
  }
}

/** The file of each tensor, by a parsed index. */
export function shardsOf({ weight_map: map }: Record<string, unknown>, path: string): Map<string, string> {
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new MicrogptError(`${path}: there is no weight_map`);
  }
  for (const [tensor, name] of Object.entries(map)) {
    // only files of this directory: a name with a path could lead anywhere
    if (typeof name === "string" && /^[\w.-]+\.safetensors$/.test(name) && !name.startsWith(".")) continue;
    throw new MicrogptError(
      `${path}: tensor ${printable(tensor)} is put in ${printable(JSON.stringify(name) ?? "none")}, ` +
        "which is no safetensors file of this directory",
    );
  }
  const shards = new Map(Object.entries(map as Record<string, string>));
  const count = new Set(shards.values()).size;
  if (count === 0 || count > MAX_SHARDS) throw new MicrogptError(`${path}: names ${count} files`);
  return shards;
}

async function openWeights(path: string): Promise<FileHandle> {
  try {
    const info = await files.stat(path);
    // opening a pipe would wait for ever
    if (!info.isFile) throw new MicrogptError(`${path} is not a regular file`);
    return await files.open(path);
  } catch (error) {
    throw fileError(
      `cannot read ${path}`,
      error,
      "the download is not complete; get the whole directory again",
    );
  }
}

/** Some files have a tied head beside the embedding that it is. @throws {MicrogptError} where it is another */
async function checkTied(head: Place, embedding: Place): Promise<void> {
  const differs = new MicrogptError(
    `${head.path}: config.json ties the head to the embedding, but ${HEAD} is another matrix`,
    { hint: "where the model has a head of its own, tie_word_embeddings is false" },
  );
  const [a, b] = [head.tensor, embedding.tensor];
  if (a.bytes !== b.bytes || a.dtype !== b.dtype) throw differs;
  using one = await openWeights(head.path);
  using other = await openWeights(embedding.path);
  for (let at = 0; at < a.bytes; at += COMPARED_BYTES) {
    const count = Math.min(COMPARED_BYTES, a.bytes - at);
    const [left, right] = [
      await readAt(one, a.offset + at, count),
      await readAt(other, b.offset + at, count),
    ];
    if (left.some((byte, i) => byte !== right[i])) throw differs;
  }
}

async function readAt(file: FileHandle, offset: number, count: number): Promise<Uint8Array> {
  await file.seek(offset, SEEK_START);
  const bytes = new Uint8Array(count);
  for (let have = 0; have < count;) {
    const read = await file.read(bytes.subarray(have));
    if (read === null) break; // whoever reads the values says that it is cut off
    have += read;
  }
  return bytes;
}

/** @throws {MicrogptError} unless the tensors are those of the config */
function checkTensors(dir: string, places: Map<string, Place>, { shapes, tied }: ExpectedTensors): void {
  for (const [name, { tensor: { shape }, path }] of places) {
    const wanted = shapes.get(name);
    if (!wanted) {
      if (!isIgnored(name, tied)) {
        throw new MicrogptError(`${path}: tensor ${printable(name)} is no part of the model in config.json`);
      }
      places.delete(name);
    } else if (shape.length !== wanted.length || shape.some((n, i) => n !== wanted[i])) {
      throw new MicrogptError(
        `${path}: tensor ${name} has shape ${printable(`[${shape.join(", ")}]`)}, ` +
          `config.json asks for [${wanted.join(", ")}]`,
        { hint: "the files come from different models; get the whole directory again" },
      );
    }
  }
  for (const name of shapes.keys()) {
    if (!places.has(name)) throw new MicrogptError(`${dir}: tensor ${name} is in none of the weight files`);
  }
}

/**
 * Reads all weights, each straight to its place in the flat array.
 * @param layout of the same names and shapes
 * @param flat [layout.length], zeros where nothing is read
 * @throws {MicrogptError} when a file changed since it was looked at, or holds a value that is not finite
 */
export async function readHfWeights(
  weights: HfWeights,
  layout: ParameterLayout,
  flat: Float32Array<ArrayBuffer>,
): Promise<void> {
  await forEachTensor(weights, layout, (file, { path, tensor }, entry) => {
    return readTensorValues(file, path, tensor, entry, flat);
  });
}

/**
 * Hands all weights on, as they are in the files.
 * @param layout of the same names and shapes
 * @throws {MicrogptError} when a file changed since it was looked at, or `sink` did not take a number
 */
export async function sendHfWeights(
  weights: HfWeights,
  layout: ParameterLayout,
  sink: WeightSink,
): Promise<void> {
  await forEachTensor(weights, layout, async (file, { path, tensor }, entry) => {
    await file.seek(tensor.offset, SEEK_START);
    await sendRows(file, path, tensor, entry, sink);
  });
}

/** Visits all parameters, file by file, each of which is opened once. */
async function forEachTensor(
  { places }: HfWeights,
  layout: ParameterLayout,
  visit: (file: FileHandle, place: Place, entry: ParameterEntry) => Promise<void>,
): Promise<void> {
  const byFile = Map.groupBy(layout.entries, ({ name }) => {
    const place = places.get(name);
    if (!place) throw new RangeError(`the file has no tensor ${name}`);
    return place.path;
  });
  for (const [path, entries] of byFile) {
    using file = await openWeights(path);
    for (const entry of entries) await visit(file, places.get(entry.name)!, entry);
  }
}
