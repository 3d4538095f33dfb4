//! Reads tokenizer.json and refuses whatever is not a byte-level BPE tokenizer of this program.
//!
//! The file may come from anywhere. Nothing of it is compiled or run: a file with a normalizer or a regular
//! expression of its own is refused, and every id, token and merge is checked before the model is built.

use std::collections::HashMap;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};

use super::{Token, Tokenizer};

/// Larger files are refused unread.
const MAX_FILE: usize = 64 << 20;

/// The token that every model needs.
const BOS: &str = "<bos>";

/// The kinds of the parts, read first so that a foreign tokenizer is refused by its kind.
#[derive(Deserialize)]
struct Kinds {
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
    post_processor: Option<Part>,
    decoder: Option<Part>,
    model: Part,
}

#[derive(Deserialize)]
struct Part {
    /// Old files leave it out of the model.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    add_prefix_space: bool,
    #[serde(default = "yes")]
    use_regex: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Merges,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merges {
    Pairs(Vec<(String, String)>),
    /// `"left right"`, as files were written until 2024.
    Lines(Vec<String>),
}

/// Loads tokenizer.json.
pub fn load(json: &[u8]) -> Result<Tokenizer, String> {
    parse(json).map_err(|error| format!("tokenizer.json: {error}"))
}

fn parse(json: &[u8]) -> Result<Tokenizer, String> {
    if json.len() > MAX_FILE {
        return Err(format!("{} MB, at most {} MB are read", json.len() >> 20, MAX_FILE >> 20));
    }
    check_kinds(&serde_json::from_slice(json).map_err(|error| error.to_string())?)?;
    let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    check_model(&file.model)?;
    let tokens = token_table(&file)?;
    let mut vocab = file.model.vocab;
    vocab.retain(|_, id| !tokens[*id as usize].special);
    let merges = checked_merges(file.model.merges, &vocab)?;
    let mut model = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
        .build()
        .map_err(|error| error.to_string())?;
    // The crate's cache stays in each thread after the tokenizer is gone; `encode` has its own.
    model.resize_cache(0);
    Ok(Tokenizer { model, tokens })
}

fn check_kinds(file: &Kinds) -> Result<(), String> {
    let kind = |part: &Option<Part>| match part {
        None => "none".to_string(),
        Some(part) => part.kind.clone().unwrap_or("unnamed".into()),
    };
    if let Some(model) = &file.model.kind
        && model != "BPE"
    {
        return Err(format!("the model is {model}, only BPE is read"));
    }
    for (name, part) in [("pre_tokenizer", &file.pre_tokenizer), ("decoder", &file.decoder)] {
        if kind(part) != "ByteLevel" {
            return Err(format!("the {name} is {}, only ByteLevel is read", kind(part)));
        }
    }
    if let Some(Part { add_prefix_space: true, .. } | Part { use_regex: false, .. }) = &file.pre_tokenizer {
        return Err("the pre_tokenizer must have add_prefix_space false and use_regex true".into());
    }
    if file.normalizer.is_some() {
        return Err(format!("the normalizer is {}, only none is read", kind(&file.normalizer)));
    }
    if file.post_processor.is_some() && kind(&file.post_processor) != "ByteLevel" {
        return Err(format!(
            "the post_processor is {}, only ByteLevel or none is read",
            kind(&file.post_processor)
        ));
    }
    Ok(())
}

fn check_model(model: &Model) -> Result<(), String> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let refused = [
        ("dropout", model.dropout.is_some_and(|dropout| dropout != 0.0)),
        ("unk_token", given(&model.unk_token)),
        ("continuing_subword_prefix", given(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", given(&model.end_of_word_suffix)),
        ("byte_fallback", model.byte_fallback),
        ("ignore_merges", model.ignore_merges),
    ];
    match refused.iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(format!("the model sets {name}, which is not supported")),
        None => Ok(()),
    }
}

/// Vocabulary and added tokens as one table by id: every id from 0 on exactly once.
fn token_table(file: &File) -> Result<Vec<Token>, String> {
    let vocab = &file.model.vocab;
    let mut ids: HashMap<&str, (u32, bool)> =
        vocab.iter().map(|(name, &id)| (name.as_str(), (id, false))).collect();
    for token in &file.added_tokens {
        let known = ids.insert(&token.content, (token.id, token.special));
        if let Some((id, _)) = known
            && id != token.id
        {
            return Err(format!("the token {:?} has two ids, {id} and {}", token.content, token.id));
        }
    }
    match ids.get(BOS) {
        None => return Err(format!("there is no {BOS} token")),
        Some((_, false)) => return Err(format!("{BOS} is not marked as a special token")),
        Some((_, true)) => {}
    }
    let count = ids.len();
    let mut table: Vec<Option<Token>> = (0..count).map(|_| None).collect();
    for (name, (id, special)) in ids {
        if name.is_empty() {
            return Err(format!("token {id} is empty"));
        }
        let Some(slot) = table.get_mut(id as usize) else {
            return Err(format!("the token {name:?} has id {id}, but there are only {count} tokens"));
        };
        if let Some(other) = slot {
            return Err(format!("the tokens {name:?} and {:?} both have id {id}", other.name));
        }
        *slot = Some(Token { name: name.to_string(), special });
    }
    // As many distinct ids below the count as tokens: no slot is left empty.
    Ok(table.into_iter().flatten().collect())
}

/// The merges as pairs; both parts and what they make must be ordinary tokens.
fn checked_merges(merges: Merges, vocab: &HashMap<String, u32>) -> Result<Vec<(String, String)>, String> {
    let pairs = match merges {
        Merges::Pairs(pairs) => pairs,
        Merges::Lines(lines) => lines
            .iter()
            .enumerate()
            .map(|(i, line)| match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => Ok((left.to_string(), right.to_string())),
                _ => Err(format!("merge {i} is {line:?}, not two tokens")),
            })
            .collect::<Result<_, _>>()?,
    };
    for (i, (left, right)) in pairs.iter().enumerate() {
        let made = format!("{left}{right}");
        if let Some(missing) = [left, right, &made].into_iter().find(|&token| !vocab.contains_key(token)) {
            return Err(format!(
                "merge {i} needs the token {missing:?}, which is special or not in the vocabulary"
            ));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [{ "id": 0, "content": "<bos>", "special": true }],
            "normalizer": null,
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
            "post_processor": null,
            "decoder": { "type": "ByteLevel" },
            "model": {
                "type": "BPE",
                "vocab": { "<bos>": 0, "a": 1, "b": 2, "ab": 3 },
                "merges": [["a", "b"]]
            }
        })
    }

    fn error(path: &str, value: Value) -> String {
        let mut file = valid();
        *file.pointer_mut(path).unwrap() = value;
        load(file.to_string().as_bytes()).err().unwrap_or_else(|| panic!("{path} was accepted"))
    }

    #[test]
    fn reads_both_forms_of_merges() {
        let mut file = valid();
        assert_eq!(load(file.to_string().as_bytes()).unwrap().vocab_size(), 4);
        file["model"]["merges"] = json!(["a b"]);
        assert_eq!(load(file.to_string().as_bytes()).unwrap().vocab_size(), 4);
    }

    #[test]
    fn refuses_foreign_tokenizers() {
        assert!(error("/model/type", json!("Unigram")).contains("the model is Unigram"));
        assert!(error("/pre_tokenizer", json!(null)).contains("the pre_tokenizer is none"));
        assert!(error("/pre_tokenizer/add_prefix_space", json!(true)).contains("add_prefix_space"));
        assert!(error("/decoder/type", json!("Fuse")).contains("the decoder is Fuse"));
        let hostile = json!({ "type": "Replace", "pattern": { "Regex": "(a*)*b" }, "content": "" });
        assert!(error("/normalizer", hostile).contains("the normalizer is Replace"));
        assert!(
            error("/post_processor", json!({ "type": "TemplateProcessing" })).contains("TemplateProcessing")
        );
        for (key, value) in
            [("unk_token", json!("a")), ("dropout", json!(0.5)), ("byte_fallback", json!(true))]
        {
            let mut file = valid();
            file["model"][key] = value;
            let error = load(file.to_string().as_bytes()).err().unwrap();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn refuses_broken_vocabularies() {
        assert!(error("/added_tokens", json!([])).contains("<bos> is not marked"));
        assert!(error("/added_tokens/0/content", json!("<x>")).contains("<bos> is not marked"));
        assert!(error("/added_tokens/0/id", json!(1)).contains("two ids"));
        assert!(error("/model/vocab", json!({})).contains("needs the token \"a\""));
        assert!(error("/model/vocab/ab", json!(2)).contains("both have id 2"));
        assert!(error("/model/vocab/ab", json!(4_000_000_000u32)).contains("only 4 tokens"));
        assert!(error("/model/vocab/ab", json!(-1)).contains("expected u32"));
        assert!(error("/model/vocab", json!({ "<bos>": 0, "": 1 })).contains("is empty"));
    }

    #[test]
    fn refuses_broken_merges() {
        assert!(error("/model/merges", json!([["b", "a"]])).contains("needs the token \"ba\""));
        assert!(error("/model/merges", json!([["", "a"]])).contains("merge 0"));
        assert!(error("/model/merges", json!(["a b c"])).contains("not two tokens"));
        assert!(error("/model/merges", json!([["<bos>", "a"]])).contains("special"));
        assert!(error("/model/merges", json!([7])).contains("Merges"));
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in ["", "{", "[]", "null", "{\"model\":{}}", "\u{0}"] {
            assert!(load(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(load("[".repeat(1 << 20).as_bytes()).is_err());
        assert!(load(&vec![b' '; MAX_FILE + 1]).err().unwrap().contains("64 MB"));
    }
}
