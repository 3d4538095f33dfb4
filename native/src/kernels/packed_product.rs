//! Products of activations with weights that are only read: out [M, N] = x · Wᵀ (+ add), then relu.
//! x: [M, K] f32   W: [N, K] packed, see packed.rs
//!
//! Every element of out is summed in one order: for each 256 k a sum s = fma(x[k], w[k], s) over rising k, from zero, and these
//! sums one after the other on what is there. w is the weight in f32, exactly, and x and s are f32. So the bits of a row depend on that row and W
//! alone: not on how many rows there are, on threads (which share out panels and rows, never K), on the kind in which W
//! holds its numbers, or on the width of vectors (where the processor has fused multiply and add).
//!
//! Up to 8 rows, as in decoding, the time is that of reading W: panels are read in order, and each number goes from memory
//! to a register, becomes f32 there and meets the rows. More rows, a prompt, use numbers again: 256 k of a panel become f32
//! in scratch memory (32 KiB), and `tile` multiplies. Reads M / 8 or 1 times N · K elements.

use super::attention::with_scratch;
use super::packed::{BF16, BLOCK, F16, F32, PANEL, Packed, Q8, SCALES, Shape};
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, load, map_vectors, prefetch, prefetch_later, store};
use super::span;
use super::tile::{Strided, product};
use super::widen::Widen;
use crate::device::with_device;
use crate::pool::Pool;
use std::ops::Range;

/// k that are summed together.
const K_BLOCK: usize = 256;
/// Most rows that meet the weights in registers.
const DIRECT: usize = 8;
/// Elements of W that are worth a thread's while, and multiplications where there are many rows.
const PART: usize = 16 * 1024;
const PART_FLOPS: usize = 200_000;
/// Rows that a thread takes of many, where there are too few panels for all threads.
const ROWS: usize = 64;

/// Bytes by which memory is asked for before it is read. What the processor fetches by itself ends at each page of 4 KiB.
const AHEAD: usize = 4 * 1024;
const LINE_BYTES: usize = 64;

/// Asks for what is read `AHEAD` bytes after the numbers of k number `p` of a block. A line or two at a time: asked for all at
/// once, the lines of a block wait for each other, and two threads read half as fast.
#[inline(always)]
fn prefetch_ahead<const KIND: u8>(block: *const u8, p: usize) {
    let (scales, bytes) = if KIND == Q8 { (SCALES, PANEL) } else { (0, block_bytes(KIND) / BLOCK) };
    let at = block.wrapping_add(AHEAD + scales + p * bytes);
    if p == 0 && scales > 0 {
        prefetch(block.wrapping_add(AHEAD));
    }
    if (p * bytes).is_multiple_of(LINE_BYTES) {
        for line in (0..bytes).step_by(LINE_BYTES) {
            prefetch(at.wrapping_add(line));
        }
    }
}

/// What is done with the sums.
#[derive(Clone, Copy)]
struct Finish {
    add: bool,
    relu: bool,
}

/// out = x · wᵀ or out += x · wᵀ, for M rows.
fn packed_product(pool: &mut Pool, out: &mut [f32], x: &[f32], w: Packed, m: usize, finish: Finish) {
    let Shape { n, k, .. } = w.shape;
    assert!(out.len() == m * n && x.len() == m * k);
    let (work, grain) = if m <= DIRECT { (n * k, PART) } else { (m * n * k, PART_FLOPS) };
    let chunks = super::chunks_for(pool, work, grain);
    let row_parts =
        if w.shape.panels() < chunks { (chunks / w.shape.panels()).min(m.div_ceil(ROWS)) } else { 1 };
    let parts = (chunks / row_parts).min(w.shape.panels());
    let (out, threads) = (Shared::new(out), pool.threads());
    pool.run(parts * row_parts, |i| {
        // threads take turns: what one takes next follows what it had, and was asked for
        let panels = part_of(w.shape.panels(), 1, parts, turn(i % parts, parts, threads));
        let rows = part_of(m, DIRECT, row_parts, i / parts);
        panels_of(out, x, w, panels, rows, finish);
    });
}

/// Part number `i` of `parts`, in an order in which each of `threads`, taking every so manieth, goes through neighbours.
fn turn(i: usize, parts: usize, threads: usize) -> usize {
    let (each, more) = (parts / threads, parts % threads);
    let thread = i % threads;
    thread * each + thread.min(more) + i / threads
}

/// Some rows of out, at the columns of some panels.
fn panels_of(
    out: Shared<f32>,
    x: &[f32],
    w: Packed,
    panels: Range<usize>,
    rows: Range<usize>,
    finish: Finish,
) {
    macro_rules! of_kind {
        ($kernel:ident $(, $scratch:expr)?) => {
            match w.shape.kind as u8 {
                F32 => $kernel::dispatch::<F32>(out, x, w, panels, rows, finish $(, $scratch)?),
                BF16 => $kernel::dispatch::<BF16>(out, x, w, panels, rows, finish $(, $scratch)?),
                F16 => $kernel::dispatch::<F16>(out, x, w, panels, rows, finish $(, $scratch)?),
                _ => $kernel::dispatch::<Q8>(out, x, w, panels, rows, finish $(, $scratch)?),
            }
        };
    }
    if rows.len() <= DIRECT {
        of_kind!(few_rows)
    } else {
        with_scratch(K_BLOCK * PANEL, |scratch| of_kind!(many_rows, scratch));
    }
}

/// A vector of the weights of one k, not yet scaled.
#[inline(always)]
unsafe fn read<S: Widen, const KIND: u8>(simd: S, block: *const u8, at: usize) -> S::f32s {
    // SAFETY: as promised by the caller.
    unsafe {
        match KIND {
            F32 => load(simd, block.cast::<f32>().add(at)),
            BF16 => simd.bf16s(block.cast::<u16>().add(at)),
            F16 => simd.f16s(block.cast::<u16>().add(at)),
            _ => simd.i8s(block.cast::<i8>().add(SCALES + at)),
        }
    }
}

/// Bytes of 32 k in a panel.
const fn block_bytes(kind: u8) -> usize {
    match kind {
        F32 => 4 * BLOCK * PANEL,
        BF16 | F16 => 2 * BLOCK * PANEL,
        _ => SCALES + BLOCK * PANEL,
    }
}

#[inline(always)]
fn few_rows<S: Widen, const KIND: u8>(
    simd: S,
    out: Shared<f32>,
    x: &[f32],
    w: Packed,
    panels: Range<usize>,
    rows: Range<usize>,
    finish: Finish,
) {
    for panel in panels {
        let mut row = rows.start;
        macro_rules! take {
            ($rows:literal, $vectors:literal) => {
                while rows.end - row >= $rows {
                    // SAFETY: rows of out and x that are there.
                    unsafe { of_panel::<S, KIND, $rows, $vectors>(simd, out, x, w, panel, row, finish) };
                    row += $rows;
                }
            };
        }
        // As many sums as registers hold beside the weights and their scales.
        match S::F32_LANES {
            16 => {
                take!(8, 2);
                take!(4, 2);
                take!(2, 2);
                take!(1, 2);
            }
            8 => {
                take!(2, 4);
                take!(1, 4);
            }
            4 => {
                take!(2, 8);
                take!(1, 8);
            }
            _ => take!(1, 32),
        }
    }
}
dispatched!(few_rows[const KIND: u8](
    out: Shared<f32>,
    x: &[f32],
    w: Packed,
    panels: Range<usize>,
    rows: Range<usize>,
    finish: Finish,
));

/// ROWS rows from `row` on, at the columns of a panel, which is VECTORS vectors wide.
///
/// # Safety
/// x and out have these rows, and nobody else touches that part of out.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn of_panel<S: Widen, const KIND: u8, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    out: Shared<f32>,
    x: &[f32],
    w: Packed,
    panel: usize,
    row: usize,
    finish: Finish,
) {
    let Shape { n, k, .. } = w.shape;
    let zero = simd.splat_f32s(0.0);
    let (x, bytes) = (&x[row * k..(row + ROWS) * k], w.panel(panel));
    let width = PANEL.min(n - panel * PANEL);
    // SAFETY: the part of out that belongs to this call.
    let out = unsafe { out.as_mut_ptr().add(row * n + panel * PANEL) };
    let mut sums = [[zero; VECTORS]; ROWS];
    for start in (0..k).step_by(K_BLOCK) {
        let mut part = [[zero; VECTORS]; ROWS];
        for first in (start..k.min(start + K_BLOCK)).step_by(BLOCK) {
            // SAFETY: blocks of the panel, whose length `Packed` has checked, and numbers of x.
            unsafe {
                let block = bytes.as_ptr().add(first / BLOCK * block_bytes(KIND));
                let mut scales = [zero; VECTORS];
                if KIND == Q8 {
                    for v in 0..VECTORS {
                        scales[v] = simd.f16s(block.cast::<u16>().add(v * S::F32_LANES));
                    }
                }
                for p in 0..BLOCK.min(k - first) {
                    prefetch_ahead::<KIND>(block, p);
                    let mut weights = [zero; VECTORS];
                    for v in 0..VECTORS {
                        weights[v] = read::<S, KIND>(simd, block, p * PANEL + v * S::F32_LANES);
                        if KIND == Q8 {
                            weights[v] = simd.mul_f32s(weights[v], scales[v]);
                        }
                    }
                    for r in 0..ROWS {
                        let factor = simd.splat_f32s(*x.get_unchecked(r * k + first + p));
                        for v in 0..VECTORS {
                            part[r][v] = simd.mul_add_e_f32s(factor, weights[v], part[r][v]);
                        }
                    }
                }
            }
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                // SAFETY: the columns that there are of the panel.
                unsafe {
                    let to = out.add(r * n + v * S::F32_LANES);
                    if start > 0 {
                        sums[r][v] = simd.add_f32s(part[r][v], sums[r][v]);
                    } else if finish.add {
                        sums[r][v] = simd.add_f32s(part[r][v], partial_load(simd, to, v, width));
                    } else {
                        sums[r][v] = part[r][v];
                    }
                }
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..VECTORS {
            let sum = if finish.relu { relu(simd, sums[r][v]) } else { sums[r][v] };
            // SAFETY: as above.
            unsafe { partial_store(simd, out.add(r * n + v * S::F32_LANES), v, width, sum) };
        }
    }
}

/// A comparison lets NaN through, a maximum might not.
#[inline(always)]
fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
}

/// Vector `v` of `width` columns, or what there is of it.
#[inline(always)]
unsafe fn partial_load<S: Simd>(simd: S, from: *const f32, v: usize, width: usize) -> S::f32s {
    let there = width.saturating_sub(v * S::F32_LANES).min(S::F32_LANES);
    // SAFETY: as promised by the caller.
    unsafe {
        if there == S::F32_LANES {
            load(simd, from)
        } else if there == 0 {
            simd.splat_f32s(0.0)
        } else {
            simd.partial_load_f32s(std::slice::from_raw_parts(from, there))
        }
    }
}

/// The same, stored.
#[inline(always)]
unsafe fn partial_store<S: Simd>(simd: S, to: *mut f32, v: usize, width: usize, value: S::f32s) {
    let there = width.saturating_sub(v * S::F32_LANES).min(S::F32_LANES);
    // SAFETY: as promised by the caller.
    unsafe {
        if there == S::F32_LANES {
            store(simd, to, value);
        } else if there > 0 {
            simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, there), value);
        }
    }
}

/// As `few_rows`, for any number of them. `scratch` is [K_BLOCK, PANEL].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn many_rows<S: Widen, const KIND: u8>(
    simd: S,
    out: Shared<f32>,
    x: &[f32],
    w: Packed,
    panels: Range<usize>,
    rows: Range<usize>,
    finish: Finish,
    scratch: &mut [f32],
) {
    let Shape { n, k, .. } = w.shape;
    for panel in panels {
        let (bytes, width) = (w.panel(panel), PANEL.min(n - panel * PANEL));
        for start in (0..k).step_by(K_BLOCK) {
            let count = K_BLOCK.min(k - start);
            let block = &bytes[start / BLOCK * block_bytes(KIND)..];
            // SAFETY: `count` k of a panel, and scratch for them; blocks within the matrices.
            unsafe {
                let weights = if KIND == F32 {
                    block.as_ptr().cast::<f32>()
                } else {
                    widen_block::<S, KIND>(simd, block, count, scratch);
                    scratch.as_ptr()
                };
                let x = x.as_ptr().add(rows.start * k + start);
                let out = out.as_mut_ptr().add(rows.start * n + panel * PANEL);
                let add = finish.add || start > 0;
                if S::F32_LANES * 2 == PANEL && width == PANEL {
                    let read = count / BLOCK * block_bytes(KIND);
                    let next = Next { at: block.as_ptr().wrapping_add(read), len: read };
                    let size = (rows.len(), n, k);
                    if add {
                        multiply::<S, KIND, true>(simd, size, x, weights, count, out, next);
                    } else {
                        multiply::<S, KIND, false>(simd, size, x, weights, count, out, next);
                    }
                } else {
                    let (size, a) = ((rows.len(), width, count), Strided { at: x, row: k, col: 1 });
                    if add {
                        product::<S, true>(simd, size, a, weights, PANEL, out, n);
                    } else {
                        product::<S, false>(simd, size, a, weights, PANEL, out, n);
                    }
                }
            }
        }
        if finish.relu {
            for row in rows.clone() {
                let at = row * n + panel * PANEL;
                // SAFETY: the part of out that belongs to this call.
                let out = unsafe { out.part(at..at + width) };
                map_vectors(
                    simd,
                    out,
                    [],
                    #[inline(always)]
                    |x, []| relu(simd, x),
                );
            }
        }
    }
}
dispatched!(many_rows[const KIND: u8](
    out: Shared<f32>,
    x: &[f32],
    w: Packed,
    panels: Range<usize>,
    rows: Range<usize>,
    finish: Finish,
    scratch: &mut [f32],
));

/// What is read next: it is asked for while there is something to multiply, a little with every k.
#[derive(Clone, Copy)]
struct Next {
    at: *const u8,
    len: usize,
}

/// out (=|+=) x · weights at the columns of a panel of two vectors. x: [m, k], its first `count` columns; weights: [count, PANEL]
///
/// # Safety
/// The rows of x and out are there.
#[inline(always)]
unsafe fn multiply<S: Simd, const KIND: u8, const ADD: bool>(
    simd: S,
    (m, n, k): (usize, usize, usize),
    x: *const f32,
    weights: *const f32,
    count: usize,
    out: *mut f32,
    next: Next,
) {
    let blocks = m / DIRECT + (m % DIRECT).count_ones() as usize;
    let step = next.len.div_ceil(blocks * count);
    let (mut row, mut at) = (0, next.at);
    macro_rules! take {
        ($rows:literal) => {
            while m - row >= $rows {
                // SAFETY: as promised by the caller.
                unsafe {
                    let (x, out) = (x.add(row * k), out.add(row * n));
                    // the first rows meet weights that nobody may have asked for
                    if KIND == F32 && row == 0 {
                        rows_of_panel::<S, $rows, ADD, true>(simd, x, k, weights, count, out, n, at, step);
                    } else {
                        rows_of_panel::<S, $rows, ADD, false>(simd, x, k, weights, count, out, n, at, step);
                    }
                }
                at = at.wrapping_add(count * step);
                row += $rows;
            }
        };
    }
    take!(8);
    take!(4);
    take!(2);
    take!(1);
}

/// ROWS rows of `multiply`, whose sums stay in registers. Asks for `step` bytes from `ask` on with every k.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
unsafe fn rows_of_panel<S: Simd, const ROWS: usize, const ADD: bool, const COLD: bool>(
    simd: S,
    x: *const f32,
    k: usize,
    weights: *const f32,
    count: usize,
    out: *mut f32,
    n: usize,
    ask: *const u8,
    step: usize,
) {
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    // SAFETY: as promised by the caller.
    unsafe {
        for p in 0..count {
            let from = weights.add(p * PANEL);
            if COLD {
                prefetch_ahead::<F32>(from.cast(), 0);
            }
            prefetch_later(ask.wrapping_add(p * step));
            let weights = [load(simd, from), load(simd, from.add(S::F32_LANES))];
            for r in 0..ROWS {
                let factor = simd.splat_f32s(*x.add(r * k + p));
                for v in 0..2 {
                    sums[r][v] = simd.mul_add_e_f32s(factor, weights[v], sums[r][v]);
                }
            }
        }
        for r in 0..ROWS {
            for v in 0..2 {
                let to = out.add(r * n + v * S::F32_LANES);
                let sum = if ADD { simd.add_f32s(sums[r][v], load(simd, to)) } else { sums[r][v] };
                store(simd, to, sum);
            }
        }
    }
}

/// The weights of `count` k of a panel as f32 [count, PANEL].
#[inline(always)]
unsafe fn widen_block<S: Widen, const KIND: u8>(simd: S, block: &[u8], count: usize, into: &mut [f32]) {
    for first in (0..count).step_by(BLOCK) {
        let k = BLOCK.min(count - first);
        // SAFETY: the caller's block has `count` k; `into` is sliced to fit.
        unsafe {
            let block = block.as_ptr().add(first / BLOCK * block_bytes(KIND));
            for column in (0..PANEL).step_by(S::F32_LANES) {
                let into = into[first * PANEL + column..][..(k - 1) * PANEL + S::F32_LANES].as_mut_ptr();
                let scale = if KIND == Q8 {
                    simd.f16s(block.cast::<u16>().add(column))
                } else {
                    simd.splat_f32s(1.0)
                };
                for p in 0..k {
                    let mut weights = read::<S, KIND>(simd, block, p * PANEL + column);
                    if KIND == Q8 {
                        weights = simd.mul_f32s(weights, scale);
                    }
                    store(simd, into.add(p * PANEL), weights);
                }
            }
        }
    }
}

/// Bits of `flags`, as in matmul.rs.
const ADD_OUT: u32 = 1;
const ADD_MATRIX: u32 = 2;
const RELU: u32 = 4;

/// out [m, n] = a [m, k] · weightsᵀ [n, k]. `flags` says whether out is added to, `add` [m, n] is added, and relu; `add` is ignored
/// where it does not apply.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_matmul_weights(
    device: u32,
    out: u32,
    out_at: f64,
    a: u32,
    a_at: f64,
    weights: u32,
    kind: u32,
    add: u32,
    add_at: f64,
    flags: u32,
    m: u32,
    n: u32,
    k: u32,
) -> i32 {
    with_device(device, |d| {
        let shape = Shape::new(kind, n, k)?;
        if k == 0 {
            return Err("a product sums over at least one element".into());
        }
        let add = if flags & ADD_MATRIX != 0 { span(add, add_at, m, n) } else { span(out, out_at, 0, 0) };
        let ([out], [a, words, add]) =
            d.tensors.operands([span(out, out_at, m, n)], [span(a, a_at, m, k), shape.span(weights), add])?;
        if out.is_empty() {
            return Ok(());
        }
        if flags & ADD_MATRIX != 0 {
            out.copy_from_slice(add);
        }
        let finish = Finish { add: flags & (ADD_OUT | ADD_MATRIX) != 0, relu: flags & RELU != 0 };
        packed_product(&mut d.pool, out, a, Packed::new(shape, words), m as usize, finish);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::tests::noise;
    use crate::kernels::packed::{Kind, tests::KINDS, tests::packed};

    fn product_of(
        threads: usize,
        x: &[f32],
        w: Packed,
        m: usize,
        add: Option<&[f32]>,
        relu: bool,
    ) -> Vec<f32> {
        let mut out = add.map_or_else(|| vec![9.0; m * w.shape.n], <[f32]>::to_vec);
        let finish = Finish { add: add.is_some(), relu };
        packed_product(&mut Pool::new(threads).unwrap(), &mut out, x, w, m, finish);
        out
    }

    #[test]
    fn agrees_with_the_formula() {
        for kind in KINDS {
            for (m, n, k) in
                [(1, 1, 32), (2, 33, 64), (7, 100, 288), (8, 64, 544), (9, 31, 96), (70, 45, 320)]
            {
                let (x, add) = (noise(m * k, 3), noise(m * n, 5));
                let (shape, words, w) = packed(kind, &noise(n * k, 4), n, k);
                for (add, relu) in [(None, false), (Some(&add[..]), false), (Some(&add[..]), true)] {
                    let out = product_of(2, &x, Packed::new(shape, &words), m, add, relu);
                    for (i, got) in out.iter().enumerate() {
                        let (row, column) = (i / n, i % n);
                        let products =
                            (0..k).map(|p| f64::from(x[row * k + p]) * f64::from(w[column * k + p]));
                        let sum = products.sum::<f64>() + add.map_or(0.0, |add| f64::from(add[i]));
                        let expected = if relu { sum.max(0.0) } else { sum };
                        assert!(
                            (f64::from(*got) - expected).abs() < 1e-6 * (100.0 + expected.abs()),
                            "{kind:?} {m} {n} {k}: {got} {expected}"
                        );
                    }
                }
            }
        }
    }

    /// The promise at the head of this file: one row alone, and the same row among others, on any number of threads.
    #[test]
    fn a_row_does_not_depend_on_others_or_on_threads() {
        for kind in KINDS {
            for (n, k) in [(100, 544), (31, 64), (32, 1000)] {
                if kind == Kind::Q8 && k % 32 != 0 {
                    continue;
                }
                let m = 150;
                let (x, add) = (noise(m * k, 3), noise(m * n, 5));
                let (shape, words, _) = packed(kind, &noise(n * k, 4), n, k);
                let w = Packed::new(shape, &words);
                let all = product_of(1, &x, w, m, Some(&add), false);
                for rows in [1, 2, 3, 5, 8, 9, 64, 150] {
                    for threads in [1, 2, 3] {
                        for first in [0, 1, 70].into_iter().filter(|first| first + rows <= m) {
                            let (x, add) = (&x[first * k..][..rows * k], &add[first * n..][..rows * n]);
                            let out = product_of(threads, x, w, rows, Some(add), false);
                            let expected = &all[first * n..][..rows * n];
                            assert!(out == expected, "{kind:?} [{n}, {k}]: {rows} rows on {threads} threads");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn turns_are_taken_once() {
        for (parts, threads) in [(1, 2), (8, 2), (7, 2), (7, 3), (2, 5), (16, 4)] {
            let mut all: Vec<usize> = (0..parts).map(|i| turn(i, parts, threads)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..parts).collect::<Vec<_>>());
        }
        assert_eq!([0, 2, 4, 6].map(|i| turn(i, 8, 2)), [0, 1, 2, 3]);
    }

    /// The kind changes nothing where it holds the weights exactly.
    #[test]
    fn kinds_give_the_bits_of_f32() {
        let (m, n, k) = (11, 70, 352);
        let x = noise(m * k, 3);
        for kind in KINDS {
            let (shape, words, rounded) = packed(kind, &noise(n * k, 4), n, k);
            let (wide, wide_words, _) = packed(Kind::F32, &rounded, n, k);
            let out = product_of(2, &x, Packed::new(shape, &words), m, None, false);
            assert!(out == product_of(2, &x, Packed::new(wide, &wide_words), m, None, false), "{kind:?}");
        }
    }
}
