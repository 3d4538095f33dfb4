//! The byte-level alphabet of GPT-2: a printable character for each of the 256 bytes.

/// The character that stands for each byte: itself if it is printable Latin-1 and not a space, else one of
/// U+0100, U+0101, … in the order of the bytes.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut byte = 0;
    let mut next = 256;
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { next };
        if !printable {
            next += 1;
        }
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => unreachable!(),
        };
        byte += 1;
    }
    chars
};

/// The 256 characters, in the order of their bytes.
pub fn alphabet() -> impl Iterator<Item = char> {
    CHARS.into_iter()
}

/// Writes text in the alphabet.
pub fn append_chars(word: &mut String, text: &str) {
    word.extend(text.bytes().map(|byte| CHARS[byte as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn is_the_crates_alphabet() {
        let ours: HashSet<char> = alphabet().collect();
        assert_eq!(ours.len(), 256);
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
    }

    #[test]
    fn bytes_become_characters() {
        let mut word = String::new();
        append_chars(&mut word, "a é\n\0");
        assert_eq!(word, "aĠÃ©ĊĀ");
    }
}
