//! Tensor parallelism: how each value of a program lies on a group of `n` chips.
//!
//! Splits are proposed at contracts and carried along the program in both directions; then a beam search over the
//! operations in order picks one way for each, by modelled cycles of the work and of the collectives that it implies. A
//! state of the search is the set of distributions in which each live value is at hand.

use super::Context;
use super::choice::{self, Choice};
use super::cost;
use super::dist::{Dist, Split};
use super::fabric::Load;
use crate::tir::{Op, ReduceOp, Type, ValueId};
use lockstep_graph::SideTable;
use std::collections::{BTreeMap, BTreeSet};

/// Most splits considered for one value.
const MAX_SPLITS: usize = 6;
/// States kept per operation.
const BEAM: usize = 16;
/// Passes of carrying splits along the program in both directions.
const ROUNDS: usize = 3;

/// How every value lies on the members of a group, and what that costs.
#[derive(Clone, Debug)]
pub(super) struct Sharding {
    /// Number of chips.
    pub(super) degree: u16,
    /// The way of each operation.
    pub(super) ways: SideTable<ValueId, Option<Choice>>,
    /// Modelled cycles of each operation with the collectives that bring its operands and settle its result.
    pub(super) cycles: SideTable<ValueId, u64>,
    /// Modelled cycles of everything.
    pub(super) total: u64,
}

impl Sharding {
    /// Everything whole on every chip: the only way on one chip.
    pub(super) fn whole(cx: &Context<'_>) -> Sharding {
        let mut sharding = Sharding {
            degree: 1,
            ways: SideTable::new(),
            cycles: SideTable::new(),
            total: 0,
        };
        for &v in &cx.order {
            let data = &cx.ir.values[v];
            let cycles = cost::op_cycles(cx.target, cx.ir, &data.op, &cost::operand_types(cx.ir, v), &data.ty);
            sharding.cycles[v] = cycles;
            sharding.total += cycles;
            sharding.ways[v] = Some(Choice {
                out: Dist::Whole,
                ins: vec![Dist::Whole; data.inputs.len()],
            });
        }
        sharding
    }

    /// Distribution of a value that the group computes.
    pub(super) fn dist(&self, v: ValueId) -> Dist {
        self.ways[v].as_ref().map_or(Dist::Whole, |w| w.out.clone())
    }

    /// How operand `j` of `v` must lie.
    pub(super) fn need(&self, v: ValueId, j: usize) -> Dist {
        self.ways[v]
            .as_ref()
            .and_then(|w| w.ins.get(j).cloned())
            .unwrap_or(Dist::Whole)
    }

    /// Whether every operation is done alike.
    pub(super) fn is_like(&self, other: &Sharding) -> bool {
        self.degree == other.degree && self.ways.iter().eq(other.ways.iter())
    }

    /// Whether any operation is shared rather than repeated.
    pub(super) fn shares(&self) -> bool {
        self.ways
            .iter()
            .any(|(_, w)| w.as_ref().is_some_and(|w| w.out != Dist::Whole))
    }
}

/// Distributions that another entry has settled: every entry holds the same parts of constants and states.
#[derive(Clone, Debug, Default)]
pub(super) struct Fixed {
    /// Per constant (by name and type of the expression) the distributions allowed.
    pub(super) constants: BTreeMap<(String, Type), BTreeSet<Dist>>,
    /// Per state, by name.
    pub(super) states: BTreeMap<String, Dist>,
}

impl Fixed {
    /// Whether a way of an operation agrees.
    fn allows(&self, cx: &Context<'_>, v: ValueId, way: &Choice) -> bool {
        let data = &cx.ir.values[v];
        if let Op::State(s) = data.op {
            return self.states.get(&cx.ir.states[s].name).is_none_or(|d| *d == way.out);
        }
        let agrees = |(&u, d): (&ValueId, &Dist)| {
            let of = |key: &(String, Type)| self.constants.get(key).is_none_or(|set| set.contains(d));
            !cx.constant[u] || constant_key(cx, u).is_none_or(|key| of(&key))
        };
        data.inputs.iter().zip(&way.ins).all(agrees)
    }
}

/// Name and type of a constant expression over a named constant; `None` for what is made of coordinates alone.
pub(super) fn constant_key(cx: &Context<'_>, v: ValueId) -> Option<(String, Type)> {
    let mut at = v;
    loop {
        let data = &cx.ir.values[at];
        match data.op {
            Op::Const(k) => return Some((cx.ir.consts[k].name.clone(), cx.ir.values[v].ty.clone())),
            _ => at = *data.inputs.first()?,
        }
    }
}

/// A state of the beam: cost so far, and per live value a bit for each distribution at hand.
#[derive(Clone)]
struct State {
    cost: u64,
    masks: Vec<u32>,
    history: usize,
}

/// One operation's ways with their costs, in terms of bits.
struct Way {
    out: u32,
    /// Per operand that is searched: position in the live list, bit needed.
    ins: Vec<(usize, u32)>,
    cycles: u64,
    price: u64,
}

/// Best way found for every operation on `degree` chips. `row_price` is what the search pays, in cycles, for each row of
/// constants that a chip must hold: 0 minimises latency, more saves SRAM.
/// Ways that contradict `fixed` are not taken unless nothing else is left.
pub(super) fn search(cx: &Context<'_>, degree: u16, load: Load, row_price: u64, fixed: &Fixed) -> Sharding {
    if degree <= 1 {
        return Sharding::whole(cx);
    }
    let tables = tables(cx, degree as usize, fixed);
    let n = degree as u64;
    // Liveness over the order.
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (i, &v) in cx.order.iter().enumerate() {
        for &u in cx.ir.values[v].inputs.iter().filter(|&&u| cx.computed(u)) {
            last.insert(u, i);
        }
    }
    let end = cx.order.len();
    for v in cx.kept() {
        last.insert(v, end);
    }
    let convert = |v: ValueId, mask: u32, need: u32| -> u64 {
        if mask & need != 0 {
            return 0;
        }
        let table = &tables[&v];
        let to = &table[need.trailing_zeros() as usize];
        (0..table.len())
            .filter(|&b| mask & (1 << b) != 0)
            .map(|b| cost::convert_cycles(cx.target, &cx.ir.values[v].ty, &table[b], to, n, load))
            .min()
            .unwrap_or(u64::MAX)
    };
    let mut memo: BTreeMap<(ValueId, u32, u32), u64> = BTreeMap::new();
    let mut history: Vec<(usize, u32, u64)> = Vec::new();
    let mut live: Vec<ValueId> = Vec::new();
    let mut beam = vec![State {
        cost: 0,
        masks: Vec::new(),
        history: usize::MAX,
    }];
    let mut all_ways: Vec<Vec<Choice>> = Vec::with_capacity(end);
    for (i, &v) in cx.order.iter().enumerate() {
        let mut choices = ways(cx, v, &tables);
        if choices.iter().any(|c| fixed.allows(cx, v, c)) {
            choices.retain(|c| fixed.allows(cx, v, c));
        }
        let coded: Vec<Way> = choices
            .iter()
            .map(|c| code(cx, v, c, &tables, &live, row_price))
            .collect();
        let mut next: BTreeMap<Vec<u32>, (u64, usize, u32, u64)> = BTreeMap::new();
        let dying: Vec<bool> = live.iter().map(|u| last.get(u).is_none_or(|&l| l <= i)).collect();
        let stays = last.get(&v).is_some_and(|&l| l > i);
        for state in &beam {
            for (w, way) in coded.iter().enumerate() {
                let mut masks = state.masks.clone();
                let (mut price, mut cycles) = (way.price, way.cycles);
                for &(at, need) in &way.ins {
                    let key = (live[at], masks[at], need);
                    let moved = *memo.entry(key).or_insert_with(|| convert(key.0, key.1, key.2));
                    cycles = cycles.saturating_add(moved);
                    masks[at] |= need;
                }
                price = price.saturating_add(cycles).saturating_add(state.cost);
                let mut kept: Vec<u32> = masks
                    .iter()
                    .zip(&dying)
                    .filter(|(_, dies)| !**dies)
                    .map(|(m, _)| *m)
                    .collect();
                if stays {
                    kept.push(way.out);
                }
                let entry = (price, state.history, w as u32, cycles);
                next.entry(kept)
                    .and_modify(|old| {
                        if entry.0 < old.0 {
                            *old = entry;
                        }
                    })
                    .or_insert(entry);
            }
        }
        let mut found: Vec<_> = next.into_iter().filter(|(_, e)| e.0 != u64::MAX).collect();
        found.sort_by(|a, b| (a.1.0, &a.0).cmp(&(b.1.0, &b.0)));
        found.truncate(BEAM);
        beam = found
            .into_iter()
            .map(|(masks, (cost, parent, way, cycles))| {
                history.push((parent, way, cycles));
                State {
                    cost,
                    masks,
                    history: history.len() - 1,
                }
            })
            .collect();
        live = live
            .iter()
            .zip(&dying)
            .filter(|(_, dies)| !**dies)
            .map(|(u, _)| *u)
            .collect();
        if stays {
            live.push(v);
        }
        all_ways.push(choices);
    }
    // Outputs are gathered on one chip; what feeds a state must lie as the state does.
    let at = |v: ValueId| live.iter().position(|&x| x == v);
    let outputs: Vec<(ValueId, usize)> = cx.outputs.iter().filter_map(|&v| at(v).map(|i| (v, i))).collect();
    let states: Vec<(ValueId, usize, usize)> = cx
        .feeds
        .iter()
        .filter_map(|&(state, next)| Some((next, at(next)?, at(state)?)))
        .collect();
    let settle = |state: &State| -> Vec<(ValueId, u64)> {
        let mut costs: Vec<(ValueId, u64)> = Vec::new();
        for &(v, i) in &outputs {
            costs.push((v, convert(v, state.masks[i], 1)));
        }
        for &(next, i, from) in &states {
            let lies = (0..32).filter(|b| state.masks[from] & (1 << b) != 0);
            let cost = lies.filter_map(|b| {
                let want = &tables[&live[from]][b];
                let bit = tables[&next].iter().position(|d| d == want)?;
                Some(convert(next, state.masks[i], 1 << bit))
            });
            costs.push((next, cost.min().unwrap_or(u64::MAX)));
        }
        costs
    };
    let finish = |state: &State| {
        settle(state)
            .into_iter()
            .map(|(_, c)| c)
            .fold(state.cost, u64::saturating_add)
    };
    let best = beam.iter().min_by_key(|s| finish(s));
    let mut sharding = Sharding {
        degree,
        ways: SideTable::new(),
        cycles: SideTable::new(),
        total: 0,
    };
    let mut at = best.map_or(usize::MAX, |s| s.history);
    for (&v, ways) in cx.order.iter().zip(&all_ways).rev() {
        let Some(&(parent, way, cycles)) = history.get(at) else {
            break;
        };
        sharding.ways[v] = ways.get(way as usize).cloned();
        sharding.cycles[v] = cycles;
        sharding.total += cycles;
        at = parent;
    }
    for (v, cycles) in best.map(settle).unwrap_or_default() {
        sharding.cycles[v] = sharding.cycles[v].saturating_add(cycles);
        sharding.total = sharding.total.saturating_add(cycles);
    }
    sharding
}

/// Distributions considered for each value: whole, splits, and partial results; the position is the bit.
fn tables(cx: &Context<'_>, n: usize, fixed: &Fixed) -> BTreeMap<ValueId, Vec<Dist>> {
    let mut splits: BTreeMap<ValueId, BTreeSet<Split>> = BTreeMap::new();
    let add = |splits: &mut BTreeMap<ValueId, BTreeSet<Split>>, v: ValueId, s: Split| {
        let set = splits.entry(v).or_default();
        set.len() < MAX_SPLITS && set.insert(s)
    };
    for &v in &cx.order {
        if let Op::State(s) = cx.ir.values[v].op
            && let Some(Dist::Split(split)) = fixed.states.get(&cx.ir.states[s].name)
        {
            add(&mut splits, v, split.clone());
        }
        for &u in cx.ir.values[v].inputs.iter().filter(|&&u| cx.constant[u]) {
            for d in constant_key(cx, u)
                .iter()
                .filter_map(|key| fixed.constants.get(key))
                .flatten()
            {
                if let Dist::Split(split) = d {
                    add(&mut splits, u, split.clone());
                }
            }
        }
    }
    for &v in &cx.order {
        for (of, s) in choice::seeds(cx.ir, v, n) {
            add(&mut splits, of, s);
        }
    }
    let dist_of = |splits: &BTreeMap<ValueId, BTreeSet<Split>>, v: ValueId| -> Vec<Split> {
        splits.get(&v).map_or(Vec::new(), |s| s.iter().cloned().collect())
    };
    for _ in 0..ROUNDS {
        let mut grew = false;
        for &v in &cx.order {
            for (j, &u) in cx.ir.values[v].inputs.iter().enumerate() {
                for s in dist_of(&splits, u) {
                    for out in choice::ahead(cx.ir, v, j, &s) {
                        grew |= add(&mut splits, v, out);
                    }
                }
            }
        }
        for &v in cx.order.iter().rev() {
            for s in dist_of(&splits, v) {
                for (j, d) in choice::behind(cx.ir, v, &s).unwrap_or_default().into_iter().enumerate() {
                    if let Dist::Split(s) = d {
                        grew |= add(&mut splits, cx.ir.values[v].inputs[j], s);
                    }
                }
            }
        }
        for (state, data) in cx.ir.states.iter() {
            for v in cx
                .order
                .iter()
                .copied()
                .filter(|&v| cx.ir.values[v].op == Op::State(state))
            {
                for (from, to) in [(v, data.next), (data.next, v)] {
                    for s in dist_of(&splits, from) {
                        grew |= add(&mut splits, to, s);
                    }
                }
            }
        }
        if !grew {
            break;
        }
    }
    let mut tables = BTreeMap::new();
    for v in cx.ir.values.ids() {
        let mut table = vec![Dist::Whole];
        table.extend(dist_of(&splits, v).into_iter().map(Dist::Split));
        let mut ops: BTreeSet<ReduceOp> = BTreeSet::new();
        for (j, &u) in cx.ir.values[v].inputs.iter().enumerate() {
            for s in dist_of(&splits, u) {
                if let Some(Choice {
                    out: Dist::Partial(op), ..
                }) = choice::partial(cx.ir, v, j, &s)
                {
                    ops.insert(op);
                }
            }
        }
        table.extend(ops.into_iter().map(Dist::Partial));
        tables.insert(v, table);
    }
    tables
}

/// All ways to compute a value whose operand distributions are in the tables.
fn ways(cx: &Context<'_>, v: ValueId, tables: &BTreeMap<ValueId, Vec<Dist>>) -> Vec<Choice> {
    let data = &cx.ir.values[v];
    let mut ways = vec![Choice {
        out: Dist::Whole,
        ins: vec![Dist::Whole; data.inputs.len()],
    }];
    for d in &tables[&v] {
        if let Dist::Split(s) = d {
            ways.extend(choice::behind(cx.ir, v, s).map(|ins| Choice { out: d.clone(), ins }));
        }
    }
    if !(cx.options.exact && choice::rounds(cx.ir, v)) {
        for (j, u) in data.inputs.iter().enumerate() {
            for d in &tables[u] {
                if let Dist::Split(s) = d {
                    ways.extend(choice::partial(cx.ir, v, j, s));
                }
            }
        }
    }
    let known = |c: &Choice| {
        data.inputs
            .iter()
            .zip(&c.ins)
            .all(|(u, d)| !cx.computed(*u) || tables[u].contains(d))
            && tables[&v].contains(&c.out)
    };
    let mut seen: Vec<Choice> = Vec::new();
    for way in ways.into_iter().filter(known) {
        if !seen.contains(&way) {
            seen.push(way);
        }
    }
    seen
}

/// A way in terms of the search.
fn code(
    cx: &Context<'_>,
    v: ValueId,
    choice: &Choice,
    tables: &BTreeMap<ValueId, Vec<Dist>>,
    live: &[ValueId],
    row_price: u64,
) -> Way {
    let data = &cx.ir.values[v];
    let bit = |of: ValueId, d: &Dist| tables[&of].iter().position(|x| x == d).map_or(0, |b| 1u32 << b);
    let local: Vec<Type> = data
        .inputs
        .iter()
        .zip(&choice.ins)
        .map(|(u, d)| d.largest(&cx.ir.values[*u].ty))
        .collect();
    let mut price = 0;
    let mut ins = Vec::new();
    for (j, (&u, d)) in data.inputs.iter().zip(&choice.ins).enumerate() {
        if let Some(at) = live.iter().position(|&x| x == u) {
            ins.push((at, bit(u, d)));
        } else if cx.constant[u] {
            price += row_price * cost::row_bytes(cx.target, &local[j]) / cx.target.word_bytes().max(1) as u64;
        }
    }
    if let Op::State(_) = data.op {
        price += row_price * cost::row_bytes(cx.target, &choice.out.largest(&data.ty))
            / cx.target.word_bytes().max(1) as u64;
    }
    let cycles = cost::op_cycles(cx.target, cx.ir, &data.op, &local, &choice.out.largest(&data.ty));
    Way {
        out: bit(v, &choice.out),
        ins,
        cycles,
        price,
    }
}
