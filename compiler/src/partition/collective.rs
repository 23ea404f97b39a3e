//! Collectives as transfers, narrow moves, concatenations and additions.
//!
//! | collective | algorithms |
//! |---|---|
//! | all_gather | every member sends its part to all, along shortest paths, each copy passed on at most once per link |
//! | reduce_scatter | every member sends each other its part, which is added in order of rank; or around the ring |
//! | all_reduce | everything to everyone, added in order of rank; or reduce_scatter, then all_gather |
//! | broadcast | copies along shortest paths |
//!
//! The algorithm is the one with the fewest modelled cycles. All members end with the same bits.

use super::dist::{Dist, Split};
use super::expand::{Expander, split_of};
use super::fabric::Load;
use super::{Collective, CollectiveInfo, cost, moves};
use crate::CompileError;
use crate::tir::{Arg, MapNode, Op, ReduceOp, Type, ValueId};
use lockstep_isa::AluOp;

/// Most operands that one map adds up.
const MAX_ADDENDS: usize = 4;

impl Expander<'_> {
    /// Turns one distribution over the members of a stage into another.
    pub(super) fn convert(
        &mut self,
        pieces: &[ValueId],
        ty: &Type,
        from: &Dist,
        to: &Dist,
        load: Load,
    ) -> Result<Vec<ValueId>, CompileError> {
        let first = self.ir.values.len();
        let chips: Vec<u16> = pieces.iter().map(|&p| self.chip_of(p)).collect();
        let (kind, result) = match (from, to) {
            (a, b) if a == b => return Ok(pieces.to_vec()),
            (Dist::Whole, Dist::Split(s)) => {
                let part = |e: &mut Self, (r, &p): (usize, &ValueId)| {
                    let (lo, hi) = s.range(r);
                    e.part(p, s.axis(), lo, hi)
                };
                return Ok(pieces.iter().enumerate().map(|x| part(self, x)).collect());
            }
            (Dist::Whole, Dist::Whole) => return Ok(pieces.to_vec()),
            (Dist::Split(_), Dist::Whole) => (Collective::AllGather, self.gather_all(pieces, ty, from, &chips)?),
            (Dist::Split(a), Dist::Split(b)) => {
                let all = (0..chips.len()).map(|r| self.exchange(pieces, ty, a, b, r, chips[r]));
                (Collective::AllToAll, all.collect::<Result<Vec<_>, _>>()?)
            }
            (Dist::Partial(op), Dist::Split(s)) => (
                Collective::ReduceScatter,
                self.reduce_scatter(pieces, ty, *op, s, load)?,
            ),
            (Dist::Partial(op), Dist::Whole) => {
                (Collective::AllReduce, self.all_reduce(pieces, ty, *op, load, &chips)?)
            }
            (_, Dist::Partial(_)) => {
                return Err(CompileError::internal(
                    "partition",
                    "a partial result cannot be made from a whole one",
                ));
            }
        };
        let bytes = cost::words(self.cx.target, &from.largest(ty)) * self.cx.target.word_bytes() as u64;
        self.collectives.push(CollectiveInfo {
            kind,
            members: chips,
            bytes,
            ops: first..self.ir.values.len(),
        });
        Ok(result)
    }

    fn gather_all(
        &mut self,
        pieces: &[ValueId],
        ty: &Type,
        from: &Dist,
        chips: &[u16],
    ) -> Result<Vec<ValueId>, CompileError> {
        let whole = chips
            .iter()
            .map(|&c| self.assemble(pieces, ty, from, c))
            .collect::<Result<Vec<_>, _>>()?;
        self.same(&whole);
        Ok(whole)
    }

    /// The whole value on one chip.
    pub(super) fn assemble(
        &mut self,
        pieces: &[ValueId],
        ty: &Type,
        from: &Dist,
        chip: u16,
    ) -> Result<ValueId, CompileError> {
        let copies = match from {
            Dist::Whole => return self.copy_to(pieces[0], chip),
            _ => pieces
                .iter()
                .map(|&p| self.copy_to(p, chip))
                .collect::<Result<Vec<_>, _>>()?,
        };
        match from {
            Dist::Partial(op) => Ok(self.combine(&copies, *op, chip)),
            _ => Ok(self.concat(&copies, ty, split_of(from), chip)),
        }
    }

    /// Concatenation of the parts of a split that are all on one chip.
    fn concat(&mut self, copies: &[ValueId], ty: &Type, split: Option<&Split>, chip: u16) -> ValueId {
        let Some(split) = split else { return copies[0] };
        let parts = (0..copies.len())
            .map(|r| {
                let (lo, hi) = split.range(r);
                self.ir.maps.intern(moves::place(&ty.shape, split.axis(), lo, hi))
            })
            .collect();
        let origins = self.ir.values[copies[0]].origins.clone();
        self.emit(Op::Move { parts, fill: 0 }, copies.to_vec(), ty.clone(), chip, &origins)
    }

    /// Combination of values on one chip, in their order.
    fn combine(&mut self, values: &[ValueId], op: ReduceOp, chip: u16) -> ValueId {
        let mut total = values[0];
        let mut rest = &values[1..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(MAX_ADDENDS - 1));
            let data = &self.ir.values[total];
            let (ty, origins) = (data.ty.clone(), data.origins.clone());
            let node = |k: usize| MapNode {
                op: alu(op),
                dtype: ty.dtype.widened(),
                args: [
                    if k == 0 {
                        Arg::Operand(0)
                    } else {
                        Arg::Node(k as u32 - 1)
                    },
                    Arg::Operand(k as u32 + 1),
                    Arg::Imm(0),
                ],
                axis: 0,
            };
            let nodes = (0..now.len()).map(node).collect();
            let inputs = std::iter::once(total).chain(now.iter().copied()).collect();
            total = self.emit(Op::Map { nodes }, inputs, ty, chip, &origins);
            rest = later;
        }
        total
    }

    /// The part of member `rank` in split `to` of a value that lies in split `from`: each holder sends what it has of it.
    pub(super) fn exchange(
        &mut self,
        pieces: &[ValueId],
        ty: &Type,
        from: &Split,
        to: &Split,
        rank: usize,
        chip: u16,
    ) -> Result<ValueId, CompileError> {
        let (lo, hi) = to.range(rank);
        let mut copies = Vec::new();
        let mut bounds = vec![0];
        for (r, &p) in pieces.iter().enumerate() {
            let (start, end) = from.range(r);
            let part = if from.axis == to.axis {
                let (a, b) = (lo.max(start), hi.min(end));
                if a >= b {
                    continue;
                }
                bounds.push(b - lo);
                self.part(p, to.axis(), a - start, b - start)
            } else {
                bounds.push(end);
                self.part(p, to.axis(), lo, hi)
            };
            copies.push(self.copy_to(part, chip)?);
        }
        let out = Dist::Split(to.clone()).local(ty, rank);
        if copies.len() == 1 {
            return Ok(copies[0]);
        }
        Ok(self.concat(
            &copies,
            &out,
            Some(&Split {
                axis: from.axis,
                bounds,
            }),
            chip,
        ))
    }

    fn reduce_scatter(
        &mut self,
        pieces: &[ValueId],
        ty: &Type,
        op: ReduceOp,
        split: &Split,
        load: Load,
    ) -> Result<Vec<ValueId>, CompileError> {
        let n = pieces.len();
        let words = cost::words(self.cx.target, &Dist::Split(split.clone()).largest(ty));
        let direct = cost::transfer_cycles(self.cx.target, words * load.scatter, load.hops, 1);
        let round = cost::transfer_cycles(self.cx.target, words, 1, 1) + cost::CHAIN_CYCLES;
        let ring = round * (n as u64 - 1);
        let mut result = Vec::with_capacity(n);
        for j in 0..n {
            let (lo, hi) = split.range(j);
            let chip = self.chip_of(pieces[j]);
            let parts: Vec<ValueId> = pieces.iter().map(|&p| self.part(p, split.axis(), lo, hi)).collect();
            if ring < direct {
                let mut total = parts[(j + 1) % n];
                for step in 2..=n {
                    let own = parts[(j + step) % n];
                    let here = self.chip_of(own);
                    let arrived = self.copy_to(total, here)?;
                    total = self.combine(&[arrived, own], op, here);
                }
                result.push(total);
            } else {
                let copies = parts
                    .iter()
                    .map(|&p| self.copy_to(p, chip))
                    .collect::<Result<Vec<_>, _>>()?;
                result.push(self.combine(&copies, op, chip));
            }
        }
        Ok(result)
    }

    fn all_reduce(
        &mut self,
        pieces: &[ValueId],
        ty: &Type,
        op: ReduceOp,
        load: Load,
        chips: &[u16],
    ) -> Result<Vec<ValueId>, CompileError> {
        let words = cost::words(self.cx.target, ty);
        let direct = cost::transfer_cycles(self.cx.target, words * load.gather, load.hops, 1);
        if let Some(split) = cost::scatter_split(self.cx.target, ty, pieces.len()) {
            let part = cost::words(self.cx.target, &Dist::Split(split.clone()).largest(ty));
            let scatter = cost::transfer_cycles(self.cx.target, part * load.scatter, load.hops, 1);
            let gather = cost::transfer_cycles(self.cx.target, part * load.gather, load.hops, 1);
            if scatter + gather < direct {
                let parts = self.reduce_scatter(pieces, ty, op, &split, load)?;
                return self.gather_all(&parts, ty, &Dist::Split(split), chips);
            }
        }
        self.gather_all(pieces, ty, &Dist::Partial(op), chips)
    }
}

/// The ALU operation of a reduction.
fn alu(op: ReduceOp) -> AluOp {
    match op {
        ReduceOp::Add => AluOp::Add,
        ReduceOp::Mul => AluOp::Mul,
        ReduceOp::Min => AluOp::Min,
        ReduceOp::Max => AluOp::Max,
    }
}
