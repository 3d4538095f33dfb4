/** Decoding with a key-value cache: all sequences of a call are one batch, and tokens are drawn on the device. */
import type { ModelConfig } from "./config.ts";
import type { DecodeRows, Device, Sampling, Tensor } from "./device.ts";
import { EventLoopTurns } from "./event_loop.ts";
import { allocateDecodeMemory, type DecodeMemory, decodeStep } from "./gpt.ts";
import type { Weights } from "./parameters.ts";
import { mixSeed } from "./random.ts";

/** A sequence to go on with: what was fed before lies in its cache line. */
export interface Start {
  /** cache line, 0 … sequences − 1 */
  sequence: number;
  /** the token to feed next */
  token: number;
  /** its position */
  position: number;
  seed: number;
}

export interface DecodeOptions extends Sampling {
  /** ends a sequence; it is not fed, and not told as a token of it */
  stopToken: number;
  /** tokens a sequence gets at most */
  maxTokens: number;
  /** the stop token is not drawn before so many tokens */
  minTokens?: number;
  signal?: AbortSignal;
}

/** What one sequence got since the last event. */
export interface Decoded {
  sequence: number;
  /** in their order; without the stop token */
  tokens: number[];
  /** the sequence is complete: stop token, `maxTokens` or the end of the context */
  done: boolean;
}

/** A row of the batch being decoded. */
interface ActiveRow extends Start {
  made: number;
}

/** Prompts are fed so many tokens at a time. */
const PROMPT_CHUNK = 128;

/** The event loop gets a turn at least this often. */
const BREATHE_MS = 15;

export class Decoder {
  /** positions of a sequence */
  readonly contextLength: number;
  readonly sequences: number;
  readonly #device: Device;
  readonly #config: ModelConfig;
  readonly #weights: Weights;
  readonly #memory: DecodeMemory;
  readonly #rows: DecodeRows;
  readonly #promptRows: DecodeRows;
  readonly #seeds: Tensor;
  readonly #output: Tensor;

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
    this.#config = config;
    this.#weights = weights;
    this.sequences = sequences;
    this.contextLength = Math.min(contextLength, config.block_size);
    const chunk = Math.max(sequences, Math.min(PROMPT_CHUNK, this.contextLength));
    this.#memory = allocateDecodeMemory(device, config, chunk, sequences, this.contextLength);
    const column = (label: string, rows: number) => device.tensor(`decoding ${label}`, rows, 1, "u32");
    const rows = (n: number): DecodeRows => ({
      tokens: column("tokens", n),
      positions: column("positions", n),
      sequences: column("sequences", n),
    });
    this.#rows = rows(sequences);
    this.#promptRows = rows(chunk);
    this.#seeds = column("seeds", sequences);
    this.#output = device.tensor("decoding output", Math.max(device.stepsInFlight, 1), sequences, "u32");
  }

  /** Feeds tokens whose successors are known: keys and values of positions `position` … are in the cache after. */
  feed(sequence: number, tokens: ArrayLike<number>, position: number): void {
    const device = this.#device;
    const rows = this.#promptRows;
    for (let at = 0; at < tokens.length; at += rows.tokens.capacity) {
      const n = Math.min(rows.tokens.capacity, tokens.length - at);
      setRows(rows, n);
      device.write(rows.tokens, Uint32Array.from({ length: n }, (_, i) => tokens[at + i]!));
      device.write(rows.positions, Uint32Array.from({ length: n }, (_, i) => position + at + i));
      device.write(rows.sequences, new Uint32Array(n).fill(sequence));
      decodeStep(device, this.#config, this.#weights, this.#memory, rows, this.contextLength, 0);
      device.submit();
    }
  }

  /**
   * Generates until every sequence is done, and tells what each got step by step (several steps at a time where reading
   * from the device is slow). What a sequence gets depends on its seed and its tokens only.
   */
  async *decode(starts: Start[], options: DecodeOptions): AsyncGenerator<Decoded[], void, void> {
    const device = this.#device;
    const { stopToken, maxTokens, minTokens = 0, signal } = options;
    let active: ActiveRow[] = starts
      .filter((start) => maxTokens > 0 && start.position < this.contextLength)
      .map((start) => ({ ...start, made: 0 }));
    const immediate = starts.filter((start) => !active.some((row) => row.sequence === start.sequence));
    if (immediate.length > 0) yield immediate.map(({ sequence }) => ({ sequence, tokens: [], done: true }));
    const seeds = new Uint32Array(this.sequences);
    for (const { sequence, seed } of active) seeds[sequence] = mixSeed(seed);
    device.write(this.#seeds, seeds);
    const turns = new EventLoopTurns(BREATHE_MS);
    let changed = true;
    while (active.length > 0 && !signal?.aborted) {
      if (changed) this.#writeRows(active);
      const room = Math.min(...active.map((row) => this.contextLength - row.position));
      const started = Math.min(...active.map((row) => row.made));
      const early = started < minTokens;
      const steps = Math.min(early ? 1 : this.#output.capacity, room);
      const suppressed = early ? [...options.suppressed, stopToken] : options.suppressed;
      for (let step = 0; step < steps; step++) {
        this.#queueStep(active.length, step, { ...options, suppressed });
      }
      const output = await device.read(this.#output) as Uint32Array;
      const events = active.map((row, r) => {
        const drawn = Array.from({ length: steps }, (_, step) => output[step * this.#output.cols + r]!);
        return advance(row, drawn, stopToken, maxTokens, this.contextLength);
      });
      const alive = active.filter((_, r) => !events[r]!.done);
      changed = alive.length < active.length;
      active = alive;
      yield events;
      if (turns.due) await turns.take();
    }
  }

  /** Gives the device's memory back. */
  close(): void {
    const { caches, ...scratch } = this.#memory;
    const tensors = [...caches, ...Object.values(scratch), this.#seeds, this.#output];
    for (const rows of [this.#rows, this.#promptRows]) {
      tensors.push(rows.tokens, rows.positions, rows.sequences);
    }
    for (const tensor of tensors) this.#device.free(tensor);
  }

  #writeRows(active: ActiveRow[]): void {
    setRows(this.#rows, active.length);
    this.#device.write(this.#rows.tokens, Uint32Array.from(active, (row) => row.token));
    this.#device.write(this.#rows.positions, Uint32Array.from(active, (row) => row.position));
    this.#device.write(this.#rows.sequences, Uint32Array.from(active, (row) => row.sequence));
  }

  #queueStep(n: number, step: number, sampling: Sampling): void {
    const device = this.#device;
    decodeStep(device, this.#config, this.#weights, this.#memory, this.#rows, this.contextLength, n);
    device.sample(this.#rows, this.#memory.logits, this.#output, step, this.#seeds, sampling);
    device.submit();
  }
}

function setRows(rows: DecodeRows, n: number): void {
  rows.tokens.rows = n;
  rows.positions.rows = n;
  rows.sequences.rows = n;
}

/** Adds drawn tokens to a row until it ends; draws after that are of no one. */
function advance(
  row: ActiveRow,
  drawn: number[],
  stopToken: number,
  maxTokens: number,
  context: number,
): Decoded {
  const tokens: number[] = [];
  for (const token of drawn) {
    row.made++;
    row.position++;
    row.token = token;
    if (token === stopToken) return { sequence: row.sequence, tokens, done: true };
    tokens.push(token);
    if (row.made === maxTokens || row.position === context) {
      return { sequence: row.sequence, tokens, done: true };
    }
  }
  return { sequence: row.sequence, tokens, done: false };
}
