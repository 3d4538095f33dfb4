//! Vector arithmetic shared by the kernels. A kernel is a function generic over `S: Simd`, compiled once for each
//! instruction set; `simd!` calls the version for this processor (AVX-512, AVX2 with FMA, NEON, or plain scalars).

pub use pulp::Simd;

/// `simd!(kernel(a, b))` calls `kernel(simd, a, b)` compiled for the best instruction set of this processor.
/// The kernel, and whatever it calls with `simd`, must be `#[inline(always)]`.
macro_rules! simd {
    ($kernel:ident $(::<$($generic:tt),+>)? ($($argument:expr),* $(,)?)) => {
        match pulp::Arch::new() {
            #[cfg(target_arch = "x86_64")]
            pulp::Arch::V4(simd) => simd.vectorize(|| $kernel::<_ $($(, $generic)+)?>(simd, $($argument),*)),
            #[cfg(target_arch = "x86_64")]
            pulp::Arch::V3(simd) => simd.vectorize(|| $kernel::<_ $($(, $generic)+)?>(simd, $($argument),*)),
            #[cfg(target_arch = "aarch64")]
            pulp::Arch::Neon(simd) => simd.vectorize(|| $kernel::<_ $($(, $generic)+)?>(simd, $($argument),*)),
            _ => $kernel::<_ $($(, $generic)+)?>(pulp::Scalar, $($argument),*),
        }
    };
}
pub(crate) use simd;

/// The instruction set that `simd!` chooses, for people.
pub fn instruction_set() -> &'static str {
    match pulp::Arch::new() {
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V4(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(_) => "AVX2",
        #[cfg(target_arch = "aarch64")]
        pulp::Arch::Neon(_) => "NEON",
        _ => "no vector instructions",
    }
}

/// Loads a full vector.
///
/// # Safety
/// `S::F32_LANES` values can be read at `from`.
#[inline(always)]
pub unsafe fn load<S: Simd>(_: S, from: *const f32) -> S::f32s {
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// Stores a full vector.
///
/// # Safety
/// `S::F32_LANES` values can be written at `to`.
#[inline(always)]
pub unsafe fn store<S: Simd>(_: S, to: *mut f32, value: S::f32s) {
    unsafe { to.cast::<S::f32s>().write_unaligned(value) }
}

const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds a float of moderate size to an integer, which then sits in the low bits.
const ROUNDING: f32 = 12_582_912.0; // 1.5 · 2²³

/// e^x for x ≤ 88, to about 2 ulp; exactly 0 below −87.3 (where f32 has only subnormals), NaN for NaN.
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; a polynomial for e^r (Cephes `expf`), and 2ⁿ put together from its bits.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let c = |value: f32| simd.splat_f32s(value);
    let shifted = simd.mul_add_e_f32s(x, c(std::f32::consts::LOG2_E), c(ROUNDING));
    let n = simd.sub_f32s(shifted, c(ROUNDING));
    let r = simd.mul_add_e_f32s(n, c(-LN_2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, c(-LN_2_LOW), r);
    let mut p = c(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = simd.mul_add_e_f32s(p, r, c(coefficient));
    }
    let p = simd.mul_add_e_f32s(simd.mul_f32s(p, r), r, simd.add_f32s(r, c(1.0)));
    // The low bits of `shifted` are n (and ROUNDING's own, which the shift drops): add n to the exponent of 1.0.
    let bits = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(bits, simd.splat_u32s(0x3f80_0000)));
    let tiny = simd.less_than_f32s(x, c(-87.3));
    simd.select_f32s(tiny, c(0.0), simd.mul_f32s(p, power))
}

/// Calls `visit` with each vector of the row, the last one filled up with `fill`.
#[inline(always)]
pub fn for_each_vector<S: Simd>(simd: S, row: &[f32], fill: f32, mut visit: impl FnMut(S::f32s)) {
    let (vectors, tail) = S::as_simd_f32s(row);
    for &vector in vectors {
        visit(vector);
    }
    if !tail.is_empty() {
        visit(load_tail(simd, tail, fill));
    }
}

/// Replaces each vector of `out` by what `compute` makes of it and the vectors at the same place in `inputs`.
#[inline(always)]
pub fn map_vectors<S: Simd, const N: usize>(
    simd: S,
    out: &mut [f32],
    inputs: [&[f32]; N],
    mut compute: impl FnMut(S::f32s, [S::f32s; N]) -> S::f32s,
) {
    let inputs = inputs.map(|input| S::as_simd_f32s(&input[..out.len()]));
    let (vectors, tail) = S::as_mut_simd_f32s(out);
    for (i, vector) in vectors.iter_mut().enumerate() {
        *vector = compute(*vector, inputs.map(|(vectors, _)| vectors[i]));
    }
    if !tail.is_empty() {
        let values = compute(load_tail(simd, tail, 0.0), inputs.map(|(_, tail)| load_tail(simd, tail, 0.0)));
        simd.partial_store_f32s(tail, values);
    }
}

/// Fewer values than a vector holds, then `fill`.
#[inline(always)]
fn load_tail<S: Simd>(simd: S, tail: &[f32], fill: f32) -> S::f32s {
    let used = simd.mask_between_m32s(0, tail.len() as u32).mask();
    simd.select_f32s(used, simd.partial_load_f32s(tail), simd.splat_f32s(fill))
}

/// Σ x·y of two rows of one length.
#[inline(always)]
pub fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let (x, x_tail) = S::as_simd_f32s(x);
    let (y, y_tail) = S::as_simd_f32s(y);
    let mut sums = [simd.splat_f32s(0.0); 4];
    let mut pairs = x.iter().zip(y);
    while pairs.len() >= 4 {
        for sum in &mut sums {
            if let Some((&x, &y)) = pairs.next() {
                *sum = simd.mul_add_e_f32s(x, y, *sum);
            }
        }
    }
    for (&x, &y) in pairs {
        sums[0] = simd.mul_add_e_f32s(x, y, sums[0]);
    }
    if !x_tail.is_empty() {
        let (x, y) = (simd.partial_load_f32s(x_tail), simd.partial_load_f32s(y_tail));
        sums[0] = simd.mul_add_e_f32s(x, y, sums[0]);
    }
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exp_all<S: Simd>(simd: S, values: &mut [f32]) {
        map_vectors(simd, values, [], |x, []| exp(simd, x));
    }

    #[test]
    fn exp_is_close_to_the_library() {
        let x: Vec<f32> = (0..200_003).map(|i| -87.2 + i as f32 * 87.5 / 200_000.0).collect();
        let mut y = x.clone();
        simd!(exp_all(&mut y));
        for (x, y) in x.iter().zip(&y) {
            let expected = f64::from(*x).exp();
            let relative = (f64::from(*y) - expected).abs() / expected;
            assert!(relative < 2.5e-7, "exp({x}) = {y}, off by {relative:e}");
        }
        let mut special = [0.0, -100.0, f32::NEG_INFINITY, f32::NAN, -3e38];
        simd!(exp_all(&mut special));
        assert_eq!(special[..3], [1.0, 0.0, 0.0]);
        assert!(special[3].is_nan());
        assert_eq!(special[4], 0.0);
    }

    #[inline(always)]
    fn dot_of<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
        dot(simd, x, y)
    }

    #[test]
    fn dot_takes_any_length() {
        for n in 0..150 {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let y: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 1.0).collect();
            assert_eq!(simd!(dot_of(&x, &y)), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>());
        }
    }
}
