//! What happens to all parameters at once: the sum of the losses, the norm of the gradients, whether the step counts,
//! and Adam.
//! All arrays have n elements, in one layout.
//!
//! Sums go over blocks of fixed size, vectors within a block, f64 over blocks: the same bits for any number of threads.
//! The norm reads n elements; Adam is one pass that reads 4n and writes 3n, with a root and a division for each.

use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, dot, load, store};
use super::{GRAIN, chunks_for, flat, span};
use crate::device::with_device;
use crate::pool::Pool;
use std::ops::Range;

/// Elements of a block of a sum.
const BLOCK: usize = 4096;

#[inline(always)]
fn squares<S: Simd>(simd: S, values: &[f32]) -> f32 {
    dot(simd, values, values)
}
dispatched!(squares(values: &[f32]) -> f32);

/// Σ g², where `zeros` are parts known to be zero, in order.
fn sum_of_squares(pool: &mut Pool, gradients: &[f32], zeros: &[Range<usize>]) -> f64 {
    let blocks = gradients.len().div_ceil(BLOCK);
    let mut sums = vec![0f32; blocks];
    let chunks = chunks_for(pool, gradients.len(), 2 * GRAIN);
    let shared = Shared::new(&mut sums);
    pool.run(chunks, |i| {
        for block in part_of(blocks, 1, chunks, i) {
            let range = block * BLOCK..((block + 1) * BLOCK).min(gradients.len());
            let after = zeros.partition_point(|zero| zero.start <= range.start);
            if after > 0 && zeros[after - 1].end >= range.end {
                continue;
            }
            let sum = squares::dispatch(&gradients[range]);
            // SAFETY: blocks of different chunks differ.
            unsafe { shared.part(block..block + 1)[0] = sum };
        }
    });
    sums.iter().map(|&sum| f64::from(sum)).sum()
}

/// The numbers of one update, the same for all elements.
#[derive(Clone, Copy)]
struct Update {
    /// on the gradient: clipping, and the loss scale undone
    gradient: f32,
    beta1: f32,
    /// 1 − beta1, and what it becomes after the subtraction in f64
    rest1: f32,
    beta2: f32,
    rest2: f32,
    /// learning rate / (1 − beta1^step)
    rate: f32,
    /// 1 / sqrt(1 − beta2^step)
    root: f32,
    epsilon: f32,
    /// learning rate · weight decay
    decay: f32,
}

/// m = β1·m + (1 − β1)·g   v = β2·v + (1 − β2)·g²   p −= rate · m / (sqrt(v) · root + ε) + decay · p
#[inline(always)]
fn adam_vector<S: Simd>(simd: S, [p, m, v, g]: [S::f32s; 4], u: &Update) -> [S::f32s; 3] {
    let g = simd.mul_f32s(g, simd.splat_f32s(u.gradient));
    let m = simd.mul_add_e_f32s(m, simd.splat_f32s(u.beta1), simd.mul_f32s(g, simd.splat_f32s(u.rest1)));
    let squares = simd.mul_f32s(simd.mul_f32s(g, g), simd.splat_f32s(u.rest2));
    let v = simd.mul_add_e_f32s(v, simd.splat_f32s(u.beta2), squares);
    let divisor = simd.mul_add_e_f32s(simd.sqrt_f32s(v), simd.splat_f32s(u.root), simd.splat_f32s(u.epsilon));
    let step = simd.div_f32s(simd.mul_f32s(m, simd.splat_f32s(u.rate)), divisor);
    let p = simd.mul_add_e_f32s(p, simd.splat_f32s(-u.decay), p);
    [simd.sub_f32s(p, step), m, v]
}

/// A part of all arrays; `g` is None where it is zero.
#[inline(always)]
fn adam_part<S: Simd>(simd: S, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: Option<&[f32]>, u: &Update) {
    let n = p.len();
    assert!(m.len() == n && v.len() == n && g.is_none_or(|g| g.len() == n));
    let zero = simd.splat_f32s(0.0);
    let mut i = 0;
    while i + S::F32_LANES <= n {
        // SAFETY: a vector that ends at n or before.
        unsafe {
            let (at_p, at_m, at_v) = (p.as_mut_ptr().add(i), m.as_mut_ptr().add(i), v.as_mut_ptr().add(i));
            let g = if let Some(g) = g { load(simd, g.as_ptr().add(i)) } else { zero };
            let old = [load(simd, at_p), load(simd, at_m), load(simd, at_v), g];
            let [new_p, new_m, new_v] = adam_vector(simd, old, u);
            store(simd, at_p, new_p);
            store(simd, at_m, new_m);
            store(simd, at_v, new_v);
        }
        i += S::F32_LANES;
    }
    if i < n {
        let (p, m, v) = (&mut p[i..], &mut m[i..], &mut v[i..]);
        let old = [
            simd.partial_load_f32s(p),
            simd.partial_load_f32s(m),
            simd.partial_load_f32s(v),
            if let Some(g) = g { simd.partial_load_f32s(&g[i..]) } else { zero },
        ];
        let [new_p, new_m, new_v] = adam_vector(simd, old, u);
        simd.partial_store_f32s(p, new_p);
        simd.partial_store_f32s(m, new_m);
        simd.partial_store_f32s(v, new_v);
    }
}
dispatched!(adam_part(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: Option<&[f32]>, u: &Update));

/// The whole update, where `zeros` are parts of g known to be zero, in order.
fn adam(pool: &mut Pool, [p, m, v]: [&mut [f32]; 3], g: &[f32], zeros: &[Range<usize>], update: Update) {
    let n = p.len();
    let chunks = chunks_for(pool, n, GRAIN / 2);
    let (p, m, v) = (Shared::new(p), Shared::new(m), Shared::new(v));
    pool.run(chunks, |i| {
        let part = part_of(n, 64, chunks, i);
        let go = |range: Range<usize>, is_zero: bool| {
            // SAFETY: parts of different chunks do not overlap.
            let (p, m, v) = unsafe { (p.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
            adam_part::dispatch(p, m, v, if is_zero { None } else { Some(&g[range]) }, &update);
        };
        let mut at = part.start;
        for zero in zeros {
            let zero = zero.start.clamp(at, part.end)..zero.end.clamp(at, part.end);
            if !zero.is_empty() {
                go(at..zero.start, false);
                at = zero.end;
                go(zero, true);
            }
        }
        go(at..part.end, false);
    });
}

/// Columns of a row of metrics, of `control` (see device/device.ts).
const LOSS: usize = 0;
const NORM: usize = 1;
const APPLIED: usize = 2;
const ADAM_STEP: usize = 0;
const LOSS_SCALE: usize = 1;
pub const GRADIENT_FACTOR: usize = 3;

/// metrics.loss = Σ losses, or += with `accumulate`; `metrics` names a row of four.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_sum_loss(
    device: u32,
    metrics: u32,
    metrics_at: f64,
    losses: u32,
    losses_at: f64,
    rows: u32,
    accumulate: u32,
) -> i32 {
    with_device(device, |d| {
        let ([metrics], [losses]) =
            d.tensors.operands([span(metrics, metrics_at, 1, 4)], [span(losses, losses_at, rows, 1)])?;
        let start = if accumulate != 0 { f64::from(metrics[LOSS]) } else { 0.0 };
        metrics[LOSS] = losses.iter().fold(start, |sum, &loss| sum + f64::from(loss)) as f32;
        Ok(())
    })
}

/// metrics.gradNorm = sqrt(Σ g²) / lossScale over gradients [1, len].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_grad_norm(
    device: u32,
    metrics: u32,
    metrics_at: f64,
    gradients: u32,
    gradients_at: f64,
    len: f64,
    control: u32,
    control_at: f64,
) -> i32 {
    with_device(device, |d| {
        let gradients = flat(gradients, gradients_at, len);
        let zeros = d.tensors.zeros_within(gradients)?;
        let ([metrics], [gradients, control]) = d
            .tensors
            .operands([span(metrics, metrics_at, 1, 4)], [gradients, span(control, control_at, 1, 4)])?;
        let norm = sum_of_squares(&mut d.pool, gradients, &zeros).sqrt() / f64::from(control[LOSS_SCALE]);
        metrics[NORM] = norm as f32;
        Ok(())
    })
}

/// Sets metrics.applied, and in `control` what updates multiply gradients by: −1 when the loss or norm is not finite.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_decide_step(
    device: u32,
    metrics: u32,
    metrics_at: f64,
    control: u32,
    control_at: f64,
    grad_clip: f64,
) -> i32 {
    with_device(device, |d| {
        let ([metrics, control], []) =
            d.tensors.operands([span(metrics, metrics_at, 1, 4), span(control, control_at, 1, 4)], [])?;
        let applied = metrics[LOSS].is_finite() && metrics[NORM].is_finite();
        metrics[APPLIED] = f32::from(applied);
        if !applied {
            control[GRADIENT_FACTOR] = -1.0;
            return Ok(());
        }
        control[ADAM_STEP] += 1.0;
        let norm = f64::from(metrics[NORM]);
        let clip = if grad_clip > 0.0 && norm > grad_clip { grad_clip / norm } else { 1.0 };
        control[GRADIENT_FACTOR] = (clip / f64::from(control[LOSS_SCALE])) as f32;
        Ok(())
    })
}

/// One update of params, m and v [1, len], unless `mg_cpu_decide_step` decided against it.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_adam(
    device: u32,
    params: u32,
    params_at: f64,
    m: u32,
    m_at: f64,
    v: u32,
    v_at: f64,
    gradients: u32,
    gradients_at: f64,
    len: f64,
    control: u32,
    control_at: f64,
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
) -> i32 {
    with_device(device, |d| {
        let gradients = flat(gradients, gradients_at, len);
        let zeros = d.tensors.zeros_within(gradients)?;
        let ([p, m, v], [g, control]) = d.tensors.operands(
            [flat(params, params_at, len), flat(m, m_at, len), flat(v, v_at, len)],
            [gradients, span(control, control_at, 1, 4)],
        )?;
        if control[GRADIENT_FACTOR] < 0.0 {
            return Ok(());
        }
        let step = f64::from(control[ADAM_STEP]);
        let update = Update {
            gradient: control[GRADIENT_FACTOR],
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            rate: (learning_rate / (1.0 - beta1.powf(step))) as f32,
            root: (1.0 / (1.0 - beta2.powf(step)).sqrt()) as f32,
            epsilon: epsilon as f32,
            decay: (learning_rate * weight_decay) as f32,
        };
        adam(&mut d.pool, [p, m, v], g, &zeros, update);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + salt) * 7919 % 1009) as f32 / 300.0 - 1.7).collect()
    }

    const EXAMPLE: Update = Update {
        gradient: 0.5,
        beta1: 0.85,
        rest1: 0.15,
        beta2: 0.99,
        rest2: 0.01,
        rate: 0.02,
        root: 3.0,
        epsilon: 1e-8,
        decay: 0.001,
    };

    #[test]
    fn sums_do_not_depend_on_the_threads() {
        for len in [0, 1, 97, 4096, 100_001] {
            let g = noise(len, 3);
            let expected: f64 = g.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
            let one = sum_of_squares(&mut Pool::new(1).unwrap(), &g, &[]);
            assert!((one - expected).abs() <= 1e-6 * expected);
            assert_eq!(one.to_bits(), sum_of_squares(&mut Pool::new(3).unwrap(), &g, &[]).to_bits());
        }
    }

    #[test]
    fn adam_agrees_with_the_formula() {
        for len in [1, 17, 50_003] {
            let (p, m, g) = (noise(len, 1), noise(len, 2), noise(len, 3));
            let v: Vec<f32> = noise(len, 4).iter().map(|v| v * v).collect();
            let update = EXAMPLE;
            let (mut p2, mut m2, mut v2) = (p.clone(), m.clone(), v.clone());
            adam(&mut Pool::new(2).unwrap(), [&mut p2, &mut m2, &mut v2], &g, &[], update);
            for i in 0..len {
                let g = 0.5 * g[i];
                let new_m = 0.85 * m[i] + 0.15 * g;
                let new_v = 0.99 * v[i] + 0.01 * g * g;
                let expected = p[i] - 0.001 * p[i] - 0.02 * new_m / (3.0 * new_v.sqrt() + 1e-8);
                assert!((m2[i] - new_m).abs() < 1e-6 && (v2[i] - new_v).abs() < 1e-6);
                assert!((p2[i] - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{} {expected}", p2[i]);
            }
        }
    }

    #[test]
    fn zeros_that_are_known_change_nothing() {
        let zeros = [5_000..20_000, 25_000..25_001, 40_000..50_003];
        let mut g = noise(50_003, 3);
        zeros.iter().for_each(|zero| g[zero.clone()].fill(0.0));
        for threads in [1, 3] {
            let pool = &mut Pool::new(threads).unwrap();
            assert_eq!(sum_of_squares(pool, &g, &[]).to_bits(), sum_of_squares(pool, &g, &zeros).to_bits());
            let update = |zeros: &[Range<usize>], pool: &mut Pool| {
                let (mut p, mut m, mut v) = (noise(50_003, 1), noise(50_003, 2), vec![0.5; 50_003]);
                adam(pool, [&mut p, &mut m, &mut v], &g, zeros, EXAMPLE);
                [p, m, v]
            };
            assert_eq!(update(&[], pool), update(&zeros, pool));
        }
    }
}
