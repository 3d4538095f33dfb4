/** Decoding with a key-value cache: all sequences of a call are one batch, and tokens are drawn on the device. */
import type { ModelConfig } from "../config.ts";
import type { Allocator, DecodeRows, Device, Sampling, Tensor } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { Breather, nextWindowSteps } from "../../device/pacing.ts";
import type { DecodeMemory, Network, Weights } from "../network.ts";
import { networkOf } from "../networks.ts";
import { mixSeed } from "../../device/random.ts";
import {
  hasPenalties,
  PLAIN_SAMPLING,
  saidIn,
  SAMPLING_COLUMNS,
  samplingRow,
} from "../../device/sampling.ts";

/** A sequence to continue: what was fed before is in its cache line. */
export interface Start {
  /** cache line, 0 … sequences − 1 */
  sequence: number;
  /** the token to feed next */
  token: number;
  /** its position */
  position: number;
  seed: number;
  /** ids that count as said before, for penalties; those that end a sequence do not */
  said?: readonly number[];
}

/** A token and where it goes: a row of a step. */
export interface Place {
  /** cache line */
  sequence: number;
  token: number;
  position: number;
}

/** What is left out of the sampling is off, the temperature 1. */
export interface DecodeOptions extends Partial<Sampling> {
  /** any of them ends a sequence; it is neither fed nor reported as one of its tokens */
  stopTokens: readonly number[];
  /** most tokens that a sequence gets */
  maxTokens: number;
  /** no stop token is drawn before a sequence has this many tokens */
  minTokens?: number;
  signal?: AbortSignal;
}

/** What one sequence got since the last event. */
export interface Decoded {
  sequence: number;
  /** in order; without a stop token */
  tokens: number[];
  /** the sequence is complete: stop token, `maxTokens` or the end of the context */
  done: boolean;
}

/** A row of the batch being decoded. */
interface ActiveRow extends Start {
  /** tokens it got */
  made: number;
  done: boolean;
}

/** Steps that were queued together and are read back together. */
interface Window {
  steps: number;
  /** first row of the output that they write */
  slot: number;
  /** [steps, sequences] */
  output: Promise<Float32Array | Uint32Array>;
}

/** Prompts are fed so many tokens at a time. */
const PROMPT_CHUNK = 128;

/** The event loop is given a moment at least this often. */
const BREATHE_MS = 15;

export class Decoder {
  /** positions of a sequence */
  readonly contextLength: number;
  readonly sequences: number;
  readonly #device: Device;
  readonly #network: Network;
  readonly #weights: Weights;
  readonly #memory: DecodeMemory;
  readonly #rows: DecodeRows;
  readonly #promptRows: DecodeRows;
  readonly #seeds: Tensor;
  readonly #settings: Tensor;
  /** [sequences, 1] until someone has penalties, see `Draws` */
  #said: Tensor;
  /** most steps of a window */
  readonly #windowSteps: number;
  /** [2 windows, sequences] */
  readonly #output: Tensor;
  /** all of the above but the weights */
  readonly #tensors: Tensor[] = [];
  #closed = false;

  /**
   * @param weights working weights on the device
   * @param sequences cache lines
   * @param contextLength positions a line; at most the model's block size
   * @throws {MicrogptError} when the device's memory is short
   */
  constructor(
    device: Device,
    config: ModelConfig,
    weights: Weights,
    sequences: number,
    contextLength: number,
  ) {
    this.#device = device;
    this.#network = networkOf(config);
    this.#weights = weights;
    this.sequences = sequences;
    this.contextLength = Math.min(contextLength, config.block_size);
    const chunk = Math.max(sequences, Math.min(PROMPT_CHUNK, this.contextLength));
    const allocator = this.#allocator();
    const column = (label: string, rows: number) =>
      allocator.tensor(`decoding ${label}`, rows, 1, "u32", "decoding");
    const rows = (n: number): DecodeRows => ({
      tokens: column("tokens", n),
      positions: column("positions", n),
      sequences: column("sequences", n),
    });
    this.#windowSteps = device.stepsInFlight;
    try {
      this.#memory = this.#network.allocateDecodeMemory(allocator, chunk, sequences, this.contextLength);
      this.#rows = rows(sequences);
      this.#promptRows = rows(chunk);
      this.#seeds = column("seeds", sequences);
      this.#settings = allocator.tensor("sampling", sequences, SAMPLING_COLUMNS, "f32", "decoding");
      this.#said = column("said", sequences);
      this.#output = allocator.tensor(
        "decoding output",
        2 * this.#windowSteps,
        sequences,
        "u32",
        "decoding",
      );
    } catch (error) {
      this.close(); // frees what did fit
      throw error;
    }
  }

  /** The device's memory, remembered for `close`. */
  #allocator(): Allocator {
    return {
      tensor: (...args) => {
        const tensor = this.#device.tensor(...args);
        this.#tensors.push(tensor);
        return tensor;
      },
      createBatch: (...args) => this.#device.createBatch(...args),
    };
  }

  /** Feeds tokens whose successors are known: afterwards the keys and values from `position` on are in the cache. */
  feed(sequence: number, tokens: ArrayLike<number>, position: number): void {
    this.#checkOpen();
    const device = this.#device;
    const rows = this.#promptRows;
    for (let at = 0; at < tokens.length; at += rows.tokens.capacity) {
      const n = Math.min(rows.tokens.capacity, tokens.length - at);
      setRows(rows, n);
      device.write(rows.tokens, Uint32Array.from({ length: n }, (_, i) => tokens[at + i]!));
      device.write(rows.positions, Uint32Array.from({ length: n }, (_, i) => position + at + i));
      device.write(rows.sequences, new Uint32Array(n).fill(sequence));
      this.#network.decodeStep(device, this.#weights, this.#memory, rows, this.contextLength, 0);
      device.submit();
    }
  }

  /** Copies what was fed to a sequence at positions 0 … `length` − 1 to the cache lines of others. */
  copy(sequence: number, length: number, others: number[]): void {
    this.#checkOpen();
    if (length === 0) return;
    for (const cache of this.#memory.caches) {
      const line = (s: number) =>
        this.#device.view(cache, s * this.contextLength * cache.cols, length, cache.cols);
      for (const other of others) this.#device.copy(line(other), line(sequence));
    }
    this.#device.submit();
  }

  /**
   * Sets how a sequence is drawn from now on.
   * @param said [V] how often each id was said, see `Draws`; needed where there are penalties
   * @throws {MicrogptError} when the device's memory is short
   * @throws {RangeError} when the suppressed ids are more than 8 runs of neighbours
   */
  begin(sequence: number, seed: number, sampling: Sampling, said?: Uint32Array<ArrayBuffer>): void {
    this.#checkOpen();
    const { cols: V } = this.#memory.logits;
    this.#device.write(this.#seeds, Uint32Array.of(mixSeed(seed)), sequence);
    this.#setSampling(sequence, sampling);
    if (!said || !hasPenalties(sampling)) return;
    if (this.#said.cols !== V) {
      this.#said = this.#allocator().tensor("decoding said", this.sequences, V, "u32", "decoding");
    }
    this.#device.write(this.#said, said, sequence * V);
  }

  /**
   * One step of rows that the caller keeps, each of another sequence: feeds each row's token, and draws what follows as
   * `begin` said.
   * @param logits whether the logits are wanted too
   * @returns the ids, and the logits that they were drawn from, [rows, V]
   * @throws {MicrogptError} once the decoder or its device is closed
   */
  async draw(
    rows: readonly Place[],
    logits: boolean,
  ): Promise<{ ids: Uint32Array; logits: Float32Array | undefined }> {
    this.#checkOpen();
    this.#writeRows(rows);
    this.#queueStep(rows.length, 0);
    const drawn = this.#device.view(this.#output, 0, 1, rows.length);
    const [ids, read] = await Promise.all([
      this.#device.read(drawn),
      logits ? this.#device.read(this.#memory.logits) : undefined,
    ]);
    return { ids: ids as Uint32Array, logits: read as Float32Array | undefined };
  }

  /**
   * One step of rows that the caller keeps: feeds each row's token.
   * @param rows at most `sequences`; those of one sequence are neighbours at consecutive positions
   * @returns the logits of what follows each, [rows, V]
   * @throws {MicrogptError} once the decoder or its device is closed
   */
  async step(rows: readonly Place[]): Promise<Float32Array> {
    this.#checkOpen();
    const device = this.#device;
    this.#writeRows(rows);
    this.#network.decodeStep(
      device,
      this.#weights,
      this.#memory,
      this.#rows,
      this.contextLength,
      rows.length,
    );
    device.submit();
    return await device.read(this.#memory.logits) as Float32Array;
  }

  /**
   * Generates until every sequence is done, and reports what each got, step by step. Where reading from the device is
   * slow, several steps are read together, after the next ones are queued. What a sequence gets depends on its seed
   * and its tokens; on a GPU, where a batch of another size may use another kernel, up to rounding.
   * @throws {MicrogptError} once the decoder or its device is closed
   */
  async *decode(starts: Start[], options: DecodeOptions): AsyncGenerator<Decoded[], void, void> {
    this.#checkOpen();
    const { maxTokens, signal } = options;
    let rows: ActiveRow[] = starts
      .filter((start) => maxTokens > 0 && start.position < this.contextLength)
      .map((start) => ({ ...start, made: 0, done: false }));
    const immediate = starts.filter((start) => !rows.some((row) => row.sequence === start.sequence));
    if (immediate.length > 0) yield immediate.map(({ sequence }) => ({ sequence, tokens: [], done: true }));
    const { minTokens = 0, stopTokens } = options;
    const sampling = { ...PLAIN_SAMPLING, ...options };
    let early = minTokens > 0;
    const first = early ? { ...sampling, suppressed: [...sampling.suppressed, ...stopTokens] } : sampling;
    for (const { sequence, seed, said = [] } of rows) {
      const before = hasPenalties(sampling) ? saidIn(said, this.#memory.logits.cols, stopTokens) : undefined;
      this.begin(sequence, seed, first, before);
    }
    this.#writeRows(rows);
    const breather = new Breather(BREATHE_MS);
    const windows: Window[] = []; // in flight, the oldest first
    try {
      for (let size = 1; rows.length > 0 && !signal?.aborted;) {
        const started = performance.now();
        if (early && rows.every((row) => row.made >= minTokens)) {
          early = false; // nothing is in flight then
          for (const { sequence } of rows) this.#setSampling(sequence, sampling);
        }
        const queued = this.#queueWindows(windows, rows, size, early);
        const window = windows.shift()!;
        const output = await window.output as Uint32Array;
        size = this.#nextSize(size, starts.length, (performance.now() - started) / Math.max(1, queued));
        yield readRows(rows, output, window.steps, this, options);
        if (windows.length === 0 && rows.some((row) => row.done)) {
          rows = rows.filter((row) => !row.done);
          this.#writeRows(rows);
        }
        if (breather.due) await breather.take();
        this.#checkOpen();
      }
    } finally {
      await Promise.allSettled(windows.map((window) => window.output));
    }
  }

  /**
   * Steps of the next window. With one stream they grow to take a moment, so that text flows even where steps are slow.
   * With several, time must not matter: rows that are done leave the batch between windows, products of fewer rows may
   * round differently, and what is drawn must depend only on the seed.
   */
  #nextSize(size: number, streams: number, milliseconds: number): number {
    if (streams === 1) return nextWindowSteps(size, milliseconds, this.#windowSteps);
    return Math.min(2 * size, this.#windowSteps);
  }

  /**
   * Queues a window of steps, and where reading is slow a second one, unless rows that are done take half of the
   * batch (they leave it when nothing is in flight) or one of them comes to the end of its cache line.
   * @param early whether no sequence may end yet: then steps are taken one by one
   * @returns steps that it queued
   */
  #queueWindows(windows: Window[], rows: ActiveRow[], size: number, early: boolean): number {
    const alive = rows.filter((row) => !row.done).length;
    const depth = this.#device.stepsInFlight === 1 || early || 2 * alive <= rows.length ? 1 : 2;
    let queued = 0;
    while (windows.length < depth) {
      const ahead = windows.reduce((sum, window) => sum + window.steps, 0);
      const room = Math.min(...rows.map((row) => this.contextLength - row.position)) - ahead;
      const steps = Math.min(early ? 1 : size, room);
      if (steps <= 0) break;
      const slot = windows[0]?.slot === 0 ? this.#windowSteps : 0;
      for (let step = 0; step < steps; step++) this.#queueStep(rows.length, slot + step);
      const drawn = this.#device.view(this.#output, slot * this.sequences, steps, this.sequences);
      windows.push({ steps, slot, output: this.#device.read(drawn) });
      queued += steps;
    }
    return queued;
  }

  /**
   * Frees the device's memory. Does nothing the second time, or when the device is closed; a generation under way ends
   * with an error.
   */
  close(): void {
    this.#closed = true;
    for (const tensor of this.#tensors.splice(0)) this.#device.free(tensor);
  }

  #checkOpen(): void {
    if (this.#closed) throw new MicrogptError("the generation was closed");
  }

  #writeRows(active: readonly Place[]): void {
    setRows(this.#rows, active.length);
    this.#device.write(this.#rows.tokens, Uint32Array.from(active, (row) => row.token));
    this.#device.write(this.#rows.positions, Uint32Array.from(active, (row) => row.position));
    this.#device.write(this.#rows.sequences, Uint32Array.from(active, (row) => row.sequence));
  }

  #setSampling(sequence: number, sampling: Sampling): void {
    this.#device.write(this.#settings, samplingRow(sampling), sequence * SAMPLING_COLUMNS);
  }

  #queueStep(n: number, step: number): void {
    const device = this.#device;
    this.#network.decodeStep(device, this.#weights, this.#memory, this.#rows, this.contextLength, n);
    const draws = { seeds: this.#seeds, settings: this.#settings, said: this.#said };
    device.sample(this.#rows, this.#memory.logits, this.#output, step, draws);
    device.submit();
  }
}

function setRows(rows: DecodeRows, n: number): void {
  rows.tokens.rows = n;
  rows.positions.rows = n;
  rows.sequences.rows = n;
}

/** What each row that is not done got in a window: [steps, decoder.sequences], a row's draws in its column. */
function readRows(
  rows: ActiveRow[],
  output: Uint32Array,
  steps: number,
  decoder: Decoder,
  options: DecodeOptions,
): Decoded[] {
  const events: Decoded[] = [];
  rows.forEach((row, r) => {
    const tokens: number[] = [];
    const wasDone = row.done;
    for (let step = 0; step < steps; step++) {
      row.position++; // the device goes on with rows that are done
      if (row.done) continue;
      row.token = output[step * decoder.sequences + r]!;
      row.made++;
      const stopped = options.stopTokens.includes(row.token);
      if (!stopped) tokens.push(row.token);
      row.done = stopped || row.made === options.maxTokens ||
        row.position === decoder.contextLength;
    }
    if (!wasDone) events.push({ sequence: row.sequence, tokens, done: row.done });
  });
  return events;
}
