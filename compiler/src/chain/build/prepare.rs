//! Splits what one chain could not do.
//!
//! - Moves that pad and then look through windows: the padded tensor is carried out once, so that the windows (the taps of a
//!   convolution) are read in place from a constant border.
//! - Products that load the operand they would have streamed, with a move of the result.
//! - Maps with more operands than belts carry, or more operations than the VXM has ALUs for.

use super::orient;
use crate::tir::{Arg, IndexMap, MapNode, Op, TensorIr, Type, ValueData, ValueId};
use lockstep_graph::{EntityId, IdVec, SideTable};
use lockstep_isa::{AluOp, Target};
use std::collections::BTreeSet;

/// Most distinct operands of a map in one chain: with its result they fit the belts of one direction.
const MAP_OPERANDS: usize = 6;

/// Most constant operands beside as many values that are taps of one: these lie in one hemisphere, and the constants come from
/// the other.
const MAP_CONSTANTS: usize = 6;

/// Most ALUs of a map in one chain.
const MAP_ALUS: u32 = 12;

/// A program in which some moves must be carried out.
pub(crate) struct Split {
    pub ir: TensorIr,
    pub chip: SideTable<ValueId, u16>,
    /// Moves that are carried out.
    pub forced: Vec<bool>,
    /// New id of each old value.
    pub renamed: Vec<ValueId>,
}

/// Splits every move of one operand whose map pads first and is total afterwards, unless contracts with constants are all that
/// reads it: those leave the border out.
pub(crate) fn split(
    old: &TensorIr,
    old_chip: &SideTable<ValueId, u16>,
    n_chips: u16,
    is_const: &dyn Fn(ValueId) -> bool,
    target: &Target,
) -> Split {
    let mut ir = TensorIr {
        values: IdVec::default(),
        ..old.clone()
    };
    let mut chip = SideTable::default();
    let mut forced = Vec::new();
    let mut renamed: Vec<ValueId> = Vec::with_capacity(old.values.len());
    let mut read_whole = vec![false; old.values.len()];
    for data in old.values.values() {
        for (n, &u) in data.inputs.iter().enumerate() {
            let product = matches!(&data.op, Op::Contract { batch, .. } if batch.is_empty() && n == 0);
            read_whole[u.index()] |= !product || !is_const(data.inputs[1]);
        }
    }
    for (v, data) in old.values.iter() {
        let mut data = ValueData {
            inputs: data.inputs.iter().map(|i| renamed[i.index()]).collect(),
            ..data.clone()
        };
        if let (Op::Move { parts, fill }, false) = (&data.op, is_const(v))
            && let [map] = parts[..]
            && (read_whole[v.index()] || !left_out(&ir, &data, map))
            && let Some((pad, windows)) = halves(old.maps.get(map))
        {
            let fill = *fill;
            let shape = pad.shape().to_vec();
            let pad = ir.maps.intern(pad);
            let ty = Type {
                dtype: data.ty.dtype,
                shape,
            };
            let padded = ir.values.push(ValueData {
                ty,
                op: Op::Move { parts: vec![pad], fill },
                inputs: data.inputs.clone(),
                origins: data.origins.clone(),
            });
            chip[padded] = old_chip[v];
            forced.push(true);
            let windows = ir.maps.intern(windows);
            data.op = Op::Move {
                parts: vec![windows],
                fill,
            };
            data.inputs = vec![padded];
        }
        let run_time = matches!(data.op, Op::Contract { .. }) && !old.values[v].inputs.iter().any(|&u| is_const(u));
        if run_time
            && orient::is_streamed(old, v)
            && let Some((product, map)) = orient::exchanged(&ir, &data, target)
        {
            let id = ir.values.push(product);
            chip[id] = old_chip[v];
            forced.push(false);
            let parts = vec![ir.maps.intern(map)];
            data.op = Op::Move { parts, fill: 0 };
            data.inputs = vec![id];
        }
        let constant: Vec<bool> = old.values[v].inputs.iter().map(|&u| is_const(u)).collect();
        while let Some(part) = split_map(&mut data, &ir, &constant, n_chips) {
            let id = ir.values.push(part);
            chip[id] = old_chip[v];
            forced.push(false);
            data.inputs.push(id);
        }
        let id = ir.values.push(data);
        chip[id] = old_chip[v];
        forced.push(false);
        renamed.push(id);
    }
    let new = |v: ValueId| renamed[v.index()];
    ir.inputs
        .iter_mut()
        .chain(&mut ir.outputs)
        .for_each(|p| p.value = new(p.value));
    ir.states.iter_mut().for_each(|(_, s)| s.next = new(s.next));
    Split {
        ir,
        chip,
        forced,
        renamed,
    }
}

/// Whether the host places a value, or what an elementwise value is made of.
fn is_placed(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    match data.op {
        Op::Input => true,
        Op::Map { .. } => data
            .inputs
            .iter()
            .all(|&u| ir.values[u].ty.shape == data.ty.shape && is_placed(ir, u)),
        _ => false,
    }
}

/// Whether products can leave the border out: channels stay together, or the host places the operand.
fn left_out(ir: &TensorIr, data: &ValueData, map: crate::tir::MapId) -> bool {
    let channels = data.ty.shape.last().copied().unwrap_or(1);
    let placed = data.inputs.iter().all(|&u| is_placed(ir, u));
    placed || ir.maps.get(map).views.iter().all(|v| v.keeps_last(channels))
}

/// The padding and the windows of a map, if it is made so.
fn halves(map: &IndexMap) -> Option<(IndexMap, IndexMap)> {
    let at = map.views.iter().rposition(|v| !v.is_total())?;
    let (pad, windows) = map.views.split_at(at + 1);
    (!windows.is_empty()).then(|| {
        (
            IndexMap { views: pad.to_vec() },
            IndexMap {
                views: windows.to_vec(),
            },
        )
    })
}

/// Takes the largest subexpression that one chain can do out of a map that one chain cannot do. The map then refers to it as
/// the operand after its last.
fn split_map(data: &mut ValueData, ir: &TensorIr, constant: &[bool], n_chips: u16) -> Option<ValueData> {
    let Op::Map { nodes } = &mut data.op else { return None };
    // Operands (an iota counts as one) and nodes below each node, itself included.
    let mut below: Vec<(BTreeSet<u32>, BTreeSet<u32>)> = Vec::with_capacity(nodes.len());
    for (n, node) in nodes.iter().enumerate() {
        let (mut operands, mut inner) = (BTreeSet::new(), BTreeSet::from([n as u32]));
        if node.op == AluOp::Iota {
            operands.insert(u32::MAX - node.axis as u32);
        }
        for arg in &node.args[..node.op.arity()] {
            match arg {
                Arg::Operand(i) => {
                    operands.insert(*i);
                }
                Arg::Node(i) => {
                    let (o, m) = &below[*i as usize];
                    operands.extend(o);
                    inner.extend(m);
                }
                Arg::Imm(_) => {}
            }
        }
        below.push((operands, inner));
    }
    let cost = |inner: &BTreeSet<u32>| -> u32 {
        inner
            .iter()
            .map(|&i| nodes[i as usize].op)
            .filter(|o| *o != AluOp::Iota)
            .map(|o| o.cost() as u32)
            .sum()
    };
    // Values that come over links lie in either hemisphere.
    let is_tap = |v: &&ValueId| matches!(ir.values[**v].op, Op::Move { .. }) && n_chips == 1;
    let taps = data
        .inputs
        .iter()
        .zip(constant)
        .filter(|(v, c)| !**c && is_tap(v))
        .count();
    let fits = |b: &(BTreeSet<u32>, BTreeSet<u32>)| {
        let constants =
            b.0.iter()
                .filter(|&&i| constant.get(i as usize).is_some_and(|&c| c))
                .count();
        let few = if taps > 1 {
            b.0.len() - constants <= MAP_OPERANDS && constants <= MAP_CONSTANTS
        } else {
            b.0.len() <= MAP_OPERANDS
        };
        few && cost(&b.1) <= MAP_ALUS
    };
    if below.last().is_none_or(fits) {
        return None;
    }
    let root = (0..nodes.len() - 1)
        .filter(|&n| nodes[n].op != AluOp::Iota && below[n].0.len() > 1 && fits(&below[n]))
        .max_by_key(|&n| (below[n].0.len(), below[n].1.len(), std::cmp::Reverse(n)))?;
    let mut part: Vec<MapNode> = Vec::new();
    let mut place = vec![0u32; nodes.len()];
    let mut inputs: Vec<ValueId> = Vec::new();
    let mut shape = vec![1; data.ty.shape.len()];
    for &n in &below[root].1 {
        let mut node = nodes[n as usize];
        if node.op == AluOp::Iota {
            shape[node.axis as usize] = data.ty.shape[node.axis as usize];
        }
        for arg in &mut node.args[..node.op.arity()] {
            *arg = match *arg {
                Arg::Operand(i) => {
                    let v = data.inputs[i as usize];
                    let at = inputs.iter().position(|&x| x == v).unwrap_or_else(|| {
                        inputs.push(v);
                        inputs.len() - 1
                    });
                    for (s, &d) in shape.iter_mut().zip(&ir.values[v].ty.shape) {
                        *s = (*s).max(d);
                    }
                    Arg::Operand(at as u32)
                }
                Arg::Node(i) => Arg::Node(place[i as usize]),
                imm => imm,
            };
        }
        place[n as usize] = part.len() as u32;
        part.push(node);
    }
    let dtype = nodes[root].dtype;
    let new = Arg::Operand(data.inputs.len() as u32);
    for node in nodes.iter_mut() {
        let arity = node.op.arity();
        node.args[..arity]
            .iter_mut()
            .filter(|a| **a == Arg::Node(root as u32))
            .for_each(|a| *a = new);
    }
    *nodes = crate::tir::expr::prune(nodes);
    Some(ValueData {
        ty: Type { dtype, shape },
        op: Op::Map { nodes: part },
        inputs,
        origins: data.origins.clone(),
    })
}
