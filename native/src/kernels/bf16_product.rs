//! Matrix products of numbers rounded to bf16, summed in f32: out [M, N] = add + a · b, then max(0, ·) and the mask, in the
//! three forms of `matmul.rs`.
//!
//! 1. Threads share out the columns of b: a panel of NR of them is rounded and copied together, [K, NR].
//! 2. Threads share out the rows of a: some are rounded into memory of the thread, then each tile of ROWS × NR of the
//!    output stays in registers while a panel's rows are multiplied by single elements of a (Goto & van de Geijn 2008).
//!
//! Each element of out is one chain of sums: it begins with what is added, then come pairs of k, of a pair the odd k first. So
//! neither threads nor the sizes of blocks change a bit, and two ways to multiply agree:
//! `Dot` is AVX512-BF16's instruction, which takes pairs in this very order; operands are pairs of 16 bits, half the memory.
//! `Fma` is f32's own multiply-add, everywhere: the operands are f32 numbers with 16 zero bits at the end. Products of two
//! of them are exact in f32. `Dot` takes subnormal numbers for 0, and that is all they may differ in.
//! `Tile` is AMX's, two to three times as fast, in an order of its own: of each TILE_K of k the even ones are summed and the odd ones,
//! then both sums, and that is added to the element. It takes subnormal numbers for 0, too.
//!
//! 2 · M · N · K flops; reads a, b and out once, and b's panels once for each MAX_ROWS rows.

use super::attention::with_scratch;
use super::matmul::{Add, Form, Fusion, Product};
use super::shared::{Shared, part_of};
use super::simd::{Simd, dispatched, load, store, transposed};
use super::widen::f32_to_bf16;
use crate::pool::Pool;
use crate::tensors::as_u32s_mut;
use std::ops::Range;
use std::sync::OnceLock;

/// Words of K that b's panels hold at once, and those of them that meet in a tile: what a tile reads stays in the first
/// cache.
const K_WORDS: usize = 512;
const TILE_WORDS: usize = 128;
/// Words of b that are packed at once: 1 MiB, which every thread reads from its second cache.
const PANEL_WORDS: usize = 1 << 18;
/// Rows of a that a thread takes at once, so that they stay in its second cache.
const MAX_ROWS: usize = 96;
/// Numbers of K that an instruction of AMX takes, and rows of out that two of its tiles have.
const TILE_K: usize = 32;
const TILE_ROWS: usize = 32;
/// Vectors in a row of a tile.
const VECTORS: usize = 2;
/// Multiplications that are worth a thread's while, and numbers to pack.
const FLOP_GRAIN: usize = 400_000;
const PACK_GRAIN: usize = 8 * 1024;

/// A way to multiply.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Way {
    Fma,
    Dot,
    Tile,
}

impl Way {
    /// The fastest that this processor has. Intel's take `Dot`'s instruction at a quarter of the rate of multiply-adds, which is half
    /// of f32's speed; AMD's take both at one rate.
    pub fn best() -> Way {
        static BEST: OnceLock<Way> = OnceLock::new();
        *BEST.get_or_init(|| {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            if amx::is_ready() {
                return Way::Tile;
            }
            #[cfg(target_arch = "x86_64")]
            if Way::has_dot() {
                let vendor = raw_cpuid::CpuId::new().get_vendor_info();
                if vendor.is_some_and(|vendor| vendor.as_str() == "AuthenticAMD") {
                    return Way::Dot;
                }
            }
            Way::Fma
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn has_dot() -> bool {
        matches!(super::simd::arch(), pulp::Arch::V4(_)) && std::is_x86_feature_detected!("avx512bf16")
    }

    /// Numbers in a word.
    fn per_word(self) -> usize {
        if self == Way::Fma { 1 } else { 2 }
    }

    /// Numbers of K that are multiplied together: others are added to it, zeros.
    fn k_unit(self) -> usize {
        if self == Way::Tile { TILE_K } else { 2 }
    }

    /// Rows of a tile, or a multiple of them.
    fn rows(self) -> usize {
        if self == Way::Tile { TILE_ROWS } else { 12 }
    }
}

/// One line of a cache: panels begin with one.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u32; 16]);

/// Memory for the panels of b, kept from product to product.
#[derive(Default)]
pub struct Panels(Vec<Line>);

impl Panels {
    fn words(&mut self, len: usize) -> &mut [u32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 16]));
        }
        // SAFETY: a line is 16 words, and there are enough.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// A block of a product: some of K and the columns of some panels.
struct Block<'a> {
    product: &'a Product<'a>,
    form: Form,
    way: Way,
    m: usize,
    k: Range<usize>,
    /// words of a row of a: even for `Fma`, so that pairs are whole; for `Tile` as many as its instructions take
    words: usize,
    columns: Range<usize>,
}

impl Block<'_> {
    /// Rounds rows first … of a into `a`: strips of TILE_WORDS of all rows, [strips, rows, TILE_WORDS]. TN, but for `Tile`:
    /// [words, rows].
    #[inline(always)]
    fn pack_rows(&self, a: &mut [u32], rows: Range<usize>, padded: usize) {
        let Product { a: source, k, .. } = *self.product;
        if self.form == Form::TN && self.way == Way::Tile {
            return self.pack_transposed(a, rows, padded);
        }
        if self.form == Form::TN {
            return round_columns(
                self.way,
                a,
                padded,
                &source[rows.start..],
                self.m,
                self.k.clone(),
                rows.len(),
            );
        }
        for (i, row) in rows.enumerate() {
            let strips = source[row * k..][self.k.clone()].chunks(TILE_WORDS * self.way.per_word());
            for (strip, numbers) in strips.enumerate() {
                round_row(self.way, &mut a[(strip * padded + i) * TILE_WORDS..][..TILE_WORDS], numbers);
            }
        }
    }

    /// The same of columns of a, by squares of 16 words and rows.
    #[inline(always)]
    fn pack_transposed(&self, a: &mut [u32], rows: Range<usize>, padded: usize) {
        const SIDE: usize = 16;
        let source = self.product.a;
        for first in (0..rows.len()).step_by(SIDE) {
            let count = SIDE.min(rows.len() - first);
            for word in (0..self.words).step_by(SIDE) {
                let mut square = [[0u32; SIDE]; SIDE];
                for (words, even) in square.iter_mut().zip((self.k.start + 2 * word..self.k.end).step_by(2)) {
                    let row = |k: usize| &source[k * self.m + rows.start + first..][..count];
                    if even + 1 < self.k.end {
                        round_pairs(&mut words[..count], row(even), row(even + 1));
                    } else {
                        words.iter_mut().zip(row(even)).for_each(|(to, &even)| *to = pair(even, 0.0));
                    }
                }
                let (strip, at) = (word / TILE_WORDS, word % TILE_WORDS);
                for i in 0..count {
                    let to = &mut a[(strip * padded + first + i) * TILE_WORDS + at..][..SIDE];
                    to.iter_mut().zip(&square).for_each(|(to, words)| *to = words[i]);
                }
            }
        }
    }

    /// Rounds the columns of a panel of b, [words, nr]; columns beyond the matrix are 0.
    #[inline(always)]
    fn pack_panel(&self, panel: &mut [u32], first: usize, nr: usize) {
        let Product { b: source, n, k, .. } = *self.product;
        let count = nr.min(self.columns.end - first);
        if self.form != Form::NT {
            round_columns(self.way, panel, nr, &source[first..], n, self.k.clone(), count);
            panel[self.k.len().next_multiple_of(2) / self.way.per_word() * nr..].fill(0);
            return;
        }
        let mut strip = [[0u32; STRIP]; MAX_NR];
        let per_word = self.way.per_word();
        for (words, numbers) in panel.chunks_mut(STRIP * nr).zip(self.k.clone().step_by(STRIP * per_word)) {
            let end = self.k.end.min(numbers + STRIP * per_word);
            for (j, row) in strip.iter_mut().enumerate().take(count) {
                round_row(self.way, row, &source[(first + j) * k..][numbers..end]);
            }
            transpose_strip(words, &strip, nr);
        }
    }
}

/// Most columns of a panel, and words of K that are transposed together.
const MAX_NR: usize = 32;
const STRIP: usize = 64;

/// A word that holds one number as f32, and one that holds a pair of k as 16 bits each.
#[inline(always)]
fn word(value: f32) -> u32 {
    u32::from(f32_to_bf16(value)) << 16
}
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    u32::from(f32_to_bf16(even)) | word(odd)
}

/// Words of numbers that lie side by side; zeros fill up what is multiplied together.
#[inline(always)]
fn round_row(way: Way, words: &mut [u32], numbers: &[f32]) {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if way.per_word() == 2 {
        words.iter_mut().zip(pairs).for_each(|(to, &[even, odd])| *to = pair(even, odd));
        if let [last] = *rest {
            words[pairs.len()] = pair(last, 0.0);
        }
        let used = numbers.len().div_ceil(2);
        words[used..numbers.len().next_multiple_of(way.k_unit()) / 2].fill(0);
    } else {
        words.iter_mut().zip(numbers).for_each(|(to, &value)| *to = word(value));
        if !rest.is_empty() {
            words[numbers.len()] = 0;
        }
    }
}

/// Words of single numbers. The width that whole panels have most often has a loop of its own, which is unrolled.
#[inline(always)]
fn round(to: &mut [u32], numbers: &[f32]) {
    if let (Ok(to), Ok(numbers)) =
        (<&mut [u32; MAX_NR]>::try_from(&mut *to), <&[f32; MAX_NR]>::try_from(numbers))
    {
        for (to, &value) in to.iter_mut().zip(numbers) {
            *to = word(value);
        }
        return;
    }
    to.iter_mut().zip(numbers).for_each(|(to, &value)| *to = word(value));
}

/// Words of pairs, the same way.
#[inline(always)]
fn round_pairs(to: &mut [u32], even: &[f32], odd: &[f32]) {
    let whole = <&[f32; MAX_NR]>::try_from(even).ok().zip(<&[f32; MAX_NR]>::try_from(odd).ok());
    if let (Ok(to), Some((even, odd))) = (<&mut [u32; MAX_NR]>::try_from(&mut *to), whole) {
        for (to, (&even, &odd)) in to.iter_mut().zip(even.iter().zip(odd)) {
            *to = pair(even, odd);
        }
        return;
    }
    to.iter_mut().zip(even.iter().zip(odd)).for_each(|(to, (&even, &odd))| *to = pair(even, odd));
}

/// Words [_, width] of rows k of a matrix whose rows are `stride` apart: the first `count` columns, then zeros.
#[inline(always)]
fn round_columns(
    way: Way,
    words: &mut [u32],
    width: usize,
    source: &[f32],
    stride: usize,
    k: Range<usize>,
    count: usize,
) {
    let row = |k: usize| &source[k * stride..][..count];
    let pairs = words.chunks_exact_mut(width * 2 / way.per_word()).zip(k.clone().step_by(2));
    for (words, even) in pairs {
        let odd = (even + 1 < k.end).then_some(even + 1);
        if way.per_word() == 2 {
            let (to, rest) = words.split_at_mut(count);
            match odd {
                Some(odd) => round_pairs(to, row(even), row(odd)),
                None => to.iter_mut().zip(row(even)).for_each(|(to, &even)| *to = pair(even, 0.0)),
            }
            rest.fill(0);
        } else {
            for (words, k) in words.chunks_exact_mut(width).zip([Some(even), odd]) {
                let (to, rest) = words.split_at_mut(count);
                match k {
                    Some(k) => round(to, row(k)),
                    None => to.fill(0),
                }
                rest.fill(0);
            }
        }
    }
}

/// words [_, nr] = the transpose of the strip's first nr rows, in squares of four.
#[inline(always)]
fn transpose_strip(words: &mut [u32], strip: &[[u32; STRIP]; MAX_NR], nr: usize) {
    let count = words.len() / nr;
    for j in (0..nr).step_by(4) {
        for p in (0..count).step_by(4) {
            let square = std::array::from_fn(|r| {
                strip.get(j + r).map_or([0.0; 4], |row| std::array::from_fn(|c| f32::from_bits(row[p + c])))
            });
            for (r, values) in transposed(square).into_iter().enumerate().take(count - p) {
                let to = &mut words[(p + r) * nr + j..];
                let count = 4.min(nr - j);
                to[..count].copy_from_slice(&values.map(f32::to_bits)[..count]);
            }
        }
    }
}

/// How tiles multiply.
trait Multiply<S: Simd>: Copy {
    /// What rows of a are packed for.
    const WAY: Way;
    /// ROWS × VECTORS vectors of sums over some words. Element (i, p) of a lies at i · A_ROW + p · a_col.
    ///
    /// # Safety
    /// ROWS rows of a and a panel of as many words can be read, and the processor has the instructions.
    unsafe fn tile<const ROWS: usize, const A_ROW: usize>(
        simd: S,
        words: usize,
        a: *const u32,
        a_col: usize,
        b: *const u32,
        sums: [[S::f32s; VECTORS]; ROWS],
    ) -> [[S::f32s; VECTORS]; ROWS];
}

/// The sums that a step of one vector makes.
trait Step<S: Simd>: Copy {
    /// Words of a pair of k.
    const PAIR: usize;
    /// sums + a · b
    ///
    /// # Safety
    /// The processor has the instruction.
    unsafe fn step(simd: S, a: u32, b: S::f32s, sums: S::f32s) -> S::f32s;
}

#[derive(Clone, Copy)]
struct Fma;

impl<S: Simd> Multiply<S> for Fma {
    const WAY: Way = Way::Fma;
    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const A_ROW: usize>(
        simd: S,
        words: usize,
        a: *const u32,
        a_col: usize,
        b: *const u32,
        sums: [[S::f32s; VECTORS]; ROWS],
    ) -> [[S::f32s; VECTORS]; ROWS] {
        // SAFETY: as the caller promises.
        unsafe { tile::<S, Fma, ROWS, A_ROW>(simd, words, a, a_col, b, sums) }
    }
}

impl<S: Simd> Step<S> for Fma {
    const PAIR: usize = 2;
    #[inline(always)]
    unsafe fn step(simd: S, a: u32, b: S::f32s, sums: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(simd.splat_f32s(f32::from_bits(a)), b, sums)
    }
}

/// `Multiply::tile`, step by step.
///
/// # Safety
/// As there.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn tile<S: Simd, W: Step<S>, const ROWS: usize, const A_ROW: usize>(
    simd: S,
    words: usize,
    a: *const u32,
    a_col: usize,
    b: *const u32,
    mut sums: [[S::f32s; VECTORS]; ROWS],
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut p = 0;
    while p < words {
        for s in (0..W::PAIR).rev() {
            // SAFETY: words below `words`.
            unsafe {
                let b = b.add((p + s) * VECTORS * S::F32_LANES).cast::<f32>();
                let a = a.add((p + s) * a_col);
                let mut vectors = [simd.splat_f32s(0.0); VECTORS];
                for v in 0..VECTORS {
                    vectors[v] = load(simd, b.add(v * S::F32_LANES));
                }
                for i in 0..ROWS {
                    let factor = *a.add(i * A_ROW);
                    for v in 0..VECTORS {
                        sums[i][v] = W::step(simd, factor, vectors[v], sums[i][v]);
                    }
                }
            }
        }
        p += W::PAIR;
    }
    sums
}

/// Where a tile of out lies, and what is done to it.
struct Target<'a> {
    out: *mut f32,
    /// out from its first element on, as an index into what is added and into the mask
    at: usize,
    n: usize,
    rows: usize,
    columns: usize,
    /// what the sums begin with
    add: Add<'a>,
    /// relu and mask, for the last words of K
    relu: bool,
    mask: Option<&'a [f32]>,
}

impl Target<'_> {
    /// Row i of a matrix like out, in vectors; 0 beyond it.
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, simd: S, matrix: *const f32, i: usize) -> [S::f32s; VECTORS] {
        let mut vectors = [simd.splat_f32s(0.0); VECTORS];
        // SAFETY: rows and columns of the tile.
        unsafe {
            let from = matrix.add(i * self.n);
            if self.columns < VECTORS * S::F32_LANES {
                let mut row = [0f32; MAX_NR];
                std::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), self.columns);
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = load(simd, row.as_ptr().add(v * S::F32_LANES));
                }
            } else {
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = load(simd, from.add(v * S::F32_LANES));
                }
            }
        }
        vectors
    }

    /// What the sums begin with.
    #[inline(always)]
    unsafe fn begin<S: Simd, const ROWS: usize>(&self, simd: S) -> [[S::f32s; VECTORS]; ROWS] {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        let from = match self.add {
            Add::Nothing => return sums,
            Add::Out => self.out.cast_const(),
            Add::Matrix(matrix) => &raw const matrix[self.at],
        };
        for (i, sums) in sums.iter_mut().enumerate() {
            if i < self.rows {
                // SAFETY: a row of the tile.
                *sums = unsafe { self.read(simd, from, i) };
            }
        }
        sums
    }

    /// Relu, mask, and out.
    #[inline(always)]
    unsafe fn end<S: Simd, const ROWS: usize>(&self, simd: S, sums: [[S::f32s; VECTORS]; ROWS]) {
        let zero = simd.splat_f32s(0.0);
        for (i, mut sums) in sums.into_iter().enumerate() {
            if i >= self.rows {
                return;
            }
            if self.relu {
                // A comparison lets NaN through, a maximum might not.
                sums = sums.map(
                    #[inline(always)]
                    |x| simd.select_f32s(simd.less_than_f32s(x, zero), zero, x),
                );
            }
            // SAFETY: a row of the tile.
            unsafe {
                if let Some(mask) = self.mask {
                    let mask = self.read(simd, &raw const mask[self.at], i);
                    for (sums, mask) in sums.iter_mut().zip(mask) {
                        *sums = simd.select_f32s(simd.greater_than_f32s(mask, zero), *sums, zero);
                    }
                }
                let (to, lanes) = (self.out.add(i * self.n), S::F32_LANES);
                if self.columns < VECTORS * lanes {
                    let mut row = [0f32; MAX_NR];
                    sums.iter()
                        .enumerate()
                        .for_each(|(v, &sum)| store(simd, row.as_mut_ptr().add(v * lanes), sum));
                    std::ptr::copy_nonoverlapping(row.as_ptr(), to, self.columns);
                } else {
                    sums.iter().enumerate().for_each(|(v, &sum)| store(simd, to.add(v * lanes), sum));
                }
            }
        }
    }
}

/// Some rows of a block of out, from panels of b.
#[inline(always)]
fn rows_of<S: Simd, W: Multiply<S>, const ROWS: usize>(
    simd: S,
    block: &Block,
    panels: &[u32],
    out: Shared<f32>,
    rows: Range<usize>,
    fusion: Fusion,
    scratch: &mut [f32],
) {
    let (n, nr, words) = (block.product.n, VECTORS * S::F32_LANES, block.words);
    let padded = rows.len().next_multiple_of(ROWS);
    let a = as_u32s_mut(scratch);
    assert!(
        a.len() >= padded * words.next_multiple_of(TILE_WORDS)
            && panels.len() >= words * nr * block.columns.len().div_ceil(nr)
    );
    block.pack_rows(a, rows.clone(), padded);
    for word in (0..words).step_by(TILE_WORDS) {
        let count = TILE_WORDS.min(words - word);
        let first = block.k.start == 0 && word == 0;
        let last = block.k.end == block.product.k && word + count == words;
        for (panel, column) in panels.chunks_exact(words * nr).zip(block.columns.clone().step_by(nr)) {
            let b = &raw const panel[word * nr];
            for i in (0..rows.len()).step_by(ROWS) {
                let at = (rows.start + i) * n + column;
                // SAFETY: rows of this chunk, words of its a and of the panel.
                unsafe {
                    let target = Target {
                        out: out.as_mut_ptr().add(at),
                        at,
                        n,
                        rows: ROWS.min(rows.len() - i),
                        columns: nr.min(block.columns.end - column),
                        add: if first { fusion.add } else { Add::Out },
                        relu: last && fusion.relu,
                        mask: if last { fusion.mask } else { None },
                    };
                    let sums = target.begin::<S, ROWS>(simd);
                    let sums = if block.form == Form::TN && W::WAY != Way::Tile {
                        let a = &raw const a[word * padded + i];
                        W::tile::<ROWS, 1>(simd, count, a, padded, b, sums)
                    } else {
                        let a = &raw const a[word * padded + i * TILE_WORDS];
                        W::tile::<ROWS, TILE_WORDS>(simd, count, a, 1, b, sums)
                    };
                    target.end(simd, sums);
                }
            }
        }
    }
}

/// The same with as many rows in a tile as there are registers for.
#[inline(always)]
fn rows_by_fma<S: Simd>(
    simd: S,
    block: &Block,
    panels: &[u32],
    out: Shared<f32>,
    rows: Range<usize>,
    fusion: Fusion,
    scratch: &mut [f32],
) {
    if S::REGISTER_COUNT >= 32 {
        rows_of::<S, Fma, 12>(simd, block, panels, out, rows, fusion, scratch);
    } else {
        rows_of::<S, Fma, 6>(simd, block, panels, out, rows, fusion, scratch);
    }
}
dispatched!(rows_by_fma(
    block: &Block,
    panels: &[u32],
    out: Shared<f32>,
    rows: Range<usize>,
    fusion: Fusion,
    scratch: &mut [f32],
));

#[cfg(target_arch = "x86_64")]
mod dot {
    use super::*;
    use pulp::x86::V4;
    use std::arch::x86_64::*;
    use std::mem::transmute;

    #[derive(Clone, Copy)]
    struct Dot;

    impl Multiply<V4> for Dot {
        const WAY: Way = Way::Dot;
        #[inline(always)]
        unsafe fn tile<const ROWS: usize, const A_ROW: usize>(
            simd: V4,
            words: usize,
            a: *const u32,
            a_col: usize,
            b: *const u32,
            sums: [[pulp::f32x16; VECTORS]; ROWS],
        ) -> [[pulp::f32x16; VECTORS]; ROWS] {
            // SAFETY: as the caller promises.
            unsafe { super::tile::<V4, Dot, ROWS, A_ROW>(simd, words, a, a_col, b, sums) }
        }
    }

    impl Step<V4> for Dot {
        const PAIR: usize = 1;
        #[inline(always)]
        unsafe fn step(_: V4, a: u32, b: pulp::f32x16, sums: pulp::f32x16) -> pulp::f32x16 {
            // SAFETY: the caller has asked for the instruction; all are vectors of 512 bits.
            unsafe {
                let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a.cast_signed()));
                transmute(_mm512_dpbf16_ps(
                    transmute::<pulp::f32x16, __m512>(sums),
                    a,
                    transmute::<pulp::f32x16, __m512bh>(b),
                ))
            }
        }
    }

    /// # Safety
    /// The processor has AVX512-BF16.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt"
    )]
    pub unsafe fn rows(
        simd: V4,
        block: &Block,
        panels: &[u32],
        out: Shared<f32>,
        rows: Range<usize>,
        fusion: Fusion,
        scratch: &mut [f32],
    ) {
        rows_of::<V4, Dot, 12>(simd, block, panels, out, rows, fusion, scratch);
    }
}

/// AMX: matrices in registers. A tile of out is four of them, 16 × 16 each; a has two, of 16 rows and TILE_K numbers, and a
/// panel of b two, of TILE_K / 2 words in 16 columns.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::*;
    use pulp::x86::V4;
    use std::arch::asm;

    /// What linux/arch/x86 calls ARCH_REQ_XCOMP_PERM, and the state of the tiles.
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;

    /// Whether the processor has it and the system lets this process use it, which has to be asked for.
    pub fn is_ready() -> bool {
        static READY: OnceLock<bool> = OnceLock::new();
        *READY.get_or_init(|| {
            let features = raw_cpuid::CpuId::new().get_extended_feature_info();
            matches!(super::super::simd::arch(), pulp::Arch::V4(_))
                && features.is_some_and(|has| has.has_amx_tile() && has.has_amx_bf16())
                // SAFETY: a request of numbers; systems that do not know it refuse.
                && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0
        })
    }

    /// The sizes of the tiles, as `ldtilecfg` reads them: all of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Sizes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    static SIZES: Sizes = Sizes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    #[derive(Clone, Copy)]
    struct Tiles;

    impl Multiply<V4> for Tiles {
        const WAY: Way = Way::Tile;
        #[inline(always)]
        unsafe fn tile<const ROWS: usize, const A_ROW: usize>(
            _: V4,
            words: usize,
            a: *const u32,
            _: usize,
            b: *const u32,
            mut sums: [[pulp::f32x16; VECTORS]; ROWS],
        ) -> [[pulp::f32x16; VECTORS]; ROWS] {
            const { assert!(ROWS == TILE_ROWS && VECTORS == 2) };
            // SAFETY: ROWS rows of sums and of a, words of a panel; the tiles have their sizes.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {b_row}]",
                    "tileloadd tmm1, [{sums} + {b_row} + 64]",
                    "tileloadd tmm2, [{sums} + {b_row} + 16 * 128]",
                    "tileloadd tmm3, [{sums} + {b_row} + 16 * 128 + 64]",
                    "2:",
                    "tileloadd tmm4, [{a} + {a_row}]",
                    "tileloadd tmm6, [{b} + {b_row}]",
                    "tileloadd tmm7, [{b} + {b_row} + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a_low} + {a_row}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a}, 64",
                    "add {a_low}, 64",
                    "add {b}, 16 * 128",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {b_row}], tmm0",
                    "tilestored [{sums} + {b_row} + 64], tmm1",
                    "tilestored [{sums} + {b_row} + 16 * 128], tmm2",
                    "tilestored [{sums} + {b_row} + 16 * 128 + 64], tmm3",
                    sums = in(reg) sums.as_mut_ptr(),
                    a = inout(reg) a => _,
                    a_low = inout(reg) a.add(16 * A_ROW) => _,
                    a_row = in(reg) 4 * A_ROW,
                    b = inout(reg) b => _,
                    b_row = in(reg) 128usize,
                    steps = inout(reg) words / 16 => _,
                    options(nostack),
                );
            }
            sums
        }
    }

    /// # Safety
    /// `is_ready`.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt")]
    pub unsafe fn rows(
        simd: V4,
        block: &Block,
        panels: &[u32],
        out: Shared<f32>,
        rows: Range<usize>,
        fusion: Fusion,
        scratch: &mut [f32],
    ) {
        // SAFETY: the caller has asked; the compiler has no use for these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SIZES, options(nostack)) };
        rows_of::<V4, Tiles, TILE_ROWS>(simd, block, panels, out, rows, fusion, scratch);
        // SAFETY: the same.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}

#[inline(always)]
fn pack_panel<S: Simd>(_: S, block: &Block, panel: &mut [u32], first: usize) {
    block.pack_panel(panel, first, VECTORS * S::F32_LANES);
}
dispatched!(pack_panel(block: &Block, panel: &mut [u32], first: usize));

#[inline(always)]
fn panel_columns<S: Simd>(_: S) -> usize {
    VECTORS * S::F32_LANES
}
dispatched!(panel_columns() -> usize);

/// Parts of `length` of at most `most` each, as even as possible in multiples of `unit`.
fn even_parts(length: usize, most: usize, unit: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let parts = length.div_ceil(most);
    (0..parts).map(move |i| part_of(length, unit, parts, i))
}

/// The whole kernel.
pub fn product(
    pool: &mut Pool,
    memory: &mut Panels,
    way: Way,
    out: &mut [f32],
    form: Form,
    product: &Product,
    fusion: Fusion,
) {
    let (n, k) = (product.n, product.k);
    let m = out.len() / n;
    let nr = panel_columns::dispatch();
    let out = Shared::new(out);
    for k in even_parts(k, K_WORDS * way.per_word(), way.k_unit()) {
        let words = k.len().next_multiple_of(way.k_unit()) / way.per_word();
        let columns_at_once = (PANEL_WORDS / words).max(nr);
        for columns in even_parts(n, columns_at_once, nr) {
            let block = Block { product, form, way, m, k: k.clone(), words, columns };
            let count = block.columns.len().div_ceil(nr);
            let panels = memory.words(count * words * nr);
            let parts = super::chunks_for(pool, panels.len(), PACK_GRAIN).min(count);
            let shared = Shared::new(panels);
            pool.run(parts, |i| {
                for panel in part_of(count, 1, parts, i) {
                    // SAFETY: panels of different chunks do not overlap.
                    let words = unsafe { shared.part(panel * words * nr..(panel + 1) * words * nr) };
                    pack_panel::dispatch(&block, words, block.columns.start + panel * nr);
                }
            });
            let panels: &[u32] = memory.words(count * words * nr);
            let parts = row_parts(pool.threads(), way.rows(), [m, block.columns.len(), k.len()]);
            pool.run(parts, |i| {
                let rows = part_of(m, way.rows(), parts, i);
                let scratch = rows.len().next_multiple_of(way.rows()) * words.next_multiple_of(TILE_WORDS);
                with_scratch(scratch, |scratch| match way {
                    Way::Fma => rows_by_fma::dispatch(&block, panels, out, rows, fusion, scratch),
                    Way::Dot => {
                        #[cfg(target_arch = "x86_64")]
                        if let pulp::Arch::V4(simd) = super::simd::arch() {
                            // SAFETY: `Way::best` chooses it where the processor has it.
                            unsafe { dot::rows(simd, &block, panels, out, rows, fusion, scratch) }
                        }
                    }
                    Way::Tile => {
                        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                        if let pulp::Arch::V4(simd) = super::simd::arch() {
                            // SAFETY: `Way::best` chooses it where it is ready.
                            unsafe { amx::rows(simd, &block, panels, out, rows, fusion, scratch) }
                        }
                    }
                });
            });
        }
    }
}

/// How many parts to cut the rows of out into. `unit` rows are a tile's.
fn row_parts(threads: usize, unit: usize, [m, n, k]: [usize; 3]) -> usize {
    let least = m.div_ceil(MAX_ROWS);
    if threads == 1 {
        return least;
    }
    let useful = (m * n * k / FLOP_GRAIN).clamp(1, m.div_ceil(unit));
    let wanted = useful.min(2 * threads).max(least);
    if wanted > threads { wanted.next_multiple_of(threads).min(m.div_ceil(unit)) } else { wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sum in the order that is promised, from numbers rounded by the plain rule.
    fn naive(
        way: Way,
        form: Form,
        a: &[f32],
        b: &[f32],
        [m, n, k]: [usize; 3],
        start: impl Fn(usize) -> f32,
    ) -> Vec<f32> {
        let rounded = |value: f32| f32::from_bits(word(value));
        let mut out = vec![0.0; m * n];
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let term = |p: usize| {
                let left = if form == Form::TN { a[p * m + i] } else { a[i * k + p] };
                let right = if form == Form::NT { b[j * k + p] } else { b[p * n + j] };
                rounded(left) * rounded(right)
            };
            let mut sum = start(i * n + j);
            if way == Way::Tile {
                for first in (0..k).step_by(TILE_K) {
                    let of =
                        |p: usize| (p..k.min(first + TILE_K)).step_by(2).map(term).fold(0.0, |a, b| a + b);
                    sum += of(first) + of(first + 1);
                }
            } else {
                for even in (0..k).step_by(2) {
                    [even + 1, even].into_iter().filter(|&p| p < k).for_each(|p| sum += term(p));
                }
            }
            out[i * n + j] = sum;
        }
        out
    }

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i + salt) * 7919 % 10_007) as f32 / 3000.0 - 1.6).collect()
    }

    fn ways() -> Vec<Way> {
        let mut ways = vec![Way::Fma];
        #[cfg(target_arch = "x86_64")]
        if Way::has_dot() {
            ways.push(Way::Dot);
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::is_ready() {
            ways.push(Way::Tile);
        }
        ways
    }

    #[test]
    fn every_form_and_fusion_has_the_promised_bits() {
        let sizes = [
            [1, 1, 1],
            [3, 97, 12],
            [13, 33, 7],
            [24, 64, 300],
            [130, 65, 129],
            [40, 9, 4099],
            [7, 2100, 521],
        ];
        for [m, n, k] in sizes {
            for form in [Form::NT, Form::NN, Form::TN] {
                let (a, b, other, old) = (noise(m * k, 1), noise(n * k, 2), noise(m * n, 3), noise(m * n, 4));
                for (add, relu, mask) in
                    [(0, false, false), (1, true, false), (2, false, true), (0, true, false)]
                {
                    let expected = |way| {
                        let mut expected =
                            naive(way, form, &a, &b, [m, n, k], |i| [0.0, old[i], other[i]][add]);
                        for (sum, other) in expected.iter_mut().zip(&other) {
                            let keep = (!relu || *sum >= 0.0) && (!mask || *other > 0.0);
                            *sum = if keep { *sum } else { 0.0 };
                        }
                        expected
                    };
                    let fusion = Fusion {
                        add: [Add::Nothing, Add::Out, Add::Matrix(&other)][add],
                        relu,
                        mask: mask.then_some(&other[..]),
                    };
                    for (way, threads) in
                        ways().into_iter().flat_map(|way| [1, 2, 3].map(|threads| (way, threads)))
                    {
                        let expected = expected(way);
                        let (mut pool, mut out) = (Pool::new(threads).unwrap(), old.clone());
                        let operands = Product::new(form, &a, &b, m, n, k);
                        product(&mut pool, &mut Panels::default(), way, &mut out, form, &operands, fusion);
                        assert_eq!(
                            out, expected,
                            "{form:?} {way:?} {m} {n} {k}, {threads} threads, add {add}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays() {
        let (m, n, k) = (14, 35, 9);
        for form in [Form::NT, Form::NN, Form::TN] {
            for (bad, way) in [f32::NAN, f32::INFINITY]
                .into_iter()
                .flat_map(|bad| ways().into_iter().map(move |w| (bad, w)))
            {
                let (mut a, b) = (noise(m * k, 1), vec![1.0; n * k]);
                a[if form == Form::TN { 8 * m + 5 } else { 5 * k + 8 }] = bad; // row 5, the last k
                let (mut pool, mut out) = (Pool::new(2).unwrap(), vec![0.0; m * n]);
                let fusion = Fusion { add: Add::Nothing, relu: true, mask: None };
                let operands = Product::new(form, &a, &b, m, n, k);
                product(&mut pool, &mut Panels::default(), way, &mut out, form, &operands, fusion);
                for (i, &value) in out.iter().enumerate() {
                    let expected = if i / n != 5 {
                        value.is_finite()
                    } else if bad.is_nan() {
                        value.is_nan()
                    } else {
                        value == bad
                    };
                    assert!(expected, "{form:?} {way:?} {bad}: {i} is {value}");
                }
            }
        }
    }

    /// `cargo test --release -- --ignored --nocapture speed_of_bf16`
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_bf16() {
        let mut pool = Pool::new(2).unwrap();
        let mut memory = Panels::default();
        let t = 1243;
        for (form, [m, n, k]) in [
            (Form::NT, [t, 1024, 256]),
            (Form::NT, [t, 256, 1024]),
            (Form::NT, [t, 768, 256]),
            (Form::NT, [t, 256, 256]),
            (Form::NT, [512, 4096, 256]),
            (Form::NN, [t, 1024, 256]),
            (Form::NN, [t, 256, 1024]),
            (Form::NN, [t, 256, 768]),
            (Form::NN, [512, 256, 4096]),
            (Form::TN, [1024, 256, t]),
            (Form::TN, [256, 1024, t]),
            (Form::TN, [768, 256, t]),
            (Form::TN, [256, 256, t]),
            (Form::TN, [4096, 256, 512]),
            (Form::NT, [500, 256, 64]),
            (Form::NN, [500, 64, 256]),
            (Form::TN, [64, 256, 500]),
            (Form::TN, [64, 64, 500]),
        ] {
            let (a, b) = (noise(m * k, 1), noise(n * k, 2));
            let mut out = vec![0.0; m * n];
            let fusion = Fusion { add: Add::Nothing, relu: false, mask: None };
            let operands = Product::new(form, &a, &b, m, n, k);
            let mut line = format!("{form:?} {m} x {n} x {k}:");
            for way in ways() {
                let mut best = f64::INFINITY;
                for _ in 0..60 {
                    let start = std::time::Instant::now();
                    product(&mut pool, &mut memory, way, &mut out, form, &operands, fusion);
                    best = best.min(start.elapsed().as_secs_f64());
                }
                line += &format!(" {way:?} {:.0}", (2 * m * n * k) as f64 / best / 1e9);
            }
            let mut best = f64::INFINITY;
            for _ in 0..60 {
                let start = std::time::Instant::now();
                crate::kernels::matmul::tests::run(&mut pool, &mut out, form, &a, &b, [m, n, k]);
                best = best.min(start.elapsed().as_secs_f64());
            }
            line += &format!(" f32 {:.0}", (2 * m * n * k) as f64 / best / 1e9);
            println!("{line}");
        }
    }
}
