//! The thread that calls MPI. It starts MPI, too, which is the least that a library must support (MPI_THREAD_FUNNELED), so
//! that sums may travel while the thread of the program computes.

use super::World;
use super::silence::Silence;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};

const GONE: &str = "the thread of MPI has ended";

type Job = Box<dyn FnOnce(&mut World) + Send>;
/// What a job returned, or its panic.
type Ended<T> = Result<Result<T, String>, Box<dyn Any + Send>>;

pub struct MpiThread {
    jobs: Sender<Job>,
    /// of jobs that nobody has waited for yet
    begun: Vec<Receiver<Ended<()>>>,
    /// of jobs that were waited for, and nobody was told yet
    settled: Vec<Result<(), String>>,
    /// see `abi::open`
    patient: Arc<AtomicBool>,
    /// other machines that do not answer
    pub silence: Arc<Silence>,
}

impl MpiThread {
    pub fn start(mut world: World, patient: Arc<AtomicBool>) -> Result<MpiThread, String> {
        let (jobs, queue) = channel::<Job>();
        let silence = Silence::new();
        let heard = Arc::clone(&silence);
        let thread = std::thread::Builder::new().name("microgpt-mpi".into());
        thread
            .spawn(move || queue.into_iter().for_each(|job| heard.during(|| job(&mut world))))
            .map_err(|error| format!("cannot start a thread for MPI: {error}"))?;
        Ok(MpiThread { jobs, begun: Vec::new(), settled: Vec::new(), patient, silence })
    }

    /// Runs `body` there, after what was begun before, and waits for it.
    pub fn call<T: Send>(
        &self,
        body: impl FnOnce(&mut World) -> Result<T, String> + Send,
    ) -> Result<T, String> {
        self.patient.store(false, Relaxed);
        let (reply, answer) = channel();
        let silence = &self.silence;
        let job: Box<dyn FnOnce(&mut World) + Send + '_> = Box::new(move |world| {
            // nobody listens only where the caller is gone
            let _ = reply.send(catch_unwind(AssertUnwindSafe(|| silence.connecting(|| body(world)))));
        });
        // SAFETY: this function does not return before the job has run or was dropped, so that what it borrows outlives it.
        let job = unsafe { std::mem::transmute::<Box<dyn FnOnce(&mut World) + Send + '_>, Job>(job) };
        self.jobs.send(job).map_err(|_| GONE)?;
        ended(answer.recv().map_err(|_| GONE)?)
    }

    /// Runs `body` there while the caller goes on, until `finish`.
    pub fn begin(&mut self, body: impl FnOnce(&mut World) -> Result<(), String> + Send + 'static) {
        self.patient.store(true, Relaxed);
        let (reply, answer) = channel();
        let job = Box::new(move |world: &mut World| {
            let _ = reply.send(catch_unwind(AssertUnwindSafe(|| body(world))));
        });
        // a thread that is gone tells `finish` so by the channel
        let _ = self.jobs.send(job);
        self.begun.push(answer);
    }

    /// Waits for all that was begun.
    pub fn settle(&mut self) {
        if self.begun.is_empty() {
            return;
        }
        self.patient.store(false, Relaxed);
        for answer in self.begun.drain(..) {
            self.settled.push(answer.recv().map_err(|_| GONE.into()).and_then(ended));
        }
    }

    /// Waits for all that was begun. The first error of it.
    pub fn finish(&mut self) -> Result<(), String> {
        self.settle();
        self.settled.drain(..).collect()
    }
}

fn ended<T>(answer: Ended<T>) -> Result<T, String> {
    answer.unwrap_or_else(|panic| resume_unwind(panic))
}
