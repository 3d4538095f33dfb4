//! Draws the next token of each row.  logits: [N, V]
//!
//! Penalties for what was said; suppressed ids out; top-k; softmax at the temperature; top-p; min-p; then the first id, in
//! the order of ids, whose cumulative probability exceeds the draw. Rows are shared out among the threads. V exponentials a row; top-k selects, top-p
//! sorts the few probabilities that can belong to the nucleus.

use super::attention::with_scratch;
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, exp, for_each_vector, map_vectors};
use super::{chunks_for, span};
use crate::device::with_device;
use crate::tensors::{as_u32s, as_u32s_mut};

/// Mixes 32 bits (the `lowbias32` finaliser, as in device/random.ts).
#[inline(always)]
fn hash32(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// 24 bits of draw number `counter` of a mixed seed.
#[inline(always)]
pub fn draw_bits(mixed_seed: u32, counter: u32) -> u32 {
    hash32(mixed_seed ^ hash32(counter ^ 0x85eb_ca6b)) >> 8
}

/// The same, uniform in [0, 1); bit for bit that of device/random.ts.
fn uniform(mixed_seed: u32, counter: u32) -> f64 {
    f64::from(draw_bits(mixed_seed, counter)) / f64::from(1 << 24)
}

/// Set in an id's count where the prompt has the id, as in device/device.ts.
const IN_PROMPT: u32 = 1 << 31;

/// Columns of a sequence's settings, as `samplingRow` of device/sampling.ts writes them.
const SETTINGS: usize = 24;

/// How a sequence is drawn, see device/device.ts.
struct Sampling {
    temperature: f32,
    top_k: usize,
    top_p: f64,
    min_p: f32,
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// runs: first, and the one after the last
    suppressed: [[f32; 2]; 8],
}

impl Sampling {
    fn of_row(row: &[f32]) -> Self {
        Sampling {
            temperature: row[0],
            top_k: row[1] as usize,
            top_p: f64::from(row[2]),
            min_p: row[3],
            repetition: row[4],
            frequency: row[5],
            presence: row[6],
            suppressed: std::array::from_fn(|run| [row[8 + 2 * run], row[9 + 2 * run]]),
        }
    }
}

/// Lowers the logits of ids that were said so often.
fn penalize(logits: &mut [f32], said: &[u32], sampling: &Sampling) {
    for (logit, &count) in logits.iter_mut().zip(said).filter(|(_, count)| **count > 0) {
        let drawn = count & !IN_PROMPT;
        let repeated = if *logit > 0.0 { *logit / sampling.repetition } else { *logit * sampling.repetition };
        let presence = if drawn > 0 { sampling.presence } else { 0.0 };
        *logit = repeated - (sampling.frequency * drawn as f32 + presence);
    }
}

/// p = exp((p − max) / temperature), in place.
#[inline(always)]
fn soften<S: Simd>(simd: S, p: &mut [f32], max: f32, temperature: f32) {
    let (max, factor) = (simd.splat_f32s(max), simd.splat_f32s(1.0 / temperature));
    map_vectors(
        simd,
        p,
        [],
        #[inline(always)]
        |x, []| exp(simd, simd.mul_f32s(simd.sub_f32s(x, max), factor)),
    );
}
dispatched!(soften(p: &mut [f32], max: f32, temperature: f32));

#[inline(always)]
fn maximum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for_each_vector(
        simd,
        values,
        f32::NEG_INFINITY,
        #[inline(always)]
        |x| max = simd.max_f32s(max, x),
    );
    simd.reduce_max_f32s(max)
}
dispatched!(maximum(values: &[f32]) -> f32);

/// Probabilities are summed in blocks of this many, so that only one block is walked through element by element.
const BLOCK: usize = 64;

/// The token that `draw` in [0, 1) picks. NaN and −∞ are never drawn; where nothing else is left, token 0. Changes `p`,
/// which holds logits; `spare` is as long.
fn draw_token(p: &mut [f32], spare: &mut [f32], draw: f64, sampling: &Sampling) -> usize {
    for &[first, end] in &sampling.suppressed {
        let end = (end as usize).min(p.len());
        p[(first as usize).min(end)..end].fill(f32::NEG_INFINITY);
    }
    // NaN is never drawn, and spoils no sum.
    p.iter_mut().filter(|logit| logit.is_nan()).for_each(|logit| *logit = f32::NEG_INFINITY);
    let max = maximum::dispatch(p);
    let greedy = p.iter().position(|&logit| logit == max).unwrap_or(0);
    if sampling.temperature <= 0.0 {
        return greedy;
    }
    if sampling.top_k > 0 && sampling.top_k < p.len() {
        spare.copy_from_slice(p);
        let (_, &mut kth, _) = spare.select_nth_unstable_by(sampling.top_k - 1, |a, b| b.total_cmp(a));
        p.iter_mut().filter(|logit| **logit < kth).for_each(|logit| *logit = f32::NEG_INFINITY);
    }
    soften::dispatch(p, max, sampling.temperature);
    if sampling.top_p < 1.0 {
        keep_nucleus(p, spare, sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        // the most probable one is exp(0)
        p.iter_mut().filter(|p| **p < sampling.min_p).for_each(|p| *p = 0.0);
    }
    let sum = |p: &[f32]| p.iter().map(|&p| f64::from(p)).sum::<f64>();
    let total: f64 = p.chunks(BLOCK).map(sum).sum();
    let (threshold, mut cumulative) = (draw * total, 0.0);
    for (block, p) in p.chunks(BLOCK).enumerate() {
        let after = cumulative + sum(p);
        if after > threshold {
            let mut last = greedy;
            for (i, &p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
                last = block * BLOCK + i;
                cumulative += f64::from(p);
                if cumulative > threshold {
                    break;
                }
            }
            return last;
        }
        cumulative = after;
    }
    greedy
}

/// Sets to 0 what is smaller than the last of the largest values that together reach `top_p` of the sum.
fn keep_nucleus(p: &mut [f32], spare: &mut [f32], top_p: f64) {
    let total: f64 = p.iter().map(|&p| f64::from(p)).sum();
    // All values below this together are less than the 1 − top_p that may be left out, so the nucleus ends above it.
    let least = ((1.0 - top_p) * total / p.len() as f64) as f32 * 0.999;
    let mut count = 0;
    for &value in p.iter().filter(|p| **p >= least) {
        spare[count] = value;
        count += 1;
    }
    let candidates = &mut spare[..count];
    candidates.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut kept, mut threshold) = (0.0, 0.0);
    for &value in &*candidates {
        threshold = value;
        kept += f64::from(value);
        if kept >= top_p * total {
            break;
        }
    }
    p.iter_mut().filter(|p| **p < threshold).for_each(|p| *p = 0.0);
}

/// tokens[r] and output[r] become the draw of row r of logits [rows, cols], positions[r] grows by one. `seeds` is u32
/// [sequences], `settings` [sequences, 24], `output` names the row of a step. `said`, u32 [sequences, said_cols], counts
/// what is drawn where it is as wide as the logits, and penalties follow from it. Each row has a sequence of its own.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_sample(
    device: u32,
    tokens: u32,
    tokens_at: f64,
    positions: u32,
    positions_at: f64,
    sequences: u32,
    sequences_at: f64,
    logits: u32,
    logits_at: f64,
    output: u32,
    output_at: f64,
    seeds: u32,
    seeds_at: f64,
    settings: u32,
    settings_at: f64,
    said: u32,
    said_at: f64,
    rows: u32,
    cols: u32,
    sequence_count: u32,
    said_cols: u32,
) -> i32 {
    with_device(device, |d| {
        let ([tokens, positions, output, said], [sequences, logits, seeds, settings]) = d.tensors.operands(
            [
                span(tokens, tokens_at, rows, 1),
                span(positions, positions_at, rows, 1),
                span(output, output_at, rows, 1),
                span(said, said_at, sequence_count, said_cols),
            ],
            [
                span(sequences, sequences_at, rows, 1),
                span(logits, logits_at, rows, cols),
                span(seeds, seeds_at, sequence_count, 1),
                span(settings, settings_at, sequence_count, SETTINGS as u32),
            ],
        )?;
        let (rows, cols) = (rows as usize, cols as usize);
        let (sequences, seeds) = (as_u32s(sequences), as_u32s(seeds));
        if cols == 0 || sequences.iter().any(|&sequence| sequence >= sequence_count) {
            return Err("sampling needs logits, and a seed for each sequence".into());
        }
        let (tokens, positions, said) = (as_u32s_mut(tokens), as_u32s_mut(positions), as_u32s_mut(said));
        let said = if said_cols as usize == cols { said } else { &mut [] };
        let chunks = chunks_for(&d.pool, rows * cols, 4 * 1024).min(rows);
        let drawn = Shared::new(as_u32s_mut(output));
        d.pool.run(chunks, |i| {
            for row in part_of(rows, 1, chunks, i) {
                let sequence = sequences[row] as usize;
                let draw = uniform(seeds[sequence], positions[row]);
                let sampling = Sampling::of_row(&settings[sequence * SETTINGS..][..SETTINGS]);
                let next = with_scratch(2 * cols, |scratch| {
                    let (p, spare) = scratch.split_at_mut(cols);
                    p.copy_from_slice(&logits[row * cols..][..cols]);
                    if let Some(said) = said.get(sequence * cols..) {
                        penalize(p, said, &sampling);
                    }
                    draw_token(p, spare, draw, &sampling)
                });
                // SAFETY: rows of different chunks differ.
                unsafe { drawn.part(row..row + 1)[0] = next as u32 };
            }
        });
        // SAFETY: the job is over; nobody else holds a part.
        tokens.copy_from_slice(unsafe { drawn.part(0..rows) });
        if !said.is_empty() {
            sequences.iter().zip(&*tokens).for_each(|(&s, &id)| said[s as usize * cols + id as usize] += 1);
        }
        positions.iter_mut().for_each(|position| *position = position.wrapping_add(1));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(
        logits: &[f32],
        draw: f64,
        temperature: f32,
        top_k: usize,
        top_p: f64,
        suppressed: &[u32],
    ) -> usize {
        let mut runs = [[0.0; 2]; 8];
        runs.iter_mut().zip(suppressed).for_each(|(run, &id)| *run = [id as f32, id as f32 + 1.0]);
        let sampling = Sampling { temperature, top_k, top_p, suppressed: runs, ..PLAIN };
        draw_token(&mut logits.to_vec(), &mut vec![0.0; logits.len()], draw, &sampling)
    }

    const PLAIN: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition: 1.0,
        frequency: 0.0,
        presence: 0.0,
        suppressed: [[0.0; 2]; 8],
    };

    #[test]
    fn what_was_said_is_less_likely() {
        let mut logits = [2.0, -2.0, 2.0, 2.0, f32::NEG_INFINITY];
        let sampling = Sampling { repetition: 2.0, frequency: 0.25, presence: 0.5, ..PLAIN };
        penalize(&mut logits, &[IN_PROMPT, 2, IN_PROMPT + 1, 0, 3], &sampling);
        assert_eq!(logits, [1.0, -5.0, 0.25, 2.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn min_p_keeps_what_is_nearly_as_probable_as_the_most_probable() {
        let logits = [0.0, 2f32.ln(), 4f32.ln()];
        for (min_p, least) in [(0.2, 0), (0.3, 1), (0.6, 2), (1.0, 2)] {
            let sampling = Sampling { min_p, ..PLAIN };
            let drawn = draw_token(&mut logits.clone(), &mut [0.0; 3], 0.0, &sampling);
            assert_eq!(drawn, least, "{min_p}");
        }
    }

    #[test]
    fn random_numbers_are_those_of_the_typescript_side() {
        // From device/random.ts.
        assert_eq!(hash32(1), 1_753_845_952);
        assert_eq!(uniform(12345, 67), 1_625_867.0 / f64::from(1 << 24));
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        assert_eq!(draw(&[1.0, 3.0, 3.0, 2.0], 0.9, 0.0, 0, 1.0, &[]), 1);
        assert_eq!(draw(&[1.0, 3.0, 3.0, 2.0], 0.9, 0.0, 0, 1.0, &[1]), 2);
    }

    #[test]
    fn what_is_no_number_is_never_drawn() {
        for place in 0..40 {
            let mut logits = [1.0; 40];
            logits[place] = f32::NAN;
            for temperature in [0.0, 1.0] {
                assert_ne!(draw(&logits, 0.5, temperature, 0, 1.0, &[]), place);
                assert_ne!(draw(&logits, 0.5, temperature, 3, 0.9, &[]), place);
            }
        }
        assert_eq!(draw(&[1.0, 2.0], 0.5, 1.0, 0, 1.0, &[0, 1]), 0);
        assert_eq!(draw(&[f32::NAN, 2.0], 0.5, 1.0, 0, 1.0, &[0, 7]), 1);
        assert_eq!(draw(&[1.0, f32::INFINITY], 0.5, 1.0, 0, 1.0, &[]), 1);
    }

    #[test]
    fn absurd_settings_draw_some_token() {
        for value in [f64::NAN, f64::INFINITY, -1.0, 1e300, 1e-300] {
            assert!(draw(&[1.0, 2.0, 3.0], 0.5, value as f32, 0, 1.0, &[]) < 3);
            assert!(draw(&[1.0, 2.0, 3.0], 0.5, 1.0, value as usize, 1.0, &[]) < 3);
            assert!(draw(&[1.0, 2.0, 3.0], 0.5, 1.0, 0, value, &[]) < 3);
        }
    }

    #[test]
    fn draws_follow_the_cumulative_probabilities() {
        // Probabilities 1/7, 2/7, 4/7.
        let logits = [0.0, 2f32.ln(), 4f32.ln()];
        for (u, expected) in [(0.0, 0), (0.14, 0), (0.15, 1), (0.42, 1), (0.43, 2), (0.999_999, 2)] {
            assert_eq!(draw(&logits, u, 1.0, 0, 1.0, &[]), expected, "{u}");
        }
        assert_eq!(draw(&logits, 0.5, 1.0, 0, 1.0, &[2]), 1);
    }

    #[test]
    fn thresholds_keep_ties() {
        let logits = [0.0, 5.0, 5.0, 1.0, 5.0];
        let reached = |top_k, top_p| {
            let mut ids: Vec<usize> =
                (0..2000).map(|i| draw(&logits, f64::from(i) / 2000.0, 1.0, top_k, top_p, &[])).collect();
            ids.dedup();
            ids
        };
        assert_eq!(reached(1, 1.0), [1, 2, 4]);
        assert_eq!(reached(4, 1.0), [1, 2, 3, 4]);
        assert_eq!(reached(0, 0.1), [1, 2, 4]);
        assert_eq!(reached(0, 0.995), [1, 2, 3, 4]);
    }
}
