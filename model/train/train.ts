/** Training from data to checkpoint: what `microgpt train` does, for programs. */
import type { CleanupRow } from "../../data/cleanup.ts";
import type { LengthStatistics } from "../../data/lengths.ts";
import type { Dtype } from "../../device/device.ts";
import type { ModelConfig } from "../config.ts";
import type { Settings } from "../settings.ts";
import type { MemoryPlan } from "./memory_plan.ts";
import type { TrainOptions } from "./options.ts";
import type { RanksPlan } from "./ranks.ts";
import type { RunEvent } from "./run.ts";

/** What is going to be trained, on what and where: the first event. */
export interface PlanEvent {
  /** tells this event from the others */
  type: "plan";
  /** what the documents are */
  mode: "text" | "chat";
  /** where they come from, as it was named */
  dataPath: string;
  /** the model that the run started from, as it was named */
  from?: string;
  /** they lie in files, which can be read again to go on with the run */
  rereadable: boolean;
  /** documents to train on */
  trainingDocuments: number;
  /** documents held out */
  validationDocuments: number;
  /** of all documents, before any is truncated */
  lengths: LengthStatistics;
  /** tokens of them that are trained on or held out: others do not fit a sequence, or are left out with their document */
  usedTokens: number;
  /** what is not trained on as it is */
  cleanup: CleanupRow[];
  /** the architecture */
  config: ModelConfig;
  /** its layers, heads and width, in words */
  network: string;
  /** how many parameters it has */
  parameters: number;
  /** every setting of the run */
  settings: Settings;
  /** the hardware's own name */
  device: string;
  /** type of working weights and activations */
  dtype: Dtype;
  /** bytes that the run takes on the device */
  memory: MemoryPlan;
  /** where several processes share the steps */
  ranks?: RanksPlan;
  /** steps done before */
  startStep: number;
  /** the step that the run ends with */
  totalSteps: number;
  /** directory of the checkpoints */
  output: string;
}

/** Samples of the model as it is. */
export interface SamplesEvent {
  /** tells this event from the others */
  type: "samples";
  /** steps done */
  step: number;
  /** whole samples */
  texts: string[];
}

/** The run has ended and is saved: the last event. */
export interface EndEvent {
  /** tells this event from the others */
  type: "end";
  /** steps done */
  step: number;
  /** it came to its end; false where it was told to end before */
  complete: boolean;
  /** directory of the last checkpoint */
  output: string;
  /** the evaluation with the lowest loss, and where its weights are */
  best?: { step: number; loss: number; directory: string };
  /** steps whose loss or gradient was not finite */
  skippedSteps: number;
}

/** What `train` tells. */
export type TrainEvent = PlanEvent | SamplesEvent | EndEvent | RunEvent;

/**
 * Trains a model, or goes on training one, and yields its plan, each step and the end. Checkpoints are saved on the way
 * and at the end; leaving the loop ends the run without one, `options.signal` ends it with one.
 *
 * @example
 * ```ts
 * import { train } from "../../mod.ts";
 *
 * const documents = ["anna", "bob", "carla", "dora"];
 * const output = await Deno.makeTempDir();
 * const small = { nEmbd: 8, nHead: 2, nLayer: 1, vocabSize: 260 };
 * for await (const event of train({ documents, output, steps: 10, ...small })) {
 *   if (event.type === "step") console.log(event.step, event.loss);
 *   if (event.type === "checkpoint") console.log("saved to", event.directory);
 * }
 * for await (const _ of train({ documents, resume: output, steps: 10 })); // ten more
 * ```
 *
 * @param options data, settings and where to compute; every option has the name and the default of its flag
 * @returns the events of the run, in their order
 * @throws {MicrogptError} for options out of range, unusable data, a checkpoint that does not load, a device that is
 * not there, a directory that cannot be written, and when training fails
 */
export async function* train(options: TrainOptions): AsyncGenerator<TrainEvent, void, void> {
  const { eventsOf } = await import("./training.ts");
  yield* eventsOf(options);
}
