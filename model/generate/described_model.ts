/** What `loadModel` reads of a model before its weights, which loads it when it is called. */
import { openTokenizer } from "../devices.ts";
import { type AnyModel, modelKind, readAnyModel } from "../files/any_model.ts";
import { readModelHeader, sendModelWeights } from "../files/checkpoint.ts";
import type { ModelDescription } from "../files/description.ts";
import { localModel } from "../files/hub/local_model.ts";
import type { WeightSource } from "../files/weight_source.ts";
import { checkConfig } from "../networks.ts";
import { foreignRules } from "./foreign.ts";

export { loadWeights } from "./working_weights.ts";

/** What is needed of a description. */
type Described = Pick<ModelDescription, "config" | "chat">;

/**
 * A model of any kind, and where its weights come from.
 * @param place as `loadModel` takes it
 */
export async function describeForUse(place: string, threads: number | undefined) {
  const path = await localModel(place);
  if (await modelKind(path) === "microgpt") {
    const header = await readModelHeader(path);
    const tokenizer = await openTokenizer(header.tokenizerJson, threads);
    const source: Described & WeightSource = {
      ...header,
      readWeights: (_, sink) => sendModelWeights(path, header, sink),
    };
    const { config, rules } = header;
    return { source, tokenizer, foreign: rules && await foreignRules({ ...rules, config }, tokenizer) };
  }
  const source: AnyModel = await readAnyModel(path);
  checkConfig(source.config, { name: (field) => `${path}: ${field}` });
  const tokenizer = await openTokenizer(source.tokenizer, threads);
  return { source, tokenizer, foreign: await foreignRules(source, tokenizer) };
}
