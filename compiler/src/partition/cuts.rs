//! Pipeline stages: where to cut the order of operations, and how many chips each stage gets.
//!
//! The stages of one run work one after another, so the modelled cost is the sum of the cycles of all operations plus what
//! crosses the cuts. Dynamic programming over (cut, chips used) with the degrees on offer; each stage must fit its chips and hold
//! weights. Among equal sums, stages of even weight win. Where stages work for several users, the longest of them counts first.

use super::Context;
use super::cost;
use super::dist::Dist;
use super::fabric::Fabric;
use super::search::Sharding;
use crate::throughput::Objective;
use crate::tir::{Op, ValueId};
use lockstep_graph::SideTable;
use lockstep_isa::Target;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most positions considered as cuts.
const MAX_CUTS: usize = 400;

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StagePlan {
    /// First chip.
    pub(super) first: u16,
    /// Number of chips.
    pub(super) degree: u16,
    /// Operations, by position in the order.
    pub(super) ops: Range<usize>,
    /// Index of the sharding that the stage follows.
    pub(super) sharding: usize,
}

/// Room on each chip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes of SRAM.
    pub(super) bytes: u64,
    /// One of so many bytes of values and text, which are estimates, is counted.
    pub(super) share: u64,
}

/// What the program demands between cuts.
pub(super) struct Demand {
    /// Candidate cuts: positions in the order, from 0 to its length.
    cuts: Vec<usize>,
    /// Words that cross each candidate cut.
    crossing: Vec<u64>,
    /// Words that cross each position of the order.
    crossing_at: Vec<u64>,
    /// Per operation, bytes of computed values alive while it runs.
    live: Vec<u64>,
    /// Per sharding, what operations add to a stage.
    holdings: Vec<Holdings>,
}

impl Demand {
    /// Liveness and cuts of a program, and what it holds under these shardings.
    pub(super) fn new(cx: &Context<'_>, shardings: &[Sharding]) -> Demand {
        let n = cx.order.len();
        let place: BTreeMap<ValueId, usize> = cx.order.iter().enumerate().map(|(i, &v)| (v, i)).collect();
        let mut last: Vec<usize> = (0..n).collect();
        for (i, &v) in cx.order.iter().enumerate() {
            for u in &cx.ir.values[v].inputs {
                if let Some(&p) = place.get(u) {
                    last[p] = last[p].max(i);
                }
            }
        }
        for (state, next) in &cx.feeds {
            // A state stays where it is first used; what feeds it comes back there, so cutting between them is dear.
            if let (Some(&from), Some(&to)) = (place.get(state), place.get(next)) {
                last[from] = last[from].max(to);
            }
        }
        let mut crossing = vec![0u64; n + 1];
        let mut live = vec![0u64; n];
        for (p, &v) in cx.order.iter().enumerate() {
            let ty = &cx.ir.values[v].ty;
            let (words, bytes) = (cost::words(cx.target, ty), cost::value_bytes(cx.target, ty));
            crossing[p + 1..=last[p]].iter_mut().for_each(|c| *c += words);
            let data = &cx.ir.values[v];
            let in_place = cost::in_place(cx.ir, &data.op, &cost::operand_types(cx.ir, v), &data.ty);
            if !matches!(data.op, Op::State(_)) && !in_place {
                live[p..=last[p].min(n.saturating_sub(1))]
                    .iter_mut()
                    .for_each(|l| *l += bytes);
            }
        }
        let mut inner: Vec<usize> = (1..n).collect();
        if inner.len() > MAX_CUTS {
            let window = inner.len().div_ceil(MAX_CUTS);
            inner = inner
                .chunks(window)
                .filter_map(|w| w.iter().copied().min_by_key(|&p| (crossing[p], p)))
                .collect();
        }
        let mut cuts = vec![0];
        cuts.extend(inner);
        cuts.push(n);
        Demand {
            crossing: cuts.iter().map(|&p| crossing[p]).collect(),
            cuts,
            crossing_at: crossing,
            live,
            holdings: shardings.iter().map(|s| Holdings::new(cx, s)).collect(),
        }
    }

    /// Fewest stages of sharding `k` whose constants and states fit their chips.
    pub(super) fn least_stages(&self, k: usize, target: &Target) -> u64 {
        self.holdings[k].weights().div_ceil(target.sram_bytes().max(1))
    }

    /// Modelled cycles of each of given stages, with what it receives.
    pub(super) fn cycles(&self, cx: &Context<'_>, stages: &[StagePlan], shardings: &[Sharding]) -> Vec<u64> {
        let n_chips = stages.last().map_or(1, |s| s.first + s.degree);
        let fabric = Fabric::new(cx.target, n_chips);
        let of = |stage: &StagePlan| {
            let cycles = &shardings[stage.sharding].cycles;
            let own = cx.order[stage.ops.clone()]
                .iter()
                .fold(0u64, |t, &v| t.saturating_add(cycles[v]));
            if stage.first == 0 {
                return own;
            }
            let links = fabric.links(stage.first - 1, stage.first).max(1) as u64;
            own.saturating_add(cost::transfer_cycles(
                cx.target,
                self.crossing_at[stage.ops.start],
                1,
                links,
            ))
        };
        stages.iter().map(of).collect()
    }
}

/// SRAM bytes that constants, states and text of the operations add to a stage, by position in the order.
struct Holdings {
    /// What each operation adds in any case: states; text.
    always: Vec<(u64, u64)>,
    /// What it adds to a stage that does not hold it yet: its number, constants, inputs.
    once: Vec<Vec<(usize, u64, u64)>>,
    /// Numbers in use.
    n_once: usize,
}

impl Holdings {
    /// The holdings of a program under a sharding.
    fn new(cx: &Context<'_>, s: &Sharding) -> Holdings {
        let mut numbers: BTreeMap<(ValueId, Dist), usize> = BTreeMap::new();
        let (mut always, mut once) = (Vec::new(), Vec::new());
        for &v in &cx.order {
            let data = &cx.ir.values[v];
            let mut ins = Vec::with_capacity(data.inputs.len());
            let mut of = Vec::new();
            for (j, &u) in data.inputs.iter().enumerate() {
                let need = s.need(v, j);
                let whole = &cx.ir.values[u].ty;
                let ty = need.largest(&cost::stored_type(cx.ir, u));
                let held = if cx.constant[u] {
                    Some((need, cost::row_bytes(cx.target, &ty), 0))
                } else if cx.ir.values[u].op == Op::Input {
                    Some((Dist::Whole, 0, cost::value_bytes(cx.target, whole)))
                } else {
                    None
                };
                if let Some((dist, constant, input)) = held {
                    let next = numbers.len();
                    of.push((*numbers.entry((u, dist)).or_insert(next), constant, input));
                }
                ins.push(ty);
            }
            let out = s.dist(v).largest(&data.ty);
            let state = match data.op {
                Op::State(_) => cost::row_bytes(cx.target, &out),
                _ => 0,
            };
            always.push((state, cost::text_bytes(cx.target, &data.op, &ins, &out)));
            once.push(of);
        }
        Holdings {
            always,
            once,
            n_once: numbers.len(),
        }
    }

    /// Bytes of constants and states, and of inputs and text, that the operation at a position adds to a stage; `held` says what
    /// the stage holds already.
    fn add(&self, at: usize, held: &mut [bool]) -> (u64, u64) {
        let (mut weights, mut other) = self.always[at];
        for &(number, constant, input) in &self.once[at] {
            if !std::mem::replace(&mut held[number], true) {
                weights += constant;
                other += input;
            }
        }
        (weights, other)
    }

    /// Bytes of constants and states of the whole program.
    fn weights(&self) -> u64 {
        let mut held = vec![false; self.n_once];
        (0..self.always.len()).map(|at| self.add(at, &mut held).0).sum()
    }
}

/// A way to reach a cut: cycles, evenness, and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    /// Cycles of the longest stage where those count, 0 elsewhere.
    longest: u64,
    cycles: u64,
    squares: u128,
    from: usize,
    chips: u16,
    sharding: usize,
}

/// Best stages on `n_chips` chips with the shardings on `offer`, with this room on each chip; with `least`, on as
/// few chips as possible up to `n_chips`. `None` where nothing fits.
pub(super) fn cut(
    cx: &Context<'_>,
    demand: &Demand,
    shardings: &[Sharding],
    offer: &[usize],
    n_chips: u16,
    room: Room,
    least: bool,
) -> Option<Vec<StagePlan>> {
    // One stage has no cut to choose.
    let ends = [0, demand.cuts.len() - 1];
    let one = offer.iter().all(|&k| shardings[k].degree * 2 > n_chips);
    let picked: Vec<usize> = if one {
        ends.to_vec()
    } else {
        (0..demand.cuts.len()).collect()
    };
    let n_cuts = picked.len();
    let position = |c: usize| demand.cuts[picked[c]];
    let fabric = Fabric::new(cx.target, n_chips.max(1));
    let mut best: Vec<BTreeMap<u16, Reached>> = vec![BTreeMap::new(); n_cuts];
    best[0].insert(
        0,
        Reached {
            longest: 0,
            cycles: 0,
            squares: 0,
            from: 0,
            chips: 0,
            sharding: 0,
        },
    );
    for a in 0..n_cuts - 1 {
        if best[a].is_empty() {
            continue;
        }
        let reached: Vec<(u16, Reached)> = best[a].iter().map(|(&c, &r)| (c, r)).collect();
        for &k in offer {
            let s = &shardings[k];
            let holdings = &demand.holdings[k];
            let mut held = vec![false; holdings.n_once];
            let (mut weights, mut other, mut live, mut cycles) = (0u64, 0u64, 0u64, 0u64);
            let mut at = position(a);
            for (b, found) in best.iter_mut().enumerate().skip(a + 1) {
                while at < position(b) {
                    let (w, o) = holdings.add(at, &mut held);
                    weights += w;
                    other += o;
                    live = live.max(demand.live[at]);
                    cycles = cycles.saturating_add(s.cycles[cx.order[at]]);
                    at += 1;
                }
                if weights + (other + live) / room.share.max(1) > room.bytes {
                    break;
                }
                if weights == 0 && n_cuts > 2 && !(a == 0 && b == n_cuts - 1) {
                    continue;
                }
                for &(chips, r) in &reached {
                    let next = chips + s.degree;
                    if next > n_chips {
                        continue;
                    }
                    let cross = if a == 0 {
                        0
                    } else {
                        let links = fabric.links(chips - 1, chips).max(1) as u64;
                        cost::transfer_cycles(cx.target, demand.crossing[picked[a]], 1, links)
                    };
                    let longest = match cx.options.optimize {
                        Objective::Latency => 0,
                        Objective::Throughput => r.longest.max(cycles.saturating_add(cross)),
                    };
                    let way = Reached {
                        longest,
                        cycles: r.cycles.saturating_add(cycles).saturating_add(cross),
                        squares: r.squares + (weights as u128).pow(2) * s.degree as u128,
                        from: a,
                        chips,
                        sharding: k,
                    };
                    found.entry(next).and_modify(|old| *old = way.min(*old)).or_insert(way);
                }
            }
        }
    }
    let last = &best[n_cuts - 1];
    let mut chips = if least { *last.keys().next()? } else { n_chips };
    last.get(&chips)?;
    let mut stages = Vec::new();
    let mut b = n_cuts - 1;
    while b > 0 {
        let r = best[b].get(&chips)?;
        stages.push(StagePlan {
            first: r.chips,
            degree: chips - r.chips,
            ops: position(r.from)..position(b),
            sharding: r.sharding,
        });
        (b, chips) = (r.from, r.chips);
    }
    stages.reverse();
    Some(stages)
}

/// The stage of every operation.
pub(super) fn homes(cx: &Context<'_>, stages: &[StagePlan]) -> SideTable<ValueId, u16> {
    let mut home = SideTable::new();
    for (s, stage) in stages.iter().enumerate() {
        for &v in &cx.order[stage.ops.clone()] {
            home[v] = s as u16;
        }
    }
    home
}
