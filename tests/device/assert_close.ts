import assert from "node:assert/strict";

/** Asserts |actual − expected| ≤ tolerance · (1 + |expected|) for every element; NaN and ∞ must be the same. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  assert.equal(actual.length, expected.length, `${what}: number of elements`);
  for (let i = 0; i < actual.length; i++) {
    if (Object.is(actual[i], expected[i])) continue;
    const difference = Math.abs(actual[i]! - expected[i]!);
    const allowed = tolerance * (1 + Math.abs(expected[i]!));
    assert(
      difference <= allowed,
      `${what}[${i}]: ${actual[i]}, expected ${expected[i]}, ${difference} apart, ${allowed} allowed`,
    );
  }
}
