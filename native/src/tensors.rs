//! The memory of a device: matrices of 32-bit elements, known to the caller by number.

use crate::handles::Table;
use crate::pool::Pool;
use crate::zeros::Zeros;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

/// Tensors start at a cache line, and no two share one.
const ALIGNMENT: usize = 64;
/// Elements from which on a tensor asks for large pages: parameters and their like, of which no end stays untouched.
const LARGE: usize = 4 << 20;

/// Zeroed 32-bit elements. Memory that was never touched costs nothing: the system hands out its zero pages lazily.
struct Buffer {
    allocation: NonNull<u8>,
    layout: Layout,
    data: NonNull<u32>,
    len: usize,
    zeros: Zeros,
}

// SAFETY: a Buffer owns its memory; `Tensors` hands it out under Rust's borrowing rules.
unsafe impl Send for Buffer {}

impl Buffer {
    /// None when memory runs out.
    fn new(len: usize, large_pages: bool) -> Option<Buffer> {
        // Asking the allocator for 64 would make it write the zeros itself and so touch every page.
        let layout = Layout::array::<u32>(len.checked_add(2 * ALIGNMENT / 4)?).ok()?.align_to(16).ok()?;
        // SAFETY: the layout is not empty.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        if large_pages {
            prefer_large_pages(allocation.as_ptr(), layout.size());
        }
        let skip = allocation.align_offset(ALIGNMENT);
        // SAFETY: skip < ALIGNMENT, and that much was added to the layout.
        let data = unsafe { allocation.add(skip) }.cast();
        Some(Buffer { allocation, layout, data, len, zeros: Zeros::default() })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// Asks for pages of 2 MiB instead of 4 KiB: who reads many megabytes then looks up fewer addresses. Many systems give them to
/// those alone who ask. Neighbours that ask share such pages, so that it pays for smaller allocations, too.
fn prefer_large_pages(start: *mut u8, len: usize) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let (first, end) = (start.addr().next_multiple_of(PAGE), (start.addr() + len) / PAGE * PAGE);
        if first < end {
            // SAFETY: whole pages of the allocation. It is advice: where it is not followed, nothing changes.
            unsafe { libc::madvise(start.with_addr(first).cast(), end - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}

/// Part of a tensor as the caller names it: elements `offset … offset + len` of tensor `handle`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub handle: u32,
    pub offset: f64,
    pub len: usize,
}

/// All tensors of a device.
pub struct Tensors {
    buffers: Table<Buffer>,
}

impl Default for Tensors {
    fn default() -> Self {
        Tensors { buffers: Table::new("tensor") }
    }
}

impl Tensors {
    /// A zeroed tensor of `len` elements; None when memory runs out.
    pub fn allocate(&mut self, len: f64) -> Option<u32> {
        let len = as_index(len)?;
        Some(self.buffers.insert(Buffer::new(len, len >= LARGE)?))
    }

    /// The same for elements that are read from start to end, again and again.
    pub fn allocate_streamed(&mut self, len: f64) -> Option<u32> {
        Some(self.buffers.insert(Buffer::new(as_index(len)?, true)?))
    }

    /// Frees the memory; does nothing when it was freed already.
    pub fn free(&mut self, handle: u32) {
        self.buffers.remove(handle);
    }

    /// The elements that a span names, and the first of them.
    fn locate(&self, span: Span) -> Result<(Range<usize>, NonNull<u32>), String> {
        let buffer = self.buffers.get(span.handle)?;
        let offset = as_index(span.offset).filter(|&offset| offset.saturating_add(span.len) <= buffer.len);
        let offset = offset.ok_or_else(|| {
            format!("{} elements from {} of a tensor of {}", span.len, span.offset, buffer.len)
        })?;
        // SAFETY: within the buffer.
        Ok((offset..offset + span.len, unsafe { buffer.data.add(offset) }))
    }

    fn zeros_of(&mut self, handle: u32) -> Option<&mut Zeros> {
        self.buffers.get_mut(handle).ok().map(|buffer| &mut buffer.zeros)
    }

    /// Sets everything to zero.
    pub fn zero(&mut self, pool: &mut Pool, span: Span) -> Result<(), String> {
        let (range, _) = self.locate(span)?;
        let touched = self.zeros_of(span.handle).and_then(|zeros| zeros.take_touched(&range));
        let ([values], []) = self.scattered_operands([span], [])?;
        match touched {
            Some(parts) => {
                parts
                    .into_iter()
                    .for_each(|part| values[part.start - range.start..part.end - range.start].fill(0.0));
            }
            None => {
                crate::kernels::zero(pool, values);
                self.zeros_of(span.handle).into_iter().for_each(|zeros| zeros.remember(&range));
            }
        }
        Ok(())
    }

    /// The parts of a span that are known to be zero, in order, counted from its start.
    pub fn zeros_within(&mut self, span: Span) -> Result<Vec<Range<usize>>, String> {
        let (range, _) = self.locate(span)?;
        Ok(self.zeros_of(span.handle).map_or_else(Vec::new, |zeros| zeros.within(&range)))
    }

    /// Notes that some rows of `span` were written, and nothing else in it: see `scattered_operands`.
    pub fn touch_rows(&mut self, span: Span, rows: &[u32], cols: usize) -> Result<(), String> {
        let (range, _) = self.locate(span)?;
        if let Some(zeros) = self.zeros_of(span.handle) {
            for row in rows.iter().map(|&row| range.start + row as usize * cols) {
                zeros.touch(&(row..row + cols));
            }
        }
        Ok(())
    }

    /// The operands of a kernel: those it writes, which must overlap no other, and those it only reads.
    #[allow(clippy::type_complexity)]
    pub fn operands<const W: usize, const R: usize>(
        &mut self,
        writes: [Span; W],
        reads: [Span; R],
    ) -> Result<([&mut [f32]; W], [&[f32]; R]), String> {
        for span in writes {
            let (range, _) = self.locate(span)?;
            self.zeros_of(span.handle).into_iter().for_each(|zeros| zeros.forget(&range));
        }
        self.scattered_operands(writes, reads)
    }

    /// The same for a kernel that writes few rows, and names them by `touch_rows` before anybody asks for zeros.
    #[allow(clippy::type_complexity)]
    pub fn scattered_operands<const W: usize, const R: usize>(
        &mut self,
        writes: [Span; W],
        reads: [Span; R],
    ) -> Result<([&mut [f32]; W], [&[f32]; R]), String> {
        let mut w = [NonNull::dangling(); W];
        let mut r = [NonNull::dangling(); R];
        for (start, span) in w.iter_mut().zip(writes).chain(r.iter_mut().zip(reads)) {
            *start = self.locate(span)?.1;
        }
        let range = |start: NonNull<u32>, span: Span| (start.addr().get(), start.addr().get() + 4 * span.len);
        for i in 0..W {
            let (from, to) = range(w[i], writes[i]);
            let others = w.iter().zip(writes).skip(i + 1).chain(r.iter().zip(reads));
            if let Some((_, other)) = others.into_iter().find(|&(&start, span)| {
                let (a, b) = range(start, span);
                from < b && a < to
            }) {
                return Err(format!("a kernel would write {:?} and use {other:?}, which overlap", writes[i]));
            }
        }
        // SAFETY: within their buffers, which `self` keeps; what is written overlaps nothing else.
        Ok(unsafe {
            (
                std::array::from_fn(|i| std::slice::from_raw_parts_mut(w[i].cast().as_ptr(), writes[i].len)),
                std::array::from_fn(|i| std::slice::from_raw_parts(r[i].cast().as_ptr(), reads[i].len)),
            )
        })
    }
}

/// The same memory as integers.
pub fn as_u32s(values: &[f32]) -> &[u32] {
    // SAFETY: same size and alignment, every bit pattern is valid.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// The same memory as integers, to write.
pub fn as_u32s_mut(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: same size and alignment, every bit pattern is valid.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// The same memory as bytes.
pub fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: four bytes each, every bit pattern is valid.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same memory as bytes, to write.
pub fn as_bytes_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: four bytes each, every bit pattern is valid.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A whole number that JavaScript sent as a double; None when it is not whole, or too large.
fn as_index(value: f64) -> Option<usize> {
    (value >= 0.0 && value <= 2f64.powi(53) && value.fract() == 0.0).then_some(value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(handle: u32, offset: f64, len: usize) -> Span {
        Span { handle, offset, len }
    }

    #[test]
    fn spans_are_checked() {
        let mut tensors = Tensors::default();
        let a = tensors.allocate(10.0).unwrap();
        let ([], [whole]) = tensors.operands([], [span(a, 0.0, 10)]).unwrap();
        assert_eq!(whole, [0.0; 10]);
        assert!(whole.as_ptr().cast::<u8>().addr().is_multiple_of(64));
        for (offset, len) in [(5.0, 6), (-1.0, 1), (0.5, 1), (f64::NAN, 0), (1e300, 0), (0.0, usize::MAX)] {
            assert!(tensors.operands([], [span(a, offset, len)]).is_err(), "{offset} {len}");
        }
        assert!(tensors.operands([], [span(a + 1, 0.0, 1)]).is_err());
        tensors.free(a);
        tensors.free(a);
        assert!(tensors.operands([], [span(a, 0.0, 1)]).is_err());
    }

    #[test]
    fn a_number_is_not_given_to_another_tensor() {
        let (mut tensors, mut others) = (Tensors::default(), Tensors::default());
        let a = tensors.allocate(10.0).unwrap();
        tensors.free(a);
        let b = others.allocate(10.0).unwrap();
        for _ in 0..1000 {
            let c = tensors.allocate(10.0).unwrap();
            assert!(tensors.operands([], [span(a, 0.0, 1)]).is_err());
            assert!(tensors.operands([], [span(b, 0.0, 1)]).is_err());
            tensors.free(c);
        }
        assert!(tensors.buffers.is_empty());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let mut tensors = Tensors::default();
        for len in [1e300, f64::NAN, -1.0, 2f64.powi(50), 2f64.powi(53)] {
            assert_eq!(tensors.allocate(len), None);
        }
    }

    #[test]
    fn what_is_written_overlaps_nothing() {
        let mut tensors = Tensors::default();
        let a = tensors.allocate(10.0).unwrap();
        assert!(tensors.operands([span(a, 0.0, 5)], [span(a, 5.0, 5)]).is_ok());
        assert!(tensors.operands([span(a, 0.0, 6)], [span(a, 5.0, 5)]).is_err());
        assert!(tensors.operands([], [span(a, 0.0, 6), span(a, 5.0, 5)]).is_ok());
        assert!(tensors.operands([span(a, 0.0, 3), span(a, 2.0, 2)], []).is_err());
        assert!(tensors.operands([span(a, 0.0, 2), span(a, 3.0, 2)], [span(a, 1.0, 1)]).is_err());
    }
}
