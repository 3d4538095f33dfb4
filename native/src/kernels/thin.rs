//! A few rows times a weight: out [M, N] = x · Wᵀ for M ≤ 8.   x: [M, K]   W: [N, K]
//!
//! Decoding: every weight is used M times only, so the speed is that of memory. Threads share out the rows of W; a thread
//! takes 4 of them at once, against up to 4 rows of x, and reads them in order. Reads N · K elements.

use super::shared::{Shared, part_of};
use super::simd::{Simd, load, simd};
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
                1 => simd!(columns_of::<1>(x, w, k, columns, write)),
                2 => simd!(columns_of::<2>(x, w, k, columns, write)),
                3 => simd!(columns_of::<3>(x, w, k, columns, write)),
                _ => simd!(columns_of::<4>(x, w, k, columns, write)),
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
            sums.iter().enumerate().for_each(|(c, &sum)| write(row, j + c, sum));
        }
        j += 4;
    }
    for j in j..columns.end {
        let sums = dots::<S, M, 1>(simd, x, &w[j * k..(j + 1) * k], k);
        sums.iter().enumerate().for_each(|(row, sum)| write(row, j, sum[0]));
    }
}

/// All dot products of M rows of x and R rows of w.
#[inline(always)]
fn dots<S: Simd, const M: usize, const R: usize>(simd: S, x: &[f32], w: &[f32], k: usize) -> [[f32; R]; M] {
    assert!(x.len() == M * k && w.len() == R * k);
    let mut sums = [[simd.splat_f32s(0.0); R]; M];
    let mut step = |read: &dyn Fn(&[f32], usize) -> S::f32s| {
        let w: [S::f32s; R] = std::array::from_fn(|r| read(w, r * k));
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = read(x, row * k);
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = simd.mul_add_e_f32s(x, w, *sum);
            }
        }
    };
    let mut p = 0;
    while p + S::F32_LANES <= k {
        // SAFETY: within row `from / k`.
        step(&|values, from| unsafe { load(simd, values.as_ptr().add(from + p)) });
        p += S::F32_LANES;
    }
    if p < k {
        step(&|values, from| simd.partial_load_f32s(&values[from + p..from + k]));
    }
    sums.map(|sums| sums.map(|sum| simd.reduce_sum_f32s(sum)))
}
