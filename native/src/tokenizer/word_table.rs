//! A table of different words: each once, end to end, by number. Some 25 bytes a word beside its own.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use ahash::RandomState;

static HASHER: LazyLock<RandomState> = LazyLock::new(|| RandomState::with_seeds(1, 2, 3, 4));

/// The hash that tables go by.
pub fn hash(word: &[u8]) -> u64 {
    let mut hasher = HASHER.build_hasher();
    hasher.write(word);
    hasher.finish()
}

/// Words by number, in the order in which they came.
#[derive(Default)]
pub struct WordTable {
    /// open addressing: number + 1 above 32 bits of the hash, 0 is an empty place
    slots: Vec<u64>,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl WordTable {
    /// Bytes of all words.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A word by its number.
    pub fn get(&self, number: usize) -> &[u8] {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.bytes[start as usize..self.ends[number] as usize]
    }

    /// The number of a word, which is added unless it is there. A table holds less than 4 GB.
    pub fn number(&mut self, word: &[u8], hash: u64) -> usize {
        if self.ends.len() >= self.slots.len() / 4 * 3 {
            self.grow();
        }
        match self.place(word, hash) {
            Ok(number) => number,
            Err(place) => {
                let number = self.ends.len();
                self.slots[place] = (number as u64 + 1) << 32 | u64::from(hash as u32);
                self.bytes.extend_from_slice(word);
                self.ends.push(u32::try_from(self.bytes.len()).expect("a table of words below 4 GB"));
                number
            }
        }
    }

    /// The word's number, or the place that it should have.
    fn place(&self, word: &[u8], hash: u64) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let slot = self.slots[place];
            if slot == 0 {
                return Err(place);
            }
            let number = (slot >> 32) as usize - 1;
            if slot as u32 == hash as u32 && self.get(number) == word {
                return Ok(number);
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (2 * self.slots.len()).max(64);
        let old = std::mem::replace(&mut self.slots, vec![0; size]);
        for slot in old.into_iter().filter(|&slot| slot != 0) {
            let mut place = slot as u32 as usize & (size - 1);
            while self.slots[place] != 0 {
                place = (place + 1) & (size - 1);
            }
            self.slots[place] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_one_number() {
        let mut table = WordTable::default();
        let words: Vec<String> = (0..5000).map(|i| "x".repeat(i % 7) + &i.to_string()).collect();
        for round in 0..2 {
            for (i, word) in words.iter().enumerate() {
                assert_eq!(table.number(word.as_bytes(), hash(word.as_bytes())), i, "round {round}");
            }
        }
        // words with the same 32 bits of their hashes
        let same = [table.number(b"one", 7), table.number(b"two", 7 << 40 | 7)];
        assert_eq!(same, [5000, 5001]);
        assert_eq!(table.number(b"two", 7), 5001);
        assert_eq!(table.get(4999), words[4999].as_bytes());
    }
}
