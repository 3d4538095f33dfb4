/** The model as `/v1/models` describes it. */
import { contextOf } from "../generate/generation.ts";
import { samplingOf } from "../generate/sampling.ts";
import type { Service } from "./service.ts";

/** The one model, as OpenAI describes one; `meta` as llama.cpp's server has it. */
function describe({ name, created, model, loaded, options }: Service) {
  const defaults = samplingOf(options);
  return {
    id: name,
    object: "model",
    created,
    owned_by: "microgpt",
    max_model_len: contextOf(model),
    meta: {
      n_vocab: model.config.vocab_size,
      n_ctx_train: model.config.block_size,
      n_params: loaded.parameters,
      chat: loaded.chat || loaded.hasTemplate,
      device: loaded.deviceName,
      // it takes system messages; another has them in front of what the user says
      system: Boolean(model.foreign?.template?.keepsSystem),
      defaults: {
        temperature: defaults.temperature,
        top_k: defaults.topK,
        top_p: defaults.topP,
        min_p: defaults.minP,
        repetition_penalty: defaults.repetitionPenalty,
        frequency_penalty: defaults.frequencyPenalty,
        presence_penalty: defaults.presencePenalty,
      },
    },
  };
}

/** `GET /v1/models`. */
export function modelList(service: Service) {
  return { object: "list", data: [describe(service)] };
}

/** `GET /v1/models/{id}`. @throws {ApiError} 404 for another model */
export function modelObject(service: Service, id: string) {
  service.checkModel(id);
  return describe(service);
}
