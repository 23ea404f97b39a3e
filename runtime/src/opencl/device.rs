//! The driver of a real device, on the `OpenCL` library that the host has. It is looked for when the first device is asked for.
//!
//! Besides [`super::commands`] and the cpu executor's kernels the only unsafe code of this crate.

#![allow(unsafe_code)]

use super::commands::{Extension, Recording};
use super::driver::{Contents, Device, Driven, Driver, Failure, Range3, Recorded};
use lockstep_isa::artifact::SharedBytes;
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, Device as Raw};
use opencl3::error_codes::{
    CL_INVALID_BUFFER_SIZE, CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY, CL_OUT_OF_RESOURCES, ClError,
    DLOPEN_RUNTIME_LOAD_FAILED,
};
use opencl3::kernel::Kernel;
use opencl3::memory::{
    Buffer, CL_MEM_COPY_HOST_PTR, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE, CL_MEM_USE_HOST_PTR, ClMem, cl_mem_flags,
};
use opencl3::platform::get_platforms;
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, cl_device_id};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// `CL_PLATFORM_NOT_FOUND_KHR`: a library without a driver.
const NO_PLATFORM: i32 = -1001;
/// Bits of `CL_DEVICE_SINGLE_FP_CONFIG` that bits equal to those of other executors need.
const FLOAT_RULES: [(u64, &str); 4] = [
    (1 << 0, "denormals"),
    (1 << 1, "infinities and NaN"),
    (1 << 2, "rounding to nearest"),
    (1 << 7, "correctly rounded division"),
];
/// How programs are built: nothing that changes a rounding.
const OPTIONS: &str = "-cl-std=CL1.2 -cl-fp32-correctly-rounded-divide-sqrt -w";

/// All devices of all platforms, in the order of the library.
///
/// # Errors
/// No library or no driver, in words.
pub fn devices() -> Result<Vec<Device>, String> {
    Ok(found()?.into_iter().map(|(_, device)| device).collect())
}

/// Held while devices are looked for: drivers set themselves up when they are first asked for any, and PoCL 3.1 has none, or fails,
/// where several threads ask at that moment.
static LOOKING: Mutex<()> = Mutex::new(());

fn found() -> Result<Vec<(cl_device_id, Device)>, String> {
    let _looking = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
    let platforms = match get_platforms() {
        Ok(list) => list,
        Err(ClError(DLOPEN_RUNTIME_LOAD_FAILED)) => return Err("no OpenCL library is installed".to_owned()),
        Err(ClError(NO_PLATFORM)) => return Err("no OpenCL driver is installed".to_owned()),
        Err(e) => return Err(format!("the OpenCL library fails: {e}")),
    };
    if platforms.is_empty() {
        return Err("no OpenCL driver is installed".to_owned());
    }
    let mut all = Vec::new();
    for platform in &platforms {
        let name = platform.name().unwrap_or_default();
        for id in platform.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default() {
            all.push((id, describe(&Raw::new(id), &name)));
        }
    }
    Ok(all)
}

fn describe(raw: &Raw, platform: &str) -> Device {
    let trimmed = |s: opencl3::Result<String>| s.unwrap_or_default().trim_end_matches('\0').trim().to_owned();
    let mut refusals: Vec<String> = Vec::new();
    if !raw.available().unwrap_or(false) {
        refusals.push("it is not available".to_owned());
    }
    if !raw.compiler_available().unwrap_or(false) {
        refusals.push("its driver has no compiler".to_owned());
    }
    if !raw.endian_little().unwrap_or(false) {
        refusals.push("it is big-endian".to_owned());
    }
    let processor = raw.dev_type().is_ok_and(|t| t & CL_DEVICE_TYPE_CPU != 0);
    let rules = raw.single_fp_config().unwrap_or(0);
    let missing: Vec<&str> = FLOAT_RULES
        .iter()
        .filter(|(bit, _)| rules & bit == 0)
        .map(|(_, what)| *what)
        .collect();
    if !missing.is_empty() {
        refusals.push(format!("its f32 lacks {}", missing.join(", ")));
    }
    Device {
        name: trimmed(raw.name()),
        platform: platform.trim_end_matches('\0').trim().to_owned(),
        driver: trimmed(raw.driver_version()),
        memory_bytes: raw.global_mem_size().unwrap_or(0),
        buffer_bytes: raw.max_mem_alloc_size().unwrap_or(0),
        units: raw.max_compute_units().unwrap_or(1).max(1) as usize,
        group_items: raw.max_work_group_size().unwrap_or(1).max(1),
        local_bytes: raw.local_mem_size().unwrap_or(0),
        width: raw.native_vector_width_float().unwrap_or(4).max(1) as usize,
        processor,
        records: Extension::of(raw).is_some(),
        refusal: (!refusals.is_empty()).then(|| refusals.join("; ")),
    }
}

/// An opened device.
pub struct Open {
    device: Device,
    // Dropped in this order: what a queue still uses comes after it.
    recordings: Vec<Recording>,
    queue: CommandQueue,
    launches: Vec<(Kernel, Range3)>,
    programs: Rc<RefCell<Vec<Program>>>,
    buffers: Vec<Buffer<u8>>,
    /// What buffers lie over.
    held: Vec<SharedBytes>,
    context: Rc<Context>,
    id: cl_device_id,
}

/// Opens device `n`, or the first that can be used.
///
/// # Errors
/// No library, no driver, no such device, one that cannot be used; in words.
pub fn open(n: Option<usize>) -> Result<Open, String> {
    let all = found()?;
    let count = all.len();
    let one = match n {
        Some(n) => all.into_iter().nth(n),
        None => {
            let first = all.iter().position(|(_, d)| d.refusal.is_none()).unwrap_or(0);
            all.into_iter().nth(first)
        }
    };
    let Some((id, device)) = one else {
        return Err(match n {
            Some(n) if count > 0 => format!("device {n} does not exist; devices are 0 to {}", count - 1),
            _ => "no driver has a device".to_owned(),
        });
    };
    if let Some(why) = &device.refusal {
        return Err(format!("device {:?} cannot be used: {why}", device.name));
    }
    let failed = |e: ClError| format!("device {:?} cannot be opened: {e}", device.name);
    let context = Context::from_device(&Raw::new(id)).map_err(failed)?;
    let context = Rc::new(context);
    Open::new(device.clone(), id, context, Rc::default()).map_err(failed)
}

fn lost(call: &'static str) -> impl FnOnce(ClError) -> Failure {
    move |e| Failure::Lost {
        what: format!("{call}: {e}"),
    }
}

impl Open {
    fn new(
        device: Device,
        id: cl_device_id,
        context: Rc<Context>,
        programs: Rc<RefCell<Vec<Program>>>,
    ) -> opencl3::Result<Open> {
        // SAFETY: the device belongs to the context, and no property is one that the device may lack.
        #[allow(deprecated)]
        let queue = unsafe { CommandQueue::create(&context, id, 0) }?;
        Ok(Open {
            device,
            recordings: Vec::new(),
            queue,
            launches: Vec::new(),
            programs,
            buffers: Vec::new(),
            held: Vec::new(),
            context,
            id,
        })
    }

    fn create(&mut self, flags: cl_mem_flags, bytes: usize, from: *const u8) -> Driven<usize> {
        // SAFETY: where `from` is not null, the caller has `bytes` readable bytes there, which live as long as this device where
        // the flags say that they are used in place.
        let made = unsafe { Buffer::<u8>::create(&self.context, flags, bytes, from.cast_mut().cast()) };
        let buffer = made.map_err(|e| match e.0 {
            CL_MEM_OBJECT_ALLOCATION_FAILURE | CL_OUT_OF_RESOURCES | CL_OUT_OF_HOST_MEMORY | CL_INVALID_BUFFER_SIZE => {
                Failure::Memory { needed: bytes as u64 }
            }
            _ => lost("clCreateBuffer")(e),
        })?;
        self.buffers.push(buffer);
        Ok(self.buffers.len() - 1)
    }

    fn buffer_of(&mut self, i: usize) -> Driven<&mut Buffer<u8>> {
        let what = format!("buffer {i} does not exist");
        self.buffers.get_mut(i).ok_or(Failure::Lost { what })
    }
}

impl Driver for Open {
    fn device(&self) -> &Device {
        &self.device
    }

    fn another(&self) -> Driven<Box<dyn Driver>> {
        let (context, programs) = (Rc::clone(&self.context), Rc::clone(&self.programs));
        let made = Open::new(self.device.clone(), self.id, context, programs);
        Ok(Box::new(made.map_err(lost("clCreateCommandQueue"))?))
    }

    fn buffer(&mut self, contents: Contents<'_>) -> Driven<usize> {
        let size = |n: u64| usize::try_from(n).map_err(|_| Failure::Memory { needed: n });
        match contents {
            Contents::Zeros(n) => {
                let n = size(n.max(64))?;
                let buffer = self.create(CL_MEM_READ_WRITE, n, std::ptr::null())?;
                self.fill(buffer, 0, n)?;
                Ok(buffer)
            }
            Contents::Copy(bytes, after) => {
                let n = size((bytes.len() as u64 + after).max(64))?;
                let buffer = self.create(CL_MEM_READ_WRITE, n, std::ptr::null())?;
                if !bytes.is_empty() {
                    self.write(buffer, 0, bytes)?;
                }
                if n > bytes.len() {
                    self.fill(buffer, bytes.len(), n - bytes.len())?;
                }
                self.finish()?;
                Ok(buffer)
            }
            Contents::Held(all, range) => {
                let bytes = (*all).as_ref().get(range).unwrap_or(&[]);
                if bytes.is_empty() {
                    return self.buffer(Contents::Zeros(64));
                }
                let (n, from) = (bytes.len(), bytes.as_ptr());
                let flags = match self.device.processor {
                    true => CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR,
                    false => CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR,
                };
                let buffer = self.create(flags, n, from)?;
                self.held.push(all);
                Ok(buffer)
            }
        }
    }

    fn program(&mut self, source: &str, binary: Option<&[u8]>) -> Driven<usize> {
        let made = match binary {
            // SAFETY: the device belongs to the context.
            Some(bytes) => unsafe { Program::create_from_binary(&self.context, &[self.id], &[bytes]) },
            None => Program::create_from_source(&self.context, source),
        };
        let mut program = made.map_err(|e| Failure::Build { log: e.to_string() })?;
        if let Err(e) = program.build(&[self.id], OPTIONS) {
            let log = program.get_build_log(self.id).unwrap_or_default();
            return Err(Failure::Build {
                log: format!("{e}\n{}", log.trim_end_matches('\0').trim()),
            });
        }
        let mut programs = self.programs.borrow_mut();
        programs.push(program);
        Ok(programs.len() - 1)
    }

    fn binary(&mut self, program: usize) -> Option<Vec<u8>> {
        let mut all = self.programs.borrow().get(program)?.get_binaries().ok()?;
        all.pop().filter(|b| !b.is_empty())
    }

    fn launch(&mut self, program: usize, kernel: &str, buffers: &[usize], number: u64, range: Range3) -> Driven<usize> {
        let made = match self.programs.borrow().get(program) {
            Some(p) => Kernel::create(p, kernel).map_err(lost("clCreateKernel"))?,
            None => {
                let what = format!("program {program} does not exist");
                return Err(Failure::Lost { what });
            }
        };
        for (i, &b) in buffers.iter().enumerate() {
            let buffer = self.buffer_of(b)?.get();
            // SAFETY: the kernels of this executor take buffers first.
            unsafe { made.set_arg(i as u32, &buffer) }.map_err(lost("clSetKernelArg"))?;
        }
        // SAFETY: after the buffers they take one 64-bit number.
        unsafe { made.set_arg(buffers.len() as u32, &number) }.map_err(lost("clSetKernelArg"))?;
        self.launches.push((made, range));
        Ok(self.launches.len() - 1)
    }

    fn run(&mut self, launches: Range<usize>) -> Driven<()> {
        for (kernel, range) in self.launches.get(launches).unwrap_or(&[]) {
            let (items, group) = (range.items.as_ptr(), range.group.as_ptr());
            // SAFETY: both have three dimensions; the kernel's arguments are set, and its parameters name bytes inside them.
            let event = unsafe {
                self.queue
                    .enqueue_nd_range_kernel(kernel.get(), 3, std::ptr::null(), items, group, &[])
            };
            event.map_err(lost("clEnqueueNDRangeKernel"))?;
        }
        Ok(())
    }

    fn record(&mut self, launches: Range<usize>) -> Driven<Option<Recorded>> {
        let Some(extension) = Extension::of(&Raw::new(self.id)) else {
            return Ok(None);
        };
        let launches = self.launches.get(launches).unwrap_or(&[]);
        let made = extension.record(self.queue.get(), launches)?;
        Ok(made.map(|recording| {
            let (number, enqueues) = (self.recordings.len(), recording.enqueues());
            self.recordings.push(recording);
            Recorded { number, enqueues }
        }))
    }

    fn replay(&mut self, recording: usize) -> Driven<()> {
        let what = || Failure::Lost {
            what: format!("recording {recording} does not exist"),
        };
        self.recordings.get(recording).ok_or_else(what)?.enqueue()
    }

    fn write(&mut self, buffer: usize, at: usize, bytes: &[u8]) -> Driven<()> {
        let what = || Failure::Lost {
            what: format!("buffer {buffer} does not exist"),
        };
        let b = self.buffers.get_mut(buffer).ok_or_else(what)?;
        // SAFETY: the call returns when the bytes have been taken.
        let event = unsafe { self.queue.enqueue_write_buffer(b, CL_BLOCKING, at, bytes, &[]) };
        event.map(|_| ()).map_err(lost("clEnqueueWriteBuffer"))
    }

    fn read(&mut self, buffer: usize, at: usize, to: &mut [u8]) -> Driven<()> {
        let what = || Failure::Lost {
            what: format!("buffer {buffer} does not exist"),
        };
        let b = self.buffers.get(buffer).ok_or_else(what)?;
        // SAFETY: the call returns when the bytes are there.
        let event = unsafe { self.queue.enqueue_read_buffer(b, CL_BLOCKING, at, to, &[]) };
        event.map(|_| ()).map_err(lost("clEnqueueReadBuffer"))
    }

    fn finish(&mut self) -> Driven<()> {
        self.queue.finish().map_err(lost("clFinish"))
    }
}

impl Open {
    /// Fills bytes of a buffer with zeros.
    fn fill(&mut self, buffer: usize, at: usize, n: usize) -> Driven<()> {
        let what = || Failure::Lost {
            what: format!("buffer {buffer} does not exist"),
        };
        let b = self.buffers.get_mut(buffer).ok_or_else(what)?;
        // SAFETY: a pattern of one byte fits any range.
        let event = unsafe { self.queue.enqueue_fill_buffer(b, &[0u8], at, n, &[]) };
        event.map_err(|e| match e.0 {
            CL_MEM_OBJECT_ALLOCATION_FAILURE | CL_OUT_OF_RESOURCES | CL_OUT_OF_HOST_MEMORY => {
                Failure::Memory { needed: n as u64 }
            }
            _ => lost("clEnqueueFillBuffer")(e),
        })?;
        self.queue.finish().map_err(lost("clFinish"))
    }
}
