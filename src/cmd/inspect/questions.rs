//! The questions of a debugging day, each in one call: what runs in a cycle, where a model node lives, who uses an address, and what
//! a chain is made of.

use super::{Shown, View};
use crate::args::Address;
use crate::diag::{Failure, Outcome};
use crate::{show, text};
use lockstep::isa::artifact::{Value as Tensor, ValueKind};
use lockstep::isa::disasm::{self, Line};
use lockstep::isa::{Opcode, Place, Queue, Run};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Issues of a run that are listed one by one.
const LISTED: usize = 4;

fn kind(value: &Tensor) -> &'static str {
    match value.kind {
        ValueKind::Const(_) => "const",
        ValueKind::State(_) => "state",
        ValueKind::Input => "input",
        ValueKind::Computed => "computed",
        ValueKind::NextState(_) => "next state",
    }
}

/// Model nodes behind a separator, where there are any.
fn after(separator: &str, nodes: &[String]) -> String {
    if nodes.is_empty() {
        String::new()
    } else {
        separator.to_owned() + &nodes.join(", ")
    }
}

/// One past the last word of a value.
fn end_of(value: &Tensor) -> u64 {
    u64::from(value.base) + u64::from(value.n_vectors) * u64::from(value.dtype.words())
}

impl View<'_> {
    fn end(&self, line: &Line<'_>) -> u64 {
        line.cycle
            .saturating_add(u64::from(self.artifact.target.run_end(line.run)))
    }

    /// What runs in a cycle or in some: issues, and what is still under way.
    pub(super) fn running(&self, (from, until): (u64, u64)) -> Shown {
        let target = &self.artifact.target;
        let e = &self.artifact.entries[self.entry];
        let when = if until == from + 1 {
            format!("cycle {from}")
        } else {
            format!("cycles {from} to {}", until.min(e.makespan))
        };
        let mut lines = Vec::new();
        let mut values = Vec::new();
        let all = disasm::lines(self.artifact, self.entry);
        for line in all.filter(|l| self.keeps_chip(l.chip as usize) && l.cycle < until && self.end(l) > from) {
            if !self.keeps_node(line.origin, self.nodes(&line)) {
                continue;
            }
            let n = line.run.issues();
            let issued = issues_before(line.run, until.saturating_sub(line.cycle));
            let already = issues_before(line.run, from.saturating_sub(line.cycle));
            let state = match issued - already {
                0 if issued == n => format!("under way until @{}", self.end(&line)),
                0 => format!("between issue {issued} and {} of {n}", issued + 1),
                1 => format!("issue {issued} of {n}"),
                _ => format!("issues {} to {issued} of {n}", already + 1),
            };
            let nodes = self.nodes(&line);
            let mut shown = show::run(&line.text(target));
            shown += &show::faint(&format!("{} | {state}", after(" ", nodes)));
            lines.push(shown);
            values.push(json!({
                "chip": line.chip, "queue": disasm::queue_name(target, line.chip, line.run.queue), "cycle": line.cycle,
                "end_cycle": self.end(&line), "issues": n, "issued_before": already, "issued_until": issued,
                "text": disasm::disasm_run(line.run), "chain": line.chain, "op": line.origin, "nodes": nodes,
            }));
        }
        lines.insert(
            0,
            show::strong(&format!("{when} of {}: {} runs", e.makespan, values.len())),
        );
        let value = json!({ "entry": e.name, "from_cycle": from, "until_cycle": until, "runs": values });
        Shown { lines, value }
    }

    /// Where a model node lives: its operations, chips, queues, cycles and the values that it touches.
    ///
    /// # Errors
    /// No node whose name contains this.
    pub(super) fn node(&self, name: &str) -> Outcome<Shown> {
        struct Op<'a> {
            nodes: &'a [String],
            span: (u64, u64),
            runs: u64,
            chips: BTreeSet<u16>,
            queues: BTreeMap<(u16, Queue), u64>,
            values: BTreeMap<u32, [bool; 2]>,
        }
        let a = self.artifact;
        let e = &a.entries[self.entry];
        let mut ops: BTreeMap<&str, Op<'_>> = BTreeMap::new();
        for line in disasm::lines(a, self.entry) {
            let nodes = self.nodes(&line);
            if !self.keeps_chip(line.chip as usize) || !self.keeps_node(line.origin, nodes) {
                continue;
            }
            let end = self.end(&line);
            let op = ops.entry(line.origin).or_insert_with(|| Op {
                nodes,
                span: (line.cycle, end),
                runs: 0,
                chips: BTreeSet::new(),
                queues: BTreeMap::new(),
                values: BTreeMap::new(),
            });
            op.span = (op.span.0.min(line.cycle), op.span.1.max(end));
            op.runs += 1;
            op.chips.insert(line.chip);
            *op.queues.entry((line.chip, line.run.queue)).or_default() += 1;
            let claims = e
                .chips
                .get(line.chip as usize)
                .and_then(|c| c.claims.get(line.index as usize));
            if let Some(mem) = claims.and_then(|c| c.mem) {
                let writes = matches!(line.run.op, Opcode::Write | Opcode::Scatter);
                op.values.entry(mem.value).or_default()[usize::from(writes)] = true;
            }
        }
        if ops.is_empty() {
            return Err(Failure::usage(format!(
                "--node {name:?} is part of no node's name in entry {}; `inspect --section provenance` lists them",
                e.name
            )));
        }
        let mut order: Vec<(&str, Op<'_>)> = ops.into_iter().collect();
        order.sort_by_key(|(op, found)| (found.span.0, *op));
        let mut lines = Vec::new();
        let mut values = Vec::new();
        for (op, found) in order {
            let chips: Vec<String> = found.chips.iter().map(|c| format!("c{c}")).collect();
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(show::strong(op) + &after(" ", found.nodes));
            lines.push(format!(
                "cycles {} to {}, {} runs on {}",
                found.span.0,
                found.span.1,
                found.runs,
                chips.join(" ")
            ));
            let name = |(chip, queue): &(u16, Queue)| disasm::queue_name(&a.target, *chip, *queue);
            let queues: BTreeMap<String, u64> = found.queues.iter().fold(BTreeMap::new(), |mut all, (q, n)| {
                *all.entry(name(q)).or_default() += n;
                all
            });
            let shown: Vec<String> = queues.iter().map(|(q, n)| format!("{q} ({n})")).collect();
            lines.push(format!("queues {}", shown.join(", ")));
            let mut rows = vec![text::row([
                "value", "does", "kind", "bank", "words", "vectors", "lanes", "dtype",
            ])];
            let mut tensors = Vec::new();
            for (id, [read, written]) in &found.values {
                let Some(v) = e.values.get(*id as usize) else { continue };
                let does = match (read, written) {
                    (true, true) => "reads, writes",
                    (true, false) => "reads",
                    _ => "writes",
                };
                let bank = disasm::queue_name(&a.target, v.chip, Queue::Mem(v.place));
                rows.push(vec![
                    format!("v{id}"),
                    does.to_owned(),
                    kind(v).to_owned(),
                    bank.clone(),
                    format!("{:#06x}..{:#06x}", v.base, end_of(v)),
                    v.n_vectors.to_string(),
                    format!("{}:{}", v.lo, v.hi),
                    v.dtype.to_string(),
                ]);
                tensors.push(json!({
                    "value": id, "reads": read, "writes": written, "kind": kind(v), "bank": bank, "first_word": v.base,
                    "end_word": end_of(v), "vectors": v.n_vectors, "lanes": [v.lo, v.hi], "dtype": v.dtype.name(),
                }));
            }
            lines.extend(show::table(&rows));
            values.push(json!({
                "op": op, "nodes": found.nodes, "first_cycle": found.span.0, "end_cycle": found.span.1, "runs": found.runs,
                "chips": found.chips, "queues": queues, "values": tensors,
            }));
        }
        let value = json!({ "entry": e.name, "ops": values });
        Ok(Shown { lines, value })
    }

    /// Who writes a word of SRAM, who reads it, and when.
    ///
    /// # Errors
    /// A chip, bank or word that the machine does not have.
    pub(super) fn address(&self, at: Address) -> Outcome<Shown> {
        let a = self.artifact;
        let (t, e) = (&a.target, &a.entries[self.entry]);
        let dense = usize::from(at.group) * usize::from(t.banks) + usize::from(at.bank);
        let place = Place::from_dense(dense, t.groups, t.banks);
        let inside = at.chip < a.n_chips && at.bank < t.banks && u32::from(at.word) < t.bank_words();
        let Some(place) = place.filter(|_| inside) else {
            return Err(Failure::usage(format!(
                "--address: there is no such word; allowed are chips c0 to c{}, mem0 to mem{}, banks b0 to b{}, words 0 to {:#06x}",
                a.n_chips.saturating_sub(1),
                (2 * u16::from(t.groups)).saturating_sub(1),
                t.banks.saturating_sub(1),
                t.bank_words().saturating_sub(1)
            )));
        };
        let bank = disasm::queue_name(t, at.chip, Queue::Mem(place));
        let mut lines = vec![show::strong(&format!("{bank} {:#06x}", at.word))];
        let word = u64::from(at.word);
        let here = |v: &Tensor| v.chip == at.chip && v.place == place && u64::from(v.base) <= word && word < end_of(v);
        let mut tensors = Vec::new();
        for (i, v) in e.values.iter().enumerate().filter(|(_, v)| here(v)) {
            let vector = (word - u64::from(v.base)) / u64::from(v.dtype.words().max(1));
            lines.push(format!(
                "v{i} {}, vector {vector} of {}, {}",
                kind(v),
                v.n_vectors,
                v.dtype
            ));
            tensors.push(json!({ "value": i, "kind": kind(v), "vector": vector, "vectors": v.n_vectors, "dtype": v.dtype.name() }));
        }
        let mut found: Vec<(u64, Vec<u64>, bool, Line<'_>)> = Vec::new();
        for line in disasm::lines(a, self.entry) {
            if line.chip == at.chip && line.run.queue == Queue::Mem(place) {
                let cycles = touches(line.run, u32::from(at.word), line.cycle);
                if let Some(first) = cycles.first() {
                    let maybe = matches!(line.run.op, Opcode::Gather | Opcode::Scatter);
                    found.push((*first, cycles, maybe, line));
                }
            }
        }
        found.sort_by_key(|(first, _, _, line)| (*first, line.index));
        let mut uses = Vec::new();
        for (_, cycles, maybe, line) in &found {
            let does = match (line.run.op, maybe) {
                (Opcode::Write | Opcode::Scatter, false) => "writes",
                (Opcode::Write | Opcode::Scatter, true) => "may write",
                (_, false) => "reads",
                (_, true) => "may read",
            };
            let mut at: Vec<String> = cycles.iter().take(LISTED).map(|c| format!("@{c}")).collect();
            if cycles.len() > LISTED {
                at.push(format!("and {} more", cycles.len() - LISTED));
            }
            let nodes = self.nodes(line);
            let told = show::faint(&after(" ", nodes));
            lines.push(format!("{does} {}  {}{told}", at.join(" "), show::run(&line.text(t))));
            uses.push(json!({
                "does": does, "cycles": cycles, "text": disasm::disasm_run(line.run), "run_cycle": line.cycle,
                "chain": line.chain, "op": line.origin, "nodes": nodes,
            }));
        }
        if uses.is_empty() {
            lines.push("no run of this entry touches it".into());
        }
        let value = json!({ "entry": e.name, "bank": bank, "word": at.word, "values": tensors, "uses": uses });
        Ok(Shown { lines, value })
    }

    /// The runs of a chain by cycle, each with where its operands come from.
    ///
    /// # Errors
    /// No chain of this number.
    pub(super) fn chain(&self, number: u32) -> Outcome<Shown> {
        let a = self.artifact;
        let e = &a.entries[self.entry];
        let Some(info) = e.chains.get(number as usize) else {
            return Err(Failure::usage(format!(
                "--chain: h{number} does not exist; entry {} has h0 to h{}",
                e.name,
                e.chains.len().saturating_sub(1)
            )));
        };
        let mut runs: Vec<Line<'_>> = disasm::lines(a, self.entry).filter(|l| l.chain == number).collect();
        runs.sort_by_key(|l| (l.cycle, l.chip, l.index));
        let origin = e.origins.get(info.origin as usize);
        let (op, nodes) = origin.map_or(("", &[][..]), |o| (o.op.as_str(), &o.nodes[..]));
        let chips = info
            .to
            .map_or(format!("c{}", info.chip), |to| format!("c{} to c{to}", info.chip));
        let start = runs.iter().map(|l| l.cycle).min().unwrap_or(0);
        let end = runs.iter().map(|l| self.end(l)).max().unwrap_or(0);
        let mut lines = vec![show::strong(&format!(
            "h{number} {op} on {chips}, cycles {start} to {end}, {} runs{}",
            runs.len(),
            after("; ", nodes)
        ))];
        let mut values = Vec::new();
        for line in &runs {
            let sources = self.sources(line);
            let mut shown = show::run(line.text(&a.target).split(" ;").next().unwrap_or_default());
            if !sources.is_empty() {
                shown += &show::faint(&format!(" ; {}", sources.join(", ")));
            }
            lines.push(shown);
            values.push(json!({
                "chip": line.chip, "queue": disasm::queue_name(&a.target, line.chip, line.run.queue), "cycle": line.cycle,
                "end_cycle": self.end(line), "text": disasm::disasm_run(line.run), "from": sources,
            }));
        }
        let value = json!({
            "entry": e.name, "chain": number, "op": op, "nodes": nodes, "first_cycle": start, "end_cycle": end, "runs": values,
        });
        Ok(Shown { lines, value })
    }

    /// Where the operands of a run come from, by its claims.
    fn sources(&self, line: &Line<'_>) -> Vec<String> {
        let a = self.artifact;
        let e = &a.entries[self.entry];
        let Some(claims) = e
            .chips
            .get(line.chip as usize)
            .and_then(|c| c.claims.get(line.index as usize))
        else {
            return Vec::new();
        };
        let mut out = Vec::new();
        let sender = match line.run.queue {
            Queue::Recv(link) => {
                let local = a.target.c2c.local_links;
                a.target
                    .topology
                    .peer(line.chip, link, local, a.n_chips)
                    .map_or(line.chip, |p| p.chip)
            }
            _ => line.chip,
        };
        let name = |chip: u16, index: u32| {
            let c = e.chips.get(chip as usize)?;
            let run = a.programs.get(c.program as usize)?.runs.get(index as usize)?;
            let queue = disasm::queue_name(&a.target, chip, run.queue);
            Some(format!("{queue} @{}", c.start.saturating_add(u64::from(run.cycle))))
        };
        out.extend(
            claims
                .operands
                .iter()
                .filter_map(|p| name(sender, p.run))
                .map(|n| format!("from {n}")),
        );
        out.extend(
            claims
                .blocks
                .iter()
                .filter_map(|b| name(line.chip, b.load))
                .map(|n| format!("tile of {n}")),
        );
        out.extend(
            claims
                .acc
                .and_then(|p| name(line.chip, p.run))
                .map(|n| format!("sum of {n}")),
        );
        if let Some(mem) = claims.mem
            && let Some(v) = e.values.get(mem.value as usize)
        {
            out.push(format!("v{} {}", mem.value, kind(v)));
        }
        out
    }
}

/// Issues of a run in the first `cycles` cycles from its first one.
fn issues_before(run: &Run, cycles: u64) -> u32 {
    // Cycles ascend with the issue number.
    let (mut lo, mut hi) = (0, run.issues());
    while lo < hi {
        let mid = lo + (hi - lo) / 2;
        if u64::from(run.offset(mid)) < cycles {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    lo
}

/// Cycles of the issues that touch a word; of a gather or scatter, those that may.
fn touches(run: &Run, word: u32, first: u64) -> Vec<u64> {
    let words = if run.words > 0 {
        i64::from(run.words)
    } else {
        i64::from(run.dtype.words())
    };
    let rows = match run.op {
        Opcode::Gather | Opcode::Scatter => i64::from(run.limit.max(1)),
        _ => 1,
    };
    let stride = i64::from(run.row_stride);
    let touched = |n: u32| {
        let from = i64::from(word) - run.addr.at(run.index(n));
        match stride {
            _ if from < 0 => false,
            0 => from < words,
            _ => (from / stride).min(rows - 1) * stride + words > from,
        }
    };
    let issues = (0..run.issues()).filter(|n| touched(*n));
    issues.map(|n| first.saturating_add(u64::from(run.offset(n)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep::isa::{DType, Dim, Dir};

    fn run(op: Opcode) -> Run {
        let place = Place {
            hemi: Dir::East,
            group: 0,
            bank: 0,
        };
        let mut run = Run::new(op, DType::F32, Queue::Mem(place));
        run.dims[0] = Dim { count: 3, stride: 5 };
        run.addr.base = 100;
        run.addr.strides[0] = 4;
        run.words = 4;
        run
    }

    #[test]
    fn the_issues_that_touch_a_word() {
        let read = run(Opcode::Read);
        assert_eq!(touches(&read, 99, 1000), [0u64; 0]);
        assert_eq!(touches(&read, 100, 1000), [1000]);
        assert_eq!(touches(&read, 107, 1000), [1005]);
        assert_eq!(touches(&read, 111, 1000), [1010]);
        assert_eq!(touches(&read, 112, 1000), [0u64; 0]);
        let mut gather = run(Opcode::Gather);
        (gather.limit, gather.row_stride, gather.words) = (3, 8, 0);
        // Rows at 100, 108 and 116 for the first issue, four words each.
        assert_eq!(touches(&gather, 119, 0), [0, 10]);
        assert_eq!(touches(&gather, 120, 0), [5]);
    }

    #[test]
    fn issues_up_to_a_cycle() {
        let read = run(Opcode::Read);
        assert_eq!(
            [0, 1, 5, 6, 11, 99].map(|c| issues_before(&read, c)),
            [0, 1, 1, 2, 3, 3]
        );
    }
}
