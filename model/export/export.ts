/** Exports a model for use elsewhere: what `microgpt export` does, for programs. */
import { files } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import type { ModelConfig } from "../config.ts";
import type { DeviceOptions } from "../devices.ts";
import type { GptConfig } from "../gpt.ts";
import { readModel, readModelHeader, saveInferenceModel } from "../files/checkpoint.ts";
import { MicrogptError } from "../../device/errors.ts";
import { checkOptions, type Options, type OptionValues } from "../../device/options.ts";
import { modelKind } from "../files/any_model.ts";
import { localModel } from "../files/hub/download.ts";
import { ifThere, openIfThere, sameDirectory, weightsFile } from "../files/directory.ts";
import { RunLock } from "../files/lock.ts";
import type { FileDtype } from "../files/safetensors.ts";
import type { ExportType } from "./llama_export.ts";

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
  const { format = EXPORT_OPTIONS.format.default, half = EXPORT_OPTIONS.half.default, type, ...where } =
    options;
  checkType(options);
  from = await localModel(from);
  const dtype = type ?? (half ? "f16" : "f32");
  if (format === "hf") return await exportForTransformers(from, to, dtype);
  if (format === "gguf") {
    const { exportGgufDirectory, readLlama } = await import("./llama_export.ts");
    const source = await readLlama(from, format);
    return await lockedExport(from, to, () => exportGgufDirectory(to, source, dtype));
  }
  await checkIsOurs(from, format);
  const model = await readModel(from);
  await checkIsOther(from, to);
  using _lock = await RunLock.take(to);
  if (format === "safetensors") {
    await saveInferenceModel(to, model, { half });
    const file = join(to, weightsFile(model.config.architecture));
    return { file, bytes: (await files.stat(file)).size };
  }
  const config = gptConfigOf(model.config);
  const { checkOnnxOutput, exportOnnx } = await import("./onnx_export.ts");
  await checkOnnxOutput(to); // before a device is opened for it
  const { openDevice } = await import("../devices.ts");
  const { withPromptLogits } = await import("./onnx_verify.ts");
  const device = await openDevice(where);
  try {
    const done = await exportOnnx(to, { ...model, config }, {
      half,
      reference: (params, run) => withPromptLogits(device, config, params, run),
    });
    return { file: join(to, "model.onnx"), ...done };
  } finally {
    device.destroy();
  }
}

async function exportForTransformers(from: string, to: string, type: ExportType): Promise<ExportResult> {
  if (type === "q8_0") {
    throw new MicrogptError("`type` q8_0 is for `format` gguf: transformers has no such type", {
      hint: "write f32, f16 or bf16",
      usage: true,
    });
  }
  const dtype = type.toUpperCase() as FileDtype;
  if (await isGpt(from)) {
    const model = await readModel(from);
    const { exportGptHf } = await import("./gpt_hf_export.ts");
    const config = gptConfigOf(model.config);
    return await lockedExport(from, to, () => exportGptHf(to, { ...model, config }, dtype));
  }
  const { exportHf, readLlama } = await import("./llama_export.ts");
  const source = await readLlama(from, "hf");
  return await lockedExport(from, to, () => exportHf(to, source, dtype));
}

async function isGpt(path: string): Promise<boolean> {
  if (await modelKind(path) !== "microgpt" || !(await ifThere(files.stat(path)))?.isDirectory) return false;
  using meta = await openIfThere(path, "meta.json");
  return meta !== undefined && (await readModelHeader(path)).config.architecture !== "llama";
}

/** @param write writes the export. @returns path of its weights */
async function lockedExport(from: string, to: string, write: () => Promise<string>): Promise<ExportResult> {
  await checkIsOther(from, to);
  using _lock = await RunLock.take(to);
  const file = await write();
  return { file, bytes: (await files.stat(file)).size };
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

/** @throws {MicrogptError} for a model of others, which has formats of its own */
async function checkIsOurs(from: string, format: string): Promise<void> {
  const kind = await modelKind(from);
  if (kind === "microgpt") return;
  throw new MicrogptError(
    `${from} is a ${
      kind === "gguf" ? "GGUF file" : "HuggingFace directory"
    }, which does not become ${format}`,
    { hint: "export it with `format` hf or gguf", usage: true },
  );
}

/** @throws {MicrogptError} when both are one directory */
async function checkIsOther(from: string, to: string): Promise<void> {
  if (!await sameDirectory(from, to)) return;
  throw new MicrogptError(`the export would replace the model it is made from: ${to}`, {
    hint: "give another directory with `output`",
    usage: true,
  });
}

/** @throws {MicrogptError} for another architecture */
function gptConfigOf({ architecture = "gpt", ...config }: ModelConfig): GptConfig {
  if (architecture === "gpt") return config;
  throw new MicrogptError(
    `\`format\` onnx is for the architecture gpt, and this model is a ${architecture}`,
    {
      hint: "export it with `format` hf or gguf",
      usage: true,
    },
  );
}
