/** Exports a model for use elsewhere: what `microgpt export` does, for programs. */
import { MicrogptError } from "../../device/errors.ts";
import { checkOptions, type Options, type OptionValues } from "../../device/options.ts";
import type { DeviceOptions } from "../devices.ts";

/** What is written, each option declared once. */
export const EXPORT_OPTIONS = {
  half: { type: "switch", default: false, help: "write weights as f16 instead of f32" },
  format: {
    type: "choice",
    choices: ["safetensors", "onnx", "hf", "gguf"],
    default: "safetensors",
    help: "safetensors for microgpt, onnx for transformers.js and onnxruntime; " +
      "hf for transformers, of a Llama also for MLX; of a Llama gguf for llama.cpp and ollama",
  },
  type: {
    type: "choice",
    choices: ["f32", "f16", "bf16", "q8_0"],
    help: "type of the matrices, with `format` hf or gguf (default f32); q8_0 for gguf alone",
  },
} as const satisfies Options;

/** How to export, and the device that checks an ONNX graph. */
export type ExportOptions = DeviceOptions & Partial<OptionValues<typeof EXPORT_OPTIONS>>;

/** The result of an export. */
export interface ExportResult {
  /** path of the file with the weights */
  file: string;
  /** its size */
  bytes: number;
  /** for ONNX: largest absolute difference between the graph's logits in onnxruntime and ours, on fixed prompts */
  maxDifference?: number;
}

/**
 * Writes an inference-only model. An ONNX graph is run and compared with our own logits before anything is written; the device
 * options say where those are computed. What is written for other programs is read back and compared before it counts.
 *
 * @example
 * ```ts
 * import { exportModel, train } from "../../mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * for await (const _ of train({ documents, output, steps: 2, nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 }));
 * const { file, bytes } = await exportModel(output, `${output}/half`, { half: true });
 * console.log(file, bytes);
 * ```
 *
 * @param from directory of a model or a training checkpoint; for hf and gguf also a HuggingFace directory or a
 *   GGUF file, or either of the hub as `localModel` takes it
 * @param to new directory, or one that holds an earlier export
 * @param options format, precision, and the device that checks an ONNX graph
 * @returns the file with the weights, its size, and for ONNX the largest difference
 * @throws {MicrogptError} for options out of range, when the model does not load, `to` cannot be written or holds something else, or an ONNX graph's
 * logits are further than 1e-3 from ours
 */
export async function exportModel(
  from: string,
  to: string,
  options: ExportOptions = {},
): Promise<ExportResult> {
  checkOptions(EXPORT_OPTIONS, options);
  checkType(options);
  const { writeExport } = await import("./write_export.ts");
  return await writeExport(from, to, options);
}

/** @throws {MicrogptError} for options that do not go together */
function checkType({ format = "safetensors", half, type }: ExportOptions): void {
  const usage = (message: string, hint: string) => new MicrogptError(message, { hint, usage: true });
  if (type === undefined) return;
  if (format !== "hf" && format !== "gguf") {
    throw usage("`type` is for the formats hf and gguf", "safetensors and onnx take `half`");
  }
  if (half && type !== "f16") throw usage(`\`half\` is f16, \`type\` says ${type}`, "give one of the two");
}
