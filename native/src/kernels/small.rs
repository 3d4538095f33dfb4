//! Products over few tokens: at most `MOST` rows of activations, any weight. The gemm crate copies both operands into
//! panels first, which here costs as much as the product. These work on the operands where they lie:
//!
//! NN  dx [T, N] = dy [T, K] · W [K, N]: tiles read the rows of W directly; K in blocks whose rows stay in the first cache.
//! TN  dW [M, N] = dy [T, M]ᵀ · x [T, N]: 16 columns of dy at a time are copied together, as they lie M apart.
//! NT  y [T, N] = x [T, K] · W [N, K]ᵀ: xᵀ is packed once, tiles compute yᵀ for 64 rows of W, which is turned into y.
//!
//! Each weight is read or written once for every 32 tokens (NN: every 8, from the first cache).

use super::attention::{pack_transposed, with_scratch};
use super::batch::QUERY_BLOCK as LANES;
use super::matmul::{Form, Product};
use super::shared::Shared;
use super::simd::{Simd, dispatched, map_vectors};
use super::tile::{Strided, product};
use std::ops::Range;

/// Most tokens for which this is faster than the gemm crate.
pub const MOST: usize = 64;
/// Rows of W that meet the tokens at once in NN.
const K_BLOCK: usize = 256;
/// Rows of W that become columns of y at once in NT.
const N_BLOCK: usize = 64;
/// Rows of dW made at once in TN.
const M_BLOCK: usize = 16;

/// Rows × columns of out = (out +) a · b.
///
/// # Safety
/// `out` is the whole output, rows and columns lie within it, and nobody else touches that part.
pub unsafe fn part(
    p: &Product,
    form: Form,
    out: Shared<f32>,
    rows: Range<usize>,
    columns: Range<usize>,
    add: bool,
) {
    match form {
        Form::NT => with_scratch((p.k + 2 * N_BLOCK) * LANES, |scratch| {
            nt_part::dispatch(p, out, rows, columns, add, scratch);
        }),
        Form::NN => nn_part::dispatch(p, out, rows, columns, add),
        Form::TN => {
            with_scratch(p.k * M_BLOCK, |scratch| tn_part::dispatch(p, out, rows, columns, add, scratch))
        }
    }
}

#[inline(always)]
fn nn_part<S: Simd>(
    simd: S,
    p: &Product,
    out: Shared<f32>,
    rows: Range<usize>,
    columns: Range<usize>,
    add: bool,
) {
    for column in columns.clone().step_by(LANES) {
        let width = LANES.min(columns.end - column);
        for k in (0..p.k).step_by(K_BLOCK) {
            let size = (rows.len(), width, K_BLOCK.min(p.k - k));
            let a = Strided { at: &raw const p.a[rows.start * p.k + k], row: p.k, col: 1 };
            let b = &raw const p.b[k * p.n + column];
            // SAFETY: blocks within the matrices.
            unsafe {
                let out = out.as_mut_ptr().add(rows.start * p.n + column);
                if add || k > 0 {
                    product::<S, true>(simd, size, a, b, p.n, out, p.n);
                } else {
                    product::<S, false>(simd, size, a, b, p.n, out, p.n);
                }
            }
        }
    }
}
dispatched!(nn_part(p: &Product, out: Shared<f32>, rows: Range<usize>, columns: Range<usize>, add: bool));

#[inline(always)]
fn tn_part<S: Simd>(
    simd: S,
    p: &Product,
    out: Shared<f32>,
    rows: Range<usize>,
    columns: Range<usize>,
    add: bool,
    panel: &mut [f32],
) {
    let m = p.a.len() / p.k;
    for row in rows.clone().step_by(M_BLOCK) {
        let count = M_BLOCK.min(rows.end - row);
        for (panel, a) in panel.chunks_exact_mut(M_BLOCK).zip(p.a.chunks_exact(m)) {
            panel[..count].copy_from_slice(&a[row..row + count]);
        }
        let size = (count, columns.len(), p.k);
        let a = Strided { at: panel.as_ptr(), row: 1, col: M_BLOCK };
        let b = &raw const p.b[columns.start];
        // SAFETY: blocks within the matrices.
        unsafe {
            let out = out.as_mut_ptr().add(row * p.n + columns.start);
            if add {
                product::<S, true>(simd, size, a, b, p.n, out, p.n);
            } else {
                product::<S, false>(simd, size, a, b, p.n, out, p.n);
            }
        }
    }
}
dispatched!(tn_part(
    p: &Product,
    out: Shared<f32>,
    rows: Range<usize>,
    columns: Range<usize>,
    add: bool,
    panel: &mut [f32],
));

#[inline(always)]
fn nt_part<S: Simd>(
    simd: S,
    p: &Product,
    out: Shared<f32>,
    rows: Range<usize>,
    columns: Range<usize>,
    add: bool,
    scratch: &mut [f32],
) {
    let (packed, rest) = scratch.split_at_mut(p.k * LANES); // xᵀ [K, 32]
    let (turned, straight) = rest.split_at_mut(N_BLOCK * LANES); // yᵀ [64, 32], y [32, 64]
    for row in rows.clone().step_by(LANES) {
        let count = LANES.min(rows.end - row);
        let used = count.next_multiple_of(S::F32_LANES);
        pack_transposed(
            packed,
            Strided { at: &raw const p.a[row * p.k], row: p.k, col: 1 },
            count,
            used,
            1.0,
        );
        for column in columns.clone().step_by(N_BLOCK) {
            let width = N_BLOCK.min(columns.end - column);
            let w = Strided { at: &raw const p.b[column * p.k], row: p.k, col: 1 };
            // SAFETY: `width` rows of W, the packed tokens, and scratch of the right sizes.
            unsafe {
                product::<S, false>(
                    simd,
                    (width, used, p.k),
                    w,
                    packed.as_ptr(),
                    LANES,
                    turned.as_mut_ptr(),
                    LANES,
                );
            }
            turn(straight, turned, count, width);
            for (i, y) in straight.chunks_exact(N_BLOCK).enumerate().take(count) {
                let from = (row + i) * p.n + column;
                // SAFETY: columns of this chunk.
                let out = unsafe { out.part(from..from + width) };
                if add {
                    map_vectors(
                        simd,
                        out,
                        [y],
                        #[inline(always)]
                        |out, [y]| simd.add_f32s(out, y),
                    );
                } else {
                    out.copy_from_slice(&y[..width]);
                }
            }
        }
    }
}
dispatched!(nt_part(
    p: &Product,
    out: Shared<f32>,
    rows: Range<usize>,
    columns: Range<usize>,
    add: bool,
    scratch: &mut [f32],
));

/// straight [·, 64] = the transpose of turned [·, 32]: `count` rows and `width` columns of it, in squares of four.
#[inline(always)]
fn turn(straight: &mut [f32], turned: &[f32], count: usize, width: usize) {
    for i in (0..count).step_by(4) {
        for j in (0..width).step_by(4) {
            let mut square = [[0f32; 4]; 4];
            for (r, row) in square.iter_mut().enumerate() {
                row.copy_from_slice(&turned[(j + r) * LANES + i..][..4]);
            }
            for c in 0..4 {
                let column = [square[0][c], square[1][c], square[2][c], square[3][c]];
                straight[(i + c) * N_BLOCK + j..][..4].copy_from_slice(&column);
            }
        }
    }
}
