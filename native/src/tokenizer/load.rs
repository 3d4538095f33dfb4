//! Builds a tokenizer from the parts of its tokenizer.json.
//!
//! The file itself is read and checked in one place, data/tokenizer_json.ts, for this tokenizer and the one in
//! JavaScript. What arrives here is tokens and merges, by number; numbers that name nothing are refused all the same.

use std::collections::HashMap;
use std::sync::Mutex;

use tokenizers::models::bpe::{BPE, Vocab};

use super::merger::Merger;
use super::{Documents, Split, Tokenizer};

/// `names` and `ids` are the tokens that text can become, all but the special ones; `merges` are pairs of ids, those to
/// merge first at the front. With `ignore_merges` a word that is a token is that token.
pub fn load(
    names: &Documents,
    ids: &[u32],
    merges: &[u32],
    split: Split,
    ignore_merges: bool,
) -> Result<Tokenizer, String> {
    if names.len() != ids.len() || !merges.len().is_multiple_of(2) {
        return Err("a tokenizer has a name for each id, and merges of two".into());
    }
    let name_of: HashMap<u32, &str> = ids.iter().zip(0..).map(|(&id, i)| (id, names.get(i))).collect();
    let vocab: Vocab = name_of.iter().map(|(&id, name)| (name.to_string(), id)).collect();
    let name = |id: &u32| name_of.get(id).copied().ok_or_else(|| format!("there is no token {id}"));
    let mut pairs = Vec::with_capacity(merges.len() / 2);
    let mut made = Vec::with_capacity(merges.len() / 2);
    for pair in merges.chunks_exact(2) {
        let (left, right) = (name(&pair[0])?, name(&pair[1])?);
        // The crate panics if this is longer than any token.
        let Some(&id) = vocab.get(&format!("{left}{right}")) else {
            return Err(format!("tokens {} and {} make none", pair[0], pair[1]));
        };
        made.push((pair[0], pair[1], id));
        pairs.push((left.to_string(), right.to_string()));
    }
    // a word that is a token whatever the merges say is the crate's
    let merger =
        (!ignore_merges).then(|| Box::new(Merger::new(|name| vocab.get(name).copied(), made.into_iter())));
    let builder = BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(ignore_merges);
    let mut model = builder.build().map_err(|error| error.to_string())?;
    // The crate's cache stays in each thread after the tokenizer is gone; `encode` has its own.
    model.resize_cache(0);
    Ok(Tokenizer::Words { model: Box::new(model), merger, split, known: Mutex::default() })
}

/// A tokenizer of a kind that only the crate knows, from the text of its tokenizer.json without special tokens.
pub fn load_whole(json: &[u8]) -> Result<Tokenizer, String> {
    let whole = tokenizers::Tokenizer::from_bytes(json)
        .map_err(|error| format!("tokenizer.json: {}", error.to_string().replace('\n', " ")))?;
    Ok(Tokenizer::Whole(Box::new(whole)))
}

#[cfg(test)]
pub use tests::load_json;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// A tokenizer of this program's own tokenizer.json.
    pub fn load_json(json: &[u8]) -> Tokenizer {
        let file: Value = serde_json::from_slice(json).unwrap();
        let special: Vec<&str> =
            file["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap()).collect();
        let all = file["model"]["vocab"].as_object().unwrap();
        let id = |name: &Value| all[name.as_str().unwrap()].as_u64().unwrap() as u32;
        let merges: Vec<u32> =
            file["model"]["merges"].as_array().unwrap().iter().flat_map(|m| [id(&m[0]), id(&m[1])]).collect();
        let (mut text, mut offsets, mut ids) = (String::new(), vec![0], Vec::new());
        for (name, id) in all.iter().filter(|(name, _)| !special.contains(&name.as_str())) {
            text.push_str(name);
            offsets.push(text.len() as u32);
            ids.push(id.as_u64().unwrap() as u32);
        }
        load(&Documents::new(text.as_bytes(), &offsets).unwrap(), &ids, &merges, Split::Gpt2, false).unwrap()
    }

    #[test]
    fn numbers_that_name_nothing_are_refused() {
        let names = Documents::new(b"abab", &[0, 1, 2, 4]).unwrap();
        assert!(load(&names, &[1, 2, 3], &[1, 2], Split::Gpt2, false).is_ok());
        for (ids, merges) in [
            (&[1, 2][..], &[1, 2][..]),
            (&[1, 2, 3], &[1]),
            (&[1, 2, 3], &[1, 0]),
            (&[1, 2, 3], &[u32::MAX, 1]),
            (&[1, 2, 3], &[2, 1]),
            (&[1, 1, 1], &[1, 1]),
            (&[], &[]),
        ] {
            assert!(load(&names, ids, merges, Split::Gpt2, false).is_err(), "{ids:?} {merges:?}");
        }
    }
}
