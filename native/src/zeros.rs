//! What is known to be zero in a tensor.
//!
//! The gradient of an embedding is zero but for the rows of the tokens in the batch: 24 of 4,096 in a small step, in
//! which clearing, summing and updating all of it is a good part of the work. So a region that was cleared as a whole is
//! remembered, with the pages written since; clearing it again clears those, and readers skip the others.

use std::ops::Range;

/// Elements that are tracked together.
const PAGE: usize = 1024;
/// Smaller regions are not worth remembering.
const LEAST: usize = 16 * PAGE;

/// Elements `start … start + len` of a tensor: zero, except in touched pages.
struct Region {
    start: usize,
    len: usize,
    touched: Vec<bool>,
}

/// The regions of one tensor, which do not overlap.
#[derive(Default)]
pub struct Zeros {
    regions: Vec<Region>,
}

impl Zeros {
    /// Something was written somewhere in the range: what overlaps it is no longer known.
    pub fn forget(&mut self, range: &Range<usize>) {
        self.regions.retain(|region| region.start + region.len <= range.start || range.end <= region.start);
    }

    /// The whole range is zero now.
    pub fn remember(&mut self, range: &Range<usize>) {
        self.forget(range);
        if range.len() >= LEAST {
            let touched = vec![false; range.len().div_ceil(PAGE)];
            self.regions.push(Region { start: range.start, len: range.len(), touched });
        }
    }

    /// Elements in the range were written; the rest of their region keeps its zeros.
    pub fn touch(&mut self, range: &Range<usize>) {
        for region in &mut self.regions {
            let (from, to) = (range.start.max(region.start), range.end.min(region.start + region.len));
            if from < to {
                region.touched[(from - region.start) / PAGE..(to - region.start).div_ceil(PAGE)].fill(true);
            }
        }
    }

    /// The parts to clear so that the whole range is zero, if that is known; they count as cleared from here on.
    pub fn take_touched(&mut self, range: &Range<usize>) -> Option<Vec<Range<usize>>> {
        let same = |region: &&mut Region| region.start == range.start && region.len == range.len();
        let region = self.regions.iter_mut().find(same)?;
        let parts = region.runs(true);
        region.touched.fill(false);
        Some(parts)
    }

    /// The parts of the range that are zero, in order, counted from its start.
    pub fn within(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let mut parts: Vec<_> = self
            .regions
            .iter()
            .flat_map(|region| region.runs(false))
            .map(|run| run.start.max(range.start)..run.end.min(range.end))
            .filter(|run| run.start < run.end)
            .map(|run| run.start - range.start..run.end - range.start)
            .collect();
        parts.sort_by_key(|run| run.start);
        parts
    }
}

impl Region {
    /// Runs of pages that are touched, or are not, as elements of the tensor.
    fn runs(&self, touched: bool) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (page, _) in self.touched.iter().enumerate().filter(|&(_, &t)| t == touched) {
            let (from, to) = (self.start + page * PAGE, self.start + ((page + 1) * PAGE).min(self.len));
            match runs.last_mut() {
                Some(run) if run.end == from => run.end = to,
                _ => runs.push(from..to),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_touched_is_cleared_again() {
        let mut zeros = Zeros::default();
        let all = 128..128 + 20 * PAGE + 5;
        assert_eq!(zeros.take_touched(&all), None);
        zeros.remember(&all);
        assert_eq!(zeros.take_touched(&all), Some(vec![]));
        zeros.touch(&(128 + 3 * PAGE + 7..128 + 3 * PAGE + 8));
        zeros.touch(&(128 + 4 * PAGE - 1..128 + 4 * PAGE + 1));
        zeros.touch(&(128 + 20 * PAGE..1 << 30));
        let page = |i: usize| 128 + i * PAGE;
        assert_eq!(zeros.within(&(100..page(9))), [28..page(3) - 100, page(5) - 100..page(9) - 100]);
        assert_eq!(zeros.take_touched(&all), Some(vec![page(3)..page(5), page(20)..page(20) + 5]));
        assert_eq!(zeros.within(&all), std::slice::from_ref(&(0..20 * PAGE + 5)));
    }

    #[test]
    fn a_write_anywhere_ends_what_is_known() {
        let mut zeros = Zeros::default();
        zeros.remember(&(0..LEAST));
        zeros.remember(&(LEAST..2 * LEAST));
        zeros.forget(&(LEAST - 1..LEAST));
        assert_eq!(zeros.within(&(0..3 * LEAST)), std::slice::from_ref(&(LEAST..2 * LEAST)));
        assert_eq!(zeros.take_touched(&(0..LEAST)), None);
        zeros.remember(&(0..LEAST - 1));
        assert_eq!(zeros.within(&(0..3 * LEAST)), std::slice::from_ref(&(LEAST..2 * LEAST)));
    }
}
