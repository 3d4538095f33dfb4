//! Merges the bytes of a word into tokens: again and again the pair that comes first in the list of merges, of equal
//! ones the leftmost. The same as the `tokenizers` crate's model does, for words of usual length, without its heap
//! and strings.

use ahash::AHashMap;

use super::bytes;

/// Longer words are the crate's: here time is quadratic in the length.
pub const MAX_BYTES: usize = 64;

/// No token, and no rank.
const NONE: u32 = u32::MAX;

/// The merges of a tokenizer, by number.
pub struct Merger {
    /// the token of each byte; bytes without one are dropped
    bytes: [u32; 256],
    /// the place in the list, and the token, of each pair
    merges: AHashMap<(u32, u32), (u32, u32)>,
}

/// A token of a word, with what becomes of it and the next one.
#[derive(Clone, Copy)]
pub struct Symbol {
    id: u32,
    rank: u32,
    merged: u32,
}

impl Merger {
    /// `id` finds tokens by their names; `merges` are pairs and what they make, those to merge first at the front.
    pub fn new(id: impl Fn(&str) -> Option<u32>, merges: impl Iterator<Item = (u32, u32, u32)>) -> Self {
        let mut bytes = [NONE; 256];
        for (byte, name) in bytes.iter_mut().zip(bytes::alphabet()) {
            *byte = id(name.encode_utf8(&mut [0; 4])).unwrap_or(NONE);
        }
        let merges =
            merges.zip(0..).map(|((left, right, merged), rank)| ((left, right), (rank, merged))).collect();
        Self { bytes, merges }
    }

    fn pair(&self, left: u32, right: u32) -> Symbol {
        let &(rank, merged) = self.merges.get(&(left, right)).unwrap_or(&(NONE, NONE));
        Symbol { id: left, rank, merged }
    }

    /// Appends the tokens of a word of at most `MAX_BYTES` bytes. `symbols` is room to work in.
    pub fn encode(&self, word: &[u8], symbols: &mut Vec<Symbol>, ids: &mut Vec<u32>) {
        symbols.clear();
        let tokens = word.iter().map(|&byte| self.bytes[usize::from(byte)]).filter(|&id| id != NONE);
        symbols.extend(tokens.map(|id| Symbol { id, rank: NONE, merged: NONE }));
        for i in 1..symbols.len() {
            symbols[i - 1] = self.pair(symbols[i - 1].id, symbols[i].id);
        }
        while let Some(first) = (0..symbols.len()).min_by_key(|&i| symbols[i].rank)
            && symbols[first].rank != NONE
        {
            let id = symbols[first].merged;
            symbols.remove(first + 1);
            symbols[first] = match symbols.get(first + 1) {
                Some(next) => self.pair(id, next.id),
                None => Symbol { id, rank: NONE, merged: NONE },
            };
            if first > 0 {
                symbols[first - 1] = self.pair(symbols[first - 1].id, id);
            }
        }
        ids.extend(symbols.iter().map(|symbol| symbol.id));
    }
}
