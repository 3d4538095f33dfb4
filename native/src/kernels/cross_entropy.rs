//! Loss and its gradient, row by row.  logits: [rows, V]   losses: [T, 1]
//! losses[t] = weight · (logsumexp(logits) − logits[target]), and logits become lossScale · weight · (softmax − onehot), with
//! weight = scale · weights[t]. With a z-loss the gradient is that of loss + weight · z_loss · logsumexp². All is 0 where weight is,
//! without a look at the logits.
//!
//! A row stays in the first cache for its three passes (maximum; exponentials and their sum; division), so memory
//! sees 2 · rows · V elements and the processor rows · V exponentials.

use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, exp, for_each_vector};
use super::{chunks_for, span};
use crate::device::with_device;
use crate::pool::Pool;

/// Elements that are worth a thread's while; exponentials cost more than simple arithmetic.
const GRAIN: usize = 4 * 1024;

/// One row: returns the unscaled loss and leaves the gradient times `gradient_scale`.
#[inline(always)]
fn row_loss<S: Simd>(simd: S, row: &mut [f32], target: usize, gradient_scale: f32, z_loss: f32) -> f32 {
    let logit = row[target];
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for_each_vector(
        simd,
        row,
        f32::NEG_INFINITY,
        #[inline(always)]
        |x| max = simd.max_f32s(max, x),
    );
    let max = simd.reduce_max_f32s(max);
    let shift = simd.splat_f32s(max);
    let (vectors, tail) = S::as_mut_simd_f32s(row);
    let mut total = simd.splat_f32s(0.0);
    for vector in vectors.iter_mut() {
        *vector = exp(simd, simd.sub_f32s(*vector, shift));
        total = simd.add_f32s(total, *vector);
    }
    let mut sum = simd.reduce_sum_f32s(total);
    for value in tail.iter_mut() {
        *value = (*value - max).exp();
        sum += *value;
    }
    let log_sum = max + sum.ln();
    let factor = gradient_scale * (1.0 + 2.0 * z_loss * log_sum) / sum;
    let factors = simd.splat_f32s(factor);
    for vector in vectors.iter_mut() {
        *vector = simd.mul_f32s(*vector, factors);
    }
    tail.iter_mut().for_each(|value| *value *= factor);
    row[target] -= gradient_scale;
    log_sum - logit
}
dispatched!(row_loss(row: &mut [f32], target: usize, gradient_scale: f32, z_loss: f32) -> f32);

/// The whole kernel; `losses`, `targets` and `weights` are those of the rows.
fn cross_entropy(
    pool: &mut Pool,
    logits: &mut [f32],
    losses: &mut [f32],
    targets: &[u32],
    weights: &[f32],
    [scale, loss_scale, z_loss]: [f32; 3],
) {
    let (rows, work) = (losses.len(), logits.len());
    let cols = work / rows;
    let chunks = chunks_for(pool, work, GRAIN).min(rows);
    let (logits, losses) = (Shared::new(logits), Shared::new(losses));
    pool.run(chunks, |i| {
        for row in part_of(rows, 1, chunks, i) {
            // SAFETY: rows of different chunks differ.
            let (logits, loss) =
                unsafe { (logits.part(row * cols..(row + 1) * cols), losses.part(row..row + 1)) };
            let target = targets[row] as usize;
            let weight = scale * weights[row];
            if weight == 0.0 {
                logits.fill(0.0);
                loss[0] = 0.0;
            } else {
                loss[0] = weight * row_loss::dispatch(logits, target, weight * loss_scale, z_loss);
            }
        }
    });
}

/// For rows `first_row` … of the batch: logits [rows, cols] and losses[first_row …] of [total, 1]. Element 1 of `control` is
/// the loss scale.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_cross_entropy(
    device: u32,
    logits: u32,
    logits_at: f64,
    losses: u32,
    losses_at: f64,
    control: u32,
    control_at: f64,
    batch: u32,
    first_row: u32,
    rows: u32,
    cols: u32,
    scale: f64,
    z_loss: f64,
) -> i32 {
    with_device(device, |d| {
        let batch = d.batches.get(batch)?;
        let rows_of_batch = first_row as usize..first_row as usize + rows as usize;
        let targets = batch.targets.get(rows_of_batch.clone()).ok_or("rows beyond the end of the batch")?;
        let weights = &batch.weights[rows_of_batch];
        if let Some(target) = targets.iter().find(|&&target| target >= cols) {
            return Err(format!("target {target} is not in a vocabulary of {cols}"));
        }
        let ([logits, losses], [control]) = d.tensors.operands(
            [span(logits, logits_at, rows, cols), span(losses, losses_at + f64::from(first_row), rows, 1)],
            [span(control, control_at, 1, 4)],
        )?;
        if rows > 0 {
            let factors = [scale as f32, control[1], z_loss as f32];
            cross_entropy(&mut d.pool, logits, losses, targets, weights, factors);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formula() {
        for (rows, cols, z_loss) in [(1, 1, 0.0), (3, 97, 0.0), (3, 97, 0.01), (5, 4096, 0.0), (5, 4096, 0.1)]
        {
            let x: Vec<f32> = (0..rows * cols).map(|i| (i * 7919 % 1009) as f32 / 60.0 - 8.0).collect();
            let targets: Vec<u32> = (0..rows as u32).map(|row| row * 31 % cols as u32).collect();
            let weights: Vec<f32> = (0..rows).map(|row| [1.0, 0.0, 3.0][row % 3]).collect();
            let (mut logits, mut losses) = (x.clone(), vec![0.0; rows]);
            let pool = &mut Pool::new(2).unwrap();
            cross_entropy(pool, &mut logits, &mut losses, &targets, &weights, [0.5, 4.0, z_loss as f32]);
            for row in 0..rows {
                let x = &x[row * cols..][..cols];
                let lse = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                let target = targets[row] as usize;
                let weight = 0.5 * f64::from(weights[row]);
                let loss = weight * (lse - f64::from(x[target]));
                assert!((f64::from(losses[row]) - loss).abs() < 1e-5 * (1.0 + loss));
                for (i, &x) in x.iter().enumerate() {
                    let p = (f64::from(x) - lse).exp();
                    let expected = 4.0 * weight * (p * (1.0 + 2.0 * z_loss * lse) - f64::from(i == target));
                    assert!((f64::from(logits[row * cols + i]) - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_in_the_loss() {
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 40, 96] {
                let mut logits = vec![0.5; 97];
                logits[place] = bad;
                let mut losses = [0.0];
                let pool = &mut Pool::new(1).unwrap();
                cross_entropy(pool, &mut logits, &mut losses, &[3], &[1.0], [1.0, 1.0, 0.0]);
                assert!(!losses[0].is_finite(), "{bad} at {place}");
            }
        }
    }

    #[test]
    fn what_does_not_count_is_not_looked_at() {
        let (mut logits, mut losses) = ([f32::NAN; 97], [1.0]);
        let pool = &mut Pool::new(1).unwrap();
        cross_entropy(pool, &mut logits, &mut losses, &[3], &[0.0], [1.0, 1.0, 0.1]);
        assert_eq!((losses, logits), ([0.0], [0.0; 97]));
    }
}
