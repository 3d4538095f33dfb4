//! The thread pool of the tokenizer: rayon's, as the `tokenizers` crate uses it. Kernels have their own, in `pool.rs`,
//! for work that lasts microseconds.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::status::guard;

/// More threads than this must be a mistake.
const MAX_THREADS: usize = 1024;

/// Refuses an absurd number of threads.
pub fn check_count(count: usize) -> Result<(), String> {
    if count > MAX_THREADS {
        return Err(format!("{count} threads are too many, at most {MAX_THREADS}"));
    }
    Ok(())
}

static POOL: Mutex<Option<Arc<ThreadPool>>> = Mutex::new(None);

/// The pool, started on first use with a thread for each core the process may use.
pub fn pool() -> Result<Arc<ThreadPool>, String> {
    let mut slot = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = &*slot {
        return Ok(pool.clone());
    }
    let pool = start(available())?;
    *slot = Some(pool.clone());
    Ok(pool)
}

/// Replaces the pool with one of `count` threads (0: one for each core). Work under way keeps the old one.
pub fn set_threads(count: usize) -> Result<(), String> {
    check_count(count)?;
    let count = if count == 0 { available() } else { count };
    let mut slot = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.as_ref().is_none_or(|pool| pool.current_num_threads() != count) {
        *slot = Some(start(count)?);
    }
    Ok(())
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn start(count: usize) -> Result<Arc<ThreadPool>, String> {
    let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("microgpt-{i}")).build();
    pool.map(Arc::new).map_err(|error| format!("cannot start {count} threads: {error}"))
}

/// Sets the number of threads of the tokenizer; 0 means one for each core.
#[unsafe(no_mangle)]
pub extern "C" fn mg_set_threads(count: u32) -> i32 {
    guard(|| set_threads(count as usize))
}
