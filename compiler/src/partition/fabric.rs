//! The links between the chips of a system: neighbours, shortest paths, load of the collective patterns.

use lockstep_isa::Target;
use std::collections::BTreeMap;

/// Which chips are wired to which, in a system of a fixed number of chips.
#[derive(Clone, Debug)]
pub(super) struct Fabric {
    /// Per chip, the chips that send to it directly, ascending, with the number of parallel links.
    incoming: Vec<Vec<(u16, u32)>>,
}

/// Load of the patterns of a group of chips, in units of one member's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Most hops of a message.
    pub hops: u64,
    /// Messages over the busiest link where everyone sends the same message to all (multicast along shortest paths).
    pub gather: u64,
    /// Messages over the busiest link where everyone sends a different message to each.
    pub scatter: u64,
    /// Of so many link cycles one counts: the others pass while units work, since transfers go row by row.
    pub overlap: u64,
}

impl Fabric {
    /// The wiring of `n_chips` chips of the target.
    pub(super) fn new(target: &Target, n_chips: u16) -> Fabric {
        let mut incoming = vec![Vec::new(); n_chips as usize];
        for chip in 0..n_chips {
            let mut peers: BTreeMap<u16, u32> = BTreeMap::new();
            for link in 0..target.n_links() {
                if let Some(p) = target.topology.peer(chip, link, target.c2c.local_links, n_chips)
                    && p.chip != chip
                {
                    *peers.entry(p.chip).or_default() += 1;
                }
            }
            for (to, n) in peers {
                incoming[to as usize].push((chip, n));
            }
        }
        Fabric { incoming }
    }

    /// Parallel links that lead directly from one chip to another; 0 where none does.
    pub(super) fn links(&self, from: u16, to: u16) -> u32 {
        self.incoming
            .get(to as usize)
            .and_then(|l| l.iter().find(|p| p.0 == from))
            .map_or(0, |p| p.1)
    }

    /// Shortest path to `to` from the nearest chip that `holds` accepts: that chip first, `to` last. Among equals
    /// `origin`, then the first counting upwards from `to`. `None` where no holder is connected.
    pub(super) fn path(&self, to: u16, origin: u16, holds: impl Fn(u16) -> bool) -> Option<Vec<u16>> {
        let n = self.incoming.len();
        let mut next: Vec<Option<u16>> = vec![None; n];
        let mut seen = vec![false; n];
        let mut front = vec![to];
        seen[to as usize] = true;
        while !front.is_empty() {
            let mut holders: Vec<u16> = front.iter().copied().filter(|&c| holds(c)).collect();
            holders.sort_by_key(|&c| (c != origin, (c as usize + n - to as usize) % n));
            if let Some(&from) = holders.first() {
                let mut path = vec![from];
                let mut at = from;
                while let Some(step) = next[at as usize] {
                    path.push(step);
                    at = step;
                }
                return Some(path);
            }
            let mut further = Vec::new();
            for &c in &front {
                for &(from, _) in &self.incoming[c as usize] {
                    if !seen[from as usize] {
                        seen[from as usize] = true;
                        next[from as usize] = Some(c);
                        further.push(from);
                    }
                }
            }
            front = further;
        }
        None
    }

    /// Load of collectives among chips `first .. first + n`.
    pub(super) fn load(&self, first: u16, n: u16) -> Load {
        let mut load = Load {
            hops: 0,
            gather: 0,
            scatter: 0,
            overlap: 1,
        };
        let mut gather: BTreeMap<(u16, u16), u64> = BTreeMap::new();
        let mut scatter: BTreeMap<(u16, u16), u64> = BTreeMap::new();
        for from in first..first + n {
            let mut holders: Vec<u16> = vec![from];
            for step in 1..n {
                let to = first + (from - first + step) % n;
                if let Some(path) = self.path(to, from, |c| c == from) {
                    load.hops = load.hops.max(path.len() as u64 - 1);
                    path.windows(2)
                        .for_each(|w| *scatter.entry((w[0], w[1])).or_default() += 1);
                }
                if let Some(path) = self.path(to, from, |c| holders.contains(&c)) {
                    path.windows(2)
                        .for_each(|w| *gather.entry((w[0], w[1])).or_default() += 1);
                    holders.extend(path.iter().skip(1));
                }
            }
        }
        let busiest = |load: BTreeMap<(u16, u16), u64>| {
            load.iter()
                .map(|((a, b), n)| n.div_ceil(self.links(*a, *b).max(1) as u64))
                .max()
                .unwrap_or(0)
        };
        load.gather = busiest(gather);
        load.scatter = busiest(scatter);
        load
    }
}
