//! Attention of single tokens over cached keys and values, for decoding.
//! out: [N, H · D]   qkv: [N, (H + 2 Hkv) · D]   cache: [sequences · B, 2 Hkv · D], row s · B + p holds key then value of
//! position p; H / Hkv heads of queries share one of keys and values
//!
//! All rows first store their key and value. Then work items are (row, head): a dot product with each key, a softmax, a
//! weighted sum of values; reads 2 · D elements for each position, limited by memory. Rows at consecutive
//! positions of one sequence, which is a prompt, go together in blocks of 32 as in training.
//!
//! The bits of a row depend on its query and the keys and values up to its position alone: not on other rows, on the
//! length of the prompt that it belongs to, on its place in the cache or on threads. But a row alone and the same row in a prompt
//! are summed in different orders.

use super::attention::{self, Queries, check_heads, span_of_heads, with_scratch};
use super::batch::QUERY_BLOCK;
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, dot, exp, for_each_vector, map_vectors, prefetch};
use super::tile::Strided;
use super::{span, span_of_parts};
use crate::device::with_device;
use crate::pool::Pool;
use crate::tensors::as_u32s;

/// Elements of the cache that are worth a thread's while.
const GRAIN: usize = 8 * 1024;

/// Bytes by which keys and values are asked for before they are read, as in packed_product.rs.
const AHEAD: usize = 4 * 1024;
/// Numbers of a line of memory.
const LINE: usize = 16;

/// Positions whose values are added up together.
const TOGETHER: usize = 4;

/// Some heads of a row: neighbouring heads of keys and values, each with the `group` heads of queries that share it.
struct Heads<'a> {
    /// [group · heads of keys and values, D]
    q: &'a [f32],
    /// [count, 2 · width], of the positions to look at
    lines: &'a [f32],
    width: usize,
    /// where the first of these heads has its key in a line; its value is `width` further
    column: usize,
    head_dim: usize,
    group: usize,
}

/// out [heads, D] = softmax(q · keys · scale) · values. `scores` is [heads, count + 1].
///
/// Positions go outside and heads inside, so that memory is read in order: a key of one head is but two lines of it.
#[inline(always)]
fn attend_one<S: Simd>(simd: S, out: &mut [f32], x: Heads, scores: &mut [f32]) {
    let Heads { q, lines, width, column, head_dim: d, group } = x;
    let heads = q.len() / d;
    let (columns, row) = (heads / group * d, scores.len() / heads);
    let scale = attention::scale(d);
    for (p, line) in lines.chunks_exact(2 * width).enumerate() {
        let keys = &line[column..column + columns];
        ask_for(keys);
        for (h, q) in q.chunks_exact(d).enumerate() {
            scores[h * row + p] = dot(simd, q, &keys[h / group * d..][..d]) * scale;
        }
    }
    for scores in scores.chunks_exact_mut(row) {
        let (total, scores) = scores.split_last_mut().expect("a place for the total");
        *total = soften(simd, scores);
    }
    out.fill(0.0);
    let x = Heads { column: width + column, ..x };
    let whole = (row - 1) / TOGETHER * TOGETHER;
    for p in (0..whole).step_by(TOGETHER) {
        add_values::<S, TOGETHER>(simd, out, &x, scores, p);
    }
    for p in whole..row - 1 {
        add_values::<S, 1>(simd, out, &x, scores, p);
    }
    for (out, scores) in out.chunks_exact_mut(d).zip(scores.chunks_exact(row)) {
        let factor = simd.splat_f32s(1.0 / scores[row - 1]);
        map_vectors(
            simd,
            out,
            [],
            #[inline(always)]
            |x, []| simd.mul_f32s(x, factor),
        );
    }
}
dispatched!(attend_one(out: &mut [f32], x: Heads, scores: &mut [f32]));

#[inline(always)]
fn ask_for(numbers: &[f32]) {
    for from in numbers.iter().step_by(LINE) {
        prefetch((&raw const *from).cast::<u8>().wrapping_add(AHEAD));
    }
}

/// scores = exp(scores − their maximum). Returns the sum.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for_each_vector(
        simd,
        scores,
        f32::NEG_INFINITY,
        #[inline(always)]
        |s| max = simd.max_f32s(max, s),
    );
    let max = simd.splat_f32s(simd.reduce_max_f32s(max));
    map_vectors(
        simd,
        scores,
        [],
        #[inline(always)]
        |s, []| exp(simd, simd.sub_f32s(s, max)),
    );
    let mut total = simd.splat_f32s(0.0);
    for_each_vector(
        simd,
        scores,
        0.0,
        #[inline(always)]
        |p| total = simd.add_f32s(total, p),
    );
    simd.reduce_sum_f32s(total)
}

/// Adds the values of COUNT positions from `first` on, one after the other, times their probabilities: p is [heads, count + 1].
/// The first of the values of a line is at `x.column`.
#[inline(always)]
fn add_values<S: Simd, const COUNT: usize>(simd: S, out: &mut [f32], x: &Heads, p: &[f32], first: usize) {
    let (d, row) = (x.head_dim, p.len() / (x.q.len() / x.head_dim));
    let columns = out.len() / x.group;
    let lines = &x.lines[first * 2 * x.width..];
    for i in 0..COUNT {
        ask_for(&lines[i * 2 * x.width + x.column..][..columns]);
    }
    for (h, out) in out.chunks_exact_mut(d).enumerate() {
        let (mut factors, mut values) = ([simd.splat_f32s(0.0); COUNT], [&[][..]; COUNT]);
        for i in 0..COUNT {
            factors[i] = simd.splat_f32s(p[h * row + first + i]);
            values[i] = &lines[i * 2 * x.width + x.column + h / x.group * d..][..d];
        }
        map_vectors(
            simd,
            out,
            values,
            #[inline(always)]
            |mut sum, values| {
                for i in 0..COUNT {
                    sum = simd.mul_add_e_f32s(factors[i], values[i], sum);
                }
                sum
            },
        );
    }
}

/// A block of a prompt: out [count, ·] at the head's columns.
#[inline(always)]
fn attend_block<S: Simd>(
    simd: S,
    out: Shared<f32>,
    out_at: usize,
    width: usize,
    x: Queries,
    scratch: &mut [f32],
) {
    let finish = |i: usize, sums: &[f32], _: f32, total: f32| {
        let column = out_at + i * width;
        // SAFETY: these rows and columns belong to one work item.
        let out = unsafe { out.part(column..column + x.head_dim) };
        let factor = 1.0 / total;
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
    };
    // SAFETY: `attention_cached` made x from rows that it checked.
    unsafe { attention::attend(simd, x, scratch, finish) };
}
dispatched!(attend_block(out: Shared<f32>, out_at: usize, width: usize, x: Queries, scratch: &mut [f32]));

/// At most 32 rows at consecutive positions of one sequence.
struct Run {
    row: usize,
    count: usize,
    /// more than one row, or the end of such rows
    prompt: bool,
}

/// Cuts the rows into runs.
fn runs(positions: &[u32], sequences: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for row in 0..positions.len() {
        let goes_on = row > 0
            && sequences[row] == sequences[row - 1]
            && positions[row].checked_sub(1) == Some(positions[row - 1]);
        match runs.last_mut() {
            Some(run) if goes_on && run.count < QUERY_BLOCK => {
                run.count += 1;
                run.prompt = true;
            }
            _ => runs.push(Run { row, count: 1, prompt: goes_on }),
        }
    }
    runs
}

/// The whole kernel.
#[allow(clippy::too_many_arguments)]
fn attention_cached(
    pool: &mut Pool,
    out: &mut [f32],
    cache: &mut [f32],
    qkv: &[f32],
    positions: &[u32],
    sequences: &[u32],
    block_size: usize,
    heads: usize,
    kv_heads: usize,
) -> Result<(), String> {
    let n = positions.len();
    let out_width = out.len() / n;
    let (d, group) = (out_width / heads, heads / kv_heads);
    let width = kv_heads * d; // of the keys, and of the values, in a line and in a row
    let (stride, lines) = (out_width + 2 * width, cache.len() / (2 * width));
    let first_line = |row: usize| sequences[row] as usize * block_size;
    for row in 0..n {
        let (position, line) = (positions[row] as usize, first_line(row) + positions[row] as usize);
        if position >= block_size || line >= lines {
            return Err(format!("position {position} of sequence {} is not in the cache", sequences[row]));
        }
        cache[line * 2 * width..(line + 1) * 2 * width]
            .copy_from_slice(&qkv[row * stride + out_width..][..2 * width]);
    }
    let cache = &*cache;
    let work: usize = positions.iter().map(|&position| (position as usize + 1) * 2 * out_width).sum();
    let runs = runs(positions, sequences);
    // a row's heads stay together where there are rows enough
    let parts = (2 * pool.threads()).div_ceil(n).min(kv_heads);
    let items: Vec<(&Run, usize, usize)> = runs
        .iter()
        .flat_map(|run| {
            let parts = if run.prompt { heads } else { parts };
            (0..parts).map(move |part| (run, part, parts))
        })
        .collect();
    let chunks = super::chunks_for(pool, work, GRAIN).min(items.len());
    let out = Shared::new(out);
    pool.run(chunks, |chunk| {
        for &(&Run { row, count: rows, prompt }, part, parts) in items.iter().skip(chunk).step_by(chunks) {
            let first = positions[row] as usize;
            let lines = &cache[first_line(row) * 2 * width..][..(first + rows) * 2 * width];
            if !prompt {
                let kv = part_of(kv_heads, 1, parts, part);
                let columns = kv.start * group * d..kv.end * group * d;
                let q = &qkv[row * stride..][columns.clone()];
                // SAFETY: these columns of a row belong to one item.
                let out = unsafe { out.part(row * out_width + columns.start..row * out_width + columns.end) };
                let x = Heads { q, lines, width, column: kv.start * d, head_dim: d, group };
                with_scratch(kv.len() * group * (first + 2), |scores| attend_one::dispatch(out, x, scores));
            } else {
                let (h, rows_of) = (part, |values: &[f32], row| Strided { at: values.as_ptr(), row, col: 1 });
                let column = h / group * d;
                let x = Queries {
                    q: rows_of(&qkv[row * stride + h * d..], stride),
                    k: rows_of(&lines[column..], 2 * width),
                    v: rows_of(&lines[width + column..], 2 * width),
                    first,
                    count: rows,
                    head_dim: d,
                };
                with_scratch(Queries::scratch(d), |scratch| {
                    attend_block::dispatch(out, row * out_width + h * d, out_width, x, scratch);
                });
            }
        }
    });
    Ok(())
}

/// out [rows, cols] from qkv [rows, cols + 2 W] and cache [lines, 2 W] with W = kv_heads · cols / heads; positions and sequences
/// are u32 [rows].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_attention_cached(
    device: u32,
    out: u32,
    out_at: f64,
    qkv: u32,
    qkv_at: f64,
    cache: u32,
    cache_at: f64,
    positions: u32,
    positions_at: f64,
    sequences: u32,
    sequences_at: f64,
    rows: u32,
    cols: u32,
    lines: u32,
    block_size: u32,
    heads: u32,
    kv_heads: u32,
) -> i32 {
    with_device(device, |d| {
        check_heads(cols, heads, kv_heads)?;
        let width = cols / heads * kv_heads;
        let ([out, cache], [qkv, positions, sequences]) = d.tensors.operands(
            [span(out, out_at, rows, cols), span_of_parts(cache, cache_at, lines, 2, width)],
            [
                span_of_heads(qkv, qkv_at, rows, cols, heads, kv_heads),
                span(positions, positions_at, rows, 1),
                span(sequences, sequences_at, rows, 1),
            ],
        )?;
        if rows == 0 {
            return Ok(());
        }
        let (positions, sequences) = (as_u32s(positions), as_u32s(sequences));
        let (block_size, heads, kv_heads) = (block_size as usize, heads as usize, kv_heads as usize);
        attention_cached(&mut d.pool, out, cache, qkv, positions, sequences, block_size, heads, kv_heads)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::tests::noise;

    #[test]
    fn agrees_with_the_formula() {
        let (block, rows) = (50, 40);
        for (out_width, heads, kv_heads) in
            [(12, 1, 1), (12, 4, 4), (64, 2, 2), (96, 3, 3), (64, 4, 2), (96, 6, 1)]
        {
            let d = out_width / heads;
            let width = kv_heads * d;
            let stride = out_width + 2 * width;
            let mut cache = noise(3 * block * 2 * width, 1);
            let qkv = noise(rows * stride, 2);
            // Single rows, and a prompt of 36 in two blocks that starts in the middle.
            let positions: Vec<u32> = [0, 3, 4, 49].into_iter().chain(9..45).collect();
            let sequences: Vec<u32> = [0, 1, 2, 0].into_iter().chain([1; 36]).collect();
            let mut out = vec![0.0; rows * out_width];
            let mut pool = Pool::new(2).unwrap();
            let mut run = |out: &mut [f32], cache: &mut [f32], positions: &[u32], sequences: &[u32]| {
                attention_cached(&mut pool, out, cache, &qkv, positions, sequences, block, heads, kv_heads)
            };
            run(&mut out, &mut cache, &positions, &sequences).unwrap();
            for (row, h) in (0..rows).flat_map(|row| (0..heads).map(move |h| (row, h))) {
                let column = h / (heads / kv_heads) * d;
                let line = |p: usize| (sequences[row] as usize * block + p) * 2 * width + column;
                assert_eq!(
                    cache[line(positions[row] as usize)..][..d],
                    qkv[row * stride + out_width + column..][..d]
                );
                let scores: Vec<f64> = (0..=positions[row] as usize)
                    .map(|p| {
                        let products = (0..d).map(|i| qkv[row * stride + h * d + i] * cache[line(p) + i]);
                        products.map(f64::from).sum::<f64>() / (d as f64).sqrt()
                    })
                    .collect();
                let total: f64 = scores.iter().map(|s| s.exp()).sum();
                for i in 0..d {
                    let weighted = scores
                        .iter()
                        .enumerate()
                        .map(|(p, s)| s.exp() * f64::from(cache[line(p) + width + i]));
                    let expected = weighted.sum::<f64>() / total;
                    assert!((f64::from(out[row * out_width + h * d + i]) - expected).abs() < 2e-5);
                }
            }
            assert!(run(&mut out, &mut cache, &[50; 40], &[0; 40]).is_err());
            assert!(run(&mut out, &mut cache, &[0; 40], &[3; 40]).is_err());
        }
    }

    /// The promise at the head of this file. Each call has its own cache, with the same keys and values in some line.
    #[test]
    fn a_row_does_not_depend_on_other_rows_or_on_its_place_in_the_cache() {
        let (block, heads, kv_heads, out_width) = (300, 4, 2, 96);
        let width = out_width / heads * kv_heads;
        let stride = out_width + 2 * width;
        let (line, queries) = (noise(block * 2 * width, 1), noise(block * stride, 2));
        // Query p of the line, at (sequence, position p) of each row.
        let run = |threads: usize, rows: &[(u32, u32)]| {
            let mut cache = [&line[..]; 3].concat();
            let (sequences, positions): (Vec<u32>, Vec<u32>) = rows.iter().copied().unzip();
            let mut qkv = Vec::new();
            for &position in &positions {
                let p = position as usize;
                qkv.extend(&queries[p * stride..][..out_width]);
                qkv.extend(&line[p * 2 * width..][..2 * width]);
            }
            let mut out = vec![0.0; rows.len() * out_width];
            let mut pool = Pool::new(threads).unwrap();
            let done = attention_cached(
                &mut pool, &mut out, &mut cache, &qkv, &positions, &sequences, block, heads, kv_heads,
            );
            done.unwrap();
            out
        };
        for position in [0, 1, 130, 299] {
            let alone = run(1, &[(0, position)]);
            for threads in [1, 2, 3] {
                let among = run(threads, &[(1, 7), (2, position), (0, 290), (1, 40), (1, position)]);
                assert!(among[out_width..2 * out_width] == alone && among[4 * out_width..] == alone);
            }
        }
        let prompt = |sequence, positions: std::ops::Range<u32>| positions.map(move |p| (sequence, p));
        let whole = run(1, &prompt(0, 0..200).collect::<Vec<_>>());
        for (threads, rows) in [(1, 0..33), (2, 0..65), (3, 17..50), (2, 128..130), (2, 95..200)] {
            let first = rows.start as usize;
            let among: Vec<_> = [(0, 299)].into_iter().chain(prompt(2, rows.clone())).collect();
            let out = run(threads, &among);
            assert!(out[out_width..] == whole[first * out_width..][..rows.len() * out_width], "{rows:?}");
        }
    }
}
