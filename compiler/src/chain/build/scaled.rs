//! Weights that are integers times scales: their tiles are loaded as the integers, and scaled on the way into the matrix unit.
//!
//! ```text
//! q: i8[n,2,32] = const      s: f16[n,2,1] = const
//! w: f32[n,2,32] = map mul(cvt.f32(q), s)
//! v: f32[64,n] = move w      ; any number of moves
//! y = contract x, v
//! ```
//!
//! `find` takes such a constant apart into the integers and the scales of its elements, behind the same moves. Rows of a tile
//! that follow each other and share their scales are a block; where blocks are cut up, smaller ones repeat their scales, and
//! where two neighbouring rows have different ones the products are made by the compiler.
//!
//! Where the data of a constant is absent its integers take 8 bits and its scales 32.

use super::Builder;
use super::tiles::TileBufs;
use crate::chain::contents::{Constant, Contents, Picked, Stretch};
use crate::chain::{Affine, Buf, BufKind, Tile};
use crate::tir::map::unravel;
use crate::tir::{Arg, ConstData, IndexMap, MapNode, Op, TensorIr, Type, ValueData, ValueId, consteval};
use lockstep_graph::Weights;
use lockstep_isa::artifact::HostDType;
use lockstep_isa::run::Window;
use lockstep_isa::{AluOp, DType, Dir, scalar};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most rows of a block: as many pairs of 4-bit integers are loaded at a time.
const MOST_ROWS: usize = 32;

/// A constant taken apart.
#[derive(Clone)]
pub(crate) struct Scaled {
    /// Integers by element of the constant, of one byte.
    integers: Arc<Constant>,
    /// Scales by element of the constant.
    scales: Arc<Constant>,
    /// Type of the scales.
    dtype: DType,
    /// Whether all integers fit 4 bits.
    pairs: bool,
    /// The moves and the map behind which element belongs to which scale.
    ir: Arc<TensorIr>,
    by_element: ValueId,
}

/// Constant right operands of contracts that are integers times scales.
pub(crate) fn find(ir: &TensorIr, is_const: &dyn Fn(ValueId) -> bool) -> BTreeMap<ValueId, Scaled> {
    let mut apart: BTreeMap<ValueId, (ValueId, ValueId)> = BTreeMap::new();
    let mut more = ir.clone();
    for data in ir.values.values() {
        let (Op::Contract { .. }, &[left, right]) = (&data.op, &data.inputs[..]) else {
            continue;
        };
        if ir.values[left].ty.dtype == DType::F32
            && is_const(right)
            && !apart.contains_key(&right)
            && let Some(parts) = take_apart(&mut more, right)
        {
            apart.insert(right, parts);
        }
    }
    if apart.is_empty() {
        return BTreeMap::new();
    }
    let ir = Arc::new(more);
    let mut sources: BTreeMap<ValueId, bool> = BTreeMap::new();
    let found = apart.into_iter().map(|(v, (q, s))| {
        let pairs = !consteval::is_absent(&ir, q) && fits_pairs(&ir, q, &mut sources);
        let scaled = Scaled {
            integers: Arc::new(Constant::new(ir.clone(), q)),
            scales: Arc::new(Constant::new(ir.clone(), s)),
            dtype: ir.values[s].ty.dtype,
            pairs,
            ir: ir.clone(),
            by_element: s,
        };
        (v, scaled)
    });
    found.collect()
}

/// Whether the integers behind the moves of `v` all fit 4 bits.
fn fits_pairs(ir: &TensorIr, v: ValueId, known: &mut BTreeMap<ValueId, bool>) -> bool {
    if let Op::Move { .. } = ir.values[v].op {
        return ir.values[v].inputs.iter().all(|&u| fits_pairs(ir, u, known));
    }
    let fits = |bytes: &[u8]| bytes.iter().all(|&x| (-8..8).contains(&(x as i8)));
    *known.entry(v).or_insert_with(|| match &ir.values[v].op {
        Op::Const(k) => fits(ir.consts[*k].bytes.bytes()),
        _ => consteval::materialise(ir, v).is_ok_and(|bytes| fits(&bytes)),
    })
}

fn push(ir: &mut TensorIr, op: Op, inputs: Vec<ValueId>, ty: Type) -> ValueId {
    ir.values.push(ValueData {
        ty,
        op,
        inputs,
        origins: Vec::new(),
    })
}

/// The integers and the scales of the elements of a constant, appended to the program.
fn take_apart(ir: &mut TensorIr, v: ValueId) -> Option<(ValueId, ValueId)> {
    let data = ir.values[v].clone();
    let shape = data.ty.shape.clone();
    match &data.op {
        Op::Move { fill: 0, .. } => {
            let parts: Option<Vec<_>> = data.inputs.iter().map(|&u| take_apart(ir, u)).collect();
            let (q, s): (Vec<ValueId>, Vec<ValueId>) = parts?.into_iter().unzip();
            let mut behind = |inputs: Vec<ValueId>| {
                let dtype = ir.values[*inputs.first()?].ty.dtype;
                let alike = inputs.iter().all(|&u| ir.values[u].ty.dtype == dtype);
                alike.then(|| push(ir, data.op.clone(), inputs, Type::new(dtype, &shape)))
            };
            Some((behind(q)?, behind(s)?))
        }
        Op::Map { nodes } => {
            let root = nodes.last().filter(|n| n.op == AluOp::Mul && n.dtype == DType::F32)?;
            let mut orders = [(root.args[0], root.args[1]), (root.args[1], root.args[0])].into_iter();
            let (source, scale) = orders.find_map(|(q, s)| {
                let Arg::Operand(s) = s else { return None };
                Some((widened(ir, q, nodes, &data, &shape)?, data.inputs[s as usize]))
            })?;
            let scale = narrowed(ir, scale)?;
            let Type { dtype, shape: from } = ir.values[scale].ty.clone();
            let map = ir.maps.intern(IndexMap::expand(&from, &shape));
            let spread = Op::Move {
                parts: vec![map],
                fill: 0,
            };
            Some((source, push(ir, spread, vec![scale], Type::new(dtype, &shape))))
        }
        _ => None,
    }
}

/// The one-byte integers of this shape that an argument of a map is the floats of.
fn widened(ir: &mut TensorIr, arg: Arg, nodes: &[MapNode], data: &ValueData, shape: &[usize]) -> Option<ValueId> {
    let node = match arg {
        Arg::Operand(i) => {
            let v = data.inputs[i as usize];
            return if ir.values[v].ty.shape == shape {
                unwidened(ir, v)
            } else {
                None
            };
        }
        Arg::Node(n) => n,
        Arg::Imm(_) => return None,
    };
    let cvt = nodes
        .get(node as usize)
        .filter(|n| n.op == AluOp::Cvt && n.dtype == DType::F32)?;
    let source = match cvt.args[0] {
        Arg::Operand(i) => data.inputs[i as usize],
        Arg::Node(_) => integers(ir, nodes, node, data)?,
        Arg::Imm(_) => return None,
    };
    let ty = &ir.values[source].ty;
    (ty.dtype == DType::I8 && ty.shape == shape).then_some(source)
}

/// The one-byte integers that a constant is the floats of, behind the same moves.
fn unwidened(ir: &mut TensorIr, v: ValueId) -> Option<ValueId> {
    let data = ir.values[v].clone();
    match &data.op {
        Op::Move { fill: 0, .. } => {
            let parts: Option<Vec<_>> = data.inputs.iter().map(|&u| unwidened(ir, u)).collect();
            Some(push(ir, data.op.clone(), parts?, Type::new(DType::I8, &data.ty.shape)))
        }
        Op::Map { nodes } if data.ty.dtype == DType::F32 => {
            let last = Arg::Node(nodes.len() as u32 - 1);
            let float = matches!(nodes.last(), Some(n) if n.op == AluOp::Cvt);
            float.then(|| widened(ir, last, nodes, &data, &data.ty.shape)).flatten()
        }
        _ => None,
    }
}

/// The same scales, in 16 bits where those are known to hold them exactly.
fn narrowed(ir: &mut TensorIr, v: ValueId) -> Option<ValueId> {
    if !ir.values[v].ty.dtype.is_float() {
        return None;
    }
    if consteval::is_absent(ir, v) {
        let bytes = Weights::absent(ir.values[v].ty.elements() * DType::F32.bytes());
        return Some(constant(ir, v, DType::F32, HostDType::F32, bytes));
    }
    let values = consteval::tensor(ir, v).ok()?;
    let narrow = |x: f32| scalar::narrow_f32(x, DType::F16);
    let exact = |x: &f32| scalar::widen(narrow(*x), DType::F16) == x.to_bits();
    let values = values.to_f32();
    let all = values.iter().all(exact);
    let (dtype, stored, bytes): (_, _, Vec<u8>) = match all {
        true => {
            let bytes = values.iter().flat_map(|&x| (narrow(x) as u16).to_le_bytes());
            (DType::F16, HostDType::F16, bytes.collect())
        }
        false => {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes());
            (DType::F32, HostDType::F32, bytes.collect())
        }
    };
    Some(constant(ir, v, dtype, stored, bytes.into()))
}

/// A constant of the shape of `v`.
fn constant(ir: &mut TensorIr, v: ValueId, dtype: DType, stored: HostDType, bytes: Weights) -> ValueId {
    let ty = Type::new(dtype, &ir.values[v].ty.shape);
    let id = ir.consts.push(ConstData {
        name: String::new(),
        ty: ty.clone(),
        stored,
        bytes,
    });
    push(ir, Op::Const(id), Vec::new(), ty)
}

/// The integers that node `node` of a map widens, where they are computed by its other nodes and fit a byte.
fn integers(ir: &mut TensorIr, nodes: &[MapNode], node: u32, data: &ValueData) -> Option<ValueId> {
    let Arg::Node(last) = nodes[node as usize].args[0] else {
        return None;
    };
    let mut nodes = nodes[..=last as usize].to_vec();
    if nodes.iter().any(|n| n.dtype.is_float()) {
        return None;
    }
    let wide = push(
        ir,
        Op::Map { nodes: nodes.clone() },
        data.inputs.clone(),
        Type::new(DType::I32, &data.ty.shape),
    );
    let bytes = consteval::materialise(ir, wide).ok()?;
    let mut all = bytes
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    if !all.all(|x| i8::try_from(x).is_ok()) {
        return None;
    }
    nodes.push(MapNode {
        op: AluOp::Cvt,
        dtype: DType::I8,
        args: [Arg::Node(last), Arg::Imm(0), Arg::Imm(0)],
        axis: 0,
    });
    Some(push(
        ir,
        Op::Map { nodes },
        data.inputs.clone(),
        Type::new(DType::I8, &data.ty.shape),
    ))
}

impl Scaled {
    /// The scale of an element: which one, by value behind the moves and element of it.
    fn scale_of(&self, element: usize) -> Option<(ValueId, usize)> {
        let (mut v, mut at) = (self.by_element, element);
        while let Op::Move { parts, .. } = &self.ir.values[v].op {
            let c = unravel(at, &self.ir.values[v].ty.shape)?;
            let inputs = parts.iter().zip(&self.ir.values[v].inputs);
            let (input, found) = inputs
                .filter_map(|(&map, &input)| Some((input, self.ir.maps.get(map).at(&c)?)))
                .next()?;
            (v, at) = (input, found);
        }
        Some((v, at))
    }

    /// Rows of a block of a tile: as many from its first row on as share their scales, 0 where not even a vector's do. Looks at
    /// the columns at which the scales of a row begin to come from elsewhere; [`Contents::alike`] compares all of them.
    fn block(&self, of_row: &[u32], of_column: &[u32]) -> usize {
        let least = if self.pairs { 2 } else { 1 };
        let Some((&top, &last)) = of_row.first().zip(of_column.last()) else {
            return 0;
        };
        let mut from = None;
        let mut some = vec![last];
        for &column in of_column {
            let source = self.scale_of((top + column) as usize).map(|(v, _)| v);
            if from != Some(source) {
                from = Some(source);
                some.push(column);
            }
        }
        let mut block = MOST_ROWS;
        for column in some {
            let ids: Vec<_> = of_row
                .iter()
                .map(|row| self.scale_of((row + column) as usize))
                .collect();
            while block >= least && !ids.chunks(block).all(|rows| rows.iter().all(|id| *id == rows[0])) {
                block /= 2;
            }
        }
        if block < least { 0 } else { block }
    }
}

impl Builder<'_> {
    /// The buffers of a tile of scaled weights; `None` where its scales change within a vector.
    pub fn scaled_tile(
        &mut self,
        scaled: &Scaled,
        (chip, window): (u16, Window),
        (of_row, of_column): (&[u32], &[u32]),
        columns: Arc<[Stretch]>,
        most_belts: usize,
        side: Option<Dir>,
    ) -> Option<TileBufs> {
        let mut block = scaled.block(of_row, of_column);
        let words = self.loads.most.checked_sub(scaled.dtype.words())?;
        let most = most_belts.min(words.min(self.loads.belts).into());
        if block == 0 || most == 0 {
            return None;
        }
        let dtype = if scaled.pairs { DType::I4 } else { DType::I8 };
        let per = dtype.load_rows();
        let count = of_row.len().div_ceil(per);
        // A power of two, as a block is, so that no issue takes rows of two blocks.
        let n_belts = (block / per).min(1usize << most.ilog2()).min(count);
        let issues = count.div_ceil(n_belts);
        let mut each = (block / per / n_belts).max(1);
        if issues % each != 0 || n_belts == count {
            (block, each) = (n_belts * per, 1);
        }
        let picked = |from: &Arc<Constant>, size: usize, rows: Vec<usize>| Picked {
            from: from.clone(),
            size,
            lead: 0,
            vectors: rows,
            stretches: columns.clone(),
            tail: Vec::new(),
        };
        let rows = || of_row.iter().map(|&r| r as usize);
        let integers = picked(&scaled.integers, 1, rows().collect());
        let tile = self.prog.tiles.push(Tile {
            rows: count as u16,
            lo: window.n0,
            columns: of_column.len() as u16,
            dtype,
            data: match scaled.pairs {
                true => Contents::pairs(integers),
                false => integers.into(),
            },
        });
        let base = Buf {
            chip,
            dtype,
            n_vectors: 0,
            lo: window.n0,
            hi: window.n1,
            kind: BufKind::Temp,
            side,
        };
        let belt = |b: usize| {
            let n_vectors = (count - b).div_ceil(n_belts) as u32;
            let kind = BufKind::Tile {
                tile,
                first: b as u16,
                step: n_belts as u16,
            };
            (
                Buf {
                    n_vectors,
                    kind,
                    ..base.clone()
                },
                n_vectors,
            )
        };
        let belts: Vec<(Buf, u32)> = (0..n_belts).map(belt).collect();
        let belts = belts
            .into_iter()
            .map(|(buf, n)| (self.prog.bufs.push(buf), n))
            .collect();
        let n = of_row.len().div_ceil(block) as u32;
        let scales = self.prog.bufs.push(Buf {
            dtype: scaled.dtype,
            n_vectors: n,
            kind: BufKind::Rows(Contents::alike(
                picked(&scaled.scales, scaled.dtype.bytes(), rows().collect()),
                block,
            )),
            ..base
        });
        let at = Affine {
            base: 0,
            strides: if each > 1 { [0, 1, 0] } else { [i32::from(n > 1), 0, 0] },
        };
        let dims = if each > 1 { [each as u32, n, 1] } else { [n, 1, 1] };
        Some(TileBufs {
            belts,
            scales: Some((scales, at, dims)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::TirBuilder;
    use lockstep_isa::artifact::HostDType;

    fn weights(q: &[i8], by_column: bool) -> (TensorIr, ValueId) {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[1, 64], Type::new(DType::F32, &[1, 64]));
        let q: Vec<u8> = q.iter().map(|&x| x as u8).collect();
        let q = b
            .constant("q", Type::new(DType::I8, &[3, 2, 32]), HostDType::I8, q.into())
            .unwrap();
        let shape: &[usize] = if by_column { &[3, 1, 1] } else { &[3, 2, 1] };
        let s: Vec<f32> = (0..shape.iter().product()).map(|i| 0.5 + i as f32).collect();
        let s = b.const_f32("s", shape, &s).unwrap();
        let w = b.map(&[q, s], |e, x| e.mul(e.cvt(x[0], DType::F32), x[1])).unwrap();
        let w = b.reshape(w, &[3, 64]).unwrap();
        let w = b.transpose(w, &[1, 0]).unwrap();
        let y = b.contract(x, w, &[], &[(1, 0)]).unwrap();
        b.output("y", HostDType::F32, &[1, 3], y);
        (b.finish(), w)
    }

    /// A scale per column of integers that were moved before.
    #[test]
    fn moved_integers_are_told_apart() {
        for absent in [false, true] {
            let mut b = TirBuilder::new("t");
            let x = b.input("x", HostDType::F32, &[1, 64], Type::new(DType::F32, &[1, 64]));
            let (q, s) = match absent {
                true => (Weights::absent(192), Weights::absent(12)),
                false => (vec![100; 192].into(), [0.1f32, 0.2, 0.3].as_slice().into()),
            };
            let q = b.constant("q", Type::new(DType::I8, &[3, 64]), HostDType::I8, q);
            let w = b.map(&[q.unwrap()], |e, x| e.cvt(x[0], DType::F32)).unwrap();
            let w = b.transpose(w, &[1, 0]).unwrap();
            let s = b.constant("s", Type::new(DType::F32, &[1, 3]), HostDType::F32, s);
            let w = b.map(&[w, s.unwrap()], |e, x| e.mul(x[0], x[1])).unwrap();
            let y = b.contract(x, w, &[], &[(1, 0)]).unwrap();
            b.output("y", HostDType::F32, &[1, 3], y);
            let ir = b.finish();
            let consts = consteval::const_values(&ir);
            let found = find(&ir, &|v| consts.contains(v));
            let scaled = &found[&w];
            assert_eq!((scaled.pairs, scaled.dtype), (false, DType::F32));
            let rows: Vec<u32> = (0..64).map(|r| r * 3).collect();
            assert_eq!(scaled.block(&rows, &[0, 1, 2]), 32);
            assert_eq!(crate::partition::cost::stored_type(&ir, w).dtype, DType::I8);
        }
    }

    #[test]
    fn integers_and_scales_are_told_apart() {
        let narrow: Vec<i8> = (0..192).map(|i| (i % 16) as i8 - 8).collect();
        let wide: Vec<i8> = (0..192).map(|i| i as u8 as i8).collect();
        for (q, pairs) in [(&narrow, true), (&wide, false)] {
            for by_column in [false, true] {
                let (ir, w) = weights(q, by_column);
                let consts = consteval::const_values(&ir);
                let found = find(&ir, &|v| consts.contains(v));
                let scaled = &found[&w];
                assert_eq!((scaled.pairs, scaled.dtype), (pairs, DType::F16));
                let rows: Vec<u32> = (0..64).map(|r| r * 3).collect();
                assert_eq!(scaled.block(&rows, &[0, 1, 2]), 32);
                // Rows of two blocks in turns.
                let turns: Vec<u32> = (0..64).map(|r| (r % 2 * 32 + r / 2) * 3).collect();
                let least = if pairs { 0 } else { 1 };
                assert_eq!(scaled.block(&turns, &[0, 1, 2]), if by_column { 32 } else { least });
                let quarters: Vec<u32> = (0..64).map(|r| (r / 8 % 2 * 32 + r / 16 * 8 + r % 8) * 3).collect();
                assert_eq!(scaled.block(&quarters, &[0, 1, 2]), if by_column { 32 } else { 8 });
            }
        }
    }
}
