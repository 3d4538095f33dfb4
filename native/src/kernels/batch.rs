//! Packed documents on the device, with the lists of work that the kernels want.

use crate::device::with_device;
use crate::status::{input, output};

/// Queries that attention handles together.
pub const QUERY_BLOCK: usize = 32;

/// Some queries of a document: rows `start + first … start + first + count` of the batch.
#[derive(Clone, Copy)]
pub struct QueryBlock {
    /// first row of the document
    pub start: usize,
    /// position of the first query
    pub first: usize,
    pub count: usize,
}

/// A document: rows `start … start + len` of the batch.
#[derive(Clone, Copy)]
pub struct Document {
    pub start: usize,
    pub len: usize,
}

/// The rows of each key in ascending order: those of `keys[i]` are `rows[offsets[i]..offsets[i + 1]]`.
#[derive(Default)]
pub struct Gather {
    pub keys: Vec<u32>,
    pub offsets: Vec<u32>,
    pub rows: Vec<u32>,
}

impl Gather {
    fn fill(&mut self, key_of_row: &[u32]) {
        let mut pairs: Vec<u64> =
            key_of_row.iter().zip(0u64..).map(|(&key, row)| u64::from(key) << 32 | row).collect();
        pairs.sort_unstable();
        self.keys.clear();
        self.offsets.clear();
        self.rows.clear();
        for pair in pairs {
            let key = (pair >> 32) as u32;
            if self.keys.last() != Some(&key) {
                self.keys.push(key);
                self.offsets.push(self.rows.len() as u32);
            }
            self.rows.push(pair as u32);
        }
        self.offsets.push(self.rows.len() as u32);
    }
}

/// The documents loaded last.
#[derive(Default)]
pub struct Batch {
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    /// how much each target counts in the loss
    pub weights: Vec<f32>,
    /// of each token in its document
    pub positions: Vec<u32>,
    /// longest first
    pub documents: Vec<Document>,
    /// those with the most keys first
    pub query_blocks: Vec<QueryBlock>,
    pub by_token: Gather,
    pub by_position: Gather,
    /// gradient of each token's embedding sum, [T, E]
    pub embedding_gradient: Vec<f32>,
}

impl Batch {
    /// Without weights every target counts once.
    fn load(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        starts: &[u32],
        weights: &[f32],
    ) -> Result<(), String> {
        let ordered = starts.first() == Some(&0) && starts.is_sorted();
        if !ordered
            || starts.last().map(|&end| end as usize) != Some(tokens.len())
            || tokens.len() != targets.len()
        {
            return Err("the starts of a batch do not fit its tokens".into());
        }
        if !weights.is_empty() && weights.len() != targets.len() {
            return Err("a batch has another number of weights than of targets".into());
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.targets.clear();
        self.targets.extend_from_slice(targets);
        self.weights.clear();
        self.weights.extend_from_slice(weights);
        self.weights.resize(targets.len(), 1.0);
        self.positions.clear();
        self.documents.clear();
        self.query_blocks.clear();
        for ends in starts.windows(2) {
            let (start, len) = (ends[0] as usize, (ends[1] - ends[0]) as usize);
            self.positions.extend(0..len as u32);
            self.documents.push(Document { start, len });
            for first in (0..len).step_by(QUERY_BLOCK) {
                self.query_blocks.push(QueryBlock { start, first, count: QUERY_BLOCK.min(len - first) });
            }
        }
        self.documents.sort_by_key(|document| std::cmp::Reverse(document.len));
        self.query_blocks.sort_by_key(|block| std::cmp::Reverse(block.first + block.count));
        self.by_token.fill(tokens);
        self.by_position.fill(&self.positions);
        Ok(())
    }
}

/// Makes room for a batch. Its number goes to `handle[0]`.
///
/// # Safety
/// `handle` points to `handle_len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_create_batch(device: u32, handle: *mut u32, handle_len: u32) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let [handle] = (unsafe { output(handle, handle_len as usize, "handle") })? else {
            return Err("handle must have one element".into());
        };
        *handle = d.batches.insert(Batch::default());
        Ok(())
    })
}

/// Replaces the documents of a batch: tokens, their targets with a weight each (or no weights: 1), starts.
///
/// # Safety
/// Each pointer points to as many values as its length says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_load_batch(
    device: u32,
    batch: u32,
    tokens: *const u32,
    tokens_len: u32,
    targets: *const u32,
    targets_len: u32,
    starts: *const u32,
    starts_len: u32,
    weights: *const f32,
    weights_len: u32,
) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let (tokens, targets, starts, weights) = unsafe {
            (
                input(tokens, tokens_len as usize, "tokens")?,
                input(targets, targets_len as usize, "targets")?,
                input(starts, starts_len as usize, "starts")?,
                input(weights, weights_len as usize, "weights")?,
            )
        };
        d.batches.get_mut(batch)?.load(tokens, targets, starts, weights)
    })
}

#[cfg(test)]
pub use tests::batch_of;

#[cfg(test)]
mod tests {
    use super::*;

    /// A loaded batch of documents of these lengths, with tokens and targets below `vocabulary`.
    pub fn batch_of(lengths: &[usize], vocabulary: u32) -> Batch {
        let mut starts = vec![0];
        for &len in lengths {
            starts.push(starts[starts.len() - 1] + len as u32);
        }
        let count = starts[lengths.len()];
        let tokens: Vec<u32> = (0..count).map(|t| t * 7919 % vocabulary).collect();
        let targets: Vec<u32> = (0..count).map(|t| t * 104_729 % vocabulary).collect();
        let mut batch = Batch::default();
        batch.load(&tokens, &targets, &starts, &[]).unwrap();
        batch
    }

    #[test]
    fn rows_are_gathered_by_key_in_order() {
        let mut gather = Gather::default();
        gather.fill(&[5, 2, 5, 9, 2, 5]);
        assert_eq!(gather.keys, [2, 5, 9]);
        assert_eq!(gather.offsets, [0, 2, 5, 6]);
        assert_eq!(gather.rows, [1, 4, 0, 2, 5, 3]);
    }

    #[test]
    fn work_lists_cover_the_batch_longest_first() {
        let batch = batch_of(&[3, 70, 1], 97);
        assert_eq!(batch.positions[..5], [0, 1, 2, 0, 1]);
        assert_eq!(
            batch.documents.iter().map(|d| (d.start, d.len)).collect::<Vec<_>>(),
            [(3, 70), (0, 3), (73, 1)]
        );
        let blocks: Vec<_> = batch.query_blocks.iter().map(|b| (b.start, b.first, b.count)).collect();
        assert_eq!(blocks, [(3, 64, 6), (3, 32, 32), (3, 0, 32), (0, 0, 3), (73, 0, 1)]);
    }

    #[test]
    fn starts_must_fit() {
        let mut batch = Batch::default();
        assert!(batch.load(&[1, 2], &[1, 2], &[0, 1], &[]).is_err());
        assert!(batch.load(&[1, 2], &[1, 2], &[1, 2], &[]).is_err());
        assert!(batch.load(&[1, 2], &[1], &[0, 2], &[]).is_err());
        assert!(batch.load(&[1, 2], &[1, 2], &[0, 2, 1, 2], &[]).is_err());
        assert!(batch.load(&[], &[], &[], &[]).is_err());
    }

    #[test]
    fn weights_must_fit_and_are_one_without() {
        let mut batch = Batch::default();
        assert!(batch.load(&[1, 2], &[1, 2], &[0, 2], &[1.0]).is_err());
        batch.load(&[1, 2], &[1, 2], &[0, 2], &[0.0, 2.0]).unwrap();
        assert_eq!(batch.weights, [0.0, 2.0]);
        batch.load(&[1, 2, 3], &[1, 2, 3], &[0, 3], &[]).unwrap();
        assert_eq!(batch.weights, [1.0; 3]);
    }
}
