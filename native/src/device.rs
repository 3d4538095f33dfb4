//! CPU devices: each owns its tensors, its batches and a pool of threads. The exports here open and close devices and
//! move memory; those of the kernels stand in `kernels/`, each beside its kernel.

use crate::kernels::batch::Batch;
use crate::kernels::simd::instruction_set;
use crate::pool::Pool;
use crate::status::{guard, input, output};
use crate::tensors::{Span, Tensors, as_u32s, as_u32s_mut};
use std::sync::{Arc, Mutex, PoisonError};

/// What a kernel works with.
pub struct Device {
    pub tensors: Tensors,
    pub batches: Vec<Batch>,
    pub pool: Pool,
}

static DEVICES: Mutex<Vec<Option<Arc<Mutex<Device>>>>> = Mutex::new(Vec::new());

/// Runs the body of an export that works on a device.
pub fn with_device(handle: u32, body: impl FnOnce(&mut Device) -> Result<(), String>) -> i32 {
    guard(|| {
        let device = DEVICES.lock().unwrap_or_else(PoisonError::into_inner).get(handle as usize).cloned();
        let device = device.flatten().ok_or("the device is closed")?;
        // A kernel that panicked left numbers half-written, nothing worse.
        body(&mut device.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// Opens a device with `threads` threads, the caller's included. Its number goes to `handle[0]`.
///
/// # Safety
/// `handle` points to `len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_open(threads: u32, handle: *mut u32, len: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let [handle] = (unsafe { output(handle, len as usize, "handle") })? else {
            return Err("handle must have one element".into());
        };
        let pool = Pool::new(threads as usize)
            .map_err(|error| format!("cannot start {threads} threads: {error}"))?;
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        devices.push(Some(Arc::new(Mutex::new(Device {
            tensors: Tensors::default(),
            batches: Vec::new(),
            pool,
        }))));
        *handle = devices.len() as u32 - 1;
        Ok(())
    })
}

/// Closes a device and frees all its memory.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_close(device: u32) -> i32 {
    guard(|| {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = devices.get_mut(device as usize).and_then(Option::take);
        drop(devices);
        closed.map(drop).ok_or_else(|| "the device is closed".into())
    })
}

/// Writes the processor's name and the instruction set in use, as UTF-8. Returns the length in bytes, or a negative status.
///
/// # Safety
/// `text` points to `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_name(text: *mut u8, len: u32) -> i32 {
    let mut written = 0;
    let status = guard(|| {
        // SAFETY: as promised by the caller.
        let text = unsafe { output(text, len as usize, "text") }?;
        let name = format!("{}, {}", processor_name(), instruction_set());
        let name = name.get(..text.len()).unwrap_or(&name);
        text[..name.len()].copy_from_slice(name.as_bytes());
        written = name.len() as i32;
        Ok(())
    });
    if status < 0 { status } else { written }
}

/// As the processor itself gives it.
fn processor_name() -> String {
    #[cfg(target_arch = "x86_64")]
    if let Some(brand) = raw_cpuid::CpuId::new().get_processor_brand_string() {
        return brand.as_str().split_whitespace().collect::<Vec<_>>().join(" ");
    }
    #[cfg(target_os = "macos")]
    if let Ok(output) =
        std::process::Command::new("/usr/sbin/sysctl").args(["-n", "machdep.cpu.brand_string"]).output()
        && output.status.success()
    {
        return String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    std::env::consts::ARCH.to_owned()
}

/// Allocates a zeroed tensor of `len` elements. Its number goes to `handle[0]`; it is 2³² − 1 when memory is short.
///
/// # Safety
/// `handle` points to `handle_len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_allocate(device: u32, len: f64, handle: *mut u32, handle_len: u32) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let [handle] = (unsafe { output(handle, handle_len as usize, "handle") })? else {
            return Err("handle must have one element".into());
        };
        *handle = d.tensors.allocate(len).unwrap_or(u32::MAX);
        Ok(())
    })
}

/// Frees a tensor.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_free(device: u32, tensor: u32) -> i32 {
    with_device(device, |d| d.tensors.free(tensor))
}

/// Copies `len` elements into a tensor from element `offset` on.
///
/// # Safety
/// `data` points to `len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_write(
    device: u32,
    tensor: u32,
    offset: f64,
    data: *const u32,
    len: u32,
) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let data = unsafe { input(data, len as usize, "data") }?;
        let ([tensor], []) = d.tensors.operands([Span { handle: tensor, offset, len: data.len() }], [])?;
        as_u32s_mut(tensor).copy_from_slice(data);
        Ok(())
    })
}

/// Copies `len` elements out of a tensor from element `offset` on.
///
/// # Safety
/// `data` points to `len` writable values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_read(device: u32, tensor: u32, offset: f64, data: *mut u32, len: u32) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let data = unsafe { output(data, len as usize, "data") }?;
        let ([], [tensor]) = d.tensors.operands([], [Span { handle: tensor, offset, len: data.len() }])?;
        data.copy_from_slice(as_u32s(tensor));
        Ok(())
    })
}

/// Sets `len` elements to zero.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_zero(device: u32, tensor: u32, offset: f64, len: f64) -> i32 {
    with_device(device, |d| d.tensors.zero(&mut d.pool, Span { handle: tensor, offset, len: len as usize }))
}
