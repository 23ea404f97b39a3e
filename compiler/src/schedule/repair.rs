//! Repair of the choice of banks: no two buffers of one group of runs in one bank, and no more words read towards the VXM at
//! a time than a hemisphere has streams.
//!
//! The greedy choice may leave such clashes where banks are few. A tabu search moves one clashing buffer at a time to the
//! bank where it clashes least and that has room for it; a buffer does not return to a bank it has left for some steps.
//! The number of steps is bounded; what clashes then stays, and is an error only if the runs overlap in time.

use super::place::Item;
use lockstep_isa::{Place, Target};

/// Steps of the search: so many, and so many for every clashing buffer.
const STEPS: usize = 400;
const STEPS_PER_ITEM: usize = 20;

/// Steps for which a buffer does not return.
const TENURE: usize = 8;

/// Moves items until none shares its bank with another of its groups and all find streams, or the steps are used up. `units`:
/// words that matrix and switch units send to the VXM, per group and hemisphere.
pub(super) fn repair(items: &mut [Item], target: &Target, capacity: &[u32], units: &[[u32; 2]]) {
    let of = |&inward: &[u32; 2]| Group {
        items: Vec::new(),
        inward,
    };
    let mut groups: Vec<Group> = units.iter().map(of).collect();
    for (i, item) in items.iter().enumerate() {
        for &(g, words) in &item.groups {
            if let Some(group) = groups.get_mut(g) {
                group.items.push(i);
                group.inward[item.place.hemi as usize] += words;
            }
        }
    }
    let mut search = Search {
        target,
        clashes: Vec::new(),
        groups,
        room: Room::new(items, target, capacity),
    };
    search.clashes = (0..items.len())
        .map(|i| search.clashes(items, i, items[i].place))
        .collect();
    let clashing = search.clashes.iter().filter(|&&c| c > 0).count();
    if clashing == 0 {
        return;
    }
    let before: Vec<Place> = items.iter().map(|i| i.place).collect();
    let (mut best, mut best_total) = (before, search.total());
    let mut tabu: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for step in 1..=STEPS + STEPS_PER_ITEM * clashing {
        let Some((item, place)) = search.step(items, &mut tabu, step) else {
            break;
        };
        search.apply(items, item, place);
        if search.total() < best_total {
            best_total = search.total();
            best = items.iter().map(|i| i.place).collect();
        }
        if best_total == 0 {
            break;
        }
    }
    for (item, place) in items.iter_mut().zip(best) {
        item.place = place;
    }
}

/// A group of runs.
struct Group {
    items: Vec<usize>,
    /// Words that it sends to the VXM, per hemisphere.
    inward: [u32; 2],
}

struct Search<'a> {
    target: &'a Target,
    /// Clashes of each item where it lies.
    clashes: Vec<usize>,
    groups: Vec<Group>,
    room: Room,
}

impl Search<'_> {
    /// With how many others of its groups an item would share this bank, and how many words would find no stream.
    fn clashes(&self, items: &[Item], item: usize, place: Place) -> usize {
        let is_there = items[item].place.hemi == place.hemi;
        let of = |&(g, words): &(usize, u32)| {
            let Some(group) = self.groups.get(g) else {
                return 0;
            };
            let others = group.items.iter().filter(|&&o| o != item && items[o].place == place);
            let inward = group.inward[place.hemi as usize] + if is_there { 0 } else { words };
            let over = inward.saturating_sub(self.target.streams as u32).min(words);
            others.count() + over as usize
        };
        items[item].groups.iter().map(of).sum()
    }

    fn total(&self) -> usize {
        self.clashes.iter().sum()
    }

    /// The best move of a clashing item.
    fn step(&self, items: &[Item], tabu: &mut [Vec<usize>], step: usize) -> Option<(usize, Place)> {
        let n_places = self.target.n_places();
        let mut best: Option<((i64, usize, usize, usize), Place)> = None;
        for (i, item) in items.iter().enumerate().filter(|(i, _)| self.clashes[*i] > 0) {
            for (dense, place) in self.target.places().enumerate() {
                let outermost = place.group + 1 == self.target.groups;
                let need = item.need;
                if place == item.place
                    || need.hemi.is_some_and(|h| h != place.hemi)
                    || need.table && outermost
                    || need.index && !outermost
                    || tabu[i].get(dense).is_some_and(|&until| until > step)
                {
                    continue;
                }
                let Some(full) = self.room.full(item, dense) else {
                    continue;
                };
                let change = self.clashes(items, i, place) as i64 - self.clashes[i] as i64;
                let cost = (change, full, i, dense);
                if best.is_none_or(|(c, _)| cost < c) {
                    best = Some((cost, place));
                }
            }
        }
        let ((_, _, item, _), place) = best?;
        let from = items[item].place.dense(self.target.groups, self.target.banks);
        tabu[item].resize(n_places, 0);
        if let Some(until) = tabu[item].get_mut(from) {
            *until = step + TENURE + item % 5;
        }
        Some((item, place))
    }

    fn apply(&mut self, items: &mut [Item], item: usize, place: Place) {
        let from = items[item].place;
        let dense = |p: Place| p.dense(self.target.groups, self.target.banks);
        self.room.change(&items[item], dense(from), false);
        self.room.change(&items[item], dense(place), true);
        items[item].place = place;
        let mut touched = vec![item];
        for &(g, words) in &items[item].groups {
            let Some(group) = self.groups.get_mut(g) else { continue };
            group.inward[from.hemi as usize] -= words;
            group.inward[place.hemi as usize] += words;
            touched.extend(&group.items);
        }
        touched.sort_unstable();
        touched.dedup();
        for i in touched {
            self.clashes[i] = self.clashes(items, i, items[i].place);
        }
    }
}

/// Words taken in each bank.
struct Room {
    capacity: Vec<u64>,
    /// Constants and states, per chip and bank.
    fixed: Vec<Vec<u64>>,
    /// Temporaries, per entry, chip, bank and chain of the chip.
    live: Vec<Vec<Vec<Vec<u64>>>>,
}

impl Room {
    fn new(items: &[Item], target: &Target, capacity: &[u32]) -> Room {
        let n_chips = capacity.len();
        let n_entries = items.iter().filter_map(|i| i.span).map(|s| s.0 + 1).max().unwrap_or(0);
        let mut ends = vec![vec![0; n_chips]; n_entries];
        for item in items {
            if let Some((e, _, to)) = item.span {
                ends[e][item.chip] = (to + 1).max(ends[e][item.chip]);
            }
        }
        let mut room = Room {
            capacity: capacity.iter().map(|&c| c as u64).collect(),
            fixed: vec![vec![0; target.n_places()]; n_chips],
            live: ends
                .iter()
                .map(|chips| chips.iter().map(|&n| vec![vec![0; n]; target.n_places()]).collect())
                .collect(),
        };
        for item in items {
            room.change(item, item.place.dense(target.groups, target.banks), true);
        }
        room
    }

    /// Words of an item: constants and states may have to be aligned.
    fn words(item: &Item) -> u64 {
        match item.span {
            Some(_) => item.words,
            None => item.words.next_multiple_of(4),
        }
    }

    fn change(&mut self, item: &Item, place: usize, take: bool) {
        let words = Room::words(item);
        let slots = match item.span {
            Some((e, from, to)) => &mut self.live[e][item.chip][place][from..=to],
            None => &mut self.fixed[item.chip][place..=place],
        };
        for slot in slots {
            *slot = if take {
                *slot + words
            } else {
                slot.saturating_sub(words)
            };
        }
    }

    /// How full a bank would be with this item, per mille in steps of 100; `None` where it has no room.
    fn full(&self, item: &Item, place: usize) -> Option<usize> {
        let most = |live: &[u64]| live.iter().max().copied().unwrap_or(0);
        let peak = match item.span {
            Some((e, from, to)) => most(&self.live[e][item.chip][place][from..=to]),
            None => self
                .live
                .iter()
                .map(|chips| most(&chips[item.chip][place]))
                .max()
                .unwrap_or(0),
        };
        let after = self.fixed[item.chip][place] + peak + Room::words(item);
        let capacity = self.capacity[item.chip];
        (after <= capacity).then(|| (after * 10 / capacity.max(1)) as usize)
    }
}
