//! Splits moves that pad and then look through windows: the padded tensor is carried out once, so that the windows (the taps
//! of a convolution) are read in place from a constant border.

use crate::tir::{IndexMap, Op, TensorIr, Type, ValueData, ValueId};
use lockstep_graph::{IdVec, SideTable};

/// A program in which some moves must be carried out.
pub(crate) struct Split {
    pub ir: TensorIr,
    pub chip: SideTable<ValueId, u16>,
    /// Moves that are carried out.
    pub forced: Vec<bool>,
    /// New id of each old value.
    pub renamed: Vec<ValueId>,
}

/// Splits every move of one operand whose map pads first and is total afterwards.
pub(crate) fn split(old: &TensorIr, old_chip: &SideTable<ValueId, u16>, is_const: &dyn Fn(ValueId) -> bool) -> Split {
    let mut ir = TensorIr { values: IdVec::default(), ..old.clone() };
    let mut chip = SideTable::default();
    let mut forced = Vec::new();
    let mut renamed: Vec<ValueId> = Vec::with_capacity(old.values.len());
    for (v, data) in old.values.iter() {
        let mut data = ValueData { inputs: data.inputs.iter().map(|i| renamed[lockstep_graph::EntityId::index(*i)]).collect(), ..data.clone() };
        if let (Op::Move { parts, fill }, false) = (&data.op, is_const(v))
            && let [map] = parts[..]
            && let Some((pad, windows)) = halves(old.maps.get(map))
        {
            let fill = *fill;
            let shape = pad.shape().to_vec();
            let pad = ir.maps.intern(pad);
            let ty = Type { dtype: data.ty.dtype, shape };
            let padded = ir.values.push(ValueData {
                ty,
                op: Op::Move { parts: vec![pad], fill },
                inputs: data.inputs.clone(),
                origins: data.origins.clone(),
            });
            chip[padded] = old_chip[v];
            forced.push(true);
            let windows = ir.maps.intern(windows);
            data.op = Op::Move { parts: vec![windows], fill };
            data.inputs = vec![padded];
        }
        let id = ir.values.push(data);
        chip[id] = old_chip[v];
        forced.push(false);
        renamed.push(id);
    }
    let new = |v: ValueId| renamed[lockstep_graph::EntityId::index(v)];
    ir.inputs.iter_mut().chain(&mut ir.outputs).for_each(|p| p.value = new(p.value));
    ir.states.iter_mut().for_each(|(_, s)| s.next = new(s.next));
    Split { ir, chip, forced, renamed }
}

/// The padding and the windows of a map, if it is made so.
fn halves(map: &IndexMap) -> Option<(IndexMap, IndexMap)> {
    let at = map.views.iter().rposition(|v| !v.is_total())?;
    let (pad, windows) = map.views.split_at(at + 1);
    (!windows.is_empty()).then(|| (IndexMap { views: pad.to_vec() }, IndexMap { views: windows.to_vec() }))
}
