//! Indexed reads and writes. Rows along axis 0 are what the machine addresses, so other forms move axes or linearise indices; constant
//! indices become moves. Single elements of a short axis are chosen by comparisons, many at a time.

use super::{Lowering, Res, Site, dtype};
use crate::tir::expr::Ex;
use crate::tir::{Combiner, IndexMap, ReduceOp, ValueId, consteval, row_major};
use lockstep_graph::op::Combine;
use lockstep_isa::DType;

/// Most affine runs of constant indices that become parts of one move.
const MAX_RUNS: usize = 32;
/// Most single elements to choose from by comparing indices with their places.
const MAX_CHOICES: usize = 32;
/// Elements chosen per choice from which that pays: a gather moves a whole vector for each.
const CHOSEN: usize = 8;
/// Choices per map.
const CHOICES_PER_MAP: usize = 5;

impl<'a> Lowering<'a> {
    pub(super) fn gather(&mut self, s: &Site<'a>, axis: usize) -> Res<ValueId> {
        let (x, indices) = (s.x[0], s.x[1]);
        let (shape, n) = (s.shape(0), s.shape(0)[axis]);
        if self.b.is_const(indices)
            && let Some(runs) = runs(&consteval::tensor(self.b.ir(), indices)?.bits(), n)
        {
            let total: usize = runs.iter().map(|r| r.2).sum();
            let mut parts = Vec::new();
            let mut at = 0;
            for run in runs {
                let mut ranges: Vec<_> = shape.iter().map(|&n| (0, 1, n)).collect();
                ranges[axis] = run;
                let part = IndexMap::narrow(shape, &ranges);
                let placed = IndexMap::concat_part(part.shape(), axis, at, total);
                at += run.2;
                let map = crate::tir::compose(&placed, &part).ok_or("indices that need too many views")?;
                parts.push((x, map));
            }
            let moved = if let [(x, map)] = parts.as_slice() {
                self.b.move_one(*x, map.clone(), 0)?
            } else {
                self.b.moves(&parts, 0)?
            };
            return Ok(self.b.reshape(moved, s.out_shape())?);
        }
        let rank = shape.len();
        if shape.iter().product::<usize>() == n && chooses(n, s.shape(1)) {
            let row = self.b.reshape(x, &[n])?;
            let ones = vec![1; s.shape(1).len()];
            let mut choices = Vec::with_capacity(n);
            for at in 0..n {
                let one = self.b.narrow_axis(row, 0, at, 1)?;
                choices.push(self.b.reshape(one, &ones)?);
            }
            let chosen = self.chosen(s, indices, &choices)?;
            return Ok(self.b.reshape(chosen, s.out_shape())?);
        }
        let to_front: Vec<usize> = [axis].into_iter().chain((0..rank).filter(|&d| d != axis)).collect();
        let table = self.b.transpose(x, &to_front)?;
        let rows = self.b.gather(table, indices)?;
        // [idx.., x without axis] to [x before axis, idx.., x after axis].
        let i = s.shape(1).len();
        let back: Vec<usize> = (i..i + axis).chain(0..i).chain(i + axis..i + rank - 1).collect();
        Ok(self.b.transpose(rows, &back)?)
    }

    pub(super) fn gather_elements(&mut self, s: &Site<'a>, axis: usize) -> Res<ValueId> {
        let n = s.shape(0)[axis];
        if chooses(n, s.shape(1)) {
            let mut ranges: Vec<_> = s.shape(1).iter().map(|&n| (0, 1, n)).collect();
            ranges[axis].2 = n;
            let x = self.b.narrow(s.x[0], &ranges)?;
            let choices = (0..n)
                .map(|at| self.b.narrow_axis(x, axis, at, 1))
                .collect::<Result<Vec<_>, _>>()?;
            return self.chosen(s, s.x[1], &choices);
        }
        let at = self.linear(s, axis)?;
        let table = self.b.reshape(s.x[0], &[s.shape(0).iter().product()])?;
        Ok(self.b.gather(table, at)?)
    }

    /// For every index the element of the choice that it names, of the last one where it names none.
    fn chosen(&mut self, s: &Site<'a>, indices: ValueId, choices: &[ValueId]) -> Res<ValueId> {
        let to = dtype(s.out_dtype());
        let Some((&last, others)) = choices.split_last() else {
            return Err("a table without rows".into());
        };
        let mut result = last;
        for (group, choices) in others.chunks(CHOICES_PER_MAP).enumerate() {
            let operands: Vec<ValueId> = [indices, result].iter().chain(choices).copied().collect();
            result = self.elementwise(to, s.shape(1), &operands, |e, x| {
                let of = |rest, (i, &choice)| {
                    let place = (group * CHOICES_PER_MAP + i) as i32;
                    e.select(e.eq(x[0], Ex::i32(place)), choice, rest)
                };
                x[2..].iter().enumerate().fold(x[1], of)
            })?;
        }
        Ok(self.b.expand(result, s.shape(1))?)
    }

    pub(super) fn gather_nd(&mut self, s: &Site<'a>, batch_dims: usize) -> Res<ValueId> {
        let (shape, q) = (s.shape(0), s.shape(1));
        let k = q[q.len() - 1];
        let at = self.linear_nd(s.x[1], q, shape, batch_dims)?;
        let (lead, rest) = shape.split_at(batch_dims + k);
        let table: Vec<usize> = [lead.iter().product()]
            .into_iter()
            .chain(rest.iter().copied())
            .collect();
        let table = self.b.reshape(s.x[0], &table)?;
        let rows = self.b.gather(table, at)?;
        Ok(self.b.reshape(rows, s.out_shape())?)
    }

    pub(super) fn scatter_elements(&mut self, s: &Site<'a>, axis: usize, combine: Combine) -> Res<ValueId> {
        let at = self.linear(s, axis)?;
        let table = self.b.reshape(s.x[0], &[s.shape(0).iter().product()])?;
        let result = self.b.scatter(combiner(combine), table, at, s.x[2])?;
        Ok(self.b.reshape(result, s.out_shape())?)
    }

    pub(super) fn scatter_nd(&mut self, s: &Site<'a>, combine: Combine) -> Res<ValueId> {
        let (shape, q) = (s.shape(0), s.shape(1));
        let k = q[q.len() - 1];
        let at = self.linear_nd(s.x[1], q, shape, 0)?;
        let (lead, rest) = shape.split_at(k);
        let table: Vec<usize> = [lead.iter().product()]
            .into_iter()
            .chain(rest.iter().copied())
            .collect();
        let table = self.b.reshape(s.x[0], &table)?;
        let updates: Vec<usize> = q[..q.len() - 1].iter().chain(rest).copied().collect();
        let updates = self.b.reshape(s.x[2], &updates)?;
        let result = self.b.scatter(combiner(combine), table, at, updates)?;
        Ok(self.b.reshape(result, s.out_shape())?)
    }

    /// Linear positions in operand 0 of the elements that operand 1 names along `axis`.
    fn linear(&mut self, s: &Site<'a>, axis: usize) -> Res<ValueId> {
        let (shape, strides) = (s.shape(0), row_major(s.shape(0)));
        self.elementwise(DType::I32, s.shape(1), &[s.x[1]], |e, x| {
            let mut sum = e.mul(clamped(e, x[0], shape[axis]), Ex::i32(strides[axis] as i32));
            for d in (0..shape.len()).filter(|&d| d != axis && s.shape(1)[d] > 1) {
                sum = e.add(sum, e.mul(e.iota(d), Ex::i32(strides[d] as i32)));
            }
            sum
        })
    }

    /// Linear positions of the parts that index tuples (the last axis of `q`) name: shape `q` without its last axis.
    fn linear_nd(&mut self, indices: ValueId, q: &[usize], shape: &[usize], batch_dims: usize) -> Res<ValueId> {
        let (k, last) = (q[q.len() - 1], q.len() - 1);
        let strides = row_major(&shape[..batch_dims + k]);
        let mut parts = Vec::new();
        for i in 0..k {
            let part = self.b.narrow_axis(indices, last, i, 1)?;
            parts.push(self.b.reshape(part, &q[..last])?);
        }
        self.elementwise(DType::I32, &q[..last], &parts, |e, x| {
            let mut sum = Ex::i32(0);
            for (i, &x) in x.iter().enumerate() {
                let term = e.mul(
                    clamped(e, x, shape[batch_dims + i]),
                    Ex::i32(strides[batch_dims + i] as i32),
                );
                sum = if i == 0 { term } else { e.add(sum, term) };
            }
            for d in (0..batch_dims).filter(|&d| q[d] > 1) {
                sum = e.add(sum, e.mul(e.iota(d), Ex::i32(strides[d] as i32)));
            }
            sum
        })
    }
}

/// Whether elements are chosen one by one rather than gathered.
fn chooses(n: usize, indices: &[usize]) -> bool {
    n <= MAX_CHOICES && indices.iter().product::<usize>() >= CHOSEN * n
}

/// min(index as unsigned, n - 1).
fn clamped(e: &crate::tir::expr::Expr, index: Ex, n: usize) -> Ex {
    let last = Ex::i32(n as i32 - 1);
    e.select(e.lt(index, Ex::i32(0)), last, e.min(index, last))
}

/// Constant indices as ranges (start, step, length) with equal steps inside; `None` if there are too many.
fn runs(indices: &[u32], n: usize) -> Option<Vec<(usize, isize, usize)>> {
    let mut runs: Vec<(usize, isize, usize)> = Vec::new();
    for &index in indices {
        let index = (index as usize).min(n - 1);
        let full = runs.len() == MAX_RUNS;
        match runs.last_mut() {
            Some(run) if run.2 == 1 => {
                run.1 = index as isize - run.0 as isize;
                run.2 = 2;
            }
            Some(run) if run.0 as isize + run.1 * run.2 as isize == index as isize => run.2 += 1,
            _ if full => return None,
            _ => runs.push((index, 1, 1)),
        }
    }
    Some(runs)
}

fn combiner(combine: Combine) -> Combiner {
    match combine {
        Combine::Set => Combiner::Replace,
        Combine::Add => Combiner::Reduce(ReduceOp::Add),
        Combine::Mul => Combiner::Reduce(ReduceOp::Mul),
        Combine::Min => Combiner::Reduce(ReduceOp::Min),
        Combine::Max => Combiner::Reduce(ReduceOp::Max),
    }
}
