//! A pool of threads for work that lasts microseconds: a training step of a small model is some fifty kernels in a
//! millisecond, and waking a sleeping thread alone costs several microseconds.
//!
//! The caller takes part. Helpers spin for a moment after a job and then sleep. A job is a number of chunks;
//! whoever is free claims the next one by counting up `Shared::state`, which holds the job's number, its chunks and the
//! next chunk in one word. The caller never waits for a helper that has not claimed anything, so a helper
//! that is asleep, or that the system has taken off its core, costs nothing but its share of the work.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a helper looks for the next job before it sleeps: longer than the gaps between the kernels of a step,
/// short enough that an idle program uses no processor.
const SPIN: Duration = Duration::from_micros(100);

/// A job's function, as two words that can be stored atomically.
type Body<'a> = &'a (dyn Fn(usize) + Sync);

/// Most chunks of a job.
const MAX_CHUNKS: usize = 0xffff;

/// The word `Shared::state`: number of the job (32 bits), its chunks (16), the next chunk to claim (16).
#[derive(Clone, Copy)]
struct State(u64);

impl State {
    fn start(job: u64, chunks: usize) -> State {
        State(job << 32 | (chunks as u64) << 16)
    }
    fn job(self) -> u64 {
        self.0 >> 32
    }
    fn chunks(self) -> usize {
        self.0 as usize >> 16 & MAX_CHUNKS
    }
    fn next(self) -> usize {
        self.0 as usize & MAX_CHUNKS
    }
    fn is_open(self) -> bool {
        self.next() < self.chunks()
    }
}

struct Shared {
    state: AtomicU64,
    /// of the current job, on the caller's stack
    body: AtomicPtr<Body<'static>>,
    /// chunks completed
    done: AtomicUsize,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    closing: AtomicBool,
}

/// A fixed number of threads, the caller's included.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` counts the caller; 1 means no helpers.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            body: AtomicPtr::new(std::ptr::null_mut()),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, helpers: Vec::new() };
        for i in 1..threads {
            let shared = pool.shared.clone();
            let helper = std::thread::Builder::new().name(format!("microgpt-{i}"));
            pool.helpers.push(helper.spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    /// Threads that work on a job, the caller included.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `body(0) … body(chunks - 1)`, each once, in no particular order, and returns when all are done. Takes
    /// `&mut self` because one job runs at a time. A panic in `body` continues in the caller after the others finished.
    pub fn run(&mut self, chunks: usize, body: impl Fn(usize) + Sync) {
        if chunks <= 1 || self.helpers.is_empty() {
            (0..chunks).for_each(body);
            return;
        }
        assert!(chunks <= MAX_CHUNKS, "a job of {chunks} chunks");
        let body: Body = &body;
        let shared = &*self.shared;
        // The lifetime is erased; the body stays alive until this function returns, and it does not return while
        // any chunk is running. A helper that reads these words late fails to claim a chunk and drops them.
        shared.body.store((&raw const body).cast_mut().cast(), Relaxed);
        shared.done.store(0, Relaxed);
        let job = (State(shared.state.load(Relaxed)).job() + 1) & 0xffff_ffff;
        shared.state.store(State::start(job, chunks).0, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            self.helpers.iter().take(chunks - 1).for_each(|helper| helper.thread().unpark());
        }
        let panic = shared.work_on(job);
        let mut spins = 0u32;
        while shared.done.load(Acquire) < chunks {
            spins += 1;
            if spins < 20_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Some(payload) = panic {
            shared.panicked.store(false, Relaxed);
            resume_unwind(payload);
        }
        assert!(!shared.panicked.swap(false, Relaxed), "a kernel panicked on a helper thread");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches the panics of its chunks, and has none of its own to report.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Claims and runs chunks of `job` until none is left. Returns the last panic.
    fn work_on(&self, job: u64) -> Option<Box<dyn std::any::Any + Send>> {
        let mut panic = None;
        loop {
            let state = State(self.state.load(Acquire));
            let body = self.body.load(Relaxed);
            if state.job() != job || !state.is_open() {
                return panic;
            }
            if self.state.compare_exchange_weak(state.0, state.0 + 1, AcqRel, Relaxed).is_err() {
                continue;
            }
            // SAFETY: the claim succeeded, so `state` had not moved since before `body` was read: it is the body of this
            // job, and the caller keeps it alive until `done` has counted the chunk just claimed.
            let body: Body = unsafe { *body };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(state.next()))) {
                self.panicked.store(true, Relaxed);
                panic = Some(payload);
            }
            self.done.fetch_add(1, Release);
        }
    }

    /// A job with chunks left to claim, by its number.
    fn open_job(&self) -> Option<u64> {
        let state = State(self.state.load(SeqCst));
        state.is_open().then(|| state.job())
    }

    /// A helper's life: work, spin, sleep.
    fn help(&self) {
        while !self.closing.load(Acquire) {
            if let Some(job) = self.open_job().or_else(|| self.spin()) {
                self.work_on(job);
                continue;
            }
            // The caller looks at `sleepers` after publishing a job, and we look for a job after counting
            // ourselves as a sleeper: one of the two sees the other.
            self.sleepers.fetch_add(1, SeqCst);
            if self.open_job().is_none() && !self.closing.load(SeqCst) {
                std::thread::park();
            }
            self.sleepers.fetch_sub(1, SeqCst);
        }
    }

    fn spin(&self) -> Option<u64> {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..64 {
                if let Some(job) = self.open_job() {
                    return Some(job);
                }
                std::hint::spin_loop();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_once() {
        let mut pool = Pool::new(4).unwrap();
        for round in 0..20_000 {
            let chunks = round % 9;
            let counts: Vec<AtomicU32> = (0..9).map(|_| AtomicU32::new(0)).collect();
            pool.run(chunks, |i| {
                counts[i].fetch_add(1, Relaxed);
            });
            let counts: Vec<u32> = counts.iter().map(|c| c.load(Relaxed)).collect();
            assert_eq!(counts, (0..9).map(|i| u32::from(i < chunks)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sleeping_helpers_do_not_hold_up_a_job() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            std::thread::sleep(3 * SPIN);
            let count = AtomicU32::new(0);
            pool.run(5, |_| {
                count.fetch_add(1, Relaxed);
            });
            assert_eq!(count.into_inner(), 5);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        for bad in 0..8 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, |i| assert_ne!(i, bad))));
            assert!(result.is_err());
        }
        let count = AtomicU32::new(0);
        pool.run(8, |_| {
            count.fetch_add(1, Relaxed);
        });
        assert_eq!(count.into_inner(), 8);
    }
}
