import { MicrogptError } from "../model/errors.ts";
import type { LoadedModel } from "../model/checkpoint.ts";
import { type Command, DEVICE_FLAGS, deviceOptions, type FlagValues } from "./command.ts";
import { print } from "./terminal.ts";

export const command: Command = {
  name: "export",
  summary: "write an inference-only model: safetensors or ONNX",
  flags: [
    { name: "--model-dir", value: "dir", help: "the model", default: "output" },
    { name: "--output", value: "dir", help: "where the exported model goes (required)" },
    { name: "--half", help: "write weights as f16 instead of f32" },
    {
      name: "--format",
      value: "format",
      help: "safetensors for microgpt, onnx for transformers.js and onnxruntime",
      choices: ["safetensors", "onnx"],
      default: "safetensors",
    },
    // the graph of an ONNX export is checked against this device's logits
    ...DEVICE_FLAGS.filter(({ name }) => name !== "--dtype"),
    { name: "--json", help: "print one JSON object" },
  ],
  run: runExport,
};

/** What an export came to. */
interface Exported {
  /** the file with the weights */
  file: string;
  bytes: number;
  /** of an ONNX graph's logits from ours */
  maxDifference?: number;
}

async function runExport(values: FlagValues): Promise<void> {
  const { modelDir = "output", output, half = false, format = "safetensors", json } = values;
  if (output === undefined) {
    throw new MicrogptError("--output is required", { hint: "name a new directory", usage: true });
  }
  const [from, to] = [modelDir as string, output as string];
  const { readModel } = await import("../model/checkpoint.ts");
  const model = await readModel(from);
  const done = format === "onnx"
    ? await toOnnx(to, model, half === true, values)
    : await toSafetensors(to, model, half === true);
  const dtype = half ? "f16" : "f32";
  if (json) {
    const { file, bytes, maxDifference } = done;
    const difference = maxDifference === undefined ? {} : { max_difference: maxDifference };
    print(JSON.stringify({ directory: to, format, dtype, file, bytes, ...difference }));
    return;
  }
  print(`exported ${from} to ${to}: ${done.file}, ${dtype}, ${(done.bytes / 1e6).toFixed(2)} MB`);
  if (done.maxDifference !== undefined) {
    print(
      `checked in onnxruntime: logits differ from ours by at most ${done.maxDifference.toExponential(1)}`,
    );
  }
}

async function toSafetensors(to: string, model: LoadedModel, half: boolean): Promise<Exported> {
  const { saveInferenceModel } = await import("../model/checkpoint.ts");
  await saveInferenceModel(to, model, { half });
  const file = "weights.safetensors";
  return { file, bytes: (await Deno.stat(`${to}/${file}`)).size };
}

async function toOnnx(to: string, model: LoadedModel, half: boolean, values: FlagValues): Promise<Exported> {
  const { openDevice } = await import("../devices.ts");
  const { exportOnnx } = await import("../model/onnx_export.ts");
  const { withPromptLogits } = await import("../model/onnx_verify.ts");
  const device = await openDevice(deviceOptions(values));
  try {
    const { bytes, maxDifference } = await exportOnnx(to, model, {
      half,
      reference: (params, run) => withPromptLogits(device, model.config, model.layout, params, run),
    });
    return { file: "model.onnx", bytes, maxDifference };
  } finally {
    device.destroy();
  }
}
