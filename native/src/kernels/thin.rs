//! A few rows times a weight: out [M, N] = x · Wᵀ for M ≤ 8.   x: [M, K]   W: [N, K]
//!
//! Decoding: every weight is used M times only, so the speed is that of memory. Threads share out the rows of W; a thread
//! takes 4 of them at once, against up to 4 rows of x, and reads them in order. Reads N · K elements.

use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, load};
use crate::pool::Pool;
use std::ops::Range;

/// Most rows of x.
pub const MAX_ROWS: usize = 8;
/// Elements of W that are worth a thread's while.
const PART: usize = 16 * 1024;

/// out = x · wᵀ, or out += x · wᵀ with `add`; then relu.
pub fn thin_product(
    pool: &mut Pool,
    out: &mut [f32],
    x: &[f32],
    w: &[f32],
    [m, n, k]: [usize; 3],
    add: bool,
    relu: bool,
) {
    assert!(m <= MAX_ROWS && out.len() == m * n && x.len() == m * k && w.len() == n * k);
    let chunks = super::chunks_for(pool, n * k, PART);
    let out = Shared::new(out);
    pool.run(chunks, |i| {
        let columns = part_of(n, 4, chunks, i);
        let write = |row: usize, column: usize, sum: f32| {
            // SAFETY: columns of different chunks differ.
            let target = unsafe { &mut out.part(row * n + column..row * n + column + 1)[0] };
            let sum = if add { *target + sum } else { sum };
            *target = if relu && sum < 0.0 { 0.0 } else { sum };
        };
        for first in (0..m).step_by(4) {
            let (x, columns) = (&x[first * k..(first + 4).min(m) * k], columns.clone());
            let write = |row: usize, column: usize, sum: f32| write(first + row, column, sum);
            match m - first {
                1 => columns_of::dispatch::<1>(x, w, k, columns, write),
                2 => columns_of::dispatch::<2>(x, w, k, columns, write),
                3 => columns_of::dispatch::<3>(x, w, k, columns, write),
                _ => columns_of::dispatch::<4>(x, w, k, columns, write),
            }
        }
    });
}

/// The products of M rows of x with some rows of w.
#[inline(always)]
fn columns_of<S: Simd, const M: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    k: usize,
    columns: Range<usize>,
    write: impl Fn(usize, usize, f32),
) {
    let mut j = columns.start;
    while j + 4 <= columns.end {
        let sums = dots::<S, M, 4>(simd, x, &w[j * k..(j + 4) * k], k);
        for (row, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                write(row, j + c, sum);
            }
        }
        j += 4;
    }
    for j in j..columns.end {
        let sums = dots::<S, M, 1>(simd, x, &w[j * k..(j + 1) * k], k);
        for (row, sum) in sums.iter().enumerate() {
            write(row, j, sum[0]);
        }
    }
}
dispatched!(columns_of[const M: usize](
    x: &[f32],
    w: &[f32],
    k: usize,
    columns: Range<usize>,
    write: impl Fn(usize, usize, f32),
));

/// All dot products of M rows of x and R rows of w.
#[inline(always)]
fn dots<S: Simd, const M: usize, const R: usize>(simd: S, x: &[f32], w: &[f32], k: usize) -> [[f32; R]; M] {
    assert!(x.len() == M * k && w.len() == R * k);
    let mut sums = [[simd.splat_f32s(0.0); R]; M];
    let mut p = 0;
    while p < k {
        let whole = p + S::F32_LANES <= k;
        let mut vectors = [simd.splat_f32s(0.0); R];
        for r in 0..R {
            vectors[r] = read(simd, whole, &w[r * k + p..(r + 1) * k]);
        }
        for row in 0..M {
            let x = read(simd, whole, &x[row * k + p..(row + 1) * k]);
            for r in 0..R {
                sums[row][r] = simd.mul_add_e_f32s(x, vectors[r], sums[row][r]);
            }
        }
        p += S::F32_LANES;
    }
    let mut results = [[0.0; R]; M];
    for row in 0..M {
        for r in 0..R {
            results[row][r] = simd.reduce_sum_f32s(sums[row][r]);
        }
    }
    results
}

/// The first vector of `values`, or what there is of one.
#[inline(always)]
fn read<S: Simd>(simd: S, whole: bool, values: &[f32]) -> S::f32s {
    // SAFETY: `whole` says that a vector's worth is there.
    if whole { unsafe { load(simd, values.as_ptr()) } } else { simd.partial_load_f32s(values) }
}
