/** Log-probabilities of tokens, as a request asks for them: of the model's own distribution, before any sampling setting. */

/** A token with its log-probability. */
export interface Scored {
  id: number;
  /** natural logarithm of its probability */
  logprob: number;
}

/** A token of a text, and what else could have stood there. */
export interface TokenScore extends Scored {
  /** the most probable tokens, the first is the most probable */
  top: Scored[];
}

/**
 * Scores a token.
 * @param logits [V]
 * @param alternatives how many of the most probable tokens come along
 */
export function scoreOf(logits: Float32Array, id: number, alternatives: number): TokenScore {
  let max = -Infinity;
  for (const logit of logits) if (logit > max) max = logit;
  let total = 0;
  for (const logit of logits) if (logit > -Infinity) total += Math.exp(logit - max);
  const normalizer = max + Math.log(total);
  const scored = (token: number): Scored => ({ id: token, logprob: logits[token]! - normalizer });
  return { ...scored(id), top: largest(logits, alternatives).map(scored) };
}

/** The ids of the n largest logits, the largest first, the lower id first among equals. */
function largest(logits: Float32Array, n: number): number[] {
  const ids: number[] = [];
  if (n === 0) return ids;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (!(ids.length < n || logit > logits[ids[ids.length - 1]!]!)) continue;
    let at = ids.length;
    while (at > 0 && logits[ids[at - 1]!]! < logit) at--;
    ids.splice(at, 0, id);
    if (ids.length > n) ids.pop();
  }
  return ids;
}
