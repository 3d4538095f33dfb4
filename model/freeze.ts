/** Parameters that a run leaves as they are: the embeddings, or some layers. */
import { MicrogptError } from "../device/errors.ts";
import type { ParameterEntry } from "./parameters.ts";

/** What does not change. */
export interface Frozen {
  /** the tables of tokens and positions, and with them a head that is tied */
  embeddings: boolean;
  /** numbers of layers, from 0 */
  layers: ReadonlySet<number>;
}

/** `freeze` of a run that trains everything. */
export const NOTHING = "none";

/**
 * Reads the setting `freeze`: parts with commas between, each `embeddings`, `layers:3` or `layers:0-9`.
 * @param nLayer L of the model
 * @returns undefined where everything is trained
 * @throws {MicrogptError} for anything else, layers that the model lacks, and where nothing would be left to train
 */
export function readFreeze(text: string, nLayer: number): Frozen | undefined {
  if (text === NOTHING) return undefined;
  let embeddings = false;
  const layers = new Set<number>();
  for (const part of text.split(",").map((word) => word.trim())) {
    if (part === "embeddings") {
      embeddings = true;
      continue;
    }
    const [first, last] = layersOf(part);
    if (last >= nLayer) {
      throw refuse(`\`freeze\` names layer ${last}, the model has layers 0 to ${nLayer - 1}`);
    }
    for (let layer = first; layer <= last; layer++) layers.add(layer);
  }
  return { embeddings, layers };
}

/** "layers:3" or "layers:0-9" as the first and the last. */
function layersOf(part: string): [number, number] {
  const [, first, last = first] = /^layers:(\d{1,5})(?:-(\d{1,5}))?$/.exec(part) ?? [];
  if (first !== undefined && Number(first) <= Number(last)) return [Number(first), Number(last)];
  throw refuse(
    `\`freeze\` takes embeddings, layers:3 or layers:0-9, got ${JSON.stringify(part.slice(0, 40))}`,
  );
}

function refuse(message: string): MicrogptError {
  return new MicrogptError(message, {
    hint: "several with commas between: embeddings,layers:0-3",
    usage: true,
  });
}

/** Whether a parameter does not change. */
export function isFrozen({ role, layer }: ParameterEntry, frozen: Frozen | undefined): boolean {
  if (!frozen) return false;
  return role === "embedding" ? frozen.embeddings : layer !== undefined && frozen.layers.has(layer);
}

/** The first layer whose gradients, or those of what is before it, are wanted; `nLayer` where there is none. */
export function firstTrained(frozen: Frozen | undefined, nLayer: number): number {
  if (!frozen?.embeddings) return 0;
  let layer = 0;
  while (layer < nLayer && frozen.layers.has(layer)) layer++;
  return layer;
}
