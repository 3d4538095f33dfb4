//! Work that goes on while the caller does something else: begun and ended on its thread, waited for on another.
//!
//! Messages of errors belong to the thread that calls (`status.rs`), so a job keeps its own until it is ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Encoding;
use crate::handles::Handles;
use crate::threads::pool;

/// What a job makes.
pub enum Product {
    Nothing,
    Encoding(Encoding),
    /// a tokenizer.json
    Tokenizer(Vec<u8>),
}

/// What comes of a job.
pub type Outcome = Result<Product, String>;

/// One piece of work.
#[derive(Default)]
pub struct Job {
    outcome: Mutex<Option<Outcome>>,
    done: Condvar,
}

static JOBS: Handles<Arc<Job>> = Handles::new("job");

/// Begins work inside the pool and returns the number of its job.
pub fn begin(work: impl FnOnce() -> Outcome + Send + 'static) -> Result<u32, String> {
    let job = Arc::new(Job::default());
    let number = JOBS.insert(job.clone());
    pool()?.spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("internal error".into()));
        *job.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        job.done.notify_all();
    });
    Ok(number)
}

/// Returns when a job is done; at once where there is none of this number.
pub fn wait(number: u32) {
    let Ok(job) = JOBS.get(number) else { return };
    let mut outcome = job.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    while outcome.is_none() {
        outcome = job.done.wait(outcome).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Waits for a job, forgets it, and returns what came of it.
pub fn end(number: u32) -> Outcome {
    let job = JOBS.get(number)?;
    wait(number);
    JOBS.remove(number);
    job.outcome
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .unwrap_or_else(|| Err("ended twice".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_done_once() {
        let good = begin(|| Ok(Product::Nothing)).unwrap();
        wait(good);
        assert!(matches!(end(good), Ok(Product::Nothing)));
        assert!(end(good).is_err());
        wait(good);
        let bad = begin(|| Err("bad".into())).unwrap();
        assert_eq!(end(bad).err().unwrap(), "bad");
        let worse = begin(|| panic!("worse")).unwrap();
        assert_eq!(end(worse).err().unwrap(), "internal error");
    }
}
