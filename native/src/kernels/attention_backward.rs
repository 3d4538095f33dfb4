//! Causal attention within each document, backward.
//! dQkv, qkv: [T, (H + 2 Hkv) · D]   dOut, out: [T, H · D]   lse: [T, H]
//!
//! With P = exp(Q · Kᵀ · scale − lse), which is the softmax, and delta = rowsum(dOut ∘ out):
//!     dV = Pᵀ · dOut      dS = P ∘ (dOut · Vᵀ − delta) · scale      dQ = dS · K      dK = dSᵀ · Q
//!
//! A work item is (document, head of keys and values), with the heads of queries that share it one after the other: it alone
//! writes its part of dQkv, so nothing needs atomics and the order of the sums is fixed. Blocks of 32 queries meet blocks of 128 keys; as in the forward pass scores are transposed, a query
//! in each lane. About 5 · T² · H · D flops a document.

use super::attention::{
    Heads, KEY_BLOCK, check_sizes, for_items, hide_later_keys, pack_transposed, span_of_heads, with_scratch,
};
use super::batch::{Batch, Document, QUERY_BLOCK};
use super::shared::Shared;
use super::simd::{Simd, dispatched, dot, exp, load, store};
use super::span;
use super::tile::{Strided, product};
use crate::device::with_device;
use crate::pool::Pool;

/// What the forward pass left, and the gradient that arrives; out and dOut are [T, H · D], lse is [T, H].
#[derive(Clone, Copy)]
struct Incoming<'a> {
    d_out: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
}

/// One head of queries of one document.
#[inline(always)]
fn backward_head<S: Simd>(
    simd: S,
    d_qkv: Shared<f32>,
    x: Heads,
    y: Incoming,
    document: Document,
    h: usize,
    scratch: &mut [f32],
) {
    let d = x.head_dim();
    let target = |part: usize, t: usize| {
        // SAFETY: row t < T; this item writes only the columns of its head.
        unsafe { d_qkv.as_mut_ptr().add(t * x.stride() + x.column(part, h)) }
    };
    let (q_packed, rest) = scratch.split_at_mut(d * QUERY_BLOCK);
    let (dy_packed, rest) = rest.split_at_mut(d * QUERY_BLOCK);
    let (p, ds) = rest.split_at_mut(KEY_BLOCK * QUERY_BLOCK);
    let Document { start, len } = document;
    for first in (0..len).step_by(QUERY_BLOCK) {
        let (count, row) = (QUERY_BLOCK.min(len - first), start + first);
        let (end, used) = (first + count, count.next_multiple_of(S::F32_LANES));
        let dy = Strided { at: &raw const y.d_out[row * x.width + h * d], row: x.width, col: 1 };
        pack_transposed(q_packed, x.at(0, row, h), count, used, x.scale());
        pack_transposed(dy_packed, dy, count, used, 1.0);
        let mut delta = [0f32; QUERY_BLOCK];
        // Lanes beyond the document get probability exp(−∞) = 0.
        let mut lse = [f32::INFINITY; QUERY_BLOCK];
        for i in 0..count {
            let part = (row + i) * x.width + h * d..(row + i) * x.width + (h + 1) * d;
            delta[i] = dot(simd, &y.d_out[part.clone()], &y.out[part]);
            lse[i] = y.lse[(row + i) * x.heads + h];
        }
        for key in (0..end).step_by(KEY_BLOCK) {
            let keys = KEY_BLOCK.min(end - key);
            let size = (keys, used, d);
            let (k, v) = (x.at(1, start + key, h), x.at(2, start + key, h));
            // SAFETY: `keys` rows of keys and values, `count` rows of queries, of this head of this document.
            unsafe {
                product::<S, false>(
                    simd,
                    size,
                    k,
                    q_packed.as_ptr(),
                    QUERY_BLOCK,
                    p.as_mut_ptr(),
                    QUERY_BLOCK,
                );
                product::<S, false>(
                    simd,
                    size,
                    v,
                    dy_packed.as_ptr(),
                    QUERY_BLOCK,
                    ds.as_mut_ptr(),
                    QUERY_BLOCK,
                );
                hide_later_keys(p, key, keys, first, f32::NEG_INFINITY);
                for lane in (0..used).step_by(S::F32_LANES) {
                    score_gradients(
                        simd,
                        &mut p[lane..],
                        &mut ds[lane..],
                        keys,
                        &lse[lane..],
                        &delta[lane..],
                        x.scale(),
                    );
                }
                let by_key = |scores: &[f32]| Strided { at: scores.as_ptr(), row: QUERY_BLOCK, col: 1 };
                let by_query = |scores: &[f32]| Strided { at: scores.as_ptr(), row: 1, col: QUERY_BLOCK };
                let (size, step) = ((keys, d, count), x.stride());
                product::<S, true>(simd, size, by_key(p), dy.at, dy.row, target(2, start + key), step);
                let q = x.at(0, row, h);
                product::<S, true>(simd, size, by_key(ds), q.at, q.row, target(1, start + key), step);
                product::<S, true>(simd, (count, d, keys), by_query(ds), k.at, k.row, target(0, row), step);
            }
        }
    }
}
dispatched!(backward_head(
    d_qkv: Shared<f32>,
    x: Heads,
    y: Incoming,
    document: Document,
    h: usize,
    scratch: &mut [f32],
));

/// One vector of queries: scores in `p` become probabilities, dOut · Vᵀ in `ds` becomes the gradient of the scores.
#[inline(always)]
fn score_gradients<S: Simd>(
    simd: S,
    p: &mut [f32],
    ds: &mut [f32],
    keys: usize,
    lse: &[f32],
    delta: &[f32],
    scale: f32,
) {
    let last = (keys - 1) * QUERY_BLOCK + S::F32_LANES;
    assert!(p.len() >= last && ds.len() >= last && lse.len() >= S::F32_LANES && delta.len() >= S::F32_LANES);
    // SAFETY: the lengths were just checked.
    unsafe {
        let (lse, delta) = (load(simd, lse.as_ptr()), load(simd, delta.as_ptr()));
        let scale = simd.splat_f32s(scale);
        for j in 0..keys {
            let (p, ds) = (p.as_mut_ptr().add(j * QUERY_BLOCK), ds.as_mut_ptr().add(j * QUERY_BLOCK));
            let probability = exp(simd, simd.sub_f32s(load(simd, p), lse));
            let difference = simd.mul_f32s(simd.sub_f32s(load(simd, ds), delta), scale);
            store(simd, p, probability);
            store(simd, ds, simd.mul_f32s(probability, difference));
        }
    }
}

/// The whole kernel.
fn attention_backward(pool: &mut Pool, d_qkv: &mut [f32], x: Heads, y: Incoming, batch: &Batch) {
    super::zero(pool, d_qkv);
    let items = batch.documents.len() * x.kv_heads;
    let scratch = 2 * (x.head_dim() + KEY_BLOCK) * QUERY_BLOCK;
    let d_qkv = Shared::new(d_qkv);
    for_items(pool, items, batch, 3 * x.width, |item| {
        let (document, kv) = (batch.documents[item / x.kv_heads], item % x.kv_heads);
        with_scratch(scratch, |scratch| {
            for h in kv * x.group()..(kv + 1) * x.group() {
                backward_head::dispatch(d_qkv, x, y, document, h, scratch);
            }
        });
    });
}

/// dQkv from dOut and out [rows, cols], lse [rows, heads] and qkv; it and qkv are [rows, cols + 2 · kv_heads · cols / heads].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_attention_backward(
    device: u32,
    d_qkv: u32,
    d_qkv_at: f64,
    d_out: u32,
    d_out_at: f64,
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
        let ([d_qkv], [d_out, out, lse, qkv]) = d.tensors.operands(
            [span_of_heads(d_qkv, d_qkv_at, rows, cols, heads, kv_heads)],
            [
                span(d_out, d_out_at, rows, cols),
                span(out, out_at, rows, cols),
                span(lse, lse_at, rows, heads),
                span_of_heads(qkv, qkv_at, rows, cols, heads, kv_heads),
            ],
        )?;
        let x = Heads { qkv, width: cols as usize, heads: heads as usize, kv_heads: kv_heads as usize };
        attention_backward(&mut d.pool, d_qkv, x, Incoming { d_out, out, lse }, batch);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::tests::{HEADS, naive_probabilities, noise};
    use crate::kernels::batch::batch_of;

    /// dQkv in f64, from the formulas at the top.
    fn naive(x: Heads, d_out: &[f32], batch: &Batch) -> Vec<f64> {
        let (e, d) = (x.width, x.head_dim());
        let mut gradient = vec![0f64; x.qkv.len()];
        let value = |i: usize| f64::from(x.qkv[i]);
        for document in &batch.documents {
            for (t, h) in (0..document.len).flat_map(|t| (0..x.heads).map(move |h| (t, h))) {
                let (p, _) = naive_probabilities(x, document.start, t, h);
                let at = |part: usize, t: usize, c: usize| t * x.stride() + x.column(part, h) + c;
                let (row, columns) = (document.start + t, 0..d);
                let dy = |c: usize| f64::from(d_out[row * e + h * d + c]);
                let dp: Vec<f64> = (0..=t)
                    .map(|s| columns.clone().map(|c| dy(c) * value(at(2, document.start + s, c))).sum())
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for s in 0..=t {
                    let ds = p[s] * (dp[s] - delta) / (d as f64).sqrt();
                    for c in columns.clone() {
                        gradient[at(0, row, c)] += ds * value(at(1, document.start + s, c));
                        gradient[at(1, document.start + s, c)] += ds * value(at(0, row, c));
                        gradient[at(2, document.start + s, c)] += p[s] * dy(c);
                    }
                }
            }
        }
        gradient
    }

    #[test]
    fn agrees_with_the_formula() {
        for (width, heads, kv_heads) in HEADS {
            for lengths in [&[1][..], &[33, 1, 2], &[180, 5]] {
                let batch = batch_of(lengths, 97);
                let t = batch.tokens.len();
                let d = width / heads;
                let (qkv, d_out) = (noise(t * (width + 2 * kv_heads * d), 1), noise(t * width, 2));
                let x = Heads { qkv: &qkv, width, heads, kv_heads };
                let (mut out, mut lse) = (vec![0.0; t * width], vec![0.0; t * heads]);
                for document in &batch.documents {
                    for (t, h) in (0..document.len).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                        let (p, l) = naive_probabilities(x, document.start, t, h);
                        lse[(document.start + t) * heads + h] = l as f32;
                        for c in 0..d {
                            let v = |s: usize| {
                                f64::from(qkv[(document.start + s) * x.stride() + x.column(2, h) + c])
                            };
                            out[(document.start + t) * width + h * d + c] =
                                p.iter().enumerate().map(|(s, p)| p * v(s)).sum::<f64>() as f32;
                        }
                    }
                }
                let mut d_qkv = vec![9.0; qkv.len()];
                let y = Incoming { d_out: &d_out, out: &out, lse: &lse };
                attention_backward(&mut Pool::new(2).unwrap(), &mut d_qkv, x, y, &batch);
                for (i, (actual, expected)) in d_qkv.iter().zip(naive(x, &d_out, &batch)).enumerate() {
                    let difference = (f64::from(*actual) - expected).abs();
                    assert!(difference < 5e-5 * (1.0 + expected.abs()), "{i}: {actual} {expected}");
                }
            }
        }
    }
}
