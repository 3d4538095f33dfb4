import { DEVICE_OPTIONS, EXPORT_OPTIONS, exportModel, MicrogptError } from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, given } from "./flags.ts";
import { harmlessLine } from "./harmless.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { print, printJson } from "./terminal.ts";

export const command: Command = {
  flags: [
    { name: "--model-dir", value: "dir", help: ANY_MODEL, default: "output" },
    { name: "--output", value: "dir", help: "where the exported model goes (required)" },
    ...flagsOf(EXPORT_OPTIONS),
    // the graph of an ONNX export is checked against this device's logits
    ...flagsOf(DEVICE_OPTIONS).filter(({ name }) => name !== "--dtype"),
    { name: "--json", help: "print one JSON object" },
  ],
  run: runExport,
};

async function runExport(values: FlagValues): Promise<void> {
  const { modelDir = "output", output, json } = values;
  if (output === undefined) {
    throw new MicrogptError("--output is required", { hint: "name a new directory", usage: true });
  }
  const options = given(EXPORT_OPTIONS, values);
  const { format = EXPORT_OPTIONS.format.default, half, type } = options;
  const { file, bytes, maxDifference } = await exportModel(
    await localModelDir(modelDir as string),
    output as string,
    {
      ...given(DEVICE_OPTIONS, values),
      ...options,
    },
  );
  const dtype = type ?? (half ? "f16" : "f32");
  if (json) {
    const difference = maxDifference === undefined ? {} : { max_difference: maxDifference };
    printJson({ format, dtype, file, bytes, ...difference });
    return;
  }
  print(harmlessLine(`exported ${modelDir} to ${file}: ${dtype}, ${(bytes / 1e6).toFixed(2)} MB`));
  if (maxDifference !== undefined) {
    print(`checked in onnxruntime: logits differ from ours by at most ${maxDifference.toExponential(1)}`);
  }
  if (format === "hf" || format === "gguf") print("read back and compared with the model");
}
