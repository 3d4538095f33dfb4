//! Vector arithmetic shared by the kernels. A kernel is a function generic over `S: Simd`; `dispatched!` compiles it once
//! for each instruction set, and `kernel::dispatch(…)` calls the version for this processor.

pub use pulp::Simd;

/// `dispatched!(kernel(a: A, b: B) -> R)` makes `kernel::dispatch(a, b)`, which calls `kernel(simd, a, b)` compiled for the
/// best instruction set of this processor: AVX-512, AVX2 with FMA, NEON, or plain scalars.
///
/// The kernel, whatever it calls with `simd`, and closures that use `simd` must be `#[inline(always)]`: what is
/// not inlined is compiled for the oldest processor and is a hundred times slower.
macro_rules! dispatched {
    ($kernel:ident $([const $N:ident: $n:ty])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)?) => {
        mod $kernel {
            #[allow(unused_imports)]
            use super::*;

            #[allow(clippy::too_many_arguments)]
            pub fn dispatch $(<const $N: $n>)? ($($arg: $ty),*) $(-> $out)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt")]
                fn v4 $(<const $N: $n>)? (simd: pulp::x86::V4, $($arg: $ty),*) $(-> $out)? {
                    super::$kernel::<_ $(, $N)?>(simd, $($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt")]
                fn v3 $(<const $N: $n>)? (simd: pulp::x86::V3, $($arg: $ty),*) $(-> $out)? {
                    super::$kernel::<_ $(, $N)?>(simd, $($arg),*)
                }
                match $crate::kernels::simd::arch() {
                    // SAFETY: the token proves that the processor has these features.
                    #[cfg(target_arch = "x86_64")]
                    pulp::Arch::V4(simd) => unsafe { v4 $(::<$N>)? (simd, $($arg),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    pulp::Arch::V3(simd) => unsafe { v3 $(::<$N>)? (simd, $($arg),*) },
                    // NEON belongs to every 64-bit ARM: no feature has to be switched on.
                    #[cfg(target_arch = "aarch64")]
                    pulp::Arch::Neon(simd) => super::$kernel::<_ $(, $N)?>(simd, $($arg),*),
                    _ => super::$kernel::<_ $(, $N)?>(pulp::Scalar, $($arg),*),
                }
            }
        }
    };
}
pub(crate) use dispatched;

/// The best instruction set of this processor.
#[cfg(not(test))]
#[inline(always)]
pub fn arch() -> pulp::Arch {
    best()
}

/// pulp does not ask for F16C, which every processor with AVX2 has.
#[inline(always)]
fn best() -> pulp::Arch {
    match pulp::Arch::new() {
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(_) if !std::is_x86_feature_detected!("f16c") => pulp::Arch::Scalar,
        best => best,
    }
}

/// The same; the crate's own tests can be run with a lesser one: `TEST_SIMD=avx2 cargo test`, or `scalar`.
#[cfg(test)]
pub fn arch() -> pulp::Arch {
    match std::env::var("TEST_SIMD").as_deref() {
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => pulp::Arch::V3(pulp::x86::V3::try_new().expect("a processor with AVX2")),
        Ok("scalar") => pulp::Arch::Scalar,
        Ok(other) => panic!("TEST_SIMD is avx2 or scalar, not {other}"),
        Err(_) => best(),
    }
}

/// The instruction set that `dispatched!` chooses, for people.
pub fn instruction_set() -> &'static str {
    match arch() {
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

/// Asks for a line of memory, which need not be there.
#[inline(always)]
pub fn prefetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// The same for what is not wanted at once: it comes into the second cache.
#[inline(always)]
pub fn prefetch_later(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch of any address does no harm.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds a float of moderate size to an integer, which then sits in the low bits.
const ROUNDING: f32 = 12_582_912.0; // 1.5 · 2²³

/// e^x for x ≤ 88, to about 2 ulp; exactly 0 below −87.3 (where f32 has only subnormals), NaN for NaN.
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; a polynomial for e^r (Cephes `expf`), and 2ⁿ put together from its bits.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let shifted =
        simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(ROUNDING));
    let n = simd.sub_f32s(shifted, simd.splat_f32s(ROUNDING));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2_LOW), r);
    let mut p = simd.splat_f32s(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(coefficient));
    }
    let p = simd.mul_add_e_f32s(simd.mul_f32s(p, r), r, simd.add_f32s(r, simd.splat_f32s(1.0)));
    // The low bits of `shifted` are n (and ROUNDING's own, which the shift drops): add n to the exponent of 1.0.
    let bits = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(bits, simd.splat_u32s(0x3f80_0000)));
    let tiny = simd.less_than_f32s(x, simd.splat_f32s(-87.3));
    simd.select_f32s(tiny, simd.splat_f32s(0.0), simd.mul_f32s(p, power))
}

/// Calls `visit` with each vector of the row, the last one padded with `fill`.
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

/// Replaces each vector of `out` with what `compute` makes of it and the vectors in the same place in `inputs`.
#[inline(always)]
pub fn map_vectors<S: Simd, const N: usize>(
    simd: S,
    out: &mut [f32],
    inputs: [&[f32]; N],
    mut compute: impl FnMut(S::f32s, [S::f32s; N]) -> S::f32s,
) {
    for input in inputs {
        assert!(input.len() >= out.len());
    }
    let zero = simd.splat_f32s(0.0);
    let (vectors, tail) = S::as_mut_simd_f32s(out);
    let full = vectors.len() * S::F32_LANES;
    let mut values = [zero; N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        for n in 0..N {
            // SAFETY: each input is as long as `out`.
            values[n] = unsafe { load(simd, inputs[n].as_ptr().add(i * S::F32_LANES)) };
        }
        *vector = compute(*vector, values);
    }
    if !tail.is_empty() {
        for n in 0..N {
            values[n] = simd.partial_load_f32s(&inputs[n][full..full + tail.len()]);
        }
        let values = compute(simd.partial_load_f32s(tail), values);
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
    assert_eq!(x.len(), y.len());
    let (lanes, n) = (S::F32_LANES, x.len());
    let mut sums = [simd.splat_f32s(0.0); 4];
    let mut i = 0;
    // SAFETY: vectors that end at n or before.
    unsafe {
        while i + 4 * lanes <= n {
            for (s, sum) in sums.iter_mut().enumerate() {
                let at = i + s * lanes;
                let (x, y) = (load(simd, x.as_ptr().add(at)), load(simd, y.as_ptr().add(at)));
                *sum = simd.mul_add_e_f32s(x, y, *sum);
            }
            i += 4 * lanes;
        }
        while i + lanes <= n {
            let (x, y) = (load(simd, x.as_ptr().add(i)), load(simd, y.as_ptr().add(i)));
            sums[0] = simd.mul_add_e_f32s(x, y, sums[0]);
            i += lanes;
        }
    }
    if i < n {
        let (x, y) = (simd.partial_load_f32s(&x[i..]), simd.partial_load_f32s(&y[i..]));
        sums[1] = simd.mul_add_e_f32s(x, y, sums[1]);
    }
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3])))
}

/// The transpose of a square of four.
#[inline(always)]
pub fn transposed(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _MM_TRANSPOSE4_PS};
        // SAFETY: SSE belongs to every x86-64; both types are four floats.
        unsafe {
            let [mut a, mut b, mut c, mut d] = std::mem::transmute::<[[f32; 4]; 4], [__m128; 4]>(rows);
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            std::mem::transmute([a, b, c, d])
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|c| std::array::from_fn(|r| rows[r][c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exp_all<S: Simd>(simd: S, values: &mut [f32]) {
        map_vectors(
            simd,
            values,
            [],
            #[inline(always)]
            |x, []| exp(simd, x),
        );
    }
    dispatched!(exp_all(values: &mut [f32]));

    #[test]
    fn exp_is_close_to_the_library() {
        let x: Vec<f32> = (0..200_003).map(|i| -87.2 + i as f32 * 87.5 / 200_000.0).collect();
        let mut y = x.clone();
        exp_all::dispatch(&mut y);
        for (x, y) in x.iter().zip(&y) {
            let expected = f64::from(*x).exp();
            let relative = (f64::from(*y) - expected).abs() / expected;
            assert!(relative < 2.5e-7, "exp({x}) = {y}, off by {relative:e}");
        }
        let mut special = [0.0, -100.0, f32::NEG_INFINITY, f32::NAN, -3e38];
        exp_all::dispatch(&mut special);
        assert_eq!(special[..3], [1.0, 0.0, 0.0]);
        assert!(special[3].is_nan());
        assert_eq!(special[4], 0.0);
    }

    #[inline(always)]
    fn dot_of<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
        dot(simd, x, y)
    }
    dispatched!(dot_of(x: &[f32], y: &[f32]) -> f32);

    #[test]
    fn dot_takes_any_length() {
        for n in 0..150 {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let y: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 1.0).collect();
            assert_eq!(dot_of::dispatch(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>());
        }
    }
}
