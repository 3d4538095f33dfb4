//! Training on many machines: one process each, started by an MPI launcher. MPI is a thing of the process, so there is one
//! at most; the exports here open it, add up gradients and pass bytes around. The launcher's variables and what they say
//! about where the library lies are read in native/launcher.ts.

mod abi;
pub mod reduce;
mod silence;
mod thread;

use crate::device::with_device;
use crate::pool::Pool;
use crate::status::{guard, input, output};
use crate::tensors::Span;
use abi::Opened;
use reduce::{Link, Scratch, Wire};
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thread::MpiThread;

/// MPI in this process, as its thread has it.
struct World {
    opened: Opened,
    path: String,
    /// number of this process and number of processes, once MPI was started
    place: Option<(usize, usize)>,
    scratch: Scratch,
}

/// What the exports know of it.
struct Mpi {
    thread: MpiThread,
    /// path, version and interface of the library, one a line
    description: String,
    place: Option<(usize, usize)>,
    closed: bool,
    aborter: Box<dyn Fn(i32) + Send>,
}

static MPI: Mutex<Option<Mpi>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Mpi>> {
    MPI.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of what needs all ranks.
fn with_mpi<T>(body: impl FnOnce(&mut Mpi) -> Result<T, String>) -> Result<T, String> {
    match &mut *lock() {
        Some(mpi) if mpi.place.is_some() && !mpi.closed => body(mpi),
        _ => Err("MPI is not started, or has ended".into()),
    }
}

/// The same on the thread that calls MPI.
fn with_world<T: Send>(body: impl FnOnce(&mut World) -> Result<T, String> + Send) -> Result<T, String> {
    with_mpi(|mpi| mpi.thread.call(body))
}

/// Waits until no sum works in memory of this library; its result, good or bad, is told by `mg_mpi_finish`. To be called before
/// such memory is freed.
pub fn settle() {
    if let Some(mpi) = lock().as_mut() {
        mpi.thread.settle();
    }
}

struct Ranks<'a> {
    opened: &'a Opened,
    place: (usize, usize),
}

impl Link for Ranks<'_> {
    fn rank(&self) -> usize {
        self.place.0
    }
    fn size(&self) -> usize {
        self.place.1
    }
    fn exchange(&mut self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<(), String> {
        self.opened.mpi.exchange(partner, send, receive)
    }
    fn stream(
        &mut self,
        partner: usize,
        send: &[u8],
        len: usize,
        room: &mut [u8],
        received: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), String> {
        self.opened.mpi.stream(partner, send, len, room, received)
    }
}

impl World {
    fn ranks(&mut self) -> (Ranks<'_>, &mut Scratch) {
        let place = self.place.unwrap_or((0, 1));
        (Ranks { opened: &self.opened, place }, &mut self.scratch)
    }

    /// Number of this process and number of processes.
    fn start(&mut self) -> Result<(usize, usize), String> {
        let place = self.opened.mpi.init()?;
        self.place = Some(place);
        Ok(place)
    }

    /// values = their sum over all ranks.
    fn sum(&mut self, pool: &mut Pool, values: &mut [f32], wire: Wire) -> Result<(), String> {
        let (mut ranks, scratch) = self.ranks();
        if !ranks.size().is_power_of_two() {
            return Err(format!("{} ranks are not a power of two", ranks.size()));
        }
        reduce::sum(&mut ranks, pool, values, wire, scratch)
    }

    /// A sum and an exchange whose results are known: a library that takes a handle for another one may do nothing, and say
    /// that all is well.
    fn prove(&mut self) -> Result<(), String> {
        let wrong = |what: &str| format!("{} does not {what} as MPI should", self.path);
        let Some((rank, size)) = self.place else { return Ok(()) };
        let mut sums = [rank as f32 + 1.0, 0.5];
        self.opened.mpi.all_reduce(&mut sums)?;
        if sums != [(size * (size + 1) / 2) as f32, 0.5 * size as f32] {
            return Err(wrong("add"));
        }
        let partner = rank ^ 1;
        if partner < size {
            let message = |rank: usize| [rank as u8, 1, 2, 3, 250];
            let mut received = [0; 5];
            self.opened.mpi.exchange(partner, &message(rank), &mut received)?;
            if received != message(partner) {
                return Err(wrong("exchange messages"));
            }
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a path is not UTF-8".into())
}

/// Opens the first of some MPI libraries that can be opened, without starting MPI. A second call keeps what the first
/// one opened.
///
/// # Safety
/// `paths` points to `paths_len` bytes: paths, or names that the system's loader knows, one a line.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_load(paths: *const u8, paths_len: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let paths = text(unsafe { input(paths, paths_len as usize, "paths") }?)?;
        let mut mpi = lock();
        if mpi.is_some() {
            return Ok(());
        }
        let patient = Arc::new(AtomicBool::new(false));
        let mut tried = Vec::new();
        for path in paths.lines() {
            match abi::open(path, &patient) {
                Ok(opened) => {
                    let description = [path, &opened.version, opened.abi.name()].join("\n");
                    let aborter = opened.mpi.aborter();
                    let world = World { opened, path: path.into(), place: None, scratch: Scratch::default() };
                    let thread = MpiThread::start(world, patient)?;
                    *mpi = Some(Mpi { thread, description, place: None, closed: false, aborter });
                    return Ok(());
                }
                Err(why) => tried.push(format!("{path} ({why})")),
            }
        }
        Err(format!("no MPI library can be opened; tried {}", tried.join(", ")))
    })
}

/// Writes what was opened as three lines: path, version, interface. Returns the length in bytes, or a negative status.
///
/// # Safety
/// `description` points to `description_len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_describe(description: *mut u8, description_len: u32) -> i32 {
    let mut written = 0;
    let status = guard(|| {
        // SAFETY: as promised by the caller.
        let out = unsafe { output(description, description_len as usize, "description") }?;
        let mpi = lock();
        let Mpi { description, .. } = mpi.as_ref().ok_or("no MPI library is open")?;
        let lines = &description[..description.floor_char_boundary(out.len())];
        out[..lines.len()].copy_from_slice(lines.as_bytes());
        written = lines.len() as i32;
        Ok(())
    });
    if status < 0 { status } else { written }
}

/// Starts MPI and proves that it works. The number of this process goes to `place[0]`, that of all to `place[1]`.
///
/// # Safety
/// `place` points to `place_len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_start(place: *mut u32, place_len: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let [rank, size] = (unsafe { output(place, place_len as usize, "place") })? else {
            return Err("place must have two elements".into());
        };
        let mut mpi = lock();
        let mpi = mpi.as_mut().ok_or("no MPI library is open")?;
        if mpi.place.is_none() {
            // as one: the library may take the others' connections between two calls
            let silence = Arc::clone(&mpi.thread.silence);
            let (rank, size) = silence.connecting(|| {
                let place = mpi.thread.call(|world| world.start())?;
                mpi.place = Some(place);
                mpi.thread.call(|world| world.prove())?;
                Ok::<_, String>(place)
            })?;
            let aborter = mpi.thread.call(|world| Ok(world.opened.mpi.aborter()))?;
            mpi.thread.silence.watch(rank, size, aborter)?;
        }
        let (own, all) = mpi.place.unwrap_or((0, 1));
        (*rank, *size) = (own as u32, all as u32);
        Ok(())
    })
}

fn wire(bf16: u32) -> Wire {
    if bf16 != 0 { Wire::Bf16 } else { Wire::F32 }
}

/// values = their sum over all ranks, in a tree: see `reduce.rs`. The number of ranks is a power of two.
///
/// # Safety
/// `values` points to `values_len` writable values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_sum(values: *mut f32, values_len: u32, bf16: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let values = unsafe { output(values, values_len as usize, "values") }?;
        let mut pool = one_thread()?;
        with_world(|world| world.sum(&mut pool, values, wire(bf16)))
    })
}

/// Part of a tensor, for another thread.
struct Lent {
    values: NonNull<f32>,
    len: usize,
}
// SAFETY: whoever makes one sees to it that nobody else touches the values meanwhile.
unsafe impl Send for Lent {}

/// The same for `len` elements of a tensor, without a copy.
#[unsafe(no_mangle)]
pub extern "C" fn mg_mpi_sum_tensor(device: u32, values: u32, values_at: f64, len: f64, bf16: u32) -> i32 {
    with_device(device, |d| {
        let span = Span { handle: values, offset: values_at, len: len as usize };
        let ([values], []) = d.tensors.operands([span], [])?;
        let pool = &mut d.pool;
        with_world(|world| world.sum(pool, values, wire(bf16)))
    })
}

/// Begins such a sum, which goes on while the caller computes elsewhere. The elements are not to be used until
/// `mg_mpi_finish` has returned. All ranks begin the same sums in the same order.
#[unsafe(no_mangle)]
pub extern "C" fn mg_mpi_begin_sum(device: u32, values: u32, values_at: f64, len: f64, bf16: u32) -> i32 {
    with_device(device, |d| {
        let span = Span { handle: values, offset: values_at, len: len as usize };
        let ([values], []) = d.tensors.operands([span], [])?;
        let lent = Lent { len: values.len(), values: NonNull::from(values).cast() };
        let mut pool = one_thread()?;
        with_mpi(|mpi| {
            mpi.thread.begin(move |world| {
                let Lent { values, len } = { lent };
                // SAFETY: within a tensor, which is freed after `settle` only; the caller keeps off it until `mg_mpi_finish`.
                let values = unsafe { std::slice::from_raw_parts_mut(values.as_ptr(), len) };
                world.sum(&mut pool, values, wire(bf16))
            });
            Ok(())
        })
    })
}

/// Waits for all sums that were begun.
#[unsafe(no_mangle)]
pub extern "C" fn mg_mpi_finish() -> i32 {
    guard(|| with_mpi(|mpi| mpi.thread.finish()))
}

/// For additions beside a device whose threads compute.
fn one_thread() -> Result<Pool, String> {
    Pool::new(1).map_err(|error| error.to_string())
}

/// values = their sum over all ranks by the library's own algorithm, to compare with.
///
/// # Safety
/// `values` points to `values_len` writable values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_all_reduce(values: *mut f32, values_len: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let values = unsafe { output(values, values_len as usize, "values") }?;
        with_world(|world| world.opened.mpi.all_reduce(values))
    })
}

/// values = their sum, or with `largest` their maximum, over all ranks; meant for a few. The number of ranks is a power
/// of two.
///
/// # Safety
/// `values` points to `values_len` writable values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_combine(values: *mut f64, values_len: u32, largest: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let values = unsafe { output(values, values_len as usize, "values") }?;
        with_world(|world| reduce::combine(&mut world.ranks().0, values, largest != 0))
    })
}

/// Everybody's bytes become those of rank 0.
///
/// # Safety
/// `bytes` points to `bytes_len` writable bytes, as many on each rank.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_mpi_broadcast(bytes: *mut u8, bytes_len: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let bytes = unsafe { output(bytes, bytes_len as usize, "bytes") }?;
        with_world(|world| world.opened.mpi.broadcast(bytes))
    })
}

/// Returns when all ranks have called it.
#[unsafe(no_mangle)]
pub extern "C" fn mg_mpi_barrier() -> i32 {
    guard(|| with_world(|world| world.opened.mpi.barrier()))
}

/// Ends all processes of the launch, this one too, with an exit code. Does nothing where MPI does not run.
#[unsafe(no_mangle)]
pub extern "C" fn mg_mpi_abort(code: u32) -> i32 {
    guard(|| {
        if let Some(mpi) = lock().as_ref().filter(|mpi| mpi.place.is_some() && !mpi.closed) {
            silence::end_job(&mpi.aborter, code as i32);
        }
        Ok(())
    })
}

/// Ends MPI, when all ranks have called it. A second call does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn mg_mpi_close() -> i32 {
    guard(|| match &mut *lock() {
        Some(mpi) if mpi.place.is_some() && !mpi.closed => {
            mpi.closed = true;
            mpi.thread.silence.end();
            mpi.thread.call(|world| world.opened.mpi.finalize())
        }
        _ => Ok(()),
    })
}
