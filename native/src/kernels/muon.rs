//! The element-wise part of Muon (its products are matmul.rs): momentum, the polynomial of a Newton–Schulz iteration
//! without its products, and the update of the weights.
//!
//! Momentum reads 2n and writes 2n; the polynomial reads 2n² and writes n²; the update reads 2n and writes n: all are as
//! fast as memory. The trace is summed in f64 by the caller's thread: the same bits for any number of threads.

use super::adam::GRADIENT_FACTOR;
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, map_vectors};
use super::{GRAIN, LINE, chunks_for, flat, span};
use crate::device::with_device;
use crate::pool::Pool;

/// What keeps the norm of a matrix of zeros from dividing by 0.
const EPSILON: f64 = 1e-7;

/// beta·m + rest·g
#[inline(always)]
fn blend<S: Simd>(simd: S, m: S::f32s, g: S::f32s, beta: S::f32s, rest: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(m, beta, simd.mul_f32s(g, rest))
}

/// m = beta·m + rest·g   out = beta·m + rest·g, where `rest` is (1 − beta) · the factor on gradients
#[inline(always)]
fn momentum_part<S: Simd>(simd: S, out: &mut [f32], m: &mut [f32], g: &[f32], beta: f32, rest: f32) {
    let (beta, rest) = (simd.splat_f32s(beta), simd.splat_f32s(rest));
    map_vectors(
        simd,
        m,
        [g],
        #[inline(always)]
        |m, [g]| blend(simd, m, g, beta, rest),
    );
    map_vectors(
        simd,
        out,
        [m, g],
        #[inline(always)]
        |_, [m, g]| blend(simd, m, g, beta, rest),
    );
}
dispatched!(momentum_part(out: &mut [f32], m: &mut [f32], g: &[f32], beta: f32, rest: f32));

fn momentum(pool: &mut Pool, out: &mut [f32], m: &mut [f32], g: &[f32], beta: f64, factor: f32) {
    let n = out.len();
    let chunks = chunks_for(pool, n, GRAIN / 2);
    let (out, m) = (Shared::new(out), Shared::new(m));
    let rest = ((1.0 - beta) * f64::from(factor)) as f32;
    pool.run(chunks, |i| {
        let part = part_of(n, LINE, chunks, i);
        // SAFETY: parts of different chunks do not overlap.
        let (out, m) = unsafe { (out.part(part.clone()), m.part(part.clone())) };
        momentum_part::dispatch(out, m, &g[part], beta as f32, rest);
    });
}

/// out = c1·a + c2·a2
#[inline(always)]
fn combine<S: Simd>(simd: S, out: &mut [f32], a: &[f32], a2: &[f32], c1: f32, c2: f32) {
    let (c1, c2) = (simd.splat_f32s(c1), simd.splat_f32s(c2));
    map_vectors(
        simd,
        out,
        [a, a2],
        #[inline(always)]
        |_, [a, a2]| simd.mul_add_e_f32s(a, c1, simd.mul_f32s(a2, c2)),
    );
}
dispatched!(combine(out: &mut [f32], a: &[f32], a2: &[f32], c1: f32, c2: f32));

/// out = s · (c0·I + c1·s²·a + c2·s⁴·a2), all [n, n]; see device/device.ts.
fn matrix_polynomial(
    pool: &mut Pool,
    out: &mut [f32],
    a: &[f32],
    a2: &[f32],
    n: usize,
    c: [f64; 3],
    normalize: bool,
) {
    let trace: f64 = (0..n).map(|i| f64::from(a[i * n + i])).sum();
    let s = if normalize { 1.0 / (trace.max(0.0).sqrt() + EPSILON) } else { 1.0 };
    let (c0, c1, c2) = ((s * c[0]) as f32, (s.powi(3) * c[1]) as f32, (s.powi(5) * c[2]) as f32);
    let chunks = chunks_for(pool, n * n, GRAIN).min(n.max(1));
    let out = Shared::new(out);
    pool.run(chunks, |i| {
        let rows = part_of(n, 1, chunks, i);
        let part = rows.start * n..rows.end * n;
        // SAFETY: parts of different chunks do not overlap.
        let out = unsafe { out.part(part.clone()) };
        combine::dispatch(out, &a[part.clone()], &a2[part], c1, c2);
        for row in rows.clone() {
            out[(row - rows.start) * n + row] += c0;
        }
    });
}

/// p −= rate · u + decay · p, where `cautious` decays only what has the sign of its update
#[inline(always)]
fn update_part<S: Simd>(simd: S, p: &mut [f32], u: &[f32], rate: f32, decay: f32, cautious: bool) {
    let (rate, decay, zero) = (simd.splat_f32s(-rate), simd.splat_f32s(-decay), simd.splat_f32s(0.0));
    map_vectors(
        simd,
        p,
        [u],
        #[inline(always)]
        |p, [u]| {
            let decayed = simd.mul_add_e_f32s(p, decay, p);
            let same_sign = simd.greater_than_f32s(simd.mul_f32s(p, u), zero);
            let start = if cautious { simd.select_f32s(same_sign, decayed, p) } else { decayed };
            simd.mul_add_e_f32s(u, rate, start)
        },
    );
}
dispatched!(update_part(p: &mut [f32], u: &[f32], rate: f32, decay: f32, cautious: bool));

fn apply_update(pool: &mut Pool, p: &mut [f32], u: &[f32], rate: f64, decay: f64, cautious: bool) {
    let n = p.len();
    let chunks = chunks_for(pool, n, GRAIN);
    let p = Shared::new(p);
    pool.run(chunks, |i| {
        let part = part_of(n, LINE, chunks, i);
        // SAFETY: parts of different chunks do not overlap.
        let p = unsafe { p.part(part.clone()) };
        update_part::dispatch(p, &u[part], rate as f32, (rate * decay) as f32, cautious);
    });
}

/// Nesterov momentum of gradients [1, len]; out is 0 where `mg_cpu_decide_step` decided against the step.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_momentum(
    device: u32,
    out: u32,
    out_at: f64,
    m: u32,
    m_at: f64,
    gradients: u32,
    gradients_at: f64,
    len: f64,
    control: u32,
    control_at: f64,
    beta: f64,
) -> i32 {
    with_device(device, |d| {
        let ([out, m], [g, control]) = d.tensors.operands(
            [flat(out, out_at, len), flat(m, m_at, len)],
            [flat(gradients, gradients_at, len), span(control, control_at, 1, 4)],
        )?;
        if control[GRADIENT_FACTOR] < 0.0 {
            out.fill(0.0);
        } else {
            momentum(&mut d.pool, out, m, g, beta, control[GRADIENT_FACTOR]);
        }
        Ok(())
    })
}

/// out = s · (c0·I + c1·s²·a + c2·s⁴·square), all [n, n], with s from the trace of `a` if it is to be normalized, else 1.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_matrix_polynomial(
    device: u32,
    out: u32,
    out_at: f64,
    a: u32,
    a_at: f64,
    square: u32,
    square_at: f64,
    n: u32,
    c0: f64,
    c1: f64,
    c2: f64,
    normalize: u32,
) -> i32 {
    with_device(device, |d| {
        let ([out], [a, square]) = d
            .tensors
            .operands([span(out, out_at, n, n)], [span(a, a_at, n, n), span(square, square_at, n, n)])?;
        matrix_polynomial(&mut d.pool, out, a, square, n as usize, [c0, c1, c2], normalize != 0);
        Ok(())
    })
}

/// params [1, len] −= learning_rate · (update + weight_decay · params), unless `mg_cpu_decide_step` decided against it.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_apply_update(
    device: u32,
    params: u32,
    params_at: f64,
    update: u32,
    update_at: f64,
    len: f64,
    control: u32,
    control_at: f64,
    learning_rate: f64,
    weight_decay: f64,
    cautious: u32,
) -> i32 {
    with_device(device, |d| {
        let ([p], [u, control]) = d.tensors.operands(
            [flat(params, params_at, len)],
            [flat(update, update_at, len), span(control, control_at, 1, 4)],
        )?;
        if control[GRADIENT_FACTOR] >= 0.0 {
            apply_update(&mut d.pool, p, u, learning_rate, weight_decay, cautious != 0);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + salt) * 7919 % 1009) as f32 / 300.0 - 1.7).collect()
    }

    #[test]
    fn momentum_and_update_agree_with_the_formula_on_any_number_of_threads() {
        for len in [1, 17, 50_003] {
            let (p, m, g) = (noise(len, 1), noise(len, 2), noise(len, 3));
            let run = |threads| {
                let pool = &mut Pool::new(threads).unwrap();
                let (mut out, mut m, mut p) = (vec![0.0; len], m.clone(), p.clone());
                momentum(pool, &mut out, &mut m, &g, 0.9, 0.5);
                apply_update(pool, &mut p, &out, 0.02, 0.1, true);
                [out, m, p]
            };
            let [out, new_m, new_p] = run(1);
            for i in 0..len {
                let expected_m = 0.9 * m[i] + 0.05 * g[i];
                let expected = 0.9 * expected_m + 0.05 * g[i];
                assert!((new_m[i] - expected_m).abs() < 1e-6 && (out[i] - expected).abs() < 1e-6);
                let decay = if out[i] * p[i] > 0.0 { 0.002 * p[i] } else { 0.0 };
                assert!((new_p[i] - (p[i] - 0.02 * out[i] - decay)).abs() < 1e-6);
            }
            assert_eq!(run(3), [out, new_m, new_p]);
        }
    }

    #[test]
    fn the_polynomial_is_normalized_by_the_trace() {
        for n in [1, 5, 200] {
            let (a, a2) = (noise(n * n, 5).iter().map(|x| x * x).collect::<Vec<_>>(), noise(n * n, 6));
            let trace: f32 = (0..n).map(|i| a[i * n + i]).sum();
            for (normalize, s) in [(false, 1.0), (true, 1.0 / trace.sqrt())] {
                let mut out = vec![0.0; n * n];
                matrix_polynomial(
                    &mut Pool::new(2).unwrap(),
                    &mut out,
                    &a,
                    &a2,
                    n,
                    [3.0, -4.0, 2.0],
                    normalize,
                );
                for i in 0..n * n {
                    let identity = if i / n == i % n { 3.0 } else { 0.0 };
                    let expected = s * (identity - 4.0 * s * s * a[i] + 2.0 * s.powi(4) * a2[i]);
                    assert!(
                        (out[i] - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                        "{} {expected}",
                        out[i]
                    );
                }
            }
        }
    }
}
