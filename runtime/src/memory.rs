//! Chip memory on the host: of every bank only the rows that some value of the artifact uses.
//!
//! All rows of all chips lie in one 64-byte aligned allocation. The words of a span of consecutive rows are contiguous,
//! `lanes` bytes each, so that vector i of a value starts `i * dtype.bytes() * lanes` bytes after vector 0, and lane l of
//! it at `l * dtype.bytes()`. Every span starts at a row and at a multiple of 64 bytes.

use crate::aligned::Aligned;
use crate::error::ExecError;
use lockstep_isa::artifact::{ConstForm, Entry, PANEL_COLUMNS, TileImage, Value, ValueKind};
use lockstep_isa::id::Place;
use lockstep_isa::{Artifact, Opcode};
use std::collections::BTreeSet;
use std::ops::Range;

const LINE: usize = 64;

/// Most banks over all chips: bounds the index before any of it is allocated.
const MAX_BANKS: usize = 1 << 24;

/// Consecutive words `[first, end)` of one bank, at byte `offset`; `index` numbers them over all spans.
struct Span {
    first: u32,
    end: u32,
    offset: usize,
    index: usize,
}

/// The used rows of all chips.
pub struct Memory {
    rows: Aligned,
    lanes: usize,
    groups: u8,
    banks: u8,
    n_places: usize,
    spans: Vec<Span>,
    /// Spans of (chip, place) are `index[chip * n_places + place] .. index[.. + 1]`.
    index: Vec<u32>,
    states: Vec<Range<usize>>,
    n_words: usize,
    /// For each entry the values that `gathered` names, where they have no memory.
    in_place: Vec<Vec<bool>>,
}

impl Memory {
    /// Allocates the rows of every value of every entry, zeroed, and fills in the constants. With `all` false, constants
    /// stored as weight tiles and those of [`Memory::in_place`] get no memory: their reader takes them from the artifact.
    ///
    /// # Errors
    /// A value outside its bank or chip, a constant outside the weights section, or more than `max_bytes`.
    pub fn new(artifact: &Artifact, all: bool, max_bytes: u64) -> Result<Memory, ExecError> {
        let target = &artifact.target;
        let lanes = target.word_bytes();
        let n_places = target.n_places();
        if lanes == 0 || !lanes.is_multiple_of(4) || artifact.n_chips > target.max_chips {
            let (n, most) = (artifact.n_chips, target.max_chips);
            let what = format!("{n} chips of {most} at most, {lanes} lanes (a multiple of 4)");
            return Err(ExecError::artifact("target", what));
        }
        let row_words = (target.slices as u32).max(1);
        let mut used: Vec<(usize, u32, u32)> = Vec::new();
        let in_place: Vec<Vec<bool>> = match all {
            true => Vec::new(),
            false => artifact.entries.iter().map(|e| gathered(artifact, e)).collect(),
        };
        let has_rows = |entry: usize, i: usize, v: &Value| {
            let in_place = in_place.get(entry).and_then(|e| e.get(i)).copied();
            all || is_row_value(artifact, v) && in_place != Some(true)
        };
        for (e, entry) in artifact.entries.iter().enumerate() {
            for (i, v) in entry.values.iter().enumerate() {
                let slot = check_value(artifact, v).map_err(|what| at_value(&entry.name, i, what))?;
                if v.n_vectors == 0 || !has_rows(e, i, v) {
                    continue;
                }
                let end = v.base as u32 + v.n_vectors * v.dtype.words() as u32;
                let first = v.base as u32 / row_words * row_words;
                used.push((slot, first, end.div_ceil(row_words) * row_words));
            }
        }
        used.sort_unstable();
        let mut spans: Vec<Span> = Vec::new();
        let slots = artifact.n_chips as usize * n_places;
        if slots > MAX_BANKS {
            let what = format!("{slots} banks over all chips of {MAX_BANKS} at most");
            return Err(ExecError::artifact("target", what));
        }
        let mut index = vec![0u32; slots + 1];
        let mut last_slot = None;
        for (slot, first, end) in used {
            match spans.last_mut() {
                Some(s) if last_slot == Some(slot) && first <= s.end => s.end = s.end.max(end),
                _ => {
                    spans.push(Span {
                        first,
                        end,
                        offset: 0,
                        index: 0,
                    });
                    index[slot + 1] += 1;
                    last_slot = Some(slot);
                }
            }
        }
        for i in 1..index.len() {
            index[i] += index[i - 1];
        }
        let mut bytes = 0u64;
        let mut n_words = 0usize;
        for s in &mut spans {
            s.index = n_words;
            n_words += (s.end - s.first) as usize;
            s.offset = usize::try_from(bytes).unwrap_or(usize::MAX);
            bytes += ((s.end - s.first) as u64 * lanes as u64).next_multiple_of(LINE as u64);
        }
        if bytes > max_bytes {
            return Err(ExecError::Memory {
                needed: bytes,
                allowed: max_bytes,
            });
        }
        let too_much = ExecError::Memory {
            needed: bytes,
            allowed: 0,
        };
        let Some(rows) = Aligned::zeroed(bytes) else {
            return Err(too_much);
        };
        let mut memory = Memory {
            rows,
            lanes,
            groups: target.groups,
            banks: target.banks,
            n_places,
            spans,
            index,
            states: Vec::new(),
            n_words,
            in_place: Vec::new(),
        };
        memory.load_constants(artifact, has_rows)?;
        memory.in_place = in_place;
        memory.find_states(artifact);
        Ok(memory)
    }

    /// Whether each value of an entry is a constant without memory that gathers read in place; empty where there is none.
    pub fn in_place(&self, entry: usize) -> &[bool] {
        self.in_place.get(entry).map_or(&[], Vec::as_slice)
    }

    /// Byte offset of a word; `None` where no value covers it.
    pub fn offset(&self, chip: u16, place: Place, word: u32) -> Option<usize> {
        self.span(chip, place, word, 1).map(|r| r.start)
    }

    /// Byte range of consecutive words; `None` where no span holds them all.
    pub fn span(&self, chip: u16, place: Place, word: u32, words: u32) -> Option<Range<usize>> {
        let s = self.find(chip, place, word, words)?;
        let start = s.offset + (word - s.first) as usize * self.lanes;
        Some(start..start + words as usize * self.lanes)
    }

    /// Number of the first of consecutive words, counted over all rows of this memory without gaps; `None` where no span
    /// holds them all.
    pub fn word(&self, chip: u16, place: Place, word: u32, words: u32) -> Option<usize> {
        let s = self.find(chip, place, word, words)?;
        Some(s.index + (word - s.first) as usize)
    }

    /// Number of words over all rows.
    pub fn n_words(&self) -> usize {
        self.n_words
    }

    /// The span that holds all of these words.
    fn find(&self, chip: u16, place: Place, word: u32, words: u32) -> Option<&Span> {
        let dense = place.dense(self.groups, self.banks);
        if dense >= self.n_places {
            return None;
        }
        let slot = chip as usize * self.n_places + dense;
        let (a, b) = (*self.index.get(slot)?, *self.index.get(slot + 1)?);
        let spans = self.spans.get(a as usize..b as usize)?;
        let at = spans.partition_point(|s| s.end <= word);
        let s = spans.get(at).filter(|s| s.first <= word)?;
        word.checked_add(words).filter(|&e| e <= s.end).map(|_| s)
    }

    /// Byte range of all vectors of a value; `None` where it has no memory.
    pub fn value_span(&self, v: &Value) -> Option<Range<usize>> {
        let words = v.n_vectors.checked_mul(v.dtype.words() as u32)?;
        self.span(v.chip, v.place, v.base as u32, words)
    }

    /// Bytes of a word.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// All rows, to be indexed by the offsets of this memory.
    pub fn bytes(&self) -> &[u8] {
        self.rows.as_slice()
    }

    /// All rows, mutable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.rows.as_mut_slice()
    }

    /// Sets every state to zero.
    pub fn reset_states(&mut self) {
        let bytes = self.rows.as_mut_slice();
        for range in &self.states {
            if let Some(rows) = bytes.get_mut(range.clone()) {
                rows.fill(0);
            }
        }
    }

    /// Byte ranges of the states.
    pub fn states(&self) -> &[Range<usize>] {
        &self.states
    }

    fn find_states(&mut self, artifact: &Artifact) {
        let mut ranges = BTreeSet::new();
        for v in artifact.entries.iter().flat_map(|e| &e.values) {
            if matches!(v.kind, ValueKind::State(_)) {
                ranges.extend(self.value_span(v).map(|r| (r.start, r.end)));
            }
        }
        self.states = ranges.into_iter().map(|(a, b)| a..b).collect();
    }

    fn load_constants(
        &mut self,
        artifact: &Artifact,
        has_rows: impl Fn(usize, usize, &Value) -> bool,
    ) -> Result<(), ExecError> {
        let weights = artifact.weight_bytes();
        let mut done = BTreeSet::new();
        for (e, entry) in artifact.entries.iter().enumerate() {
            for (i, v) in entry.values.iter().enumerate() {
                let ValueKind::Const(k) = v.kind else {
                    continue;
                };
                let Some(span) = self.value_span(v) else {
                    continue;
                };
                if !has_rows(e, i, v) || !done.insert((span.start, k)) {
                    continue;
                }
                let rows = &mut self.rows.as_mut_slice()[span];
                fill_constant(artifact, weights, v, k, rows).map_err(|what| at_value(&entry.name, i, what))?;
            }
        }
        Ok(())
    }
}

fn at_value(entry: &str, i: usize, what: String) -> ExecError {
    ExecError::artifact(format!("entry {entry:?} value v{i}"), what)
}

/// The values of an entry that are constants stored as rows which gathers alone take, by the claims: tables of
/// embeddings, say, of which a run needs few rows.
fn gathered(artifact: &Artifact, entry: &Entry) -> Vec<bool> {
    let mut taken = vec![(false, false); entry.values.len()];
    for chip in &entry.chips {
        let runs = artifact
            .programs
            .get(chip.program as usize)
            .map_or(&[][..], |p| &p.runs);
        for (run, claims) in runs.iter().zip(&chip.claims) {
            let value = claims.mem.and_then(|m| taken.get_mut(m.value as usize));
            if let Some((gather, other)) = value {
                *gather |= run.op == Opcode::Gather;
                *other |= run.op != Opcode::Gather;
            }
        }
    }
    let rows = |v: &Value| matches!(v.kind, ValueKind::Const(_)) && is_row_value(artifact, v);
    let both = entry.values.iter().zip(taken);
    both.map(|(v, (gather, other))| gather && !other && rows(v)).collect()
}

/// Whether a value has rows of its own even where weight tiles are read in place.
fn is_row_value(artifact: &Artifact, v: &Value) -> bool {
    match v.kind {
        ValueKind::Const(k) => artifact
            .consts
            .get(k as usize)
            .is_none_or(|c| c.form == ConstForm::Rows),
        _ => true,
    }
}

/// Checks a value against the target and gives its dense (chip, place) index.
fn check_value(artifact: &Artifact, v: &Value) -> Result<usize, String> {
    let target = &artifact.target;
    let n_places = target.n_places();
    if v.chip >= artifact.n_chips {
        return Err(format!("chip c{} of {} chips", v.chip, artifact.n_chips));
    }
    if v.place.group >= target.groups || v.place.bank >= target.banks {
        let Place { group, bank, .. } = v.place;
        let (groups, banks) = (target.groups, target.banks);
        return Err(format!(
            "group {group} bank {bank} of {groups} groups with {banks} banks"
        ));
    }
    let words = v.dtype.words() as u32;
    if !(v.base as u32).is_multiple_of(words) || words > target.slices as u32 {
        let (base, slices) = (v.base, target.slices);
        return Err(format!(
            "word address 0x{base:04x} is no {words}-word row part of {slices} slices"
        ));
    }
    let end = v.base as u64 + v.n_vectors as u64 * words as u64;
    if end > target.bank_words() as u64 {
        let bank = target.bank_words();
        return Err(format!("words 0x{:04x}..0x{end:04x} in a bank of {bank} words", v.base));
    }
    if v.lo >= v.hi || v.hi > target.lanes {
        return Err(format!("live lanes {}..{} of {} lanes", v.lo, v.hi, target.lanes));
    }
    let dense = v.place.dense(target.groups, target.banks);
    Ok(v.chip as usize * n_places + dense)
}

/// Writes the live lanes of constant `k` into the rows of its value.
fn fill_constant(artifact: &Artifact, weights: &[u8], v: &Value, k: u32, rows: &mut [u8]) -> Result<(), String> {
    let Some(c) = artifact.consts.get(k as usize) else {
        return Err(format!("constant {k} of {}", artifact.consts.len()));
    };
    let size = v.dtype.bytes();
    let vector = artifact.target.word_bytes() * size;
    let live = v.lo as usize * size..v.hi as usize * size;
    match c.form {
        ConstForm::Rows => {
            let need = v.n_vectors as u64 * live.len() as u64;
            let source = usize::try_from(c.offset)
                .ok()
                .and_then(|o| weights.get(o..o.checked_add(need as usize)?))
                .filter(|_| c.length == need);
            let Some(source) = source else {
                let (o, n, w) = (c.offset, c.length, weights.len());
                return Err(format!("constant {k}: {n} bytes at {o} of {w}, needs {need}"));
            };
            for (to, from) in rows.chunks_exact_mut(vector).zip(source.chunks_exact(live.len())) {
                to[live.clone()].copy_from_slice(from);
            }
        }
        ConstForm::Tile { tile, first, step } => {
            let Some(t) = artifact.tiles.get(tile as usize) else {
                return Err(format!("weight tile {tile} of {}", artifact.tiles.len()));
            };
            if t.dtype != v.dtype || v.lo < t.lo || v.hi > t.lo.saturating_add(t.columns) {
                let (lo, end) = (t.lo, t.lo as u32 + t.columns as u32);
                return Err(format!(
                    "lanes {}..{} of {} in weight tile {tile} of lanes {lo}..{end} of {}",
                    v.lo, v.hi, v.dtype, t.dtype
                ));
            }
            for (i, to) in rows.chunks_exact_mut(vector).enumerate() {
                let row = first as usize + i * step as usize;
                fill_from_tile(weights, t, row, v, to)
                    .ok_or_else(|| format!("row {row} of weight tile {tile} is outside it"))?;
            }
        }
    }
    Ok(())
}

/// Byte range of columns `[column, column + n)` of a tile row within the weights section; they must lie in one panel.
/// `None` where the row or columns are outside the tile.
pub fn tile_row(tile: &TileImage, row: usize, column: usize, n: usize) -> Option<Range<usize>> {
    let inside = column % PANEL_COLUMNS + n <= PANEL_COLUMNS && column + n <= tile.columns as usize;
    if row >= tile.rows as usize || !inside {
        return None;
    }
    let panel = column / PANEL_COLUMNS;
    let element = (panel * tile.rows as usize + row) * PANEL_COLUMNS + column % PANEL_COLUMNS;
    let start = usize::try_from(tile.offset)
        .ok()?
        .checked_add(element * tile.dtype.bytes())?;
    Some(start..start.checked_add(n * tile.dtype.bytes())?)
}

fn fill_from_tile(weights: &[u8], tile: &TileImage, row: usize, v: &Value, to: &mut [u8]) -> Option<()> {
    let size = v.dtype.bytes();
    let (mut lane, end) = (v.lo as usize, v.hi as usize);
    while lane < end {
        let column = lane - tile.lo as usize;
        let n = (PANEL_COLUMNS - column % PANEL_COLUMNS).min(end - lane);
        let from = weights.get(tile_row(tile, row, column, n)?)?;
        to.get_mut(lane * size..(lane + n) * size)?.copy_from_slice(from);
        lane += n;
    }
    Some(())
}
