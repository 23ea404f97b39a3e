//! What every index and bound of an artifact must satisfy before anything of it runs.
//!
//! 1. The target is one that [`Target::check`](crate::Target::check) accepts; there are 1 to `max_chips` chips.
//! 2. Each run passes [`Run::check`] on the target; the runs of a program ascend in (queue, cycle).
//! 3. Constants and tiles lie in the weights section; a tile is 64-byte aligned.
//! 4. Each value lies in a bank of one of the chips; its constant has its size, its state exists, and a next state has
//!    the place and type of the state that it replaces.
//! 5. Each entry has one program per chip with claims and origins for each of its runs; chains name existing chips.
//! 6. Claims name existing runs, chains of their chip, values of their chip and bank, and elements inside them; there
//!    are as many as the run has operands. A link that a run uses leads somewhere.
//! 7. Host maps stay inside their tensor and their values; an output takes as many elements as it has.
//!
//! What the program means, and whether the claims are true, the verifier proves.

use super::error::{ArtifactError, ArtifactErrorKind as Kind};
use super::read::below;
use super::{Artifact, ChipProgram, ConstForm, Entry, HostTensor, PANEL_COLUMNS, Program, Value, ValueKind};
use crate::claim::Claims;
use crate::decode::DecodeError;
use crate::op::UnitKind;
use crate::run::{AccIn, Dim, Queue, Run, Src};

/// Latest start of a program and longest makespan, in cycles.
pub const MAX_CYCLES: u64 = 1 << 48;

/// Most elements of a host tensor.
pub const MAX_ELEMENTS: u64 = 1 << 40;

type Checked = Result<(), Kind>;

fn less(what: &'static str, found: impl TryInto<u64> + std::fmt::Display + Copy, n: usize) -> Checked {
    match found.try_into() {
        Ok(v) if v < n as u64 => Ok(()),
        _ => Err(Kind::value(what, found, below(n))),
    }
}

fn equal<T: PartialEq + std::fmt::Display>(what: &'static str, found: T, allowed: T) -> Checked {
    if found == allowed {
        return Ok(());
    }
    Err(Kind::value(what, found, allowed))
}

/// Least and greatest of `base + sum i_d * step_d` over all i_d below `count_d`; `None` on overflow.
fn reach(base: i128, dims: impl Iterator<Item = (u64, i64)>) -> (i128, i128) {
    dims.fold((base, base), |(low, high), (count, step)| {
        let far = (count as i128 - 1) * step as i128;
        (low + far.min(0), high + far.max(0))
    })
}

impl Run {
    /// Number of producers that a run's claims name, not counting the accumulator's: its stream and ALU operands, the
    /// belt groups of a tile load that carry a vector and its scales, the word of a recv.
    pub fn n_producers(&self) -> usize {
        match self.op.unit() {
            UnitKind::MxmLoad => {
                (self.belts as usize).min(self.load_vectors() as usize) + usize::from(self.is_scaled())
            }
            UnitKind::C2cRecv => 1,
            _ => [self.a, self.b, self.c]
                .iter()
                .filter(|o| matches!(o.src, Src::Stream(_) | Src::Alu(_)))
                .count(),
        }
    }
}

impl Artifact {
    /// Checks everything that the module documentation lists.
    ///
    /// # Errors
    /// The first index or bound that is wrong, and where it is.
    pub fn check(&self) -> Result<(), ArtifactError> {
        for (i, p) in self.programs.iter().enumerate() {
            for (j, run) in p.runs.iter().enumerate() {
                run.check_shape()
                    .map_err(|e| Kind::Run(DecodeError::Run(e)).at(at_run(i, j)))?;
            }
        }
        self.check_decoded()
    }

    /// [`Artifact::check`] of an artifact whose runs were decoded, so that their shape is known.
    pub(crate) fn check_decoded(&self) -> Result<(), ArtifactError> {
        self.target.check().map_err(|e| Kind::Target(e).at(""))?;
        if self.n_chips == 0 || self.n_chips > self.target.max_chips {
            let allowed = format!("1..={}", self.target.max_chips);
            return Err(Kind::value("number of chips", self.n_chips, allowed).at(""));
        }
        for (i, p) in self.programs.iter().enumerate() {
            self.check_program(i, p)?;
        }
        self.check_weights()?;
        let mut names: Vec<&str> = self.entries.iter().map(|e| e.name.as_str()).collect();
        names.sort_unstable();
        if let Some(w) = names.windows(2).find(|w| w[0] == w[1]) {
            let found = format!("{:?} twice", w[0]);
            return Err(Kind::value("entry name", found, "distinct names").at(""));
        }
        for e in &self.entries {
            self.check_entry(e)?;
        }
        Ok(())
    }

    fn check_program(&self, i: usize, p: &Program) -> Result<(), ArtifactError> {
        for (j, run) in p.runs.iter().enumerate() {
            run.check_bounds(&self.target)
                .map_err(|e| Kind::Run(DecodeError::Run(e)).at(at_run(i, j)))?;
        }
        let key = |r: &Run| (r.queue, r.cycle);
        if let Some(j) = p.runs.windows(2).position(|w| key(&w[0]) >= key(&w[1])) {
            let found = format!("{:?} @{}", p.runs[j + 1].queue, p.runs[j + 1].cycle);
            let allowed = format!("after {:?} @{}", p.runs[j].queue, p.runs[j].cycle);
            return Err(Kind::value("(queue, cycle)", found, allowed).at(at_run(i, j + 1)));
        }
        Ok(())
    }

    fn check_weights(&self) -> Result<(), ArtifactError> {
        let held = self.weights_range.1;
        let inside = |what, offset: u64, length: u64| match offset.checked_add(length) {
            Some(end) if end <= held => Ok(()),
            _ => {
                let found = format!("{offset} with {length} bytes");
                Err(Kind::value(what, found, format!("within {held} bytes")))
            }
        };
        let (start, all) = (self.weights_range.0, (*self.weights).as_ref().len() as u64);
        if start.checked_add(held).is_none_or(|end| end > all) {
            let found = format!("{start} with {held} bytes");
            return Err(Kind::value("weights range", found, format!("within {all} bytes")).at(""));
        }
        for (i, t) in self.tiles.iter().enumerate() {
            let checked = || {
                if t.rows == 0 || t.columns == 0 {
                    let found = format!("{} x {}", t.rows, t.columns);
                    return Err(Kind::value("tile size", found, "at least 1 x 1"));
                }
                let end = t.lo as usize + t.columns as usize;
                less("last column", end - 1, self.target.lanes as usize)?;
                equal("offset modulo 64", t.offset % 64, 0)?;
                let panels = (t.columns as u64).div_ceil(PANEL_COLUMNS as u64);
                let row_bytes = (PANEL_COLUMNS * t.dtype.bytes()) as u64;
                inside("tile offset", t.offset, panels * row_bytes * t.rows as u64)
            };
            checked().map_err(|k: Kind| k.at(format!("tile {i}")))?;
        }
        for (i, c) in self.consts.iter().enumerate() {
            let checked = || match c.form {
                ConstForm::Rows => inside("offset", c.offset, c.length),
                ConstForm::Tile { tile, first, .. } => {
                    equal("offset and length", c.offset | c.length, 0)?;
                    less("tile", tile, self.tiles.len())?;
                    less("first row", first, self.tiles[tile as usize].rows as usize)
                }
            };
            checked().map_err(|k| k.at(format!("constant k{i}")))?;
        }
        Ok(())
    }

    fn check_entry(&self, e: &Entry) -> Result<(), ArtifactError> {
        let name = &e.name;
        let at = |k: Kind, place: String| k.at(format!("entry {name:?}, {place}"));
        if e.makespan > MAX_CYCLES {
            let kind = Kind::value("makespan", e.makespan, format!("at most {MAX_CYCLES}"));
            return Err(kind.at(format!("entry {name:?}")));
        }
        for (i, v) in e.values.iter().enumerate() {
            self.check_value(e, v).map_err(|k| at(k, format!("value v{i}")))?;
        }
        equal("number of chip programs", e.chips.len(), self.n_chips as usize)
            .map_err(|k| k.at(format!("entry {name:?}")))?;
        for (i, c) in e.chains.iter().enumerate() {
            let checked = || {
                less("chip", c.chip, self.n_chips as usize)?;
                less("origin", c.origin, e.origins.len())?;
                if let Some(to) = c.to {
                    less("receiver", to, self.n_chips as usize)?;
                    if to == c.chip {
                        return Err(Kind::value("receiver", to, "another chip"));
                    }
                }
                Ok(())
            };
            checked().map_err(|k| at(k, format!("chain h{i}")))?;
        }
        for (chip, c) in e.chips.iter().enumerate() {
            self.check_chip(e, chip as u16, c)?;
        }
        for t in &e.inputs {
            self.check_tensor(e, t, true)
                .map_err(|k| at(k, format!("input {:?}", t.name)))?;
        }
        for t in &e.outputs {
            self.check_tensor(e, t, false)
                .map_err(|k| at(k, format!("output {:?}", t.name)))?;
        }
        Ok(())
    }

    fn check_value(&self, e: &Entry, v: &Value) -> Checked {
        let t = &self.target;
        less("chip", v.chip, self.n_chips as usize)?;
        less("slice group", v.place.group, t.groups as usize)?;
        less("bank", v.place.bank, t.banks as usize)?;
        let words = v.dtype.words();
        if !v.base.is_multiple_of(words) {
            return Err(Kind::value("base", v.base, format!("a multiple of {words}")));
        }
        let end = v.base as u64 + v.n_vectors as u64 * words as u64;
        if v.n_vectors == 0 || end > t.bank_words() as u64 {
            let found = format!("{} of {words} words from {}", v.n_vectors, v.base);
            let allowed = format!("at least one within {} words", t.bank_words());
            return Err(Kind::value("vectors", found, allowed));
        }
        if v.lo >= v.hi || v.hi > t.lanes {
            let found = format!("{}..{}", v.lo, v.hi);
            return Err(Kind::value("lanes", found, format!("within 0..{}", t.lanes)));
        }
        match v.kind {
            ValueKind::Input | ValueKind::Computed => Ok(()),
            ValueKind::State(s) => less("state", s, self.states.len()),
            ValueKind::NextState(old) => {
                less("value replaced", old, e.values.len())?;
                let o = &e.values[old as usize];
                let same =
                    (o.chip, o.place, o.base, o.n_vectors, o.dtype) == (v.chip, v.place, v.base, v.n_vectors, v.dtype);
                if !same || !matches!(o.kind, ValueKind::State(_)) {
                    let found = format!("v{old}");
                    return Err(Kind::value("value replaced", found, "a state of this place and type"));
                }
                Ok(())
            }
            ValueKind::Const(k) => {
                less("constant", k, self.consts.len())?;
                let c = &self.consts[k as usize];
                let lanes = (v.hi - v.lo) as u64;
                match c.form {
                    ConstForm::Rows => {
                        let bytes = v.n_vectors as u64 * lanes * v.dtype.bytes() as u64;
                        equal("bytes of the constant", c.length, bytes)
                    }
                    ConstForm::Tile { tile, first, step } => {
                        let image = &self.tiles[tile as usize];
                        let last = first as u64 + (v.n_vectors as u64 - 1) * step as u64;
                        less("last row of the tile", last, image.rows as usize)?;
                        equal("dtype", v.dtype, image.dtype)?;
                        equal("first lane", v.lo, image.lo)?;
                        less("last lane of the tile", lanes - 1, image.columns as usize)
                    }
                }
            }
        }
    }

    fn check_chip(&self, e: &Entry, chip: u16, c: &ChipProgram) -> Result<(), ArtifactError> {
        let name = &e.name;
        let at = |k: Kind| k.at(format!("entry {name:?}, chip {chip}"));
        less("program", c.program, self.programs.len()).map_err(at)?;
        let runs = &self.programs[c.program as usize].runs;
        equal("number of claims", c.claims.len(), runs.len()).map_err(at)?;
        equal("number of origins", c.origins.len(), runs.len()).map_err(at)?;
        if c.start > MAX_CYCLES {
            return Err(at(Kind::value("start", c.start, format!("at most {MAX_CYCLES}"))));
        }
        for (i, ((run, claims), origin)) in runs.iter().zip(&c.claims).zip(&c.origins).enumerate() {
            less("origin", *origin, e.origins.len())
                .and_then(|()| self.check_claims(e, chip, runs, run, claims))
                .map_err(|k| k.at(format!("entry {name:?}, chip {chip}, run r{i}")))?;
        }
        Ok(())
    }

    fn check_claims(&self, e: &Entry, chip: u16, runs: &[Run], run: &Run, c: &Claims) -> Checked {
        less("chain", c.chain, e.chains.len())?;
        let chain = &e.chains[c.chain as usize];
        if chain.chip != chip && chain.to != Some(chip) {
            let found = format!("h{} of chip {}", c.chain, chain.chip);
            return Err(Kind::value("chain", found, "one of this chip"));
        }
        let mut sources = runs.len();
        if let Queue::Send(link) | Queue::Recv(link) = run.queue {
            let local = self.target.c2c.local_links;
            let Some(peer) = self.target.topology.peer(chip, link, local, self.n_chips) else {
                return Err(Kind::value("link", link, "one that leads to a chip"));
            };
            if let Queue::Recv(_) = run.queue {
                let other = e.chips.get(peer.chip as usize);
                let program = other.and_then(|p| self.programs.get(p.program as usize));
                sources = program.map_or(0, |p| p.runs.len());
            }
        }
        equal("number of producers", c.operands.len(), run.n_producers())?;
        for p in &c.operands {
            less("producing run", p.run, sources)?;
        }
        equal("accumulator claims", c.acc.is_some(), run.acc_in == AccIn::Row)?;
        if let Some(p) = c.acc {
            less("producing run", p.run, runs.len())?;
        }
        let is_mul = run.op.unit() == UnitKind::MxmMul;
        if is_mul == c.blocks.is_empty() {
            let allowed = if is_mul { "at least 1" } else { "0" };
            return Err(Kind::value("number of tile blocks", c.blocks.len(), allowed));
        }
        for b in &c.blocks {
            less("loading run", b.load, runs.len())?;
            let (w, lanes) = (b.window, self.target.lanes);
            if w.n0 >= w.n1 || w.k0 >= w.k1 || w.n1 > lanes || w.k1 > lanes {
                let found = format!("{w:?}");
                return Err(Kind::value("window", found, format!("within {lanes} x {lanes}")));
            }
        }
        let Queue::Mem(place) = run.queue else {
            return equal("memory claims", c.mem.is_some(), false);
        };
        let Some(m) = &c.mem else {
            return Err(Kind::value("memory claims", "none", "one"));
        };
        less("value", m.value, e.values.len())?;
        let v = &e.values[m.value as usize];
        if (v.chip, v.place) != (chip, place) {
            let found = format!("v{} elsewhere", m.value);
            return Err(Kind::value("value", found, "one of this bank"));
        }
        let by_word = run.words == 1;
        let elements = v.n_vectors as u64 * if by_word { v.dtype.words() as u64 } else { 1 };
        let dims = run.dims.iter().zip(m.strides);
        let dims = dims.map(|(d, s): (&Dim, i32)| (d.count as u64, s as i64));
        let (low, mut high) = reach(m.base as i128, dims);
        high += m.row_stride as i128 * (m.limit as i128 - 1).max(0);
        if low < 0 || high >= elements as i128 {
            let found = format!("{low}..={high}");
            return Err(Kind::value("elements", found, format!("within 0..{elements}")));
        }
        Ok(())
    }

    fn check_tensor(&self, e: &Entry, t: &HostTensor, input: bool) -> Checked {
        let elements = t.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let elements = match elements {
            Some(n) if n <= MAX_ELEMENTS => n,
            _ => {
                let found = format!("{:?}", t.shape);
                return Err(Kind::value("shape", found, "at most 2^40 elements"));
            }
        };
        let mut taken = 0u64;
        for (i, n) in t.nests.iter().enumerate() {
            less("value", n.value, e.values.len())?;
            let v = &e.values[n.value as usize];
            if input && v.kind != ValueKind::Input {
                let found = format!("v{} of nest {i}", n.value);
                return Err(Kind::value("value", found, "an input"));
            }
            let lanes = v.n_vectors as u64 * (v.hi - v.lo) as u64;
            let mut steps = 1u64;
            for d in &n.dims {
                steps = match steps.checked_mul(d.count as u64) {
                    Some(s) if s != 0 && s <= lanes => s,
                    _ => {
                        let found = format!("a dimension of {} in nest {i}", d.count);
                        let allowed = format!("1 to {lanes} elements in all");
                        return Err(Kind::value("steps", found, allowed));
                    }
                };
            }
            taken = taken.saturating_add(steps);
            let dims = || n.dims.iter();
            let counts = |f: fn(&super::HostDim) -> i64| dims().map(move |d| (d.count as u64, f(d)));
            let ranges = [
                (
                    "host element",
                    reach(n.element as i128, counts(|d| d.element)),
                    0,
                    elements,
                ),
                (
                    "vector",
                    reach(n.vector as i128, counts(|d| d.vector as i64)),
                    0,
                    v.n_vectors as u64,
                ),
                (
                    "lane",
                    reach(n.lane as i128, counts(|d| d.lane as i64)),
                    v.lo as u64,
                    v.hi as u64,
                ),
            ];
            for (what, (low, high), from, to) in ranges {
                if low < from as i128 || high >= to as i128 {
                    let found = format!("{low}..={high} in nest {i}");
                    return Err(Kind::value(what, found, format!("within {from}..{to}")));
                }
            }
        }
        if !input {
            equal("elements taken", taken, elements)?;
        }
        Ok(())
    }
}

fn at_run(program: usize, run: usize) -> String {
    format!("program {program}, run r{run}")
}
