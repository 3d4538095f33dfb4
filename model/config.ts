/** What the config of every network has, and how its numbers are checked. */
import { MicrogptError } from "../device/errors.ts";

/** The networks by name: `model/networks.ts` has them. */
export type Architecture = "gpt" | "llama";

/** The architecture of a model, with the field names of `meta.json`. A network may add fields of its own. */
export interface ModelConfig {
  /** which network; absent: gpt */
  architecture?: Architecture;
  /** V */
  vocab_size: number;
  /** E */
  n_embd: number;
  /** H */
  n_head: number;
  /** L */
  n_layer: number;
  /** B, the longest context in tokens */
  block_size: number;
}

/** What a network is made of, as settings of a run; what an architecture does not have, it does not read. */
export interface Shape {
  /** which network */
  arch?: Architecture;
  /** width of the embedding */
  nEmbd: number;
  /** attention heads */
  nHead: number;
  /** layers */
  nLayer: number;
  /** longest context in tokens */
  blockSize: number;
  /** heads of keys and values; 0: as many as nHead */
  nKvHead?: number;
  /** width of a head; 0: nEmbd / nHead */
  headDim?: number;
  /** width of the MLP; 0: about 8/3 of nEmbd */
  ffn?: number;
  /** the embedding is the head, too */
  tie?: boolean;
  /** pair j of a head turns by ropeTheta^(−2j / D) a position */
  ropeTheta?: number;
}

/** Fields that are whole numbers from 1. */
type CountField = "vocab_size" | "n_embd" | "n_head" | "n_layer" | "block_size";

/** Largest value of each field that this program will try; far more than fits on one machine. */
export const LIMITS: Record<CountField, number> = {
  vocab_size: 1 << 20,
  n_embd: 1 << 14,
  n_head: 1 << 10,
  n_layer: 1 << 10,
  block_size: 1 << 20,
};

/** How errors speak of a config. */
export interface ConfigNaming {
  /** turns a field into what the reader knows it by, such as `nEmbd` in backticks; default: its name in meta.json */
  name?: (field: string) => string;
  /** the values are a person's options, not a file's */
  usage?: boolean;
}

/**
 * Checks that fields are whole numbers from 1 to their limit.
 * @throws {MicrogptError} naming the field, its range and what was got
 */
export function checkCounts<Field extends string>(
  config: Record<Field, number>,
  limits: Record<Field, number>,
  { name = (field) => field, usage = false }: ConfigNaming = {},
): void {
  for (const [field, limit] of Object.entries(limits) as [Field, number][]) {
    const value = config[field];
    if (Number.isInteger(value) && value >= 1 && value <= limit) continue;
    throw new MicrogptError(`${name(field)} must be a whole number from 1 to ${limit}, got ${value}`, {
      usage,
    });
  }
}

/**
 * Reads numbers of a parsed `meta.json`.
 * @throws {MicrogptError} for a field that is missing or not a number
 */
export function readNumbers<Field extends string>(
  source: Record<string, unknown>,
  fields: readonly Field[],
): Record<Field, number> {
  const read = fields.map((field): [Field, number] => {
    const value = source[field];
    if (typeof value === "number") return [field, value];
    throw new MicrogptError(`${field} ${value === undefined ? "is missing" : "is not a number"}`);
  });
  return Object.fromEntries(read) as Record<Field, number>;
}
