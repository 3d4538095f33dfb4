//! The native half of microgpt, called from Deno through FFI: the tokenizer, the CPU kernels and MPI.
//!
//! Rules of the boundary. Names begin with `mg_`. Objects are handles, never pointers. A buffer `x` comes with its length
//! `x_len`, a tensor `x` with its first element `x_at`. Every call that can fail returns a status (`status.rs`), and its
//! message belongs to the calling thread, so such calls are made synchronously. `native/symbols.ts` declares the exports
//! for the other side; `tests/native/native_symbols_test.ts` compares the two.

pub mod device;
pub mod handles;
pub mod kernels;
pub mod mpi;
pub mod pool;
pub mod status;
pub mod tensors;
pub mod threads;
pub mod tokenizer;
pub mod zeros;

/// Version of the exports, computed from the declarations in `native/symbols.ts`: when an export changes, the test says
/// what to write here. `native/library.ts` refuses a library with another one.
pub const ABI_VERSION: u32 = 0x0dcf_eb42;

/// The library's [`ABI_VERSION`].
#[unsafe(no_mangle)]
pub extern "C" fn mg_abi_version() -> u32 {
    ABI_VERSION
}
