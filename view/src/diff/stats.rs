//! Figures of groups of runs, and of whole entries.

use super::{By, Figure};
use crate::trace::{UNITS, unit};
use lockstep_isa::artifact::ValueKind;
use lockstep_isa::disasm::{self, Line};
use lockstep_isa::{Artifact, DType, Opcode, Run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a group of runs does.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    /// Its chains, by their place in the order.
    pub chains: BTreeSet<u32>,
    pub chips: BTreeSet<u16>,
    pub runs: u64,
    pub issues: u64,
    /// Cycles in which its runs hold units, by kind of unit.
    pub busy: [u64; 6],
    /// Issues of products, and their cycles.
    pub products: (u64, u64),
    /// Vectors loaded into tiles.
    pub loaded: u64,
    /// Vectors and words read from and written to SRAM.
    pub accesses: u64,
    /// Issues of ALUs.
    pub alu: u64,
    /// Lane moves.
    pub moves: u64,
    /// Words sent over links.
    pub sent: u64,
    /// Dtypes of what it reads, multiplies and writes.
    pub dtypes: BTreeSet<DType>,
    /// Bytes of the constants that it reads.
    pub constants: u64,
    /// First issue and end.
    pub span: Option<(u64, u64)>,
    /// Cycles of the makespan that it accounts for.
    pub critical: u64,
    /// What it waited for on the critical path.
    pub waits: BTreeSet<String>,
    /// Values whose bytes are counted.
    pub seen: BTreeSet<u32>,
}

/// The identity of a group in both artifacts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Nodes, or an operation without nodes.
    Node(String),
    /// Operation, nodes, and which of those chains.
    Chain(String, String, u32),
    Unit(usize),
    Chip(u16),
}

/// A group's name: of a chain, with its number in both.
pub(super) fn name_of(key: &Key, (a, b): (&Stats, &Stats)) -> String {
    match key {
        Key::Node(name) => name.clone(),
        Key::Chip(chip) => format!("c{chip}"),
        Key::Unit(kind) => UNITS.get(*kind).copied().unwrap_or_default().to_owned(),
        Key::Chain(op, nodes, _) => {
            let number = |s: &Stats| s.chains.first().map(|h| format!("h{h}"));
            let numbers = match (number(a), number(b)) {
                (Some(x), Some(y)) if x != y => format!("{x} -> {y}"),
                (x, y) => x.or(y).unwrap_or_default(),
            };
            format!("{numbers} {op} {nodes}").trim_end().to_owned()
        }
    }
}

/// The operation without its number in the IR, which differs from compile to compile.
fn operation(op: &str) -> &str {
    op.split(' ').next().unwrap_or(op)
}

fn node_key(op: &str, nodes: &[String]) -> String {
    if nodes.is_empty() {
        format!("({})", operation(op))
    } else {
        nodes.join(", ")
    }
}

/// Operation, nodes and ordinal of every chain.
fn chain_keys(artifact: &Artifact, entry: usize) -> Vec<Key> {
    let Some(e) = artifact.entries.get(entry) else {
        return Vec::new();
    };
    let mut count: BTreeMap<(String, String), u32> = BTreeMap::new();
    let keys = e.chains.iter().map(|chain| {
        let origin = e.origins.get(chain.origin as usize);
        let op = origin.map_or("", |o| operation(&o.op)).to_owned();
        let nodes = origin.map_or(String::new(), |o| o.nodes.join(", "));
        let n = count.entry((op.clone(), nodes.clone())).or_default();
        *n += 1;
        Key::Chain(op, nodes, *n)
    });
    keys.collect()
}

impl Stats {
    /// All groups of an entry.
    pub(super) fn groups(artifact: &Artifact, entry: usize, by: By) -> BTreeMap<Key, Stats> {
        let mut out: BTreeMap<Key, Stats> = BTreeMap::new();
        let Some(e) = artifact.entries.get(entry) else {
            return out;
        };
        let chains = match by {
            By::Chain => chain_keys(artifact, entry),
            _ => Vec::new(),
        };
        for line in disasm::lines(artifact, entry) {
            let chip = e.chips.get(line.chip as usize);
            let origin = chip
                .and_then(|c| c.origins.get(line.index as usize))
                .and_then(|&o| e.origins.get(o as usize));
            let key = match by {
                By::Node => Key::Node(node_key(line.origin, origin.map_or(&[], |o| &o.nodes))),
                By::Chain => match chains.get(line.chain as usize) {
                    Some(key) => key.clone(),
                    None => continue,
                },
                By::Unit => Key::Unit(unit(line.run.op)),
                By::Chip => Key::Chip(line.chip),
            };
            out.entry(key).or_default().add(artifact, entry, &line);
        }
        if by == By::Node {
            for step in critical(artifact, entry) {
                let nodes: Vec<String> = strings(&step["nodes"]);
                let key = Key::Node(node_key(step["op"].as_str().unwrap_or_default(), &nodes));
                let stats = out.entry(key).or_default();
                stats.critical = stats.critical.saturating_add(step["cycles"].as_u64().unwrap_or(0));
                if let Some(wait) = step["waited_for"].as_str() {
                    stats.waits.insert(wait.to_owned());
                }
            }
        }
        out
    }

    fn add(&mut self, artifact: &Artifact, entry: usize, line: &Line<'_>) {
        let run = line.run;
        let target = &artifact.target;
        let issues = u64::from(run.issues());
        let cycles = busy(artifact, run);
        self.chains.insert(line.chain);
        self.chips.insert(line.chip);
        self.runs += 1;
        self.issues += issues;
        self.busy[unit(run.op)] += cycles;
        let end = line.cycle.saturating_add(u64::from(target.run_end(run)));
        let span = self.span.get_or_insert((line.cycle, end));
        *span = (span.0.min(line.cycle), span.1.max(end));
        match run.op {
            Opcode::Mul => {
                self.products.0 += issues;
                self.products.1 += cycles;
                self.dtypes.insert(run.dtype);
            }
            Opcode::LoadRow | Opcode::LoadCol => self.loaded += u64::from(run.load_vectors()),
            Opcode::Read | Opcode::Write | Opcode::Gather | Opcode::Scatter => {
                self.accesses += issues;
                self.dtypes.insert(run.dtype);
            }
            Opcode::Alu | Opcode::Fold => self.alu += issues,
            Opcode::Permute | Opcode::Transpose | Opcode::Reduce => self.moves += issues,
            Opcode::Send => self.sent += issues,
            Opcode::Recv => {}
        }
        let e = artifact.entries.get(entry);
        let chip = e.and_then(|e| e.chips.get(line.chip as usize));
        let claim = chip.and_then(|c| c.claims.get(line.index as usize)).and_then(|c| c.mem);
        if let Some(claim) = claim
            && self.seen.insert(claim.value)
            && let Some(value) = e.and_then(|e| e.values.get(claim.value as usize))
            && matches!(value.kind, ValueKind::Const(_))
        {
            let words = u64::from(value.n_vectors) * u64::from(value.dtype.words());
            self.constants += words * target.word_bytes() as u64;
        }
    }

    /// Figures that differ between two groups.
    pub(super) fn compare(a: Option<&Stats>, b: Option<&Stats>) -> Vec<Figure> {
        let of = |s: &Stats| -> Vec<(&'static str, &'static str, u64)> {
            vec![
                ("critical path", "cycles", s.critical),
                ("span", "cycles", s.elapsed()),
                ("busy", "unit cycles", s.busy.iter().sum()),
                ("issues", "", s.issues),
                ("runs", "", s.runs),
                ("chains", "", s.chains.len() as u64),
                ("products", "", s.products.0),
                ("tile loads", "vectors", s.loaded),
                ("SRAM accesses", "", s.accesses),
                ("ALU operations", "", s.alu),
                ("lane moves", "", s.moves),
                ("words sent", "", s.sent),
                ("constants", "bytes", s.constants),
                ("chips", "", s.chips.len() as u64),
            ]
        };
        let (x, y) = (a.map(of), b.map(of));
        let names = x.as_ref().or(y.as_ref()).map_or(&[][..], Vec::as_slice);
        let at = |side: &Option<Vec<_>>, i: usize| -> Option<f64> {
            let one: &(&str, &str, u64) = side.as_ref()?.get(i)?;
            Some(one.2 as f64)
        };
        let all = names.iter().enumerate().map(|(i, (name, unit, _))| Figure {
            name: (*name).to_owned(),
            unit,
            a: at(&x, i),
            b: at(&y, i),
        });
        all.filter(|f| f.a.unwrap_or(0.0) != f.b.unwrap_or(0.0)).collect()
    }

    /// Cycles from its first issue to its end.
    pub(super) fn elapsed(&self) -> u64 {
        self.span.map_or(0, |(a, b)| b.saturating_sub(a))
    }

    /// By what changes are sorted: of nodes the cycles on the critical path, of chains the time that they take, then busy units.
    pub(super) fn size(a: &Stats, b: &Stats, by: By) -> (f64, f64) {
        let apart = |x: u64, y: u64| x.abs_diff(y) as f64;
        let busy = apart(a.busy.iter().sum(), b.busy.iter().sum());
        match by {
            By::Node => (apart(a.critical, b.critical), busy),
            By::Chain => (apart(a.elapsed(), b.elapsed()), busy),
            By::Unit | By::Chip => (busy, apart(a.issues, b.issues)),
        }
    }
}

/// Cycles in which a run holds its units, as reports count them.
fn busy(artifact: &Artifact, run: &Run) -> u64 {
    let cost = match run.op {
        Opcode::Recv => 0,
        Opcode::Alu => u64::from(run.alu.cost()),
        _ => 1,
    };
    u64::from(run.issues()) * u64::from(artifact.target.occupancy(run.op, run.dtype)) * cost
}

/// The compile report of an entry; null where there is none.
fn report(artifact: &Artifact, entry: usize) -> Value {
    let all: Value = serde_json::from_str(&artifact.report).unwrap_or_default();
    let name = artifact.entries.get(entry).map_or("", |e| e.name.as_str());
    let entries = all["entries"].as_array().map_or(&[][..], Vec::as_slice);
    entries.iter().find(|e| e["entry"] == name).cloned().unwrap_or_default()
}

fn critical(artifact: &Artifact, entry: usize) -> Vec<Value> {
    match report(artifact, entry)["critical_path"].take() {
        Value::Array(steps) => steps,
        _ => Vec::new(),
    }
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A total: name, unit, value.
type Total = (String, &'static str, Option<f64>);

/// Figures of a whole entry.
pub(super) fn totals(artifact: &Artifact, entry: usize) -> Vec<Total> {
    let mut out: Vec<Total> = Vec::new();
    let Some(e) = artifact.entries.get(entry) else {
        return out;
    };
    let report = report(artifact, entry);
    let mut all = Stats::default();
    for line in disasm::lines(artifact, entry) {
        all.add(artifact, entry, &line);
    }
    let mut put = |name: &str, unit, value: Option<f64>| out.push((name.to_owned(), unit, value));
    let us = e.makespan as f64 * 1e6 / artifact.target.clock_hz.max(1) as f64;
    put("makespan", "cycles", Some(e.makespan as f64));
    put("time", "microseconds", Some(us));
    put("bound", "cycles", report["bound_cycles"].as_f64());
    put("roofline", "cycles", report["roofline_cycles"].as_f64());
    let steps = report["critical_path"].as_array().map(Vec::len);
    put("critical path", "steps", steps.map(|n| n as f64));
    put("energy", "microjoules", report["energy_microjoules"]["total"].as_f64());
    put("chains", "", Some(e.chains.len() as f64));
    put("runs", "", Some(all.runs as f64));
    put("issues", "", Some(all.issues as f64));
    put("words sent", "", Some(all.sent as f64));
    let programs: BTreeSet<u32> = e.chips.iter().map(|c| c.program).collect();
    let text = programs.iter().filter_map(|p| artifact.programs.get(*p as usize));
    let text: u64 = text.map(|p| p.text_bytes()).sum();
    put("instruction text, stored once", "bytes", Some(text as f64));
    for (kind, key) in [
        ("constants", "const"),
        ("states", "state"),
        ("scratch", "scratch"),
        ("lane padding", "lane_padding"),
        ("text", "text"),
    ] {
        let chips = report["sram_bytes_per_chip"].as_array();
        let sum = chips.map(|c| c.iter().filter_map(|one| one[key].as_f64()).sum());
        put(&format!("SRAM over all chips, {kind}"), "bytes", sum);
    }
    out
}

/// Totals that differ; both sides list the same.
pub(super) fn compare_totals(a: Vec<Total>, b: Vec<Total>) -> Vec<Figure> {
    let pairs = a
        .into_iter()
        .zip(b)
        .map(|((name, unit, a), (_, _, b))| Figure { name, unit, a, b });
    pairs.filter(|f| f.a != f.b).collect()
}

/// Runs of each side that the other side does not have on the same chip, in the same cycle, with the same operands and claims.
pub(super) fn runs_that_differ(a: &Artifact, b: &Artifact, (i, j): (usize, usize)) -> [u64; 2] {
    let of = |artifact: &'_ Artifact, entry: usize| {
        let mut all: BTreeMap<(u16, u64, Run), u64> = BTreeMap::new();
        for line in disasm::lines(artifact, entry) {
            // Cycles of a program count from its start, which may differ.
            let run = Run { cycle: 0, ..*line.run };
            *all.entry((line.chip, line.cycle, run)).or_default() += 1;
        }
        all
    };
    let (x, y) = (of(a, i), of(b, j));
    let missing = |from: &BTreeMap<(u16, u64, Run), u64>, other: &BTreeMap<(u16, u64, Run), u64>| {
        from.iter()
            .map(|(k, n)| n.saturating_sub(other.get(k).copied().unwrap_or(0)))
            .sum()
    };
    [missing(&x, &y), missing(&y, &x)]
}
