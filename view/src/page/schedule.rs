//! Programs and entries as blobs of columns.

use super::columns::{Blob, Column};
use super::queues::Queues;
use super::text::Templates;
use crate::flow::{Flow, Via};
use lockstep_isa::artifact::{Entry, HostTensor, Program, ValueKind};
use lockstep_isa::{Artifact, Queue, disasm};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A program: per run its queue, first cycle, dimensions, occupancy, cycles from the last issue to the end, and text.
pub(super) fn program(artifact: &Artifact, program: &Program, queues: &Queues, texts: &mut Templates) -> String {
    let t = &artifact.target;
    let names = [
        "queue",
        "cycle",
        "n0",
        "s0",
        "n1",
        "s1",
        "n2",
        "s2",
        "occupancy",
        "tail",
        "text",
    ];
    let mut columns: [Column; 11] = Default::default();
    // A column stores differences; to store the numbers' own ones it holds their sums.
    let mut numbers = Column::default();
    let mut sum = 0i64;
    texts.restart();
    for run in &program.runs {
        let (text, deltas) = texts.cut(&disasm::disasm_run(run));
        let [d0, d1, d2] = run.dims;
        let row = [
            queues.number(run.queue) as i64,
            run.cycle as i64,
            d0.count as i64,
            d0.stride as i64,
            d1.count as i64,
            d1.stride as i64,
            d2.count as i64,
            d2.stride as i64,
            t.occupancy(run.op, run.dtype) as i64,
            t.run_end(run) as i64 - run.last_offset() as i64,
            text as i64,
        ];
        for (column, n) in columns.iter_mut().zip(row) {
            column.push(n);
        }
        for delta in deltas {
            sum += delta;
            numbers.push(sum);
        }
    }
    let mut blob = Blob::default();
    for (name, column) in names.into_iter().zip(columns) {
        blob.put(name, column);
    }
    blob.put("numbers", numbers);
    blob.finish()
}

/// An entry: of every run its chain, origin, value and sources; values; chains.
pub(super) fn entry(artifact: &Artifact, index: usize, entry: &Entry) -> String {
    let flow = Flow::of(artifact, index);
    let [mut chain, mut origin, mut value, mut n_sources] = <[Column; 4]>::default();
    let [mut source, mut via] = <[Column; 2]>::default();
    // Sources that lie equally far before the runs that take them give equal numbers.
    let (mut sum, mut number) = (0i64, 0u32);
    for chip in &entry.chips {
        for (claims, o) in chip.claims.iter().zip(&chip.origins) {
            chain.push(claims.chain as i64);
            origin.push(*o as i64);
            value.push(claims.mem.map_or(-1, |m| m.value as i64));
            let sources = flow.sources(number);
            n_sources.push(sources.len() as i64);
            for s in sources {
                sum += number as i64 - s.run as i64;
                source.push(sum);
                via.push(s.via as i64);
            }
            number += 1;
        }
    }
    let mut blob = Blob::default();
    blob.put("chain", chain);
    blob.put("origin", origin);
    blob.put("value", value);
    blob.put("n_sources", n_sources);
    blob.put("source", source);
    blob.put("via", via);
    values(artifact, entry, &mut blob);
    let [mut chip, mut to, mut origin] = <[Column; 3]>::default();
    for c in &entry.chains {
        chip.push(c.chip as i64);
        to.push(c.to.map_or(-1, i64::from));
        origin.push(c.origin as i64);
    }
    blob.put("chain_chip", chip);
    blob.put("chain_to", to);
    blob.put("chain_origin", origin);
    blob.finish()
}

fn values(artifact: &Artifact, entry: &Entry, blob: &mut Blob) {
    let names = [
        "v_chip", "v_bank", "v_base", "v_words", "v_dtype", "v_lo", "v_hi", "v_kind", "v_of",
    ];
    let mut columns: [Column; 9] = Default::default();
    let t = &artifact.target;
    for v in &entry.values {
        let (kind, of) = match v.kind {
            ValueKind::Const(i) => (0, i as i64),
            ValueKind::Input => (1, -1),
            ValueKind::State(i) => (2, i as i64),
            ValueKind::Computed => (3, -1),
            ValueKind::NextState(i) => (4, i as i64),
        };
        let row = [
            v.chip as i64,
            v.place.dense(t.groups, t.banks) as i64,
            v.base as i64,
            v.n_vectors as i64 * v.dtype.words() as i64,
            v.dtype as i64,
            v.lo as i64,
            v.hi as i64,
            kind,
            of,
        ];
        for (column, n) in columns.iter_mut().zip(row) {
            column.push(n);
        }
    }
    for (name, column) in names.into_iter().zip(columns) {
        blob.put(name, column);
    }
}

/// What the page needs of an entry beside the columns: names, programs, signature, where the steps of the critical path lie.
pub(super) fn describe(artifact: &Artifact, index: usize, entry: &Entry, report: &Value) -> Value {
    let chips: Vec<Value> = entry.chips.iter().map(|c| json!([c.program, c.start])).collect();
    // Names of nodes occur in many origins.
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut nodes: Vec<&str> = Vec::new();
    let mut origins = Vec::new();
    for o in &entry.origins {
        let mut mine = Vec::new();
        for name in &o.nodes {
            mine.push(*numbers.entry(name).or_insert_with(|| {
                nodes.push(name);
                nodes.len() - 1
            }));
        }
        origins.push(json!([o.op, mine]));
    }
    let tensor = |t: &HostTensor| {
        let mut values: Vec<u32> = t.nests.iter().map(|n| n.value).collect();
        values.sort_unstable();
        values.dedup();
        json!({ "name": t.name, "dtype": t.dtype.name(), "shape": t.shape, "values": values })
    };
    json!({
        "name": entry.name,
        "makespan": entry.makespan,
        "chips": chips,
        "nodes": nodes,
        "origins": origins,
        "inputs": entry.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": entry.outputs.iter().map(tensor).collect::<Vec<_>>(),
        "critical": critical(artifact, index, report),
    })
}

/// The first run of each step of the report's critical path: of the step's operation, issued in its first cycle. -1 where the
/// report names something else.
fn critical(artifact: &Artifact, index: usize, report: &Value) -> Vec<i64> {
    let mut first: BTreeMap<(&str, u64), i64> = BTreeMap::new();
    for (number, line) in disasm::lines(artifact, index).enumerate() {
        first.entry((line.origin, line.cycle)).or_insert(number as i64);
    }
    let steps = report.get("critical_path").and_then(Value::as_array);
    let steps = steps.map_or(&[][..], Vec::as_slice).iter();
    steps
        .map(|step| {
            let op = step.get("op").and_then(Value::as_str).unwrap_or("");
            let start = step.get("start").and_then(Value::as_u64).unwrap_or(0);
            first.get(&(op, start)).copied().unwrap_or(-1)
        })
        .collect()
}

/// Who is wired to whom by the links in use: chip, link, far chip, far link.
pub(super) fn wires(artifact: &Artifact) -> Value {
    let t = &artifact.target;
    let mut out = Vec::new();
    for entry in &artifact.entries {
        for (c, chip) in entry.chips.iter().enumerate() {
            let runs = artifact
                .programs
                .get(chip.program as usize)
                .map_or(&[][..], |p| &p.runs);
            for run in runs {
                let Queue::Send(link) = run.queue else { continue };
                let peer = t.topology.peer(c as u16, link, t.c2c.local_links, artifact.n_chips);
                if let Some(p) = peer {
                    out.push([c as u16, link as u16, p.chip, p.link as u16]);
                }
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    json!(out)
}

/// Names of the ways between runs, by number.
pub(super) fn ways() -> Vec<&'static str> {
    Via::ALL.map(Via::name).to_vec()
}
