//! The report of a compile: what `compile` prints, `report` shows, and the artifact carries as canonical JSON.

use crate::bound::Bound;
use crate::chain::ChainProgram;
use crate::options::{Chips, Objective, Options};
use crate::partition::Partitioned;
use crate::rewrite::StageGain;
use crate::schedule::{Busy, Schedule, SramUse, Wait};
use crate::throughput::Throughput;
use lockstep_isa::op::UnitKind;
use lockstep_isa::{DType, Opcode, Queue, Target};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Version of the JSON form.
pub const VERSION: u32 = 2;

/// A partition that was looked at; cycles are over all entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Chips, stages and degrees.
    pub description: String,
    /// Its chips.
    pub chips: u16,
    /// Cycles by the partitioner's cost model.
    pub modelled: u64,
    /// Its bound, cycles.
    pub bound: u64,
    /// Its makespan, cycles; `None` where it was not scheduled.
    pub makespan: Option<u64>,
    /// Cycles from one user's run to the next one's, as [`Throughput`] has them; `None` where it was not scheduled.
    pub interval: Option<u64>,
}

/// What the objective makes least (the makespan, or the interval of users) of the chosen partition with and without rewrites, cycles over all
/// entries; the lesser was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// With all rewrites.
    pub with: u64,
    /// With the passes alone.
    pub without: u64,
}

/// Energy of one run by kind of event, in picojoules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EnergyUse {
    /// Multiply-adds of the matrix units.
    pub mxm: f64,
    /// ALU operations.
    pub vxm: f64,
    /// Bits read from and written to SRAM.
    pub sram: f64,
    /// Bits moved over belts.
    pub belts: f64,
    /// Bits over links.
    pub links: f64,
}

impl EnergyUse {
    /// All kinds together.
    pub fn total(&self) -> f64 {
        self.mxm + self.vxm + self.sram + self.belts + self.links
    }
}

/// One step of the critical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain's IR operation.
    pub op: String,
    /// Its model nodes.
    pub nodes: Vec<String>,
    /// First cycle.
    pub start: u64,
    /// End.
    pub end: u64,
    /// Cycles of the makespan that it accounts for.
    pub cycles: u64,
    /// What it waited for.
    pub wait: String,
}

/// The report of a compile.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Target name.
    pub target: String,
    /// Clock, hertz.
    pub clock_hz: u64,
    /// Chips in use.
    pub chips: u16,
    /// The partition in words.
    pub partition: String,
    /// Why so many chips.
    pub why: String,
    /// What it was chosen by.
    pub optimize: Objective,
    /// Partitions that were looked at, most promising first.
    pub examined: Vec<Examined>,
    /// What the rewrites are worth; `None` where they change nothing.
    pub rewrites: Option<Trial>,
    /// The entries.
    pub entries: Vec<EntryReport>,
}

/// The report of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryReport {
    /// Its name.
    pub name: String,
    /// Clock, hertz.
    pub clock_hz: u64,
    /// Chips in use.
    pub chips: u16,
    /// The partition in words.
    pub partition: String,
    /// What each stage of rewrites gained, in modelled cycles: operations one after another.
    pub rewrites: Vec<StageGain>,
    /// Cycles of the schedule.
    pub makespan: u64,
    /// What it gives several users.
    pub throughput: Throughput,
    /// The bound and its terms.
    pub bound: Bound,
    /// SRAM of each chip by kind, bytes.
    pub sram: Vec<SramUse>,
    /// Busy cycles per kind of unit, over all chips.
    pub busy: Busy,
    /// Units of each kind on a chip: banks, matrix units' load and product queues of f32, ALUs, lane-move units, links.
    pub units: [u64; 6],
    /// Words sent per link, by (chip, link).
    pub links: Vec<(u16, u8, u64)>,
    /// Chains and runs.
    pub chains: u64,
    /// Runs over all chips.
    pub runs: u64,
    /// Energy.
    pub energy: EnergyUse,
    /// The chains that decide the makespan, first to last.
    pub critical: Vec<Step>,
}

/// Makes the report of one entry.
pub fn entry(
    chains: &ChainProgram,
    timed: &Schedule,
    bound: &Bound,
    part: &Partitioned,
    target: &Target,
    rewrites: Vec<StageGain>,
) -> EntryReport {
    let mut links: BTreeMap<(u16, u8), u64> = BTreeMap::new();
    for placed in &timed.runs {
        if let Queue::Send(link) = placed.run.queue {
            *links.entry((placed.chip, link)).or_default() += placed.run.issues() as u64;
        }
    }
    let mxm_units = 2 * target.mxm_units(DType::F32).max(1) as u64;
    let critical = timed
        .critical
        .iter()
        .rev()
        .map(|s| {
            let origin = chains
                .chains
                .get(s.chain)
                .and_then(|c| chains.origins.get(c.origin as usize));
            Step {
                op: origin.map(|o| o.op.clone()).unwrap_or_default(),
                nodes: origin.map(|o| o.nodes.clone()).unwrap_or_default(),
                start: s.start,
                end: s.end,
                cycles: s.cycles,
                wait: wait_text(&s.wait),
            }
        })
        .collect();
    EntryReport {
        name: chains.name.clone(),
        clock_hz: target.clock_hz,
        chips: part.n_chips,
        partition: part.description.clone(),
        rewrites,
        makespan: timed.makespan,
        throughput: Throughput::of(timed, &part.stages, target),
        bound: bound.clone(),
        sram: timed.sram.clone(),
        busy: timed.busy,
        units: [
            target.n_places() as u64,
            mxm_units,
            mxm_units,
            target.vxm.alus as u64,
            2,
            target.n_links() as u64,
        ],
        links: links.into_iter().map(|((c, l), n)| (c, l, n)).collect(),
        chains: chains.chains.len() as u64,
        runs: timed.runs.len() as u64,
        energy: energy(timed, target),
        critical,
    }
}

/// Energy of one run, counted from the instructions: events times the target's table. A belt's bits are counted from the unit
/// that drives them to the unit that takes them last.
fn energy(timed: &Schedule, target: &Target) -> EnergyUse {
    let e = &target.energy;
    let mut out = EnergyUse::default();
    let word_bits = target.word_bytes() as f64 * 8.0;
    for placed in &timed.runs {
        let run = &placed.run;
        let issues = run.issues() as f64;
        let lanes = (run.hi - run.lo) as f64;
        let bits = run.dtype.words() as f64 * word_bits;
        match run.op {
            Opcode::Mul => {
                let per = match run.dtype {
                    DType::F32 => e.mac_f32,
                    DType::F16 | DType::BF16 => e.mac_f16,
                    _ => e.mac_i8,
                };
                let macs: f64 = placed
                    .claims
                    .blocks
                    .iter()
                    .map(|b| (b.window.n1 - b.window.n0) as f64 * (b.window.k1 - b.window.k0) as f64)
                    .sum();
                out.mxm += macs * issues * per;
            }
            Opcode::Alu | Opcode::Fold | Opcode::Reduce => out.vxm += issues * lanes * e.alu_lane,
            Opcode::Read | Opcode::Write | Opcode::Gather | Opcode::Scatter => {
                let words = if run.words > 0 {
                    run.words as f64
                } else {
                    run.dtype.words() as f64
                };
                out.sram += issues * words * word_bits * e.sram_bit;
            }
            Opcode::Send => out.links += issues * word_bits * e.link_bit,
            _ => {}
        }
        for producer in &placed.claims.operands {
            let Some(from) = timed.runs.get(producer.run as usize) else {
                continue;
            };
            if from.chip == placed.chip {
                let a = target.queue_position(from.run.queue);
                let b = target.queue_position(run.queue);
                out.belts += issues * bits * (a - b).unsigned_abs() as f64 * e.hop_bit;
            }
        }
    }
    out
}

fn wait_text(wait: &Wait) -> String {
    match wait {
        Wait::Start => "nothing".into(),
        Wait::Rows => "rows of the step before".into(),
        Wait::Loads => "its tile loads".into(),
        Wait::Product => "the product before".into(),
        Wait::Unit(kind) => kind_text(*kind).into(),
        Wait::Belts => "free belt slots".into(),
        Wait::Window => "chains far before it".into(),
    }
}

fn kind_text(kind: UnitKind) -> &'static str {
    match kind {
        UnitKind::Mem => "a bank",
        UnitKind::MxmLoad => "tile loads",
        UnitKind::MxmMul => "a matrix unit",
        UnitKind::Vxm => "the VXM",
        UnitKind::Sxm => "an SXM",
        UnitKind::C2cSend | UnitKind::C2cRecv => "a link",
    }
}

/// Why so many chips, in words.
fn why(wanted: Chips, optimize: Objective, examined: &[Examined]) -> String {
    let fewest = examined.iter().map(|e| e.chips).min().unwrap_or(0);
    let scheduled = examined.iter().filter(|e| e.makespan.is_some()).count();
    let of = format!("{scheduled} scheduled of {} partitions that fit", examined.len());
    let least = match optimize {
        Objective::Latency => "the least makespan",
        Objective::Throughput => "the most runs per second over all users in flight",
    };
    match wanted {
        Chips::Exactly(n) => format!("{n} asked for; {least} of {of}"),
        Chips::Auto => format!("{least} of {of}; the fewest chips among them are {fewest}"),
    }
}

impl Report {
    /// The report of a compile from those of its entries.
    pub fn new(
        target: &Target,
        options: &Options,
        examined: Vec<Examined>,
        rewrites: Option<Trial>,
        entries: impl IntoIterator<Item = EntryReport>,
    ) -> Report {
        let entries: Vec<EntryReport> = entries.into_iter().collect();
        Report {
            why: why(options.chips, options.optimize, &examined),
            optimize: options.optimize,
            target: target.name.clone(),
            clock_hz: target.clock_hz,
            chips: entries.first().map_or(0, |e| e.chips),
            partition: entries.first().map(|e| e.partition.clone()).unwrap_or_default(),
            examined,
            rewrites,
            entries,
        }
    }

    /// Canonical JSON: sorted keys, versioned.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }

    /// The JSON value.
    pub fn to_value(&self) -> Value {
        json!({
            "version": VERSION,
            "target": self.target,
            "clock_hz": self.clock_hz,
            "chips": self.chips,
            "partition": self.partition,
            "why": self.why,
            "optimize": self.optimize.name(),
            "rewrites": self.rewrites.map(|t| json!({ "with_cycles": t.with, "without_cycles": t.without })),
            "examined": self.examined.iter().map(|e| json!({
                "partition": e.description, "chips": e.chips, "modelled_cycles": e.modelled, "bound_cycles": e.bound,
                "makespan_cycles": e.makespan, "interval_cycles": e.interval,
            })).collect::<Vec<_>>(),
            "entries": self.entries.iter().map(EntryReport::to_value).collect::<Vec<_>>(),
        })
    }
}

impl EntryReport {
    /// Time of the schedule in microseconds.
    pub fn microseconds(&self) -> f64 {
        self.makespan as f64 * 1e6 / self.clock_hz.max(1) as f64
    }

    /// Runs per second of one user.
    pub fn runs_per_second(&self) -> f64 {
        self.clock_hz as f64 / self.makespan.max(1) as f64
    }

    /// Makespan over bound.
    pub fn over_bound(&self) -> f64 {
        self.makespan as f64 / self.bound.bound.max(1) as f64
    }

    /// Bound over roofline.
    pub fn over_roofline(&self) -> f64 {
        self.bound.bound as f64 / self.bound.roofline.max(1) as f64
    }

    /// Share of the makespan in which the units of each kind issue: banks, tile loads, products, ALUs, lane moves, links.
    pub fn utilisation(&self) -> [f64; 6] {
        let busy = [
            self.busy.mem,
            self.busy.load,
            self.busy.mul,
            self.busy.vxm,
            self.busy.sxm,
            self.busy.c2c,
        ];
        let whole = self.makespan.max(1) as f64 * self.chips.max(1) as f64;
        std::array::from_fn(|i| busy[i] as f64 / (whole * self.units[i].max(1) as f64))
    }

    /// The JSON value.
    pub fn to_value(&self) -> Value {
        let u = self.utilisation();
        json!({
            "entry": self.name,
            "partition": self.partition,
            "rewrites": self.rewrites.iter().map(|g| json!({
                "stage": g.stage, "cycles_before": g.cycles_before, "cycles_after": g.cycles_after,
            })).collect::<Vec<_>>(),
            "makespan_cycles": self.makespan,
            "microseconds": self.microseconds(),
            "runs_per_second": self.runs_per_second(),
            "runs_per_second_of_all": self.throughput.runs_per_second(self.clock_hz),
            "users_in_flight": self.throughput.users,
            "interval_cycles": self.throughput.interval,
            "stage_cycles": self.throughput.stages,
            "bound_cycles": self.bound.bound,
            "bound_resource_cycles": self.bound.resource,
            "bound_critical_path_cycles": self.bound.critical_path,
            "bound_limit": self.bound.limit(),
            "roofline_cycles": self.bound.roofline,
            "makespan_over_bound": self.over_bound(),
            "bound_over_roofline": self.over_roofline(),
            "sram_bytes_per_chip": self.sram.iter().map(|s| json!({
                "const": s.const_bytes,
                "state": s.state_bytes,
                "scratch": s.scratch_bytes,
                "lane_padding": s.padding_bytes,
                "text": s.text_bytes,
                "capacity": s.total_bytes,
            })).collect::<Vec<_>>(),
            "utilisation": {
                "mem": u[0], "mxm_load": u[1], "mxm_mul": u[2], "vxm": u[3], "sxm": u[4], "c2c": u[5],
            },
            "link_words": self.links.iter().map(|(c, l, n)| json!({"chip": c, "link": l, "words": n})).collect::<Vec<_>>(),
            "chains": self.chains,
            "runs": self.runs,
            "energy_microjoules": {
                "mxm": self.energy.mxm * 1e-6,
                "vxm": self.energy.vxm * 1e-6,
                "sram": self.energy.sram * 1e-6,
                "belts": self.energy.belts * 1e-6,
                "links": self.energy.links * 1e-6,
                "total": self.energy.total() * 1e-6,
            },
            "critical_path": self.critical.iter().map(|s| json!({
                "op": s.op, "nodes": s.nodes, "start": s.start, "end": s.end, "cycles": s.cycles, "waited_for": s.wait,
            })).collect::<Vec<_>>(),
        })
    }
}
