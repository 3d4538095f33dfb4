/** How a token is drawn from logits, as a plain formula. */
import { IN_PROMPT, LEAST_TEMPERATURE, type Penalties, type Sampling } from "./device.ts";

/**
 * Lowers the logits of what was said.
 * @param logits [V], changed in place
 * @param said [V] how often each id was drawn, with `IN_PROMPT` where the prompt has it
 */
export function penalize(
  logits: Float64Array,
  said: Uint32Array,
  { repetition, frequency, presence }: Penalties,
): void {
  for (let id = 0; id < said.length; id++) {
    const count = said[id]!;
    if (count === 0) continue;
    const drawn = count % IN_PROMPT;
    const logit = logits[id]! > 0 ? logits[id]! / repetition : logits[id]! * repetition;
    logits[id] = logit - (frequency * drawn + (drawn > 0 ? presence : 0));
  }
}

/**
 * Picks a token: drops suppressed ids, then top-k, softmax at the temperature, top-p, min-p, and the first id whose
 * cumulative probability exceeds the draw. NaN is never drawn; an infinite logit always is.
 * @param logits [V], changed in place
 * @param draw uniform in [0, 1)
 * @returns the id
 */
export function drawToken(
  logits: Float64Array,
  draw: number,
  { temperature, topK, topP, minP = 0, suppressed }: Sampling,
): number {
  for (const id of suppressed) logits[id] = -Infinity;
  for (let id = 0; id < logits.length; id++) if (Number.isNaN(logits[id])) logits[id] = -Infinity;
  const greedy = logits.reduce((best, logit, id) => logit > logits[best]! ? id : best, 0);
  if (temperature < LEAST_TEMPERATURE || !Number.isFinite(logits[greedy])) return greedy;
  if (topK > 0 && topK < logits.length) {
    const kth = logits.toSorted()[logits.length - topK]!;
    for (let id = 0; id < logits.length; id++) if (logits[id]! < kth) logits[id] = -Infinity;
  }
  const max = logits[greedy]!;
  const p = logits.map((logit) => Math.exp((logit - max) / temperature));
  let total = p.reduce((sum, value) => sum + value, 0);
  if (topP < 1) {
    let kept = 0;
    let threshold = 0;
    for (const value of p.toSorted().reverse()) {
      threshold = value;
      kept += value;
      if (kept >= topP * total) break;
    }
    for (let id = 0; id < p.length; id++) if (p[id]! < threshold) p[id] = 0;
    total = p.reduce((sum, value) => sum + value, 0);
  }
  if (minP > 0) {
    // the most probable one is exp(0)
    for (let id = 0; id < p.length; id++) if (p[id]! < minP) p[id] = 0;
    total = p.reduce((sum, value) => sum + value, 0);
  }
  let cumulative = 0;
  for (let id = 0; id < p.length; id++) {
    cumulative += p[id]!;
    if (p[id]! > 0 && cumulative > draw * total) return id;
  }
  return greedy;
}
