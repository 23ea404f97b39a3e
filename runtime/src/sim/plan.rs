//! What the simulator knows of an artifact before it runs: checked runs with their timing, and the order in which the runs
//! of an entry start.

use super::belt::Belts;
use super::check::{Take, check_run, check_target, compute_type, takes};
use crate::error::{ExecError, Hazard, HazardKind};
use lockstep_isa::artifact::{Artifact, Entry};
use lockstep_isa::disasm::{disasm_run, queue_name};
use lockstep_isa::run::{AccIn, Queue, Run};
use lockstep_isa::topology::Peer;
use lockstep_isa::{DType, Opcode, Target};
use std::ops::Range;
use std::sync::Arc;

/// Latest start of a program: keeps every cycle far from overflow.
const MAX_START: u64 = 1 << 48;

/// A run with what its steps need again and again.
pub(super) struct Code {
    pub run: Run,
    pub position: i32,
    pub latency: u64,
    pub occupancy: u64,
    pub issues: u32,
    pub takes: [Option<Take>; 3],
    /// The type in which the VXM and SXM compute it.
    pub ty: DType,
    /// Planes of a matrix run.
    pub planes: u8,
    /// Queues that it holds, as dense indices of the chip.
    pub queues: Range<usize>,
}

/// The first event of a run.
pub(super) struct Start {
    /// The first cycle in which the run takes an operand or issues.
    pub cycle: u64,
    /// The cycle of its first issue.
    pub issue: u64,
    pub chip: u32,
    pub run: u32,
}

/// An artifact, checked.
pub(super) struct Plan {
    pub artifact: Arc<Artifact>,
    pub programs: Vec<Vec<Code>>,
    /// Per entry, the starts of all runs of all chips by cycle.
    pub starts: Vec<Vec<Start>>,
    /// Per entry, the values that outputs are taken from, with the output.
    pub outputs: Vec<Vec<(u32, u32)>>,
    /// Per hemisphere and plane, whether some run uses accumulator rows there.
    pub with_acc: [Vec<bool>; 2],
    /// Far ends, by chip and link.
    pub peers: Vec<Option<Peer>>,
    /// Number of queues of a chip.
    pub n_queues: usize,
}

impl Plan {
    /// Checks all programs and entries, and that chips of this size fit into `max_bytes`.
    pub fn new(artifact: Arc<Artifact>, max_bytes: u64) -> Result<Plan, ExecError> {
        let target = &artifact.target;
        check_target(target).map_err(|what| ExecError::artifact("target", what))?;
        let planes = target.mxm.planes_per_hemisphere as usize;
        let mut with_acc = [vec![false; planes], vec![false; planes]];
        let mut programs = Vec::with_capacity(artifact.programs.len());
        for (p, program) in artifact.programs.iter().enumerate() {
            let mut codes = Vec::with_capacity(program.runs.len());
            for (i, run) in program.runs.iter().enumerate() {
                check_run(target, run).map_err(|what| ExecError::artifact(format!("program {p} run r{i}"), what))?;
                if let (Opcode::Mul, Queue::MxmMul(hemi, plane)) = (run.op, run.queue)
                    && (run.out.is_none() || run.acc_in == AccIn::Row)
                {
                    with_acc[hemi as usize][plane as usize] = true;
                }
                codes.push(code(target, run));
            }
            programs.push(codes);
        }
        let rows = with_acc.iter().flatten().filter(|&&u| u).count() as u64
            * target.mxm.acc_rows as u64
            * target.word_bytes() as u64
            * 4;
        let per_chip = Belts::memory(target).saturating_add(rows);
        let needed = per_chip.saturating_mul(artifact.n_chips as u64);
        if needed > max_bytes {
            return Err(ExecError::Memory {
                needed,
                allowed: max_bytes,
            });
        }
        let mut starts = Vec::new();
        let mut outputs = Vec::new();
        for entry in &artifact.entries {
            starts.push(entry_starts(&artifact, entry, &programs)?);
            let mut values = Vec::new();
            for (o, t) in entry.outputs.iter().enumerate() {
                values.extend(t.nests.iter().map(|n| (n.value, o as u32)));
            }
            values.sort_unstable();
            values.dedup_by_key(|v| v.0);
            outputs.push(values);
        }
        let (n_chips, local) = (artifact.n_chips, target.c2c.local_links);
        let peers = (0..n_chips)
            .flat_map(|c| (0..target.n_links()).map(move |l| (c, l)))
            .map(|(c, l)| target.topology.peer(c, l, local, n_chips))
            .collect();
        let n_queues = queue_base(target, 6) + target.n_links() as usize;
        Ok(Plan {
            programs,
            starts,
            outputs,
            with_acc,
            peers,
            n_queues,
            artifact,
        })
    }

    /// The code of a run of a chip in an entry.
    pub fn code(&self, entry: usize, chip: u32, run: u32) -> &Code {
        let program = self.artifact.entries[entry].chips[chip as usize].program;
        &self.programs[program as usize][run as usize]
    }

    /// Names the place of a fault.
    pub fn hazard(&self, entry: usize, chip: u32, run: u32, cycle: u64, kind: HazardKind, what: String) -> Box<Hazard> {
        let e = &self.artifact.entries[entry];
        let code = self.code(entry, chip, run);
        let origin = e.chips[chip as usize].origins.get(run as usize);
        let source_node = match origin.and_then(|&o| e.origins.get(o as usize)) {
            Some(o) if o.nodes.is_empty() => format!(" of {}", o.op),
            Some(o) => format!(" of {} ({})", o.op, o.nodes.join(", ")),
            None => String::new(),
        };
        Box::new(Hazard {
            kind,
            cycle,
            queue: queue_name(&self.artifact.target, chip as u16, code.run.queue),
            instruction: disasm_run(&code.run),
            source_node,
            what,
        })
    }
}

fn code(target: &Target, run: &Run) -> Code {
    let planes = target.mxm_rate(run.dtype).map_or(1, |r| r.planes.max(1));
    let width = match run.op {
        Opcode::Mul | Opcode::LoadRow | Opcode::LoadCol => planes as usize,
        Opcode::Alu => run.alu.cost() as usize,
        _ => 1,
    };
    let per_hemi = target.mxm.planes_per_hemisphere as usize;
    let (kind, index) = match run.queue {
        Queue::Mem(place) => (0, place.dense(target.groups, target.banks)),
        Queue::MxmLoad(hemi, plane) => (1, hemi as usize * per_hemi + plane as usize),
        Queue::MxmMul(hemi, plane) => (2, hemi as usize * per_hemi + plane as usize),
        Queue::Alu(i) => (3, i as usize),
        Queue::Sxm(hemi) => (4, hemi as usize),
        Queue::Send(l) => (5, l as usize),
        Queue::Recv(l) => (6, l as usize),
    };
    let first = queue_base(target, kind) + index;
    Code {
        run: *run,
        position: target.queue_position(run.queue),
        latency: target.latency_of(run) as u64,
        occupancy: target.occupancy(run.op, run.dtype) as u64,
        issues: run.issues(),
        takes: takes(run),
        ty: compute_type(run),
        planes,
        queues: first..first + width,
    }
}

/// Dense index of the first queue of a kind: MEM, loads, products, ALUs, SXM, send, recv.
fn queue_base(target: &Target, kind: usize) -> usize {
    let planes = 2 * target.mxm.planes_per_hemisphere as usize;
    let links = target.n_links() as usize;
    let sizes = [
        target.n_places(),
        planes,
        planes,
        target.vxm.alus as usize,
        2,
        links,
        links,
    ];
    sizes[..kind].iter().sum()
}

fn entry_starts(artifact: &Artifact, entry: &Entry, programs: &[Vec<Code>]) -> Result<Vec<Start>, ExecError> {
    let at = |what: String| Err(ExecError::artifact(format!("entry {:?}", entry.name), what));
    if entry.chips.len() != artifact.n_chips as usize {
        return at(format!("{} chips of {}", entry.chips.len(), artifact.n_chips));
    }
    let mut starts = Vec::new();
    for (c, chip) in entry.chips.iter().enumerate() {
        let Some(codes) = programs.get(chip.program as usize) else {
            return at(format!("program {} of {}", chip.program, programs.len()));
        };
        if chip.start > MAX_START {
            return at(format!("chip c{c} starts at {} of {MAX_START} at most", chip.start));
        }
        for (r, code) in codes.iter().enumerate() {
            let issue = chip.start + code.run.cycle as u64;
            let delays = code.takes.iter().flatten().map(|t| t.operand.delay as u64);
            let Some(cycle) = issue.checked_sub(delays.max().unwrap_or(0)) else {
                return at(format!("chip c{c} run r{r} takes an operand before cycle 0"));
            };
            starts.push(Start {
                cycle,
                issue,
                chip: c as u32,
                run: r as u32,
            });
        }
    }
    starts.sort_by_key(|s| (s.cycle, s.chip, s.run));
    for t in entry.outputs.iter().chain(&entry.inputs) {
        if t.nests.iter().any(|n| n.value as usize >= entry.values.len()) {
            return at(format!("tensor {:?} lies in a value that does not exist", t.name));
        }
    }
    Ok(starts)
}
