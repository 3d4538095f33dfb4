//! Training of a new tokenizer. The same documents and size give the same bytes on any number of threads.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerImpl, Trainer};
use tokenizers::{NormalizerWrapper, PostProcessorWrapper};

use super::{Documents, Split, bytes, split};

/// Bytes in the alphabet; with the special tokens, the smallest vocabulary.
const ALPHABET: usize = 256;

/// The trainer counts pairs in 32 bits, and there is at most one pair per byte.
const MAX_CORPUS: usize = i32::MAX as usize - 1;

/// Longer words are counted in pieces of this many bytes: the trainer rewrites a whole word at each merge, so
/// that one line of a million letters would take hours. Encoding has no such limit.
const MAX_WORD: usize = 256;

/// Documents are handed to threads in groups of about this many bytes.
const GROUP: usize = 1 << 18;

/// Trains byte-level BPE and returns it as tokenizer.json.
///
/// `special` tokens get the first ids, then come the 256 bytes, then the merges, most frequent first, until there
/// are `vocab_size` tokens or no pair is left. The corpus is the documents joined with newlines.
/// Call it inside the pool.
pub fn train(documents: &Documents, vocab_size: usize, special: &[&str]) -> Result<Vec<u8>, String> {
    let smallest = ALPHABET + special.len();
    if vocab_size < smallest {
        return Err(format!(
            "a vocabulary of {vocab_size} is smaller than the alphabet: 256 bytes and {} special tokens need {smallest}",
            special.len()
        ));
    }
    if documents.bytes() + documents.len() > MAX_CORPUS {
        return Err(format!("a tokenizer can be trained on at most {MAX_CORPUS} bytes of text"));
    }
    let special: Vec<AddedToken> = special.iter().map(|&token| AddedToken::from(token, true)).collect();
    let mut trainer = BpeTrainer::builder()
        // The trainer reserves memory for everything it is asked for; no corpus yields more tokens than this.
        .vocab_size(vocab_size.min(smallest + documents.bytes()))
        .special_tokens(special.clone())
        .initial_alphabet(bytes::alphabet().collect())
        .show_progress(false)
        .build();
    // The trainer takes strings and a function that splits each, so a group travels as its number.
    let groups = documents.groups(GROUP);
    trainer
        .feed((0..groups.len()).map(|g| g.to_string()), |g| {
            let group = groups[g.parse::<usize>()?].clone();
            Ok(group.flat_map(|d| training_words(documents.get(d), d + 1 < documents.len())).collect())
        })
        .map_err(|error| error.to_string())?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(|error| error.to_string())?;

    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel> =
        TokenizerImpl::new(model);
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(byte_level));
    tokenizer.add_special_tokens(special).map_err(|error| error.to_string())?;
    serde_json::to_vec_pretty(&tokenizer).map_err(|error| error.to_string())
}

/// The words of one document of the corpus in the byte alphabet, long ones in pieces.
pub fn training_words(document: &str, newline_follows: bool) -> Vec<String> {
    let joined = if newline_follows { &format!("{document}\n") } else { document };
    let mut all = Vec::new();
    for word in split::words(joined, Split::Gpt2) {
        let mut rest = word;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.floor_char_boundary(MAX_WORD));
            let mut word = String::with_capacity(2 * piece.len());
            bytes::append_chars(&mut word, piece);
            all.push(word);
            rest = tail;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let words = training_words(&"日".repeat(200), true);
        assert_eq!(words.iter().map(|word| word.chars().count()).collect::<Vec<_>>(), [255, 255, 90, 1]);
    }
}
