//! Dropout (Srivastava et al. 2014).  out = add + x · kept / (1 − rate), n elements: element i is kept where draw i of the key
//! reaches a threshold. Nothing is stored of what was dropped: backward draws it again, two hashes an element.

use super::sample::draw_bits;
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched};
use super::{GRAIN, LINE, chunks_for, flat};
use crate::device::with_device;
use crate::pool::Pool;
use crate::tensors::Span;

/// What is dropped, as `dropAt` of device/regularization.ts says it.
#[derive(Clone, Copy)]
struct Drop {
    key: u32,
    threshold: u32,
    scale: f32,
}

/// `out` are elements `first` … of the tensor; plain code, which the compiler makes vectors of for each instruction set.
#[inline(always)]
fn drop_elements<S: Simd>(_simd: S, out: &mut [f32], add: Option<&[f32]>, first: usize, drop: Drop) {
    for (i, value) in out.iter_mut().enumerate() {
        let kept = draw_bits(drop.key, (first + i) as u32) >= drop.threshold;
        *value = if kept { *value * drop.scale } else { 0.0 };
    }
    for (value, add) in out.iter_mut().zip(add.into_iter().flatten()) {
        *value += add;
    }
}
dispatched!(drop_elements(out: &mut [f32], add: Option<&[f32]>, first: usize, drop: Drop));

/// Elements that are worked on at a time, so that they stay in the first cache.
const BLOCK: usize = 2048;

/// The whole kernel. `x`: none where it is `out`.
fn dropout(pool: &mut Pool, out: &mut [f32], x: Option<&[f32]>, add: Option<&[f32]>, drop: Drop) {
    let n = out.len();
    let chunks = chunks_for(pool, n, GRAIN);
    let out = Shared::new(out);
    pool.run(chunks, |i| {
        let part = part_of(n, LINE, chunks, i);
        for first in part.clone().step_by(BLOCK) {
            let block = first..part.end.min(first + BLOCK);
            // SAFETY: parts of different chunks do not overlap.
            let out = unsafe { out.part(block.clone()) };
            if let Some(x) = x {
                out.copy_from_slice(&x[block.clone()]);
            }
            drop_elements::dispatch(out, add.map(|add| &add[block]), first, drop);
        }
    });
}

/// Bits of `flags`.
const ELSEWHERE: u32 = 1;
const ADD: u32 = 2;

/// out from `x`, which is `out` without the flag ELSEWHERE, and with ADD `add`; `len` elements each.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_dropout(
    device: u32,
    out: u32,
    out_at: f64,
    x: u32,
    x_at: f64,
    add: u32,
    add_at: f64,
    flags: u32,
    len: f64,
    key: u32,
    threshold: u32,
    scale: f64,
) -> i32 {
    with_device(device, |d| {
        let used = |flag: u32, span: Span| if flags & flag != 0 { span } else { Span { len: 0, ..span } };
        let ([out], [x, add]) = d.tensors.operands(
            [flat(out, out_at, len)],
            [used(ELSEWHERE, flat(x, x_at, len)), used(ADD, flat(add, add_at, len))],
        )?;
        let given = |flag: u32, values| (flags & flag != 0).then_some(values);
        let drop = Drop { key, threshold, scale: scale as f32 };
        dropout(&mut d.pool, out, given(ELSEWHERE, x), given(ADD, add), drop);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formula_on_any_number_of_threads() {
        let drop = Drop { key: 12345, threshold: 3 << 22, scale: 4.0 };
        for len in [0, 1, 33, 100_003] {
            let value = |i: usize| (i * 7919 % 1009) as f32 / 300.0 + 0.1;
            let (x, add): (Vec<f32>, Vec<f32>) = (0..len).map(|i| (value(i), value(i + 7))).unzip();
            for threads in [1, 3] {
                let pool = &mut Pool::new(threads).unwrap();
                let (mut inside, mut elsewhere) = (x.clone(), vec![9.0; len]);
                dropout(pool, &mut inside, None, None, drop);
                dropout(pool, &mut elsewhere, Some(&x), Some(&add), drop);
                for i in 0..len {
                    let kept = draw_bits(12345, i as u32) >= 3 << 22;
                    assert_eq!(inside[i], if kept { 4.0 * x[i] } else { 0.0 });
                    assert_eq!(elsewhere[i], inside[i] + add[i]);
                }
                let share = inside.iter().filter(|&&x| x != 0.0).count() as f64 / len.max(1) as f64;
                assert!(len < 1000 || (share - 0.25).abs() < 0.01, "{share}");
            }
        }
    }
}
