import { MicrogptError } from "./errors.ts";

/** The architecture, with the field names of `meta.json`. */
export interface ModelConfig {
  /** V */
  vocab_size: number;
  /** E */
  n_embd: number;
  /** H, a divisor of E */
  n_head: number;
  /** L */
  n_layer: number;
  /** B, the longest context in tokens */
  block_size: number;
}

/** Largest value of each field that this program will try; far above what fits on one machine. */
export const LIMITS: Record<keyof ModelConfig, number> = {
  vocab_size: 1 << 20,
  n_embd: 1 << 14,
  n_head: 1 << 10,
  n_layer: 1 << 10,
  block_size: 1 << 20,
};

/** Flag or field name as a person typed it. */
type Naming = (field: keyof ModelConfig) => string;

/**
 * Checks an architecture before memory is asked for.
 * @param name turns a field into what the reader knows it by, such as `--n-embd`
 * @param usage the values are a person's options, not a file's
 * @throws {MicrogptError} when a value is no positive integer in range, or n_head does not divide n_embd
 */
export function checkConfig(config: ModelConfig, name: Naming = (field) => field, usage = false): void {
  for (const field of Object.keys(LIMITS) as (keyof ModelConfig)[]) {
    const value = config[field];
    if (!Number.isInteger(value) || value < 1 || value > LIMITS[field]) {
      throw new MicrogptError(
        `${name(field)} must be a whole number from 1 to ${LIMITS[field]}, got ${value}`,
        { usage },
      );
    }
  }
  if (config.n_embd % config.n_head !== 0) {
    throw new MicrogptError(
      `${name("n_embd")} ${config.n_embd} is not divisible by ${name("n_head")} ${config.n_head}`,
      { hint: "each head works on an equal slice of the embedding; change one of the two", usage },
    );
  }
}
