//! `compose-moves`: a move of a move becomes one move, identities go, adjoining parts of one operand become one part, and a map reads
//! what an expand broadcasts.
//!
//! ```text
//! v1: f32[3,2] = move v0{perm 1,0}
//! v2: f32[2,3] = move v1{perm 1,0}     =>    v1 = map exp(v0)
//! v3: f32[2,3] = map exp(v2)
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::{IndexMap, Op, TensorIr, TirBuilder, ValueId, View, compose_simply};

/// Most parts of a composed move.
const MAX_PARTS: usize = 64;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    rebuild(ir, |b, old, id, inputs| match &old.values[id].op {
        Op::Move { parts, fill } => {
            let parts = inputs
                .iter()
                .zip(parts)
                .map(|(&v, &m)| (v, b.ir().maps.get(m).clone()))
                .collect();
            composed(b, parts, *fill)
        }
        Op::Map { nodes } => {
            let mut operands = Vec::with_capacity(inputs.len());
            for &v in inputs {
                operands.push(unbroadcast(b, v)?);
            }
            b.map_nodes(&old.values[id].ty.shape, &operands, nodes.clone())
        }
        _ => keep(b, old, id, inputs),
    })
}

/// A move of these parts, read through the moves that make its operands.
fn composed(b: &mut TirBuilder, mut parts: Vec<(ValueId, IndexMap)>, fill: u32) -> Result<ValueId, CompileError> {
    let ty = b.ty(parts[0].0).clone();
    let shape = parts[0].1.shape().to_vec();
    let mut at = 0;
    while at < parts.len() {
        match through(b, &parts, at, fill) {
            Some(inner) if parts.len() - 1 + inner.len() <= MAX_PARTS => {
                parts.splice(at..=at, inner);
            }
            _ => at += 1,
        }
    }
    parts.retain(|(_, map)| !map.is_empty());
    join(&mut parts);
    if let Some(total) = parts.iter().position(|(_, map)| map.is_total()) {
        parts.truncate(total + 1);
    }
    match parts.as_slice() {
        [] => {
            let bytes = fill.to_le_bytes()[..ty.dtype.bytes()].to_vec();
            let one = crate::tir::Type::new(ty.dtype, &vec![1; shape.len()]);
            let v = b.constant("fill", one, crate::tir::print::host_dtype(ty.dtype), bytes.into())?;
            b.expand(v, &shape)
        }
        [(v, map)] if map.is_identity(b.shape(*v)) => Ok(*v),
        _ => b.moves(&parts, fill),
    }
}

/// The parts that replace part `at`, if its operand is a move that it composes with.
fn through(b: &TirBuilder, parts: &[(ValueId, IndexMap)], at: usize, fill: u32) -> Option<Vec<(ValueId, IndexMap)>> {
    let (v, outer) = &parts[at];
    let value = &b.ir().values[*v];
    let Op::Move {
        parts: inner,
        fill: inner_fill,
    } = &value.op
    else {
        return None;
    };
    let inner: Vec<(ValueId, &IndexMap)> = value
        .inputs
        .iter()
        .zip(inner)
        .map(|(&v, &m)| (v, b.ir().maps.get(m)))
        .collect();
    // Where the inner move has its fill, the composed one finds no part, and must not fall through to another.
    let covered = covers(&inner);
    let alone = parts
        .iter()
        .enumerate()
        .all(|(i, (_, other))| i == at || apart(outer, other));
    if !(covered || (alone && *inner_fill == fill)) || (inner.len() > 1 && !alone) {
        return None;
    }
    let mut result = Vec::new();
    for (v, map) in &inner {
        let both = compose_simply(outer, map)?;
        if both.is_empty() {
            continue;
        }
        if inner.len() > 1 && both.views.len() > 1 {
            return None;
        }
        result.push((*v, both));
    }
    Some(result)
}

/// Whether parts leave no element to the fill: one is total, or single views with disjoint boxes add up.
pub(super) fn covers(parts: &[(ValueId, &IndexMap)]) -> bool {
    if parts.iter().any(|(_, map)| map.is_total()) {
        return true;
    }
    if parts.iter().any(|(_, map)| map.views.len() != 1) {
        return false;
    }
    let disjoint = parts
        .iter()
        .enumerate()
        .all(|(i, a)| parts[..i].iter().all(|b| apart(a.1, b.1)));
    let volume = |map: &IndexMap| {
        let view = &map.views[0];
        view.lo
            .iter()
            .zip(&view.hi)
            .map(|(lo, hi)| hi.saturating_sub(*lo))
            .product::<usize>()
    };
    let all: usize = parts.first().map_or(0, |(_, map)| map.shape().iter().product());
    disjoint && parts.iter().map(|(_, map)| volume(map)).sum::<usize>() == all
}

/// Whether the boxes of the last views share no coordinate.
fn apart(a: &IndexMap, b: &IndexMap) -> bool {
    let (Some(a), Some(b)) = (a.views.last(), b.views.last()) else {
        return false;
    };
    (0..a.shape.len()).any(|d| a.hi[d] <= b.lo[d] || b.hi[d] <= a.lo[d])
}

/// Joins neighbouring parts of one operand that continue each other along one axis.
fn join(parts: &mut Vec<(ValueId, IndexMap)>) {
    let mut at = 1;
    while at < parts.len() {
        let (a, b) = (&parts[at - 1], &parts[at]);
        match (a.1.views.as_slice(), b.1.views.as_slice()) {
            ([x], [y]) if a.0 == b.0 => match continued(x, y) {
                Some(view) => {
                    parts[at - 1].1 = IndexMap::of(view);
                    parts.remove(at);
                    at = at.max(2) - 1;
                }
                None => at += 1,
            },
            _ => at += 1,
        }
    }
}

/// One view over the boxes of both, if they adjoin along one axis and read on with one stride.
fn continued(x: &View, y: &View) -> Option<View> {
    let differs: Vec<usize> = (0..x.shape.len())
        .filter(|&d| x.lo[d] != y.lo[d] || x.hi[d] != y.hi[d])
        .collect();
    let &[d] = differs.as_slice() else { return None };
    if x.hi[d] != y.lo[d] || (0..x.shape.len()).any(|e| e != d && x.strides[e] != y.strides[e]) {
        return None;
    }
    let corner = |v: &View| v.at(&v.lo);
    let (from, to) = (corner(x)?, corner(y)?);
    let step = (y.lo[d] - x.lo[d]) as i64;
    let stride = if x.hi[d] - x.lo[d] > 1 {
        x.strides[d]
    } else {
        (to - from) / step
    };
    if from + stride * step != to || (y.hi[d] - y.lo[d] > 1 && y.strides[d] != stride) {
        return None;
    }
    let mut view = x.clone();
    view.strides[d] = stride;
    view.offset = from
        - view
            .lo
            .iter()
            .zip(&view.strides)
            .map(|(&lo, s)| lo as i64 * s)
            .sum::<i64>();
    view.hi[d] = y.hi[d];
    Some(view)
}

/// The operand with axes of extent 1 where it is a move that broadcasts.
fn unbroadcast(b: &mut TirBuilder, v: ValueId) -> Result<ValueId, CompileError> {
    let value = &b.ir().values[v];
    let (Op::Move { parts, .. }, &[source]) = (&value.op, value.inputs.as_slice()) else {
        return Ok(v);
    };
    let map = b.ir().maps.get(parts[0]).clone();
    let Some(last) = map.views.last().filter(|_| map.is_total()) else {
        return Ok(v);
    };
    let mut narrow = last.clone();
    for d in 0..narrow.shape.len() {
        if narrow.strides[d] == 0 {
            narrow.shape[d] = 1;
            narrow.hi[d] = 1;
        }
    }
    if narrow == *last {
        return Ok(v);
    }
    let mut views = map.views.clone();
    views.pop();
    views.push(narrow);
    b.move_one(source, IndexMap { views }.simplified(), 0)
}
