/** Writes an export in one of the formats, for `exportModel`, which has checked the options. */
import { files } from "../../platform/files.ts";
import { join } from "../../platform/paths.ts";
import type { ModelConfig } from "../config.ts";
import type { GptConfig } from "../gpt.ts";
import { type LoadedModel, readModel, readModelHeader, saveInferenceModel } from "../files/checkpoint.ts";
import { MicrogptError } from "../../device/errors.ts";
import { modelKind, readAnyModel } from "../files/any_model.ts";
import { readHfConfig } from "../files/hf/directory.ts";
import { GPT_TYPE } from "../files/hf/gpt_directory.ts";
import { localModel } from "../files/hub/local_model.ts";
import { ifThere, openIfThere, sameDirectory, weightsFile } from "../files/directory.ts";
import { networkOf } from "../networks.ts";
import { RunLock } from "../files/lock.ts";
import type { FileDtype } from "../files/safetensors.ts";
import { EXPORT_OPTIONS, type ExportOptions, type ExportResult } from "./export.ts";
import type { ExportType } from "./llama_export.ts";

/** @see exportModel */
export async function writeExport(from: string, to: string, options: ExportOptions): Promise<ExportResult> {
  const { format = EXPORT_OPTIONS.format.default, half = EXPORT_OPTIONS.half.default, type, ...where } =
    options;
  from = await localModel(from);
  const dtype = type ?? (half ? "f16" : "f32");
  if (format === "hf") return await exportForTransformers(from, to, dtype);
  if (format === "gguf") {
    const { exportGgufDirectory, readLlama } = await import("./llama_export.ts");
    const source = await readLlama(from, format);
    return await lockedExport(from, to, () => exportGgufDirectory(to, source, dtype));
  }
  const model = await readOwn(from, format);
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
    const model = await readOwn(from, "hf");
    const { exportGptHf } = await import("./gpt_hf_export.ts");
    const config = gptConfigOf(model.config);
    return await lockedExport(from, to, () => exportGptHf(to, { ...model, config }, dtype));
  }
  const { exportHf, readLlama } = await import("./llama_export.ts");
  const source = await readLlama(from, "hf");
  return await lockedExport(from, to, () => exportHf(to, source, dtype));
}

async function isGpt(path: string): Promise<boolean> {
  const kind = await modelKind(path);
  if (kind === "huggingface") return (await readHfConfig(path)).model_type === GPT_TYPE;
  if (kind !== "microgpt" || !(await ifThere(files.stat(path)))?.isDirectory) return false;
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

/**
 * Reads a model of this program, from its own directory or from a gpt's export for transformers.
 * @throws {MicrogptError} for a model of others, which has formats of its own
 */
async function readOwn(from: string, format: string): Promise<LoadedModel> {
  const kind = await modelKind(from);
  if (kind === "microgpt") return await readModel(from);
  if (kind === "huggingface" && await isGpt(from)) {
    const { config, chat, tokenizer, fileDtype, readParameters } = await readAnyModel(from);
    const { layout } = networkOf(config);
    const params = await readParameters(layout);
    return { config, chat, tokenizerJson: tokenizer.json, layout, params, fileDtype };
  }
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
