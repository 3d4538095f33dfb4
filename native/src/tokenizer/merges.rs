//! Byte-pair merges from the counts of words: the algorithm of the `tokenizers` crate's trainer, which gives the same
//! tokens and merges, in an eighth of its memory, since the words of a large corpus are millions.
//!
//! Each word is a list of tokens, at first its bytes. Again and again the pair of tokens that stands side by side most
//! often becomes a token of its own; of equally frequent ones, that of the lowest numbers. A heap knows the most
//! frequent pair; what it knows may be outdated, and is put right when the pair comes up.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ahash::AHashMap;

use super::bytes;

/// Tokens by number, and pairs of tokens that became one, in the order to merge them in.
pub struct Vocabulary {
    pub names: Vec<String>,
    pub merges: Vec<(u32, u32)>,
}

/// Two tokens as one number, in their order.
type Pair = u64;

fn pair(left: u32, right: u32) -> Pair {
    u64::from(left) << 32 | u64::from(right)
}

/// A pair with the words that it was seen in when its count was this.
struct Candidate {
    count: u64,
    pair: Pair,
    words: Vec<u32>,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.count.cmp(&other.count).then(other.pair.cmp(&self.pair))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// Words of several bytes, and how often each occurs.
pub struct Words {
    /// the number of each byte's token
    byte_tokens: [u32; 256],
    tokens: Vec<u32>,
    /// where the tokens of each word begin, and how many they are by now
    places: Vec<(u32, u32)>,
    counts: Vec<i32>,
}

impl Words {
    /// None yet. The tokens of the bytes come behind `special` others, ordered as their characters.
    pub fn new(special: usize) -> Self {
        let mut byte_tokens = [0; 256];
        for (rank, (_, byte)) in ordered_bytes().into_iter().enumerate() {
            byte_tokens[byte] = (special + rank) as u32;
        }
        Self { byte_tokens, tokens: Vec::new(), places: Vec::new(), counts: Vec::new() }
    }

    /// Makes room for words.
    pub fn reserve(&mut self, words: usize, bytes: usize) {
        self.tokens.reserve(bytes);
        self.places.reserve(words);
        self.counts.reserve(words);
    }

    /// Adds a word. Those of one byte have no pairs and are left out.
    pub fn add(&mut self, word: &[u8], count: u64) -> Result<(), String> {
        if word.len() < 2 {
            return Ok(());
        }
        let start = u32::try_from(self.tokens.len())
            .map_err(|_| "the different words take more than 4 GB: take a sample".to_string())?;
        self.tokens.extend(word.iter().map(|&byte| self.byte_tokens[usize::from(byte)]));
        self.places.push((start, word.len() as u32));
        // the counts of pairs, which are larger, were checked to fit
        self.counts.push(count as i32);
        Ok(())
    }

    fn get(&self, word: usize) -> &[u32] {
        let (start, len) = self.places[word];
        &self.tokens[start as usize..(start + len) as usize]
    }
}

/// The bytes with their characters, ordered by these.
fn ordered_bytes() -> Vec<(char, usize)> {
    let mut ordered: Vec<(char, usize)> = bytes::alphabet().zip(0..).collect();
    ordered.sort_unstable();
    ordered
}

/// Merges until there are `vocab_size` tokens or no pair is left. `special` tokens are first.
pub fn merge(words: Words, vocab_size: usize, special: &[&str]) -> Vocabulary {
    let mut names: Vec<String> = special.iter().map(|&name| name.to_string()).collect();
    names.extend(ordered_bytes().into_iter().map(|(name, _)| name.to_string()));
    let mut numbers: AHashMap<String, u32> = names.iter().cloned().zip(0..).collect();
    let mut training = Training { words, pair_counts: AHashMap::new(), seen: AHashMap::new() };
    let mut queue = training.count_pairs();
    let mut merges = Vec::new();
    // where a pair comes up again, it counts from then on
    let mut ranks: AHashMap<Pair, usize> = AHashMap::new();
    while names.len() < vocab_size
        && let Some(mut top) = queue.pop()
    {
        // signed, and read as unsigned, as in the crate
        let count = training.pair_counts[&top.pair] as u64;
        if top.count != count {
            top.count = count;
            queue.push(top);
            continue;
        }
        if count < 1 {
            break;
        }
        let (left, right) = ((top.pair >> 32) as u32, top.pair as u32);
        let name = format!("{}{}", names[left as usize], names[right as usize]);
        let number = *numbers.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            names.len() as u32 - 1
        });
        if let Some(earlier) = ranks.insert(top.pair, merges.len()) {
            merges[earlier] = None;
        }
        merges.push(Some((left, right)));
        for word in top.words {
            training.merge_in(word, left, right, number);
        }
        training.enqueue(&mut queue);
    }
    Vocabulary { names, merges: merges.into_iter().flatten().collect() }
}

struct Training {
    words: Words,
    pair_counts: AHashMap<Pair, i32>,
    /// words of pairs that are new, or came to more words, since the last merge
    seen: AHashMap<Pair, Vec<u32>>,
}

impl Training {
    /// Counts the pairs of all words. First how many words each is in, so that lists have the size that they need.
    fn count_pairs(&mut self) -> BinaryHeap<Candidate> {
        let mut last: AHashMap<Pair, (u32, u32)> = AHashMap::new();
        for word in 0..self.words.counts.len() {
            for two in self.words.get(word).windows(2) {
                let (lists, last) = last.entry(pair(two[0], two[1])).or_insert((0, u32::MAX));
                if *last != word as u32 {
                    *lists += 1;
                    *last = word as u32;
                }
            }
        }
        self.seen =
            last.into_iter().map(|(pair, (words, _))| (pair, Vec::with_capacity(words as usize))).collect();
        for word in 0..self.words.counts.len() {
            let count = self.words.counts[word];
            let (start, len) = self.words.places[word];
            for at in start as usize..(start + len - 1) as usize {
                let two = pair(self.words.tokens[at], self.words.tokens[at + 1]);
                self.count(two, count, word as u32);
            }
        }
        let mut queue = BinaryHeap::with_capacity(self.seen.len());
        self.enqueue(&mut queue);
        queue
    }

    /// Counts a pair in a word: more often, or less.
    fn count(&mut self, pair: Pair, change: i32, word: u32) {
        *self.pair_counts.entry(pair).or_default() += change;
        if change < 0 {
            return;
        }
        let words = self.seen.entry(pair).or_default();
        // words come one after the other
        if words.last() != Some(&word) {
            words.push(word);
        }
    }

    fn enqueue(&mut self, queue: &mut BinaryHeap<Candidate>) {
        for (pair, mut words) in self.seen.drain() {
            let count = self.pair_counts[&pair];
            if count > 0 {
                words.shrink_to_fit();
                queue.push(Candidate { count: count as u64, pair, words });
            }
        }
    }

    /// Puts `number` in place of the pair in a word, and counts its neighbours anew.
    fn merge_in(&mut self, word: u32, left: u32, right: u32, number: u32) {
        let (start, len) = self.words.places[word as usize];
        let (start, end) = (start as usize, (start + len) as usize);
        let count = self.words.counts[word as usize];
        let (mut from, mut to) = (start, start);
        while from < end {
            let tokens = &mut self.words.tokens;
            if tokens[from] != left || from + 1 == end || tokens[from + 1] != right {
                tokens[to] = tokens[from];
                from += 1;
                to += 1;
                continue;
            }
            tokens[to] = number;
            from += 2;
            to += 1;
            let before = (to - 1 > start).then(|| tokens[to - 2]);
            let behind = (from < end).then(|| tokens[from]);
            if let Some(before) = before {
                self.count(pair(before, left), -count, word);
                self.count(pair(before, number), count, word);
            }
            if let Some(behind) = behind {
                self.count(pair(right, behind), -count, word);
                self.count(pair(number, behind), count, word);
            }
        }
        self.words.places[word as usize].1 = (to - start) as u32;
    }
}
