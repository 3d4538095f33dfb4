/** Exports a model for use elsewhere: what `microgpt export` does, for programs. */
import { join } from "node:path";
import type { ModelConfig } from "../config.ts";
import type { DeviceOptions } from "../devices.ts";
import type { GptConfig } from "../gpt.ts";
import { readModel, saveInferenceModel } from "../files/checkpoint.ts";
import { MicrogptError } from "../../device/errors.ts";
import { checkOptions, type Options, type OptionValues } from "../../device/options.ts";
import { sameDirectory } from "../files/directory.ts";
import { RunLock } from "../files/lock.ts";

/** What is written, each option declared once. */
export const EXPORT_OPTIONS = {
  half: { type: "switch", default: false, help: "write weights as f16 instead of f32" },
  format: {
    type: "choice",
    choices: ["safetensors", "onnx"],
    default: "safetensors",
    help: "safetensors for microgpt, onnx for transformers.js and onnxruntime",
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
 * Writes an inference-only model. An ONNX graph is run and compared with our own logits before anything is written; the
 * device options say where those are computed.
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
 * @param from directory of a model or a training checkpoint
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
  const { format = EXPORT_OPTIONS.format.default, half = EXPORT_OPTIONS.half.default, ...where } = options;
  const model = await readModel(from);
  if (await sameDirectory(from, to)) {
    throw new MicrogptError(`the export would replace the model it is made from: ${to}`, {
      hint: "give another directory with `output`",
      usage: true,
    });
  }
  using _lock = await RunLock.take(to);
  if (format === "safetensors") {
    await saveInferenceModel(to, model, { half });
    const file = join(to, "weights.safetensors");
    return { file, bytes: (await Deno.stat(file)).size };
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

/** @throws {MicrogptError} for another architecture */
function gptConfigOf({ architecture = "gpt", ...config }: ModelConfig): GptConfig {
  if (architecture === "gpt") return config;
  throw new MicrogptError(
    `\`format\` onnx is for the architecture gpt, and this model is a ${architecture}`,
    {
      hint: "export it with `format` safetensors",
      usage: true,
    },
  );
}
