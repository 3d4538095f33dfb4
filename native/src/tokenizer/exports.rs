//! The tokenizer's side of the boundary. Results whose size the caller cannot know are kept under a handle until
//! they are taken into buffers of the size that was told.

use super::{Documents, Encoding, Tokenizer, encode, load, train};
use crate::handles::Handles;
use crate::status::{guard, input, output};
use crate::threads::pool;

/// Special tokens of text mode, and all those of chat mode, in the order of their ids.
const SPECIAL_TOKENS: [&str; 4] = ["<bos>", "<user>", "<assistant>", "<end_turn>"];

static TOKENIZERS: Handles<Tokenizer> = Handles::new("tokenizer");
static ENCODINGS: Handles<Encoding> = Handles::new("encoding");
static FILES: Handles<Vec<u8>> = Handles::new("trained tokenizer");

/// Trains a tokenizer on `offsets_len - 1` documents of UTF-8 text; `chat` other than 0 adds the chat tokens.
/// Writes `result[0]`: the handle of the tokenizer.json for `mg_tokenizer_take_json`; `result[1]`: its bytes.
///
/// # Safety
/// Each pointer is null with length 0 or points to as many values as said; `result` to 2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_train(
    text: *const u8,
    text_len: usize,
    offsets: *const u32,
    offsets_len: usize,
    vocab_size: u32,
    chat: u32,
    result: *mut u64,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (text, offsets, result) = unsafe {
            (
                input(text, text_len, "text")?,
                input(offsets, offsets_len, "offsets")?,
                output(result, 2, "result")?,
            )
        };
        let special = if chat == 0 { &SPECIAL_TOKENS[..1] } else { &SPECIAL_TOKENS[..] };
        let json =
            pool()?.install(|| train(&Documents::new(text, offsets)?, vocab_size as usize, special))?;
        result[1] = json.len() as u64;
        result[0] = FILES.insert(json)?.into();
        Ok(())
    })
}

/// Copies a trained tokenizer.json into a buffer of its very size, and frees it.
///
/// # Safety
/// `json` points to `json_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_take_json(handle: u32, json: *mut u8, json_len: usize) -> i32 {
    guard(|| {
        let file = FILES.get(handle)?;
        // SAFETY: the caller's promise.
        copy(&file, unsafe { output(json, json_len, "json")? }, "json")?;
        FILES.remove(handle)
    })
}

/// Loads tokenizer.json. Writes `result[0]`: the tokenizer's handle; `result[1]`: the size of its vocabulary;
/// `result[2]`: the bytes of all its tokens together.
///
/// # Safety
/// `json` points to `json_len` bytes, `result` to 3 values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_load(json: *const u8, json_len: usize, result: *mut u64) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (json, result) = unsafe { (input(json, json_len, "json")?, output(result, 3, "result")?) };
        let tokenizer = load(json)?;
        result[1] = tokenizer.vocab_size() as u64;
        result[2] = tokenizer.token_bytes().0.len() as u64;
        result[0] = TOKENIZERS.insert(tokenizer)?.into();
        Ok(())
    })
}

/// Frees a tokenizer.
#[unsafe(no_mangle)]
pub extern "C" fn mg_tokenizer_free(handle: u32) -> i32 {
    guard(|| TOKENIZERS.remove(handle))
}

/// Writes the id of the token with this name in tokenizer.json, or -1.
///
/// # Safety
/// `name` points to `name_len` bytes of UTF-8, `id` to one value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_id(handle: u32, name: *const u8, name_len: usize, id: *mut i64) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (name, id) = unsafe { (input(name, name_len, "name")?, output(id, 1, "id")?) };
        let name = std::str::from_utf8(name).map_err(|error| error.to_string())?;
        id[0] = TOKENIZERS.get(handle)?.id(name).map_or(-1, i64::from);
        Ok(())
    })
}

/// Writes the bytes that each token stands for (special tokens: none) end to end, and the start of each
/// ([vocabulary + 1]).
///
/// # Safety
/// `bytes` points to `bytes_len` bytes, `offsets` to `offsets_len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_token_bytes(
    handle: u32,
    bytes: *mut u8,
    bytes_len: usize,
    offsets: *mut u32,
    offsets_len: usize,
) -> i32 {
    guard(|| {
        let (all, starts) = TOKENIZERS.get(handle)?.token_bytes();
        // SAFETY: the caller's promise.
        unsafe {
            copy(&all, output(bytes, bytes_len, "bytes")?, "bytes")?;
            copy(&starts, output(offsets, offsets_len, "offsets")?, "offsets")
        }
    })
}

/// Encodes `offsets_len - 1` documents in parallel. Writes `result[0]`: the handle for `mg_encoding_take`;
/// `result[1]`: the number of ids of all documents together.
///
/// # Safety
/// Each pointer is null with length 0 or points to as many values as said; `result` to 2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_encode(
    handle: u32,
    text: *const u8,
    text_len: usize,
    offsets: *const u32,
    offsets_len: usize,
    result: *mut u64,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (text, offsets, result) = unsafe {
            (
                input(text, text_len, "text")?,
                input(offsets, offsets_len, "offsets")?,
                output(result, 2, "result")?,
            )
        };
        let tokenizer = TOKENIZERS.get(handle)?;
        let encoding = pool()?.install(|| encode(&tokenizer, &Documents::new(text, offsets)?))?;
        result[1] = encoding.ids.len() as u64;
        result[0] = ENCODINGS.insert(encoding)?.into();
        Ok(())
    })
}

/// Copies an encoding into buffers of its very size, ids and [documents + 1] offsets, and frees it.
///
/// # Safety
/// `ids` points to `ids_len` values, `offsets` to `offsets_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_encoding_take(
    handle: u32,
    ids: *mut u32,
    ids_len: usize,
    offsets: *mut u32,
    offsets_len: usize,
) -> i32 {
    guard(|| {
        let encoding = ENCODINGS.get(handle)?;
        // SAFETY: the caller's promise.
        unsafe {
            copy(&encoding.ids, output(ids, ids_len, "ids")?, "ids")?;
            copy(&encoding.offsets, output(offsets, offsets_len, "offsets")?, "offsets")?;
        }
        ENCODINGS.remove(handle)
    })
}

fn copy<T: Copy>(from: &[T], to: &mut [T], name: &str) -> Result<(), String> {
    if from.len() != to.len() {
        return Err(format!("{name} has room for {} values, there are {}", to.len(), from.len()));
    }
    to.copy_from_slice(from);
    Ok(())
}
