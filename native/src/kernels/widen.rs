//! Numbers of 16 and 8 bits to f32, a vector at a time. Each conversion is exact.

use super::simd::Simd;

/// What a `Simd` needs to read the working weights; implemented by all that `dispatched!` chooses from.
pub trait Widen: Simd {
    /// # Safety
    /// `F32_LANES` values can be read at `from`.
    unsafe fn bf16s(self, from: *const u16) -> Self::f32s;
    /// # Safety
    /// As `bf16s`.
    unsafe fn f16s(self, from: *const u16) -> Self::f32s;
    /// # Safety
    /// As `bf16s`.
    unsafe fn i8s(self, from: *const i8) -> Self::f32s;
}

/// The number that 16 bits are in IEEE's half precision.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    // Exponent and mantissa one place up are those of an f32 whose exponent is too small by 112; so are subnormals.
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13);
    let magnitude = if half & 0x7c00 == 0x7c00 {
        f32::from_bits(magnitude.to_bits() | 0x7f80_0000) // infinity and NaN stay what they are
    } else {
        magnitude * f32::from_bits(0x7780_0000) // 2¹¹²
    };
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}

/// The nearest half, ties to even; what is too large becomes infinite.
pub fn f32_to_f16(value: f32) -> u16 {
    let (sign, magnitude) = ((value.to_bits() >> 16 & 0x8000) as u16, value.abs());
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    if magnitude < f32::from_bits(0x3880_0000) {
        // Below 2⁻¹⁴ halves are multiples of 2⁻²⁴: adding 1/2 leaves just those bits, rounded.
        return sign | ((magnitude + 0.5).to_bits() - 0.5f32.to_bits()) as u16;
    }
    let bits = magnitude.to_bits();
    sign | ((bits - 0x3800_0000 + 0xfff + (bits >> 13 & 1)) >> 13) as u16
}

/// The nearest bf16, ties to even.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else {
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    }
}

impl Widen for pulp::Scalar {
    #[inline(always)]
    unsafe fn bf16s(self, from: *const u16) -> f32 {
        // SAFETY: as promised by the caller, here and below.
        f32::from_bits(u32::from(unsafe { from.read() }) << 16)
    }
    #[inline(always)]
    unsafe fn f16s(self, from: *const u16) -> f32 {
        f16_to_f32(unsafe { from.read() })
    }
    #[inline(always)]
    unsafe fn i8s(self, from: *const i8) -> f32 {
        f32::from(unsafe { from.read() })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Widen;
    use pulp::x86::{V3, V4};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    // SAFETY, for all of these: the caller promises the memory, the token that the processor has the instructions
    // (`simd::arch` asks for F16C, too), and both types are vectors of as many floats.
    impl Widen for V4 {
        #[inline(always)]
        unsafe fn bf16s(self, from: *const u16) -> Self::f32s {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                transmute(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn f16s(self, from: *const u16) -> Self::f32s {
            unsafe { transmute(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn i8s(self, from: *const i8) -> Self::f32s {
            unsafe { transmute(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
        }
    }

    impl Widen for V3 {
        #[inline(always)]
        unsafe fn bf16s(self, from: *const u16) -> Self::f32s {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                transmute(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn f16s(self, from: *const u16) -> Self::f32s {
            unsafe { transmute(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn i8s(self, from: *const i8) -> Self::f32s {
            unsafe { transmute(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())))) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Widen;
    use pulp::aarch64::Neon;
    use std::arch::aarch64::*;
    use std::mem::transmute;

    // SAFETY, for all of these: the caller promises the memory, NEON belongs to every 64-bit ARM, and both types are
    // vectors of four floats.
    impl Widen for Neon {
        #[inline(always)]
        unsafe fn bf16s(self, from: *const u16) -> Self::f32s {
            unsafe { transmute(vshll_n_u16::<16>(vld1_u16(from))) }
        }
        #[inline(always)]
        unsafe fn f16s(self, from: *const u16) -> Self::f32s {
            // As `f16_to_f32`; weights are finite.
            unsafe {
                let half = vmovl_u16(vld1_u16(from));
                let magnitude = vshlq_n_u32::<13>(vandq_u32(half, vdupq_n_u32(0x7fff)));
                let power = vreinterpretq_f32_u32(vdupq_n_u32(0x7780_0000));
                let magnitude = vmulq_f32(vreinterpretq_f32_u32(magnitude), power);
                let sign = vshlq_n_u32::<16>(vandq_u32(half, vdupq_n_u32(0x8000)));
                transmute(vorrq_u32(vreinterpretq_u32_f32(magnitude), sign))
            }
        }
        #[inline(always)]
        unsafe fn i8s(self, from: *const i8) -> Self::f32s {
            unsafe {
                let four = vreinterpret_s8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
                transmute(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four)))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::{dispatched, store};

    #[inline(always)]
    fn widened<S: Widen, const KIND: u8>(simd: S, from: *const u8) -> f32 {
        let mut out = [0.0; 64];
        // SAFETY: the test's numbers are 64 at least.
        unsafe {
            let values = match KIND {
                0 => simd.bf16s(from.cast()),
                1 => simd.f16s(from.cast()),
                _ => simd.i8s(from.cast()),
            };
            store(simd, out.as_mut_ptr(), values);
        }
        out[0]
    }
    dispatched!(widened[const KIND: u8](from: *const u8) -> f32);

    #[test]
    fn every_number_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let numbers = [bits; 64];
            let half = f16_to_f32(bits);
            if bits & 0x7c00 != 0x7c00 {
                let exponent = i32::from(bits >> 10 & 31);
                let mantissa = f64::from(bits & 0x3ff) + if exponent > 0 { 1024.0 } else { 0.0 };
                let expected = mantissa * 2f64.powi(exponent.max(1) - 25);
                assert_eq!(f64::from(half.abs()), expected);
                assert_eq!(widened::dispatch::<1>(numbers.as_ptr().cast()).to_bits(), half.to_bits());
                assert_eq!(f32_to_f16(half), bits);
            }
            let bf16 = f32::from_bits(u32::from(bits) << 16);
            assert_eq!(widened::dispatch::<0>(numbers.as_ptr().cast()).to_bits(), bf16.to_bits());
            if !bf16.is_nan() {
                assert_eq!(f32_to_bf16(bf16), bits);
            }
        }
        for byte in i8::MIN..=i8::MAX {
            assert_eq!(widened::dispatch::<2>([byte; 64].as_ptr().cast()), f32::from(byte));
        }
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        for bits in (0x3000_0000..0x4800_0000u32).step_by(9973) {
            let value = f32::from_bits(bits);
            let half = f32_to_f16(value);
            if half & 0x7c00 == 0x7c00 {
                assert!(value >= 65520.0);
                continue;
            }
            let distance = |half: u16| (f64::from(f16_to_f32(half)) - f64::from(value)).abs();
            assert!(distance(half) <= distance(half + 1) || half + 1 == 0x7c00);
            assert!(half == 0 || distance(half) <= distance(half - 1));
        }
        // Ties go to the even one.
        assert_eq!(
            [f32_to_f16(1.0 + 2f32.powi(-11)), f32_to_f16(1.0 + 3.0 * 2f32.powi(-11))],
            [0x3c00, 0x3c02]
        );
        assert_eq!([f32_to_f16(2f32.powi(-25)), f32_to_f16(3.0 * 2f32.powi(-25))], [0, 2]);
        assert_eq!([f32_to_f16(-65520.0), f32_to_f16(65519.0)], [0xfc00, 0x7bff]);
        assert_eq!(
            [f32_to_bf16(f32::from_bits(0x3f80_8000)), f32_to_bf16(f32::from_bits(0x3f81_8000))],
            [0x3f80, 0x3f82]
        );
    }
}
