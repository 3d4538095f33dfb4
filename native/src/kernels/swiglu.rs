//! SwiGLU (Shazeer 2020).  out = silu(gate) · up with silu(g) = g · σ(g).  out: [T, F]   gate_up: [T, 2F], gates then ups
//! Backward: dGate = dOut · up · σ(g) · (1 + g · (1 − σ(g))),  dUp = dOut · silu(g). The sigmoids are computed again, twice:
//! their exponentials cost little beside reading 3 and writing 2 elements.

use super::simd::{Simd, dispatched, exp, map_vectors};
use super::{for_rows, span, span_of_parts};
use crate::device::with_device;

/// σ(x). Below −88, where e^−x is beyond f32, it is what it is there: 6e-39.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let power = exp(simd, simd.min_f32s(simd.sub_f32s(simd.splat_f32s(0.0), x), simd.splat_f32s(88.0)));
    simd.div_f32s(one, simd.add_f32s(one, power))
}

#[inline(always)]
fn forward_rows<S: Simd>(simd: S, out: &mut [f32], gate_up: &[f32], cols: usize) {
    for (out, row) in out.chunks_exact_mut(cols).zip(gate_up.chunks_exact(2 * cols)) {
        let (gate, up) = row.split_at(cols);
        map_vectors(
            simd,
            out,
            [gate, up],
            #[inline(always)]
            |_, [g, u]| simd.mul_f32s(simd.mul_f32s(g, sigmoid(simd, g)), u),
        );
    }
}
dispatched!(forward_rows(out: &mut [f32], gate_up: &[f32], cols: usize));

#[inline(always)]
fn backward_rows<S: Simd>(simd: S, d_gate_up: &mut [f32], d_out: &[f32], gate_up: &[f32], cols: usize) {
    let rows = d_gate_up.chunks_exact_mut(2 * cols).zip(gate_up.chunks_exact(2 * cols));
    for ((d_row, row), dy) in rows.zip(d_out.chunks_exact(cols)) {
        let ((d_gate, d_up), (gate, up)) = (d_row.split_at_mut(cols), row.split_at(cols));
        map_vectors(
            simd,
            d_gate,
            [dy, gate, up],
            #[inline(always)]
            |_, [dy, g, u]| {
                let (s, one) = (sigmoid(simd, g), simd.splat_f32s(1.0));
                let slope = simd.mul_f32s(s, simd.mul_add_e_f32s(g, simd.sub_f32s(one, s), one));
                simd.mul_f32s(simd.mul_f32s(dy, u), slope)
            },
        );
        map_vectors(
            simd,
            d_up,
            [dy, gate],
            #[inline(always)]
            |_, [dy, g]| simd.mul_f32s(dy, simd.mul_f32s(g, sigmoid(simd, g))),
        );
    }
}
dispatched!(backward_rows(d_gate_up: &mut [f32], d_out: &[f32], gate_up: &[f32], cols: usize));

/// An exponential costs as much as so many elements of simple arithmetic.
const WORK: usize = 4;

/// out [rows, cols] from gate_up [rows, 2 · cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_swiglu(
    device: u32,
    out: u32,
    out_at: f64,
    gate_up: u32,
    gate_up_at: f64,
    rows: u32,
    cols: u32,
) -> i32 {
    with_device(device, |d| {
        let ([out], [gate_up]) = d
            .tensors
            .operands([span(out, out_at, rows, cols)], [span_of_parts(gate_up, gate_up_at, rows, 2, cols)])?;
        let cols = cols as usize;
        for_rows(&mut d.pool, out, cols, WORK * gate_up.len(), |first, out| {
            let gate_up = &gate_up[first * 2 * cols..][..2 * out.len()];
            forward_rows::dispatch(out, gate_up, cols);
        });
        Ok(())
    })
}

/// d_gate_up [rows, 2 · cols] from d_out [rows, cols] and gate_up [rows, 2 · cols].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_swiglu_backward(
    device: u32,
    d_gate_up: u32,
    d_gate_up_at: f64,
    d_out: u32,
    d_out_at: f64,
    gate_up: u32,
    gate_up_at: f64,
    rows: u32,
    cols: u32,
) -> i32 {
    with_device(device, |d| {
        let ([d_gate_up], [d_out, gate_up]) = d.tensors.operands(
            [span_of_parts(d_gate_up, d_gate_up_at, rows, 2, cols)],
            [span(d_out, d_out_at, rows, cols), span_of_parts(gate_up, gate_up_at, rows, 2, cols)],
        )?;
        let cols = cols as usize;
        for_rows(&mut d.pool, d_gate_up, 2 * cols, 2 * WORK * gate_up.len(), |first, d_gate_up| {
            let gate_up = &gate_up[first * 2 * cols..][..d_gate_up.len()];
            let d_out = &d_out[first * cols..][..d_gate_up.len() / 2];
            backward_rows::dispatch(d_gate_up, d_out, gate_up, cols);
        });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formula() {
        for cols in [1, 5, 16, 100] {
            let value = |i: usize| ((i * 7919) % 101) as f32 / 8.0 - 6.0;
            let mut gate_up: Vec<f32> = (0..6 * cols).map(value).collect();
            gate_up[0] = -200.0;
            gate_up[2 * cols] = 200.0;
            let d_out: Vec<f32> = (0..3 * cols).map(|i| value(i + 17)).collect();
            let (mut out, mut d_gate_up) = (vec![0.0; 3 * cols], vec![9.0; 6 * cols]);
            forward_rows::dispatch(&mut out, &gate_up, cols);
            backward_rows::dispatch(&mut d_gate_up, &d_out, &gate_up, cols);
            let close =
                |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} {b}");
            for (t, i) in (0..3).flat_map(|t| (0..cols).map(move |i| (t, i))) {
                let at = 2 * t * cols + i;
                let (g, u) = (f64::from(gate_up[at]), f64::from(gate_up[at + cols]));
                let (s, dy) = (1.0 / (1.0 + (-g).exp()), f64::from(d_out[t * cols + i]));
                close(out[t * cols + i], g * s * u);
                close(d_gate_up[at], dy * u * s * (1.0 + g * (1.0 - s)));
                close(d_gate_up[at + cols], dy * g * s);
            }
        }
    }
}
