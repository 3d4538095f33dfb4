//! Cuts text into the words that BPE works inside, as GPT-2 does:
//!
//!     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//!
//! The only part that needs to look ahead is `\s+(?!\S)`: a run of white space before a word gives its last
//! character back to that word. Without it the rest is a plain regular expression, which never backtracks, so
//! time is linear in the text whatever is in it.

use std::sync::LazyLock;

use regex::Regex;

static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
        .expect("a constant pattern")
});

/// The words of a text, in order; joined they are the text.
pub struct Words<'a> {
    text: &'a str,
    at: usize,
}

/// The words of a text, in order; joined they are the text.
pub fn words(text: &str) -> Words<'_> {
    Words { text, at: 0 }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        // The pattern's last three parts cover every character, so a match begins where the last one ended.
        let found = WORD.find_at(self.text, self.at)?;
        debug_assert_eq!(found.start(), self.at);
        let mut end = found.end();
        let word = found.as_str();
        let last = word.char_indices().next_back();
        if let Some((before_last, last)) = last
            && last.is_whitespace()
            && before_last > 0
            && end < self.text.len()
        {
            end = self.at + before_last;
        }
        let start = std::mem::replace(&mut self.at, end);
        Some(&self.text[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// The crate's own splitter, as the oracle.
    fn crate_words(text: &str) -> Vec<&str> {
        let mut split: PreTokenizedString = text.into();
        ByteLevel::new(false, true, true).pre_tokenize(&mut split).unwrap();
        let pieces = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces
            .into_iter()
            .map(|(_, (start, end), _)| &text[start..end])
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn agrees_with_the_crate() {
        let pieces = [
            "a", "Z", "é", "日", "5", "²", "!", "<", "'", "'s", "'re", "'ll", "'S", " ", "  ", "\n", "\r\n",
            "\t", "\u{a0}", "\u{85}", "\u{feff}", "\u{2003}", "\u{200b}", "🙂", "\u{301}", "\0", "_",
            "<bos>",
        ];
        let mut state = 7u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for _ in 0..5000 {
            let text: String = (0..random(12)).map(|_| pieces[random(pieces.len())]).collect();
            assert_eq!(words(&text).collect::<Vec<_>>(), crate_words(&text), "{text:?}");
        }
    }

    #[test]
    fn long_runs_are_linear() {
        let text = format!("{}x{}", " ".repeat(1_000_000), "\n".repeat(1_000_000));
        assert_eq!(words(&text).map(str::len).collect::<Vec<_>>(), [999_999, 2, 1_000_000]);
    }
}
