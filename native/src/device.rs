//! CPU devices: each owns its tensors, its batches and a pool of threads. The exports here open and close devices and
//! move memory; those of the kernels are in `kernels/`, each beside its kernel.

use crate::handles::{Handles, NONE, Table};
use crate::kernels::batch::Batch;
use crate::kernels::bf16_product::Panels;
use crate::kernels::simd::instruction_set;
use crate::pool::Pool;
use crate::status::{guard, input, output};
use crate::tensors::{Span, Tensors, as_u32s, as_u32s_mut};
use crate::threads::check_count;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a kernel works with.
pub struct Device {
    pub tensors: Tensors,
    pub batches: Table<Batch>,
    pub panels: Panels,
    pub pool: Pool,
}

static DEVICES: Handles<Mutex<Device>> = Handles::new("device");

/// A kernel that panicked left numbers half-written, but nothing worse: the device goes on.
fn lock(device: &Mutex<Device>) -> MutexGuard<'_, Device> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the body of an export that works on a device.
pub fn with_device(handle: u32, body: impl FnOnce(&mut Device) -> Result<(), String>) -> i32 {
    guard(|| {
        let device = DEVICES.get(handle).map_err(|_| "the device is closed")?;
        body(&mut lock(&device))
    })
}

/// Opens a device with `threads` threads, the caller's included. Its number goes to `handle[0]`.
///
/// # Safety
/// `handle` points to `handle_len` writable numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_open(threads: u32, handle: *mut u32, handle_len: u32) -> i32 {
    guard(|| {
        // SAFETY: as promised by the caller.
        let [handle] = (unsafe { output(handle, handle_len as usize, "handle") })? else {
            return Err("handle must have one element".into());
        };
        check_count(threads as usize)?;
        let pool = Pool::new(threads as usize)
            .map_err(|error| format!("cannot start {threads} threads: {error}"))?;
        let device = Device {
            tensors: Tensors::default(),
            batches: Table::new("batch"),
            panels: Panels::default(),
            pool,
        };
        *handle = DEVICES.insert(Mutex::new(device));
        Ok(())
    })
}

/// Closes a device, ends its threads and frees all its memory. Does nothing for one that is closed already.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_close(device: u32) -> i32 {
    guard(|| {
        crate::mpi::settle();
        DEVICES.remove(device);
        Ok(())
    })
}

/// Writes the processor's name and the instruction set in use, as UTF-8, cut off where the buffer ends. Returns the
/// length in bytes, or a negative status.
///
/// # Safety
/// `text` points to `text_len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_name(text: *mut u8, text_len: u32) -> i32 {
    let mut written = 0;
    let status = guard(|| {
        // SAFETY: as promised by the caller.
        let text = unsafe { output(text, text_len as usize, "text") }?;
        let name = format!("{}, {}", processor_name(), instruction_set());
        let name = &name[..name.floor_char_boundary(text.len())];
        text[..name.len()].copy_from_slice(name.as_bytes());
        written = name.len() as i32;
        Ok(())
    });
    if status < 0 { status } else { written }
}

/// The name, as the processor itself gives it.
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

/// Allocates a zeroed tensor of `len` elements. Its number goes to `handle[0]`; it is 2³² − 1 when memory runs out.
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
        *handle = d.tensors.allocate(len).unwrap_or(NONE);
        Ok(())
    })
}

/// Frees a tensor. Does nothing for one that is freed already, or whose device is closed.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_free(device: u32, tensor: u32) -> i32 {
    guard(|| {
        if let Ok(device) = DEVICES.get(device) {
            crate::mpi::settle();
            lock(&device).tensors.free(tensor);
        }
        Ok(())
    })
}

/// Copies `data_len` elements into a tensor from element `tensor_at` on.
///
/// # Safety
/// `data` points to `data_len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_write(
    device: u32,
    tensor: u32,
    tensor_at: f64,
    data: *const u32,
    data_len: u32,
) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let data = unsafe { input(data, data_len as usize, "data") }?;
        let ([tensor], []) =
            d.tensors.operands([Span { handle: tensor, offset: tensor_at, len: data.len() }], [])?;
        as_u32s_mut(tensor).copy_from_slice(data);
        Ok(())
    })
}

/// Copies `data_len` elements out of a tensor from element `tensor_at` on.
///
/// # Safety
/// `data` points to `data_len` writable values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_cpu_read(
    device: u32,
    tensor: u32,
    tensor_at: f64,
    data: *mut u32,
    data_len: u32,
) -> i32 {
    with_device(device, |d| {
        // SAFETY: as promised by the caller.
        let data = unsafe { output(data, data_len as usize, "data") }?;
        let ([], [tensor]) =
            d.tensors.operands([], [Span { handle: tensor, offset: tensor_at, len: data.len() }])?;
        data.copy_from_slice(as_u32s(tensor));
        Ok(())
    })
}

/// Sets `len` elements to zero.
#[unsafe(no_mangle)]
pub extern "C" fn mg_cpu_zero(device: u32, tensor: u32, tensor_at: f64, len: f64) -> i32 {
    with_device(device, |d| {
        d.tensors.zero(&mut d.pool, Span { handle: tensor, offset: tensor_at, len: len as usize })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::mg_cpu_attention;
    use crate::kernels::attention_cached::mg_cpu_attention_cached;
    use crate::kernels::batch::{mg_cpu_create_batch, mg_cpu_load_batch};
    use crate::kernels::embedding::mg_cpu_embed_rows;
    use crate::kernels::matmul::mg_cpu_matmul;
    use crate::status::{FAILED, OK};

    /// The number that an export writes.
    fn handle(export: impl FnOnce(*mut u32) -> i32) -> u32 {
        let mut handle = [NONE];
        assert_eq!(export(handle.as_mut_ptr()), OK);
        handle[0]
    }

    fn open() -> u32 {
        // SAFETY: one writable number.
        handle(|at| unsafe { mg_cpu_open(2, at, 1) })
    }

    fn allocate(device: u32, len: f64) -> u32 {
        // SAFETY: one writable number.
        handle(|at| unsafe { mg_cpu_allocate(device, len, at, 1) })
    }

    #[test]
    fn letting_go_twice_and_in_any_order_does_nothing() {
        let device = open();
        let (a, b) = (allocate(device, 10.0), allocate(device, 10.0));
        assert_eq!([mg_cpu_free(device, a), mg_cpu_free(device, a)], [OK, OK]);
        assert_eq!(mg_cpu_zero(device, a, 0.0, 1.0), FAILED);
        assert_eq!([mg_cpu_close(device), mg_cpu_close(device)], [OK, OK]);
        assert_eq!([mg_cpu_free(device, b), mg_cpu_free(NONE, b), mg_cpu_close(0)], [OK; 3]);
        assert_eq!(mg_cpu_zero(device, b, 0.0, 1.0), FAILED);
    }

    #[test]
    fn a_tensor_of_another_device_is_refused() {
        let (one, other) = (open(), open());
        let tensor = allocate(one, 10.0);
        allocate(other, 10.0);
        assert_eq!(mg_cpu_zero(other, tensor, 0.0, 1.0), FAILED);
        assert_eq!([mg_cpu_close(one), mg_cpu_close(other)], [OK, OK]);
    }

    #[test]
    fn a_device_goes_on_after_a_panic() {
        let device = open();
        let tensor = allocate(device, 10.0);
        assert_eq!(with_device(device, |d| panic!("{} threads", d.pool.threads())), crate::status::PANICKED);
        assert_eq!(mg_cpu_zero(device, tensor, 0.0, 10.0), OK);
        mg_cpu_close(device);
    }

    #[test]
    fn threads_that_nobody_can_mean_are_not_started() {
        // SAFETY: refused before anything is written.
        unsafe { assert_eq!(mg_cpu_open(u32::MAX, [0].as_mut_ptr(), 1), FAILED) };
    }

    #[test]
    fn names_are_cut_to_the_buffer() {
        for len in 0..40 {
            let mut text = vec![0; len];
            // SAFETY: as long as said.
            let written = unsafe { mg_cpu_name(text.as_mut_ptr(), len as u32) };
            assert!((0..=len as i32).contains(&written));
        }
    }

    /// Sizes whose products end where they began when counted in 32 bits: 3 · 0x5555_5556 = 2, 2 · 0x8000_0001 = 2.
    #[test]
    fn sizes_do_not_wrap_around() {
        let device = open();
        let small = allocate(device, 64.0);
        // SAFETY: one value for each buffer but the starts, which are two.
        let batch = unsafe {
            let batch = handle(|at| mg_cpu_create_batch(device, at, 1));
            let (tokens, starts) = ([0u32], [0u32, 1]);
            let (token, start) = (tokens.as_ptr(), starts.as_ptr());
            let none = std::ptr::null();
            assert_eq!(mg_cpu_load_batch(device, batch, token, 1, token, 1, start, 2, none, 0), OK);
            batch
        };
        // The system gives pages to a tensor only as they are written.
        let width = 0x5555_5556u32;
        let out = allocate(device, f64::from(width));
        let attention = mg_cpu_attention(device, out, 0.0, small, 0.0, small, 8.0, batch, 1, width, 1, 1);
        assert_eq!(attention, FAILED);
        mg_cpu_free(device, out);
        let width = 0x8000_0001u32;
        let out = allocate(device, f64::from(width));
        let cached = mg_cpu_attention_cached(
            device, out, 0.0, out, 0.0, small, 0.0, small, 8.0, small, 16.0, 1, width, 1, 1, 1, 1,
        );
        assert_eq!(cached, FAILED);
        mg_cpu_close(device);
    }

    #[test]
    fn empty_sizes_are_refused_or_do_nothing() {
        let device = open();
        let [a, b, c] = [0; 3].map(|_| allocate(device, 64.0));
        for (m, n, k) in [(1, 1, 0), (0, 0, 0), (u32::MAX, u32::MAX, u32::MAX)] {
            for form in 0..4 {
                let status =
                    mg_cpu_matmul(device, a, 0.0, b, 0.0, c, 0.0, a, 0.0, a, 0.0, form, 0, 0, m, n, k);
                assert_eq!(status, FAILED, "{m} {n} {k}");
            }
        }
        for (m, n) in [(0, 4), (4, 0), (0, 0)] {
            for form in 0..3 {
                let status =
                    mg_cpu_matmul(device, a, 0.0, b, 0.0, c, 0.0, a, 0.0, a, 0.0, form, 0, 1, m, n, 4);
                assert_eq!(status, OK, "{m} {n}");
            }
        }
        let none = mg_cpu_embed_rows(device, a, 0.0, b, 0.0, b, 0.0, c, 0.0, c, 0.0, 2, 0, 1, 1);
        assert_eq!(none, FAILED);
        mg_cpu_close(device);
    }
}
