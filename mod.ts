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
export { train, type TrainOptions } from "./model/train/train.ts";
export type { CheckpointEvent, NoticeEvent, RunEvent } from "./model/train/run.ts";
export type { EvaluationEvent, RecoveryEvent, StepEvent, TrainingEvent } from "./model/train/trainer.ts";
export {
  DEFAULTS,
  type Preset,
  type PresetName,
  PRESETS,
  SETTINGS,
  type Settings,
} from "./model/settings.ts";
export type { Option, Options, OptionValue, OptionValues } from "./device/options.ts";
export { SAMPLING, type SamplingOptions } from "./model/generate/sampling.ts";
export { LanguageModel, loadModel } from "./model/generate/language_model.ts";
export type { GenerateOptions, SamplePiece } from "./model/generate/generation.ts";
export type { PromptOptions } from "./model/generate/prompt.ts";
export { type ChatOptions, ChatSession, type SendOptions } from "./model/generate/chat.ts";
export type { Message, Role } from "./data/chat.ts";
export type { Architecture, ModelConfig } from "./model/config.ts";
export type { GptConfig } from "./model/gpt.ts";
export type { EncodedDocuments, Tokenizer } from "./data/tokenizer.ts";
export { exportModel, type ExportOptions, type ExportResult } from "./model/export/export.ts";
export { type OnnxGenerateOptions, OnnxModel } from "./model/export/onnx_model.ts";
export { DEVICE_OPTIONS, type DeviceName, type DeviceOptions } from "./model/devices.ts";
export type { Dtype } from "./device/device.ts";
export { MicrogptError, type MicrogptErrorOptions } from "./device/errors.ts";
