/** The weights of a Llama in a GGUF file, handed on row by row. */
import type { FileType } from "../../../device/device.ts";
import type { LlamaConfig } from "../../llama_config.ts";
import type { ParameterEntry, ParameterLayout } from "../../parameters.ts";
import { printable } from "../directory.ts";
import { badWeightError, rowPieces, type WeightSink } from "../weight_source.ts";
import { dequantize } from "./dequantize.ts";
import { ggufName, isInterleaved } from "./llama_tensors.ts";
import type { GgufTensors } from "./read.ts";
import { interleavedToHalves } from "./rope_order.ts";
import { readBlocks } from "./tensor_values.ts";
import { bytesOf, type GgufTensor, TENSOR_TYPES, type TensorType } from "./types.ts";

/** Memory that pieces share: what each would leave behind stays in the process for a while. */
class Buffers {
  #blocks = new Uint8Array(0);
  #values = new Float32Array(0);

  blocks(length: number): Uint8Array<ArrayBuffer> {
    if (this.#blocks.length < length) this.#blocks = new Uint8Array(length);
    return this.#blocks.subarray(0, length);
  }

  values(length: number): Float32Array<ArrayBuffer> {
    if (this.#values.length < length) this.#values = new Float32Array(length);
    return this.#values.subarray(0, length);
  }
}

/** Whether numbers of a type are handed on as they are in the file. */
function isFileType(type: TensorType): type is FileType {
  return type === "F32" || type === "F16" || type === "BF16" || type === "Q8_0";
}

/**
 * Hands all weights on, rows of q and k in the rotate-half order: as they are in the file where a device may take them so,
 * dequantized where not.
 * @param layout of HuggingFace's names and the config's shapes
 * @throws {MicrogptError} when the file shrank, or `sink` did not take a number
 */
export async function sendGgufWeights(
  gguf: GgufTensors,
  config: LlamaConfig,
  layout: ParameterLayout,
  sink: WeightSink,
): Promise<void> {
  const buffers = new Buffers();
  for (const entry of layout.entries) {
    const tensor = gguf.byName.get(ggufName(entry.name));
    if (!tensor) throw new RangeError(`${gguf.path} has no tensor for ${entry.name}`);
    await sendTensor(
      gguf,
      tensor,
      entry,
      isInterleaved(entry.name, config) ? config.head_dim : 1,
      sink,
      buffers,
    );
  }
}

/** @param unit rows of a head that is interleaved, else 1 */
async function sendTensor(
  gguf: GgufTensors,
  tensor: GgufTensor,
  entry: ParameterEntry,
  unit: number,
  sink: WeightSink,
  buffers: Buffers,
): Promise<void> {
  const { type } = tensor;
  const { cols, shape } = entry;
  const isVector = shape.length === 1;
  const rowBytes = bytesOf(type, cols);
  // what is dequantized grows: pieces are cut by what they become
  const pieceBytes = isFileType(type) ? rowBytes : 4 * cols;
  for (const { first, count } of rowPieces(entry.rows, pieceBytes, isVector ? 1 : unit)) {
    const blocks = buffers.blocks(count * rowBytes);
    await readBlocks(gguf, tensor, blocks, isVector ? undefined : { first, end: first + count });
    // a bias is a column of rows of one number
    if (unit > 1) interleavedToHalves(blocks, unit, isVector ? TENSOR_TYPES[type].bytes : rowBytes);
    let bad;
    if (isFileType(type)) {
      bad = sink(entry, first, type, blocks);
    } else {
      const values = buffers.values(count * cols);
      dequantize(type, blocks, values);
      bad = sink(entry, first, "F32", new Uint8Array(values.buffer, 0, values.byteLength));
    }
    if (!bad) continue;
    throw badWeightError(
      bad,
      `${gguf.path}: tensor ${printable(tensor.name)}`,
      `row ${first + Math.floor(bad.index / cols)}, column ${bad.index % cols}`,
      "the weights are broken; download the file again, or take another",
    );
  }
}
