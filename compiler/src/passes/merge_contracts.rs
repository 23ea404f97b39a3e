//! `merge-contracts`: contracts of one value with constants become one, with the maps that follow each alike.
//!
//! ```text
//! v3 = contract v0, v1              v8 = contract v0, (v1 | v2)
//! v4 = map add(v3, bias1)     =>    v9 = map add(v8, (bias1 | bias2))
//! v5 = contract v0, v2              v4 = narrow v9, v7 = narrow v9
//! v7 = map add(v5, bias2)
//! ```
//!
//! Columns that fill the lanes only in part (queries, keys and values of attention, gate and up projections) share tiles. Where the
//! columns are heads and the lanes of the chip are known, every operand but the last begins at the first lane of a vector, with its
//! full vectors first, and the last fills what they leave: queries and keys then lie lane by lane as their product needs them.

use super::rebuild::{keep, live, readers, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::consteval::const_values;
use crate::tir::{IndexMap, Op, TensorIr, TirBuilder, ValueId, View};
use lockstep_graph::{EntityId, IdSet};
use std::collections::BTreeMap;

/// Fewest pixels of a value that is worth packing.
const LEAST_PIXELS: usize = 32;

/// Contracts that become one.
struct Group {
    contracts: Vec<ValueId>,
    /// The only user of each, all alike; empty if they are not.
    maps: Vec<ValueId>,
    /// Axis of the constants, and of the results, along which they are joined.
    rhs_axis: usize,
    axis: usize,
    places: Places,
}

/// Where the columns of each contract lie in the joined one.
struct Places {
    /// Per contract.
    parts: Vec<Vec<Stretch>>,
    /// Extent of the joined axis; what no stretch covers is zero.
    total: usize,
}

/// Neighbouring columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    /// First of them in the joined axis.
    at: usize,
    /// First of them in the contract's own.
    from: usize,
    len: usize,
}

impl Places {
    /// One after another.
    fn plain(sizes: &[usize]) -> Places {
        let mut total = 0;
        let mut parts = Vec::new();
        for &len in sizes {
            parts.push(vec![Stretch {
                at: total,
                from: 0,
                len,
            }]);
            total += len;
        }
        Places { parts, total }
    }

    /// In vectors of `per`: every contract but the last from the start of one, full vectors first; the last fills up.
    fn by_vector(sizes: &[usize], per: usize) -> Places {
        let (last, others) = match sizes.split_last() {
            Some((&last, others)) => (last, others),
            None => (0, sizes),
        };
        let mut parts: Vec<Vec<Stretch>> = Vec::new();
        let mut end = 0;
        for &n in others {
            let len = n / per * per;
            parts.push(vec![Stretch { at: end, from: 0, len }]);
            end += len;
        }
        let mut free: Vec<(usize, usize)> = Vec::new();
        for (part, &n) in parts.iter_mut().zip(others).filter(|(_, n)| **n % per > 0) {
            let (from, len) = (n / per * per, n % per);
            part.push(Stretch { at: end, from, len });
            free.push((end + len, per - len));
            end += per;
        }
        free.push((end, last.div_ceil(per) * per));
        let mut filled = Vec::new();
        let mut from = 0;
        for (at, room) in free {
            let len = room.min(last - from);
            filled.push(Stretch { at, from, len });
            from += len;
            end = end.max((at + len).div_ceil(per) * per);
        }
        parts.push(filled);
        parts.iter_mut().for_each(|p| p.retain(|s| s.len > 0));
        Places { parts, total: end }
    }
}

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    let groups = groups(ir, cx.lanes);
    if groups.is_empty() {
        return Ok(Changed(false));
    }
    let mut at: BTreeMap<ValueId, (usize, usize)> = BTreeMap::new();
    for (g, group) in groups.iter().enumerate() {
        let ends = if group.maps.is_empty() {
            &group.contracts
        } else {
            &group.maps
        };
        ends.iter().enumerate().for_each(|(n, &v)| {
            at.insert(v, (g, n));
        });
    }
    let mut merged: Vec<Option<ValueId>> = vec![None; groups.len()];
    rebuild(ir, |b, old, id, inputs| {
        let Some(&(g, n)) = at.get(&id) else {
            return keep(b, old, id, inputs);
        };
        let group = &groups[g];
        let whole = match merged[g] {
            Some(whole) => whole,
            None => {
                // The left operand of the first contract: the operand that leads to it is in the builder already.
                let first = group.contracts[0];
                let lhs = match group.maps.is_empty() {
                    true => inputs[0],
                    false => {
                        let hot = old.values[id].inputs.iter().position(|&v| v == group.contracts[n]);
                        let contract = hot
                            .map(|h| inputs[h])
                            .ok_or_else(|| CompileError::internal("merge-contracts", "no operand"))?;
                        b.ir().values[contract].inputs[0]
                    }
                };
                let whole = join(b, old, group, lhs, first, inputs)?;
                merged[g] = Some(whole);
                whole
            }
        };
        let mut shape = b.shape(whole).to_vec();
        shape[group.axis] = old.values[group.contracts[n]].ty.shape[group.axis];
        let joined = b.shape(whole).to_vec();
        let stretches = group.places.parts[n].iter();
        let maps: Vec<_> = stretches
            .map(|s| (whole, stretch_map(&joined, &shape, group.axis, s.at, s.from, s.len)))
            .collect();
        match &maps[..] {
            [(whole, map)] => b.move_one(*whole, map.clone(), 0),
            maps => b.moves(maps, 0),
        }
    })
}

/// The joined contract, and the joined map after it. `inputs` are the operands of one of the maps, in the new program.
fn join(
    b: &mut TirBuilder,
    old: &TensorIr,
    group: &Group,
    lhs: ValueId,
    first: ValueId,
    inputs: &[ValueId],
) -> Result<ValueId, CompileError> {
    let mut parts = Vec::new();
    for &c in &group.contracts {
        parts.push(copy_const(b, old, old.values[c].inputs[1])?);
    }
    let rhs = joined(b, &parts, group.rhs_axis, &group.places)?;
    let contract = b.push(old.values[first].op.clone(), &[lhs, rhs], &old.values[first].ty)?;
    let Some(&map) = group.maps.first() else {
        return Ok(contract);
    };
    let Op::Map { nodes } = &old.values[map].op else {
        return Ok(contract);
    };
    let mut operands = Vec::new();
    for (k, &operand) in old.values[map].inputs.iter().enumerate() {
        if operand == first {
            operands.push(contract);
            continue;
        }
        if !b.is_const(inputs[k]) {
            operands.push(inputs[k]);
            continue;
        }
        let mut parts = Vec::new();
        for &m in &group.maps {
            parts.push(copy_const(b, old, old.values[m].inputs[k])?);
        }
        let wide = b.shape(parts[0])[group.axis] > 1;
        operands.push(match wide {
            true => joined(b, &parts, group.axis, &group.places)?,
            false => parts[0],
        });
    }
    let shape = b.shape(contract).to_vec();
    b.map_nodes(&shape, &operands, nodes.clone())
}

/// Constants joined along an axis.
fn joined(b: &mut TirBuilder, parts: &[ValueId], axis: usize, places: &Places) -> Result<ValueId, CompileError> {
    let mut maps = Vec::new();
    for (&part, stretches) in parts.iter().zip(&places.parts) {
        let from = b.shape(part).to_vec();
        let mut shape = from.clone();
        shape[axis] = places.total;
        let map = |s: &Stretch| (part, stretch_map(&from, &shape, axis, s.from, s.at, s.len));
        maps.extend(stretches.iter().map(map));
    }
    b.moves(&maps, 0)
}

/// The map that shows coordinates `from .. from + len` of an axis of `source` at `at` in `shape`.
fn stretch_map(source: &[usize], shape: &[usize], axis: usize, from: usize, at: usize, len: usize) -> IndexMap {
    let own = View::contiguous(source);
    let (mut lo, mut hi) = (vec![0; shape.len()], shape.to_vec());
    (lo[axis], hi[axis]) = (at, at + len);
    IndexMap::of(View {
        shape: shape.to_vec(),
        offset: own.strides[axis] * (from as i64 - at as i64),
        strides: own.strides,
        lo,
        hi,
    })
}

/// A constant expression of the old program in the new one.
fn copy_const(b: &mut TirBuilder, old: &TensorIr, v: ValueId) -> Result<ValueId, CompileError> {
    let mut inputs = Vec::new();
    for &i in &old.values[v].inputs {
        inputs.push(copy_const(b, old, i)?);
    }
    keep(b, old, v, &inputs)
}

/// The groups of a program: contracts with one left operand and constant right operands that differ in one free axis.
fn groups(ir: &TensorIr, lanes: Option<usize>) -> Vec<Group> {
    let consts = const_values(ir);
    let (live, readers) = (live(ir), readers(ir));
    let mut by_left: BTreeMap<(ValueId, Op), Vec<ValueId>> = BTreeMap::new();
    for (v, data) in ir.values.iter().filter(|(v, _)| live.contains(*v)) {
        if let (Op::Contract { batch, .. }, [lhs, rhs]) = (&data.op, &data.inputs[..])
            && batch.is_empty()
            && consts.contains(*rhs)
            && !consts.contains(*lhs)
        {
            by_left.entry((*lhs, data.op.clone())).or_default().push(v);
        }
    }
    let mut out = Vec::new();
    for ((_, op), contracts) in by_left {
        let Op::Contract { contracted, .. } = &op else { continue };
        let shape = |c: ValueId| ir.values[ir.values[c].inputs[1]].ty.shape.clone();
        let rhs = shape(contracts[0]);
        let Some(rhs_axis) = (0..rhs.len()).find(|&a| !contracted.iter().any(|p| p.1 as usize == a)) else {
            continue;
        };
        let alike = |c: &ValueId| {
            let s = shape(*c);
            s.len() == rhs.len() && (0..s.len()).all(|a| a == rhs_axis || s[a] == rhs[a])
        };
        let contracts: Vec<ValueId> = contracts.into_iter().filter(alike).collect();
        if contracts.len() < 2 {
            continue;
        }
        let lhs_free = ir.values[ir.values[contracts[0]].inputs[0]].ty.shape.len() - contracted.len();
        let axis = lhs_free;
        let rows: usize = ir.values[contracts[0]].ty.shape[..lhs_free].iter().product();
        let sizes: Vec<usize> = contracts.iter().map(|&c| ir.values[c].ty.shape[axis]).collect();
        let inner: usize = ir.values[contracts[0]].ty.shape[axis + 1..].iter().product();
        // Few channels of many pixels are packed instead, where those that they are made of are packed too.
        let packed = |n: usize| lanes.is_some_and(|l| 2 * n <= l);
        let channels = ir.values[ir.values[contracts[0]].inputs[0]]
            .ty
            .shape
            .last()
            .copied()
            .unwrap_or(1);
        if lhs_free >= 2 && rows >= LEAST_PIXELS && packed(channels) && sizes.iter().any(|n| packed(n * inner)) {
            continue;
        }
        let by_vector = lanes
            .map(|l| l / inner.max(1))
            .filter(|&per| inner > 1 && per > 1)
            .and_then(|per| {
                let places = Places::by_vector(&sizes, per);
                let apart: usize = sizes.iter().map(|n| n.div_ceil(per)).sum();
                (places.total / per < apart).then_some(places)
            });
        // A single row is bound by its weights: nothing is gained where they take as many vectors.
        let places = match by_vector {
            Some(places) => places,
            None if rows < 2 => continue,
            None => Places::plain(&sizes),
        };
        let maps = maps_alike(ir, &contracts, &consts, &readers, axis);
        out.push(Group {
            contracts,
            maps,
            rhs_axis,
            axis,
            places,
        });
    }
    out
}

/// The single map after each contract, if all are the same expression of the contract and constants.
fn maps_alike(
    ir: &TensorIr,
    contracts: &[ValueId],
    consts: &IdSet<ValueId>,
    readers: &[Vec<ValueId>],
    axis: usize,
) -> Vec<ValueId> {
    let mut maps = Vec::new();
    for &c in contracts {
        match readers[c.index()][..] {
            [u] if !ir.is_observed(c) && matches!(ir.values[u].op, Op::Map { .. }) => maps.push(u),
            _ => return Vec::new(),
        }
    }
    let first = &ir.values[maps[0]];
    for (&m, &c) in maps.iter().zip(contracts) {
        let data = &ir.values[m];
        let same = data.op == first.op && data.ty.dtype == first.ty.dtype && data.inputs.len() == first.inputs.len();
        let operands = data.inputs.iter().zip(&first.inputs).all(|(&a, &b)| {
            let (x, y) = (&ir.values[a].ty.shape, &ir.values[b].ty.shape);
            if a == c || b == contracts[0] {
                return a == c && b == contracts[0];
            }
            let own = ir.values[c].ty.shape[axis];
            let joins =
                x.get(axis) == Some(&own) && y.get(axis) == Some(&ir.values[contracts[0]].ty.shape[axis]) && own > 1;
            let shared = a == b && x.get(axis) == Some(&1);
            shared || consts.contains(a) && x.len() == y.len() && (joins || a == b)
        });
        if !same || !operands || data.ty.shape != ir.values[c].ty.shape {
            return Vec::new();
        }
    }
    maps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::PassOptions;
    use crate::testing::noise;
    use crate::tir::Type;
    use crate::tir::eval::{Tensor, eval};
    use lockstep_isa::DType;
    use lockstep_isa::artifact::HostDType;

    #[test]
    fn every_column_has_one_place_and_vectors_begin_alike() {
        for sizes in [vec![12, 12, 12], vec![9, 3, 3], vec![5, 5], vec![7, 20, 1], vec![3]] {
            for per in [2, 5, 10] {
                let places = Places::by_vector(&sizes, per);
                let mut seen = vec![false; places.total];
                for (stretches, &n) in places.parts.iter().zip(&sizes) {
                    let mut from = 0;
                    for s in stretches {
                        assert_eq!(s.from, from, "{sizes:?} {per}");
                        from += s.len;
                        seen[s.at..s.at + s.len].iter_mut().for_each(|x| {
                            assert!(!std::mem::replace(x, true), "{sizes:?} {per}");
                        });
                    }
                    assert_eq!(from, n, "{sizes:?} {per}");
                }
                for (part, _) in places.parts.iter().zip(&sizes[1..]) {
                    assert!(part.iter().all(|s| s.at % per == 0), "{sizes:?} {per}");
                }
                assert_eq!(places.total % per, 0);
            }
        }
    }

    #[test]
    fn joined_heads_are_the_same_values() {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[3, 8], Type::new(DType::F32, &[3, 8]));
        for (i, heads) in [9, 3, 3].into_iter().enumerate() {
            let w = b
                .const_f32(&format!("w{i}"), &[8, heads, 4], &noise(32 * heads, i as u32))
                .unwrap();
            let c = b
                .const_f32(&format!("c{i}"), &[1, heads, 4], &noise(4 * heads, 9))
                .unwrap();
            let y = b.contract(x, w, &[], &[(1, 0)]).unwrap();
            let y = b.map(&[y, c], |e, a| e.add(a[0], a[1])).unwrap();
            b.output(&format!("y{i}"), HostDType::F32, &[3, heads, 4], y);
        }
        let before = b.finish();
        let inputs = [Tensor::f32(&[3, 8], noise(24, 5))];
        for lanes in [None, Some(20)] {
            let mut after = before.clone();
            let options = PassOptions {
                lanes,
                ..PassOptions::default()
            };
            crate::passes::run_all(&mut after, &options).unwrap();
            let products = after.values.values().filter(|d| matches!(d.op, Op::Contract { .. }));
            assert_eq!(products.count(), 1);
            let values = |ir: &TensorIr| eval(ir, &inputs, &mut []).unwrap();
            for (a, b) in values(&before).iter().zip(&values(&after)) {
                assert_eq!(a.bits(), b.bits());
            }
        }
    }
}
