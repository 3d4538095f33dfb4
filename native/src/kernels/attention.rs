//! Causal attention within each document, forward.
//! out: [T, H · D]   lse: [T, H]   qkv: [T, (H + 2 Hkv) · D], a row holds the queries, the keys and the values of all heads;
//! H / Hkv heads of queries share one of keys and values (Ainslie et al. 2023)
//!
//! A work item is (document, head, 32 queries); keys come in blocks with a running softmax (Dao et al. 2022). Scores
//! are computed transposed, Sᵀ [keys, 32] = K · Qᵀ, with a query in each lane: only Q is packed, the maximum and
//! the sum of a softmax run down the lanes without any horizontal step, and keys and values are read where they lie.
//! About 2 · T² · H · D flops a document (half of the square, two products), and T² / 2 · H exponentials.

use super::batch::{Batch, QUERY_BLOCK, QueryBlock};
use super::shared::Shared;
use super::simd::{Simd, dispatched, exp, load, map_vectors, store, transposed};
use super::span;
use super::tile::{Strided, product};
use crate::device::with_device;
use crate::pool::Pool;
use crate::tensors::Span;
use std::cell::RefCell;

/// Keys handled together: their scores [KEY_BLOCK, QUERY_BLOCK] stay in the first cache.
pub const KEY_BLOCK: usize = 128;
/// Multiplications that are worth a thread's while.
const FLOP_GRAIN: usize = 200_000;
/// What a work item costs besides its products, in multiplications.
const ITEM_FLOPS: usize = 30_000;

/// Sizes and places of one attention call.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub qkv: &'a [f32],
    /// H · D
    pub width: usize,
    pub heads: usize,
    /// Hkv, a divisor of H
    pub kv_heads: usize,
}

impl Heads<'_> {
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    pub fn scale(&self) -> f32 {
        scale(self.head_dim())
    }

    /// Heads of queries that share a head of keys and values.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of a row of qkv.
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.width + 2 * self.kv_heads * self.head_dim()
    }

    /// First column of part `part` (0 queries, 1 keys, 2 values) for head `h` of queries.
    #[inline(always)]
    pub fn column(&self, part: usize, h: usize) -> usize {
        let d = self.head_dim();
        if part == 0 { h * d } else { self.width + ((part - 1) * self.kv_heads + h / self.group()) * d }
    }

    /// Part `part` of row `t` for head `h` of queries, and of the rows below.
    #[inline(always)]
    pub fn at(&self, part: usize, t: usize, h: usize) -> Strided {
        let at = &raw const self.qkv[t * self.stride() + self.column(part, h)];
        Strided { at, row: self.stride(), col: 1 }
    }
}

/// What scores are multiplied by.
pub fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch memory, whose content is arbitrary.
pub fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        body(&mut scratch[..len])
    })
}

/// packed [d, QUERY_BLOCK] = the transpose of `rows` [count, d], times `factor`, then zeros up to lane `used`.
#[inline(always)]
pub fn pack_transposed(packed: &mut [f32], rows: Strided, count: usize, used: usize, factor: f32) {
    let d = packed.len() / QUERY_BLOCK;
    let (whole, whole_d) = (count & !3, d & !3);
    // SAFETY: rows below `count`, columns below `d`.
    let at = |i: usize, c: usize| unsafe { rows.at.add(i * rows.row + c) };
    for i in (0..whole).step_by(4) {
        for c in (0..whole_d).step_by(4) {
            // SAFETY: a square of four within the matrix.
            let square = std::array::from_fn(|r| unsafe { at(i + r, c).cast::<[f32; 4]>().read() });
            for (r, lanes) in transposed(square).into_iter().enumerate() {
                packed[(c + r) * QUERY_BLOCK + i..][..4].copy_from_slice(&lanes.map(|value| value * factor));
            }
        }
    }
    for (c, lanes) in packed.chunks_exact_mut(QUERY_BLOCK).enumerate() {
        let done = if c < whole_d { whole } else { 0 };
        for (i, value) in lanes.iter_mut().enumerate().take(count).skip(done) {
            // SAFETY: as above.
            *value = unsafe { *at(i, c) } * factor;
        }
        lanes[count..used].fill(0.0);
    }
}

/// Some queries of one head, and the keys and values of positions 0 … of their document.
#[derive(Clone, Copy)]
pub struct Queries {
    /// first of `count` queries
    pub q: Strided,
    pub k: Strided,
    pub v: Strided,
    /// position of the first query
    pub first: usize,
    pub count: usize,
    pub head_dim: usize,
}

impl Queries {
    /// Elements of scratch memory that `attend` needs.
    pub fn scratch(head_dim: usize) -> usize {
        (2 * head_dim + KEY_BLOCK + 1) * QUERY_BLOCK
    }
}

/// Attends from each query to all positions up to its own. Calls `finish(i, sums, max, total)` for each: its output is
/// sums [D] / total, its log-sum-exp max + ln(total).
///
/// # Safety
/// `count` ≤ QUERY_BLOCK rows of queries and `first + count` rows of keys and values can be read.
#[inline(always)]
pub unsafe fn attend<S: Simd>(
    simd: S,
    x: Queries,
    scratch: &mut [f32],
    mut finish: impl FnMut(usize, &[f32], f32, f32),
) {
    let Queries { q, k, v, first, count, head_dim: d } = x;
    let (packed, rest) = scratch.split_at_mut(d * QUERY_BLOCK);
    let (scores, rest) = rest.split_at_mut(KEY_BLOCK * QUERY_BLOCK);
    let (sums, rescale) = rest.split_at_mut(d * QUERY_BLOCK); // [count, D], not yet divided
    let mut max = [f32::NEG_INFINITY; QUERY_BLOCK];
    let mut total = [0f32; QUERY_BLOCK];
    let used = count.next_multiple_of(S::F32_LANES);
    pack_transposed(packed, q, count, used, scale(d));
    let end = first + count;
    for key in (0..end).step_by(KEY_BLOCK) {
        let keys = KEY_BLOCK.min(end - key);
        let (size, b) = ((keys, used, d), packed.as_ptr());
        // SAFETY: `keys` rows of K and V from position `key` on, [keys, used] scores, [count, D] sums.
        unsafe {
            product::<S, false>(
                simd,
                size,
                k.from_row(key),
                b,
                QUERY_BLOCK,
                scores.as_mut_ptr(),
                QUERY_BLOCK,
            );
        }
        hide_later_keys(scores, key, keys, first, f32::NEG_INFINITY);
        for lane in (0..used).step_by(S::F32_LANES) {
            let (max, total) = (&mut max[lane..], &mut total[lane..]);
            soften(simd, &mut scores[lane..], keys, max, total, &mut rescale[lane..]);
        }
        let (size, v) = ((count, d, keys), v.from_row(key));
        let p = Strided { at: scores.as_ptr(), row: 1, col: QUERY_BLOCK };
        // SAFETY: as above.
        unsafe {
            if key == 0 {
                product::<S, false>(simd, size, p, v.at, v.row, sums.as_mut_ptr(), d);
            } else {
                for (sums, &factor) in sums.chunks_exact_mut(d).zip(&rescale[..count]) {
                    scale_row(simd, sums, factor);
                }
                product::<S, true>(simd, size, p, v.at, v.row, sums.as_mut_ptr(), d);
            }
        }
    }
    for (i, sums) in sums.chunks_exact(d).enumerate().take(count) {
        finish(i, sums, max[i], total[i]);
    }
}

#[inline(always)]
fn scale_row<S: Simd>(simd: S, row: &mut [f32], factor: f32) {
    let factor = simd.splat_f32s(factor);
    map_vectors(
        simd,
        row,
        [],
        #[inline(always)]
        |x, []| simd.mul_f32s(x, factor),
    );
}

/// One query block of one head, from scores to output.
#[inline(always)]
fn forward_block<S: Simd>(
    simd: S,
    out: Shared<f32>,
    lse: Shared<f32>,
    x: Heads,
    block: QueryBlock,
    h: usize,
    scratch: &mut [f32],
) {
    let (d, QueryBlock { start, first, count }) = (x.head_dim(), block);
    let (q, k, v) = (x.at(0, start + first, h), x.at(1, start, h), x.at(2, start, h));
    let finish = |i: usize, sums: &[f32], max: f32, total: f32| {
        let t = start + first + i;
        // SAFETY: row t and head h belong to this work item alone.
        let (out, lse) = unsafe {
            let column = t * x.width + h * d;
            (out.part(column..column + d), lse.part(t * x.heads + h..t * x.heads + h + 1))
        };
        let factor = 1.0 / total;
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
        lse[0] = max + total.ln();
    };
    // SAFETY: rows of this document.
    unsafe { attend(simd, Queries { q, k, v, first, count, head_dim: d }, scratch, finish) };
}
dispatched!(forward_block(
    out: Shared<f32>,
    lse: Shared<f32>,
    x: Heads,
    block: QueryBlock,
    h: usize,
    scratch: &mut [f32],
));

/// Overwrites the scores of keys that lie after their query. Rows of `scores` are keys from `key` on, lanes are
/// queries from `first` on.
#[inline(always)]
pub fn hide_later_keys(scores: &mut [f32], key: usize, keys: usize, first: usize, value: f32) {
    for j in (first + 1).max(key)..key + keys {
        scores[(j - key) * QUERY_BLOCK..][..(j - first).min(QUERY_BLOCK)].fill(value);
    }
}

/// One vector of queries: scores become exp(score − maximum), maximum and total take the new keys in, and `rescale` is what
/// earlier sums must be multiplied by.
#[inline(always)]
fn soften<S: Simd>(
    simd: S,
    scores: &mut [f32],
    keys: usize,
    max: &mut [f32],
    total: &mut [f32],
    rescale: &mut [f32],
) {
    let lanes = S::F32_LANES;
    assert!(scores.len() >= (keys - 1) * QUERY_BLOCK + lanes);
    assert!(max.len() >= lanes && total.len() >= lanes && rescale.len() >= lanes);
    // SAFETY: the lengths were just checked.
    unsafe {
        let row = scores.as_mut_ptr();
        let old = load(simd, max.as_ptr());
        let mut highs = [old; 4];
        for j in 0..keys {
            highs[j % 4] = simd.max_f32s(highs[j % 4], load(simd, row.add(j * QUERY_BLOCK)));
        }
        let high = simd.max_f32s(simd.max_f32s(highs[0], highs[1]), simd.max_f32s(highs[2], highs[3]));
        let mut sums = [simd.splat_f32s(0.0); 2];
        for j in 0..keys {
            let p = exp(simd, simd.sub_f32s(load(simd, row.add(j * QUERY_BLOCK)), high));
            store(simd, row.add(j * QUERY_BLOCK), p);
            sums[j % 2] = simd.add_f32s(sums[j % 2], p);
        }
        let factor = exp(simd, simd.sub_f32s(old, high));
        let sum = simd.mul_add_e_f32s(load(simd, total.as_ptr()), factor, simd.add_f32s(sums[0], sums[1]));
        store(simd, total.as_mut_ptr(), sum);
        store(simd, rescale.as_mut_ptr(), factor);
        store(simd, max.as_mut_ptr(), high);
    }
}

/// The whole kernel.
fn attention(pool: &mut Pool, out: &mut [f32], lse: &mut [f32], x: Heads, batch: &Batch) {
    let items = batch.query_blocks.len() * x.heads;
    let scratch = Queries::scratch(x.head_dim());
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    for_items(pool, items, batch, x.width, |item| {
        let (block, h) = (batch.query_blocks[item / x.heads], item % x.heads);
        with_scratch(scratch, |scratch| forward_block::dispatch(out, lse, x, block, h, scratch));
    });
}

/// Calls `body` for each of the items, which are sorted by decreasing cost: chunk i of n takes items i, i + n, i + 2n, …
pub fn for_items(pool: &mut Pool, items: usize, batch: &Batch, width: usize, body: impl Fn(usize) + Sync) {
    let work: usize = batch.documents.iter().map(|document| document.len * document.len * width).sum();
    let work = work + items * ITEM_FLOPS;
    let chunks = if pool.threads() == 1 { 1 } else { (work / FLOP_GRAIN).clamp(1, 8 * pool.threads()) };
    let chunks = chunks.min(items);
    pool.run(chunks, |i| (i..items).step_by(chunks).for_each(&body));
}

/// Refuses sizes that do not belong together.
pub fn check_sizes(batch: &Batch, rows: u32, cols: u32, heads: u32, kv_heads: u32) -> Result<(), String> {
    if batch.tokens.len() != rows as usize {
        return Err(format!("a batch of {} tokens for {rows} rows", batch.tokens.len()));
    }
    check_heads(cols, heads, kv_heads)
}

/// Refuses heads that do not divide what they share.
pub fn check_heads(cols: u32, heads: u32, kv_heads: u32) -> Result<(), String> {
    if heads == 0 || !cols.is_multiple_of(heads) || cols == 0 {
        return Err(format!("{heads} heads do not divide a width of {cols}"));
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(format!("{kv_heads} heads of keys and values do not divide {heads} of queries"));
    }
    Ok(())
}

/// qkv [rows, (heads + 2 · kv_heads) · D] or a matrix of its shape.
pub fn span_of_heads(handle: u32, at: f64, rows: u32, cols: u32, heads: u32, kv_heads: u32) -> Span {
    // In 64 bits: heads were checked, and two parts of keys and values are at most twice the queries.
    let width = u64::from(cols) + 2 * u64::from(cols / heads) * u64::from(kv_heads);
    let len = width.saturating_mul(rows.into());
    Span { handle, offset: at, len: usize::try_from(len).unwrap_or(usize::MAX) }
}

/// out [rows, cols] and lse [rows, heads] from qkv [rows, cols + 2 · kv_heads · cols / heads].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_attention(
    device: u32,
    out: u32,
    out_at: f64,
    lse: u32,
    lse_at: f64,
    qkv: u32,
    qkv_at: f64,
    batch: u32,
    rows: u32,
    cols: u32,
    heads: u32,
    kv_heads: u32,
) -> i32 {
    with_device(device, |d| {
        let batch = d.batches.get(batch)?;
        check_sizes(batch, rows, cols, heads, kv_heads)?;
        let ([out, lse], [qkv]) = d.tensors.operands(
            [span(out, out_at, rows, cols), span(lse, lse_at, rows, heads)],
            [span_of_heads(qkv, qkv_at, rows, cols, heads, kv_heads)],
        )?;
        let x = Heads { qkv, width: cols as usize, heads: heads as usize, kv_heads: kv_heads as usize };
        attention(&mut d.pool, out, lse, x, batch);
        Ok(())
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::kernels::batch::batch_of;

    /// H · D, H and Hkv.
    pub const HEADS: [(usize, usize, usize); 7] =
        [(12, 1, 1), (12, 3, 3), (64, 4, 4), (96, 2, 2), (5, 5, 5), (64, 4, 2), (96, 6, 1)];

    /// Numbers around zero, without a pattern that the sizes share.
    pub fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + salt) * 7919 % 1009) as f32 / 300.0 - 1.7).collect()
    }

    /// Probabilities of keys 0 … t of the document at `start`, for query `start + t`, in f64, and their log-sum-exp.
    pub fn naive_probabilities(x: Heads, start: usize, t: usize, h: usize) -> (Vec<f64>, f64) {
        let d = x.head_dim();
        let value =
            |part: usize, t: usize, i: usize| f64::from(x.qkv[t * x.stride() + x.column(part, h) + i]);
        let scores: Vec<f64> = (0..=t)
            .map(|s| {
                (0..d).map(|i| value(0, start + t, i) * value(1, start + s, i)).sum::<f64>()
                    / (d as f64).sqrt()
            })
            .collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
    }

    #[test]
    fn agrees_with_the_formula() {
        for (width, heads, kv_heads) in HEADS {
            for lengths in [&[1][..], &[33, 1, 2], &[300, 5]] {
                let batch = batch_of(lengths, 97);
                let t = batch.tokens.len();
                let qkv = noise(t * (width + 2 * kv_heads * (width / heads)), 1);
                let x = Heads { qkv: &qkv, width, heads, kv_heads };
                let (mut out, mut lse) = (vec![0.0; t * width], vec![0.0; t * heads]);
                attention(&mut Pool::new(2).unwrap(), &mut out, &mut lse, x, &batch);
                let d = width / heads;
                for document in &batch.documents {
                    for (t, h) in (0..document.len).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                        let (p, expected_lse) = naive_probabilities(x, document.start, t, h);
                        let row = document.start + t;
                        assert!((f64::from(lse[row * heads + h]) - expected_lse).abs() < 2e-5);
                        for i in 0..d {
                            let v = |s: usize| {
                                f64::from(qkv[(document.start + s) * x.stride() + x.column(2, h) + i])
                            };
                            let expected: f64 = p.iter().enumerate().map(|(s, p)| p * v(s)).sum();
                            assert!((f64::from(out[row * width + h * d + i]) - expected).abs() < 2e-5);
                        }
                    }
                }
            }
        }
    }
}
