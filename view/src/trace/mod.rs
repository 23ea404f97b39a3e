//! A schedule as a trace for Perfetto or for chrome://tracing.
//!
//! A chip is a process, a queue a track, a run a slice from its first issue to the end of its last one's occupancy; `send` and
//! `recv` are joined by flows. Counters show the SRAM in use and the utilisation of every kind of unit, chip by chip.
//!
//! Times are the cycles of the entry by the target's clock. Perfetto counts whole nanoseconds, so a cycle's time is rounded down
//! (and a slice of a clock above 1 GHz may seem empty); the exact cycles are arguments of every slice.

mod chrome;
mod counters;
mod perfetto;
mod proto;

use crate::flow;
use lockstep_isa::disasm::{self, Line};
use lockstep_isa::op::UnitKind;
use lockstep_isa::{Artifact, Opcode, Queue, Target};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Kinds of units, as reports call them.
pub const UNITS: [&str; 6] = ["mem", "mxm_load", "mxm_mul", "vxm", "sxm", "c2c"];

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Protobuf track events.
    Perfetto,
    /// Chrome's trace events, JSON.
    Chrome,
}

/// What a trace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tracks of queues.
    pub tracks: u64,
    /// Slices: runs.
    pub slices: u64,
    /// Flows: receives.
    pub flows: u64,
    /// Samples of counters.
    pub samples: u64,
}

/// A run as the writers see it.
struct Slice<'a> {
    /// Mnemonic and chain.
    name: String,
    /// Kind of unit.
    unit: &'static str,
    /// First issue, cycles from the start of the entry.
    start: u64,
    /// The cycle in which its queue is free again.
    end: u64,
    /// Flows that leave here.
    departs: &'a [u64],
    /// Flow that arrives here.
    arrives: Option<u64>,
    /// What else there is to say.
    args: Args<'a>,
}

/// Arguments of a slice.
struct Args<'a> {
    instruction: String,
    /// Issues of the run.
    issues: u64,
    /// First word that a memory run touches, and the value that it claims.
    memory: Option<(String, u32)>,
    chain: u32,
    op: &'a str,
    nodes: &'a [String],
}

/// What a format has to offer. Tracks and counters are numbered from 1 in the order of their declaration; every slice and sample
/// belongs to the one declared last.
trait Sink {
    fn chip(&mut self, chip: u16, name: &str, labels: &[String]) -> io::Result<()>;
    fn track(&mut self, name: &str) -> io::Result<()>;
    fn slice(&mut self, slice: &Slice<'_>) -> io::Result<()>;
    fn counter(&mut self, name: &str, unit: &str) -> io::Result<()>;
    fn sample(&mut self, cycle: u64, value: f64) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes an entry of an artifact as a trace; nothing but the frame where there is no such entry.
///
/// # Errors
/// What the writer reports.
pub fn write(artifact: &Artifact, entry: usize, format: Format, out: &mut dyn Write) -> io::Result<Summary> {
    let clock = Clock(artifact.target.clock_hz.max(1));
    match format {
        Format::Perfetto => drive(artifact, entry, &mut perfetto::Writer::new(out, clock)),
        Format::Chrome => drive(artifact, entry, &mut chrome::Writer::new(out, clock)?),
    }
}

/// Cycles to time.
#[derive(Clone, Copy)]
struct Clock(u64);

impl Clock {
    /// Nanoseconds, rounded down.
    fn nanoseconds(self, cycle: u64) -> u64 {
        let ns = u128::from(cycle) * 1_000_000_000 / u128::from(self.0);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Microseconds.
    fn microseconds(self, cycle: u64) -> f64 {
        cycle as f64 * 1e6 / self.0 as f64
    }
}

fn drive(artifact: &Artifact, entry: usize, sink: &mut dyn Sink) -> io::Result<Summary> {
    let mut sum = Summary::default();
    let Some(e) = artifact.entries.get(entry) else {
        sink.finish()?;
        return Ok(sum);
    };
    let target = &artifact.target;
    let flows = Flows::of(artifact, entry);
    let mut lines = disasm::lines(artifact, entry).peekable();
    for chip in 0..artifact.n_chips {
        let labels = [
            format!("{} on {}", artifact.name, target.name),
            format!("entry {}, {} cycles", e.name, e.makespan),
        ];
        sink.chip(chip, &format!("c{chip}"), &labels)?;
        let mut use_of = counters::Utilisation::new(e.makespan);
        let mut queue = None;
        while let Some(line) = lines.next_if(|l| l.chip == chip) {
            if queue != Some(line.run.queue) {
                queue = Some(line.run.queue);
                sink.track(&track_name(target, chip, line.run.queue))?;
                sum.tracks += 1;
            }
            let slice = slice(artifact, entry, &line, &flows);
            sum.slices += 1;
            sum.flows += u64::from(slice.arrives.is_some());
            sink.slice(&slice)?;
            use_of.add(target, &line);
        }
        sink.counter("SRAM in use", "bytes")?;
        for (cycle, bytes) in counters::sram(artifact, entry, chip) {
            sink.sample(cycle, bytes as f64)?;
            sum.samples += 1;
        }
        for (kind, unit) in UNITS.iter().enumerate() {
            sink.counter(&format!("{unit} utilisation"), "%")?;
            for (cycle, share) in use_of.samples(kind, units(target)[kind]) {
                sink.sample(cycle, share)?;
                sum.samples += 1;
            }
        }
    }
    sink.finish()?;
    Ok(sum)
}

/// Units of each kind on a chip, as the report counts them: matrix units of f32.
fn units(target: &Target) -> [u64; 6] {
    let mxm = 2 * u64::from(target.mxm_units(lockstep_isa::DType::F32).max(1));
    [
        target.n_places() as u64,
        mxm,
        mxm,
        u64::from(target.vxm.alus),
        2,
        u64::from(target.n_links()),
    ]
}

/// Index into [`UNITS`]; receives belong to the links but keep none of them busy.
pub(crate) fn unit(op: Opcode) -> usize {
    match op.unit() {
        UnitKind::Mem => 0,
        UnitKind::MxmLoad => 1,
        UnitKind::MxmMul => 2,
        UnitKind::Vxm => 3,
        UnitKind::Sxm => 4,
        UnitKind::C2cSend | UnitKind::C2cRecv => 5,
    }
}

/// A queue's name that no other queue has.
fn track_name(target: &Target, chip: u16, queue: Queue) -> String {
    let name = disasm::queue_name(target, chip, queue);
    match queue {
        Queue::MxmLoad(..) => name + " load",
        Queue::MxmMul(..) => name + " mul",
        Queue::Send(_) => name + " send",
        Queue::Recv(_) => name + " recv",
        Queue::Mem(_) | Queue::Alu(_) | Queue::Sxm(_) => name,
    }
}

fn slice<'a>(artifact: &'a Artifact, entry: usize, line: &Line<'a>, flows: &'a Flows) -> Slice<'a> {
    let run = line.run;
    let e = artifact.entries.get(entry);
    let chip = e.and_then(|e| e.chips.get(line.chip as usize));
    let claims = chip.and_then(|c| c.claims.get(line.index as usize));
    let origin = chip
        .and_then(|c| c.origins.get(line.index as usize))
        .and_then(|&o| e?.origins.get(o as usize));
    let instruction = disasm::disasm_run(run);
    let mnemonic = instruction.split(' ').next().unwrap_or_default();
    let last = u64::from(run.last_offset()) + u64::from(artifact.target.occupancy(run.op, run.dtype));
    let here = (line.chip, line.index);
    Slice {
        name: format!("{mnemonic} h{}", line.chain),
        unit: UNITS[unit(run.op)],
        start: line.cycle,
        end: line.cycle.saturating_add(last),
        departs: flows.departs.get(&here).map_or(&[], Vec::as_slice),
        arrives: flows.arrives.get(&here).copied(),
        args: Args {
            issues: u64::from(run.issues()),
            memory: claims
                .and_then(|c| c.mem)
                .map(|m| (format!("{:#06x}", run.addr.base), m.value)),
            instruction,
            chain: line.chain,
            op: line.origin,
            nodes: origin.map_or(&[], |o| &o.nodes),
        },
    }
}

/// Which run receives what another one sends; flows are numbered from 1 in the order of the receives.
#[derive(Default)]
struct Flows {
    departs: BTreeMap<(u16, u32), Vec<u64>>,
    arrives: BTreeMap<(u16, u32), u64>,
}

impl Flows {
    fn of(artifact: &Artifact, entry: usize) -> Flows {
        let mut flows = Flows::default();
        let Some(e) = artifact.entries.get(entry) else {
            return flows;
        };
        for line in disasm::lines(artifact, entry) {
            if let Some(from) = flow::sender(artifact, e, line.chip, line.index, line.run) {
                let id = flows.arrives.len() as u64 + 1;
                flows.arrives.insert((line.chip, line.index), id);
                flows.departs.entry(from).or_default().push(id);
            }
        }
        flows
    }
}
