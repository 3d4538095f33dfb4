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
export {
  type EndEvent,
  type PlanEvent,
  type SamplesEvent,
  train,
  type TrainEvent,
} from "./model/train/train.ts";
export { RUN_OPTIONS, type TrainOptions } from "./model/train/options.ts";
export {
  sweep,
  type SweepEvent,
  type SweepOptions,
  type SweepResult,
  type SweepResultEvent,
  type SweepRun,
  type SweepRunEvent,
  type SweptValues,
} from "./model/train/sweep.ts";
export type { CheckpointEvent, NoticeEvent, RunEvent } from "./model/train/run.ts";
export {
  type CorpusEvaluation,
  type DocumentEvaluation,
  evaluate,
  EVALUATE_OPTIONS,
  type EvaluateOptions,
  type TextEvaluation,
} from "./model/train/evaluate.ts";
export type { EvaluationEvent, RecoveryEvent, StepEvent, TrainingEvent } from "./model/train/trainer.ts";
export { type MemoryPlan, type TrainingMemory, trainingMemory } from "./model/train/memory_plan.ts";
export type { RanksPlan } from "./model/train/ranks.ts";
export {
  DEFAULTS,
  type FieldOf,
  type Preset,
  PRESET_NAMES,
  type PresetName,
  PRESETS,
  type SavedSettings,
  type SettingName,
  SETTINGS,
  type Settings,
} from "./model/settings.ts";
export { LanguageModel, loadModel } from "./model/generate/language_model.ts";
export {
  checkGenerateOptions,
  type GenerateOptions,
  GENERATION,
  type SamplePiece,
  wholeSamples,
} from "./model/generate/generation.ts";
export { SAMPLING, type SamplingOptions } from "./model/generate/sampling.ts";
export type { PromptOptions } from "./model/generate/prompt.ts";
export { type FilePrompt, readPrompt, readPrompts } from "./model/generate/prompts.ts";
export { type ChatOptions, ChatSession, type SendOptions } from "./model/generate/chat.ts";
export { checkServeOptions, handler, type HandlerOptions, type ServeHandler } from "./model/serve/serve.ts";
export {
  DEFAULTED_SAMPLING,
  type SamplingDefaults,
  SERVE_OPTIONS,
  type ServeOptions,
} from "./model/serve/options.ts";
export type { LogEntry as RequestLog } from "./model/serve/log_entry.ts";
export {
  type InspectedToken,
  inspectText,
  mapTokens,
  type ProbableToken,
  type TextInspection,
  type TokenMap,
} from "./model/generate/inspect_text.ts";
export {
  describeModel,
  type ModelFormat,
  type ModelSummary,
  type RunningMemory,
  type TrainingSummary,
} from "./model/files/summary.ts";
export { type DownloadOptions, type DownloadProgress, localModel } from "./model/files/hub/local_model.ts";
export type { ModelKind } from "./model/files/any_model.ts";
export type { RequiredSetting, TrainState } from "./model/files/train_state.ts";
export { inspectData, type InspectDataOptions, type InspectedData } from "./model/train/inspect_data.ts";
export { copyModel } from "./model/files/copy_model.ts";
export { EXPORT_OPTIONS, exportModel, type ExportOptions, type ExportResult } from "./model/export/export.ts";
export type { ExportType } from "./model/export/llama_export.ts";
export { type OnnxGenerateOptions, OnnxModel } from "./model/export/onnx_model.ts";
export {
  type CacheDiagnosis,
  type DeviceDiagnosis,
  diagnose,
  type Diagnosis,
  type GpuDiagnosis,
  type LibraryDiagnosis,
  type MpiDiagnosis,
  type MpiLibrary,
  type MpiSpeed,
} from "./model/diagnosis.ts";
export {
  DEVICE_OPTIONS,
  type DeviceName,
  type DeviceOptions,
  INFERENCE_DEVICE_OPTIONS,
  type InferenceDeviceOptions,
} from "./model/devices.ts";
export type { Architecture, ModelConfig } from "./model/config.ts";
export type { GptConfig } from "./model/gpt.ts";
export { CORPUS_OPTIONS, type CorpusSettings, type Format, FORMATS } from "./data/corpus_options.ts";
export type { Encoding } from "./data/reading/decoded_text.ts";
export type { Compression } from "./data/reading/input_bytes.ts";
export type { CorpusOptions, CorpusReport, Items } from "./data/corpus.ts";
export type { PreparationProgress } from "./data/tokens/prepare_tokens.ts";
export type { FileCount } from "./data/reading/notices.ts";
export type { Cleanup, SkipReason } from "./data/reading/tally.ts";
export { type CleanupRow, renderCleanup } from "./data/cleanup.ts";
export type { ExampleDocument, Inspection } from "./data/inspection.ts";
export { renderInspection } from "./data/inspection_lines.ts";
export { type Message, parseConversation, type Role } from "./data/chat.ts";
export { type LengthBucket, type LengthStatistics, renderLengths } from "./data/lengths.ts";
export type { AddedToken } from "./data/added_tokens.ts";
export type { PackedTexts, Texts } from "./data/packed_texts.ts";
export type { EncodedDocuments, Tokenizer } from "./data/tokenizer.ts";
export { flagOf, type Option, type Options, type OptionValue, type OptionValues } from "./device/options.ts";
export type { Dtype, WeightType } from "./device/device.ts";
export { MicrogptError, type MicrogptErrorOptions } from "./device/errors.ts";
export {
  fetchDirectory,
  type FileTree,
  readDirectory,
  removeDirectory,
  writeDirectory,
} from "./platform/trees.ts";
export {
  type BrowserFileHandle,
  type FolderHandle,
  keep,
  kept,
  keptNames,
  readFolder,
  removeKept,
  writeFolder,
} from "./platform/opfs.ts";
