//! Matrix products: out [M, N] = a · b with K summed over, in the three forms of training.
//! NT: a [M, K], b [N, K]   NN: a [M, K], b [K, N]   TN: a [K, M], b [K, N]
//! Then, in this order: + add, max(0, ·), zero where `mask` is not positive.
//!
//! The `gemm` crate does the work, one call a part of the output; the parts are shared out among the threads, so that K is
//! never split. A part is small enough that what is done to it afterwards finds it in the second cache. A few
//! rows times a matrix (decoding) is limited by memory and has its own kernel in `thin.rs`. Products of numbers that are
//! rounded to bf16 are in `bf16_product.rs`.

use super::bf16_product::Way;
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, map_vectors};
use super::{bf16_product, small, span, thin};
use crate::device::with_device;
use crate::pool::Pool;
use std::ops::Range;

/// Which operands are transposed, as numbered by native/device.ts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Form {
    NT,
    NN,
    TN,
}

/// Where the summand comes from.
#[derive(Clone, Copy)]
pub enum Add<'a> {
    Nothing,
    /// out itself
    Out,
    Matrix(&'a [f32]),
}

/// What is done to a product before it is stored.
#[derive(Clone, Copy)]
pub struct Fusion<'a> {
    pub add: Add<'a>,
    pub relu: bool,
    pub mask: Option<&'a [f32]>,
}

/// Multiplications and additions that are worth a thread's while, through the gemm crate and through `small`.
const PART_FLOPS: usize = 600_000;
const SMALL_PART_FLOPS: usize = 200_000;
/// Elements of a part of the output in rows: 512 KiB.
const PART_ELEMENTS: usize = 128 * 1024;
/// Columns of a part of the output in columns.
const COLUMNS: usize = 128;

/// A product: a [M, K], b [K, N], out [M, N], with element (i, k) of a at i · a_row + k · a_col and so on.
pub struct Product<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub n: usize,
    pub k: usize,
    a_row: usize,
    a_col: usize,
    b_row: usize,
    b_col: usize,
}

impl<'a> Product<'a> {
    pub fn new(form: Form, a: &'a [f32], b: &'a [f32], m: usize, n: usize, k: usize) -> Self {
        assert!(a.len() == m * k && b.len() == n * k);
        let (a_row, a_col) = if form == Form::TN { (1, m) } else { (k, 1) };
        let (b_row, b_col) = if form == Form::NT { (1, k) } else { (n, 1) };
        Product { a, b, n, k, a_row, a_col, b_row, b_col }
    }

    /// Rows × columns of out = (out +) a · b, through the gemm crate.
    ///
    /// # Safety
    /// `out` is the whole output, rows and columns lie within it, and nobody else touches that part.
    unsafe fn part(&self, out: *mut f32, rows: &Range<usize>, columns: &Range<usize>, add: bool) {
        // SAFETY: the sizes were checked in `new`.
        unsafe {
            gemm::gemm(
                rows.len(),
                columns.len(),
                self.k,
                out.add(rows.start * self.n + columns.start),
                1,
                self.n as isize,
                add,
                self.a.as_ptr().add(rows.start * self.a_row),
                self.a_col as isize,
                self.a_row as isize,
                self.b.as_ptr().add(columns.start * self.b_col),
                self.b_col as isize,
                self.b_row as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// The number of parts to cut the rows and the columns of the output into, and what their sizes are multiples of.
fn parts_of(form: Form, small: bool, threads: usize, [m, n, k]: [usize; 3]) -> ([usize; 2], [usize; 2]) {
    let flops = 2 * m * n * k;
    let fair = |parts: usize| if parts > threads { parts - parts % threads } else { parts };
    if small {
        let (length, unit) = if form == Form::TN { (m, 16) } else { (n, 32) };
        let useful = (flops / SMALL_PART_FLOPS).clamp(1, 4 * threads).min(length.div_ceil(unit));
        let parts = if threads == 1 { 1 } else { fair(useful) };
        return if form == Form::TN { ([parts, 1], [unit, 1]) } else { ([1, parts], [1, unit]) };
    }
    let useful = if threads == 1 { 1 } else { (flops / PART_FLOPS).clamp(1, 4 * threads) };
    // The crate packs b for each part of the rows and a for each part of the columns. Measured: where an operand is
    // transposed slabs of 128 columns are fastest, otherwise rows, as long as a part stays in the second cache.
    if form != Form::NN && n >= COLUMNS * threads {
        return ([1, fair(useful.min(n / COLUMNS))], [1, 16]);
    }
    let wanted = (m * n).div_ceil(PART_ELEMENTS).max(threads).min(useful);
    if n > 4 * m { ([1, fair(wanted)], [1, 16]) } else { ([fair(wanted), 1], [6, 1]) }
}

/// The whole kernel.
fn matmul(
    pool: &mut Pool,
    out: &mut [f32],
    form: Form,
    a: &[f32],
    b: &[f32],
    [m, n, k]: [usize; 3],
    fusion: Fusion,
) {
    if form == Form::NT && m <= thin::MAX_ROWS && fusion.mask.is_none() {
        if let Add::Matrix(add) = fusion.add {
            out.copy_from_slice(add);
        }
        let add = !matches!(fusion.add, Add::Nothing);
        return thin::thin_product(pool, out, a, b, [m, n, k], add, fusion.relu);
    }
    let product = Product::new(form, a, b, m, n, k);
    let small = small::MOST >= if form == Form::TN { k } else { m };
    let (parts, units) = parts_of(form, small, pool.threads(), [m, n, k]);
    let out = Shared::new(out);
    pool.run(parts[0] * parts[1], |i| {
        let rows = part_of(m, units[0], parts[0], i / parts[1]);
        let columns = part_of(n, units[1], parts[1], i % parts[1]);
        if let Add::Matrix(add) = fusion.add {
            for row in rows.clone() {
                let at = row * n + columns.start..row * n + columns.end;
                // SAFETY: parts of different chunks do not overlap.
                unsafe { out.part(at.clone()) }.copy_from_slice(&add[at]);
            }
        }
        let add = !matches!(fusion.add, Add::Nothing);
        // SAFETY: as above.
        unsafe {
            if small {
                small::part(&product, form, out, rows.clone(), columns.clone(), add);
            } else {
                product.part(out.as_mut_ptr(), &rows, &columns, add);
            }
        }
        if fusion.relu || fusion.mask.is_some() {
            finish::dispatch(out, n, rows, columns, fusion);
        }
    });
}

/// Applies relu and the mask to a part of the output, while it is in the cache.
#[inline(always)]
fn finish<S: Simd>(
    simd: S,
    out: Shared<f32>,
    n: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    fusion: Fusion,
) {
    let zero = simd.splat_f32s(0.0);
    for row in rows {
        let at = row * n + columns.start..row * n + columns.end;
        // SAFETY: the part belongs to this chunk.
        let out = unsafe { out.part(at.clone()) };
        if fusion.relu {
            // A comparison lets NaN through, a maximum might not.
            map_vectors(
                simd,
                out,
                [],
                #[inline(always)]
                |x, []| simd.select_f32s(simd.less_than_f32s(x, zero), zero, x),
            );
        }
        if let Some(mask) = fusion.mask {
            map_vectors(
                simd,
                out,
                [&mask[at]],
                #[inline(always)]
                |x, [mask]| simd.select_f32s(simd.greater_than_f32s(mask, zero), x, zero),
            );
        }
    }
}
dispatched!(finish(out: Shared<f32>, n: usize, rows: Range<usize>, columns: Range<usize>, fusion: Fusion));

/// Bits of `flags`.
const ADD_OUT: u32 = 1;
const ADD_MATRIX: u32 = 2;
const RELU: u32 = 4;
const MASK: u32 = 8;

/// out [m, n] = a · b. `form` is 0 for NT, 1 for NN, 2 for TN. `flags` says whether out is added to, `add` [m, n] is
/// added, relu, and `mask` [m, n] apply; operands that do not are ignored. With `bf16` a and b are rounded to that first.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_matmul(
    device: u32,
    out: u32,
    out_at: f64,
    a: u32,
    a_at: f64,
    b: u32,
    b_at: f64,
    add: u32,
    add_at: f64,
    mask: u32,
    mask_at: f64,
    form: u32,
    flags: u32,
    bf16: u32,
    m: u32,
    n: u32,
    k: u32,
) -> i32 {
    with_device(device, |d| {
        let form =
            *[Form::NT, Form::NN, Form::TN].get(form as usize).ok_or("there are three forms of product")?;
        if k == 0 {
            return Err("a product sums over at least one element".into());
        }
        let if_set = |flag: u32, handle: u32, at: f64, fallback: u32, fallback_at: f64| {
            if flags & flag != 0 { span(handle, at, m, n) } else { span(fallback, fallback_at, 0, 0) }
        };
        let ([out], [a, b, add, mask]) = d.tensors.operands(
            [span(out, out_at, m, n)],
            [
                span(a, a_at, m, k),
                span(b, b_at, n, k),
                if_set(ADD_MATRIX, add, add_at, out, out_at),
                if_set(MASK, mask, mask_at, out, out_at),
            ],
        )?;
        let fusion = Fusion {
            add: match flags & (ADD_OUT | ADD_MATRIX) {
                0 => Add::Nothing,
                ADD_OUT => Add::Out,
                _ => Add::Matrix(add),
            },
            relu: flags & RELU != 0,
            mask: (flags & MASK != 0).then_some(mask),
        };
        if out.is_empty() {
            return Ok(());
        }
        let [m, n, k] = [m, n, k].map(|size| size as usize);
        if bf16 != 0 {
            let product = Product::new(form, a, b, m, n, k);
            bf16_product::product(&mut d.pool, &mut d.panels, Way::best(), out, form, &product, fusion);
        } else {
            matmul(&mut d.pool, out, form, a, b, [m, n, k], fusion);
        }
        Ok(())
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn run(pool: &mut Pool, out: &mut [f32], form: Form, a: &[f32], b: &[f32], size: [usize; 3]) {
        matmul(pool, out, form, a, b, size, Fusion { add: Add::Nothing, relu: false, mask: None });
    }

    fn naive(form: Form, a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                for p in 0..k {
                    let left = if form == Form::TN { a[p * m + i] } else { a[i * k + p] };
                    let right = if form == Form::NT { b[j * k + p] } else { b[p * n + j] };
                    out[i * n + j] += left * right;
                }
            }
        }
        out
    }

    /// Small whole numbers: sums are exact in any order.
    fn values(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + salt) * 7919 % 9) as f32 - 4.0).collect()
    }

    #[test]
    fn every_form_and_fusion() {
        let sizes =
            [[1, 1, 1], [3, 97, 12], [8, 130, 70], [9, 64, 64], [24, 300, 64], [130, 65, 129], [700, 40, 33]];
        for (threads, [m, n, k]) in [1, 2, 3].into_iter().flat_map(|t| sizes.map(|size| (t, size))) {
            let mut pool = Pool::new(threads).unwrap();
            for form in [Form::NT, Form::NN, Form::TN] {
                let (a, b, other) = (values(m * k, 1), values(n * k, 2), values(m * n, 3));
                let plain = naive(form, &a, &b, m, n, k);
                for (add, relu, mask) in
                    (0..3).flat_map(|add| [(add, false, false), (add, true, false), (add, false, true)])
                {
                    let mut out = values(m * n, 4);
                    let expected: Vec<f32> = (0..m * n)
                        .map(|i| {
                            let sum = plain[i] + [0.0, out[i], other[i]][add];
                            let keep = (!relu || sum > 0.0) && (!mask || other[i] > 0.0);
                            if keep { sum } else { 0.0 }
                        })
                        .collect();
                    let fusion = Fusion {
                        add: [Add::Nothing, Add::Out, Add::Matrix(&other)][add],
                        relu,
                        mask: mask.then_some(&other[..]),
                    };
                    matmul(&mut pool, &mut out, form, &a, &b, [m, n, k], fusion);
                    assert_eq!(out, expected, "{form:?} {m} {n} {k}, add {add}, relu {relu}, mask {mask}");
                }
            }
        }
    }
}
