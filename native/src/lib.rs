//! The native half of microgpt, called from Deno through FFI: the tokenizer and the CPU kernels.
//!
//! Rules of the boundary. Names begin with `mg_`. Objects are handles, never pointers. Every buffer comes with
//! its length. Every call that can fail returns a status (`status.rs`), and its message belongs to the
//! calling thread, so such calls are made synchronously. Change `ABI_VERSION` whenever an export changes.

pub mod device;
pub mod handles;
pub mod kernels;
pub mod pool;
pub mod status;
pub mod tensors;
pub mod threads;
pub mod tokenizer;
pub mod zeros;

/// Version of the set of exports; `native/library.ts` refuses a library with another one.
pub const ABI_VERSION: u32 = 1;

/// The library's [`ABI_VERSION`].
#[unsafe(no_mangle)]
pub extern "C" fn mg_abi_version() -> u32 {
    ABI_VERSION
}
