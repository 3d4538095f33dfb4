//! Machines that fall silent. One that loses its power or its network closes no connection: TCP waits for it for a quarter of
//! an hour or for ever, and MPI libraries wait with it, even for connections that are broken. So this process finds out which
//! TCP connections its MPI library makes, has the system ask whether the other side is there, and ends the job when it waits
//! in MPI and none of those to a machine is left. On Linux; elsewhere nothing is noticed.

use std::io::{Write, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked, and how long a call of MPI must have taken by then.
const LOOK: Duration = Duration::from_secs(1);
/// How long the launcher may take to pass on what is written.
const READING: Duration = Duration::from_millis(500);
/// How long MPI may take to end the job.
const ABORTING: Duration = Duration::from_secs(5);
/// MPI makes its connections when it first needs them: after so many calls they are there.
const CONNECTING_CALLS: u64 = 64;

/// What is known of the connections of MPI, and whether it is at work.
pub struct Silence {
    begun: Instant,
    /// milliseconds after `begun` at which the call began that is under way, 0 for none
    calling: AtomicU64,
    calls: AtomicU64,
    over: AtomicBool,
    connections: Mutex<Vec<Connection>>,
}

impl Silence {
    pub fn new() -> Arc<Silence> {
        Arc::new(Silence {
            begun: Instant::now(),
            calling: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            over: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
        })
    }

    /// Runs a call of MPI.
    pub fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.calling.store(self.begun.elapsed().as_millis() as u64 + 1, Relaxed);
        let result = call();
        self.calling.store(0, Relaxed);
        result
    }

    /// Runs something that calls MPI while the rest of the program stands still: what connections it makes are MPI's.
    pub fn connecting<T>(&self, call: impl FnOnce() -> T) -> T {
        if self.calls.fetch_add(1, Relaxed) >= CONNECTING_CALLS {
            return call();
        }
        let before = connections().unwrap_or_default();
        let result = call();
        let mut known = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections().unwrap_or_default() {
            if !before.contains(&connection) && !known.contains(&connection) {
                connection.ask();
                known.push(connection);
            }
        }
        result
    }

    /// MPI is about to end, and with it its connections.
    pub fn end(&self) {
        self.over.store(true, Relaxed);
    }

    /// Looks, in a thread of its own, until `end`. `abort` ends the job; it is called once.
    pub fn watch(
        self: &Arc<Self>,
        rank: usize,
        size: usize,
        abort: Box<dyn Fn(i32) + Send>,
    ) -> Result<(), String> {
        let silence = Arc::clone(self);
        let watching = move || {
            while !silence.over.load(Relaxed) {
                thread::sleep(LOOK);
                // twice: a look may come in between
                let Some(address) = silence.lost() else { continue };
                thread::sleep(LOOK);
                if silence.lost().as_ref() != Some(&address) || silence.over.load(Relaxed) {
                    continue;
                }
                // the thread of the program stands in the call that will not end
                let what = "does not answer any more: its machine, the network to it, or its process";
                let hint = "the last checkpoint is whole: resume from it, on other machines if need be";
                // in one piece, and some time before the launcher ends all: it reads no further then
                let message = format!("error: rank {rank} of {size}: {address} {what}\nhint: {hint}\n");
                let _ = stderr().write_all(message.as_bytes()); // nobody may read it
                thread::sleep(READING);
                end_job(abort, 1);
                return;
            }
        };
        let watcher = thread::Builder::new().name("microgpt-mpi-silence".into());
        watcher.spawn(watching).map(drop).map_err(|error| format!("cannot start a thread for MPI: {error}"))
    }

    /// A machine to which no connection is left, while a call of MPI takes long. A library may close some of several itself.
    fn lost(&self) -> Option<String> {
        let began = self.calling.load(Relaxed);
        if began == 0 || self.begun.elapsed() < Duration::from_millis(began) + LOOK {
            return None;
        }
        let known = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let open = connections()?;
        let reached = |address: &str| {
            open.iter().any(|connection| connection.address == address && !connection.is_silent())
        };
        let gone = known.iter().find(|connection| !reached(&connection.address))?;
        // a call that has ended meanwhile waits for nobody
        (self.calling.load(Relaxed) == began).then(|| gone.address.clone())
    }
}

/// Ends all processes of the launch. MPI may wait even then, for a launcher that a machine without network does not reach: this
/// process ends in any case.
pub fn end_job(abort: impl Fn(i32), code: i32) {
    // without the thread it is MPI's to end the process
    let _ = thread::Builder::new().spawn(move || {
        thread::sleep(ABORTING);
        leave(code);
    });
    abort(code);
}

/// A TCP connection of this process to another machine, or to an address of this one that others see.
#[derive(PartialEq)]
struct Connection {
    descriptor: i32,
    /// the number of its socket, which no other has
    socket: String,
    address: String,
}

#[cfg(target_os = "linux")]
mod linux {
    use super::Connection;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// Seconds without a word after which the system asks, seconds between questions, and questions without an answer after
    /// which a connection is broken.
    const ASKING: [i32; 3] = [5, 5, 3];
    /// What was sent has a longer patience: the other side is silent after so many milliseconds without an answer, and so
    /// many that were tried. One that is there and does not read answers each time.
    const SILENT: (u32, u8) = (20_000, 3);

    impl Connection {
        /// Has the system find out, within about 20 seconds, that the other side is gone.
        pub fn ask(&self) {
            let set = |level, option, value: i32| {
                let len = size_of::<i32>() as libc::socklen_t;
                // SAFETY: the value is of the size that is said. One that is refused leaves the connection as it was.
                unsafe { libc::setsockopt(self.descriptor, level, option, (&raw const value).cast(), len) };
            };
            let [idle, between, times] = ASKING;
            set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle);
            set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, between);
            set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, times);
            set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        }

        /// Whether the other side does not confirm what was sent, however often it is tried.
        pub fn is_silent(&self) -> bool {
            // SAFETY: numbers, which may be zero.
            let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
            let mut len = size_of_val(&info) as libc::socklen_t;
            let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
            // SAFETY: there is as much room as is said.
            let status =
                unsafe { libc::getsockopt(self.descriptor, level, option, (&raw mut info).cast(), &mut len) };
            let (milliseconds, tries) = SILENT;
            status == 0
                && info.tcpi_last_ack_recv > milliseconds
                && info.tcpi_probes.max(info.tcpi_retransmits) >= tries
        }
    }

    /// Ends this process at once.
    pub fn leave(code: i32) -> ! {
        // SAFETY: nothing comes after it.
        unsafe { libc::_exit(code) }
    }

    /// Those that are open; none where that cannot be told.
    pub fn connections() -> Option<Vec<Connection>> {
        let open = std::fs::read_dir("/proc/self/fd").ok()?.collect::<Result<Vec<_>, _>>().ok()?;
        let connections = open.into_iter().filter_map(|entry| {
            let descriptor = entry.file_name().to_str()?.parse().ok()?;
            let socket = std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
            let address = if socket.starts_with("socket:") { peer(descriptor)? } else { return None };
            Some(Connection { descriptor, socket, address })
        });
        Some(connections.collect())
    }

    /// The other side of a TCP connection that is open; none of one within this machine.
    fn peer(descriptor: i32) -> Option<String> {
        let there = address(descriptor, libc::getpeername)?;
        let here = address(descriptor, libc::getsockname)?;
        (there != here && !there.is_loopback()).then(|| there.to_string())
    }

    type Name = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32;

    /// The address that `name` gives of a socket of the internet; none of others, and of connections that have ended.
    fn address(descriptor: i32, name: Name) -> Option<IpAddr> {
        // SAFETY: all zeros is an address of no family, with room for any.
        let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: there is as much room as is said.
        if unsafe { name(descriptor, (&raw mut address).cast(), &mut len) } != 0 {
            return None;
        }
        match i32::from(address.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which kind of address lies there.
                let ip = unsafe { (*(&raw const address).cast::<libc::sockaddr_in>()).sin_addr.s_addr };
                Some(Ipv4Addr::from(u32::from_be(ip)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the same.
                let ip = unsafe { (*(&raw const address).cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr };
                Some(Ipv6Addr::from(ip).to_canonical())
            }
            _ => None,
        }
    }
}

#[cfg(target_os = "linux")]
use linux::{connections, leave};

#[cfg(not(target_os = "linux"))]
impl Connection {
    fn ask(&self) {}

    fn is_silent(&self) -> bool {
        false
    }
}

#[cfg(not(target_os = "linux"))]
fn connections() -> Option<Vec<Connection>> {
    None
}

#[cfg(not(target_os = "linux"))]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}
