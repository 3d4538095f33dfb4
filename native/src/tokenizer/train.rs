//! Training of a new tokenizer: words are counted, as many documents at a time as the caller likes, and merges follow
//! from the counts. The same documents and size give the same bytes on any number of threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerImpl};
use tokenizers::{NormalizerWrapper, PostProcessorWrapper};

use super::merges::{self, Vocabulary, Words};
use super::word_table::{Key, WordTable};
use super::{Documents, Split, split};

/// Bytes in the alphabet; with the special tokens, the smallest vocabulary.
const ALPHABET: usize = 256;

/// The trainer counts pairs in 32 bits, as that of the crate does.
const MAX_PAIRS: u64 = i32::MAX as u64 - 1;

/// Longer words are counted in pieces of this many bytes: the trainer rewrites a whole word at each merge, so
/// that one line of a million letters would take hours. Encoding has no such limit.
const MAX_WORD: usize = 256;

/// Documents are handed to threads in groups of at least this many bytes.
const MIN_GROUP: usize = 1 << 18;

/// The words are in so many tables, by their hashes, so that threads add to different ones.
const TABLES: usize = 16;

/// So many different words a thread counts for itself, before it adds them to those of all.
const MAX_OWN: usize = 1 << 18;

type Tables = [WordTable; TABLES];

/// How often each word of a corpus occurs. The corpus is the documents joined with newlines; memory grows with the
/// number of different words.
#[derive(Default)]
pub struct WordCounts {
    tables: [Mutex<WordTable>; TABLES],
    /// what threads have counted and not added yet; one that counts takes some, and puts it back
    own: Mutex<Vec<Tables>>,
    /// the last document, which ends with a newline if another one follows
    last: Option<String>,
    bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WordCounts {
    /// Counts some more documents. Call it inside the pool.
    pub fn add(&mut self, documents: &Documents) {
        if documents.is_empty() {
            return;
        }
        if let Some(last) = self.last.take() {
            self.count(|count| count_words(&last, true, count));
        }
        let whole = documents.len() - 1;
        let share = documents.bytes() / (2 * rayon::current_num_threads());
        documents.groups(share.max(MIN_GROUP)).into_par_iter().for_each(|group| {
            self.count(|count| {
                for d in group.start..group.end.min(whole) {
                    count_words(documents.get(d), true, &mut *count);
                }
            });
        });
        self.last = Some(documents.get(whole).to_string());
        self.bytes += (documents.bytes() + documents.len()) as u64;
    }

    /// Counts the words that are handed out: in tables of this thread, and when these are large in those of all.
    fn count(&self, words: impl FnOnce(&mut dyn FnMut(Key))) {
        let mut own = lock(&self.own).pop().unwrap_or_default();
        words(&mut |key| *own[table_of(key)].entry(key) += 1);
        if own.iter().map(WordTable::len).sum::<usize>() > MAX_OWN {
            self.add_own(&mut own);
        }
        lock(&self.own).push(own);
    }

    fn add_own(&self, own: &mut Tables) {
        for (table, own) in self.tables.iter().zip(own) {
            let mut table = lock(table);
            own.for_each(|key, count| *table.entry(key) += count);
            own.clear();
        }
    }

    /// Trains byte-level BPE on what was counted and returns it as tokenizer.json.
    ///
    /// `special` tokens get the first ids, then come the 256 bytes, then the merges, most frequent first, until there
    /// are `vocab_size` tokens or no pair is left. Nothing is counted afterwards. Call it inside the pool.
    pub fn train(&mut self, vocab_size: usize, special: &[&str]) -> Result<Vec<u8>, String> {
        let smallest = ALPHABET + special.len();
        if vocab_size < smallest {
            return Err(format!(
                "a vocabulary of {vocab_size} is smaller than the alphabet: 256 bytes and {} special tokens need {smallest}",
                special.len()
            ));
        }
        if let Some(last) = self.last.take() {
            self.count(|count| count_words(&last, false, count));
        }
        for mut own in std::mem::take(&mut *lock(&self.own)) {
            self.add_own(&mut own);
        }
        let tables = std::mem::take(&mut self.tables).map(|table| table.into_inner().unwrap_or_default());
        check_pairs(&tables, self.bytes)?;
        let mut words = Words::new(special.len());
        let (mut count, mut bytes) = (0, 0);
        for table in &tables {
            table.for_each(|key, _| {
                count += 1;
                bytes += key.word().len();
            });
        }
        words.reserve(count, bytes);
        // each table is freed when its words are taken
        for table in tables {
            let mut added = Ok(());
            table.for_each(|key, count| {
                if added.is_ok() {
                    added = words.add(key.word(), count);
                }
            });
            added?;
        }
        let Vocabulary { names, merges } = merges::merge(words, vocab_size, special);
        let name = |number: u32| names[number as usize].clone();
        let merges = merges.into_iter().map(|(left, right)| (name(left), name(right))).collect();
        let vocab: Vocab = names.iter().cloned().zip(0..).collect();
        let model =
            BPE::builder().vocab_and_merges(vocab, merges).build().map_err(|error| error.to_string())?;

        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel> =
            TokenizerImpl::new(model);
        tokenizer.with_pre_tokenizer(Some(byte_level));
        tokenizer.with_decoder(Some(byte_level));
        let special: Vec<AddedToken> = special.iter().map(|&token| AddedToken::from(token, true)).collect();
        tokenizer.add_special_tokens(special).map_err(|error| error.to_string())?;
        serde_json::to_vec_pretty(&tokenizer).map_err(|error| error.to_string())
    }
}

/// A pair that merges make is never more frequent than one of neighbouring bytes.
fn check_pairs(tables: &[WordTable], bytes: u64) -> Result<(), String> {
    if bytes <= MAX_PAIRS {
        return Ok(());
    }
    let mut pairs = vec![0u64; 1 << 16];
    for table in tables {
        table.for_each(|key, count| {
            for pair in key.word().windows(2) {
                pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])] += count;
            }
        });
    }
    match pairs.into_iter().max() {
        Some(most) if most > MAX_PAIRS => Err(format!(
            "the most frequent pair of bytes occurs {most} times, more than the trainer can count: take a sample"
        )),
        _ => Ok(()),
    }
}

fn table_of(key: Key) -> usize {
    key.hash as usize % TABLES
}

/// Hands out the words of one document of the corpus, long ones in pieces.
fn count_words(document: &str, newline_follows: bool, count: &mut dyn FnMut(Key)) {
    // A newline is a word of its own, but behind other white space.
    let text = if newline_follows { document.trim_end() } else { document };
    let bytes = document.as_bytes();
    let mut start = 0;
    for word in split::words(text, Split::Gpt2) {
        let end = start + word.len();
        if word.len() <= MAX_WORD {
            count(Key::new(bytes, start, end));
        } else {
            for piece in pieces(word) {
                count(Key::new(piece.as_bytes(), 0, piece.len()));
            }
        }
        start = end;
    }
    match &document[text.len()..] {
        _ if !newline_follows => {}
        "" => count(Key::new(b"\n", 0, 1)),
        space => {
            for piece in pieces(&format!("{space}\n")) {
                count(Key::new(piece.as_bytes(), 0, piece.len()));
            }
        }
    }
}

/// A word in pieces that the trainer can bear, of whole characters.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let (piece, tail) = rest.split_at(rest.floor_char_boundary(MAX_WORD));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
pub use tests::train;

#[cfg(test)]
mod tests {
    use super::super::bytes;
    use super::*;
    use ahash::AHashMap;
    use compact_str::CompactString;
    use tokenizers::models::bpe::BpeTrainer;

    /// A tokenizer of these documents.
    pub fn train(documents: &Documents, vocab_size: usize, special: &[&str]) -> Result<Vec<u8>, String> {
        let mut counts = WordCounts::default();
        counts.add(documents);
        counts.train(vocab_size, special)
    }

    fn words_of(document: &str, newline_follows: bool) -> Vec<String> {
        let mut words = Vec::new();
        count_words(document, newline_follows, &mut |word| {
            words.push(String::from_utf8(word.word().to_vec()).unwrap());
        });
        words
    }

    fn documents(text: &str) -> (String, Vec<u32>) {
        let lines: Vec<&str> = text.lines().collect();
        let mut offsets = vec![0];
        for line in &lines {
            offsets.push(offsets.last().unwrap() + line.len() as u32);
        }
        (lines.concat(), offsets)
    }

    #[test]
    fn order_of_ids_and_smallest_vocabulary() {
        let (text, offsets) = documents("low low lower\nlowest");
        let documents = Documents::new(text.as_bytes(), &offsets).unwrap();
        let json = train(&documents, 262, &["<bos>", "<user>"]).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), 262);
        for (id, token) in [(0, "<bos>"), (1, "<user>"), (2, "!"), (258, "lo"), (259, "low")] {
            assert_eq!(tokenizer.token_to_id(token), Some(id), "{token}");
        }
        assert!(train(&documents, 258, &["<bos>", "<user>"]).is_ok());
        let error = train(&documents, 257, &["<bos>", "<user>"]).unwrap_err();
        assert!(error.ends_with("256 bytes and 2 special tokens need 258"), "{error}");
    }

    #[test]
    fn same_bytes_on_any_number_of_threads() {
        let mut text = String::new();
        for i in 0u32..4000 {
            text.push_str(&format!(
                "{} aaa{} bb{}\n",
                i * i,
                "a".repeat(i as usize % 9),
                "ab".repeat(i as usize % 5)
            ));
        }
        let (text, offsets) = documents(&text);
        let documents = Documents::new(text.as_bytes(), &offsets).unwrap();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&documents, 900, &["<bos>"]).unwrap())
        };
        let first = run(1);
        for threads in [1, 2, 3, 7] {
            assert!(run(threads) == first, "{threads} threads differ");
        }
    }

    #[test]
    fn long_words_come_in_whole_characters() {
        let words = words_of(&"日".repeat(200), true);
        assert_eq!(words.iter().map(String::len).collect::<Vec<_>>(), [255, 255, 90, 1]);
    }

    #[test]
    fn words_are_those_of_the_joined_corpus() {
        for document in
            ["", "a b", "a b ", "it's \t\n", " \u{2003}", "x\u{a0}", "!\r", "9  ", "é", "'", "\n\n"]
        {
            let joined = format!("{document}\n");
            assert_eq!(words_of(document, true), split::words(&joined, Split::Gpt2).collect::<Vec<_>>());
            assert_eq!(words_of(document, false), split::words(document, Split::Gpt2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pieces_of_a_corpus_count_as_the_whole() {
        let (text, offsets) = documents("the cat\nthe hat \nwhat's that 2024\nthe end");
        let whole = train(&Documents::new(text.as_bytes(), &offsets).unwrap(), 270, &["<bos>"]).unwrap();
        let mut counts = WordCounts::default();
        for pair in offsets.windows(2) {
            let one = &text[pair[0] as usize..pair[1] as usize];
            counts.add(&Documents::new(one.as_bytes(), &[0, one.len() as u32]).unwrap());
            counts.add(&Documents::new(b"", &[0]).unwrap());
        }
        assert!(counts.train(270, &["<bos>"]).unwrap() == whole);
    }

    #[test]
    fn more_pairs_than_the_trainer_can_count_are_refused() {
        let mut table = WordTable::default();
        *table.entry(Key::new(b"ab", 0, 2)) += MAX_PAIRS;
        assert!(check_pairs(&[table], 1 << 40).is_ok());
        let mut table = WordTable::default();
        *table.entry(Key::new(b"ab", 0, 2)) += MAX_PAIRS;
        *table.entry(Key::new(b"cab", 0, 3)) += 1;
        assert!(check_pairs(&[table], 1 << 40).unwrap_err().contains("take a sample"));
    }

    /// The crate's own trainer, as the oracle.
    fn crate_train(documents: &Documents, vocab_size: usize, special: &[&str]) -> Vec<u8> {
        let mut words = AHashMap::<CompactString, u64>::new();
        for d in 0..documents.len() {
            count_words(documents.get(d), d + 1 < documents.len(), &mut |word| {
                let chars: String =
                    word.word().iter().map(|&byte| bytes::alphabet().nth(byte.into()).unwrap()).collect();
                *words.entry(chars.into()).or_default() += 1;
            });
        }
        let special: Vec<AddedToken> = special.iter().map(|&token| AddedToken::from(token, true)).collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .special_tokens(special.clone())
            .initial_alphabet(bytes::alphabet().collect())
            .show_progress(false)
            .build();
        let mut model = BPE::default();
        trainer.do_train(&words, &mut model).unwrap();
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel> =
            TokenizerImpl::new(model);
        tokenizer.with_pre_tokenizer(Some(byte_level));
        tokenizer.with_decoder(Some(byte_level));
        tokenizer.add_special_tokens(special).unwrap();
        serde_json::to_vec_pretty(&tokenizer).unwrap()
    }

    #[test]
    fn agrees_with_the_crate() {
        let mut state = 11u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        // few letters, so that pairs overlap, repeat and spell the special token
        let letters = ["a", "b", "ab", "aa", " ", "<", "bos", ">", "é", "\n", "1"];
        for round in 0..60 {
            let text: String = (0..400).map(|_| letters[random(2 + round % (letters.len() - 1))]).collect();
            let (text, offsets) = documents(&text);
            let documents = Documents::new(text.as_bytes(), &offsets).unwrap();
            for vocab_size in [260, 300, 5000] {
                let ours = train(&documents, vocab_size, &["<bos>"]).unwrap();
                assert!(ours == crate_train(&documents, vocab_size, &["<bos>"]), "{round} {vocab_size}");
            }
        }
    }
}
