//! The tokenizer's side of the boundary. Results whose size the caller cannot know are kept under a handle: the caller is
//! told the size, copies them into a buffer of that size, and frees them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::jobs::Product;
use super::{Documents, Encoding, Split, Tokenizer, WordCounts, encode, jobs, load, load_whole};
use crate::handles::Handles;
use crate::status::{guard, input, output};

/// Special tokens of text mode, and all those of chat mode, in the order of their ids.
const SPECIAL_TOKENS: [&str; 4] = ["<bos>", "<user>", "<assistant>", "<end_turn>"];

static TOKENIZERS: Handles<Tokenizer> = Handles::new("tokenizer");
static COUNTS: Handles<Mutex<WordCounts>> = Handles::new("word counts");
static ENCODINGS: Handles<Encoding> = Handles::new("encoding");
static FILES: Handles<Vec<u8>> = Handles::new("trained tokenizer");

/// Begins to count the words of a corpus. Writes the handle of the counts to `handle[0]`.
///
/// # Safety
/// `handle` points to `handle_len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_words_open(handle: *mut u32, handle_len: u32) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let [handle] = (unsafe { output(handle, handle_len as usize, "handle")? }) else {
            return Err("handle must have one element".into());
        };
        *handle = COUNTS.insert(Mutex::default());
        Ok(())
    })
}

/// Begins to count the words of the corpus' next `offsets_len - 1` documents, of which it takes a copy. Writes the job's
/// number to `job[0]`; end it before the next begins.
///
/// # Safety
/// Each pointer is null with length 0 or points to as many values as its length says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_words_count(
    handle: u32,
    text: *const u8,
    text_len: u32,
    offsets: *const u32,
    offsets_len: u32,
    job: *mut u32,
    job_len: u32,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (text, offsets, job) = unsafe {
            (
                input(text, text_len as usize, "text")?.to_vec(),
                input(offsets, offsets_len as usize, "offsets")?.to_vec(),
                output(job, job_len as usize, "job")?,
            )
        };
        let [job] = job else { return Err("job must have one element".into()) };
        let counts = COUNTS.get(handle)?;
        *job = jobs::begin(move || {
            lock(&counts).add(&Documents::new(&text, &offsets)?);
            Ok(Product::Nothing)
        })?;
        Ok(())
    })
}

/// Begins to train a tokenizer on what was counted, which is used up; `chat` other than 0 adds the chat tokens. Writes the
/// job's number to `job[0]`.
///
/// # Safety
/// `job` points to `job_len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_words_train(
    handle: u32,
    vocab_size: u32,
    chat: u32,
    job: *mut u32,
    job_len: u32,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let [job] = (unsafe { output(job, job_len as usize, "job")? }) else {
            return Err("job must have one element".into());
        };
        let special = if chat == 0 { &SPECIAL_TOKENS[..1] } else { &SPECIAL_TOKENS[..] };
        let counts = COUNTS.get(handle)?;
        *job =
            jobs::begin(move || Ok(Product::Tokenizer(lock(&counts).train(vocab_size as usize, special)?)))?;
        Ok(())
    })
}

fn lock(counts: &Mutex<WordCounts>) -> MutexGuard<'_, WordCounts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns when a job is done. The one call that may be made on any thread.
#[unsafe(no_mangle)]
pub extern "C" fn mg_job_wait(job: u32) -> i32 {
    guard(|| {
        jobs::wait(job);
        Ok(())
    })
}

/// Ends a job, waiting for it. Of one that encodes it writes `result[0]`: the handle for `mg_tokenizer_encoding`;
/// `result[1]`: the number of ids of all documents together; of one that trains the handle of the tokenizer.json for
/// `mg_tokenizer_json`, and its bytes.
///
/// # Safety
/// `result` points to `result_len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_job_end(job: u32, result: *mut u32, result_len: u32) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let result = unsafe { output(result, result_len as usize, "result")? };
        match jobs::end(job)? {
            Product::Encoding(encoding) => keep(&ENCODINGS, encoding.ids.len(), encoding, result),
            Product::Tokenizer(json) => keep(&FILES, json.len(), json, result),
            Product::Nothing => Ok(()),
        }
    })
}

/// Copies a trained tokenizer.json into a buffer of exactly its size.
///
/// # Safety
/// `json` points to `json_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_json(handle: u32, json: *mut u8, json_len: u32) -> i32 {
    guard(|| {
        let file = FILES.get(handle)?;
        // SAFETY: the caller's promise.
        copy(&file, unsafe { output(json, json_len as usize, "json")? }, "json")
    })
}

/// Loads a tokenizer whose tokenizer.json was checked: the names of all tokens but the special ones, end to end, with
/// the start of each (`offsets`, one more); their ids; and the merges as pairs of ids, first to be merged first. `split`
/// is a [`Split`]; with `ignore_merges` other than 0 a word that is a token is that token. Writes the tokenizer's handle
/// to `handle[0]`.
///
/// # Safety
/// Each pointer is null with length 0 or points to as many values as its length says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_load(
    names: *const u8,
    names_len: u32,
    offsets: *const u32,
    offsets_len: u32,
    ids: *const u32,
    ids_len: u32,
    merges: *const u32,
    merges_len: u32,
    split: u32,
    ignore_merges: u32,
    handle: *mut u32,
    handle_len: u32,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (names, offsets, ids, merges, handle) = unsafe {
            (
                input(names, names_len as usize, "names")?,
                input(offsets, offsets_len as usize, "offsets")?,
                input(ids, ids_len as usize, "ids")?,
                input(merges, merges_len as usize, "merges")?,
                output(handle, handle_len as usize, "handle")?,
            )
        };
        let [handle] = handle else { return Err("handle must have one element".into()) };
        let names = Documents::new(names, offsets)?;
        *handle = TOKENIZERS.insert(load(&names, ids, merges, Split::of(split)?, ignore_merges != 0)?);
        Ok(())
    })
}

/// Loads a tokenizer of another kind from the text of its tokenizer.json, which has no special tokens. Writes the
/// tokenizer's handle to `handle[0]`.
///
/// # Safety
/// Each pointer is null with length 0 or points to as many values as its length says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_load_whole(
    json: *const u8,
    json_len: u32,
    handle: *mut u32,
    handle_len: u32,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (json, handle) = unsafe {
            (input(json, json_len as usize, "json")?, output(handle, handle_len as usize, "handle")?)
        };
        let [handle] = handle else { return Err("handle must have one element".into()) };
        *handle = TOKENIZERS.insert(load_whole(json)?);
        Ok(())
    })
}

/// Frees a tokenizer, word counts, an encoding or a trained tokenizer.json. Does nothing for one that is freed already.
#[unsafe(no_mangle)]
pub extern "C" fn mg_tokenizer_free(handle: u32) -> i32 {
    guard(|| {
        TOKENIZERS.remove(handle);
        COUNTS.remove(handle);
        ENCODINGS.remove(handle);
        FILES.remove(handle);
        Ok(())
    })
}

/// Begins to encode `offsets_len - 1` documents in parallel, of which it takes a copy. Writes the job's number to
/// `job[0]`.
///
/// # Safety
/// Each pointer is null with length 0 or points to as many values as its length says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_encode(
    handle: u32,
    text: *const u8,
    text_len: u32,
    offsets: *const u32,
    offsets_len: u32,
    job: *mut u32,
    job_len: u32,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (text, offsets, job) = unsafe {
            (
                input(text, text_len as usize, "text")?.to_vec(),
                input(offsets, offsets_len as usize, "offsets")?.to_vec(),
                output(job, job_len as usize, "job")?,
            )
        };
        let [job] = job else { return Err("job must have one element".into()) };
        let tokenizer = TOKENIZERS.get(handle)?;
        *job = jobs::begin(move || {
            Ok(Product::Encoding(encode(&tokenizer, &Documents::new(&text, &offsets)?)?))
        })?;
        Ok(())
    })
}

/// Copies an encoding into buffers of exactly its size, ids and [documents + 1] offsets.
///
/// # Safety
/// `ids` points to `ids_len` values, `offsets` to `offsets_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_tokenizer_encoding(
    handle: u32,
    ids: *mut u32,
    ids_len: u32,
    offsets: *mut u32,
    offsets_len: u32,
) -> i32 {
    guard(|| {
        let encoding = ENCODINGS.get(handle)?;
        // SAFETY: the caller's promise.
        unsafe {
            copy(&encoding.ids, output(ids, ids_len as usize, "ids")?, "ids")?;
            copy(&encoding.offsets, output(offsets, offsets_len as usize, "offsets")?, "offsets")
        }
    })
}

/// Keeps a result of `len` values and writes its handle and `len`.
fn keep<T>(table: &Handles<T>, len: usize, object: T, result: &mut [u32]) -> Result<(), String> {
    let [handle, size] = result else { return Err("result must have two elements".into()) };
    *size = u32::try_from(len).map_err(|_| format!("{len} values are more than a result can hold"))?;
    *handle = table.insert(object);
    Ok(())
}

fn copy<T: Copy>(from: &[T], to: &mut [T], name: &str) -> Result<(), String> {
    if from.len() != to.len() {
        return Err(format!("{name} has room for {} values, there are {}", to.len(), from.len()));
    }
    to.copy_from_slice(from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{FAILED, OK};

    #[test]
    fn freed_twice_and_used_after_it() {
        let (names, offsets, ids, mut handle) = (b"ab", [0, 1, 2], [0, 1], [0]);
        // SAFETY: each buffer is as long as said, or null.
        unsafe {
            let none = std::ptr::null();
            let (n, o, i, h) = (names.as_ptr(), offsets.as_ptr(), ids.as_ptr(), handle.as_mut_ptr());
            assert_eq!(mg_tokenizer_load(n, 2, o, 3, i, 2, none, 0, 0, 0, h, 1), OK);
            let mut result = [0, 0];
            let r = result.as_mut_ptr();
            let mut job = [0];
            let j = job.as_mut_ptr();
            assert_eq!(mg_tokenizer_encode(handle[0], n, 2, o, 3, j, 1), OK);
            assert_eq!(mg_job_wait(job[0]), OK);
            assert_eq!(mg_job_end(job[0], r, 2), OK);
            assert_eq!(mg_job_end(job[0], r, 2), FAILED);
            assert_eq!(result[1], 2);
            assert_eq!([mg_tokenizer_free(handle[0]), mg_tokenizer_free(handle[0])], [OK, OK]);
            assert_eq!(mg_tokenizer_encode(handle[0], n, 2, o, 3, j, 1), FAILED);
            let (mut ids, mut offsets) = ([9; 2], [9; 3]);
            let (i, o) = (ids.as_mut_ptr(), offsets.as_mut_ptr());
            assert_eq!(mg_tokenizer_encoding(result[0], i, 1, o, 3), FAILED);
            assert_eq!(mg_tokenizer_encoding(result[0], i, 2, o, 3), OK);
            assert_eq!((ids, offsets), ([0, 1], [0, 1, 2]));
            assert_eq!([mg_tokenizer_free(result[0]), mg_tokenizer_free(result[0])], [OK, OK]);
            assert_eq!(mg_tokenizer_encoding(result[0], i, 2, o, 3), FAILED);
        }
    }
}
