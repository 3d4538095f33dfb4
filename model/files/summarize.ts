/** Puts together what can be said about a model without its weights. */
import { isDataFile } from "../../data/corpus.ts";
import { SPECIAL_TOKENS } from "../../data/tokenizer.ts";
import { parseTokenizerJson, type TokenizerFile } from "../../data/tokenizer_json.ts";
import type { ModelConfig } from "../config.ts";
import { checkConfig, networkOf } from "../networks.ts";
import type { WeightType } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { Network } from "../network.ts";
import { modelKind, readAnyModel } from "./any_model.ts";
import { readModelHeader } from "./checkpoint.ts";
import { localModel } from "./hub/local_model.ts";
import { bestDirectory, keptBestStep } from "./kept_checkpoints.ts";
import { keptIn } from "./output_directory.ts";
import type { ModelFormat, ModelSummary, RunningMemory, TrainingSummary } from "./summary.ts";
import type { TrainState } from "./train_state.ts";
import type { WeightSource } from "./weight_source.ts";
import { heldBytes, weightMatrices } from "./weight_types.ts";

/** What `describeModel` does, which loads it when it is called. */
export async function summarize(path: string, dtype: WeightType | undefined): Promise<ModelSummary> {
  const local = await localModel(path);
  const own = await modelKind(local) === "microgpt";
  return own ? await describeOwn(local, dtype) : await describeForeign(local, dtype);
}

/** Bytes of a number as the CPU computes with it. */
const F32_BYTES = 4;

function memoryOf(
  { layout, cacheWidth, config }: Network,
  types: WeightSource["types"],
  dtype: WeightType | undefined,
): RunningMemory {
  const matrices = weightMatrices(layout, types, dtype);
  const held = (asked: WeightType) => heldBytes(layout, weightMatrices(layout, types, asked));
  return {
    weights: heldBytes(layout, matrices),
    dtype: [...new Set(matrices.map(({ type }) => type))].join("+"),
    byDtype: { f32: held("f32"), bf16: held("bf16"), f16: held("f16"), q8: held("q8") },
    context: F32_BYTES * cacheWidth * config.block_size,
  };
}

async function describeOwn(dir: string, dtype: WeightType | undefined): Promise<ModelSummary> {
  const { config, chat, parameters, fileDtype, types, weightsBytes, tokenizerJson, rules, trainState } =
    await readModelHeader(dir);
  const listed: unknown = JSON.parse(tokenizerJson).model.merges;
  const merges = Array.isArray(listed) ? listed.length : 0;
  const own: string[] = chat ? Object.values(SPECIAL_TOKENS) : [SPECIAL_TOKENS.bos];
  const special = rules ? parseTokenizerJson(tokenizerJson).special.map(({ content }) => content) : own;
  const network = networkOf(config);
  return {
    source: "microgpt",
    config,
    network: network.describe(),
    parameters,
    chat,
    tokenizer: { tokens: config.vocab_size, merges, special },
    file: { format: "safetensors", dtype: fileDtype, bytes: weightsBytes },
    memory: memoryOf(network, types, dtype),
    unusable: undefined,
    formats: config.architecture === "llama"
      ? ["safetensors", "hf", ...ggufFormat(parseTokenizerJson(tokenizerJson))]
      : ["safetensors", "hf", "onnx"],
    training: trainState && await describeTraining(dir, trainState),
  };
}

async function describeForeign(path: string, dtype: WeightType | undefined): Promise<ModelSummary> {
  const { kind, config, tokenizer, chat, fileDtype, types, weightsBytes } = await readAnyModel(path);
  const { tokens, merges, special } = tokenizer;
  const network = networkOf(config);
  return {
    source: kind,
    config,
    network: network.describe(),
    parameters: network.layout.count,
    chat,
    tokenizer: {
      tokens: tokens.length,
      merges: merges.length / 2,
      special: special.map(({ content }) => content),
    },
    file: { format: kind === "gguf" ? "gguf" : "safetensors", dtype: fileDtype, bytes: weightsBytes },
    memory: memoryOf(network, types, dtype),
    unusable: reasonAgainst(config),
    formats: config.architecture === "llama"
      ? ["hf", ...ggufFormat(tokenizer)]
      : ["safetensors", "hf", "onnx"],
    training: undefined,
  };
}

/** GGUF names the way to split; only some have a name. */
function ggufFormat({ split }: TokenizerFile): ModelFormat[] {
  return split ? ["gguf"] : [];
}

/** Why a network that is read cannot be computed. */
function reasonAgainst(config: ModelConfig): string | undefined {
  try {
    checkConfig(config);
  } catch (error) {
    if (error instanceof MicrogptError) return error.message;
    throw error;
  }
}

async function describeTraining(dir: string, state: TrainState): Promise<TrainingSummary> {
  const kept = state.best_val_step !== undefined && state.best_val_step === await keptBestStep(dir);
  return {
    state,
    rereadable: isDataFile(state.dataset_path),
    goesOnIn: (await keptIn(dir))?.next,
    bestDirectory: kept ? bestDirectory(dir) : undefined,
  };
}
