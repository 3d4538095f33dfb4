//! The kernels of the CPU device. Each file states the shapes, the algorithm and what it costs, holds its exports,
//! and compares itself with a naive version in its tests.
//!
//! Letters in shapes: T tokens of all documents of a batch, end to end; E width; H heads of queries, Hkv of keys and values;
//! D width of a head; V vocabulary; B block size; N rows of a decoding step. Results do not depend on which thread does what: threads share out
//! outputs, never a sum.

pub mod adam;
pub mod add;
pub mod attention;
pub mod attention_backward;
pub mod attention_cached;
pub mod batch;
pub mod bf16_product;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod matmul;
pub mod muon;
pub mod norm;
pub mod packed;
pub mod packed_lookup;
pub mod packed_product;
pub mod rope;
pub mod sample;
pub mod scaled_norm;
pub mod shared;
pub mod simd;
pub mod small;
pub mod swiglu;
pub mod thin;
pub mod tile;
pub mod widen;

use crate::pool::Pool;
use crate::tensors::Span;
use shared::{Shared, part_of};

/// Elements of a cache line: threads do not share one.
pub const LINE: usize = 16;

/// Elements of simple arithmetic that are worth a thread's while: about two microseconds.
pub const GRAIN: usize = 16 * 1024;

/// A contiguous matrix as an export receives it: tensor, first element, rows and columns.
pub fn span(handle: u32, offset: f64, rows: u32, cols: u32) -> Span {
    span_of_parts(handle, offset, rows, 1, cols)
}

/// An array of one row as an export receives it, whose length may be beyond a u32.
pub fn flat(handle: u32, offset: f64, len: f64) -> Span {
    Span { handle, offset, len: len as usize }
}

/// The same for a matrix whose rows hold `parts` parts of `cols` columns. Their product is made in 64 bits, so that sizes
/// too large for any tensor do not wrap around to small ones.
pub fn span_of_parts(handle: u32, offset: f64, rows: u32, parts: u32, cols: u32) -> Span {
    let len = (u64::from(parts) * u64::from(cols)).saturating_mul(rows.into());
    Span { handle, offset, len: usize::try_from(len).unwrap_or(usize::MAX) }
}

/// The number of chunks to cut `work` elements into: one where more do not pay off, else a few for each thread, so that a
/// thread that was held up leaves its share to the others.
pub fn chunks_for(pool: &Pool, work: usize, grain: usize) -> usize {
    if pool.threads() == 1 { 1 } else { (work / grain).clamp(1, 4 * pool.threads()) }
}

/// Calls `body(first row, rows)` for parts of `out` [rows, cols], in parallel.
pub fn for_rows<T: Send>(
    pool: &mut Pool,
    out: &mut [T],
    cols: usize,
    work: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = out.len() / cols.max(1);
    let chunks = chunks_for(pool, work, GRAIN).min(rows);
    let out = Shared::new(out);
    pool.run(chunks, |i| {
        let part = part_of(rows, 1, chunks, i);
        // SAFETY: parts of different chunks do not overlap.
        body(part.start, unsafe { out.part(part.start * cols..part.end * cols) });
    });
}

/// Sets everything to zero.
pub fn zero(pool: &mut Pool, values: &mut [f32]) {
    let work = values.len() / 4;
    for_rows(pool, values, 1, work, |_, part| part.fill(0.0));
}
