/**
 * Trains small GPTs on your own text, generates, chats, and exports: what the program `microgpt` does, for programs.
 *
 * @example
 * ```ts
 * import { loadModel, train } from "./mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * const small = { steps: 20, nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 };
 * for await (const event of train({ documents, output, ...small })) {
 *   if (event.type === "step") console.log(event.step, event.loss);
 * }
 * using model = await loadModel(output);
 * console.log(await model.samples({ numSamples: 3 }));
 * ```
 *
 * @module
 */
export { train, type TrainOptions } from "./train.ts";
export { LanguageModel, loadModel } from "./language_model.ts";
export { exportModel, type ExportOptions, type ExportResult } from "./export.ts";
export { type OnnxGenerateOptions, OnnxModel } from "./onnx_model.ts";
export { type DeviceName, type DeviceOptions } from "./devices.ts";
export { MicrogptError, type MicrogptErrorOptions } from "./model/errors.ts";
export { DEFAULTS, type PresetName, PRESETS, type Settings } from "./model/presets.ts";
