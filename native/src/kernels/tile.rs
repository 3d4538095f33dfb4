//! The inner product of attention: C (=|+=) A · B for matrices that are a few dozen wide and lie anywhere in memory.
//! C: [m, n], rows `c_row` apart   A: [m, k], any strides   B: [k, n], rows `b_row` apart
//!
//! A block of C, up to 8 rows by 2 vectors, stays in registers over all of k; each step loads 2 vectors of B and multiplies
//! them by one element of each row of A. 2 · m · n · k flops; B is read m / 8 times from the first cache.

use super::simd::{Simd, load, store};

/// A matrix inside a larger one: its first element, and the distances to the next row and the next column.
#[derive(Clone, Copy)]
pub struct Strided {
    pub at: *const f32,
    pub row: usize,
    pub col: usize,
}

impl Strided {
    /// The same matrix from row `i` on.
    #[inline(always)]
    pub fn from_row(self, i: usize) -> Strided {
        // Only an address: whoever reads it is responsible.
        Strided { at: self.at.wrapping_add(i * self.row), ..self }
    }
}

/// C = A · B, or C += A · B with `ADD`.
///
/// # Safety
/// The three matrices lie in memory that may be read, and C's written; C overlaps neither A nor B.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn product<S: Simd, const ADD: bool>(
    simd: S,
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let lanes = S::F32_LANES;
    // SAFETY: the blocks lie within the matrices.
    unsafe {
        let mut j = 0;
        while j + 2 * lanes <= n {
            columns::<S, 2, false, ADD>(simd, m, 2 * lanes, k, a, b.add(j), b_row, c.add(j), c_row);
            j += 2 * lanes;
        }
        if j + lanes <= n {
            columns::<S, 1, false, ADD>(simd, m, lanes, k, a, b.add(j), b_row, c.add(j), c_row);
            j += lanes;
        }
        if j < n {
            columns::<S, 1, true, ADD>(simd, m, n - j, k, a, b.add(j), b_row, c.add(j), c_row);
        }
    }
}

/// All rows of a group of columns: VECTORS full vectors, or with PARTIAL the first `n` lanes of one.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn columns<S: Simd, const VECTORS: usize, const PARTIAL: bool, const ADD: bool>(
    simd: S,
    m: usize,
    n: usize,
    k: usize,
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let mut i = 0;
    macro_rules! rows {
        ($rows:literal) => {
            while m - i >= $rows {
                let a = a.from_row(i);
                // SAFETY: rows i … i + $rows of the matrices.
                unsafe {
                    block::<S, $rows, VECTORS, PARTIAL, ADD>(
                        simd,
                        n,
                        k,
                        a,
                        b,
                        b_row,
                        c.add(i * c_row),
                        c_row,
                    );
                }
                i += $rows;
            }
        };
    }
    if S::REGISTER_COUNT >= 32 {
        rows!(8);
    }
    rows!(4);
    rows!(1);
}

/// Loads a full vector, or with PARTIAL the lanes of `mask`.
#[inline(always)]
unsafe fn read<S: Simd, const PARTIAL: bool>(
    simd: S,
    mask: pulp::MemMask<S::m32s>,
    from: *const f32,
) -> S::f32s {
    // SAFETY: as promised by the caller.
    unsafe { if PARTIAL { simd.mask_load_ptr_f32s(mask, from) } else { load(simd, from) } }
}

/// ROWS × VECTORS vectors of C.
///
/// Plain loops, no closures: what is not inlined is compiled without vector instructions.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
unsafe fn block<S: Simd, const ROWS: usize, const VECTORS: usize, const PARTIAL: bool, const ADD: bool>(
    simd: S,
    n: usize,
    k: usize,
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let mask = simd.mask_between_m32s(0, n as u32);
    let zero = simd.splat_f32s(0.0);
    let mut sums = [[zero; VECTORS]; ROWS];
    // SAFETY: within the matrices; with PARTIAL only the first n lanes are touched.
    unsafe {
        for p in 0..k {
            let b = b.add(p * b_row);
            let mut vectors = [zero; VECTORS];
            for v in 0..VECTORS {
                vectors[v] = read::<S, PARTIAL>(simd, mask, b.add(v * S::F32_LANES));
            }
            for i in 0..ROWS {
                let factor = simd.splat_f32s(*a.at.add(i * a.row + p * a.col));
                for v in 0..VECTORS {
                    sums[i][v] = simd.mul_add_e_f32s(factor, vectors[v], sums[i][v]);
                }
            }
        }
        for i in 0..ROWS {
            for v in 0..VECTORS {
                let to = c.add(i * c_row + v * S::F32_LANES);
                let mut sum = sums[i][v];
                if ADD {
                    sum = simd.add_f32s(sum, read::<S, PARTIAL>(simd, mask, to));
                }
                if PARTIAL {
                    simd.mask_store_ptr_f32s(mask, to, sum);
                } else {
                    store(simd, to, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::dispatched;

    #[inline(always)]
    fn product_of<S: Simd, const ADD: bool>(
        simd: S,
        size: (usize, usize, usize),
        a: &[f32],
        (row, col): (usize, usize),
        b: &[f32],
        c: &mut [f32],
    ) {
        // SAFETY: the test sizes its matrices to fit.
        unsafe {
            product::<S, ADD>(
                simd,
                size,
                Strided { at: a.as_ptr(), row, col },
                b.as_ptr(),
                80,
                c.as_mut_ptr(),
                90,
            );
        }
    }
    dispatched!(product_of[const ADD: bool](
        size: (usize, usize, usize),
        a: &[f32],
        strides: (usize, usize),
        b: &[f32],
        c: &mut [f32],
    ));

    #[test]
    fn agrees_with_three_loops() {
        let value = |i: usize| ((i * 7919) % 13) as f32 - 6.0;
        let a: Vec<f32> = (0..40 * 40).map(value).collect();
        let b: Vec<f32> = (0..40 * 80).map(|i| value(i + 3)).collect();
        for m in [1, 3, 4, 8, 15, 33] {
            for n in [1, 4, 12, 16, 17, 32, 48, 71] {
                for (k, strides) in [(1, (40, 1)), (7, (40, 1)), (32, (1, 40))] {
                    let mut c = vec![2.0; 40 * 90];
                    let mut expected = c.clone();
                    for i in 0..m {
                        for j in 0..n {
                            let sum: f32 =
                                (0..k).map(|p| a[i * strides.0 + p * strides.1] * b[p * 80 + j]).sum();
                            expected[i * 90 + j] = sum;
                        }
                    }
                    product_of::dispatch::<false>((m, n, k), &a, strides, &b, &mut c);
                    assert_eq!(c, expected);
                    product_of::dispatch::<true>((m, n, k), &a, strides, &b, &mut c);
                    expected[..].iter_mut().enumerate().for_each(|(i, x)| {
                        if i / 90 < m && i % 90 < n {
                            *x *= 2.0
                        }
                    });
                    assert_eq!(c, expected);
                }
            }
        }
    }
}
