//! Rows of packed weights as the start of decoding.
//! Lookup.  x[r] = table[token].  x: [N, E]  table: [V, E]
//! Embedding.  x[r] = rmsnorm(wte[token] + wpe[position]).  wte: [V, E]  wpe: [B, E]
//!
//! A row of a panel lies scattered, one number every 32: E cache lines for each row, little beside the products that follow.

use super::embedding::check;
use super::norm::normalise;
use super::packed::{Packed, Shape};
use super::simd::{Simd, dispatched};
use super::{for_rows, span};
use crate::device::with_device;
use crate::tensors::as_u32s;

#[inline(always)]
fn normalise_row<S: Simd>(simd: S, x: &mut [f32]) {
    normalise(simd, x);
}
dispatched!(normalise_row(x: &mut [f32]));

/// x [rows, cols] = the rows `tokens` [rows] of table [vocabulary, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_lookup_weights(
    device: u32,
    x: u32,
    x_at: f64,
    tokens: u32,
    tokens_at: f64,
    table: u32,
    kind: u32,
    rows: u32,
    cols: u32,
    vocabulary: u32,
) -> i32 {
    with_device(device, |d| {
        let shape = Shape::new(kind, vocabulary, cols)?;
        let ([x], [tokens, table]) = d
            .tensors
            .operands([span(x, x_at, rows, cols)], [span(tokens, tokens_at, rows, 1), shape.span(table)])?;
        let tokens = as_u32s(tokens);
        check(tokens, vocabulary, &[], 0)?;
        let (table, cols, work) = (Packed::new(shape, table), cols as usize, x.len());
        for_rows(&mut d.pool, x, cols, work, |first, x| {
            for (x, &token) in x.chunks_exact_mut(cols).zip(&tokens[first..]) {
                table.row(token as usize, x, false);
            }
        });
        Ok(())
    })
}

/// x [rows, cols] for decoding: row r is token tokens[r] at position positions[r].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_embed_weights(
    device: u32,
    x: u32,
    x_at: f64,
    tokens: u32,
    tokens_at: f64,
    positions: u32,
    positions_at: f64,
    wte: u32,
    wte_kind: u32,
    wpe: u32,
    wpe_kind: u32,
    rows: u32,
    cols: u32,
    vocabulary: u32,
    block: u32,
) -> i32 {
    with_device(device, |d| {
        let shapes = (Shape::new(wte_kind, vocabulary, cols)?, Shape::new(wpe_kind, block, cols)?);
        let ([x], [tokens, positions, wte, wpe]) = d.tensors.operands(
            [span(x, x_at, rows, cols)],
            [
                span(tokens, tokens_at, rows, 1),
                span(positions, positions_at, rows, 1),
                shapes.0.span(wte),
                shapes.1.span(wpe),
            ],
        )?;
        let (tokens, positions) = (as_u32s(tokens), as_u32s(positions));
        check(tokens, vocabulary, positions, block)?;
        if cols == 0 {
            return Err("an embedding has at least one column".into());
        }
        let (wte, wpe) = (Packed::new(shapes.0, wte), Packed::new(shapes.1, wpe));
        let (cols, work) = (cols as usize, x.len());
        for_rows(&mut d.pool, x, cols, work, |first, x| {
            for (i, x) in x.chunks_exact_mut(cols).enumerate() {
                wte.row(tokens[first + i] as usize, x, false);
                wpe.row(positions[first + i] as usize, x, true);
                normalise_row::dispatch(x);
            }
        });
        Ok(())
    })
}
