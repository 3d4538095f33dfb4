//! Sums of gradients.  out += a, n elements each: two are read and one is written, so it is as fast as memory.

use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, map_vectors};
use super::{GRAIN, LINE, chunks_for, flat};
use crate::device::with_device;
use crate::pool::Pool;

#[inline(always)]
fn add_vectors<S: Simd>(simd: S, out: &mut [f32], a: &[f32]) {
    map_vectors(
        simd,
        out,
        [a],
        #[inline(always)]
        |out, [a]| simd.add_f32s(out, a),
    );
}
dispatched!(add_vectors(out: &mut [f32], a: &[f32]));

/// out += a
pub fn add(pool: &mut Pool, out: &mut [f32], a: &[f32]) {
    assert_eq!(out.len(), a.len());
    let n = out.len();
    let chunks = chunks_for(pool, n, GRAIN);
    let out = Shared::new(out);
    pool.run(chunks, |i| {
        let part = part_of(n, LINE, chunks, i);
        // SAFETY: parts of different chunks do not overlap.
        add_vectors::dispatch(unsafe { out.part(part.clone()) }, &a[part]);
    });
}

/// out += a, `len` elements each.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_add(device: u32, out: u32, out_at: f64, a: u32, a_at: f64, len: f64) -> i32 {
    with_device(device, |d| {
        let ([out], [a]) = d.tensors.operands([flat(out, out_at, len)], [flat(a, a_at, len)])?;
        add(&mut d.pool, out, a);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_any_length_on_any_number_of_threads() {
        for len in [0, 1, 33, 100_003] {
            let value = |i: usize| (i * 7919 % 1009) as f32 / 300.0 - 1.7;
            let a: Vec<f32> = (0..len).map(|i| value(i + 5)).collect();
            for threads in [1, 3] {
                let mut out: Vec<f32> = (0..len).map(value).collect();
                add(&mut Pool::new(threads).unwrap(), &mut out, &a);
                assert!(out.iter().enumerate().all(|(i, &out)| out == value(i) + value(i + 5)));
            }
        }
    }
}
