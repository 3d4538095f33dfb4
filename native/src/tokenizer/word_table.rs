//! A table of words with a number each. Words of up to 15 bytes, nearly all, lie in the table itself, so that finding
//! one touches one place of memory.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use ahash::{AHashMap, RandomState};

/// Longer words lie in a table of their own.
const MAX_SHORT: usize = 15;

static HASHER: LazyLock<RandomState> = LazyLock::new(|| RandomState::with_seeds(1, 2, 3, 4));

/// A word as tables look for it.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    /// up to 15 bytes and, in the highest byte, how many; of a longer word 0
    short: u128,
    word: &'a [u8],
    pub hash: u64,
}

impl<'a> Key<'a> {
    /// The word at bytes `start` … `end` of a text.
    pub fn new(text: &'a [u8], start: usize, end: usize) -> Self {
        let word = &text[start..end];
        let len = word.len();
        if len > MAX_SHORT || len == 0 {
            let mut hasher = HASHER.build_hasher();
            hasher.write(word);
            return Self { short: 0, word, hash: hasher.finish() };
        }
        // sixteen bytes at once where the text has them; what is behind the word is masked
        let bytes = match text.get(start..start + 16) {
            Some(bytes) => u128::from_le_bytes(bytes.try_into().expect("16 bytes")),
            None => {
                let mut bytes = [0; 16];
                bytes[..len].copy_from_slice(word);
                u128::from_le_bytes(bytes)
            }
        };
        Self::of_short(bytes & (u128::MAX >> (128 - 8 * len)) | (len as u128) << 120, word)
    }

    fn of_short(short: u128, word: &'a [u8]) -> Self {
        // the product of both halves, folded (W. Yi's wyhash)
        let (low, high) =
            (short as u64 ^ 0x2d35_8dcc_aa6c_78a5, (short >> 64) as u64 ^ 0x8bb8_4b93_962e_acc9);
        let product = u128::from(low) * u128::from(high);
        let mixed = (product >> 64) as u64 ^ product as u64;
        Self { short, word, hash: mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }
}

/// A place of the table; the key 0 is an empty one.
#[derive(Clone, Copy, Default)]
struct Place {
    key: [u64; 2],
    value: u64,
}

/// Words, each with a number.
#[derive(Default)]
pub struct WordTable {
    places: Vec<Place>,
    used: usize,
    long: AHashMap<Box<[u8]>, u64>,
}

impl WordTable {
    /// How many words there are.
    pub fn len(&self) -> usize {
        self.used + self.long.len()
    }

    /// The number of a word, if it is there.
    pub fn find(&self, key: Key) -> Option<u64> {
        if key.short == 0 {
            return self.long.get(key.word).copied();
        }
        if self.places.is_empty() {
            return None;
        }
        let place = &self.places[self.place(key.short, key.hash)];
        (place.key != [0, 0]).then_some(place.value)
    }

    /// The number of a word, which is added with 0 unless it is there.
    pub fn entry(&mut self, key: Key) -> &mut u64 {
        if key.short == 0 {
            if !self.long.contains_key(key.word) {
                self.long.insert(key.word.into(), 0);
            }
            return self.long.get_mut(key.word).expect("it was added");
        }
        if self.used >= self.places.len() / 4 * 3 {
            self.grow();
        }
        let place = self.place(key.short, key.hash);
        let place = &mut self.places[place];
        if place.key == [0, 0] {
            place.key = halves(key.short);
            self.used += 1;
        }
        &mut place.value
    }

    /// Where a word is, or the empty place that it should have.
    fn place(&self, short: u128, hash: u64) -> usize {
        let mask = self.places.len() - 1;
        let key = halves(short);
        let mut place = (hash >> 20) as usize & mask;
        while self.places[place].key != key && self.places[place].key != [0, 0] {
            place = (place + 1) & mask;
        }
        place
    }

    fn grow(&mut self) {
        let size = (2 * self.places.len()).max(64);
        let old = std::mem::replace(&mut self.places, vec![Place::default(); size]);
        for place in old.into_iter().filter(|place| place.key != [0, 0]) {
            let short = u128::from(place.key[1]) << 64 | u128::from(place.key[0]);
            let new = self.place(short, Key::of_short(short, &[]).hash);
            self.places[new] = place;
        }
    }

    /// Hands out all words, in no order.
    pub fn for_each(&self, mut take: impl FnMut(Key, u64)) {
        for place in self.places.iter().filter(|place| place.key != [0, 0]) {
            let short = u128::from(place.key[1]) << 64 | u128::from(place.key[0]);
            let bytes = short.to_le_bytes();
            take(Key::of_short(short, &bytes[..usize::from(bytes[15])]), place.value);
        }
        for (word, &value) in &self.long {
            take(Key::new(word, 0, word.len()), value);
        }
    }

    /// Forgets all words, and keeps the memory.
    pub fn clear(&mut self) {
        self.places.fill(Place::default());
        self.used = 0;
        self.long.clear();
    }
}

impl Key<'_> {
    /// The word itself.
    pub fn word(&self) -> &[u8] {
        self.word
    }
}

fn halves(short: u128) -> [u64; 2] {
    [short as u64, (short >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_its_number() {
        let mut table = WordTable::default();
        let text: String = (0..5000).map(|i| "x\0é".repeat(i % 9) + &i.to_string() + " ").collect();
        let words: Vec<(usize, usize)> = text
            .match_indices(' ')
            .scan(0, |start, (end, _)| {
                let word = (*start, end);
                *start = end + 1;
                Some(word)
            })
            .collect();
        assert_eq!(words.len(), 5000);
        assert_eq!(table.find(Key::new(b"a", 0, 1)), None);
        for round in 1..3 {
            for &(start, end) in &words {
                *table.entry(Key::new(text.as_bytes(), start, end)) += 1 + start as u64;
                // alone, where nothing follows it
                let alone = &text.as_bytes()[start..end];
                assert_eq!(table.find(Key::new(alone, 0, alone.len())), Some(round * (1 + start as u64)));
            }
        }
        assert_eq!(table.len(), 5000);
        let mut seen = 0;
        table.for_each(|key, value| {
            seen += 1;
            assert_eq!(table.find(key), Some(value));
            assert!(words.iter().any(|&(start, end)| &text.as_bytes()[start..end] == key.word()));
        });
        assert_eq!(seen, 5000);
        // an empty word, and one of zeros, are words like others
        for word in [&b""[..], b"\0", b"\0\0"] {
            assert_eq!(table.find(Key::new(word, 0, word.len())), None);
            *table.entry(Key::new(word, 0, word.len())) += 1;
        }
        assert_eq!(table.len(), 5003);
        table.clear();
        assert_eq!((table.len(), table.find(Key::new(b"0", 0, 1))), (0, None));
    }
}
