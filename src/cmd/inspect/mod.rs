//! `lockstep inspect`: sections of an artifact, the program of a stage, or the answer to a question.

mod questions;

use super::print_json;
use crate::args::{InspectVerb, Section, Stage};
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::subject::{self, Kind};
use crate::{show, text};
use lockstep::isa::artifact::{HostTensor, ValueKind, container, sections};
use lockstep::isa::disasm::{self, Line};
use lockstep::isa::{Opcode, Queue};
use lockstep::runtime::host_tensor::describe;
use lockstep::{Artifact, files};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A result in both forms.
struct Shown {
    lines: Vec<String>,
    value: Value,
}

/// Runs the verb.
///
/// # Errors
/// A subject that cannot be opened; a stage that needs a model; a chip or entry that does not exist.
pub fn run(verb: &InspectVerb) -> Outcome {
    let mut progress = Progress::new();
    if let Some(stage) = verb.stage.filter(|s| *s != Stage::Sched) {
        let text = stage_text(verb, stage, &mut progress)?;
        drop(progress);
        let kept = text
            .lines()
            .filter(|l| verb.node.as_ref().is_none_or(|n| l.contains(n.as_str())));
        let kept: Vec<String> = kept.map(str::to_owned).collect();
        if verb.json {
            print_json(&json!({ "version": JSON_VERSION, "lines": kept }));
        } else {
            show::lines(kept);
        }
        return Ok(());
    }
    let artifact = subject::open(&verb.subject, &mut progress)?;
    drop(progress);
    let entry = subject::entry(&artifact, verb.entry.as_deref())?;
    if let Some(chip) = verb.chip.filter(|c| *c >= artifact.n_chips) {
        return Err(Failure::usage(format!(
            "chip {chip} does not exist; the artifact has {}",
            artifact.n_chips
        )));
    }
    let view = View {
        artifact: &artifact,
        entry,
        verb,
    };
    let shown = match (verb.stage, verb.section) {
        (Some(_), _) => view.schedule(),
        (None, Some(Section::Header)) => view.header()?,
        (None, Some(Section::Io)) => view.io(),
        (None, Some(Section::Memory)) => view.memory(),
        (None, Some(Section::Chips)) => view.chips(),
        (None, Some(Section::Queues)) => view.queues(),
        (None, Some(Section::Links)) => view.links(),
        (None, Some(Section::Provenance)) => view.provenance(),
        (None, None)
            if verb.address.is_some() || verb.chain.is_some() || verb.cycle.is_some() || verb.node.is_some() =>
        {
            match (verb.address, verb.chain, verb.cycle, verb.node.as_deref()) {
                (Some(at), ..) => view.address(at)?,
                (_, Some(chain), ..) => view.chain(chain)?,
                (_, _, Some(cycles), _) => view.running(cycles),
                (_, _, _, node) => view.node(node.unwrap_or_default())?,
            }
        }
        (None, None) => {
            let (io, chips) = (view.io(), view.chips());
            let mut lines = io.lines;
            lines.push(String::new());
            lines.extend(chips.lines);
            Shown {
                lines,
                value: json!({ "io": io.value, "chips": chips.value }),
            }
        }
    };
    if verb.json {
        print_json(&json!({ "version": JSON_VERSION, "model": artifact.name, "result": shown.value }));
    } else {
        show::lines(shown.lines);
    }
    Ok(())
}

#[cfg(feature = "compile")]
fn stage_text(verb: &InspectVerb, stage: Stage, progress: &mut Progress) -> Outcome<String> {
    use crate::subject::model::{self, Stages};
    if subject::kind(&verb.subject.path)? == Kind::Artifact {
        return Err(Failure::usage(format!(
            "{:?} is an artifact, which holds the stage sched alone; the stages before it need the model",
            verb.subject.path
        )));
    }
    if stage == Stage::Graph {
        let entries = model::import(&verb.subject.path, &verb.subject.options, progress)?.entries;
        let texts = entries.iter().map(|(_, graph)| lockstep::graph::print::print(graph));
        return Ok(texts.collect::<Vec<_>>().join("\n"));
    }
    let name = if stage == Stage::Tir { "optimize" } else { "partition" };
    let stages = Stages {
        dump_after: Some(name.into()),
        stop_after: Some(name.into()),
    };
    let mut text = String::new();
    model::compile(
        &verb.subject.path,
        &verb.subject.options,
        stages,
        progress,
        &mut |_, dump| {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(dump);
        },
    )?;
    Ok(text)
}

#[cfg(not(feature = "compile"))]
fn stage_text(verb: &InspectVerb, _: Stage, _: &mut Progress) -> Outcome<String> {
    let what = match subject::kind(&verb.subject.path)? {
        Kind::Artifact => "an artifact holds the stage sched alone",
        Kind::Model => "this build has no compiler; build with feature \"compile\"",
    };
    Err(Failure::usage(format!("{:?}: {what}", verb.subject.path)))
}

/// An entry of an artifact through the filters of the options.
struct View<'a> {
    artifact: &'a Artifact,
    entry: usize,
    verb: &'a InspectVerb,
}

/// What one queue does.
#[derive(Default)]
struct QueueUse {
    runs: u64,
    issues: u64,
    busy: u64,
    first: Option<u64>,
    last: u64,
    words: u64,
}

impl<'a> View<'a> {
    /// Model nodes of a run.
    fn nodes(&self, line: &Line<'_>) -> &'a [String] {
        let entry = &self.artifact.entries[self.entry];
        let chip = entry.chips.get(line.chip as usize);
        let origin = chip.and_then(|c| c.origins.get(line.index as usize));
        origin
            .and_then(|&o| entry.origins.get(o as usize))
            .map_or(&[], |o| &o.nodes)
    }

    fn keeps_chip(&self, chip: usize) -> bool {
        self.verb.chip.is_none_or(|c| c as usize == chip)
    }

    fn keeps_node(&self, op: &str, nodes: &[String]) -> bool {
        let wanted = self.verb.node.as_deref();
        wanted.is_none_or(|w| op.contains(w) || nodes.iter().any(|n| n.contains(w)))
    }

    /// The runs that pass all filters.
    fn runs(&self) -> impl Iterator<Item = Line<'a>> + '_ {
        disasm::lines(self.artifact, self.entry).filter(|l| {
            let last = l.cycle + u64::from(l.run.last_offset());
            self.keeps_chip(l.chip as usize)
                && self.verb.cycle.is_none_or(|(a, b)| l.cycle < b && last >= a)
                && self.keeps_node(l.origin, self.nodes(l))
        })
    }

    fn schedule(&self) -> Shown {
        let (a, e) = (self.artifact, &self.artifact.entries[self.entry]);
        let mut lines = vec![format!(
            "sched v1 @{} entry={:?} chips={} makespan={}",
            a.name, e.name, a.n_chips, e.makespan
        )];
        let mut values = Vec::new();
        for line in self.runs() {
            if self.verb.json {
                values.push(json!({
                    "chip": line.chip,
                    "queue": disasm::queue_name(&a.target, line.chip, line.run.queue),
                    "cycle": line.cycle,
                    "last_cycle": line.cycle + u64::from(line.run.last_offset()),
                    "issues": line.run.issues(),
                    "text": disasm::disasm_run(line.run),
                    "chain": line.chain,
                    "op": line.origin,
                    "nodes": self.nodes(&line),
                }));
            } else {
                lines.push(show::run(&line.text(&a.target)));
            }
        }
        let value = json!({ "entry": e.name, "makespan_cycles": e.makespan, "runs": values });
        Shown { lines, value }
    }

    fn header(&self) -> Outcome<Shown> {
        let own;
        let bytes: &[u8] = if subject::kind(&self.verb.subject.path)? == Kind::Artifact {
            own = files::map_file(&self.verb.subject.path)?;
            own.as_ref()
        } else {
            let what = "the section header is that of a file; compile the model first";
            return Err(Failure::usage(format!("{:?}: {what}", self.verb.subject.path)));
        };
        let table = sections(bytes).map_err(|source| {
            Failure::from(files::FileError::Artifact {
                path: self.verb.subject.path.clone(),
                source,
            })
        })?;
        let mut rows = vec![text::row(["section", "offset", "bytes", "crc32", "blake3"])];
        let mut values = Vec::new();
        for s in &table {
            let hex: String = s.blake3.iter().map(|b| format!("{b:02x}")).collect();
            let length = s.range.end - s.range.start;
            values.push(json!({
                "section": s.section.name(), "offset": s.range.start, "bytes": length,
                "crc32": format!("{:08x}", s.crc32), "blake3": hex,
            }));
            rows.push(vec![
                s.section.name().to_owned(),
                s.range.start.to_string(),
                length.to_string(),
                format!("{:08x}", s.crc32),
                hex[..16].to_owned(),
            ]);
        }
        let mut lines = vec![format!("format version {}, {} bytes", container::VERSION, bytes.len())];
        lines.extend(show::table(&rows));
        let value = json!({ "format_version": container::VERSION, "bytes": bytes.len(), "sections": values });
        Ok(Shown { lines, value })
    }

    fn io(&self) -> Shown {
        let (a, e) = (self.artifact, &self.artifact.entries[self.entry]);
        let mut lines = vec![format!(
            "{} for {} on {} chips, entry {}",
            a.name, a.target.name, a.n_chips, e.name
        )];
        let tensor = |t: &HostTensor| json!({ "name": t.name, "dtype": t.dtype.name(), "shape": t.shape });
        lines.extend(
            e.inputs
                .iter()
                .map(|t| format!("in   {} {}", t.name, describe(t.dtype, &t.shape))),
        );
        lines.extend(
            e.outputs
                .iter()
                .map(|t| format!("out  {} {}", t.name, describe(t.dtype, &t.shape))),
        );
        // Every chip that holds a part of a state has its own record of it.
        let all = a.states.iter();
        let mut states: Vec<(&str, &str)> = all.map(|s| (s.from.as_str(), s.name.as_str())).collect();
        states.sort_unstable();
        states.dedup();
        lines.extend(states.iter().map(|(from, input)| format!("state {from} -> {input}")));
        let value = json!({
            "entry": e.name,
            "inputs": e.inputs.iter().map(tensor).collect::<Vec<_>>(),
            "outputs": e.outputs.iter().map(tensor).collect::<Vec<_>>(),
            "states": states.iter().map(|(from, input)| json!({ "from": from, "input": input })).collect::<Vec<_>>(),
        });
        Shown { lines, value }
    }

    fn memory(&self) -> Shown {
        let e = &self.artifact.entries[self.entry];
        let target = &self.artifact.target;
        if let Some(chip) = self.verb.chip {
            return self.banks(chip);
        }
        let mut rows = vec![text::row([
            "chip", "const", "state", "input", "computed", "live", "SRAM",
        ])];
        let mut values = Vec::new();
        let mut of = vec![[0u64; 5]; self.artifact.n_chips as usize];
        for v in &e.values {
            let Some(sums) = of.get_mut(v.chip as usize) else {
                continue;
            };
            let all = u64::from(v.n_vectors) * u64::from(v.dtype.words()) * target.word_bytes() as u64;
            let kind = match v.kind {
                ValueKind::Const(_) => 0,
                ValueKind::State(_) => 1,
                ValueKind::Input => 2,
                ValueKind::Computed => 3,
                // It lies on the state that it replaces.
                ValueKind::NextState(_) => continue,
            };
            sums[kind] += all;
            sums[4] += u64::from(v.n_vectors) * u64::from(v.hi.saturating_sub(v.lo)) * v.dtype.bytes() as u64;
        }
        for (chip, sums) in of.iter().enumerate() {
            values.push(json!({
                "chip": chip, "const_bytes": sums[0], "state_bytes": sums[1], "input_bytes": sums[2],
                "computed_bytes": sums[3], "live_bytes": sums[4], "sram_bytes": target.sram_bytes(),
            }));
            let mut row = vec![format!("c{chip}")];
            row.extend(sums.iter().map(|&n| text::bytes(n)));
            row.push(text::bytes(target.sram_bytes()));
            rows.push(row);
        }
        let mut lines = show::table(&rows);
        lines.push("computed values share rows over time; their sum may exceed the SRAM".into());
        Shown {
            lines,
            value: json!(values),
        }
    }

    /// The values of a chip, bank by bank.
    fn banks(&self, chip: u16) -> Shown {
        let e = &self.artifact.entries[self.entry];
        let mut found: Vec<_> = e.values.iter().enumerate().filter(|(_, v)| v.chip == chip).collect();
        found.sort_by_key(|(i, v)| (v.place, v.base, *i));
        let mut rows = vec![text::row([
            "bank", "words", "value", "kind", "vectors", "lanes", "dtype",
        ])];
        let mut values = Vec::new();
        for (i, v) in found {
            let kind = match v.kind {
                ValueKind::Const(_) => "const",
                ValueKind::State(_) => "state",
                ValueKind::Input => "input",
                ValueKind::Computed => "computed",
                ValueKind::NextState(_) => "next state",
            };
            let end = u64::from(v.base) + u64::from(v.n_vectors) * u64::from(v.dtype.words());
            let bank = disasm::queue_name(&self.artifact.target, chip, Queue::Mem(v.place));
            values.push(json!({
                "bank": bank, "first_word": v.base, "end_word": end, "value": i, "kind": kind,
                "vectors": v.n_vectors, "lanes": [v.lo, v.hi], "dtype": v.dtype.name(),
            }));
            rows.push(vec![
                bank,
                format!("{:#06x}..{end:#06x}", v.base),
                format!("v{i}"),
                kind.to_owned(),
                v.n_vectors.to_string(),
                format!("{}:{}", v.lo, v.hi),
                v.dtype.to_string(),
            ]);
        }
        Shown {
            lines: show::table(&rows),
            value: json!(values),
        }
    }

    fn chips(&self) -> Shown {
        let (a, e) = (self.artifact, &self.artifact.entries[self.entry]);
        let mut rows = vec![text::row(["chip", "program", "start", "runs", "issues", "text"])];
        let mut values = Vec::new();
        for (c, chip) in e.chips.iter().enumerate().filter(|(c, _)| self.keeps_chip(*c)) {
            let Some(program) = a.programs.get(chip.program as usize) else {
                continue;
            };
            let issues: u64 = program.runs.iter().map(|r| u64::from(r.issues())).sum();
            values.push(json!({
                "chip": c, "program": chip.program, "start_cycle": chip.start, "runs": program.runs.len(),
                "issues": issues, "text_bytes": program.text_bytes(),
            }));
            rows.push(vec![
                format!("c{c}"),
                chip.program.to_string(),
                format!("@{}", chip.start),
                program.runs.len().to_string(),
                issues.to_string(),
                text::bytes(program.text_bytes()),
            ]);
        }
        Shown {
            lines: show::table(&rows),
            value: json!(values),
        }
    }

    /// What every queue that passes the filters does.
    fn queue_use(&self) -> BTreeMap<(u16, Queue), QueueUse> {
        let target = &self.artifact.target;
        let mut all: BTreeMap<(u16, Queue), QueueUse> = BTreeMap::new();
        for line in self.runs() {
            let q = all.entry((line.chip, line.run.queue)).or_default();
            let issues = u64::from(line.run.issues());
            let occupancy = u64::from(target.occupancy(line.run.op, line.run.dtype));
            let last = line.cycle + u64::from(line.run.last_offset());
            q.runs += 1;
            q.issues += issues;
            q.busy += issues * occupancy;
            q.first = Some(q.first.map_or(line.cycle, |f| f.min(line.cycle)));
            q.last = q.last.max(last);
            if line.run.op == Opcode::Send {
                q.words += issues;
            }
        }
        all
    }

    fn queues(&self) -> Shown {
        let makespan = self.artifact.entries[self.entry].makespan.max(1);
        let mut rows = vec![text::row([
            "queue", "does", "runs", "issues", "first", "last", "busy", "share",
        ])];
        let mut values = Vec::new();
        for ((chip, queue), q) in self.queue_use() {
            let name = disasm::queue_name(&self.artifact.target, chip, queue);
            let does = match queue {
                Queue::Mem(_) => "access",
                Queue::MxmLoad(..) => "load",
                Queue::MxmMul(..) => "mul",
                Queue::Alu(_) => "alu",
                Queue::Sxm(_) => "move",
                Queue::Send(_) => "send",
                Queue::Recv(_) => "recv",
            };
            let share = q.busy as f64 / makespan as f64;
            values.push(json!({
                "queue": name, "does": does, "runs": q.runs, "issues": q.issues, "first_cycle": q.first,
                "last_cycle": q.last, "busy_cycles": q.busy, "share": share,
            }));
            rows.push(vec![
                name,
                does.to_owned(),
                q.runs.to_string(),
                q.issues.to_string(),
                q.first.unwrap_or(0).to_string(),
                q.last.to_string(),
                q.busy.to_string(),
                format!("{:.1} %", 100.0 * share),
            ]);
        }
        Shown {
            lines: show::table(&rows),
            value: json!(values),
        }
    }

    fn links(&self) -> Shown {
        let a = self.artifact;
        let makespan = a.entries[self.entry].makespan.max(1);
        let mut rows = vec![text::row(["link", "to", "words", "bytes", "first", "last", "load"])];
        let mut values = Vec::new();
        for ((chip, queue), q) in self.queue_use() {
            let Queue::Send(link) = queue else { continue };
            let peer = a.target.topology.peer(chip, link, a.target.c2c.local_links, a.n_chips);
            let to = peer.map_or(String::from("nowhere"), |p| format!("c{}", p.chip));
            let load = q.words as f64 * f64::from(a.target.c2c.cycles_per_word) / makespan as f64;
            let bytes = q.words * a.target.word_bytes() as u64;
            let name = disasm::queue_name(&a.target, chip, queue);
            values.push(json!({
                "link": name, "to_chip": peer.map(|p| p.chip), "words": q.words, "bytes": bytes,
                "first_cycle": q.first, "last_cycle": q.last, "load": load,
            }));
            rows.push(vec![
                name,
                to,
                q.words.to_string(),
                text::bytes(bytes),
                q.first.unwrap_or(0).to_string(),
                q.last.to_string(),
                format!("{:.1} %", 100.0 * load),
            ]);
        }
        let mut lines = show::table(&rows);
        if values.is_empty() {
            lines = vec!["no link is used".into()];
        }
        Shown {
            lines,
            value: json!(values),
        }
    }

    fn provenance(&self) -> Shown {
        let e = &self.artifact.entries[self.entry];
        struct Use {
            runs: u64,
            first: u64,
            last: u64,
            chips: Vec<u16>,
        }
        let mut uses: BTreeMap<u32, Use> = BTreeMap::new();
        for line in self.runs() {
            let origin = e
                .chips
                .get(line.chip as usize)
                .and_then(|c| c.origins.get(line.index as usize));
            let Some(&origin) = origin else { continue };
            let last = line.cycle + u64::from(line.run.last_offset());
            let u = uses.entry(origin).or_insert(Use {
                runs: 0,
                first: line.cycle,
                last,
                chips: Vec::new(),
            });
            u.runs += 1;
            u.first = u.first.min(line.cycle);
            u.last = u.last.max(last);
            if u.chips.last() != Some(&line.chip) {
                u.chips.push(line.chip);
            }
        }
        let mut order: Vec<_> = uses.into_iter().collect();
        order.sort_by_key(|(o, u)| (u.first, *o));
        let mut rows = vec![text::row([
            "operation",
            "first",
            "last",
            "runs",
            "chips",
            "model nodes",
        ])];
        let mut values = Vec::new();
        for (o, u) in order {
            let Some(origin) = e.origins.get(o as usize) else {
                continue;
            };
            values.push(json!({
                "op": origin.op, "nodes": origin.nodes, "runs": u.runs,
                "first_cycle": u.first, "last_cycle": u.last, "chips": u.chips,
            }));
            let chips: Vec<String> = u.chips.iter().map(|c| format!("c{c}")).collect();
            rows.push(vec![
                origin.op.clone(),
                u.first.to_string(),
                u.last.to_string(),
                u.runs.to_string(),
                chips.join(" "),
                origin.nodes.join(", "),
            ]);
        }
        Shown {
            lines: show::table(&rows),
            value: json!(values),
        }
    }
}
