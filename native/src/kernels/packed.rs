//! Weights that are only read, W [N, K], in f32, bf16, f16 or Q8_0, in the order in which products want them.
//!
//! Rows of W are columns of out = x · Wᵀ. 32 of them make a panel, which holds, for one k after the other, its 32 numbers
//! side by side: a product reads a panel from its start to its end, multiplies a vector of columns by one number of x, and
//! never adds up the lanes of a vector. Q8_0 is ggml's: 32 numbers of a row share a scale d, an f16, and are d · q with q a
//! byte. A panel has, for each 32 k, the 32 scales of its rows and then 32 × 32 bytes. d · q is exact in f32. The rows that
//! the last panel lacks are zeros.

use super::shared::{Shared, part_of};
use super::widen::{f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::device::with_device;
use crate::handles::NONE;
use crate::pool::Pool;
use crate::status::{input, output};
use crate::tensors::{Span, Tensors, as_bytes, as_bytes_mut};

/// Rows of W in a panel.
pub const PANEL: usize = 32;
/// Numbers of a row of W that share a scale; products take so many k together, whatever the kind.
pub const BLOCK: usize = 32;

/// Element types, as numbered by native/weights.ts. Products are generic over `Kind as u8`.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(u8)]
pub enum Kind {
    F32,
    Bf16,
    F16,
    Q8,
}

pub const F32: u8 = Kind::F32 as u8;
pub const BF16: u8 = Kind::Bf16 as u8;
pub const F16: u8 = Kind::F16 as u8;
pub const Q8: u8 = Kind::Q8 as u8;

/// Bytes of Q8_0's scales before the numbers of 32 k in a panel.
pub const SCALES: usize = 2 * PANEL;
/// Bytes of 32 numbers of a row in Q8_0, as files have them: the scale, then the numbers.
const FILE_BLOCK: usize = 2 + BLOCK;

impl Kind {
    fn of(number: u32) -> Result<Kind, String> {
        let kinds = [Kind::F32, Kind::Bf16, Kind::F16, Kind::Q8];
        kinds.get(number as usize).copied().ok_or_else(|| format!("there is no kind {number} of weights"))
    }

    /// Bytes of 32 k in a panel.
    pub const fn block_bytes(self) -> usize {
        match self {
            Kind::F32 => 4 * BLOCK * PANEL,
            Kind::Bf16 | Kind::F16 => 2 * BLOCK * PANEL,
            Kind::Q8 => SCALES + BLOCK * PANEL,
        }
    }

    /// Bytes of a panel: what is left of K after whole blocks takes its share.
    pub fn panel_bytes(self, k: usize) -> usize {
        self.block_bytes() * (k / BLOCK) + self.block_bytes() / BLOCK * (k % BLOCK)
    }

    /// Bytes of a row of K numbers in a file.
    fn row_bytes(self, k: usize) -> usize {
        match self {
            Kind::F32 => 4 * k,
            Kind::Bf16 | Kind::F16 => 2 * k,
            Kind::Q8 => k / BLOCK * FILE_BLOCK,
        }
    }
}

/// Kind and shape of weights, checked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    pub kind: Kind,
    pub n: usize,
    pub k: usize,
}

impl Shape {
    /// Refuses Q8_0 of rows that are no whole blocks.
    pub fn new(kind: u32, n: u32, k: u32) -> Result<Shape, String> {
        let kind = Kind::of(kind)?;
        if kind == Kind::Q8 && !(k as usize).is_multiple_of(BLOCK) {
            return Err(format!("rows of {k} are no whole blocks of {BLOCK}, as q8 wants them"));
        }
        Ok(Shape { kind, n: n as usize, k: k as usize })
    }

    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Elements of 32 bits that it takes; too many to exist where a size overflows.
    fn words(&self) -> usize {
        self.panels().saturating_mul(self.kind.panel_bytes(self.k)) / 4
    }

    /// The whole of a tensor that was allocated for this shape.
    pub fn span(&self, handle: u32) -> Span {
        Span { handle, offset: 0.0, len: self.words() }
    }
}

/// Weights to read.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    pub shape: Shape,
    bytes: &'a [u8],
}

impl<'a> Packed<'a> {
    /// `words` is the whole tensor, see `Shape::span`.
    pub fn new(shape: Shape, words: &'a [f32]) -> Self {
        let bytes = as_bytes(words);
        assert_eq!(bytes.len(), shape.panels() * shape.kind.panel_bytes(shape.k));
        Packed { shape, bytes }
    }

    pub fn panel(&self, index: usize) -> &'a [u8] {
        let len = self.shape.kind.panel_bytes(self.shape.k);
        &self.bytes[index * len..][..len]
    }

    /// Row `row` of W as f32, times 1, or added to what `out` [K] holds.
    pub fn row(&self, row: usize, out: &mut [f32], add: bool) {
        let Shape { kind, n, k } = self.shape;
        assert!(row < n && out.len() == k);
        let (panel, column) = (self.panel(row / PANEL), row % PANEL);
        let halves = |at: usize| u16::from_le_bytes([panel[2 * at], panel[2 * at + 1]]);
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let start = block * kind.block_bytes();
            let scale = if kind == Kind::Q8 { f16_to_f32(halves(start / 2 + column)) } else { 1.0 };
            for (i, out) in out.iter_mut().enumerate() {
                let at = i * PANEL + column;
                let value = match kind {
                    Kind::F32 => f32::from_le_bytes(*panel[start + 4 * at..].first_chunk().unwrap()),
                    Kind::Bf16 => f32::from_bits(u32::from(halves(start / 2 + at)) << 16),
                    Kind::F16 => f16_to_f32(halves(start / 2 + at)),
                    Kind::Q8 => f32::from(panel[start + SCALES + at] as i8) * scale,
                };
                *out = if add { *out + value } else { value };
            }
        }
    }
}

/// The numbers of a row as f32. Their kind is the file's.
fn decode(source: Kind, row: &[u8], values: &mut [f32]) {
    let half = |i: usize| u16::from_le_bytes([row[2 * i], row[2 * i + 1]]);
    match source {
        Kind::F32 => values
            .iter_mut()
            .zip(row.chunks_exact(4))
            .for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes.first_chunk().unwrap())),
        Kind::Bf16 => {
            values.iter_mut().enumerate().for_each(|(i, v)| *v = f32::from_bits(u32::from(half(i)) << 16));
        }
        Kind::F16 => values.iter_mut().enumerate().for_each(|(i, v)| *v = f16_to_f32(half(i))),
        Kind::Q8 => {
            for (values, block) in values.chunks_exact_mut(BLOCK).zip(row.chunks_exact(FILE_BLOCK)) {
                let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                for (value, &q) in values.iter_mut().zip(&block[2..]) {
                    *value = scale * f32::from(q as i8);
                }
            }
        }
    }
}

/// Rounds 32 numbers as ggml does (`quantize_row_q8_0_ref` of ggml-quants.c): d = max |x| / 127, q = x / d with halves away from
/// zero, and only then d as an f16.
fn quantize(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let d = largest / 127.0;
    let inverse = if d > f32::from_bits(0x0040_0000) { 1.0 / d } else { 0.0 }; // 2⁻¹²⁷: below, 1 / d may be infinite
    block[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    for (q, value) in block[2..].iter_mut().zip(values) {
        *q = (value * inverse).round() as i8 as u8;
    }
}

/// A row of f32 as the bytes of a kind, in the order of a file.
fn encode(kind: Kind, values: &[f32], row: &mut [u8]) {
    let halves = |row: &mut [u8], round: fn(f32) -> u16| {
        for (bytes, &value) in row.chunks_exact_mut(2).zip(values) {
            bytes.copy_from_slice(&round(value).to_le_bytes());
        }
    };
    match kind {
        Kind::F32 => {
            for (bytes, value) in row.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        Kind::Bf16 => halves(row, f32_to_bf16),
        Kind::F16 => halves(row, f32_to_f16),
        Kind::Q8 => {
            for (block, values) in row.chunks_exact_mut(FILE_BLOCK).zip(values.chunks_exact(BLOCK)) {
                quantize(values, block);
            }
        }
    }
}

/// Puts a row, in the order of a file, to its place in its panel.
fn scatter(kind: Kind, row: &[u8], panel: &mut [u8], column: usize) {
    let elements = |row: &[u8], panel: &mut [u8], bytes: usize| {
        for (i, element) in row.chunks_exact(bytes).enumerate() {
            panel[(i * PANEL + column) * bytes..][..bytes].copy_from_slice(element);
        }
    };
    match kind {
        Kind::F32 => elements(row, panel, 4),
        Kind::Bf16 | Kind::F16 => elements(row, panel, 2),
        Kind::Q8 => {
            let blocks = row.chunks_exact(FILE_BLOCK).zip(panel.chunks_exact_mut(kind.block_bytes()));
            for (block, panel) in blocks {
                panel[2 * column..][..2].copy_from_slice(&block[..2]);
                elements(&block[2..], &mut panel[SCALES..], 1);
            }
        }
    }
}

/// Writes rows from `first` on, given as a file has them, and rounds them where the kinds differ. Returns the place of the first
/// number that is not finite, or that the weights' kind cannot hold; then the rows are in no defined state.
fn write_rows(
    pool: &mut Pool,
    shape: Shape,
    words: &mut [f32],
    first: usize,
    source: Kind,
    rows: &[u8],
) -> Option<usize> {
    let Shape { kind, k, .. } = shape;
    let (source_bytes, row_bytes, panel_bytes) =
        (source.row_bytes(k), kind.row_bytes(k), kind.panel_bytes(k));
    let count = rows.len() / source_bytes.max(1);
    let panels = first / PANEL..(first + count).div_ceil(PANEL);
    let mut bad = vec![usize::MAX; panels.len()];
    let (bytes, found) = (Shared::new(as_bytes_mut(words)), Shared::new(&mut bad));
    let chunks = super::chunks_for(pool, count * k, super::GRAIN).min(panels.len());
    pool.run(chunks, |chunk| {
        let (mut values, mut converted) = (vec![0.0; k], vec![0; row_bytes]);
        for i in part_of(panels.len(), 1, chunks, chunk) {
            let index = panels.start + i;
            // SAFETY: panels of different chunks differ.
            let (panel, bad) = unsafe {
                (bytes.part(index * panel_bytes..(index + 1) * panel_bytes), &mut found.part(i..i + 1)[0])
            };
            for row in (index * PANEL).max(first)..((index + 1) * PANEL).min(first + count) {
                let bytes = &rows[(row - first) * source_bytes..][..source_bytes];
                decode(source, bytes, &mut values);
                let mut place = values.iter().position(|value| !value.is_finite());
                if source == kind {
                    scatter(kind, bytes, panel, row % PANEL);
                } else {
                    encode(kind, &values, &mut converted);
                    if kind != Kind::F32 {
                        decode(kind, &converted, &mut values);
                        place = place.or_else(|| values.iter().position(|value| !value.is_finite()));
                    }
                    scatter(kind, &converted, panel, row % PANEL);
                }
                if let Some(place) = place.filter(|_| *bad == usize::MAX) {
                    *bad = (row - first) * k + place;
                }
            }
        }
    });
    bad.into_iter().find(|&place| place != usize::MAX)
}

/// Allocates weights [rows, cols] of zeros. Their number goes to `handle[0]`; it is 2³² − 1 when memory runs out.
///
/// # Safety
/// `handle` points to `handle_len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_allocate_weights(
    device: u32,
    kind: u32,
    rows: u32,
    cols: u32,
    handle: *mut u32,
    handle_len: u32,
) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let [handle] = (unsafe { output(handle, handle_len as usize, "handle") })? else {
            return Err("handle must have one element".into());
        };
        let shape = Shape::new(kind, rows, cols)?;
        *handle = d.tensors.allocate_streamed(shape.words() as f64).unwrap_or(NONE);
        Ok(())
    })
}

/// Writes rows of weights [rows, cols] from row `first` on. `data` holds them as a file has them, in the kind `source`: numbers in
/// little endian, or blocks of Q8_0. `bad[0]` becomes 1 and `bad[1]` the place in `data`, in numbers, where one is not finite or too
/// large for the weights' kind; else `bad[0]` becomes 0.
///
/// # Safety
/// `data` points to `data_len` bytes, `bad` to `bad_len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_write_weights(
    device: u32,
    weights: u32,
    kind: u32,
    rows: u32,
    cols: u32,
    first: u32,
    source: u32,
    data: *const u8,
    data_len: u32,
    bad: *mut u32,
    bad_len: u32,
) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let (data, bad) =
            unsafe { (input(data, data_len as usize, "data")?, output(bad, bad_len as usize, "bad")?) };
        let [found, place] = bad else { return Err("bad must have two elements".into()) };
        let shape = Shape::new(kind, rows, cols)?;
        let source = Shape::new(source, rows, cols)?.kind;
        let row = source.row_bytes(shape.k);
        if row == 0 || !data.len().is_multiple_of(row) || first as usize + data.len() / row > shape.n {
            return Err(format!("{} bytes are no rows of {row} from row {first} of {rows} on", data.len()));
        }
        let words = weights_of(&mut d.tensors, shape, weights)?;
        let at = write_rows(&mut d.pool, shape, words, first as usize, source, data);
        (*found, *place) = (u32::from(at.is_some()), at.unwrap_or(0) as u32);
        Ok(())
    })
}

/// The words of weights, to write.
fn weights_of(tensors: &mut Tensors, shape: Shape, handle: u32) -> Result<&mut [f32], String> {
    let ([words], []) = tensors.operands([shape.span(handle)], [])?;
    Ok(words)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const KINDS: [Kind; 4] = [Kind::F32, Kind::Bf16, Kind::F16, Kind::Q8];

    /// Packs numbers, and returns what they became.
    pub fn packed(kind: Kind, values: &[f32], n: usize, k: usize) -> (Shape, Vec<f32>, Vec<f32>) {
        let shape = Shape::new(kind as u32, n as u32, k as u32).unwrap();
        let mut words = vec![0.0; shape.words()];
        let mut pool = Pool::new(2).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        // In two parts, the second starting in the middle of a panel.
        let half = n / 2;
        let (one, two) = bytes.split_at(half * k * 4);
        assert_eq!(write_rows(&mut pool, shape, &mut words, 0, Kind::F32, one), None);
        assert_eq!(write_rows(&mut pool, shape, &mut words, half, Kind::F32, two), None);
        let mut rounded = vec![0.0; n * k];
        let packed = Packed::new(shape, &words);
        rounded.chunks_exact_mut(k).enumerate().for_each(|(row, out)| packed.row(row, out, false));
        (shape, words, rounded)
    }

    fn noise(len: usize) -> Vec<f32> {
        crate::kernels::attention::tests::noise(len, 7)
    }

    #[test]
    fn rows_come_back_as_near_as_their_kind_allows() {
        for (n, k) in [(1, 32), (33, 64), (70, 96)] {
            let values = noise(n * k);
            for (kind, tolerance) in KINDS.into_iter().zip([0.0, 1.0 / 256.0, 1.0 / 2048.0, 1.0 / 127.0]) {
                let (_, _, rounded) = packed(kind, &values, n, k);
                for (block, (given, got)) in values.chunks(32).zip(rounded.chunks(32)).enumerate() {
                    let largest = given.iter().fold(0f32, |m, v| m.max(v.abs()));
                    for (given, got) in given.iter().zip(got) {
                        let scale = if kind == Kind::Q8 { largest } else { given.abs() };
                        assert!(
                            (given - got).abs() <= tolerance * scale,
                            "{kind:?} {block}: {given} became {got}"
                        );
                    }
                }
            }
        }
        // Other kinds than Q8 take any length.
        for (kind, k) in KINDS[..3].iter().flat_map(|&kind| [1, 5, 45].map(|k| (kind, k))) {
            let whole = noise(3 * k).map_to(|v| (v * 8.0).round()); // each of these kinds holds it exactly
            assert_eq!(packed(kind, &whole, 3, k).2, whole, "{kind:?} {k}");
        }
        assert!(Shape::new(Kind::Q8 as u32, 3, 45).is_err() && Shape::new(4, 3, 32).is_err());
    }

    trait MapTo {
        fn map_to(self, f: impl Fn(f32) -> f32) -> Vec<f32>;
    }
    impl MapTo for Vec<f32> {
        fn map_to(self, f: impl Fn(f32) -> f32) -> Vec<f32> {
            self.into_iter().map(f).collect()
        }
    }

    #[test]
    fn what_has_its_kind_already_is_taken_as_it_is() {
        let (n, k) = (40, 64);
        for kind in KINDS {
            let mut row = vec![0; kind.row_bytes(n * k)];
            encode(kind, &noise(n * k), &mut row);
            let mut expected = vec![0.0; n * k];
            decode(kind, &row, &mut expected);
            for target in [kind, Kind::F32] {
                let shape = Shape::new(target as u32, n as u32, k as u32).unwrap();
                let mut words = vec![0.0; shape.words()];
                assert_eq!(write_rows(&mut Pool::new(1).unwrap(), shape, &mut words, 0, kind, &row), None);
                let mut got = vec![0.0; k];
                for (i, expected) in expected.chunks_exact(k).enumerate() {
                    Packed::new(shape, &words).row(i, &mut got, false);
                    assert_eq!(got, expected, "{kind:?} as {target:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_found() {
        let (n, k) = (70, 64);
        for (kind, value) in [
            (Kind::F32, f32::NAN),
            (Kind::Bf16, f32::INFINITY),
            (Kind::F16, 70_000.0),
            (Kind::Q8, 1e9),
            (Kind::Q8, f32::NAN),
        ] {
            let shape = Shape::new(kind as u32, n as u32, k as u32).unwrap();
            let mut words = vec![0.0; shape.words()];
            let mut values = noise(n * k);
            values[33 * k + 32] = value;
            values[50 * k] = value;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let found = write_rows(&mut Pool::new(2).unwrap(), shape, &mut words, 0, Kind::F32, &bytes);
            assert_eq!(found, Some(33 * k + 32), "{kind:?} {value}");
        }
    }
}
