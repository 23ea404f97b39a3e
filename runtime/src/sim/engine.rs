//! The event loop: issues of all runs of all chips in the order of cycles.
//!
//! # Order inside a cycle
//! Results forwarded in this cycle land first; then every operand is taken and every instruction issues, products before
//! tile loads; last, results are put onto belts. So a read sees a belt slot before a unit replaces it, an ALU sees a
//! forward in the cycle in which it is ready, and a load may begin in the cycle of the swap that frees the shadow tile.

use super::belt::{Belts, Seen};
use super::check::{Take, result_words};
use super::mxm::{Columns, Hemisphere};
use super::plan::{Code, Plan};
use super::sram::Sram;
use super::vector::{Fault, Pool, Step, fault, live_words};
use crate::error::{ExecError, Hazard, HazardKind};
use crate::memory::Memory;
use lockstep_isa::Opcode;
use lockstep_isa::run::{Operand, Queue, Src};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Phases of a cycle, in order.
const LAND: u128 = 0;
const ISSUE: u128 = 1;
const LOAD: u128 = 2;
const PUT: u128 = 3;

/// Marks an issue among the events of a run; 0..3 take an operand early.
const WHOLE: u8 = 3;

fn event(cycle: u64, phase: u128, which: u8, id: u32) -> Reverse<u128> {
    Reverse((cycle as u128) << 64 | phase << 40 | (which as u128) << 32 | id as u128)
}

/// What an ALU forwarded last.
#[derive(Clone, Copy)]
pub(super) struct Forward {
    cycle: u64,
    vector: u32,
    held: bool,
}

/// A word on its way over a link.
pub(super) struct Arrival {
    pub cycle: u64,
    pub vector: u32,
}

/// The units of one chip.
pub(super) struct Chip {
    pub belts: Belts,
    pub hemispheres: [Hemisphere; 2],
    forwards: Vec<Forward>,
    /// First cycle in which each queue is free.
    free_at: Vec<u64>,
    /// Words that arrive on each link.
    pub arrivals: Vec<VecDeque<Arrival>>,
}

/// A run between its first event and its last issue.
#[derive(Default)]
pub(super) struct Active {
    pub chip: u32,
    pub run: u32,
    issue: u64,
    /// Issues done.
    pub n: u32,
    /// Operands taken early.
    taken: [u32; 3],
    held: [VecDeque<u32>; 3],
    /// Accumulator of a fold, inputs of a transpose.
    pub lanes: Vec<u32>,
}

/// One issue of a run.
pub(super) struct Issue<'a> {
    pub plan: &'a Plan,
    pub code: &'a Code,
    pub id: u32,
    pub chip: usize,
    pub cycle: u64,
    /// Dimension indices.
    pub at: [u32; 3],
    pub n: u32,
}

/// The machine: all chips, and everything that a run needs.
pub(super) struct Engine {
    pub sram: Sram,
    pub chips: Vec<Chip>,
    pub pool: Pool,
    pub active: Vec<Active>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<u128>>,
    /// Buffers of tile blocks.
    pub spare: Vec<Vec<u32>>,
    /// Widened operands.
    pub operands: [Vec<u32>; 3],
    pub result: Vec<u32>,
    pub columns: Columns,
    end: u64,
    pub lanes: usize,
}

impl Engine {
    /// Allocates the chips of a plan.
    pub fn new(plan: &Plan, memory: Memory) -> Result<Engine, ExecError> {
        let target = &plan.artifact.target;
        let lanes = target.word_bytes();
        let mut chips = Vec::with_capacity(plan.artifact.n_chips as usize);
        for _ in 0..plan.artifact.n_chips {
            let Some(belts) = Belts::new(target) else {
                return Err(ExecError::Memory {
                    needed: Belts::memory(target),
                    allowed: 0,
                });
            };
            let [east, west] = &plan.with_acc;
            chips.push(Chip {
                belts,
                hemispheres: [Hemisphere::new(target, east), Hemisphere::new(target, west)],
                forwards: vec![
                    Forward {
                        cycle: 0,
                        vector: 0,
                        held: false
                    };
                    target.vxm.alus as usize
                ],
                free_at: vec![0; plan.n_queues],
                arrivals: (0..target.n_links()).map(|_| VecDeque::new()).collect(),
            });
        }
        let row = || vec![0u32; lanes];
        Ok(Engine {
            sram: Sram::new(memory),
            chips,
            pool: Pool::new(lanes),
            active: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            spare: Vec::new(),
            operands: [row(), row(), row()],
            result: row(),
            columns: Columns::new(lanes),
            end: 0,
            lanes,
        })
    }

    fn reset(&mut self) {
        self.pool.clear();
        self.events.clear();
        self.free.clear();
        self.free.extend((0..self.active.len() as u32).rev());
        for a in &mut self.active {
            a.held.iter_mut().for_each(VecDeque::clear);
        }
        for chip in &mut self.chips {
            chip.belts.clear();
            chip.free_at.fill(0);
            chip.forwards.iter_mut().for_each(|f| f.held = false);
            chip.arrivals.iter_mut().for_each(VecDeque::clear);
            for h in &mut chip.hemispheres {
                h.clear(&mut self.spare);
            }
        }
        self.end = 0;
    }

    /// Runs an entry whose inputs are placed; gives the cycles that it took.
    pub fn run(&mut self, plan: &Plan, entry: usize) -> Result<u64, Box<Hazard>> {
        self.reset();
        self.sram.start(&plan.artifact.entries[entry].values);
        let mut starts = plan.starts[entry].iter().peekable();
        loop {
            while let Some(s) = starts.peek() {
                let due = |e: &Reverse<u128>| s.cycle <= (e.0 >> 64) as u64;
                if !self.events.peek().is_none_or(due) {
                    break;
                }
                let code = plan.code(entry, s.chip, s.run);
                self.begin(code, s.chip, s.run, s.issue);
                starts.next();
            }
            let Some(Reverse(key)) = self.events.pop() else {
                break;
            };
            let (cycle, id) = ((key >> 64) as u64, key as u32);
            let phase = key >> 40 & 0xff;
            let (chip, run, step) = if phase == LAND || phase == PUT {
                let v = self.pool.get(id);
                let (chip, run) = (v.chip, v.run);
                let code = plan.code(entry, chip, run);
                (chip, run, self.land(code, phase == PUT, chip, id, cycle))
            } else {
                let a = &self.active[id as usize];
                let (chip, run, n) = (a.chip, a.run, a.n);
                let code = plan.code(entry, chip, run);
                let which = (key >> 32) as u8;
                let step = if which == WHOLE {
                    self.whole(&Issue {
                        plan,
                        code,
                        id,
                        chip: chip as usize,
                        cycle,
                        at: code.run.index(n),
                        n,
                    })
                } else {
                    self.early(code, id, which as usize, cycle)
                };
                (chip, run, step)
            };
            if let Err(Fault { kind, what }) = step {
                return Err(plan.hazard(entry, chip, run, cycle, kind, what));
            }
        }
        self.finish(plan, entry)
    }

    /// Checks what must hold after the last event.
    fn finish(&mut self, plan: &Plan, entry: usize) -> Result<u64, Box<Hazard>> {
        let mut arrivals = self.chips.iter().flat_map(|c| c.arrivals.iter().flatten());
        if let Some(arrival) = arrivals.next() {
            let v = self.pool.get(arrival.vector);
            let what = "the word sent is not received".to_owned();
            let cycle = arrival.cycle;
            return Err(plan.hazard(entry, v.chip, v.run, cycle, HazardKind::Link, what));
        }
        let e = &plan.artifact.entries[entry];
        for &(value, output) in &plan.outputs[entry] {
            let v = &e.values[value as usize];
            if let Some(i) = self.sram.incomplete(v, self.end) {
                let name = &e.outputs[output as usize].name;
                return Err(Box::new(Hazard {
                    kind: HazardKind::Output,
                    cycle: self.end,
                    queue: format!("c{}", v.chip),
                    instruction: format!("output {name:?}"),
                    source_node: String::new(),
                    what: format!("vector {i} of v{value} is not written"),
                }));
            }
        }
        Ok(self.end)
    }

    /// Makes a run active and schedules its first events.
    fn begin(&mut self, code: &Code, chip: u32, run: u32, issue: u64) {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.active.push(Active::default());
                (self.active.len() - 1) as u32
            }
        };
        let a = &mut self.active[id as usize];
        (a.chip, a.run, a.issue) = (chip, run, issue);
        (a.n, a.taken) = (0, [0; 3]);
        for (k, take) in code.takes.iter().enumerate() {
            if let Some(t) = take.filter(|t| t.operand.delay > 0) {
                let cycle = issue - t.operand.delay as u64;
                self.events.push(event(cycle, ISSUE, k as u8, id));
            }
        }
        self.events.push(event(issue, phase_of(code), WHOLE, id));
    }

    /// Takes operand `k` of a later issue.
    fn early(&mut self, code: &Code, id: u32, k: usize, cycle: u64) -> Step<()> {
        let Some(take) = code.takes[k] else {
            return Ok(());
        };
        let a = &mut self.active[id as usize];
        let chip = &self.chips[a.chip as usize];
        let vector = match take.operand.src {
            Src::Alu(i) => {
                let v = forwarded(chip, &self.pool, i, take.words, cycle)?;
                self.pool.retain(v);
                v
            }
            Src::Stream(s) => {
                let seen = chip.belts.see(s, take.words, take.single, code.position, cycle)?;
                let v = self.pool.take(a.chip, a.run, take.words, seen.live);
                self.pool.bytes_mut(v)[..seen.bytes.len()].copy_from_slice(seen.bytes);
                v
            }
            _ => return Ok(()),
        };
        a.held[k].push_back(vector);
        a.taken[k] += 1;
        if a.taken[k] < code.issues {
            let delay = take.operand.delay as u64;
            let cycle = a.issue + code.run.offset(a.taken[k]) as u64 - delay;
            self.events.push(event(cycle, ISSUE, k as u8, id));
        }
        Ok(())
    }

    /// One issue of a run.
    fn whole(&mut self, issue: &Issue<'_>) -> Step<()> {
        let code = issue.code;
        if issue.n == 0 {
            let until = issue.cycle + code.run.last_offset() as u64 + code.occupancy;
            for free in &mut self.chips[issue.chip].free_at[code.queues.clone()] {
                if *free > issue.cycle {
                    let what = format!("the queue is busy until cycle {free}");
                    return fault(HazardKind::Busy, what);
                }
                *free = until;
            }
        }
        match code.run.op {
            Opcode::Read => self.read(issue)?,
            Opcode::Write => self.write(issue)?,
            Opcode::Gather => self.gather(issue)?,
            Opcode::Scatter => self.scatter(issue)?,
            Opcode::LoadRow | Opcode::LoadCol => self.load(issue)?,
            Opcode::Mul => self.mul(issue)?,
            Opcode::Alu => self.alu(issue)?,
            Opcode::Fold => self.fold(issue)?,
            Opcode::Permute => self.permute(issue)?,
            Opcode::Transpose => self.transpose(issue)?,
            Opcode::Reduce => self.reduce(issue)?,
            Opcode::Send => self.send(issue)?,
            Opcode::Recv => self.recv(issue)?,
        }
        let busy = code.latency.max(code.occupancy);
        self.end = self.end.max(issue.cycle + busy);
        let a = &mut self.active[issue.id as usize];
        a.n += 1;
        if a.n < code.issues {
            let cycle = a.issue + code.run.offset(a.n) as u64;
            self.events.push(event(cycle, phase_of(code), WHOLE, issue.id));
        } else {
            self.free.push(issue.id);
        }
        Ok(())
    }

    /// Lets a result land: a forward becomes visible, a vector goes onto its belt.
    fn land(&mut self, code: &Code, put: bool, chip: u32, id: u32, cycle: u64) -> Step<()> {
        let chip = &mut self.chips[chip as usize];
        if put {
            let v = self.pool.get(id);
            if let Some(stream) = code.run.out {
                chip.belts
                    .put(stream, v.words, &v.bytes, &v.live, code.position, cycle)?;
            }
            self.pool.release(id);
        } else if let Queue::Alu(i) = code.run.queue {
            let f = &mut chip.forwards[i as usize];
            if f.held && f.cycle == cycle {
                let what = "two results of the ALU are forwarded in this cycle";
                return fault(HazardKind::PortTaken, what);
            }
            let old = std::mem::replace(
                f,
                Forward {
                    cycle,
                    vector: id,
                    held: true,
                },
            );
            if old.held {
                self.pool.release(old.vector);
            }
        }
        Ok(())
    }

    /// Schedules a result, whose one use is handed over: on its belt at a cycle, or back to the pool.
    pub fn emit(&mut self, issue: &Issue<'_>, vector: u32, cycle: u64) {
        let forward = matches!(issue.code.run.queue, Queue::Alu(_));
        let out = issue.code.run.out.is_some();
        if forward {
            self.events.push(event(cycle, LAND, 0, vector));
        }
        if out {
            self.events.push(event(cycle, PUT, 0, vector));
        }
        if forward && out {
            self.pool.retain(vector);
        } else if !forward && !out {
            self.pool.release(vector);
        }
    }

    /// A fresh vector for the result of an issue, with live lanes those of the run.
    pub fn result_vector(&mut self, issue: &Issue<'_>) -> u32 {
        let run = &issue.code.run;
        let words = result_words(run);
        let live = live_words(run.lo, run.hi, words as usize, self.lanes);
        let a = &self.active[issue.id as usize];
        self.pool.take(a.chip, a.run, words, live)
    }

    /// Gives back the operands that this issue took early.
    pub fn release_operands(&mut self, issue: &Issue<'_>) {
        for (k, take) in issue.code.takes.iter().enumerate() {
            if take.is_some_and(|t| t.operand.delay > 0)
                && let Some(v) = self.active[issue.id as usize].held[k].pop_front()
            {
                self.pool.release(v);
            }
        }
    }

    /// Notes that something of this run lasts until a cycle.
    pub fn last_until(&mut self, cycle: u64) {
        self.end = self.end.max(cycle);
    }
}

fn phase_of(code: &Code) -> u128 {
    match code.run.op {
        Opcode::LoadRow | Opcode::LoadCol => LOAD,
        _ => ISSUE,
    }
}

/// The vector that an ALU forwards in a cycle.
fn forwarded(chip: &Chip, pool: &Pool, alu: u8, words: u8, cycle: u64) -> Step<u32> {
    let f = chip.forwards[alu as usize];
    if !f.held || f.cycle != cycle {
        let what = format!("ALU {alu} forwards nothing in cycle {cycle}");
        return fault(HazardKind::OperandAbsent, what);
    }
    let v = pool.get(f.vector);
    if v.words != words {
        let n = v.words;
        let what = format!("ALU {alu} forwards a vector of {n} words, {words} are needed");
        return fault(HazardKind::WrongType, what);
    }
    Ok(f.vector)
}

/// What passes operand `k`, a stream without delay.
pub(super) fn see<'a>(chip: &'a Chip, issue: &Issue<'_>, k: usize) -> Step<Seen<'a>> {
    match issue.code.takes[k] {
        Some(Take {
            operand: Operand {
                src: Src::Stream(stream),
                ..
            },
            words,
            single,
        }) => {
            let position = issue.code.position;
            chip.belts.see(stream, words, single, position, issue.cycle)
        }
        _ => fault(HazardKind::OperandAbsent, "the operand is no stream"),
    }
}

/// What operand `k` of a VXM run is: taken early, passing by, or forwarded.
pub(super) fn vxm_operand<'a>(
    chip: &'a Chip,
    pool: &'a Pool,
    active: &Active,
    issue: &Issue<'_>,
    k: usize,
) -> Step<Seen<'a>> {
    let vector = match issue.code.takes[k] {
        Some(t) if t.operand.delay > 0 => active.held[k].front().copied(),
        Some(Take {
            operand: Operand { src: Src::Alu(i), .. },
            words,
            ..
        }) => Some(forwarded(chip, pool, i, words, issue.cycle)?),
        _ => return see(chip, issue, k),
    };
    match vector {
        Some(v) => {
            let v = pool.get(v);
            Ok(Seen {
                bytes: &v.bytes,
                live: v.live,
            })
        }
        None => fault(HazardKind::OperandAbsent, "the operand was not taken early"),
    }
}
