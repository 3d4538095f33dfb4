//! Byte-level BPE: training, loading, and encoding of whole corpora in parallel.
//!
//! The file is the `tokenizers` crate's, and so are long words. Training is ours, because the crate's takes some 500
//! bytes for each different word, and so is the merging of usual words, which the crate does with a heap. Splitting text into words is done here too,
//! because the crate's splitter backtracks, gives up silently on long text, and tracks offsets that nobody here
//! asks for; and special tokens are kept out of the model that text goes through, so no text can become one.

mod bytes;
mod encode;
mod exports;
mod jobs;
mod load;
mod merger;
mod merges;
mod split;
mod train;
mod word_table;

use std::sync::Mutex;

use tokenizers::models::bpe::BPE;

use merger::Merger;

pub use encode::{Encoding, WordCache, encode};
pub use load::{load, load_whole};
pub use split::Split;
pub use train::WordCounts;

/// Documents end to end in one UTF-8 buffer. Document d is `text[offsets[d]..offsets[d + 1]]`.
pub struct Documents<'a> {
    text: &'a str,
    offsets: &'a [u32],
}

impl<'a> Documents<'a> {
    /// Checks that the text is UTF-8, that documents are in order, and that each begins and ends between characters.
    pub fn new(text: &'a [u8], offsets: &'a [u32]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|error| format!("the text is not UTF-8: {error}"))?;
        if offsets.first() != Some(&0) || offsets.last().map(|&last| last as usize) != Some(text.len()) {
            return Err("document offsets must begin at 0 and end at the text's length".into());
        }
        for (d, pair) in offsets.windows(2).enumerate() {
            if text.get(pair[0] as usize..pair[1] as usize).is_none() {
                return Err(format!("document {d} does not begin and end on a character of the text"));
            }
        }
        Ok(Self { text, offsets })
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Document `d`.
    pub fn get(&self, d: usize) -> &'a str {
        &self.text[self.offsets[d] as usize..self.offsets[d + 1] as usize]
    }

    /// Ranges of neighbouring documents of about `bytes` bytes together, at least one document each.
    pub fn groups(&self, bytes: usize) -> Vec<std::ops::Range<usize>> {
        let mut groups = Vec::new();
        let mut start = 0;
        for d in 0..self.len() {
            if (self.offsets[d + 1] - self.offsets[start]) as usize >= bytes || d + 1 == self.len() {
                groups.push(start..d + 1);
                start = d + 1;
            }
        }
        groups
    }

    /// Bytes of all documents.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// A loaded tokenizer. It does not know the special tokens.
pub enum Tokenizer {
    /// Splits in a way that is known here: the model that words go through, or its merges alone, and words that did.
    Words { model: Box<BPE>, merger: Option<Box<Merger>>, split: Split, known: Mutex<Vec<WordCache>> },
    /// The crate does everything.
    Whole(Box<tokenizers::Tokenizer>),
}
