//! rmsnorm.  out = x · r with r = 1 / sqrt(mean(x²) + 1e-5), row by row; all [rows, E].
//! Backward: dx += r · (dy − x · r² · mean(dy · x)). A row stays in the first cache between its two passes, so forward
//! moves 2 · rows · E elements, backward 4.

use super::simd::{Simd, dispatched, dot, map_vectors};
use super::{for_rows, span};
use crate::device::with_device;

const EPSILON: f32 = 1e-5;

/// r of one row.
#[inline(always)]
fn reciprocal_rms<S: Simd>(simd: S, x: &[f32]) -> f32 {
    1.0 / (dot(simd, x, x) / x.len() as f32 + EPSILON).sqrt()
}

/// Norms one row in place.
#[inline(always)]
pub fn normalise<S: Simd>(simd: S, x: &mut [f32]) {
    let r = simd.splat_f32s(reciprocal_rms(simd, x));
    map_vectors(
        simd,
        x,
        [],
        #[inline(always)]
        |x, []| simd.mul_f32s(x, r),
    );
}

/// One row: dx += the gradient at x for dy.
#[inline(always)]
pub fn normalise_backward<S: Simd>(simd: S, dx: &mut [f32], dy: &[f32], x: &[f32]) {
    let r = reciprocal_rms(simd, x);
    let x_factor = simd.splat_f32s(-r * r * r * dot(simd, dy, x) / x.len() as f32);
    let r = simd.splat_f32s(r);
    map_vectors(
        simd,
        dx,
        [dy, x],
        #[inline(always)]
        |dx, [dy, x]| simd.mul_add_e_f32s(x, x_factor, simd.mul_add_e_f32s(dy, r, dx)),
    );
}

#[inline(always)]
fn forward_rows<S: Simd>(simd: S, out: &mut [f32], x: &[f32], cols: usize) {
    for (out, x) in out.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
        let r = simd.splat_f32s(reciprocal_rms(simd, x));
        map_vectors(
            simd,
            out,
            [x],
            #[inline(always)]
            |_, [x]| simd.mul_f32s(x, r),
        );
    }
}
dispatched!(forward_rows(out: &mut [f32], x: &[f32], cols: usize));

#[inline(always)]
fn backward_rows<S: Simd>(simd: S, dx: &mut [f32], dy: &[f32], x: &[f32], cols: usize) {
    for ((dx, dy), x) in dx.chunks_exact_mut(cols).zip(dy.chunks_exact(cols)).zip(x.chunks_exact(cols)) {
        normalise_backward(simd, dx, dy, x);
    }
}
dispatched!(backward_rows(dx: &mut [f32], dy: &[f32], x: &[f32], cols: usize));

/// out = rmsnorm(x), both [rows, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_rms_norm(
    device: u32,
    out: u32,
    out_at: f64,
    x: u32,
    x_at: f64,
    rows: u32,
    cols: u32,
) -> i32 {
    with_device(device, |d| {
        let ([out], [x]) =
            d.tensors.operands([span(out, out_at, rows, cols)], [span(x, x_at, rows, cols)])?;
        let cols = cols as usize;
        for_rows(&mut d.pool, out, cols, x.len(), |first, out| {
            let x = &x[first * cols..][..out.len()];
            forward_rows::dispatch(out, x, cols);
        });
        Ok(())
    })
}

/// dx += rmsnorm's gradient at x for dy, all [rows, cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_rms_norm_backward(
    device: u32,
    dx: u32,
    dx_at: f64,
    dy: u32,
    dy_at: f64,
    x: u32,
    x_at: f64,
    rows: u32,
    cols: u32,
) -> i32 {
    with_device(device, |d| {
        let ([dx], [dy, x]) = d.tensors.operands(
            [span(dx, dx_at, rows, cols)],
            [span(dy, dy_at, rows, cols), span(x, x_at, rows, cols)],
        )?;
        let cols = cols as usize;
        for_rows(&mut d.pool, dx, cols, 2 * x.len(), |first, dx| {
            let part = first * cols..first * cols + dx.len();
            let (dy, x) = (&dy[part.clone()], &x[part]);
            backward_rows::dispatch(dx, dy, x, cols);
        });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formula() {
        for cols in [1, 5, 12, 64, 100, 384] {
            let value = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
            let x: Vec<f32> = (0..3 * cols).map(value).collect();
            let dy: Vec<f32> = (0..3 * cols).map(|i| value(i + 11)).collect();
            let mut out = vec![0.0; 3 * cols];
            let mut dx = dy.clone();
            forward_rows::dispatch(&mut out, &x, cols);
            backward_rows::dispatch(&mut dx, &dy, &x, cols);
            for row in 0..3 {
                let range = row * cols..(row + 1) * cols;
                let (x, dy) = (&x[range.clone()], &dy[range.clone()]);
                let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
                let r = 1.0 / (squares / cols as f64 + 1e-5).sqrt();
                let product: f64 = x.iter().zip(dy).map(|(&x, &dy)| f64::from(x) * f64::from(dy)).sum();
                for i in 0..cols {
                    let y = f64::from(x[i]) * r;
                    assert!((f64::from(out[range.start + i]) - y).abs() < 1e-5 * (1.0 + y.abs()));
                    let g = f64::from(dy[i]) + r * (f64::from(dy[i]) - y * r * product / cols as f64);
                    assert!(
                        (f64::from(dx[range.start + i]) - g).abs() < 2e-5 * (1.0 + g.abs()),
                        "{cols} {i}"
                    );
                }
            }
        }
    }
}
