/**
 * The processes that train one model together, as a run sees them: what they compare, when they stop, what rank 0 passes
 * on. The arithmetic of a step is in gradient_sum.ts and shared_step.ts.
 */
import { sha256 } from "../../platform/hash.ts";
import { checkAgreement, type Group } from "../../device/group.ts";
import { MicrogptError } from "../../device/errors.ts";
import { openGroup } from "../devices.ts";
import type { OptimizerState, StateName } from "../optimizer_state.ts";
import { checkTrainOptions, type TrainOptions } from "./options.ts";
import { expectedStep, measuredNetwork, microBatchesFor, trafficBytes, type Work } from "./scaling.ts";
import type { TrainingState } from "./trainer.ts";

/** The processes of a run, and what adding up gradients costs them. */
export interface RanksPlan {
  /** number of this process; rank 0 prints and saves */
  rank: number;
  /** number of processes */
  size: number;
  /** stands in front of a command that starts so many, see `Group` */
  launcher: string;
  /** bytes that each process sends and receives in a step */
  trafficBytes: number;
  /** measured: adding up as many numbers as there are parameters */
  sumSeconds: number;
  /** measured: gradients of one micro-batch, on the slowest rank */
  microBatchSeconds: number;
  /** part of a step in which ranks are expected to wait for each other */
  waitingShare: number;
  /** the `gradAccum` with which that would be less than a tenth, should it be more */
  fittingGradAccum?: number;
}

/** Steps after which `Ranks.waiting` knows enough. */
const OBSERVED_STEPS = 20;
/** The share of time spent waiting that is worth a word. */
const MUCH_WAITING = 0.1;

/** By how much micro-batches differ in time once documents are dealt out: see dealing.ts. */
const DEALT_VARIATION = 0.02;

/** A rank's view of all. Every call is made by all ranks, at the same place. */
export class Ranks {
  readonly #own: AbortSignal | undefined;
  readonly #agreed = new AbortController();
  #steps = 0;
  #total = 0;
  #waited = 0;

  constructor(readonly group: Group, readonly version: string, { signal }: Pick<TrainOptions, "signal">) {
    this.#own = signal;
  }

  /** Aborted on all ranks at the same step, once one of them was asked to stop. */
  get signal(): AbortSignal {
    return this.#agreed.signal;
  }

  /** Whether this rank prints and saves. */
  get isFirst(): boolean {
    return this.group.rank === 0;
  }

  /** Asks whether any rank is to stop. */
  agreeToStop(): void {
    if (this.group.max([this.#own?.aborted ? 1 : 0])[0] === 1) this.#agreed.abort();
  }

  /** Whether rank 0 says yes. */
  firstSays(yes: boolean): boolean {
    return this.group.max([this.isFirst && yes ? 1 : 0])[0] === 1;
  }

  /** A text of rank 0; what the others give is not looked at. */
  shareText(text: string): string {
    return new TextDecoder().decode(this.group.broadcast(new TextEncoder().encode(text)));
  }

  /** A state that only rank 0 can read, on all ranks. */
  shareState(own: TrainingState | undefined): TrainingState {
    const names = Object.keys(own?.optimizer ?? {});
    const head = JSON.parse(
      this.shareText(JSON.stringify({ step: own?.step, adamStep: own?.adamStep, names })),
    ) as Pick<TrainingState, "step" | "adamStep"> & { names: StateName[] };
    const params = this.#shareFloats(own?.params);
    const optimizer = head.names.map((name) => [name, this.#shareFloats(own?.optimizer?.[name])]);
    const { step, adamStep } = head;
    return { step, adamStep, params, optimizer: Object.fromEntries(optimizer) as OptimizerState };
  }

  #shareFloats(values: Float32Array = new Float32Array()): Float32Array {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return new Float32Array(this.group.broadcast(bytes).slice().buffer);
  }

  /**
   * What a step will cost. Its sum is measured, the best of three.
   * @param ownMicroBatchSeconds measured on this rank
   */
  plan(parameters: number, bf16: boolean, gradAccum: number, ownMicroBatchSeconds: number): RanksPlan {
    const { group, group: { rank, size, launcher } } = this;
    const best = (values: Float32Array) =>
      Math.min(...Array.from({ length: 3 }, () => {
        group.barrier();
        const started = performance.now();
        group.sum(values);
        return group.max([(performance.now() - started) / 1000])[0]!;
      }));
    const sumSeconds = best(new Float32Array(parameters));
    const [microBatchSeconds] = group.max([ownMicroBatchSeconds]) as [number];
    const traffic = trafficBytes(parameters, size, bf16 ? 2 : 4);
    const plan = {
      rank,
      size,
      launcher,
      trafficBytes: traffic,
      sumSeconds,
      microBatchSeconds,
      waitingShare: 0,
    };
    if (size === 1) return plan;
    const work: Work = {
      parameters,
      microBatchSeconds,
      variation: DEALT_VARIATION,
      updateSeconds: 0,
      bytesPerValue: bf16 ? 2 : 4,
      addSecondsPerValue: 0, // is part of the measured sum
    };
    const few = { seconds: best(new Float32Array(1)) };
    const network = measuredNetwork(work, size, few, { values: parameters, seconds: sumSeconds });
    const { waitingShare } = expectedStep(work, network, size, gradAccum);
    const fitting = microBatchesFor(work, network, size, MUCH_WAITING);
    return { ...plan, waitingShare, ...(fitting > gradAccum ? { fittingGradAccum: fitting } : {}) };
  }

  /** Notes the time of a step, and the part of it in which this rank waited for others. Leaves out the first, which warms up. */
  noteStep(milliseconds: number, waited: number): void {
    if (this.#steps++ === 0 || this.#steps > OBSERVED_STEPS) return;
    this.#total += milliseconds;
    this.#waited += waited;
  }

  /** After some steps, how much of their time this rank waited, and what would help; undefined otherwise and where it is little. */
  waiting(gradAccum: number): string | undefined {
    const share = this.#waited / this.#total;
    if (this.#steps !== OBSERVED_STEPS || !(share > MUCH_WAITING)) return undefined;
    const own = gradAccum / this.group.size;
    const computing = (this.#total - this.#waited) / own;
    const needed = this.#waited * (1 / MUCH_WAITING - 1) / computing;
    const fitting = this.group.size * 2 ** Math.ceil(Math.log2(needed));
    return `processes wait for each other for ${Math.round(100 * share)} % of the time; ` +
      `\`gradAccum\` ${fitting} would bring it to about ${100 * MUCH_WAITING} %, with steps that much larger`;
  }
}

/**
 * Joins the processes of this launch.
 * @returns undefined for a run of one process without `distributed`
 * @throws {MicrogptError} when MPI does not work, or when several processes would each train alone
 */
export async function openRanks(options: TrainOptions): Promise<Ranks | undefined> {
  checkTrainOptions(options);
  const { distributed, reduceDtype, input, device } = options;
  if (distributed === "mpi" && [input].flat().includes("-")) {
    throw new MicrogptError("`distributed`: standard input reaches only one process", {
      hint: "give the data as a file that each process can read",
      usage: true,
    });
  }
  if (distributed === "mpi" && device === "auto") {
    throw new MicrogptError("`distributed`: all processes compute on the same kind of device", {
      hint: "name it with `device`",
      usage: true,
    });
  }
  const group = await openGroup(distributed, reduceDtype);
  if (!group) return undefined;
  const { default: project } = await import("../../deno.json", { with: { type: "json" } });
  return new Ranks(group, project.version, options);
}

/** The SHA-256 of a text. */
export function digestOfText(text: string): string {
  return sha256().update(text).digest("hex");
}

/** One SHA-256 of some arrays. */
export function digestOfArrays(arrays: readonly Float32Array[]): string {
  const hash = sha256();
  for (const { buffer, byteOffset, byteLength } of arrays) {
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest("hex");
}

/**
 * Compares the weights of all ranks.
 * @throws {AgreedError} on every rank, naming one that differs
 */
export function checkWeights({ group }: Ranks, params: Float32Array, step: number): void {
  checkAgreement(group, { weights: digestOfArrays([params]) }, `after step ${step}`);
}
