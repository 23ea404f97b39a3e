//! A loaded artifact on a device.

use super::KernelStore;
use super::driver::{Contents, Device, Driven, Driver, Failure, Range3, Recorded};
use super::kernels::Kernels;
use super::stream::{Launches, Stream};
use super::work::Shape;
use crate::error::ExecError;
use crate::executor::{LoadOptions, Outputs, Session, StepTime};
use crate::host_io::HostIo;
use crate::host_tensor::TensorView;
use crate::memory::Memory;
use crate::plan::{self, Loaded};
use lockstep_isa::Artifact;
use lockstep_isa::artifact::HostTensor as Signature;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Bytes after the rows of a buffer: products load whole registers.
const SPARE_BYTES: u64 = 256;

/// A session on a device.
pub struct OpenClSession {
    driver: Box<dyn Driver>,
    /// Chip memory as the host has it: inputs are placed here and outputs taken from here.
    memory: Memory,
    host: HostIo,
    entries: Vec<EntryRun>,
    device_memory: usize,
    lost: Option<String>,
}

/// What a run of an entry does.
struct EntryRun {
    inputs: Vec<Range<usize>>,
    outputs: Vec<Range<usize>>,
    launches: Range<usize>,
    /// The launches as few commands, where they were recorded.
    recorded: Option<Recorded>,
    /// Chain and kind of each launch.
    what: Vec<(u32, &'static str)>,
}

/// The plan of an artifact and its steps as launches.
pub(super) fn link(artifact: &Artifact, device: &Device, options: &LoadOptions) -> Result<(Loaded, Stream), ExecError> {
    let loaded = plan::load(artifact, options.max_memory_bytes, true)?;
    let mut stream = Stream::new(Shape::of(device, artifact.target.word_bytes()));
    for plan in &loaded.plans {
        stream.entry(plan, loaded.pool.as_slice());
    }
    Ok((loaded, stream))
}

impl OpenClSession {
    /// Loads an artifact onto a device with its kernels.
    pub(super) fn load(
        artifact: Arc<Artifact>,
        kernels: &mut Kernels,
        store: Option<&dyn KernelStore>,
        options: &LoadOptions,
    ) -> Result<OpenClSession, ExecError> {
        let mut driver = kernels.another()?;
        let device = driver.device().clone();
        let (loaded, mut stream) = link(&artifact, &device, options)?;
        let Loaded { memory, pool, .. } = loaded;
        let pool = pool.as_slice();
        let host = HostIo::new(&artifact, &memory, options.max_memory_bytes)?;
        let scratch = stream.scratch as u64;
        let local = stream.local_bytes as u64;
        if local > device.local_bytes {
            return Err(too_large(
                &device.name,
                "the local memory of a step",
                local,
                device.local_bytes,
            ));
        }
        let Launches {
            parts,
            launches,
            entries,
        } = stream
            .launches(device.buffer_bytes)
            .map_err(|needed| too_large(&device.name, "the weights of a step", needed, device.buffer_bytes))?;

        let mut parameters: Vec<i64> = Vec::new();
        let widest = launches.iter().flat_map(|l| &l.blocks).map(|b| b.0.len()).max();
        // The first block is all zeros: a launch with it does nothing.
        parameters.resize(widest.unwrap_or(0).max(8), 0);
        let idle = parameters.len() as u64;
        parameters.push(0);
        let mut bases = Vec::with_capacity(launches.len());
        for l in &launches {
            let mut starts = Vec::with_capacity(l.blocks.len());
            for b in &l.blocks {
                starts.push(parameters.len() as i64);
                parameters.extend_from_slice(&b.0);
            }
            bases.push(parameters.len() as u64);
            parameters.extend(starts);
        }
        let parameter_bytes: Vec<u8> = parameters.iter().flat_map(|x| x.to_le_bytes()).collect();

        let weights: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let rows = memory.bytes().len() as u64;
        let needed = rows + scratch + pool.len() as u64 + weights + parameter_bytes.len() as u64 + 4 * SPARE_BYTES;
        if needed > device.memory_bytes {
            return Err(too_large(&device.name, "the artifact", needed, device.memory_bytes));
        }
        for (what, bytes) in [("chip memory", rows), ("scratch", scratch)] {
            if bytes + SPARE_BYTES > device.buffer_bytes {
                return Err(too_large(&device.name, what, bytes + SPARE_BYTES, device.buffer_bytes));
            }
        }
        let failed = |what: &str, f: Failure| failure(&device.name, what, device.memory_bytes, f);
        let mut buffer = |what: &str, contents: Contents<'_>| driver.buffer(contents).map_err(|f| failed(what, f));
        let device_memory = buffer("chip memory", Contents::Copy(memory.bytes(), SPARE_BYTES))?;
        let scratch = buffer("scratch", Contents::Zeros(scratch + SPARE_BYTES))?;
        let pool = buffer("constants", Contents::Copy(pool, SPARE_BYTES))?;
        let numbers = buffer("parameters", Contents::Copy(&parameter_bytes, SPARE_BYTES))?;
        let offset = artifact.weights_range.0 as usize;
        let mut weights = Vec::with_capacity(parts.len());
        for p in &parts {
            let range = offset + p.start..offset + p.end;
            weights.push(buffer("weights", Contents::Held(artifact.weights.clone(), range))?);
        }

        let (places, new) = kernels.places(&stream, store, &artifact)?;
        let lost = |f: Failure| failure(&device.name, "launches", device.memory_bytes, f);
        let buffers = |part: usize| {
            let weights = weights.get(part).copied().unwrap_or(pool);
            [device_memory, scratch, pool, weights, numbers]
        };
        let mut first = Vec::new();
        for (l, &base) in launches.iter().zip(&bases) {
            let range = range(l.groups, l.local, l.blocks.len());
            if let Some(k) = places.get(l.kernel) {
                let id = driver.launch(k.program, &k.name, &buffers(l.part), base, range);
                first.push(id.map_err(lost)?);
            }
        }
        let first = first.first().copied().unwrap_or(0);
        // Once for each kernel: what a driver still has to do for the first launch is done here.
        let mut shapes = BTreeSet::new();
        for l in &launches {
            if shapes.insert((l.kernel, l.local)) {
                let range = range([1, 1], l.local, 1);
                if let Some(k) = places.get(l.kernel) {
                    let id = driver.launch(k.program, &k.name, &buffers(0), idle, range);
                    let id = id.map_err(lost)?;
                    driver.run(id..id + 1).map_err(lost)?;
                }
            }
        }
        driver.finish().map_err(lost)?;
        if let (Some(new), Some(store)) = (new, store) {
            new.keep(driver.as_mut(), store);
        }

        let mut recorded = Vec::with_capacity(entries.len());
        for own in &entries {
            let launches = first + own.start..first + own.end;
            recorded.push(match kernels.record && !own.is_empty() {
                true => driver.record(launches).map_err(lost)?,
                false => None,
            });
        }
        let entries = artifact
            .entries
            .iter()
            .zip(&entries)
            .zip(recorded)
            .map(|((entry, own), recorded)| {
                let spans = |list: &[Signature]| {
                    let nests = list.iter().flat_map(|t| &t.nests);
                    let values = nests.filter_map(|n| entry.values.get(n.value as usize));
                    joined(values.filter_map(|v| memory.value_span(v)).collect())
                };
                let all = launches.get(own.clone()).unwrap_or(&[]);
                EntryRun {
                    inputs: spans(&entry.inputs),
                    outputs: spans(&entry.outputs),
                    launches: first + own.start..first + own.end,
                    recorded,
                    what: all.iter().map(|l| (l.chain, l.kind)).collect(),
                }
            });
        let entries = entries.collect();
        Ok(OpenClSession {
            driver,
            memory,
            host,
            entries,
            device_memory,
            lost: None,
        })
    }

    /// What a run of an entry enqueues besides its inputs and outputs.
    pub fn launches(&self, entry: usize) -> usize {
        let count = |e: &EntryRun| e.recorded.map_or(e.launches.len(), |r| r.enqueues);
        self.entries.get(entry).map_or(0, count)
    }

    fn execute(
        &mut self,
        entry: usize,
        inputs: &[TensorView<'_>],
        times: &mut Option<Vec<StepTime>>,
    ) -> Result<Outputs<'_>, ExecError> {
        self.host.check(entry, inputs)?;
        let name = &self.driver.device().name;
        let gone = |name: &str, what: &str| ExecError::DeviceLost {
            device: name.to_owned(),
            what: what.to_owned(),
        };
        if let Some(what) = &self.lost {
            return Err(gone(name, what));
        }
        self.host.place(entry, inputs, self.memory.bytes_mut());
        let done = self.entries.get(entry).map_or(Ok(()), |e| {
            replay(self.driver.as_mut(), &mut self.memory, self.device_memory, e, times)
        });
        if let Err(f) = done {
            let what = match f {
                Failure::Lost { what } => what,
                other => format!("{other:?}"),
            };
            let error = gone(&self.driver.device().name, &what);
            self.lost = Some(what);
            return Err(error);
        }
        let tensors = self.host.take(entry, self.memory.bytes());
        Ok(Outputs { tensors, cycles: None })
    }
}

fn replay(
    driver: &mut dyn Driver,
    memory: &mut Memory,
    buffer: usize,
    e: &EntryRun,
    times: &mut Option<Vec<StepTime>>,
) -> Driven<()> {
    for r in &e.inputs {
        driver.write(buffer, r.start, memory.bytes().get(r.clone()).unwrap_or(&[]))?;
    }
    match times {
        None => match e.recorded {
            Some(recorded) => driver.replay(recorded.number)?,
            None => driver.run(e.launches.clone())?,
        },
        Some(times) => {
            for (launch, &(chain, kind)) in e.launches.clone().zip(&e.what) {
                let start = Instant::now();
                driver.run(launch..launch + 1)?;
                driver.finish()?;
                times.push(StepTime {
                    chain: Some(chain),
                    kind,
                    nanoseconds: start.elapsed().as_nanos() as u64,
                });
            }
        }
    }
    for r in &e.outputs {
        if let Some(to) = memory.bytes_mut().get_mut(r.clone()) {
            driver.read(buffer, r.start, to)?;
        }
    }
    driver.finish()
}

impl Session for OpenClSession {
    fn run(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Outputs<'_>, ExecError> {
        self.execute(entry, inputs, &mut None)
    }

    fn profile(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Vec<StepTime>, ExecError> {
        let mut times = Some(Vec::new());
        self.execute(entry, inputs, &mut times)?;
        Ok(times.unwrap_or_default())
    }

    fn device(&self) -> Option<&str> {
        Some(&self.driver.device().name)
    }

    fn enqueues(&self, entry: usize) -> Option<usize> {
        Some(self.launches(entry))
    }

    fn reset_state(&mut self) {
        self.memory.reset_states();
        for r in self.memory.states() {
            let zeros = self.memory.bytes().get(r.clone()).unwrap_or(&[]);
            if let Err(f) = self.driver.write(self.device_memory, r.start, zeros) {
                self.lost = Some(format!("{f:?}"));
            }
        }
    }
}

fn too_large(device: &str, what: &str, needed: u64, available: u64) -> ExecError {
    ExecError::DeviceMemory {
        device: device.to_owned(),
        what: what.to_owned(),
        needed,
        available,
    }
}

pub(super) fn failure(device: &str, what: &str, available: u64, f: Failure) -> ExecError {
    match f {
        Failure::Memory { needed } => too_large(device, what, needed, available),
        Failure::Build { log } => ExecError::Kernel {
            device: device.to_owned(),
            chain: "all chains".to_owned(),
            log,
        },
        Failure::Lost { what } => ExecError::DeviceLost {
            device: device.to_owned(),
            what,
        },
    }
}

fn range([x, y]: [usize; 2], [i, j]: [usize; 2], blocks: usize) -> Range3 {
    Range3 {
        items: [x * i, y * j, blocks],
        group: [i, j, 1],
    }
}

/// Ranges in order, those that touch as one.
fn joined(mut all: Vec<Range<usize>>) -> Vec<Range<usize>> {
    all.sort_unstable_by_key(|r| (r.start, r.end));
    let mut out: Vec<Range<usize>> = Vec::new();
    for r in all {
        match out.last_mut() {
            Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}
