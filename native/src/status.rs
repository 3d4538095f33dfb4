//! How every export answers: a status, and a message kept for the caller to fetch.
//!
//! An export wraps its body in [`guard`], takes its buffers through [`input`] and [`output`], and returns
//! what `guard` returns. No panic and no unchecked pointer gets past these three.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The call did what it was asked to.
pub const OK: i32 = 0;
/// The call refused or failed; `mg_error_message` says why.
pub const FAILED: i32 = -1;
/// The call panicked: a mistake in this library.
pub const PANICKED: i32 = -2;

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the body of an export. An error or a panic becomes a negative status and the thread's last message.
pub fn guard(body: impl FnOnce() -> Result<(), String>) -> i32 {
    silence_panics();
    let (status, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(message)) => (FAILED, message),
        Err(payload) => (PANICKED, format!("internal error: {}", panic_text(&*payload))),
    };
    LAST_ERROR.with_borrow_mut(|last| *last = message);
    status
}

/// The caller's `len` values at `data`, for reading. Null is the empty slice, and only with `len` 0.
///
/// # Safety
/// A non-null `data` points to `len` initialised values that outlive the call and that nobody writes meanwhile.
pub unsafe fn input<'a, T>(data: *const T, len: usize, name: &str) -> Result<&'a [T], String> {
    check(data, len, name)?;
    // SAFETY: aligned and non-null unless empty; the caller vouches for the rest.
    Ok(if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } })
}

/// The caller's `len` values at `data`, for writing. Null is the empty slice, and only with `len` 0.
///
/// # Safety
/// A non-null `data` points to `len` initialised values that outlive the call and that nobody else touches meanwhile.
pub unsafe fn output<'a, T>(data: *mut T, len: usize, name: &str) -> Result<&'a mut [T], String> {
    check(data, len, name)?;
    // SAFETY: aligned and non-null unless empty; the caller vouches for the rest.
    Ok(if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } })
}

fn check<T>(data: *const T, len: usize, name: &str) -> Result<(), String> {
    if len == 0 {
        return Ok(());
    }
    if data.is_null() {
        return Err(format!("{name} is null, with a length of {len}"));
    }
    if !data.is_aligned() {
        return Err(format!("{name} is not aligned to {} bytes", align_of::<T>()));
    }
    if len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(format!("{name} cannot hold {len} values"));
    }
    Ok(())
}

/// The message of a panic.
fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a message"
    }
}

/// Keeps caught panics off the terminal. The hook belongs to this library's own copy of the runtime; the
/// crate's own tests keep the usual one, which is how they report.
fn silence_panics() {
    #[cfg(not(test))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    }
}

/// Copies the calling thread's last error message, as UTF-8, cut off at `text_len` bytes.
///
/// Returns the length of the whole message in bytes.
///
/// # Safety
/// `text` is null or points to `text_len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_error_message(text: *mut u8, text_len: u32) -> u32 {
    LAST_ERROR.with_borrow(|last| {
        if !text.is_null() {
            let n = last.len().min(text_len as usize);
            // SAFETY: the caller gave `text_len` writable bytes, and n is no more.
            unsafe { std::ptr::copy_nonoverlapping(last.as_ptr(), text, n) };
        }
        last.len() as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_message() -> String {
        let mut buffer = [0u8; 256];
        // SAFETY: the buffer is as long as said.
        let n = unsafe { mg_error_message(buffer.as_mut_ptr(), buffer.len() as u32) };
        String::from_utf8(buffer[..n as usize].to_vec()).unwrap()
    }

    #[test]
    fn statuses_and_messages() {
        assert_eq!(guard(|| Ok(())), OK);
        assert_eq!(guard(|| Err("no such thing".into())), FAILED);
        assert_eq!(last_message(), "no such thing");
        assert_eq!(guard(|| panic!("lost {}", 7)), PANICKED);
        assert_eq!(last_message(), "internal error: lost 7");
    }

    #[test]
    fn message_is_cut_to_the_buffer() {
        guard(|| Err("abcdef".into()));
        let mut buffer = [0u8; 3];
        // SAFETY: the buffer is as long as said; null is allowed.
        unsafe {
            assert_eq!(mg_error_message(buffer.as_mut_ptr(), 3), 6);
            assert_eq!(mg_error_message(std::ptr::null_mut(), 100), 6);
        }
        assert_eq!(&buffer, b"abc");
    }

    #[test]
    fn buffers_are_checked() {
        let values = [1u32, 2, 3];
        // SAFETY: each call is either within `values` or must be refused before anything is read.
        unsafe {
            assert_eq!(input(values.as_ptr(), 3, "ids").unwrap(), &values);
            assert!(input::<u32>(std::ptr::null(), 0, "ids").unwrap().is_empty());
            assert!(output::<u32>(std::ptr::null_mut(), 0, "ids").unwrap().is_empty());
            assert_eq!(
                input::<u32>(std::ptr::null(), 3, "ids").unwrap_err(),
                "ids is null, with a length of 3"
            );
            assert!(input(values.as_ptr().byte_add(1), 1, "ids").unwrap_err().contains("aligned"));
            assert!(input(values.as_ptr(), usize::MAX, "ids").unwrap_err().contains("cannot hold"));
        }
    }
}
