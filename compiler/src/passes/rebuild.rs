//! Rebuilds a program value by value: live values only, equal ones shared, in the old order.

use super::Changed;
use crate::error::CompileError;
use crate::tir::{Op, Port, StateData, TensorIr, TirBuilder, ValueId};
use lockstep_graph::{EntityId, IdSet};

/// The values that outputs and states need; inputs always.
pub(super) fn live(ir: &TensorIr) -> IdSet<ValueId> {
    let mut live: IdSet<ValueId> = IdSet::new();
    for root in ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next))
    {
        live.insert(root);
    }
    for (id, value) in ir.values.iter().rev() {
        if live.contains(id) || value.op == Op::Input {
            live.insert(id);
            value.inputs.iter().for_each(|&v| {
                live.insert(v);
            });
        }
    }
    live
}

/// The live values that read every value, in order, one for each use.
pub(super) fn readers(ir: &TensorIr) -> Vec<Vec<ValueId>> {
    let mut readers = vec![Vec::new(); ir.values.len()];
    let live = live(ir);
    for (id, value) in ir.values.iter().filter(|(id, _)| live.contains(*id)) {
        value.inputs.iter().for_each(|v| readers[v.index()].push(id));
    }
    readers
}

/// Number of users of every value; an output or a state's successor counts as one.
pub(super) fn users(ir: &TensorIr) -> Vec<u32> {
    let mut users: Vec<u32> = readers(ir).iter().map(|r| r.len() as u32).collect();
    let roots = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    roots.for_each(|v| users[v.index()] += 1);
    users
}

/// Appends an old value unchanged, with new operands.
pub(super) fn keep(
    b: &mut TirBuilder,
    old: &TensorIr,
    id: ValueId,
    inputs: &[ValueId],
) -> Result<ValueId, CompileError> {
    let value = &old.values[id];
    b.push(value.op.clone(), inputs, &value.ty)
}

/// Rebuilds the program. `f` gets the builder, the old program (without constants and maps, which the builder holds under the same
/// ids), an old value and its operands in the new program, and gives its replacement, which has the same type unless `f` sees to
/// all users. Sources go through `f` too; [`keep`] is right for them.
pub(super) fn rebuild(
    ir: &mut TensorIr,
    f: impl FnMut(&mut TirBuilder, &TensorIr, ValueId, &[ValueId]) -> Result<ValueId, CompileError>,
) -> Result<Changed, CompileError> {
    let order = ir.values.ids().collect();
    rebuild_in(ir, order, f)
}

/// As [`rebuild`], in an order of all values in which each comes after its operands.
pub(super) fn rebuild_in(
    ir: &mut TensorIr,
    order: Vec<ValueId>,
    mut f: impl FnMut(&mut TirBuilder, &TensorIr, ValueId, &[ValueId]) -> Result<ValueId, CompileError>,
) -> Result<Changed, CompileError> {
    let mut old = std::mem::take(ir);
    let live = live(&old);
    let mut b = TirBuilder::like(&mut old);
    b.carry_states(&old);
    let mut new: Vec<Option<ValueId>> = vec![None; old.values.len()];
    for id in order.into_iter().filter(|id| live.contains(*id)) {
        let value = &old.values[id];
        b.set_origins(&value.origins);
        let mut inputs = Vec::with_capacity(value.inputs.len());
        for &v in &value.inputs {
            inputs.push(fetch(&new, v)?);
        }
        new[id.index()] = Some(f(&mut b, &old, id, &inputs)?);
    }
    finish(ir, old, b, |v| fetch(&new, v))
}

fn fetch(new: &[Option<ValueId>], v: ValueId) -> Result<ValueId, CompileError> {
    new[v.index()].ok_or_else(|| CompileError::internal("rebuild", format!("{v} was not rebuilt")))
}

/// Puts ports and states in place, with the new values that `f` names.
pub(super) fn finish(
    ir: &mut TensorIr,
    old: TensorIr,
    b: TirBuilder,
    mut f: impl FnMut(ValueId) -> Result<ValueId, CompileError>,
) -> Result<Changed, CompileError> {
    let mut renamed = |ports: &[Port]| -> Result<Vec<Port>, CompileError> {
        ports
            .iter()
            .map(|p| {
                Ok(Port {
                    value: f(p.value)?,
                    ..p.clone()
                })
            })
            .collect()
    };
    let (inputs, outputs) = (renamed(&old.inputs)?, renamed(&old.outputs)?);
    let mut result = b.finish();
    result.inputs = inputs;
    result.outputs = outputs;
    let next = old.states.values().map(|s| f(s.next)).collect::<Result<Vec<_>, _>>()?;
    let states: Vec<StateData> = result.states.values().cloned().collect();
    result.states = states
        .into_iter()
        .zip(next)
        .map(|(s, next)| StateData { next, ..s })
        .collect();
    let changed = result.values != old.values;
    *ir = result;
    Ok(Changed(changed))
}
