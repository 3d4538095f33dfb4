/**
 * The checkpoints that a run leaves: its last state in DIR, the best evaluation's and the kept ones in DIR/checkpoints.
 */
import { type Checkpoint, heldCheckpoint, saveCheckpoint } from "../files/checkpoint.ts";
import {
  bestDirectory,
  keepBest,
  keepCheckpoint,
  keptBestStep,
  setBestAside,
} from "../files/kept_checkpoints.ts";
import { sameDirectory } from "../files/directory.ts";
import type { TrainState } from "../files/train_state.ts";

/** The evaluation with the lowest loss so far. */
export interface BestEvaluation {
  step: number;
  /** nats a token */
  loss: number;
}

/** The fields of a state that say which documents were held out. */
type HeldOut = Pick<TrainState, "dataset_sha256" | "val_documents">;

/**
 * Saves a run's checkpoints, one at a time. The best evaluation's state is saved to DIR like any other, then linked to
 * DIR/checkpoints/best; DIR's files are not replaced before that is done, so that it is always in one of the two
 * places.
 */
export class RunCheckpoints {
  readonly #output: string;
  readonly #keep: number;
  #saved = false;
  #best: BestEvaluation | undefined;
  /** DIR holds the best checkpoint, and checkpoints/best does not yet */
  #toLink = false;
  /** the best checkpoint, while it could not be saved */
  #unsaved: Checkpoint | undefined;
  /** what checkpoints/best holds is not this run's best, but was the best up to this step: it is not replaced */
  #asideUntil: number | undefined;
  #keepOld = false;

  /**
   * @param keep earlier checkpoints to keep; 0 = none
   * @param startStep the step that the run starts from
   */
  constructor(output: string, keep: number, startStep: number) {
    this.#output = output;
    this.#keep = keep;
    this.#asideUntil = startStep;
  }

  /** Whether this run has saved a checkpoint. */
  get saved(): boolean {
    return this.#saved;
  }

  /** The best evaluation so far. */
  get best(): BestEvaluation | undefined {
    return this.#best;
  }

  /** Notes an evaluation. @returns whether it is the best so far */
  note({ step, loss }: BestEvaluation): boolean {
    if (!Number.isFinite(loss) || this.#best !== undefined && !(loss < this.#best.loss)) return false;
    this.#best = { step, loss };
    return true;
  }

  /** For a run whose first checkpoint replaces another's: that model is moved aside then. */
  keepOld(): void {
    this.#keepOld = true;
  }

  /**
   * For a directory that a person moved or removed, and that is empty now: what was kept there is gone.
   * @param step the step that is saved next
   */
  startAnew(step: number): void {
    if (!this.#unsaved && this.#best && this.#best.step < step) this.#best = undefined;
    this.#toLink = false;
    this.#keepOld = false;
    this.#asideUntil = undefined;
  }

  /**
   * Recalls the best evaluation of the resumed run, if its weights are still there and it is comparable.
   * @param resumed directory and state of the checkpoint that the run goes on from
   * @param heldOut what is held out now
   * @returns what a person should know
   */
  async recall(resumed: { dir: string; state: TrainState }, heldOut: HeldOut): Promise<string | undefined> {
    const { step, best_val_loss: loss, best_val_step: bestStep } = resumed.state;
    const same = await sameDirectory(resumed.dir, this.#output);
    if (loss === undefined || bestStep === undefined) return undefined;
    const best = `the best evaluation so far (loss ${loss.toFixed(4)} at step ${bestStep})`;
    const dir = bestDirectory(this.#output);
    if (!isSameHeldOut(resumed.state, heldOut)) {
      const kept = same && await keptBestStep(this.#output) !== undefined;
      return `warning: ${best} was on other held-out documents: it is forgotten` +
        (kept ? `, and ${dir} gets another name once there is a new best` : "");
    }
    if (!same) return `${best} stays with ${resumed.dir}: ${this.#output} keeps its own`;
    this.#toLink = bestStep === step;
    if (!this.#toLink && await keptBestStep(this.#output) !== bestStep) {
      return `${best} is not in ${dir}: the best is sought among the steps to come`;
    }
    this.#asideUntil = undefined;
    this.#best = { step: bestStep, loss };
    return undefined;
  }

  /**
   * Saves a checkpoint, and first what earlier calls could not.
   * @param options.best it is of the best evaluation so far
   * @param options.kept keep it as step-NNNNNN too
   * @throws {MicrogptError} when something cannot be written; the next call tries it again
   */
  async save(checkpoint: Checkpoint, { best, kept }: { best: boolean; kept: boolean }): Promise<void> {
    if (best) this.#unsaved = checkpoint;
    try {
      if (this.#unsaved) await this.#saveBest(this.#unsaved);
    } catch (error) {
      // training goes on, and changes what would be read at the next try
      if (this.#unsaved) this.#unsaved = await heldCheckpoint(this.#unsaved);
      throw error;
    }
    if (!best) await this.#saveTo(checkpoint);
    if (kept && this.#keep > 0) await keepCheckpoint(this.#output, checkpoint.trainState.step, this.#keep);
  }

  async #saveBest(checkpoint: Checkpoint): Promise<void> {
    await this.#saveTo(checkpoint);
    this.#unsaved = undefined;
    this.#toLink = true;
    await this.#link();
  }

  async #saveTo(checkpoint: Checkpoint): Promise<void> {
    await this.#link();
    await saveCheckpoint(this.#output, checkpoint, { keepOld: this.#keepOld && !this.#saved });
    this.#saved = true;
  }

  async #link(): Promise<void> {
    if (!this.#toLink) return;
    if (this.#asideUntil !== undefined) await setBestAside(this.#output, this.#asideUntil);
    this.#asideUntil = undefined;
    await keepBest(this.#output);
    this.#toLink = false;
  }
}

/** Losses on different documents cannot be compared. */
function isSameHeldOut(a: HeldOut, b: HeldOut): boolean {
  return a.dataset_sha256 === b.dataset_sha256 && a.val_documents === b.val_documents;
}
