//! The list of all figures of a target: one table for ranges, printing, the TOML file and the artifact's section.
//!
//! Each row of the table is a field path, the place in [`Target`] that holds it, and the range allowed. What a range
//! cannot say (one figure depends on another) is in [`Target::check`].

use crate::target::{MxmRate, Target};
use crate::topology::Topology;
use std::fmt::Write;

/// Why a target cannot be used: the target's name, the field, what was found and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("target {target:?}: {kind}")]
pub struct TargetError {
    /// Name of the target.
    pub target: String,
    /// What is wrong with it.
    pub kind: TargetErrorKind,
}

/// What is wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetErrorKind {
    /// The text is no TOML.
    #[error("line {line}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// The parser's message.
        message: String,
    },
    /// A field (or a key of `[sources]`) that no target has.
    #[error("field {field:?} is not known; allowed are {allowed}")]
    Unknown {
        /// The field.
        field: String,
        /// Fields of the same table.
        allowed: String,
    },
    /// A field that is not there.
    #[error("field {field:?} is missing; allowed is {allowed}")]
    Missing {
        /// The field.
        field: String,
        /// Range or type.
        allowed: String,
    },
    /// A value out of its range, or of another type.
    #[error("field {field:?}: found {found}, allowed is {allowed}")]
    Value {
        /// The field.
        field: String,
        /// The value.
        found: String,
        /// Range or type.
        allowed: String,
    },
    /// A base that is not built in.
    #[error("field \"base\": found {found:?}, allowed are {allowed}")]
    Base {
        /// The name.
        found: String,
        /// Names of the built-in targets.
        allowed: String,
    },
}

/// One figure of a target as printed: `lockstep targets show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Field path (`mxm.f32.planes`).
    pub field: String,
    /// Value, as written in TOML.
    pub value: String,
    /// Citation, or `assumed: ` and the reason.
    pub note: String,
}

/// Where a figure is kept.
pub(crate) enum Slot<'a> {
    U64(&'a mut u64),
    U16(&'a mut u16),
    U8(&'a mut u8),
    F64(&'a mut f64),
    /// A rate has two figures below its field: `planes` and `cycles_per_vector`.
    Rate(&'a mut Option<MxmRate>),
    /// `topology.kind` and, for nodes, `topology.node`.
    Topology(&'a mut Topology),
}

/// One row of the table.
pub(crate) struct Row<'a> {
    pub field: &'static str,
    pub slot: Slot<'a>,
    pub min: u64,
    pub max: u64,
}

/// The note of a figure for which a target file names no source.
pub const NO_SOURCE: &str = "no source given";

/// The table, in the order of the file. Ranges are inclusive; energies are picojoules.
pub(crate) fn rows(t: &mut Target) -> Vec<Row<'_>> {
    use Slot::{F64, Rate, U8, U16, U64};
    let row = |field, slot, min, max| Row { field, slot, min, max };
    let (l, m, p, c, e) = (&mut t.latency, &mut t.mxm, &mut t.position, &mut t.c2c, &mut t.energy);
    vec![
        row("clock_hz", U64(&mut t.clock_hz), 1, 1_000_000_000_000),
        row("lanes", U16(&mut t.lanes), 16, 4096),
        row("streams", U8(&mut t.streams), 4, 64),
        row("max_chips", U16(&mut t.max_chips), 1, 60_000),
        row("mem.groups", U8(&mut t.groups), 1, 64),
        row("mem.slices", U8(&mut t.slices), 4, 64),
        row("mem.banks", U8(&mut t.banks), 1, 8),
        row("mem.rows", U16(&mut t.rows), 1, 16_384),
        row("mxm.planes_per_hemisphere", U8(&mut m.planes_per_hemisphere), 1, 16),
        row("mxm.acc_rows", U16(&mut m.acc_rows), 1, 65_535),
        row("mxm.load_words_per_cycle", U8(&mut m.load_words_per_cycle), 4, 64),
        row("mxm.f32", Rate(&mut m.f32), 1, 1024),
        row("mxm.f16", Rate(&mut m.f16), 1, 1024),
        row("mxm.bf16", Rate(&mut m.bf16), 1, 1024),
        row("mxm.i8", Rate(&mut m.i8), 1, 1024),
        row("vxm.alus", U8(&mut t.vxm.alus), 4, 64),
        row("vxm.max_delay", U8(&mut t.vxm.max_delay), 0, 255),
        row("latency.read", U16(&mut l.read), 1, 4096),
        row("latency.write", U16(&mut l.write), 1, 4096),
        row("latency.index", U16(&mut l.index), 0, 4096),
        row("latency.load", U16(&mut l.load), 1, 4096),
        row("latency.mul", U16(&mut l.mul), 1, 4096),
        row("latency.alu_simple", U16(&mut l.alu_simple), 1, 4096),
        row("latency.alu_mul", U16(&mut l.alu_mul), 1, 4096),
        row("latency.alu_div", U16(&mut l.alu_div), 1, 4096),
        row("latency.alu_exp", U16(&mut l.alu_exp), 1, 4096),
        row("latency.fold", U16(&mut l.fold), 1, 4096),
        row("latency.permute", U16(&mut l.permute), 1, 4096),
        row("latency.transpose", U16(&mut l.transpose), 1, 4096),
        row("latency.reduce", U16(&mut l.reduce), 1, 4096),
        row("position.mem_first", U16(&mut p.mem_first), 1, 4096),
        row("position.mem_step", U16(&mut p.mem_step), 1, 64),
        row("position.sxm", U16(&mut p.sxm), 1, 8192),
        row("position.mxm", U16(&mut p.mxm), 1, 8192),
        row("position.c2c", U16(&mut p.c2c), 1, 8192),
        row("c2c.local_links", U8(&mut c.local_links), 0, 63),
        row("c2c.global_links", U8(&mut c.global_links), 0, 32),
        row("c2c.cycles_per_word", U16(&mut c.cycles_per_word), 1, 4096),
        row("c2c.latency", U16(&mut c.latency), 1, 60_000),
        row("topology", Slot::Topology(&mut t.topology), 2, 64),
        row("energy.mac_i8", F64(&mut e.mac_i8), 0, 1_000_000),
        row("energy.mac_f16", F64(&mut e.mac_f16), 0, 1_000_000),
        row("energy.mac_f32", F64(&mut e.mac_f32), 0, 1_000_000),
        row("energy.alu_lane", F64(&mut e.alu_lane), 0, 1_000_000),
        row("energy.sram_bit", F64(&mut e.sram_bit), 0, 1_000_000),
        row("energy.hop_bit", F64(&mut e.hop_bit), 0, 1_000_000),
        row("energy.link_bit", F64(&mut e.link_bit), 0, 1_000_000),
    ]
}

impl Row<'_> {
    /// The figures below this row: field path and value.
    pub(crate) fn values(&self) -> Vec<(String, String)> {
        let f = self.field;
        match &self.slot {
            Slot::U64(v) => vec![(f.to_string(), v.to_string())],
            Slot::U16(v) => vec![(f.to_string(), v.to_string())],
            Slot::U8(v) => vec![(f.to_string(), v.to_string())],
            Slot::F64(v) => vec![(f.to_string(), format!("{v:?}"))],
            Slot::Rate(None) => Vec::new(),
            Slot::Rate(Some(r)) => vec![
                (format!("{f}.planes"), r.planes.to_string()),
                (format!("{f}.cycles_per_vector"), r.cycles_per_vector.to_string()),
            ],
            Slot::Topology(Topology::Ring) => vec![(format!("{f}.kind"), "\"ring\"".to_string())],
            Slot::Topology(Topology::Nodes { node }) => vec![
                (format!("{f}.kind"), "\"nodes\"".to_string()),
                (format!("{f}.node"), node.to_string()),
            ],
        }
    }

    /// The row as one word, as it is stored in an artifact.
    pub(crate) fn word(&self) -> u64 {
        match &self.slot {
            Slot::U64(v) => **v,
            Slot::U16(v) => **v as u64,
            Slot::U8(v) => **v as u64,
            Slot::F64(v) => v.to_bits(),
            Slot::Rate(None) => 0,
            Slot::Rate(Some(r)) => (r.planes as u64) << 16 | r.cycles_per_vector as u64,
            Slot::Topology(Topology::Ring) => 0,
            Slot::Topology(Topology::Nodes { node }) => *node as u64,
        }
    }

    /// Sets the row from a stored word; `false` where the word does not fit.
    pub(crate) fn set_word(&mut self, word: u64) -> bool {
        match &mut self.slot {
            Slot::U64(v) => **v = word,
            Slot::U16(v) => match u16::try_from(word) {
                Ok(w) => **v = w,
                Err(_) => return false,
            },
            Slot::U8(v) => match u8::try_from(word) {
                Ok(w) => **v = w,
                Err(_) => return false,
            },
            Slot::F64(v) => **v = f64::from_bits(word),
            Slot::Rate(v) => {
                let Ok(planes) = u8::try_from(word >> 16) else {
                    return false;
                };
                **v = (word != 0).then_some(MxmRate {
                    planes,
                    cycles_per_vector: word as u16,
                });
            }
            Slot::Topology(v) => match u8::try_from(word) {
                Ok(0) => **v = Topology::Ring,
                Ok(node) => **v = Topology::Nodes { node },
                Err(_) => return false,
            },
        }
        true
    }

    /// Checks the row's own range; the error names field, value and range.
    fn check(&self) -> Result<(), TargetErrorKind> {
        let (min, max) = (self.min, self.max);
        let bad = |field: String, found: String| {
            Err(TargetErrorKind::Value {
                field,
                found,
                allowed: format!("{min}..={max}"),
            })
        };
        let within = |v: u64| (min..=max).contains(&v);
        match &self.slot {
            Slot::U64(v) if !within(**v) => bad(self.field.into(), v.to_string()),
            Slot::U16(v) if !within(**v as u64) => bad(self.field.into(), v.to_string()),
            Slot::U8(v) if !within(**v as u64) => bad(self.field.into(), v.to_string()),
            Slot::F64(v) if !(**v >= min as f64 && **v <= max as f64 && v.is_sign_positive()) => {
                bad(self.field.into(), format!("{v:?}"))
            }
            Slot::Rate(Some(r)) if !within(r.cycles_per_vector as u64) => bad(
                format!("{}.cycles_per_vector", self.field),
                r.cycles_per_vector.to_string(),
            ),
            Slot::Topology(Topology::Nodes { node }) if !within(*node as u64) => {
                bad(format!("{}.node", self.field), node.to_string())
            }
            _ => Ok(()),
        }
    }
}

impl Target {
    /// A target with every figure zero, to be filled in row by row.
    pub(crate) fn blank(name: &str) -> Target {
        use crate::target::{C2c, Energy, Latencies, Mxm, Positions, Vxm};
        Target {
            name: name.to_string(),
            clock_hz: 0,
            lanes: 0,
            streams: 0,
            groups: 0,
            slices: 0,
            banks: 0,
            rows: 0,
            mxm: Mxm {
                planes_per_hemisphere: 0,
                acc_rows: 0,
                load_words_per_cycle: 0,
                f32: None,
                f16: None,
                bf16: None,
                i8: None,
            },
            vxm: Vxm { alus: 0, max_delay: 0 },
            latency: Latencies {
                read: 0,
                write: 0,
                index: 0,
                load: 0,
                mul: 0,
                alu_simple: 0,
                alu_mul: 0,
                alu_div: 0,
                alu_exp: 0,
                fold: 0,
                permute: 0,
                transpose: 0,
                reduce: 0,
            },
            position: Positions {
                mem_first: 0,
                mem_step: 0,
                sxm: 0,
                mxm: 0,
                c2c: 0,
            },
            c2c: C2c {
                local_links: 0,
                global_links: 0,
                cycles_per_word: 0,
                latency: 0,
            },
            topology: Topology::Ring,
            energy: Energy {
                mac_i8: 0.0,
                mac_f16: 0.0,
                mac_f32: 0.0,
                alu_lane: 0.0,
                sram_bit: 0.0,
                hop_bit: 0.0,
                link_bit: 0.0,
            },
            max_chips: 0,
            sources: Vec::new(),
        }
    }

    /// All figures in the order of the file, each with the note of its source ([`NO_SOURCE`] where there is none).
    pub fn figures(&self) -> Vec<Figure> {
        let mut t = self.clone();
        rows(&mut t)
            .iter()
            .flat_map(Row::values)
            .map(|(field, value)| {
                let note = self.sources.iter().find(|s| s.field == field);
                let note = note.map_or(NO_SOURCE, |s| s.note.as_str()).to_string();
                Figure { field, value, note }
            })
            .collect()
    }

    /// Checks every figure, alone and against the others.
    ///
    /// # Errors
    /// The first figure that is out of range, with what is allowed.
    pub fn check(&self) -> Result<(), TargetError> {
        self.check_kinds().map_err(|kind| TargetError {
            target: self.name.clone(),
            kind,
        })
    }

    fn check_kinds(&self) -> Result<(), TargetErrorKind> {
        let bad = |field: &str, found: String, allowed: String| {
            Err(TargetErrorKind::Value {
                field: field.to_string(),
                found,
                allowed,
            })
        };
        let name_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(name_ok) {
            let allowed = "1 to 64 letters, digits, `-`, `_`, `.`".to_string();
            return bad("name", format!("{:?}", self.name), allowed);
        }
        for row in rows(&mut self.clone()) {
            row.check()?;
        }
        if !self.lanes.is_multiple_of(16) {
            return bad("lanes", self.lanes.to_string(), "a multiple of 16".into());
        }
        if !self.streams.is_multiple_of(4) {
            return bad("streams", self.streams.to_string(), "a multiple of 4".into());
        }
        if !self.slices.is_multiple_of(4) {
            return bad("mem.slices", self.slices.to_string(), "a multiple of 4".into());
        }
        if self.bank_words() > 65_536 {
            let allowed = format!("at most {} with {} slices", 65_536 / self.slices as u32, self.slices);
            return bad("mem.rows", self.rows.to_string(), allowed);
        }
        if !self.vxm.alus.is_multiple_of(4) {
            return bad("vxm.alus", self.vxm.alus.to_string(), "a multiple of 4".into());
        }
        let planes = self.mxm.planes_per_hemisphere;
        for (name, rate) in [
            ("mxm.f32.planes", self.mxm.f32),
            ("mxm.f16.planes", self.mxm.f16),
            ("mxm.bf16.planes", self.mxm.bf16),
            ("mxm.i8.planes", self.mxm.i8),
        ] {
            if let Some(r) = rate
                && (r.planes == 0 || !planes.is_multiple_of(r.planes))
            {
                let allowed = format!("a divisor of planes_per_hemisphere, {planes}");
                return bad(name, r.planes.to_string(), allowed);
            }
        }
        let p = &self.position;
        let last = p.mem_first as u32 + p.mem_step as u32 * (self.groups as u32 - 1);
        for (name, at, before) in [
            ("position.sxm", p.sxm, last),
            ("position.mxm", p.mxm, p.sxm as u32),
            ("position.c2c", p.c2c, p.mxm as u32),
        ] {
            if at as u32 <= before {
                let allowed = format!("more than {before}, where the unit before it sits");
                return bad(name, at.to_string(), allowed);
            }
        }
        let (local, global) = (self.c2c.local_links, self.c2c.global_links);
        match self.topology {
            _ if self.max_chips == 1 => {}
            Topology::Ring => {
                if local != 2 {
                    return bad("c2c.local_links", local.to_string(), "2 in a ring".into());
                }
                if global != 0 {
                    return bad("c2c.global_links", global.to_string(), "0 in a ring".into());
                }
            }
            Topology::Nodes { node } => {
                if local < node - 1 {
                    let allowed = format!("at least {} for nodes of {node} chips", node - 1);
                    return bad("c2c.local_links", local.to_string(), allowed);
                }
                if global % 2 != 0 {
                    let allowed = "an even number, one half each way".to_string();
                    return bad("c2c.global_links", global.to_string(), allowed);
                }
            }
        }
        Ok(())
    }

    /// The target as the text of a target file: parsing it gives the same target.
    pub fn to_toml(&self) -> String {
        let mut out = format!("name = \"{}\"\n", self.name);
        let mut table = String::new();
        let figures = self.figures();
        for f in &figures {
            let (t, key) = f.field.rsplit_once('.').unwrap_or(("", &f.field));
            if t != table {
                table = t.to_string();
                let _ = write!(out, "\n[{t}]\n");
            }
            let _ = writeln!(out, "{key} = {}", f.value);
        }
        out.push_str("\n[sources]\n");
        for f in figures.iter().filter(|f| f.note != NO_SOURCE) {
            let _ = writeln!(out, "\"{}\" = {}", f.field, quote(&f.note));
        }
        out
    }

    /// Sets the sources from notes by field path, where a path covers all figures below it and the longest path wins;
    /// `old` gives the note of a figure that no path covers.
    #[cfg(feature = "toml")]
    pub(crate) fn set_sources(
        &mut self,
        notes: &std::collections::BTreeMap<String, String>,
        old: impl Fn(&str) -> Option<String>,
    ) {
        let fields: Vec<String> = self.figures().into_iter().map(|f| f.field).collect();
        self.sources = fields
            .into_iter()
            .filter_map(|field| {
                let mut path = field.as_str();
                let covering = loop {
                    if let Some(note) = notes.get(path) {
                        break Some(note.clone());
                    }
                    match path.rsplit_once('.') {
                        Some((up, _)) => path = up,
                        None => break None,
                    }
                };
                let note = covering.or_else(|| old(&field))?;
                Some(crate::target::Source { field, note })
            })
            .collect();
    }
}

/// A TOML basic string.
fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
