//! `share-tiles`: the batches of a product with few rows each share the tile that holds the right operands of all.
//!
//! A matrix unit loads a tile for longer than it multiplies a few rows by it. Where the right operands of all batches lie side by side in
//! the lanes of one vector, one tile holds them all, and it is the rows that tell the batches apart: for scores, a row is zero in the
//! lanes of other batches; for values, it is multiplied by the columns of all batches, and of the results its own are kept. No row is
//! multiplied more often than before; a sum has more terms, of exact zeros.
//!
//! ```text
//!                                              v2: f32[1,3,3,64]   = move v0{reshape}
//! v3: f32[3,3,256] = contract v0, v1           v4: f32[3,3,3,64]   = map select(own, v2, 0.0)
//!                    batch(0:1) over(2:2)  =>  v3: f32[3,3,256]    = contract v4, v1 over(1:1,3:2)
//!
//!                                              v7: f32[3,3,3,64]   = contract v5, v6 over(2:0)
//! v7: f32[3,3,64]  = contract v5, v6           v8: f32[3,3,3,64]   = map select(own, v7, 0.0)
//!                    batch(0:1) over(2:0)  =>  v9: f32[1,3,3,64]   = reduce.add v8 over(0)
//! ```
//!
//! Maps that follow values come before the choice, where they read nothing that differs from column to column. Results are the same up
//! to the sign of a zero, unless a key is infinite: its product with the zeros of other batches is not a number, which is why the exact
//! program keeps a tile for each. Decode of SmolLM2-135M in bf16 on four chips of tsp-2020, with 256 positions, takes 91,266 cycles so,
//! 95,358 with a tile for each of its three key-value heads.

use super::rebuild::{keep, readers, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::expr::Ex;
use crate::tir::map::row_major;
use crate::tir::{IndexMap, MapNode, Op, ReduceOp, TensorIr, TirBuilder, ValueId, View};
use lockstep_graph::EntityId;
use lockstep_isa::AluOp;
use std::collections::BTreeMap;

/// Most rows of a batch: the vectors of 256 positions take 64 cycles to load, and a row of f32 takes 8.
const MOST_ROWS: usize = 8;

/// Constants that say which elements are a row's own, by their shape.
type Own = BTreeMap<Vec<usize>, ValueId>;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    let Some(lanes) = cx.lanes.filter(|_| !cx.exact) else {
        return Ok(Changed(false));
    };
    let constant = crate::tir::consteval::const_values(ir);
    let readers = readers(ir);
    let user_of = |v: ValueId| match readers[v.index()][..] {
        [u] if !ir.is_observed(v) => Some(u),
        _ => None,
    };
    let mut shared: BTreeMap<ValueId, Shared> = BTreeMap::new();
    // Maps that come before the choice.
    let mut mapped: BTreeMap<ValueId, Step> = BTreeMap::new();
    for (v, data) in ir.values.iter() {
        let Op::Contract { .. } = data.op else { continue };
        let Some(kind) = kind(ir, v, lanes).filter(|_| !constant.contains(data.inputs[1])) else {
            continue;
        };
        if let Shared::Values = kind {
            let mut last = v;
            while let Some(u) = user_of(last).filter(|&u| reads_rows(ir, u, last)) {
                mapped.insert(last, Step::Inside);
                last = u;
            }
            mapped.insert(last, Step::Last);
        }
        shared.insert(v, kind);
    }
    if shared.is_empty() {
        return Ok(Changed(false));
    }
    let mut own = Own::new();
    let mut sums: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    rebuild(ir, |b, old, v, inputs| {
        let data = &old.values[v];
        let made = match (&data.op, shared.get(&v)) {
            (_, Some(Shared::Scores)) => return scores(b, old, v, inputs, &mut own),
            (Op::Contract { contracted, .. }, Some(Shared::Values)) => {
                let pairs: Vec<_> = contracted.iter().map(|&(l, r)| (l.into(), r.into())).collect();
                b.contract(inputs[0], inputs[1], &[], &pairs)?
            }
            (Op::Map { nodes }, _) if mapped.contains_key(&v) => before_choice(b, nodes, inputs, data.ty.rank() + 1)?,
            (Op::Contract { .. }, _) => match sums.get(&data.inputs[0]) {
                Some(&sum) => return of_sum(b, old, v, sum, inputs),
                None => return keep(b, old, v, inputs),
            },
            _ => return keep(b, old, v, inputs),
        };
        if mapped.get(&v) == Some(&Step::Inside) {
            return Ok(made);
        }
        let at = data.ty.rank() - 1;
        let kept = chosen(b, made, at, &mut own)?;
        let op = Op::Reduce {
            op: ReduceOp::Add,
            axes: vec![0],
        };
        let sum = b.push(op, &[kept], &data.ty)?;
        sums.insert(v, sum);
        in_old_order(b, sum, &data.ty.shape)
    })
}

/// Where the batches of a right operand lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    /// Beside what is contracted.
    Scores,
    /// Beside the columns.
    Values,
}

/// A value between a product and the choice among its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// More maps follow before the choice.
    Inside,
    /// The choice follows.
    Last,
}

/// Whether and how the batches of a product share tiles.
fn kind(ir: &TensorIr, v: ValueId, lanes: usize) -> Option<Shared> {
    let data = &ir.values[v];
    let Op::Contract { batch, contracted, .. } = &data.op else {
        return None;
    };
    let (&[(lb, rb)], &[(_, rk)]) = (&batch[..], &contracted[..]) else {
        return None;
    };
    let (lhs, rhs) = (&ir.values[data.inputs[0]].ty, &ir.values[data.inputs[1]].ty);
    let (rb, rk) = (usize::from(rb), usize::from(rk));
    let free = (0..rhs.rank()).find(|&a| a != rb && a != rk)?;
    let n = rhs.shape[rb];
    let rows = lhs.elements() / (n * rhs.shape[rk]).max(1);
    if rhs.rank() != 3 || n < 2 || rows > MOST_ROWS || !lhs.dtype.is_float() {
        return None;
    }
    let strides = strides_behind(ir, data.inputs[1])?;
    let beside = |a: usize| strides[a] == 1 && strides[rb] == rhs.shape[a] as i64 && n * rhs.shape[a] <= lanes;
    if beside(rk) {
        return Some(Shared::Scores);
    }
    (lb == 0 && rb < free && beside(free)).then_some(Shared::Values)
}

/// Distances between neighbours along each axis of a value in what it is a view of.
fn strides_behind(ir: &TensorIr, v: ValueId) -> Option<Vec<i64>> {
    let data = &ir.values[v];
    match (&data.op, &data.inputs[..]) {
        (Op::Move { parts, .. }, [_]) => match &ir.maps.get(parts[0]).views[..] {
            [view] if view.is_total() => Some(view.strides.clone()),
            _ => None,
        },
        (Op::Move { .. }, _) => None,
        _ => Some(View::contiguous(&data.ty.shape).strides),
    }
}

/// Whether a value is a map of `of`, element by element, and of what is the same for all columns.
fn reads_rows(ir: &TensorIr, u: ValueId, of: ValueId) -> bool {
    let (data, shape) = (&ir.values[u], &ir.values[of].ty.shape);
    let Op::Map { nodes } = &data.op else { return false };
    let same = |&v: &ValueId| v == of || ir.values[v].ty.shape.last() == Some(&1);
    data.ty.shape == *shape
        && data.ty.dtype.is_float()
        && data.inputs.iter().all(same)
        && nodes.iter().all(|n| n.op != AluOp::Iota)
}

/// The elements of `x` [batch or 1, ..] whose batch is their coordinate along axis `at` too, zero elsewhere: [batch, ..].
fn chosen(b: &mut TirBuilder, x: ValueId, at: usize, own: &mut Own) -> Result<ValueId, CompileError> {
    let dtype = b.dtype(x);
    let mut shape = b.shape(x).to_vec();
    let n = shape[at];
    shape[0] = n;
    let mut wide = vec![1; shape.len()];
    (wide[0], wide[at]) = (n, n);
    let mask = match own.get(&wide) {
        Some(&mask) => mask,
        None => {
            let ones: Vec<i32> = (0..n * n).map(|i| i32::from(i / n == i % n)).collect();
            let mask = b.const_i32("own", &wide, &ones)?;
            own.insert(wide, mask);
            mask
        }
    };
    b.map_to(&shape, &[mask, x], |e, a| {
        e.cvt(e.select(a[0], a[1], Ex::like(a[1], 0.0)), dtype)
    })
}

/// Scores: rows with zeros in the lanes of other batches, by one tile.
fn scores(
    b: &mut TirBuilder,
    old: &TensorIr,
    v: ValueId,
    inputs: &[ValueId],
    own: &mut Own,
) -> Result<ValueId, CompileError> {
    let Op::Contract { batch, contracted, .. } = &old.values[v].op else {
        return keep(b, old, v, inputs);
    };
    let pair = |&(l, r): &(u8, u8)| (usize::from(l) + 1, usize::from(r));
    let pairs: Vec<(usize, usize)> = batch.iter().chain(contracted).map(pair).collect();
    let mut shape = vec![1];
    shape.extend(b.shape(inputs[0]));
    let rows = b.reshape(inputs[0], &shape)?;
    let rows = chosen(b, rows, pairs[0].0, own)?;
    b.contract(rows, inputs[1], &[], &pairs)
}

/// A map of a product before the choice among its columns: what else it reads gets the axis of all batches.
fn before_choice(
    b: &mut TirBuilder,
    nodes: &[MapNode],
    inputs: &[ValueId],
    rank: usize,
) -> Result<ValueId, CompileError> {
    let mut operands = Vec::with_capacity(inputs.len());
    let mut whole = Vec::new();
    for &u in inputs {
        let mut shape = b.shape(u).to_vec();
        if shape.len() == rank {
            whole = shape;
            operands.push(u);
        } else {
            shape.push(1);
            operands.push(b.reshape(u, &shape)?);
        }
    }
    b.map_nodes(&whole, &operands, nodes.to_vec())
}

/// The sum [1, rows.., batch, columns] in the order [batch, rows.., columns].
fn in_old_order(b: &mut TirBuilder, sum: ValueId, shape: &[usize]) -> Result<ValueId, CompileError> {
    let strides = row_major(b.shape(sum));
    let n = shape.len();
    let mut steps: Vec<i64> = strides[..n].iter().map(|&s| s as i64).collect();
    steps[0] = strides[n - 1] as i64;
    steps[n - 1] = strides[n] as i64;
    b.move_one(sum, IndexMap::of(View::strided(shape.to_vec(), steps, 0)), 0)
}

/// A product that contracts all of what was summed up with a constant reads it in the order in which it is.
fn of_sum(
    b: &mut TirBuilder,
    old: &TensorIr,
    v: ValueId,
    sum: ValueId,
    inputs: &[ValueId],
) -> Result<ValueId, CompileError> {
    let Op::Contract { batch, contracted, .. } = &old.values[v].op else {
        return keep(b, old, v, inputs);
    };
    let rank = b.shape(sum).len();
    if !batch.is_empty() || contracted.len() + 1 != rank || !b.is_const(inputs[1]) {
        return keep(b, old, v, inputs);
    }
    // The unit axis is contracted too, with one of the constant.
    let mut shape = vec![1];
    shape.extend(b.shape(inputs[1]));
    let rhs = b.reshape(inputs[1], &shape)?;
    let mut pairs = vec![(0, 0)];
    pairs.extend(contracted.iter().map(|&(l, r)| {
        let l = match usize::from(l) {
            0 => rank - 2,
            l if l + 2 == rank => rank - 1,
            l => l,
        };
        (l, usize::from(r) + 1)
    }));
    b.contract(sum, rhs, &[], &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::tir::Type;
    use crate::tir::eval::{Tensor, eval};
    use lockstep_isa::DType;
    use lockstep_isa::artifact::HostDType;

    /// Batches, rows of each, elements of a head, positions.
    const DIMS: [usize; 4] = [3, 2, 4, 6];

    const LANES: PassCx = PassCx {
        exact: false,
        narrowed: false,
        keep_states: false,
        lanes: Some(12),
    };

    fn input(b: &mut TirBuilder, name: &str, shape: &[usize]) -> ValueId {
        b.input(name, HostDType::F32, shape, Type::new(DType::F32, shape))
    }

    /// Attention of a few rows in `dtype`, with keys and values [position, head, element], and a product with weights behind it.
    fn attention([n, g, d, len]: [usize; 4], dtype: DType) -> TensorIr {
        let mut b = TirBuilder::new("t");
        let q = input(&mut b, "q", &[n, g, d]);
        let k = input(&mut b, "k", &[len, n, d]);
        let v = input(&mut b, "v", &[len, n, d]);
        let cast = |b: &mut TirBuilder, x| b.map(&[x], |e, a| e.cvt(a[0], dtype)).unwrap();
        let (q, k, v) = (cast(&mut b, q), cast(&mut b, k), cast(&mut b, v));
        let s = b.contract(q, k, &[(0, 1)], &[(2, 2)]).unwrap();
        let p = b.map(&[s], |e, a| e.exp(a[0])).unwrap();
        let sum = b.reduce(ReduceOp::Add, p, &[2]).unwrap();
        let p = cast(&mut b, p);
        let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).unwrap();
        let o = b.map(&[o, sum], |e, a| e.cvt(e.div(a[0], a[1]), dtype)).unwrap();
        let w = b.const_f32("w", &[n, g, d, 5], &noise(n * g * d * 5, 4)).unwrap();
        let w = b.map(&[w], |e, a| e.cvt(a[0], dtype)).unwrap();
        let y = b.contract(o, w, &[], &[(0, 0), (1, 1), (2, 2)]).unwrap();
        b.output("s", HostDType::F32, &[n, g, len], s);
        b.output("y", HostDType::F32, &[5], y);
        b.finish()
    }

    fn inputs([n, g, d, len]: [usize; 4]) -> Vec<Tensor> {
        vec![
            Tensor::f32(&[n, g, d], noise(n * g * d, 1)),
            Tensor::f32(&[len, n, d], noise(len * n * d, 2)),
            Tensor::f32(&[len, n, d], noise(len * n * d, 3)),
        ]
    }

    fn results(ir: &TensorIr, inputs: &[Tensor]) -> Vec<Vec<f32>> {
        let results = eval(ir, inputs, &mut []).unwrap();
        results.iter().map(Tensor::to_f32).collect()
    }

    #[test]
    fn heads_share_the_tiles_of_keys_and_values() {
        for dtype in [DType::F32, DType::BF16] {
            let before = attention(DIMS, dtype);
            let mut after = before.clone();
            assert_eq!(run(&mut after, &LANES).unwrap(), Changed(true));
            let products = after.values.values().filter_map(|d| match &d.op {
                Op::Contract { batch, contracted, .. } => Some((batch.len(), contracted.len(), d.inputs[0])),
                _ => None,
            });
            let products: Vec<_> = products.collect();
            assert_eq!(
                products.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>(),
                [(0, 2), (0, 1), (0, 4)]
            );
            // The weights meet the sum as it lies.
            let sum = &after.values[products[2].2];
            assert!(matches!(sum.op, Op::Reduce { .. }), "{after}");
            assert_eq!(sum.ty, Type::new(dtype, &[1, 2, 3, 4]));
            assert_eq!(results(&before, &inputs(DIMS)), results(&after, &inputs(DIMS)));
        }
    }

    #[test]
    fn what_is_infinite_in_one_query_stays_there() {
        let mut after = attention(DIMS, DType::F32);
        let mut inputs = inputs(DIMS);
        let mut q = noise(24, 1);
        (q[8], q[9]) = (f32::INFINITY, f32::NAN);
        inputs[0] = Tensor::f32(&[3, 2, 4], q);
        let before = results(&after, &inputs);
        run(&mut after, &LANES).unwrap();
        let after = results(&after, &inputs);
        let finite = |s: &[f32]| s.iter().map(|x| x.is_finite()).collect::<Vec<_>>();
        assert_eq!(finite(&before[0]), finite(&after[0]));
        assert!(before[0].iter().filter(|x| !x.is_finite()).count() == 6);
    }

    #[test]
    fn tiles_stay_apart_where_rows_are_many_or_lanes_few() {
        let many = [3, MOST_ROWS + 1, 4, 6];
        let narrow = PassCx {
            lanes: Some(11),
            ..LANES
        };
        let exact = PassCx { exact: true, ..LANES };
        let unknown = PassCx { lanes: None, ..LANES };
        for (dims, cx) in [(many, LANES), (DIMS, narrow), (DIMS, exact), (DIMS, unknown)] {
            let mut ir = attention(dims, DType::F32);
            let before = ir.to_string();
            assert_eq!(run(&mut ir, &cx).unwrap(), Changed(false));
            assert_eq!(ir.to_string(), before);
        }
        let rows = [3, MOST_ROWS, 4, 6];
        assert_eq!(run(&mut attention(rows, DType::F32), &LANES).unwrap(), Changed(true));
    }

    #[test]
    fn heads_that_lie_apart_stay_apart() {
        // Keys [head, position, element], as they are or seen so, and constant ones.
        let product = |moved: bool, constant: bool| {
            let mut b = TirBuilder::new("t");
            let q = input(&mut b, "q", &[3, 2, 4]);
            let shape: &[usize] = if moved { &[6, 3, 4] } else { &[3, 6, 4] };
            let k = match constant {
                true => b.const_f32("k", shape, &noise(72, 2)).unwrap(),
                false => input(&mut b, "k", shape),
            };
            let k = match moved {
                true => b.transpose(k, &[1, 0, 2]).unwrap(),
                false => k,
            };
            let s = b.contract(q, k, &[(0, 0)], &[(2, 2)]).unwrap();
            b.output("s", HostDType::F32, &[3, 2, 6], s);
            run(&mut b.finish(), &LANES).unwrap()
        };
        assert_eq!(product(false, false), Changed(false));
        assert_eq!(product(true, true), Changed(false));
        assert_eq!(product(true, false), Changed(true));
    }
}
