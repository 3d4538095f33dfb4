//! Encodes documents in parallel.

use std::ops::Range;
use std::sync::PoisonError;

use rayon::prelude::*;
use tokenizers::Model;

use super::word_table::{Key, WordTable};
use super::{Documents, Tokenizer, bytes, merger, split};

/// A thread gets at least this many bytes at a time, so that handing them out does not count.
const MIN_GROUP: usize = 1 << 16;

/// The ids of all documents end to end, and the start of each ([documents + 1]).
pub struct Encoding {
    pub ids: Vec<u32>,
    pub offsets: Vec<u32>,
}

/// Encodes each document by itself. Text never becomes a special token; bytes that an old tokenizer does not know
/// are dropped. Call it inside the pool.
pub fn encode(tokenizer: &Tokenizer, documents: &Documents) -> Result<Encoding, String> {
    let share = documents.bytes() / (4 * rayon::current_num_threads());
    let groups = documents.groups(share.max(MIN_GROUP));
    let parts: Vec<Encoding> = groups
        .into_par_iter()
        .map(|group| encode_group(tokenizer, documents, group))
        .collect::<Result<_, _>>()?;
    let total: usize = parts.iter().map(|part| part.ids.len()).sum();
    if u32::try_from(total).is_err() {
        return Err(format!("{total} tokens are more than 32-bit offsets can address"));
    }
    let mut all =
        Encoding { ids: Vec::with_capacity(total), offsets: Vec::with_capacity(documents.len() + 1) };
    all.offsets.push(0);
    for part in parts {
        let base = all.ids.len() as u32;
        all.offsets.extend(part.offsets.iter().map(|end| base + end));
        all.ids.extend_from_slice(&part.ids);
    }
    Ok(all)
}

/// One group's ids, and the end of each of its documents.
fn encode_group(
    tokenizer: &Tokenizer,
    documents: &Documents,
    group: Range<usize>,
) -> Result<Encoding, String> {
    let mut part = Encoding { ids: Vec::new(), offsets: Vec::with_capacity(group.len()) };
    let (model, merger, split, known) = match tokenizer {
        Tokenizer::Words { model, merger, split, known } => (model, merger, *split, known),
        Tokenizer::Whole(whole) => {
            for d in group {
                let encoding =
                    whole.encode_fast(documents.get(d), false).map_err(|error| error.to_string())?;
                part.ids.extend_from_slice(encoding.get_ids());
                part.offsets.push(part.ids.len() as u32);
            }
            return Ok(part);
        }
    };
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cache = lock().pop().unwrap_or_default();
    let (mut chars, mut symbols) = (String::new(), Vec::new());
    for d in group {
        let (document, mut start) = (documents.get(d), 0);
        for word in split::words(document, split) {
            let key = Key::new(document.as_bytes(), start, start + word.len());
            start += word.len();
            if cache.append(key, &mut part.ids) {
                continue;
            }
            let first = part.ids.len();
            match merger {
                Some(merger) if word.len() <= merger::MAX_BYTES => {
                    merger.encode(word.as_bytes(), &mut symbols, &mut part.ids);
                }
                _ => {
                    chars.clear();
                    bytes::append_chars(&mut chars, word);
                    let tokens = model.tokenize(&chars).map_err(|error| error.to_string())?;
                    part.ids.extend(tokens.iter().map(|token| token.id));
                }
            }
            cache.insert(key, &part.ids[first..]);
        }
        part.offsets.push(part.ids.len() as u32);
    }
    lock().push(cache);
    Ok(part)
}

/// Words that are remembered; a text has many of a few, and longer ones hardly come again.
const MAX_KNOWN: usize = 1 << 19;
const MAX_KNOWN_BYTES: usize = 64;

/// Ids of so many bits, three at most, lie in the number of a word, below how many there are.
const ID_BITS: u32 = 20;
const COUNT_SHIFT: u32 = 60;
/// The number of a word with other ids: where they begin, and above it how many they are.
const ELSEWHERE: u64 = 15;

/// The ids of words that were met before. Each thread that encodes takes one of the tokenizer's, and puts it back.
#[derive(Default)]
pub struct WordCache {
    words: WordTable,
    ids: Vec<u32>,
}

impl WordCache {
    /// Appends the ids of a word, if it is known.
    fn append(&self, key: Key, ids: &mut Vec<u32>) -> bool {
        let Some(number) = self.words.find(key) else { return false };
        match number >> COUNT_SHIFT {
            ELSEWHERE => {
                let (start, len) = (number as u32 as usize, (number << 4 >> 36) as usize);
                ids.extend_from_slice(&self.ids[start..start + len]);
            }
            count => {
                let id = |i: u64| (number >> (u64::from(ID_BITS) * i)) as u32 & ((1 << ID_BITS) - 1);
                let three = [id(0), id(1), id(2)];
                ids.extend_from_slice(&three[..count as usize]);
            }
        }
        true
    }

    fn insert(&mut self, key: Key, ids: &[u32]) {
        if key.word().len() > MAX_KNOWN_BYTES {
            return;
        }
        if self.words.len() == MAX_KNOWN {
            self.words.clear();
            self.ids.clear();
        }
        let number = if ids.len() <= 3 && ids.iter().all(|&id| id < 1 << ID_BITS) {
            ids.iter().rev().fold(0, |number, &id| number << ID_BITS | u64::from(id))
                | (ids.len() as u64) << COUNT_SHIFT
        } else {
            let start = self.ids.len() as u64;
            self.ids.extend_from_slice(ids);
            ELSEWHERE << COUNT_SHIFT | (ids.len() as u64) << 32 | start
        };
        *self.words.entry(key) = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::load::{load, load_json};
    use crate::tokenizer::{Split, train::train};

    const TEXT: &str = "the cat, the hat <bos> naïve 🙂\r\n\u{0}\u{7f} it's 2024";

    fn trained(text: &str) -> (Vec<u8>, Tokenizer) {
        let json = train(&Documents::new(text.as_bytes(), &[0, text.len() as u32]).unwrap(), 280, &["<bos>"])
            .unwrap();
        let tokenizer = load_json(&json);
        (json, tokenizer)
    }

    #[test]
    fn comes_back_and_agrees_with_the_crate() {
        let (json, tokenizer) = trained(TEXT);
        let mut oracle = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        oracle.set_encode_special_tokens(true);
        for text in [TEXT, "", "<bos>", "  \n  x", "日本語 hat's"] {
            let documents = [0, text.len() as u32];
            let encoding = encode(&tokenizer, &Documents::new(text.as_bytes(), &documents).unwrap()).unwrap();
            assert_eq!(encoding.offsets, [0, encoding.ids.len() as u32]);
            assert_eq!(oracle.decode(&encoding.ids, false).unwrap(), text);
            assert_eq!(encoding.ids, oracle.encode(text, false).unwrap().get_ids());
            assert!(!encoding.ids.contains(&0));
        }
    }

    #[test]
    fn words_met_before_and_new_ones_agree_with_the_crate() {
        let text: String = (0u64..3000)
            .map(|i| {
                let mixed = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                format!(
                    "w{} aaa{} é{}{}\n",
                    mixed % 900,
                    "ab".repeat(i as usize % 70),
                    "日".repeat(i as usize % 5),
                    mixed
                )
            })
            .collect();
        let json = train(&Documents::new(text.as_bytes(), &[0, text.len() as u32]).unwrap(), 700, &["<bos>"])
            .unwrap();
        let (tokenizer, mut oracle) = (load_json(&json), tokenizers::Tokenizer::from_bytes(&json).unwrap());
        oracle.set_encode_special_tokens(true);
        let ids = oracle.encode(text.as_str(), false).unwrap().get_ids().to_vec();
        for _ in 0..2 {
            let ours = encode(&tokenizer, &Documents::new(text.as_bytes(), &[0, text.len() as u32]).unwrap());
            assert_eq!(ours.unwrap().ids, ids);
        }
    }

    #[test]
    fn ids_of_any_number_and_size_are_remembered() {
        let mut cache = WordCache::default();
        let key = |word: &'static [u8]| Key::new(word, 0, word.len());
        let all: [(&[u8], &[u32]); 5] =
            [(b"a", &[]), (b"b", &[7]), (b"c", &[1 << 19, 0, 3]), (b"d", &[1 << 20]), (b"e", &[1, 2, 3, 4])];
        for (word, ids) in all {
            cache.insert(key(word), ids);
        }
        for (word, ids) in all {
            let mut found = vec![9];
            assert!(cache.append(key(word), &mut found));
            assert_eq!(found[1..], *ids);
        }
        assert!(!cache.append(key(b"f"), &mut Vec::new()));
    }

    #[test]
    fn many_documents_equal_each_alone() {
        let (_, tokenizer) = trained(TEXT);
        let lines: Vec<String> =
            (0..20_000).map(|i| format!("the {} cat{}", i % 977, "!".repeat(i % 7))).collect();
        let mut offsets = vec![0u32];
        for line in &lines {
            offsets.push(offsets.last().unwrap() + line.len() as u32);
        }
        let text = lines.concat();
        let all = encode(&tokenizer, &Documents::new(text.as_bytes(), &offsets).unwrap()).unwrap();
        assert_eq!(all.offsets.len(), lines.len() + 1);
        for d in (0..lines.len()).step_by(501) {
            let alone = [0, lines[d].len() as u32];
            let alone = encode(&tokenizer, &Documents::new(lines[d].as_bytes(), &alone).unwrap()).unwrap();
            assert_eq!(all.ids[all.offsets[d] as usize..all.offsets[d + 1] as usize], alone.ids);
        }
    }

    #[test]
    fn unknown_bytes_are_dropped() {
        let names = Documents::new(b"abab", &[0, 1, 2, 4]).unwrap();
        let tokenizer = load(&names, &[1, 2, 3], &[1, 2], Split::Gpt2, false).unwrap();
        let encoding = encode(&tokenizer, &Documents::new(b"axb zb", &[0, 6]).unwrap()).unwrap();
        assert_eq!(encoding.ids, [3, 2]);
    }

    #[test]
    fn bad_offsets_are_refused() {
        for offsets in [&[][..], &[0], &[1, 3], &[0, 3, 1, 3], &[0, 2, 3], &[0, 9]] {
            assert!(Documents::new("aé".as_bytes(), offsets).is_err(), "{offsets:?}");
        }
        assert!(Documents::new(b"\xff", &[0, 1]).is_err());
        assert_eq!(Documents::new(b"", &[0]).unwrap().len(), 0);
    }
}
