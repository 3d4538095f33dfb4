//! Cuts text into the words that BPE works inside, in one of the ways that models of the Llama family use:
//!
//!     gpt-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//!     smollm     the same, in the pieces that are left when every digit is taken out as a word
//!     llama-bpe  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
//!                \s*[\r\n]+|\s+(?!\S)|\s+
//!     qwen2      the same with \p{N}
//!
//! The only part that needs to look ahead is `\s+(?!\S)`: a run of white space before a word gives its last
//! character back to that word. Without it the rest is a plain regular expression, which never backtracks, so
//! time is linear in the text whatever is in it.

use std::sync::LazyLock;

use regex::Regex;

/// A way to split; `data/splits.ts` has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Split {
    Gpt2,
    Smollm,
    LlamaBpe,
    Qwen2,
}

impl Split {
    /// The way of that number.
    pub fn of(id: u32) -> Result<Self, String> {
        match id {
            0 => Ok(Self::Gpt2),
            1 => Ok(Self::Smollm),
            2 => Ok(Self::LlamaBpe),
            3 => Ok(Self::Qwen2),
            _ => Err(format!("there is no way {id} to split")),
        }
    }

    fn pattern(self) -> &'static Regex {
        match self {
            Self::Gpt2 => &GPT2,
            Self::Smollm => &SMOLLM,
            Self::LlamaBpe => &LLAMA_BPE,
            Self::Qwen2 => &QWEN2,
        }
    }
}

static GPT2: LazyLock<Regex> =
    LazyLock::new(|| compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"));
static SMOLLM: LazyLock<Regex> =
    LazyLock::new(|| compile(r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"));
static LLAMA_BPE: LazyLock<Regex> = LazyLock::new(|| compile(&modern("{1,3}")));
static QWEN2: LazyLock<Regex> = LazyLock::new(|| compile(&modern("")));

fn modern(digits: &str) -> String {
    let contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    format!(
        r"{contraction}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+"
    )
}

fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

/// The words of a text, in order; joined they are the text.
pub struct Words<'a> {
    text: &'a str,
    at: usize,
    split: Split,
    pattern: &'static Regex,
}

/// The words of a text, in order; joined they are the text.
pub fn words(text: &str, split: Split) -> Words<'_> {
    Words { text, at: 0, split, pattern: split.pattern() }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.split == Split::Gpt2
            && let Some(end) = ascii_word(self.text.as_bytes(), self.at)
        {
            let start = std::mem::replace(&mut self.at, end);
            return Some(&self.text[start..end]);
        }
        // A pattern's parts cover every character, so a match begins where the last one ended.
        let found = self.pattern.find_at(self.text, self.at)?;
        debug_assert_eq!(found.start(), self.at);
        let mut end = found.end();
        let mut chars = found.as_str().char_indices();
        if let Some((before_last, last)) = chars.next_back()
            && before_last > 0
            && self.gives_back(last, self.text[end..].chars().next())
        {
            end = self.at + before_last;
        }
        let start = std::mem::replace(&mut self.at, end);
        Some(&self.text[start..end])
    }
}

/// What the patterns tell ASCII characters apart by.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Letter,
    Number,
    Space,
    Sign,
    NotAscii,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::NotAscii; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            _ => Class::Sign,
        };
        byte += 1;
    }
    classes
};

/// The end of the word of `Split::Gpt2` that begins at `at`, several times faster than the pattern. None at the end of
/// the text, and where the word touches a character that is not ASCII.
fn ascii_word(text: &[u8], at: usize) -> Option<usize> {
    let class_at = |i: usize| text.get(i).map(|&byte| CLASSES[byte as usize]);
    let mut class = class_at(at)?;
    let mut end = at + 1;
    if text[at] == b'\'' {
        match text.get(end..) {
            Some([b's' | b't' | b'm' | b'd', ..]) => return Some(end + 1),
            Some([b'r' | b'v', b'e', ..] | [b'l', b'l', ..]) => return Some(end + 2),
            _ => {}
        }
    }
    if text[at] == b' '
        && let Some(next) = class_at(end)
        && next != Class::Space
    {
        class = next;
        end += 1;
    }
    if class == Class::NotAscii {
        return None;
    }
    while class_at(end) == Some(class) {
        end += 1;
    }
    match class_at(end) {
        Some(Class::NotAscii) => None,
        Some(_) if class == Class::Space && end - at > 1 => Some(end - 1),
        _ => Some(end),
    }
}

impl Words<'_> {
    /// Whether a word of several characters leaves its last one to the next word.
    fn gives_back(&self, last: char, next: Option<char>) -> bool {
        let Some(next) = next else { return false };
        match self.split {
            Split::Gpt2 => last.is_whitespace(),
            // a digit ends the piece, so nothing is looked at behind it
            Split::Smollm => last.is_whitespace() && !next.is_numeric(),
            // signs and lines end in newlines, which they keep
            Split::LlamaBpe | Split::Qwen2 => last.is_whitespace() && last != '\r' && last != '\n',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};

    /// The crate's own splitters, as the oracle.
    fn crate_words(text: &str, split: Split) -> Vec<&str> {
        let json = match split {
            Split::Gpt2 => byte_level(true),
            Split::Smollm => sequence(r#"{"type":"Digits","individual_digits":true}"#, &byte_level(true)),
            Split::LlamaBpe => sequence(&regex("{1,3}"), &byte_level(false)),
            Split::Qwen2 => sequence(&regex(""), &byte_level(false)),
        };
        let splitter: PreTokenizerWrapper = serde_json::from_str(&json).unwrap();
        let mut split: PreTokenizedString = text.into();
        splitter.pre_tokenize(&mut split).unwrap();
        let pieces = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces
            .into_iter()
            .map(|(_, (start, end), _)| &text[start..end])
            .filter(|word| !word.is_empty())
            .collect()
    }

    fn byte_level(regex: bool) -> String {
        format!(r#"{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":{regex}}}"#)
    }

    fn sequence(first: &str, second: &str) -> String {
        format!(r#"{{"type":"Sequence","pretokenizers":[{first},{second}]}}"#)
    }

    fn regex(digits: &str) -> String {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let pattern = serde_json::to_string(&pattern).unwrap();
        format!(r#"{{"type":"Split","pattern":{{"Regex":{pattern}}},"behavior":"Isolated","invert":false}}"#)
    }

    const ALL: [Split; 4] = [Split::Gpt2, Split::Smollm, Split::LlamaBpe, Split::Qwen2];

    #[test]
    fn agrees_with_the_crate() {
        let pieces = [
            "a", "Z", "é", "日", "5", "²", "!", "<", "'", "'s", "'re", "'ll", "'S", "'ſ", "'Ll", "12", " ",
            "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{85}", "\u{feff}", "\u{2003}", "\u{200b}", "🙂",
            "\u{301}", "\0", "_", "<bos>",
        ];
        let mut state = 7u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for split in ALL {
            for _ in 0..3000 {
                let text: String = (0..random(12)).map(|_| pieces[random(pieces.len())]).collect();
                let ours = words(&text, split).collect::<Vec<_>>();
                assert_eq!(ours, crate_words(&text, split), "{split:?} {text:?}");
            }
        }
    }

    #[test]
    fn long_runs_are_linear() {
        let text = format!("{}x{}", " ".repeat(1_000_000), "\n".repeat(1_000_000));
        assert_eq!(words(&text, Split::Gpt2).map(str::len).collect::<Vec<_>>(), [999_999, 2, 1_000_000]);
    }
}
