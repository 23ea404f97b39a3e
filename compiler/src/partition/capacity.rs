//! SRAM of each chip, term by term, and the report of what does not fit.

use super::{Context, Partitioned, constants, cost};
use crate::tir::{Op, TensorIr, ValueId};
use lockstep_graph::{EntityId, IdSet, SideTable};
use lockstep_isa::Target;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of SRAM that one chip needs; the terms add up to [`ChipUsage::total`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChipUsage {
    /// Elements of constants.
    pub weights: u64,
    /// Elements of states.
    pub states: u64,
    /// Lanes without an element in rows of constants and states.
    pub padding: u64,
    /// Largest sum of inputs, outputs and computed values alive at one time, in whole vectors.
    pub values: u64,
    /// Instruction text, estimated.
    pub text: u64,
}

impl ChipUsage {
    /// Constants and states without their padding: what no layout makes smaller.
    pub fn held(&self) -> u64 {
        self.weights + self.states
    }

    /// All terms together.
    pub fn total(&self) -> u64 {
        self.weights + self.states + self.padding + self.values + self.text
    }
}

/// Constant values that chips must hold: constant expressions that something else uses.
fn constant_roots(ir: &TensorIr, constant: &SideTable<ValueId, bool>) -> IdSet<ValueId> {
    let mut roots = IdSet::new();
    for (v, data) in ir.values.iter().filter(|(v, _)| !constant[*v]) {
        debug_assert!(data.inputs.iter().all(|u| u.index() < v.index()));
        data.inputs.iter().filter(|&&u| constant[u]).for_each(|&u| {
            roots.insert(u);
        });
    }
    let ends = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    ends.filter(|&v| constant[v]).for_each(|v| {
        roots.insert(v);
    });
    roots
}

/// Name of the first constant in an expression.
fn constant_name(ir: &TensorIr, root: ValueId) -> String {
    let mut at = root;
    loop {
        let data = &ir.values[at];
        match (&data.op, data.inputs.first()) {
            (Op::Const(k), _) => return ir.consts[*k].name.clone(),
            (_, Some(&u)) => at = u,
            _ => return root.to_string(),
        }
    }
}

/// SRAM that every chip of a partitioned program needs.
pub fn usage(part: &Partitioned, target: &Target) -> Vec<ChipUsage> {
    let ir = &part.ir;
    let constant = constants(ir);
    let mut chips = vec![ChipUsage::default(); part.n_chips as usize];
    for root in constant_roots(ir, &constant).iter() {
        let ty = &cost::stored_type(ir, root);
        let chip = &mut chips[part.chip[root] as usize];
        chip.weights += cost::exact_bytes(ty);
        chip.padding += cost::row_bytes(target, ty) - cost::exact_bytes(ty);
    }
    for (v, data) in ir.values.iter().filter(|(v, _)| !constant[*v]) {
        let chip = &mut chips[part.chip[v] as usize];
        if let Op::State(_) = data.op {
            chip.states += cost::exact_bytes(&data.ty);
            chip.padding += cost::row_bytes(target, &data.ty) - cost::exact_bytes(&data.ty);
        }
        chip.text += cost::text_bytes(target, &data.op, &cost::operand_types(ir, v), &data.ty);
    }
    for (chip, peak) in peaks(part, target, &constant).into_iter().enumerate() {
        chips[chip].values = peak;
    }
    chips
}

/// Largest live bytes of values on each chip, over the order of operations.
fn peaks(part: &Partitioned, target: &Target, constant: &SideTable<ValueId, bool>) -> Vec<u64> {
    let ir = &part.ir;
    let n = ir.values.len();
    // What is read in place is its operand; what updates a state in place is that state.
    let mut root: Vec<usize> = (0..n).collect();
    let mut free: Vec<bool> = ir
        .values
        .ids()
        .map(|v| constant[v] || matches!(ir.values[v].op, Op::State(_)))
        .collect();
    for (v, data) in ir.values.iter() {
        let aliases = match &data.op {
            Op::Move { .. } => cost::in_place(ir, &data.op, &cost::operand_types(ir, v), &data.ty),
            Op::Scatter { .. } => data
                .inputs
                .first()
                .is_some_and(|u| free[root[u.index()]] && !constant[*u]),
            _ => false,
        };
        if let (true, Some(u)) = (aliases, data.inputs.first()) {
            root[v.index()] = root[u.index()];
        }
    }
    for state in ir.states.values() {
        free[root[state.next.index()]] = true;
    }
    let mut last: Vec<usize> = (0..n).collect();
    for (v, data) in ir.values.iter() {
        data.inputs
            .iter()
            .for_each(|u| last[root[u.index()]] = last[root[u.index()]].max(v.index()));
    }
    ir.outputs.iter().for_each(|p| last[root[p.value.index()]] = n);
    let mut ends: Vec<Vec<usize>> = vec![Vec::new(); n + 1];
    (0..n).filter(|&i| root[i] == i).for_each(|i| ends[last[i]].push(i));
    let bytes = |i: usize| cost::value_bytes(target, &ir.values[ValueId::from_index(i)].ty);
    let chip = |i: usize| part.chip[ValueId::from_index(i)] as usize;
    let counted = |i: usize| root[i] == i && !free[i];
    let is_input = |i: usize| ir.values[ValueId::from_index(i)].op == Op::Input;
    let mut now = vec![0u64; part.n_chips as usize];
    (0..n)
        .filter(|&i| counted(i) && is_input(i))
        .for_each(|i| now[chip(i)] += bytes(i));
    let mut peak = now.clone();
    for i in 0..n {
        if counted(i) && !is_input(i) {
            now[chip(i)] += bytes(i);
            peak[chip(i)] = peak[chip(i)].max(now[chip(i)]);
        }
        for &dead in ends[i].iter().filter(|&&d| counted(d)) {
            now[chip(dead)] -= bytes(dead);
        }
    }
    peak
}

/// Number of operations that use a constant of more than one row.
pub(super) fn weight_operations(cx: &Context<'_>) -> usize {
    let uses = |v: &&ValueId| cx.ir.values[**v].inputs.iter().any(|&u| cx.constant[u]);
    cx.order.iter().filter(uses).count()
}

/// Summary and report of a program that does not fit: of the partition that came nearest, or else of the whole program as if
/// on one chip.
pub(super) fn does_not_fit(
    cx: &Context<'_>,
    nearest: Option<&Partitioned>,
    least_chips: u64,
    limit: u16,
) -> (String, String) {
    let available = cx.target.sram_bytes();
    let (what, chip, used, tensors) = match nearest {
        Some(part) => {
            let all = usage(part, cx.target);
            let worst = (0..all.len()).rev().max_by_key(|&c| all[c].total()).unwrap_or(0);
            (
                part.description.clone(),
                format!("c{worst}"),
                all[worst],
                tensors(part, worst as u16),
            )
        }
        None => {
            let (used, tensors) = as_one(cx);
            ("the whole program".to_string(), "one chip".to_string(), used, tensors)
        }
    };
    let needed = used.total();
    let advice = if least_chips > limit as u64 {
        format!("constants and states alone need at least {least_chips} chips, {limit} allowed")
    } else {
        format!(
            "no cut into stages fits {limit} chip{}",
            if limit == 1 { "" } else { "s" }
        )
    };
    let summary = format!(
        "does not fit {}: {needed} bytes needed on {chip}, {available} available; {advice}",
        cx.target.name
    );
    let mut report = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(report, "capacity of {chip} ({what}), bytes:");
    let terms = [
        ("weights", used.weights),
        ("states", used.states),
        ("lane padding", used.padding),
        ("values at their peak", used.values),
        ("instruction text (estimate)", used.text),
    ];
    for (name, bytes) in terms {
        let _ = writeln!(report, "  {name:<28} {bytes:>14}");
    }
    let _ = writeln!(report, "  {:<28} {needed:>14}", "needed");
    let _ = writeln!(report, "  {:<28} {available:>14}", "available");
    if needed > available {
        let _ = writeln!(report, "  {:<28} {:>14}", "missing", needed - available);
    }
    let _ = writeln!(report, "largest tensors:");
    for (name, bytes) in tensors.iter().take(10) {
        let _ = writeln!(report, "  {name:<28} {bytes:>14}");
    }
    let _ = writeln!(
        report,
        "bound: weights and states need {least_chips} chips at least; {limit} allowed, {} in the target",
        cx.target.max_chips
    );
    let _ = writeln!(
        report,
        "what would help: more chips (--chips), narrower numbers (--precision f16, bf16), smaller dimensions (--dim), a target with more SRAM"
    );
    (summary, report)
}

/// Bytes of the constants and states on a chip, by name, largest first.
fn tensors(part: &Partitioned, chip: u16) -> Vec<(String, u64)> {
    let constant = constants(&part.ir);
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    for root in constant_roots(&part.ir, &constant)
        .iter()
        .filter(|&r| part.chip[r] == chip)
    {
        *by_name.entry(constant_name(&part.ir, root)).or_default() +=
            cost::exact_bytes(&cost::stored_type(&part.ir, root));
    }
    for (v, data) in part.ir.values.iter().filter(|(v, _)| part.chip[*v] == chip) {
        if let Op::State(s) = data.op {
            *by_name.entry(part.ir.states[s].name.clone()).or_default() += cost::exact_bytes(&part.ir.values[v].ty);
        }
    }
    ranked(by_name)
}

fn ranked(by_name: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut ranked: Vec<(String, u64)> = by_name.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked
}

/// The demand of the whole program on one chip.
fn as_one(cx: &Context<'_>) -> (ChipUsage, Vec<(String, u64)>) {
    let part = Partitioned {
        ir: cx.ir.clone(),
        chip: SideTable::new(),
        n_chips: 1,
        stages: Vec::new(),
        input_copies: Vec::new(),
        collectives: Vec::new(),
        description: String::new(),
        modelled_cycles: 0,
        modelled_stage: 0,
        examined: Vec::new(),
    };
    let used = usage(&part, cx.target);
    (used.first().copied().unwrap_or_default(), tensors(&part, 0))
}
