//! Splitting one output among the threads of a job.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice of which each chunk of a job takes its own part.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: gives out only slices, under the conditions of `part`.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared { data: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    /// Parts that are alive at the same time do not overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part beyond the end of its slice");
        // SAFETY: within the slice; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }

    /// For kernels that write scattered parts of rows; the same conditions as for `part`.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.data
    }
}

/// Part `i` of `parts` of 0 … n, in whole multiples of `unit` (but for the end), as even as possible.
pub fn part_of(n: usize, unit: usize, parts: usize, i: usize) -> Range<usize> {
    let units = n.div_ceil(unit);
    let at = |i: usize| (units * i / parts * unit).min(n);
    at(i)..at(i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (n, unit, parts) in [(0, 1, 2), (1, 16, 3), (33, 16, 2), (100, 1, 7), (2277, 32, 4)] {
            let all: Vec<usize> = (0..parts).flat_map(|i| part_of(n, unit, parts, i)).collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }
}
