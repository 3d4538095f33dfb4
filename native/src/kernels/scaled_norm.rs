//! rmsnorm with weights.  out = w ∘ x̂ with x̂ = x · r and r = 1 / sqrt(mean(x²) + ε), row by row; x and out [T, E], w [E].
//! Backward: dx += r · (g − x̂ · mean(g · x̂)) with g = w ∘ dy, and dw += Σ dy ∘ x̂ over the rows.
//!
//! dw is a second pass: threads share out columns, each adds up its own in the order of the rows, so its bits do not depend on their
//! number. The first pass leaves r of each row for it. Moves 6 · T · E elements.

pub mod head_norm;

use super::attention::with_scratch;
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, dot, map_vectors};
use super::{GRAIN, chunks_for, for_rows, span};
use crate::device::with_device;
use crate::pool::Pool;

/// Columns of dw that a thread adds up together: two cache lines of each row.
const COLUMNS: usize = 32;

/// r of one row.
#[inline(always)]
fn reciprocal_rms<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(simd, x, x) / x.len() as f32 + epsilon).sqrt()
}

#[inline(always)]
fn forward_rows<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], epsilon: f32) {
    for (out, x) in out.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
        let r = simd.splat_f32s(reciprocal_rms(simd, x, epsilon));
        map_vectors(
            simd,
            out,
            [x, w],
            #[inline(always)]
            |_, [x, w]| simd.mul_f32s(simd.mul_f32s(x, r), w),
        );
    }
}
dispatched!(forward_rows(out: &mut [f32], x: &[f32], w: &[f32], epsilon: f32));

/// dx of consecutive rows; leaves r of each in `reciprocals`. `g` is scratch [E].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn backward_rows<S: Simd>(
    simd: S,
    dx: &mut [f32],
    reciprocals: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    epsilon: f32,
    g: &mut [f32],
) {
    let cols = w.len();
    let rows = dx.chunks_exact_mut(cols).zip(dy.chunks_exact(cols)).zip(x.chunks_exact(cols));
    for (((dx, dy), x), reciprocal) in rows.zip(reciprocals) {
        let r = reciprocal_rms(simd, x, epsilon);
        *reciprocal = r;
        map_vectors(
            simd,
            g,
            [dy, w],
            #[inline(always)]
            |_, [dy, w]| simd.mul_f32s(dy, w),
        );
        let x_factor = simd.splat_f32s(-r * r * r * dot(simd, g, x) / cols as f32);
        let r = simd.splat_f32s(r);
        map_vectors(
            simd,
            dx,
            [g, x],
            #[inline(always)]
            |dx, [g, x]| simd.mul_add_e_f32s(x, x_factor, simd.mul_add_e_f32s(g, r, dx)),
        );
    }
}
dispatched!(backward_rows(
    dx: &mut [f32],
    reciprocals: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    epsilon: f32,
    g: &mut [f32],
));

/// dw += Σ dy · x · r for columns `first` … of rows of `cols`.
#[inline(always)]
fn weight_columns<S: Simd>(
    simd: S,
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    reciprocals: &[f32],
    first: usize,
    cols: usize,
) {
    for (t, &r) in reciprocals.iter().enumerate() {
        let (r, at) = (simd.splat_f32s(r), t * cols + first);
        map_vectors(
            simd,
            dw,
            [&dy[at..], &x[at..]],
            #[inline(always)]
            |dw, [dy, x]| simd.mul_add_e_f32s(dy, simd.mul_f32s(x, r), dw),
        );
    }
}
dispatched!(weight_columns(
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    reciprocals: &[f32],
    first: usize,
    cols: usize,
));

/// The whole backward kernel; `reciprocals` is [T].
#[allow(clippy::too_many_arguments)]
fn backward(
    pool: &mut Pool,
    dx: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    epsilon: f32,
    reciprocals: &mut [f32],
) {
    let (rows, cols) = (reciprocals.len(), w.len());
    let chunks = chunks_for(pool, 3 * x.len(), GRAIN).min(rows);
    let (dx, shared) = (Shared::new(dx), Shared::new(reciprocals));
    pool.run(chunks, |chunk| {
        let part = part_of(rows, 1, chunks, chunk);
        let at = part.start * cols..part.end * cols;
        // SAFETY: parts of different chunks do not overlap.
        let (dx, reciprocals) = unsafe { (dx.part(at.clone()), shared.part(part)) };
        let (dy, x) = (&dy[at.clone()], &x[at]);
        with_scratch(cols, |g| backward_rows::dispatch(dx, reciprocals, dy, x, w, epsilon, g));
    });
    let chunks = chunks_for(pool, x.len(), GRAIN).min(cols.div_ceil(COLUMNS));
    let (dw, reciprocals) = (Shared::new(dw), &*reciprocals);
    pool.run(chunks, |chunk| {
        let part = part_of(cols, COLUMNS, chunks, chunk);
        for first in part.clone().step_by(COLUMNS) {
            // SAFETY: as above.
            let dw = unsafe { dw.part(first..part.end.min(first + COLUMNS)) };
            weight_columns::dispatch(dw, dy, x, reciprocals, first, cols);
        }
    });
}

/// out = w ∘ rmsnorm(x); out and x [rows, cols], w [cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_scaled_rms_norm(
    device: u32,
    out: u32,
    out_at: f64,
    x: u32,
    x_at: f64,
    w: u32,
    w_at: f64,
    rows: u32,
    cols: u32,
    epsilon: f64,
) -> i32 {
    with_device(device, |d| {
        let ([out], [x, w]) = d
            .tensors
            .operands([span(out, out_at, rows, cols)], [span(x, x_at, rows, cols), span(w, w_at, 1, cols)])?;
        let cols = cols as usize;
        for_rows(&mut d.pool, out, cols, x.len(), |first, out| {
            let x = &x[first * cols..][..out.len()];
            forward_rows::dispatch(out, x, w, epsilon as f32);
        });
        Ok(())
    })
}

/// dx [rows, cols] and dw [cols] grow by the gradients of `mg_cpu_scaled_rms_norm` at x for dy.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_scaled_rms_norm_backward(
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
    cols: u32,
    epsilon: f64,
) -> i32 {
    with_device(device, |d| {
        let ([dx, dw], [dy, x, w]) = d.tensors.operands(
            [span(dx, dx_at, rows, cols), span(dw, dw_at, 1, cols)],
            [span(dy, dy_at, rows, cols), span(x, x_at, rows, cols), span(w, w_at, 1, cols)],
        )?;
        if rows > 0 && cols > 0 {
            let mut reciprocals = vec![0.0; rows as usize];
            backward(&mut d.pool, dx, dw, dy, x, w, epsilon as f32, &mut reciprocals);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::tests::noise;

    #[test]
    fn agrees_with_the_formula_whatever_the_number_of_threads() {
        for (rows, cols) in [(1, 1), (3, 5), (40, 100), (300, 384)] {
            let (x, dy, w) = (noise(rows * cols, 1), noise(rows * cols, 2), noise(cols, 3));
            let epsilon = 1e-3;
            let mut out = vec![0.0; rows * cols];
            forward_rows::dispatch(&mut out, &x, &w, epsilon);
            let run = |threads| {
                let (mut dx, mut dw, mut r) = (dy.clone(), w.clone(), vec![0.0; rows]);
                let mut pool = Pool::new(threads).unwrap();
                backward(&mut pool, &mut dx, &mut dw, &dy, &x, &w, epsilon, &mut r);
                (dx, dw)
            };
            let (dx, dw) = run(1);
            assert_eq!(run(3), (dx.clone(), dw.clone()));
            let close =
                |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 5e-5 * (1.0 + b.abs()), "{a} {b}");
            let mut expected_dw: Vec<f64> = w.iter().map(|&w| w.into()).collect();
            for row in 0..rows {
                let at = |v: &[f32], i: usize| f64::from(v[row * cols + i]);
                let squares: f64 = (0..cols).map(|i| at(&x, i) * at(&x, i)).sum();
                let r = 1.0 / (squares / cols as f64 + f64::from(epsilon)).sqrt();
                let g = |i: usize| at(&dy, i) * f64::from(w[i]);
                let mean = (0..cols).map(|i| g(i) * at(&x, i) * r).sum::<f64>() / cols as f64;
                for i in 0..cols {
                    close(out[row * cols + i], at(&x, i) * r * f64::from(w[i]));
                    close(dx[row * cols + i], at(&dy, i) + r * (g(i) - at(&x, i) * r * mean));
                    expected_dw[i] += at(&dy, i) * at(&x, i) * r;
                }
            }
            dw.iter().zip(&expected_dw).for_each(|(&a, &b)| close(a, b));
        }
    }
}
