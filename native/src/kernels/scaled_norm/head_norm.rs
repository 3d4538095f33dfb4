//! The norm of each head of queries and keys (Qwen 3), whose formulas are those of scaled_norm.rs.
//! out and x: [T, (H + 2 Hkv)·D], queries, keys, values; the values are copied.   w: [2, D], of queries, then of keys
//!
//! The gradient of w is a second pass: threads share out the D columns, each adds up its own over tokens and heads in their
//! order, so its bits do not depend on their number. Moves 5 · T · (H + 2 Hkv) · D elements in the backward pass.

use super::{COLUMNS, backward_rows, forward_rows, weight_columns};
use crate::device::with_device;
use crate::kernels::attention::with_scratch;
use crate::kernels::shared::{Shared, part_of};
use crate::kernels::{GRAIN, chunks_for, for_rows, span, span_of_parts};
use crate::pool::Pool;

/// What is in a row.
#[derive(Clone, Copy)]
struct Heads {
    queries: usize,
    keys: usize,
    /// D
    width: usize,
}

impl Heads {
    fn cols(self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }

    /// Where the keys and the values of a row begin.
    fn parts(self) -> (usize, usize) {
        (self.queries * self.width, (self.queries + self.keys) * self.width)
    }

    /// The heads that have a norm.
    fn normed(self) -> usize {
        self.queries + self.keys
    }
}

fn forward(out: &mut [f32], x: &[f32], w: &[f32], heads: Heads, epsilon: f32) {
    let (keys, values) = heads.parts();
    let (of_queries, of_keys) = w.split_at(heads.width);
    for (out, x) in out.chunks_exact_mut(heads.cols()).zip(x.chunks_exact(heads.cols())) {
        forward_rows::dispatch(&mut out[..keys], &x[..keys], of_queries, epsilon);
        forward_rows::dispatch(&mut out[keys..values], &x[keys..values], of_keys, epsilon);
        out[values..].copy_from_slice(&x[values..]);
    }
}

/// dx of consecutive rows; leaves r of each head that has a norm. `g` is scratch [D].
#[allow(clippy::too_many_arguments)]
fn input_rows(
    dx: &mut [f32],
    reciprocals: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    heads: Heads,
    epsilon: f32,
    g: &mut [f32],
) {
    let (cols, (keys, values)) = (heads.cols(), heads.parts());
    let (of_queries, of_keys) = w.split_at(heads.width);
    let rows = dx.chunks_exact_mut(cols).zip(dy.chunks_exact(cols)).zip(x.chunks_exact(cols));
    for (((dx, dy), x), r) in rows.zip(reciprocals.chunks_exact_mut(heads.normed())) {
        let (query_r, key_r) = r.split_at_mut(heads.queries);
        dx[..values].fill(0.0);
        backward_rows::dispatch(&mut dx[..keys], query_r, &dy[..keys], &x[..keys], of_queries, epsilon, g);
        let part = keys..values;
        let (dy_keys, x_keys) = (&dy[part.clone()], &x[part.clone()]);
        backward_rows::dispatch(&mut dx[part], key_r, dy_keys, x_keys, of_keys, epsilon, g);
        dx[values..].copy_from_slice(&dy[values..]);
    }
}

/// Columns `first` … of dw, of one of its two rows: over the heads of each token from element `start` of its row on.
fn weight_part(
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    reciprocals: &[f32],
    heads: Heads,
    first: usize,
    keys: bool,
) {
    let (cols, (key_start, value_start)) = (heads.cols(), heads.parts());
    let (part, r_part) = if keys {
        (key_start..value_start, heads.queries..heads.normed())
    } else {
        (0..key_start, 0..heads.queries)
    };
    let rows = dy.chunks_exact(cols).zip(x.chunks_exact(cols));
    for ((dy, x), r) in rows.zip(reciprocals.chunks_exact(heads.normed())) {
        let (dy, x) = (&dy[part.clone()], &x[part.clone()]);
        weight_columns::dispatch(dw, dy, x, &r[r_part.clone()], first, heads.width);
    }
}

/// The whole backward kernel; `reciprocals` is [T, H + Hkv].
#[allow(clippy::too_many_arguments)]
fn backward(
    pool: &mut Pool,
    dx: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    heads: Heads,
    epsilon: f32,
    reciprocals: &mut [f32],
) {
    let (cols, normed) = (heads.cols(), heads.normed());
    let rows = reciprocals.len() / normed;
    let chunks = chunks_for(pool, 3 * x.len(), GRAIN).min(rows);
    let (dx, shared) = (Shared::new(dx), Shared::new(reciprocals));
    pool.run(chunks, |chunk| {
        let part = part_of(rows, 1, chunks, chunk);
        let at = part.start * cols..part.end * cols;
        // SAFETY: parts of different chunks do not overlap.
        let (dx, reciprocals) =
            unsafe { (dx.part(at.clone()), shared.part(part.start * normed..part.end * normed)) };
        let (dy, x) = (&dy[at.clone()], &x[at]);
        with_scratch(heads.width, |g| input_rows(dx, reciprocals, dy, x, w, heads, epsilon, g));
    });
    let parts = heads.width.div_ceil(COLUMNS);
    let (dw, reciprocals) = (Shared::new(dw), &*reciprocals);
    pool.run(2 * parts, |chunk| {
        let (keys, first) = (chunk >= parts, chunk % parts * COLUMNS);
        let start = if keys { heads.width } else { 0 };
        let last = heads.width.min(first + COLUMNS);
        // SAFETY: as above.
        let dw = unsafe { dw.part(start + first..start + last) };
        weight_part(dw, dy, x, reciprocals, heads, first, keys);
    });
}

fn heads_of(queries: u32, keys: u32, width: u32) -> Result<Heads, String> {
    if queries == 0 || keys == 0 || width == 0 {
        return Err(format!("{queries} heads of queries and {keys} of keys of {width} numbers"));
    }
    Ok(Heads { queries: queries as usize, keys: keys as usize, width: width as usize })
}

/// out = x with each head of queries and keys normed; w [2, width].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_head_norm(
    device: u32,
    out: u32,
    out_at: f64,
    x: u32,
    x_at: f64,
    w: u32,
    w_at: f64,
    rows: u32,
    queries: u32,
    keys: u32,
    width: u32,
    epsilon: f64,
) -> i32 {
    with_device(device, |d| {
        let heads = heads_of(queries, keys, width)?;
        let parts = queries.saturating_add(keys.saturating_mul(2));
        let ([out], [x, w]) = d.tensors.operands(
            [span_of_parts(out, out_at, rows, parts, width)],
            [span_of_parts(x, x_at, rows, parts, width), span(w, w_at, 2, width)],
        )?;
        for_rows(&mut d.pool, out, heads.cols(), x.len(), |first, out| {
            forward(out, &x[first * heads.cols()..][..out.len()], w, heads, epsilon as f32);
        });
        Ok(())
    })
}

/// dx = the gradient of `mg_cpu_head_norm` at x for dy; dw [2, width] grows by its own.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_head_norm_backward(
    device: u32,
    dx: u32,
    dx_at: f64,
    dw: u32,
    dw_at: f64,
    dy: u32,
    dy_at: f64,
    x: u32,
    x_at: f64,
    w: u32,
    w_at: f64,
    rows: u32,
    queries: u32,
    keys: u32,
    width: u32,
    epsilon: f64,
) -> i32 {
    with_device(device, |d| {
        let heads = heads_of(queries, keys, width)?;
        let parts = queries.saturating_add(keys.saturating_mul(2));
        let ([dx, dw], [dy, x, w]) = d.tensors.operands(
            [span_of_parts(dx, dx_at, rows, parts, width), span(dw, dw_at, 2, width)],
            [
                span_of_parts(dy, dy_at, rows, parts, width),
                span_of_parts(x, x_at, rows, parts, width),
                span(w, w_at, 2, width),
            ],
        )?;
        let mut reciprocals = vec![0.0; rows as usize * heads.normed()];
        backward(&mut d.pool, dx, dw, dy, x, w, heads, epsilon as f32, &mut reciprocals);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::tests::noise;

    #[test]
    fn agrees_with_the_formula_whatever_the_number_of_threads() {
        for (rows, queries, keys, width) in [(1, 1, 1, 1), (5, 3, 1, 6), (40, 4, 2, 64), (3, 2, 2, 100)] {
            let heads = Heads { queries, keys, width };
            let size = rows * heads.cols();
            let (x, dy, w) = (noise(size, 1), noise(size, 2), noise(2 * width, 3));
            let epsilon = 1e-3;
            let mut out = vec![0.0; size];
            forward(&mut out, &x, &w, heads, epsilon);
            let run = |threads| {
                let (mut dx, mut dw) = (noise(size, 4), w.clone());
                let mut r = vec![0.0; rows * heads.normed()];
                let mut pool = Pool::new(threads).unwrap();
                backward(&mut pool, &mut dx, &mut dw, &dy, &x, &w, heads, epsilon, &mut r);
                (dx, dw)
            };
            let (dx, dw) = run(1);
            assert_eq!(run(3), (dx.clone(), dw.clone()));
            let close =
                |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 5e-5 * (1.0 + b.abs()), "{a} {b}");
            let mut expected_dw: Vec<f64> = w.iter().map(|&w| w.into()).collect();
            for (row, head) in (0..rows).flat_map(|row| (0..queries + 2 * keys).map(move |head| (row, head)))
            {
                let start = row * heads.cols() + head * width;
                let at = |v: &[f32], i: usize| f64::from(v[start + i]);
                if head >= heads.normed() {
                    assert_eq!(out[start..start + width], x[start..start + width]);
                    assert_eq!(dx[start..start + width], dy[start..start + width]);
                    continue;
                }
                let line = if head < queries { 0 } else { width };
                let squares: f64 = (0..width).map(|i| at(&x, i) * at(&x, i)).sum();
                let r = 1.0 / (squares / width as f64 + f64::from(epsilon)).sqrt();
                let g = |i: usize| at(&dy, i) * f64::from(w[line + i]);
                let mean = (0..width).map(|i| g(i) * at(&x, i) * r).sum::<f64>() / width as f64;
                for i in 0..width {
                    close(out[start + i], at(&x, i) * r * f64::from(w[line + i]));
                    close(dx[start + i], r * (g(i) - at(&x, i) * r * mean));
                    expected_dw[line + i] += at(&dy, i) * at(&x, i) * r;
                }
            }
            dw.iter().zip(&expected_dw).for_each(|(&a, &b)| close(a, b));
        }
    }
}
