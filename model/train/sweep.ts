/**
 * A sweep: a training run for each combination of some settings' values, each in a directory of its own. What was done
 * is found again, so that a sweep that was interrupted goes on where it was.
 */
import type { MicrogptError } from "../../device/errors.ts";
import type { SettingName, Settings } from "../settings.ts";
import type { TrainOptions } from "./options.ts";
import type { TrainEvent } from "./train.ts";

/** Values of the settings that differ between runs. */
export type SweptValues = { [Name in SettingName]?: readonly Settings[Name][] };

/** What to train. */
export interface SweepOptions
  extends
    Omit<TrainOptions, "output" | "resume" | "distributed" | "finalSamples" | "sampleEvery" | "dryRun"> {
  /** each combination is a run; the setting named last varies fastest */
  values: SweptValues;
  /** directory of the runs' directories; default "sweep" */
  output?: string;
}

/** One combination. */
export interface SweepRun {
  /** its values, in the order that they were given in */
  values: Partial<Settings>;
  /** where it is trained */
  directory: string;
}

/** A run begins, or what was done of it before is looked at. */
export interface SweepRunEvent extends SweepRun {
  /** tells this event from the others */
  type: "run";
  /** counts from 1 */
  number: number;
  /** how many there are */
  count: number;
}

/** What a run came to. */
export interface SweepResult extends SweepRun {
  /** steps done */
  step: number;
  /** of training, evaluations left out */
  seconds: number;
  /** the lowest held-out loss, nats a target */
  loss: number;
  /** the same in bits a byte of text */
  bitsPerByte: number;
  /** the step that had it; its weights are in `checkpoints/best` of the directory */
  bestStep: number;
}

/** A run has ended. */
export interface SweepResultEvent {
  /** tells this event from the others */
  type: "result";
  /** undefined where the run failed */
  result?: SweepResult;
  /** why it failed; the sweep goes on */
  failure?: MicrogptError;
}

/** What `sweep` tells: of the run that goes on also what `train` tells of it. */
export type SweepEvent = SweepRunEvent | SweepResultEvent | TrainEvent;

/**
 * Trains each combination, one after the other, and yields what each came to. Runs that ended before are not repeated, one
 * that was interrupted goes on.
 * @throws {MicrogptError} for options out of range, and when `output` has the runs of another sweep
 */
export async function* sweep(options: SweepOptions): AsyncGenerator<SweepEvent, void, void> {
  const { sweepEvents } = await import("./sweeping.ts");
  yield* sweepEvents(options);
}
