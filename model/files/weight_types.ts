/** The types that matrices are held in for generating. */
import type { WeightMatrix, WeightType } from "../../device/device.ts";
import type { ParameterBlock, ParameterLayout } from "../parameters.ts";
import type { TensorType } from "./gguf/types.ts";
import type { WeightSource } from "./weight_source.ts";

/** Numbers of a row that share a scale in q8. */
export const Q8_BLOCK = 32;

/** How each type of a file is held where nobody asks for another: exactly, but for types of fewer than 8 bits. */
function typeOf(fileType: TensorType): WeightType {
  switch (fileType) {
    case "F32":
      return "f32";
    case "F16":
      return "f16";
    case "BF16":
      return "bf16";
    default:
      return "q8";
  }
}

/** The type that holds two others: each exactly, but q8 beside 16 bits, whose products of scale and number are rounded. */
function common(a: WeightType, b: WeightType): WeightType {
  if (a === b) return a;
  if (a === "q8") return b;
  return b === "q8" ? a : "f32";
}

/**
 * The type of a block: the one asked for, else that of the file. Q8 takes only rows of whole blocks.
 * @returns undefined for what is no matrix
 */
function blockType(
  { entries }: ParameterBlock,
  types: WeightSource["types"],
  dtype: WeightType | undefined,
): WeightType | undefined {
  const { cols, shape } = entries[0]!;
  if (shape.length === 1) return undefined;
  const inFile = entries.map(({ name }) => typeOf(types.get(name) ?? "F32")).reduce(common);
  const wanted = dtype ?? inFile;
  if (wanted !== "q8" || cols % Q8_BLOCK === 0) return wanted;
  return inFile === "f16" ? "f16" : "bf16";
}

/** The matrices of a model, each with its type. */
export function weightMatrices(
  layout: ParameterLayout,
  types: WeightSource["types"],
  dtype?: WeightType,
): WeightMatrix[] {
  return layout.blocks.flatMap((block) => {
    const type = blockType(block, types, dtype);
    const { cols } = block.entries[0]!;
    return type ? [{ offset: block.offset, rows: (block.end - block.offset) / cols, cols, type }] : [];
  });
}

/** Bytes that weights take where a device holds each matrix in a type of its own. */
export function heldBytes(layout: ParameterLayout, matrices: readonly WeightMatrix[]): number {
  const bits: Record<WeightType, number> = { f32: 32, bf16: 16, f16: 16, q8: 8 + 16 / Q8_BLOCK };
  let [bytes, elements] = [0, 0];
  for (const { rows, cols, type } of matrices) {
    bytes += rows * cols * bits[type] / 8;
    elements += rows * cols;
  }
  return bytes + 4 * (layout.count - elements);
}
