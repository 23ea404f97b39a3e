//! What the executor asks of a device, and how that can fail.
//!
//! [`Driver`] is the only way from the executor to OpenCL, so that tests can put a driver in its place which fails on purpose.

use lockstep_isa::artifact::SharedBytes;
use std::ops::Range;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name of the device.
    pub name: String,
    /// Name of its platform.
    pub platform: String,
    /// Version of its driver.
    pub driver: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Most bytes of one buffer.
    pub buffer_bytes: u64,
    /// Compute units.
    pub units: usize,
    /// Most work-items of a group.
    pub group_items: usize,
    /// Bytes of local memory of a group.
    pub local_bytes: u64,
    /// Floats that it prefers in a vector.
    pub width: usize,
    /// Whether it is a processor, which has its memory in common with the host.
    pub processor: bool,
    /// Whether it records commands: it has `cl_khr_command_buffer`, for queues like ours.
    pub records: bool,
    /// Why it cannot run artifacts; `None` where it can.
    pub refusal: Option<String>,
}

/// What a buffer holds at first.
pub enum Contents<'a> {
    /// Zeros.
    Zeros(u64),
    /// A copy of these bytes, and so many zeros after them.
    Copy(&'a [u8], u64),
    /// This range of bytes, which are never written; a device that shares the host's memory uses them where they are.
    Held(SharedBytes, Range<usize>),
}

/// Why a driver did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No room for a buffer of so many bytes.
    Memory {
        /// Bytes asked for.
        needed: u64,
    },
    /// A program that does not build, with the compiler's log.
    Build {
        /// The log.
        log: String,
    },
    /// The device does not answer as it should.
    Lost {
        /// The call and its error.
        what: String,
    },
}

/// Result of a driver's call.
pub type Driven<T> = Result<T, Failure>;

/// A launch, fixed when the artifact is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range3 {
    /// Work-items in each dimension.
    pub items: [usize; 3],
    /// Work-items of a group.
    pub group: [usize; 3],
}

/// Recorded launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Number of the recording, counted from 0.
    pub number: usize,
    /// Commands that replaying it enqueues.
    pub enqueues: usize,
}

/// A device with its buffers, programs and launches. Those are numbered from 0 in the order in which they were made; programs over
/// all drivers that came from one another.
pub trait Driver {
    /// The device.
    fn device(&self) -> &Device;

    /// A driver of the same device that has the same programs, but no buffers and no launches.
    ///
    /// # Errors
    /// A lost device.
    fn another(&self) -> Driven<Box<dyn Driver>>;

    /// Makes a buffer.
    ///
    /// # Errors
    /// Too little memory, a lost device.
    fn buffer(&mut self, contents: Contents<'_>) -> Driven<usize>;

    /// Builds a program from source, or from what [`Driver::binary`] gave, and gives its number.
    ///
    /// # Errors
    /// What does not build; a lost device.
    fn program(&mut self, source: &str, binary: Option<&[u8]>) -> Driven<usize>;

    /// The binary of a program, with all kernels that were launched; `None` where the driver has none.
    fn binary(&mut self, program: usize) -> Option<Vec<u8>>;

    /// Prepares a launch of a kernel with these buffers and, after them, a number.
    ///
    /// # Errors
    /// No such kernel, a lost device.
    fn launch(&mut self, program: usize, kernel: &str, buffers: &[usize], number: u64, range: Range3) -> Driven<usize>;

    /// Runs launches one after the other.
    ///
    /// # Errors
    /// A lost device.
    fn run(&mut self, launches: Range<usize>) -> Driven<()>;

    /// Records launches for [`Driver::replay`]; `None` where the device has no such thing.
    ///
    /// # Errors
    /// A lost device.
    fn record(&mut self, launches: Range<usize>) -> Driven<Option<Recorded>>;

    /// Runs recorded launches.
    ///
    /// # Errors
    /// A lost device.
    fn replay(&mut self, recording: usize) -> Driven<()>;

    /// Writes bytes of a buffer before what is run next.
    ///
    /// # Errors
    /// A lost device.
    fn write(&mut self, buffer: usize, at: usize, bytes: &[u8]) -> Driven<()>;

    /// Reads bytes of a buffer after all that was asked before.
    ///
    /// # Errors
    /// A lost device.
    fn read(&mut self, buffer: usize, at: usize, to: &mut [u8]) -> Driven<()>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// A lost device.
    fn finish(&mut self) -> Driven<()>;
}
