//! Rotary positions (Su et al. 2021), in place on the first heads of each row.  x: [T, any], its first heads · D columns turn
//! angles: [positions, D], a row holds the cosines of the D / 2 pairs, then their sines
//!
//! Number j of a head and number j + D / 2 are a pair: (a, b) becomes (a·cos − b·sin, b·cos + a·sin). The gradient turns back:
//! it is the same with −sin. Moves 2 · T · heads · D elements.

use super::simd::{Simd, dispatched};
use super::{for_rows, span};
use crate::device::with_device;
use crate::tensors::{Span, as_u32s};

/// Heads to turn, of D numbers each, in rows of `cols`.
#[derive(Clone, Copy)]
struct Rotation<'a> {
    angles: &'a [f32],
    cols: usize,
    heads: usize,
    head_dim: usize,
    /// the gradient
    back: bool,
}

/// Turns consecutive rows.
#[inline(always)]
fn turn_rows<S: Simd>(_: S, x: &mut [f32], positions: &[u32], r: Rotation) {
    let (d, half) = (r.head_dim, r.head_dim / 2);
    let sign = if r.back { -1.0 } else { 1.0 };
    for (row, &position) in x.chunks_exact_mut(r.cols).zip(positions) {
        let (cos, sin) = r.angles[position as usize * d..][..d].split_at(half);
        for head in row[..r.heads * d].chunks_exact_mut(d) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let sin = sign * sin;
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
dispatched!(turn_rows(x: &mut [f32], positions: &[u32], r: Rotation));

/// Refuses sizes that do not belong together.
fn check(positions: &[u32], lines: u32, cols: u32, heads: u32, head_dim: u32) -> Result<(), String> {
    if head_dim == 0 || !head_dim.is_multiple_of(2) || u64::from(heads) * u64::from(head_dim) > cols.into() {
        return Err(format!("{heads} heads of {head_dim} do not turn in a row of {cols}"));
    }
    match positions.iter().find(|&&position| position >= lines) {
        Some(position) => Err(format!("position {position} is not among {lines}")),
        None => Ok(()),
    }
}

/// Turns the first `heads` heads of x [rows, cols], forward or `back`, by the batch's positions; angles are [lines, head_dim].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_rope(
    device: u32,
    x: u32,
    x_at: f64,
    angles: u32,
    angles_at: f64,
    batch: u32,
    rows: u32,
    cols: u32,
    heads: u32,
    head_dim: u32,
    lines: u32,
    back: u32,
) -> i32 {
    with_device(device, |d| {
        let positions = &d.batches.get(batch)?.positions[..];
        if positions.len() != rows as usize {
            return Err(format!("a batch of {} tokens for {rows} rows", positions.len()));
        }
        check(positions, lines, cols, heads, head_dim)?;
        let ([x], [angles]) =
            d.tensors.operands([span(x, x_at, rows, cols)], [span(angles, angles_at, lines, head_dim)])?;
        let (cols, heads, head_dim) = (cols as usize, heads as usize, head_dim as usize);
        let r = Rotation { angles, cols, heads, head_dim, back: back != 0 };
        let work = x.len();
        for_rows(&mut d.pool, x, cols, work, |first, x| {
            turn_rows::dispatch(x, &positions[first..], r);
        });
        Ok(())
    })
}

/// The same for decoding: row r is at positions[r].
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_rope_rows(
    device: u32,
    x: u32,
    x_at: f64,
    angles: u32,
    angles_at: f64,
    positions: u32,
    positions_at: f64,
    rows: u32,
    cols: u32,
    heads: u32,
    head_dim: u32,
    lines: u32,
) -> i32 {
    with_device(device, |d| {
        let reads: [Span; 2] =
            [span(angles, angles_at, lines, head_dim), span(positions, positions_at, rows, 1)];
        let ([x], [angles, positions]) = d.tensors.operands([span(x, x_at, rows, cols)], reads)?;
        let positions = as_u32s(positions);
        check(positions, lines, cols, heads, head_dim)?;
        let (cols, heads, head_dim) = (cols as usize, heads as usize, head_dim as usize);
        let r = Rotation { angles, cols, heads, head_dim, back: false };
        let work = x.len();
        for_rows(&mut d.pool, x, cols, work, |first, x| {
            turn_rows::dispatch(x, &positions[first..], r);
        });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::tests::noise;

    #[test]
    fn turns_pairs_and_turns_them_back() {
        for (heads, head_dim) in [(1, 2), (3, 6), (2, 64)] {
            let cols = heads * head_dim + 5;
            let positions = [3, 0, 2];
            let angle = |p: usize, j: usize| p as f32 * 10f32.powf(-2.0 * j as f32 / head_dim as f32);
            let angles: Vec<f32> = (0..4)
                .flat_map(|p| {
                    let all = move |f: fn(f32) -> f32| (0..head_dim / 2).map(move |j| f(angle(p, j)));
                    all(f32::cos).chain(all(f32::sin))
                })
                .collect();
            let x = noise(3 * cols, 1);
            let mut y = x.clone();
            let r = Rotation { angles: &angles, cols, heads, head_dim, back: false };
            turn_rows::dispatch(&mut y, &positions, r);
            for (row, &position) in positions.iter().enumerate() {
                for (h, j) in (0..heads).flat_map(|h| (0..head_dim / 2).map(move |j| (h, j))) {
                    let (a, b) =
                        (row * cols + h * head_dim + j, row * cols + h * head_dim + j + head_dim / 2);
                    let (sin, cos) = angle(position as usize, j).sin_cos();
                    assert!((y[a] - (x[a] * cos - x[b] * sin)).abs() < 1e-6);
                    assert!((y[b] - (x[b] * cos + x[a] * sin)).abs() < 1e-6);
                }
                let rest = row * cols + heads * head_dim..(row + 1) * cols;
                assert_eq!(y[rest.clone()], x[rest]);
            }
            turn_rows::dispatch(&mut y, &positions, Rotation { back: true, ..r });
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-6));
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(check(&[0, 7], 8, 24, 2, 8).is_ok());
        assert!(check(&[8], 8, 24, 2, 8).is_err());
        assert!(check(&[0], 8, 24, 4, 8).is_err());
        assert!(check(&[0], 8, 24, 2, 3).is_err());
        assert!(check(&[0], 8, 24, 2, 0).is_err());
    }
}
