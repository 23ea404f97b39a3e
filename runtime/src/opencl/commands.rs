//! Launches recorded once and enqueued as one: the extension `cl_khr_command_buffer`.
//!
//! A library that loads drivers does not export its functions; the driver names their addresses. Recorded for a queue that runs in order, commands
//! run in order.

#![allow(unsafe_code)]

use super::driver::{Driven, Failure, Range3};
use opencl3::device::Device;
use opencl3::error_codes::{CL_INVALID_OPERATION, ClError};
use opencl3::event::Event;
use opencl3::kernel::Kernel;
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

/// Name of the extension.
const NAME: &str = "cl_khr_command_buffer";
/// `CL_INCOMPATIBLE_COMMAND_QUEUE_KHR`: the device records for queues of another kind only.
const OTHER_QUEUE: i32 = -1140;

/// A handle of the library: a queue, a kernel, a command buffer.
type Handle = *mut c_void;
type Create = unsafe extern "system" fn(u32, *const Handle, *const u64, *mut i32) -> Handle;
type Finalize = unsafe extern "system" fn(Handle) -> i32;
type Release = unsafe extern "system" fn(Handle) -> i32;
type Enqueue = unsafe extern "system" fn(u32, *mut Handle, Handle, u32, *const Handle, *mut Handle) -> i32;
type Launch = unsafe extern "system" fn(
    Handle,
    Handle,
    *const u64,
    Handle,
    u32,
    *const usize,
    *const usize,
    *const usize,
    u32,
    *const u32,
    *mut u32,
    *mut Handle,
) -> i32;

/// The functions of the extension.
#[derive(Clone, Copy)]
pub struct Extension {
    create: Create,
    launch: Launch,
    finalize: Finalize,
    enqueue: Enqueue,
    release: Release,
}

/// Most launches of one command buffer. PoCL 3.1 ends one with a command that waits for all others, and looks for each of them in
/// the list of those before it: with a thousand, a run takes a third longer.
const LAUNCHES: usize = 64;

/// Recorded launches. What they use must live longer.
pub struct Recording(Vec<CommandBuffer>);

struct CommandBuffer {
    extension: Extension,
    buffer: Handle,
}

impl Extension {
    /// The extension of a device that has it and records for plain queues.
    pub fn of(device: &Device) -> Option<Extension> {
        let listed = device.extensions().ok()?;
        if !listed.split([' ', '\0']).any(|e| e == NAME) {
            return None;
        }
        // Bits that a queue must have; ours has none.
        if device.device_command_buffer_required_queue_properties_khr().ok()? != 0 {
            return None;
        }
        let library = cl3::load_library().as_ref().ok()?;
        let platform = device.platform().ok()?;
        let address = |name: &CStr| {
            let found = library.clGetExtensionFunctionAddressForPlatform(platform, name.as_ptr());
            found.filter(|f| !f.is_null())
        };
        // SAFETY: these are the functions' types in the specification of the extension; the device lists it.
        unsafe {
            Some(Extension {
                create: std::mem::transmute::<Handle, Create>(address(c"clCreateCommandBufferKHR")?),
                launch: std::mem::transmute::<Handle, Launch>(address(c"clCommandNDRangeKernelKHR")?),
                finalize: std::mem::transmute::<Handle, Finalize>(address(c"clFinalizeCommandBufferKHR")?),
                enqueue: std::mem::transmute::<Handle, Enqueue>(address(c"clEnqueueCommandBufferKHR")?),
                release: std::mem::transmute::<Handle, Release>(address(c"clReleaseCommandBufferKHR")?),
            })
        }
    }

    /// Records launches for a queue, in order; `None` where the driver does not record such.
    ///
    /// # Errors
    /// Any other error of the driver.
    pub fn record(self, queue: Handle, launches: &[(Kernel, Range3)]) -> Driven<Option<Recording>> {
        let parts = launches.chunks(LAUNCHES).map(|part| self.buffer(queue, part));
        let parts: Option<Vec<CommandBuffer>> = parts.collect::<Driven<_>>()?;
        Ok(parts.map(Recording))
    }

    fn buffer(self, queue: Handle, launches: &[(Kernel, Range3)]) -> Driven<Option<CommandBuffer>> {
        let mut status = 0;
        // SAFETY: there is one queue, which lives; no properties.
        let buffer = unsafe { (self.create)(1, &raw const queue, null(), &raw mut status) };
        if buffer.is_null() || status != 0 {
            return unsupported("clCreateCommandBufferKHR", status);
        }
        let recording = CommandBuffer {
            extension: self,
            buffer,
        };
        for (kernel, range) in launches {
            let (items, group) = (range.items.as_ptr(), range.group.as_ptr());
            // SAFETY: as for a launch: three dimensions, arguments set; there is no list of what it waits for.
            let status = unsafe {
                (self.launch)(
                    buffer,
                    null_mut(),
                    null(),
                    kernel.get(),
                    3,
                    null(),
                    items,
                    group,
                    0,
                    null(),
                    null_mut(),
                    null_mut(),
                )
            };
            if status != 0 {
                return unsupported("clCommandNDRangeKernelKHR", status);
            }
        }
        // SAFETY: the buffer was made above.
        match unsafe { (self.finalize)(buffer) } {
            0 => Ok(Some(recording)),
            status => unsupported("clFinalizeCommandBufferKHR", status),
        }
    }
}

impl Recording {
    /// Enqueues the launches on the queue that they were recorded for.
    ///
    /// # Errors
    /// A lost device.
    pub fn enqueue(&self) -> Driven<()> {
        for part in &self.0 {
            let mut event = null_mut();
            // SAFETY: the buffer is final; no queue is the one that it was recorded for; it waits for no events.
            let status = unsafe { (part.extension.enqueue)(0, null_mut(), part.buffer, 0, null(), &raw mut event) };
            if status != 0 {
                return Err(failure("clEnqueueCommandBufferKHR", status));
            }
            // Asked for because PoCL needs room for it; released at once.
            drop(Event::new(event));
        }
        Ok(())
    }

    /// Commands that it is.
    pub fn enqueues(&self) -> usize {
        self.0.len()
    }
}

impl Drop for CommandBuffer {
    fn drop(&mut self) {
        // SAFETY: nothing else has the buffer.
        unsafe { (self.extension.release)(self.buffer) };
    }
}

/// No recording where the driver says that it has no such thing.
fn unsupported<T>(call: &str, status: i32) -> Driven<Option<T>> {
    match status {
        CL_INVALID_OPERATION | OTHER_QUEUE => Ok(None),
        status => Err(failure(call, status)),
    }
}

fn failure(call: &str, status: i32) -> Failure {
    Failure::Lost {
        what: format!("{call}: {}", ClError(status)),
    }
}
