//! Banks: which bank of which slice group each buffer lies in, chosen before scheduling.
//!
//! A run holds its bank's queue from its first issue to its last, so buffers that one group of runs touches need banks of
//! their own, and buffers that chains touch at about the same time should have them. What one group reads towards the VXM must
//! also find streams in its hemisphere. The time is estimated by a schedule
//! without resources, or taken from one that was made with banks chosen so. Constants and states come first, largest first,
//! and keep their rows for all entries; temporaries follow in chain order, each where its estimated use overlaps least and
//! its chain-order lifetime fits. Every bank gives up the same number of words to instruction text. What then still shares a
//! bank within a group of runs, or has no streams there, is moved (`repair.rs`).
//!
//! An index that a gather takes from a read flows inward, so its buffer lies in the outermost group and the table
//! further in, in the same hemisphere.

use super::group::{self, Members};
use super::repair;
use super::uses::{Access, Need, Seen, Uses, uses_of};
use crate::chain::{BufId, BufKind, ChainKind, ChainProgram};
use crate::{CompileError, CompileErrorKind};
use lockstep_graph::EntityId;
use lockstep_isa::{Dir, Place, Target};
use std::collections::BTreeMap;

/// Cycles per bucket of the estimated use of a bank.
const BUCKET: u64 = 256;
/// Most cycles that accesses to a buffer take each, if their way matters more than what they share the bank with: three rows of f32
/// products.
const BRIEF: u64 = 24;
/// Cost of a cycle on the way to or from a buffer of brief accesses.
const TRAVEL: u64 = 16;
/// Cycles that an access is taken to wait for a run that has the bank for most of a bucket.
const LONG: u64 = 512;
/// Bytes reserved for the text of one run: the most that it takes.
const TEXT_BYTES: u64 = 64;

/// The banks.
pub(super) struct Places {
    /// Per entry and buffer.
    pub entries: Vec<Vec<Place>>,
    /// Word address of constants and states, per entry and buffer.
    pub fixed: Vec<Vec<Option<u16>>>,
    /// Words of constants and states per chip and bank.
    pub used: Vec<Vec<u32>>,
}

/// Splits the chains of a program into groups; transfers have none.
pub(super) fn split_all(program: &ChainProgram) -> Result<Vec<Vec<Members>>, CompileError> {
    program
        .chains
        .iter()
        .map(|(id, chain)| match &chain.kind {
            ChainKind::Compute { nodes, .. } => group::split(id, nodes),
            ChainKind::Transfer { .. } => Ok(Vec::new()),
        })
        .collect()
}

/// Words that a buffer takes.
pub(super) fn words(program: &ChainProgram, buf: BufId) -> u64 {
    program
        .bufs
        .get(buf)
        .map_or(0, |b| b.n_vectors as u64 * b.dtype.words() as u64)
}

/// A buffer, or what is one constant or state in several entries, and where it lies.
pub(super) struct Item {
    pub chip: usize,
    pub words: u64,
    /// Groups of runs that use it, ascending, and the words that they read of it at a time towards the VXM.
    pub groups: Vec<(usize, u32)>,
    pub need: Need,
    /// Of a temporary: the entry, and the first and last of its chip's chains that it must last for.
    pub span: Option<(usize, usize, usize)>,
    /// Entries and buffers.
    members: Vec<(usize, BufId)>,
    pub place: Place,
}

/// What one group of runs takes.
#[derive(Clone, Default)]
struct Taken {
    /// Banks.
    places: Vec<Place>,
    /// Words of the belts towards the VXM, per hemisphere.
    inward: [u32; 2],
}

struct Placer<'a> {
    target: &'a Target,
    items: Vec<Item>,
    /// Words left for values in a bank, per chip.
    capacity: Vec<u32>,
    /// Words of constants and states, per chip and bank.
    used: Vec<Vec<u32>>,
    /// Estimated busy cycles, per chip and bank, in buckets.
    busy: Vec<Vec<Vec<u32>>>,
    /// The accesses alone, as `busy`.
    taken: Vec<Vec<Vec<u32>>>,
    groups: Vec<Taken>,
}

/// Places the buffers of all entries; lifetimes of temporaries are taken to be `slack` chains longer at either end than
/// in chain order, since chains overlap. `seen`: when the groups of runs of every entry were scheduled, where that is known.
pub(super) fn place(
    programs: &[&ChainProgram],
    split: &[Vec<Vec<Members>>],
    target: &Target,
    slack: usize,
    seen: Option<&[Seen]>,
) -> Result<Places, CompileError> {
    let n_chips = programs.iter().map(|p| p.n_chips).max().unwrap_or(1).max(1) as usize;
    let mut text = vec![0u64; n_chips];
    for program in programs {
        for chain in program.chains.values() {
            match &chain.kind {
                ChainKind::Compute { chip, nodes } => {
                    if let Some(t) = text.get_mut(*chip as usize) {
                        *t += nodes.len() as u64 * TEXT_BYTES;
                    }
                }
                ChainKind::Transfer { from, to, .. } => {
                    for buf in [from, to] {
                        let chip = program.bufs.get(*buf).map_or(0, |b| b.chip as usize);
                        if let Some(t) = text.get_mut(chip) {
                            *t += 2 * TEXT_BYTES;
                        }
                    }
                }
            }
        }
    }
    let per_bank = |bytes: u64| bytes.div_ceil(target.word_bytes() as u64 * target.n_places() as u64) as u32;
    let mut placer = Placer {
        target,
        items: Vec::new(),
        capacity: text
            .iter()
            .map(|&t| target.bank_words().saturating_sub(per_bank(t)))
            .collect(),
        used: vec![vec![0; target.n_places()]; n_chips],
        busy: vec![vec![Vec::new(); target.n_places()]; n_chips],
        taken: vec![vec![Vec::new(); target.n_places()]; n_chips],
        groups: Vec::new(),
    };
    let mut uses = Vec::with_capacity(programs.len());
    for (e, (program, split)) in programs.iter().zip(split).enumerate() {
        check(program, n_chips)?;
        let first = placer.groups.len();
        let u = uses_of(program, split, target, first, seen.and_then(|s| s.get(e)))?;
        placer.groups.extend(u.inward.iter().map(|&inward| Taken {
            places: Vec::new(),
            inward,
        }));
        uses.push(u);
    }
    let default = Place {
        hemi: Dir::East,
        group: 0,
        bank: 0,
    };
    let mut out = Places {
        entries: programs.iter().map(|p| vec![default; p.bufs.len()]).collect(),
        fixed: programs.iter().map(|p| vec![None; p.bufs.len()]).collect(),
        used: vec![vec![0; target.n_places()]; n_chips],
    };
    place_permanent(programs, &uses, &mut placer, false)?;
    // Vectors that are read beside many buffers are easier to place when those have their banks; room is kept for them.
    let kept = small_words(programs, n_chips, placer.target.n_places());
    for (capacity, kept) in placer.capacity.iter_mut().zip(&kept) {
        *capacity = capacity.saturating_sub(*kept);
    }
    for (e, program) in programs.iter().enumerate() {
        place_scratch(e, program, &uses[e], slack, &mut placer)?;
    }
    for (capacity, kept) in placer.capacity.iter_mut().zip(&kept) {
        *capacity += kept;
    }
    place_permanent(programs, &uses, &mut placer, true)?;
    let units: Vec<[u32; 2]> = uses.iter().flat_map(|u| &u.inward).copied().collect();
    repair::repair(&mut placer.items, target, &placer.capacity, &units);
    for item in &placer.items {
        let mut fixed = None;
        if item.span.is_none() {
            let used = &mut out.used[item.chip][item.place.dense(target.groups, target.banks)];
            let width = item.members.first().and_then(|(e, id)| programs[*e].bufs.get(*id));
            let base = (*used as u64).next_multiple_of(width.map_or(1, |b| b.dtype.words() as u64));
            *used = (base + item.words) as u32;
            fixed = u16::try_from(base).ok();
        }
        for &(e, id) in &item.members {
            out.entries[e][id.index()] = item.place;
            out.fixed[e][id.index()] = fixed;
        }
    }
    for (e, program) in programs.iter().enumerate() {
        for (id, buf) in program.bufs.iter() {
            if let BufKind::NextState(state) = buf.kind {
                out.entries[e][id.index()] = out.entries[e][state.index()];
                out.fixed[e][id.index()] = out.fixed[e][state.index()];
            }
        }
    }
    Ok(out)
}

/// Most words of a constant that is placed after the temporaries.
const SMALL_WORDS: u64 = 16;

fn is_small(program: &ChainProgram, id: BufId) -> bool {
    matches!(program.bufs.get(id).map(|b| &b.kind), Some(BufKind::Rows(_))) && words(program, id) <= SMALL_WORDS
}

/// Words of every bank kept for small constants, per chip: twice an even share.
fn small_words(programs: &[&ChainProgram], n_chips: usize, n_places: usize) -> Vec<u32> {
    let mut all = vec![0u64; n_chips];
    for program in programs {
        for (id, buf) in program.bufs.iter().filter(|(id, _)| is_small(program, *id)) {
            all[buf.chip as usize] += words(program, id);
        }
    }
    let share = |&words: &u64| (2 * words).div_ceil(n_places.max(1) as u64) as u32;
    all.iter().map(|w| share(w) + SMALL_WORDS as u32).collect()
}

fn check(program: &ChainProgram, n_chips: usize) -> Result<(), CompileError> {
    for (id, buf) in program.bufs.iter() {
        let state_ok = match buf.kind {
            BufKind::NextState(s) => program.bufs.get(s).is_some_and(|b| {
                matches!(b.kind, BufKind::State(_))
                    && (b.chip, b.dtype, b.n_vectors) == (buf.chip, buf.dtype, buf.n_vectors)
            }),
            BufKind::Tile { tile, .. } => program.tiles.get(tile).is_some(),
            _ => true,
        };
        if buf.chip as usize >= n_chips || !state_ok {
            return Err(CompileError::internal(
                "schedule",
                format!("buffer {id} refers to what does not exist"),
            ));
        }
    }
    Ok(())
}

/// Same constant or state in every entry.
type Key = (u16, usize, [u64; 5], usize);

fn key(program: &ChainProgram, id: BufId, seen: &mut BTreeMap<(u16, usize, [u64; 5]), usize>) -> Option<Key> {
    let buf = program.bufs.get(id)?;
    let shape = buf.n_vectors as u64 | (buf.lo as u64) << 32 | (buf.hi as u64) << 48;
    let (data, detail) = match &buf.kind {
        BufKind::Rows(bytes) => (bytes.id(), [0, shape, buf.dtype as u64, 0, 0]),
        BufKind::Tile { tile, first, step } => {
            let data = program.tiles.get(*tile)?.data.id();
            (data, [1, shape, buf.dtype as u64, *first as u64, *step as u64])
        }
        BufKind::State(index) => (*index as usize, [2, shape, buf.dtype as u64, 0, 0]),
        _ => return None,
    };
    let n = seen.entry((buf.chip, data, detail)).or_insert(0);
    *n += 1;
    Some((buf.chip, data, detail, *n))
}

fn place_permanent(
    programs: &[&ChainProgram],
    uses: &[Uses],
    placer: &mut Placer<'_>,
    small: bool,
) -> Result<(), CompileError> {
    let mut all: Vec<(u64, Vec<(usize, BufId)>)> = Vec::new();
    let mut by_key: BTreeMap<Key, usize> = BTreeMap::new();
    for (e, program) in programs.iter().enumerate() {
        let mut seen = BTreeMap::new();
        for id in program.bufs.ids() {
            let Some(key) = key(program, id, &mut seen) else {
                continue;
            };
            if is_small(program, id) != small {
                continue;
            }
            let at = *by_key.entry(key).or_insert_with(|| {
                all.push((words(program, id), Vec::new()));
                all.len() - 1
            });
            all[at].1.push((e, id));
        }
    }
    all.sort_by_key(|(words, _)| std::cmp::Reverse(*words));
    for (size, members) in &all {
        let Some(&(e, id)) = members.first() else {
            continue;
        };
        let Some(buf) = programs[e].bufs.get(id) else {
            continue;
        };
        let chip = buf.chip as usize;
        let width = buf.dtype.words() as u64;
        let accesses: Vec<Access> = members
            .iter()
            .flat_map(|&(e, id)| uses[e].accesses[id.index()].iter().copied())
            .collect();
        let capacity = placer.capacity[chip] as u64;
        let used = placer.used[chip].clone();
        let fits = |place: usize| {
            let base = (used[place] as u64).next_multiple_of(width);
            (base + size <= capacity).then(|| base * 1000 / capacity.max(1))
        };
        let Some(place) = placer.best(chip, &accesses, uses[e].needs[id.index()], buf.side, &buf.kind, &fits) else {
            return Err(does_not_fit(
                programs,
                placer.target,
                chip,
                *size,
                "constants and states",
            ));
        };
        let dense = place.dense(placer.target.groups, placer.target.banks);
        let base = (used[dense] as u64).next_multiple_of(width);
        placer.used[chip][dense] = (base + size) as u32;
        placer.take(chip, place, &accesses);
        placer.items.push(Item {
            chip,
            words: *size,
            groups: groups_of(&accesses),
            need: uses[e].needs[id.index()],
            span: None,
            members: members.clone(),
            place,
        });
    }
    Ok(())
}

/// The groups of these accesses, ascending, and the words that each reads at a time towards the VXM.
fn groups_of(accesses: &[Access]) -> Vec<(usize, u32)> {
    let mut groups = BTreeMap::new();
    for a in accesses {
        *groups.entry(a.group).or_insert(0) += a.inward;
    }
    groups.into_iter().collect()
}

fn place_scratch(
    entry: usize,
    program: &ChainProgram,
    uses: &Uses,
    slack: usize,
    placer: &mut Placer<'_>,
) -> Result<(), CompileError> {
    let mut output = vec![false; program.bufs.len()];
    for nest in program.outputs.iter().flat_map(|t| &t.nests) {
        if let Some(o) = output.get_mut(nest.value as usize) {
            *o = true;
        }
    }
    let mut order: Vec<BufId> = program
        .bufs
        .iter()
        .filter(|(_, b)| matches!(b.kind, BufKind::Temp | BufKind::Input))
        .map(|(id, _)| id)
        .collect();
    order.sort_by_key(|id| (uses.first_chain[id.index()], *id));
    // Lifetimes count in chains of the buffer's own chip.
    let mut chains: Vec<Vec<usize>> = vec![Vec::new(); program.n_chips as usize];
    for (id, chain) in program.chains.iter() {
        let chip_of = |b: BufId| program.bufs.get(b).map_or(0, |b| b.chip as usize);
        let (a, b) = match &chain.kind {
            ChainKind::Compute { chip, .. } => (*chip as usize, *chip as usize),
            ChainKind::Transfer { from, to, .. } => (chip_of(*from), chip_of(*to)),
        };
        chains[a].push(id.index());
        if a != b {
            chains[b].push(id.index());
        }
    }
    let mut live: Vec<Vec<Vec<u32>>> = chains
        .iter()
        .map(|c| vec![vec![0; c.len() + 1]; placer.target.n_places()])
        .collect();
    for id in order {
        let Some(buf) = program.bufs.get(id) else {
            continue;
        };
        let (i, chip, size) = (id.index(), buf.chip as usize, words(program, id));
        let n_chains = chains[chip].len();
        let local = |chain: usize| chains[chip].partition_point(|&c| c < chain);
        let from = if matches!(buf.kind, BufKind::Input) {
            0
        } else {
            local(uses.first_chain[i]).saturating_sub(slack)
        };
        let to = if output[i] {
            n_chains
        } else {
            (local(uses.last_chain[i]) + slack).min(n_chains)
        };
        let from = from.min(to);
        let capacity = placer.capacity[chip] as u64;
        let used = &placer.used[chip];
        let chip_live = &live[chip];
        let fits = |place: usize| {
            let peak = chip_live[place][from..=to].iter().max().copied().unwrap_or(0) as u64;
            let after = used[place] as u64 + peak + size;
            (after <= capacity).then(|| (used[place] as u64 + peak) * 500 / capacity.max(1))
        };
        let Some(place) = placer.best(chip, &uses.accesses[i], uses.needs[i], buf.side, &buf.kind, &fits) else {
            return Err(does_not_fit(&[program], placer.target, chip, size, "temporaries"));
        };
        let dense = place.dense(placer.target.groups, placer.target.banks);
        live[chip][dense][from..=to].iter_mut().for_each(|w| *w += size as u32);
        placer.take(chip, place, &uses.accesses[i]);
        placer.items.push(Item {
            chip,
            words: size,
            groups: groups_of(&uses.accesses[i]),
            need: uses.needs[i],
            span: Some((entry, from, to)),
            members: vec![(entry, id)],
            place,
        });
    }
    Ok(())
}

impl Placer<'_> {
    /// The cheapest bank that `fits` accepts (it returns how full the bank is, per mille).
    fn best(
        &self,
        chip: usize,
        accesses: &[Access],
        need: Need,
        side: Option<Dir>,
        kind: &BufKind,
        fits: &dyn Fn(usize) -> Option<u64>,
    ) -> Option<Place> {
        let t = self.target;
        let tile = matches!(kind, BufKind::Tile { .. });
        let total: u64 = accesses.iter().map(|a| a.cycles).sum::<u64>().max(1);
        let brief = !tile && accesses.iter().all(|a| a.own.1 <= BRIEF);
        let mut best: Option<(u64, Place)> = None;
        for (dense, place) in t.places().enumerate() {
            let outermost = place.group + 1 == t.groups;
            if need.hemi.is_some_and(|h| h != place.hemi) || need.table && outermost || need.index && !outermost {
                continue;
            }
            let Some(full) = fits(dense) else { continue };
            let clash = accesses.iter().any(|a| {
                self.groups.get(a.group).is_some_and(|g| {
                    let inward = g.inward[place.hemi as usize] + a.inward;
                    g.places.contains(&place) || a.inward > 0 && inward > t.streams as u32
                })
            });
            if brief {
                let cost = clash as u64 * 1_000_000 + (self.way(chip, dense, place, accesses) * TRAVEL) + full;
                if best.is_none_or(|(c, _)| cost < c) {
                    best = Some((cost, place));
                }
                continue;
            }
            let busy = &self.busy[chip][dense];
            let overlap: u64 = accesses
                .iter()
                .flat_map(|a| {
                    let (first, last) = (a.start / BUCKET, (a.start + a.cycles) / BUCKET);
                    (first..=last).map(|b| busy.get(b as usize).copied().unwrap_or(0) as u64)
                })
                .sum();
            // Weights lie near the matrix units, scratch near the centre: either takes the shorter stretch of belt.
            let distance = if tile { t.groups - 1 - place.group } else { place.group } as u64;
            // Weights of one hemisphere's matrix unit would meet those of the other's in banks and on belts.
            let wrong_side = side.is_some_and(|s| s != place.hemi) as u64 * if tile { 500 } else { 1 };
            let cost = clash as u64 * 1_000_000
                + (overlap * 1000 / total).min(100_000)
                + wrong_side * 400
                + full
                + distance * 4;
            if best.is_none_or(|(c, _)| cost < c) {
                best = Some((cost, place));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Cycles that the accesses to a buffer in a bank take on belts, and about as many as they wait for the bank: where others have it for
    /// b of n cycles in one piece, one comes in this piece with a chance of b / n and waits for half of it.
    fn way(&self, chip: usize, dense: usize, place: Place, accesses: &[Access]) -> u64 {
        let position = self.target.mem_position(place);
        let taken = &self.taken[chip][dense];
        let of = |a: &Access| {
            let (first, last) = (a.own.0 / BUCKET, (a.own.0 + a.own.1) / BUCKET);
            let busy = (first..=last).map(|b| taken.get(b as usize).copied().unwrap_or(0) as u64);
            let wait: u64 = busy
                .map(|b| if b > BUCKET / 2 { LONG } else { b * b / (2 * BUCKET) })
                .sum();
            wait + a.unit.map_or(0, |unit| u64::from(unit.abs_diff(position)))
        };
        accesses.iter().map(of).sum()
    }

    fn take(&mut self, chip: usize, place: Place, accesses: &[Access]) {
        let dense = place.dense(self.target.groups, self.target.banks);
        for a in accesses {
            let (start, end) = (a.own.0, a.own.0 + a.own.1);
            let taken = &mut self.taken[chip][dense];
            if taken.len() <= (end / BUCKET) as usize {
                taken.resize((end / BUCKET) as usize + 1, 0);
            }
            for b in start / BUCKET..=end / BUCKET {
                taken[b as usize] += end.min((b + 1) * BUCKET).saturating_sub(start.max(b * BUCKET)) as u32;
            }
        }
        let busy = &mut self.busy[chip][dense];
        for a in accesses {
            let (first, last) = (a.start / BUCKET, (a.start + a.cycles) / BUCKET);
            if busy.len() <= last as usize {
                busy.resize(last as usize + 1, 0);
            }
            for b in first..=last {
                let low = a.start.max(b * BUCKET);
                let high = (a.start + a.cycles).min((b + 1) * BUCKET);
                busy[b as usize] += high.saturating_sub(low) as u32;
            }
            if let Some(group) = self.groups.get_mut(a.group) {
                group.places.push(place);
                group.inward[place.hemi as usize] += a.inward;
            }
        }
    }
}

/// The error that a chip's SRAM is too small, with terms that add up to the demand.
pub(super) fn does_not_fit(
    programs: &[&ChainProgram],
    target: &Target,
    chip: usize,
    size: u64,
    what: &str,
) -> CompileError {
    let lanes = target.lanes.max(1) as u64;
    let (mut weights, mut states, mut scratch, mut padding, mut text) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut by_key = BTreeMap::new();
    for program in programs {
        let mut seen = BTreeMap::new();
        for (id, buf) in program.bufs.iter() {
            if buf.chip as usize != chip {
                continue;
            }
            if let Some(key) = key(program, id, &mut seen)
                && by_key.insert(key, ()).is_some()
            {
                continue;
            }
            let live = buf.n_vectors as u64 * (buf.hi.saturating_sub(buf.lo)) as u64 * buf.dtype.bytes() as u64;
            let all = words(program, id) * lanes;
            match buf.kind {
                BufKind::Rows(_) | BufKind::Tile { .. } => weights += live,
                BufKind::State(_) => states += live,
                BufKind::NextState(_) => continue,
                BufKind::Temp | BufKind::Input => scratch += live,
            }
            padding += all.saturating_sub(live);
        }
        for chain in program.chains.values() {
            if let ChainKind::Compute { chip: c, nodes } = &chain.kind
                && *c as usize == chip
            {
                text += nodes.len() as u64 * TEXT_BYTES;
            }
        }
    }
    let demand = weights + states + scratch + padding + text;
    let available = target.sram_bytes();
    CompileError {
        kind: CompileErrorKind::DoesNotFit {
            summary: format!(
                "chip c{chip} has no bank with room for {} bytes of {what}: at most {demand} bytes needed in all, {available} available; use more chips or narrower weights",
                size * lanes
            ),
            report: format!(
                "weights        {weights} bytes\nstates         {states} bytes\ntemporaries    {scratch} bytes (before rows are shared)\nlane padding   {padding} bytes\ninstructions   {text} bytes (at most)\ndemand         {demand} bytes\navailable      {available} bytes"
            ),
        },
        at: None,
    }
}
