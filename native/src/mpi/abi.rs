//! MPI libraries as they are found: opened when the program runs, called by the constants of their binary interface.
//!
//! There are three interfaces. MPI 5 has a standard one, whose handles are small numbers as wide as a pointer. Open MPI's
//! handles are the addresses of its objects. Those of MPICH, and of its relatives Intel MPI, MVAPICH, Cray's and
//! Microsoft's, are numbers of 32 bits. A wrong handle is not always noticed by the library, so `mod.rs` tries a sum
//! whose result is known before anybody relies on it.

use super::reduce::{IN_FLIGHT, PART};
use libloading::Library;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// The interfaces that differ in their constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Abi {
    Standard,
    OpenMpi,
    Mpich,
}

impl Abi {
    pub fn name(self) -> &'static str {
        match self {
            Abi::Standard => "standard ABI of MPI 5",
            Abi::OpenMpi => "Open MPI's ABI",
            Abi::Mpich => "MPICH's ABI",
        }
    }
}

/// What this program asks of MPI, all in the world of one launch. Bytes are all that travels.
pub trait Mpi: Send {
    /// Starts MPI. Returns the number of this process and the number of processes.
    fn init(&self) -> Result<(usize, usize), String>;
    /// Sends bytes to `partner` while receiving as many from it as `receive` holds.
    fn exchange(&self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<(), String>;
    /// See `reduce::Link`.
    fn stream(
        &self,
        partner: usize,
        send: &[u8],
        len: usize,
        room: &mut [u8],
        received: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), String>;
    /// Everybody's bytes become those of rank 0.
    fn broadcast(&self, bytes: &mut [u8]) -> Result<(), String>;
    /// The library's own sum, in whatever order it likes.
    fn all_reduce(&self, values: &mut [f32]) -> Result<(), String>;
    fn barrier(&self) -> Result<(), String>;
    /// Ends all processes with an exit code; does not return where MPI works. May be called by any thread.
    fn aborter(&self) -> Box<dyn Fn(i32) + Send>;
    fn finalize(&self) -> Result<(), String>;
}

/// Most bytes of one message: MPI counts them in 32 bits with a sign.
const MESSAGE: usize = 1 << 30;
/// Room for any `MPI_Status` (the largest has 32 bytes) and any text of an error (512).
const STATUS_WORDS: usize = 8;
const ERROR_TEXT: usize = 2048;
/// MPICH's texts of a version may have so many bytes.
const VERSION_TEXT: usize = 8192;

/// Between two questions of a patient `wait`: at 10 Gbit/s 60 kB arrive meanwhile, less than a socket holds.
const PAUSE: Duration = Duration::from_micros(50);

/// Declares the functions that are called; H is the type of handles. It decides where arguments lie: Apple's 64-bit ARM
/// packs those that do not fit into registers.
macro_rules! functions {
    ($($field:ident $symbol:literal ($($argument:ty),*);)*) => {
        #[derive(Clone, Copy)]
        struct Functions<H> {
            $($field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl<H: Copy> Functions<H> {
            fn load(library: &Library) -> Result<Self, String> {
                $(
                    // SAFETY: the signature is that of the MPI standard.
                    let $field = *unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> c_int>($symbol) }
                        .map_err(|_| missing($symbol))?;
                )*
                Ok(Functions { $($field),* })
            }
        }
    };
}

functions! {
    init_thread b"MPI_Init_thread" (*mut c_int, *mut c_void, c_int, *mut c_int);
    initialized b"MPI_Initialized" (*mut c_int);
    finalized b"MPI_Finalized" (*mut c_int);
    finalize b"MPI_Finalize" ();
    set_errhandler b"MPI_Comm_set_errhandler" (H, H);
    error_string b"MPI_Error_string" (c_int, *mut c_char, *mut c_int);
    rank b"MPI_Comm_rank" (H, *mut c_int);
    size b"MPI_Comm_size" (H, *mut c_int);
    isend b"MPI_Isend" (*const u8, c_int, H, c_int, c_int, H, *mut H);
    irecv b"MPI_Irecv" (*mut u8, c_int, H, c_int, c_int, H, *mut H);
    wait b"MPI_Wait" (*mut H, *mut [usize; STATUS_WORDS]);
    test b"MPI_Test" (*mut H, *mut c_int, *mut [usize; STATUS_WORDS]);
    bcast b"MPI_Bcast" (*mut u8, c_int, H, c_int, H);
    allreduce b"MPI_Allreduce" (*const c_void, *mut f32, c_int, H, H, H);
    barrier b"MPI_Barrier" (H);
    abort b"MPI_Abort" (H, c_int);
}

fn missing(symbol: &[u8]) -> String {
    format!("no MPI: {} is missing", String::from_utf8_lossy(symbol))
}

struct Constants<H> {
    world: H,
    byte: H,
    float: H,
    sum: H,
    errors_return: H,
    /// a pointer that is none: what is summed lies where the result goes
    in_place: usize,
    /// only the thread that started MPI calls it
    funneled: c_int,
}

/// As in mpi_abi.h of the MPI 5 standard.
const STANDARD: Constants<usize> = Constants {
    world: 0x101,
    byte: 0x247,
    float: 0x210,
    sum: 0x21,
    errors_return: 0x143,
    in_place: 1,
    funneled: 1024,
};

/// As in MPICH's mpi.h since version 3.1, and in Microsoft's.
const MPICH: Constants<c_int> = Constants {
    world: 0x4400_0000,
    byte: 0x4c00_010d,
    float: 0x4c00_040a,
    sum: 0x5800_0003,
    errors_return: 0x5400_0001,
    in_place: usize::MAX,
    funneled: 1,
};

/// Open MPI's handles are addresses in the library.
fn open_mpi(library: &Library) -> Result<Constants<usize>, String> {
    let address = |symbol: &[u8]| {
        // SAFETY: only the address is taken.
        unsafe { library.get::<*const c_void>(symbol) }
            .map(|object| object.addr())
            .map_err(|_| missing(symbol))
    };
    Ok(Constants {
        world: address(b"ompi_mpi_comm_world")?,
        byte: address(b"ompi_mpi_byte")?,
        float: address(b"ompi_mpi_float")?,
        sum: address(b"ompi_mpi_op_sum")?,
        errors_return: address(b"ompi_mpi_errors_return")?,
        in_place: 1,
        funneled: 1,
    })
}

/// An opened library. It stays open until the process ends: MPI leaves threads and handlers behind.
pub struct Opened {
    pub mpi: Box<dyn Mpi>,
    pub abi: Abi,
    /// the library's own words, one line
    pub version: String,
}

/// Opens a library by its path, or by its name where the system's loader knows it.
///
/// `patient` says from now on whether the process computes while messages travel.
pub fn open(path: &str, patient: &Arc<AtomicBool>) -> Result<Opened, String> {
    let library = load(path).map_err(|error| reason(path, &error))?;
    let version = version(&library)?;
    let abi = abi(&library, &version)?;
    let mpi = match abi {
        Abi::Standard => api(&library, STANDARD, patient)?,
        Abi::Mpich => api(&library, MPICH, patient)?,
        Abi::OpenMpi => api(&library, open_mpi(&library)?, patient)?,
    };
    std::mem::forget(library);
    Ok(Opened { mpi, abi, version: one_line(&version) })
}

fn api<H: Copy + 'static>(
    library: &Library,
    constants: Constants<H>,
    patient: &Arc<AtomicBool>,
) -> Result<Box<dyn Mpi>, String> {
    Ok(Box::new(Api { functions: Functions::load(library)?, constants, patient: patient.clone() }))
}

/// Open MPI's plug-ins look for its symbols among all that are visible.
#[cfg(unix)]
fn load(path: &str) -> Result<Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: what a library does when it is loaded is its own affair; MPI libraries are made for this.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
}

#[cfg(not(unix))]
fn load(path: &str) -> Result<Library, libloading::Error> {
    // SAFETY: as above.
    unsafe { Library::new(path) }
}

/// Why a library was not opened, without the path that stands beside it.
fn reason(path: &str, error: &libloading::Error) -> String {
    use std::error::Error;
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    if text.contains("No such file") || text.contains("no such file") {
        return "not found".into();
    }
    let text = text.strip_prefix(path).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
    one_line(text)
}

fn version(library: &Library) -> Result<String, String> {
    type GetVersion = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
    // SAFETY: the signature is that of the MPI standard, which allows the call before MPI is started.
    let get = unsafe { library.get::<GetVersion>(b"MPI_Get_library_version") };
    let get = get.map_err(|_| missing(b"MPI_Get_library_version"))?;
    let mut text = vec![0; VERSION_TEXT + 1];
    let mut len = 0;
    // SAFETY: there is room for the longest version.
    unsafe { get(text.as_mut_ptr(), &mut len) };
    // SAFETY: the last byte is still 0.
    Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

/// Which constants a library wants. MPICH 5 exports `MPI_Abi_get_version` in both of its libraries: the one with its old
/// constants answers −1.
fn abi(library: &Library, version: &str) -> Result<Abi, String> {
    type GetAbi = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    // SAFETY: the signature is that of the MPI standard, which allows the call before MPI is started.
    if let Ok(get) = unsafe { library.get::<GetAbi>(b"MPI_Abi_get_version") } {
        let (mut major, mut minor) = (-1, -1);
        // SAFETY: two numbers to write.
        let status = unsafe { get(&mut major, &mut minor) };
        if status == 0 && major >= 1 {
            return if major == 1 { Ok(Abi::Standard) } else { Err(format!("MPI ABI {major} is not known")) };
        }
    }
    // SAFETY: only whether it is there is asked.
    if unsafe { library.get::<*const c_void>(b"ompi_mpi_comm_world") }.is_ok() {
        return Ok(Abi::OpenMpi);
    }
    let relatives = ["MPICH", "Intel(R) MPI", "MVAPICH", "Microsoft MPI"];
    if relatives.iter().any(|name| version.contains(name)) {
        return Ok(Abi::Mpich);
    }
    Err(format!("an MPI that is not known: {}", one_line(version)))
}

/// The first line, without runs of spaces, and without what Open MPI says of who built it.
fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.split(", package").next().unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Api<H> {
    functions: Functions<H>,
    constants: Constants<H>,
    /// the process computes while messages travel: see `wait`
    patient: Arc<AtomicBool>,
}

// SAFETY: Open MPI's handles are addresses of objects that belong to the process, not to a thread.
unsafe impl<H> Send for Api<H> {}

struct Shared<H>(H);
// SAFETY: as above.
unsafe impl<H> Send for Shared<H> {}

impl<H: Copy> Api<H> {
    /// What MPI says of a status that is not 0.
    fn check(&self, what: &str, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text = vec![0; ERROR_TEXT + 1];
        let mut len = 0;
        // SAFETY: there is room for the longest text, and the last byte stays 0.
        let text = unsafe {
            (self.functions.error_string)(status, text.as_mut_ptr(), &mut len);
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(format!("MPI's {what} failed: {text}"))
    }
}

/// Messages on their way. An error leaves the buffers to MPI: the group aborts then.
impl<H: Copy> Api<H> {
    fn send_part(&self, partner: usize, part: &[u8]) -> Result<H, String> {
        let (f, c) = (&self.functions, &self.constants);
        let (mut request, to, tag) = (c.world, partner as c_int, 0);
        // SAFETY: the buffer is as long as said; the caller keeps it until it waited for the request.
        let status =
            unsafe { (f.isend)(part.as_ptr(), part.len() as c_int, c.byte, to, tag, c.world, &mut request) };
        self.check("MPI_Isend", status).map(|()| request)
    }

    fn receive_part(&self, partner: usize, into: *mut u8, len: usize) -> Result<H, String> {
        let (f, c) = (&self.functions, &self.constants);
        let (mut request, from, tag) = (c.world, partner as c_int, 0);
        // SAFETY: as above.
        let status = unsafe { (f.irecv)(into, len as c_int, c.byte, from, tag, c.world, &mut request) };
        self.check("MPI_Irecv", status).map(|()| request)
    }

    /// MPI_Wait takes a whole processor. While this process computes, too, it is asked now and then instead.
    fn wait(&self, mut request: H) -> Result<(), String> {
        let mut ignored = [0; STATUS_WORDS];
        while self.patient.load(Relaxed) {
            let mut done = 0;
            // SAFETY: the request is one of the two above, and not asked for again once it is done.
            let status = unsafe { (self.functions.test)(&mut request, &mut done, &mut ignored) };
            self.check("MPI_Test", status)?;
            if done != 0 {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        // SAFETY: as above.
        self.check("MPI_Wait", unsafe { (self.functions.wait)(&mut request, &mut ignored) })
    }
}

impl<H: Copy + 'static> Mpi for Api<H> {
    fn init(&self) -> Result<(usize, usize), String> {
        let (f, c) = (&self.functions, &self.constants);
        let (mut started, mut ended, mut provided) = (0, 0, 0);
        let (mut rank, mut size) = (0, 0);
        // SAFETY: each pointer is to a number that may be written, or null where the standard allows it.
        unsafe {
            self.check("MPI_Initialized", (f.initialized)(&mut started))?;
            self.check("MPI_Finalized", (f.finalized)(&mut ended))?;
            if ended != 0 {
                return Err("MPI has ended in this process, and cannot be started twice".into());
            }
            if started == 0 {
                let null = std::ptr::null_mut();
                let status = (f.init_thread)(null, null.cast(), c.funneled, &mut provided);
                self.check("MPI_Init_thread", status)?;
            }
            self.check("MPI_Comm_set_errhandler", (f.set_errhandler)(c.world, c.errors_return))?;
            self.check("MPI_Comm_rank", (f.rank)(c.world, &mut rank))?;
            self.check("MPI_Comm_size", (f.size)(c.world, &mut size))?;
        }
        if rank < 0 || size <= rank {
            return Err(format!("MPI says that this is rank {rank} of {size}"));
        }
        Ok((rank as usize, size as usize))
    }

    fn exchange(&self, partner: usize, send: &[u8], receive: &mut [u8]) -> Result<(), String> {
        let messages = send.len().max(receive.len()).div_ceil(MESSAGE).max(1);
        for i in 0..messages {
            let part = |len: usize| (i * MESSAGE).min(len)..((i + 1) * MESSAGE).min(len);
            let (of_send, of_receive) = (part(send.len()), part(receive.len()));
            let receive = &mut receive[of_receive];
            let receiving = self.receive_part(partner, receive.as_mut_ptr(), receive.len())?;
            let sending = self.send_part(partner, &send[of_send])?;
            self.wait(receiving)?;
            self.wait(sending)?;
        }
        Ok(())
    }

    fn stream(
        &self,
        partner: usize,
        send: &[u8],
        len: usize,
        room: &mut [u8],
        received: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), String> {
        let parts = |len: usize| len.div_ceil(PART);
        let range = |i: usize, len: usize| i * PART..((i + 1) * PART).min(len);
        assert!(room.len() >= IN_FLIGHT.min(parts(len)) * PART);
        let room = room.as_mut_ptr();
        // SAFETY: there is room for the parts in flight; a part's room is used again once it was received.
        let slot = |i: usize| unsafe { room.add(i % IN_FLIGHT * PART) };
        let (mut sending, mut receiving) = (VecDeque::new(), VecDeque::new());
        let post = |i: usize, sending: &mut VecDeque<H>, receiving: &mut VecDeque<H>| {
            if i < parts(len) {
                receiving.push_back(self.receive_part(partner, slot(i), range(i, len).len())?);
            }
            if i < parts(send.len()) {
                sending.push_back(self.send_part(partner, &send[range(i, send.len())])?);
            }
            Ok::<(), String>(())
        };
        for i in 0..IN_FLIGHT {
            post(i, &mut sending, &mut receiving)?;
        }
        for i in 0..parts(len).max(parts(send.len())) {
            if let Some(request) = receiving.pop_front() {
                self.wait(request)?;
                // SAFETY: the part has arrived, and nothing writes there until the next one is posted.
                let part = unsafe { std::slice::from_raw_parts(slot(i), range(i, len).len()) };
                received(i * PART, part);
            }
            if let Some(request) = sending.pop_front() {
                self.wait(request)?;
            }
            post(i + IN_FLIGHT, &mut sending, &mut receiving)?;
        }
        Ok(())
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<(), String> {
        for part in bytes.chunks_mut(MESSAGE) {
            let (f, c) = (&self.functions, &self.constants);
            // SAFETY: the buffer is as long as said.
            let status = unsafe { (f.bcast)(part.as_mut_ptr(), part.len() as c_int, c.byte, 0, c.world) };
            self.check("MPI_Bcast", status)?;
        }
        Ok(())
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), String> {
        let (f, c) = (&self.functions, &self.constants);
        let in_place = std::ptr::without_provenance(c.in_place);
        for part in values.chunks_mut(MESSAGE) {
            let len = part.len() as c_int;
            // SAFETY: the buffer is as long as said.
            let status = unsafe { (f.allreduce)(in_place, part.as_mut_ptr(), len, c.float, c.sum, c.world) };
            self.check("MPI_Allreduce", status)?;
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), String> {
        // SAFETY: the world is always there.
        self.check("MPI_Barrier", unsafe { (self.functions.barrier)(self.constants.world) })
    }

    fn aborter(&self) -> Box<dyn Fn(i32) + Send> {
        let (abort, world) = (self.functions.abort, Shared(self.constants.world));
        Box::new(move |code| {
            let Shared(world) = &world;
            // SAFETY: the world is always there. The thread that calls MPI may be in the middle of a call that will not end: no
            // other one comes after this.
            unsafe { abort(*world, code) };
        })
    }

    fn finalize(&self) -> Result<(), String> {
        // SAFETY: called once, by the owner of the library.
        self.check("MPI_Finalize", unsafe { (self.functions.finalize)() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mpi_is_refused_with_the_reason() {
        let why = |path: &str| open(path, &Arc::default()).err().unwrap();
        assert_eq!(why("libmpi-of-nobody.so.1"), "not found");
        if cfg!(target_os = "linux") {
            assert_eq!(why("libm.so.6"), "no MPI: MPI_Get_library_version is missing");
        }
        assert!(!why(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).contains("Cargo.toml: "));
    }

    #[test]
    fn versions_are_one_line() {
        assert_eq!(one_line("MPICH Version:      5.0.2\nMPICH Release date: Fri"), "MPICH Version: 5.0.2");
        assert_eq!(one_line("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4"), "Open MPI v4.1.4");
    }
}
