//! Encodes documents in parallel.

use std::ops::Range;
use std::sync::PoisonError;

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use tokenizers::Model;

use super::{Documents, Tokenizer, bytes, split};

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
    let (model, split, known) = match tokenizer {
        Tokenizer::Words { model, split, known } => (model, *split, known),
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
    let mut chars = String::new();
    for d in group {
        for word in split::words(documents.get(d), split) {
            if let Some(ids) = cache.get(word) {
                part.ids.extend_from_slice(ids);
                continue;
            }
            chars.clear();
            bytes::append_chars(&mut chars, word);
            let start = part.ids.len();
            let tokens = model.tokenize(&chars).map_err(|error| error.to_string())?;
            part.ids.extend(tokens.iter().map(|token| token.id));
            cache.insert(word, &part.ids[start..]);
        }
        part.offsets.push(part.ids.len() as u32);
    }
    lock().push(cache);
    Ok(part)
}

/// Words that are remembered; a text has many of a few, and longer ones hardly come again.
const MAX_KNOWN: usize = 1 << 18;
const MAX_KNOWN_BYTES: usize = 64;

/// The ids of words that were met before. Each thread that encodes takes one of the tokenizer's, and puts it back.
#[derive(Default)]
pub struct WordCache {
    /// where the ids of a word are: start and length
    places: AHashMap<CompactString, (u32, u32)>,
    ids: Vec<u32>,
}

impl WordCache {
    fn get(&self, word: &str) -> Option<&[u32]> {
        let &(start, len) = self.places.get(word)?;
        Some(&self.ids[start as usize..(start + len) as usize])
    }

    fn insert(&mut self, word: &str, ids: &[u32]) {
        if word.len() > MAX_KNOWN_BYTES {
            return;
        }
        if self.places.len() == MAX_KNOWN {
            self.places.clear();
            self.ids.clear();
        }
        self.places.insert(word.into(), (self.ids.len() as u32, ids.len() as u32));
        self.ids.extend_from_slice(ids);
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
