//! A2 and A18: values lie in their banks, constants in the weights, all entries agree, and everything fits SRAM.

use super::report::Sink;
use super::rows::Protected;
use super::{Invariant, Sums};
use crate::artifact::{Artifact, ConstForm, Entry, Value, ValueKind};
use crate::id::DType;
use std::collections::{BTreeMap, BTreeSet};

type Check = Result<(), String>;

/// Checks the values of an entry; `false` marks those that the replay must not look at.
pub(super) fn check(art: &Artifact, entry: &Entry, sink: &mut Sink) -> Vec<bool> {
    let mut ok = Vec::with_capacity(entry.values.len());
    for (v, value) in entry.values.iter().enumerate() {
        let sound = check_place(art, value);
        ok.push(sound.is_ok());
        let sound = sound.and_then(|()| check_kind(art, entry, value));
        if let Err(what) = sound {
            let what = format!("v{v}: {what}");
            sink.global(Invariant::Values, &entry.name, Some(value.chip), what);
        }
    }
    ok
}

fn check_place(art: &Artifact, v: &Value) -> Check {
    let t = &art.target;
    let words = v.dtype.words();
    if v.chip >= art.n_chips {
        return Err(format!("chip c{} of {}", v.chip, art.n_chips));
    }
    if v.place.group >= t.groups || v.place.bank >= t.banks {
        return Err(format!(
            "slice group {} bank {}, there are {} and {}",
            v.place.group, v.place.bank, t.groups, t.banks
        ));
    }
    if !v.base.is_multiple_of(words) || !(t.slices as u16).is_multiple_of(words) {
        return Err(format!("address 0x{:04x} is not a multiple of {words}", v.base));
    }
    let end = v.base as u64 + v.n_vectors as u64 * words as u64;
    if v.n_vectors == 0 || end > t.bank_words() as u64 {
        return Err(format!(
            "{} vectors from 0x{:04x}, the bank has {} words",
            v.n_vectors,
            v.base,
            t.bank_words()
        ));
    }
    if v.lo >= v.hi || v.hi > t.lanes {
        return Err(format!(
            "live lanes [{}, {}), a range within [0, {}) is needed",
            v.lo, v.hi, t.lanes
        ));
    }
    Ok(())
}

fn check_kind(art: &Artifact, entry: &Entry, v: &Value) -> Check {
    match v.kind {
        ValueKind::Input | ValueKind::Computed => Ok(()),
        ValueKind::State(s) if (s as usize) < art.states.len() => Ok(()),
        ValueKind::State(s) => Err(format!("state {s} of {}", art.states.len())),
        ValueKind::NextState(old) => {
            let Some(o) = entry.values.get(old as usize) else {
                return Err(format!("it replaces v{old} of {}", entry.values.len()));
            };
            if !matches!(o.kind, ValueKind::State(_) | ValueKind::NextState(_)) {
                return Err(format!("it replaces v{old}, which is no state"));
            }
            let same = (o.chip, o.place, o.base, o.n_vectors, o.dtype, o.lo, o.hi)
                == (v.chip, v.place, v.base, v.n_vectors, v.dtype, v.lo, v.hi);
            if !same {
                return Err(format!(
                    "it differs from v{old}, which it replaces, in place, size, dtype or lanes"
                ));
            }
            Ok(())
        }
        ValueKind::Const(c) => {
            let Some(c) = art.consts.get(c as usize) else {
                return Err(format!("const {c} of {}", art.consts.len()));
            };
            check_const(art, v, c.offset, c.length, &c.form)
        }
    }
}

fn check_const(art: &Artifact, v: &Value, offset: u64, length: u64, form: &ConstForm) -> Check {
    let all = art.weight_bytes().len() as u64;
    let lanes = (v.hi - v.lo) as u64;
    match *form {
        ConstForm::Rows => {
            let needed = v.n_vectors as u64 * lanes * v.dtype.bytes() as u64;
            if length != needed {
                return Err(format!("its const has {length} bytes, {needed} are needed"));
            }
            if offset.checked_add(length).is_none_or(|end| end > all) {
                return Err(format!("its bytes end beyond the {all} of the weights"));
            }
        }
        ConstForm::Tile { tile, first, step } => {
            let Some(t) = art.tiles.get(tile as usize) else {
                return Err(format!("tile {tile} of {}", art.tiles.len()));
            };
            let last = first as u64 + (v.n_vectors as u64 - 1) * step as u64;
            if last >= t.rows as u64 {
                return Err(format!("row {last} of tile {tile}, which has {}", t.rows));
            }
            let hi = t.lo as u64 + t.columns as u64;
            if t.dtype != v.dtype || v.lo != t.lo || v.hi as u64 > hi {
                return Err(format!(
                    "{} lanes [{}, {}), tile {tile} is {} lanes [{}, {hi})",
                    v.dtype, v.lo, v.hi, t.dtype, t.lo
                ));
            }
            let panel = crate::artifact::PANEL_COLUMNS as u64;
            let bytes = (t.columns as u64).div_ceil(panel) * panel * t.rows as u64 * t.dtype.bytes() as u64;
            if t.offset.checked_add(bytes).is_none_or(|end| end > all) {
                return Err(format!("tile {tile} ends beyond the {all} bytes of the weights"));
            }
        }
    }
    Ok(())
}

/// What identifies a constant or state on a chip, and where it lies.
type Home = (usize, u16, u32, u32, DType, u16, u16);

/// Constants and states have one address in all entries. Returns, per entry, the rows that other entries rely on.
pub(super) fn check_homes(art: &Artifact, values_ok: &[Vec<bool>], sink: &mut Sink) -> Vec<Vec<Protected>> {
    let t = &art.target;
    // Key: state or const, its number, its chip.
    let mut homes: Vec<BTreeMap<(bool, u32, u16), BTreeSet<Home>>> = Vec::new();
    for (entry, ok) in art.entries.iter().zip(values_ok) {
        let mut map: BTreeMap<_, BTreeSet<Home>> = BTreeMap::new();
        for (v, _) in entry.values.iter().zip(ok).filter(|(_, ok)| **ok) {
            let key = match v.kind {
                ValueKind::Const(c) => (false, c, v.chip),
                ValueKind::State(s) => (true, s, v.chip),
                _ => continue,
            };
            let place = v.place.dense(t.groups, t.banks);
            let words = v.dtype.words() as u32 * v.n_vectors;
            let home = (place, v.base, v.n_vectors, words, v.dtype, v.lo, v.hi);
            map.entry(key).or_default().insert(home);
        }
        homes.push(map);
    }
    let mut all: BTreeMap<(bool, u32, u16), (usize, BTreeSet<Home>)> = BTreeMap::new();
    for (e, map) in homes.iter().enumerate() {
        for (key, set) in map {
            let (first, known) = all.entry(*key).or_insert_with(|| (e, set.clone()));
            if known != set {
                let what = format!(
                    "{} {} lies elsewhere than in entry {}",
                    if key.0 { "state" } else { "const" },
                    key.1,
                    art.entries[*first].name
                );
                sink.global(Invariant::Values, &art.entries[e].name, Some(key.2), what);
            }
        }
    }
    homes
        .iter()
        .map(|own| {
            all.iter()
                .filter(|(key, _)| !own.contains_key(key))
                .flat_map(|(key, (_, set))| {
                    set.iter().map(|h| Protected {
                        chip: key.2,
                        place: h.0,
                        base: h.1 as u32,
                        words: h.3,
                    })
                })
                .collect()
        })
        .collect()
}

/// A18: rows of values, each counted once, and instruction text fit the SRAM of every chip. Returns bytes per chip.
pub(super) fn check_sram(art: &Artifact, values_ok: &[Vec<bool>], sink: &mut Sink) -> Sums {
    let t = &art.target;
    let chips = art.n_chips as usize;
    let mut rows: Vec<(u16, usize, u32, u32)> = Vec::new();
    let mut programs: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); chips];
    for (entry, ok) in art.entries.iter().zip(values_ok) {
        for (v, _) in entry.values.iter().zip(ok).filter(|(_, ok)| **ok) {
            let words = v.n_vectors * v.dtype.words() as u32;
            let place = v.place.dense(t.groups, t.banks);
            rows.push((v.chip, place, v.base as u32, v.base as u32 + words));
        }
        for (set, chip) in programs.iter_mut().zip(&entry.chips) {
            set.insert(chip.program);
        }
    }
    rows.sort_unstable();
    let mut sums = Sums {
        data: vec![0; chips],
        text: vec![0; chips],
    };
    let mut covered = (u16::MAX, usize::MAX, 0);
    for (chip, place, start, end) in rows {
        if (covered.0, covered.1) != (chip, place) {
            covered = (chip, place, 0);
        }
        let from = start.max(covered.2);
        if let Some(bytes) = sums.data.get_mut(chip as usize) {
            *bytes += end.saturating_sub(from) as u64 * t.word_bytes() as u64;
        }
        covered.2 = covered.2.max(end);
    }
    for (chip, set) in programs.iter().enumerate() {
        let runs = set
            .iter()
            .filter_map(|&p| art.programs.get(p as usize))
            .flat_map(|p| &p.runs);
        sums.text[chip] = runs.map(|r| r.encoded_len() as u64).sum();
        let (data, text) = (sums.data[chip], sums.text[chip]);
        if data + text > t.sram_bytes() {
            let what = format!(
                "{data} bytes of data and {text} bytes of instruction text, the SRAM has {} bytes",
                t.sram_bytes()
            );
            sink.global(Invariant::Sram, "", Some(chip as u16), what);
        }
    }
    sums
}
