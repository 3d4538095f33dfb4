//! Products over few tokens: at most `MOST` rows of activations, any weight. The gemm crate copies both operands into
//! panels first, which here costs as much as the product. These work on the operands where they lie:
//!
//! NN  dx [T, N] = dy [T, K] · W [K, N]: tiles read the rows of W directly; K in blocks whose rows stay in the first cache.
//! TN  dW [M, N] = dy [T, M]ᵀ · x [T, N]: 16 columns of dy at a time are copied together, as they lie M apart.
//! NT  y [T, N] = x [T, K] · W [N, K]ᵀ: xᵀ is packed once, tiles compute yᵀ for 64 rows of W, which is then transposed into y.
//!
//! Each weight is read or written once for every 32 tokens (NN: every 8, from the first cache).

use super::attention::{pack_transposed, with_scratch};
use super::batch::QUERY_BLOCK as LANES;
use super::matmul::{Form, Product};
use super::shared::Shared;
use super::simd::{Simd, dispatched, transposed};
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
        Form::NT => with_scratch((p.k + N_BLOCK) * LANES, |scratch| {
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
    let (packed, y_t) = scratch.split_at_mut(p.k * LANES); // xᵀ [K, 32], yᵀ [64, 32]
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
                    y_t.as_mut_ptr(),
                    LANES,
                );
            }
            // SAFETY: columns of this chunk.
            unsafe {
                add_or_store_transpose(out.as_mut_ptr().add(row * p.n + column), p.n, y_t, count, width, add)
            };
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

/// y [count, width] = (y +) the transpose of y_t [width, 32], in squares of four. Rows of y are `row` apart.
///
/// # Safety
/// y can be written.
#[inline(always)]
unsafe fn add_or_store_transpose(
    y: *mut f32,
    row: usize,
    y_t: &[f32],
    count: usize,
    width: usize,
    add: bool,
) {
    assert!(count <= LANES && width.next_multiple_of(4) * LANES <= y_t.len());
    for i in (0..count).step_by(4) {
        for j in (0..width).step_by(4) {
            // SAFETY: squares at the edges read beyond [width, count], but within the scratch memory.
            let square = transposed(std::array::from_fn(|r| unsafe {
                y_t.as_ptr().add((j + r) * LANES + i).cast::<[f32; 4]>().read()
            }));
            // SAFETY: the square, or the part of it inside y.
            unsafe {
                let y = y.add(i * row + j);
                if i + 4 <= count && j + 4 <= width {
                    for (r, values) in square.into_iter().enumerate() {
                        let y = y.add(r * row).cast::<[f32; 4]>();
                        *y = if add { std::array::from_fn(|c| (*y)[c] + values[c]) } else { values };
                    }
                } else {
                    for (r, c) in
                        (0..4.min(count - i)).flat_map(|r| (0..4.min(width - j)).map(move |c| (r, c)))
                    {
                        let y = y.add(r * row + c);
                        *y = if add { *y + square[r][c] } else { square[r][c] };
                    }
                }
            }
        }
    }
}
