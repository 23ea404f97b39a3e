//! Reductions: vectors are folded and added, lanes reduced by the lane-move unit, which leaves the result on all lanes of
//! the segment. A short map that only the reduction needs (a square) comes first in its chains.

use super::fit::{At, fit, fit_by_buffers};
use super::kernel::{EPILOGUE_ALUS, Operand};
use super::moves::{Kernel, dense};
use super::{Builder, Home};
use crate::chain::{Affine, BufId, BufKind, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::choose::with_lanes;
use crate::layout::{LaneDigit, Layout};
use crate::tir::{Op, ReduceOp, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::{AluOp, DType, Dir};
use std::rc::Rc;

/// Buffers that one chain combines.
const SOURCES: usize = 4;

/// The same where a map comes first, and most ALUs of that map.
const MAPPED_SOURCES: usize = 2;
const MAPPED_ALUS: u32 = 2;

/// Most steps of one chain.
const MOST: usize = 4096;

/// Most operands of that map, and most vectors of each where there are several: residuals of one row.
const MAPPED_OPERANDS: usize = 3;
const MAPPED_VECTORS: usize = 8;

/// A map before a reduction.
struct Prologue {
    map: ValueId,
    /// Its operands with their homes, which lie alike; the reduction goes by the first.
    operands: Vec<(ValueId, Rc<Home>)>,
}

impl Prologue {
    /// The buffer of operand `n` that lies as `buf` of the first.
    fn buf(&self, n: usize, buf: BufId) -> Option<BufId> {
        let part = self.operands.first()?.1.bufs.iter().position(|b| *b == Some(buf))?;
        *self.operands.get(n)?.1.bufs.get(part)?
    }
}

/// The vectors of one buffer that go into one result: a box of up to two dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    buf: BufId,
    dims: [u32; 2],
    strides: [i32; 2],
}

impl Inner {
    fn n_dims(&self) -> usize {
        self.dims.iter().filter(|&&d| d > 1).count()
    }
}

/// Most ALUs of the maps behind a reduction in the chain of what it reduces.
const TAIL_ALUS: u32 = 4;

/// A reduction of what a chain computes, in the same chain, with the maps behind it.
pub(crate) struct Tail {
    v: ValueId,
    maps: Vec<ValueId>,
    alu: AluOp,
    over: Over,
    home: Rc<Home>,
}

/// What a tail reduces.
enum Over {
    /// Segments of so many lanes.
    Lanes(u16),
    /// Vectors, so many of them that differ in coordinates along these axes; nothing else needs them.
    Vectors(u32, Vec<u8>),
}

impl Tail {
    /// How many vectors it makes one of, and the axes along which they lie; `None` where it reduces lanes.
    pub fn folded(&self) -> Option<(u32, &[u8])> {
        match &self.over {
            Over::Lanes(_) => None,
            Over::Vectors(n, axes) => Some((*n, axes)),
        }
    }

    /// The vector that holds the reduction of the vector with these base coordinates.
    pub fn at(&self, base: &[usize]) -> Result<At, CompileError> {
        let shape = &self.home.layout.shape;
        let c: Vec<usize> = base
            .iter()
            .zip(shape)
            .map(|(&c, &n)| if n == 1 { 0 } else { c })
            .collect();
        self.home.at(&c).map(|(buf, index, _)| (buf, index))
    }
}

impl Builder<'_> {
    /// The reduction that follows a map `out` in its own chains, if its lanes are all that is reduced. (Behind a product it would keep
    /// the lane-move unit for as long as the product takes.)
    pub fn tail(&mut self, out: ValueId, layout: &Layout) -> Option<Tail> {
        let chip = self.chip(out);
        let found = self.users[out.index()]
            .iter()
            .copied()
            .find_map(|u| match &self.ir.values[u].op {
                Op::Reduce { op, axes } if self.chip(u) == chip => Some((u, alu_op(*op), axes.clone())),
                _ => None,
            });
        let (v, alu, axes) = found?;
        let reduced = |a: u8| axes.contains(&a);
        let lanes: Vec<&LaneDigit> = layout.lanes.iter().filter(|d| d.extent > 1).collect();
        let n = lanes.iter().take_while(|d| d.axis.is_some_and(reduced)).count();
        let segment: usize = lanes[..n].iter().map(|d| d.extent).product();
        let all: usize = axes.iter().map(|&a| layout.shape[a as usize]).product();
        if segment < 2 || segment != all {
            return None;
        }
        self.tail_over(v, alu, layout, &axes, Over::Lanes(segment as u16))
    }

    /// The reduction of vectors that alone needs a product or the map behind it, `out`, where they lie in one buffer.
    pub fn fold(&mut self, out: ValueId, layout: &Layout) -> Option<Tail> {
        let &[v] = &self.users[out.index()][..] else {
            return None;
        };
        let Op::Reduce { op, axes } = &self.ir.values[v].op else {
            return None;
        };
        let (alu, axes) = (alu_op(*op), axes.clone());
        let in_lanes = |d: &LaneDigit| d.extent > 1 && d.axis.is_some_and(|a| axes.contains(&a));
        let n: usize = axes.iter().map(|&a| layout.shape[a as usize]).product();
        let apart = self.chip(v) != self.chip(out) || layout.n_parts() != 1 || layout.lanes.iter().any(in_lanes);
        if n < 2 || apart || self.is_observed(out) || self.dtype(out) != self.dtype(out).widened() {
            return None;
        }
        self.tail_over(v, alu, layout, &axes, Over::Vectors(n as u32, axes.clone()))
    }

    /// The reduction `v` over `axes` of what lies in `layout`, if the maps behind it are short and need nothing else.
    fn tail_over(&mut self, v: ValueId, alu: AluOp, layout: &Layout, axes: &[u8], over: Over) -> Option<Tail> {
        let maps = self.epilogue(v, TAIL_ALUS);
        if maps != self.epilogue(v, EPILOGUE_ALUS) || !self.operands(&maps, &[v]).is_empty() {
            return None;
        }
        let last = maps.last().copied().unwrap_or(v);
        let home = self.new_home(self.chip(v), self.dtype(last), reduced_layout(layout, axes), |_| {
            BufKind::Temp
        });
        Some(Tail {
            v,
            maps,
            alu,
            over,
            home,
        })
    }

    /// Nodes of a tail: reduces `result`, which a unit has computed in the dtype of `out`.
    pub fn emit_tail(
        &self,
        kernel: &mut Kernel,
        tail: &Tail,
        out: ValueId,
        result: NodeArg,
        at: (BufId, Affine),
        (hi, side): (u16, Option<Dir>),
    ) -> Result<(), CompileError> {
        let wide = self.dtype(out).widened();
        let x = match self.dtype(out) == wide {
            true => result,
            false => kernel.push(NodeOp::Alu(AluOp::Copy), wide, hi, vec![result]),
        };
        let op = match tail.over {
            Over::Lanes(segment) => NodeOp::Reduce {
                op: tail.alu,
                segment,
                hemi: side.unwrap_or(Dir::East),
            },
            Over::Vectors(..) => NodeOp::Fold {
                op: tail.alu,
                dims: 1,
                every: false,
            },
        };
        let sum = kernel.push(op, wide, hi, vec![x]);
        let all = kernel.dims;
        let mut to = at.1;
        if tail.folded().is_some() {
            kernel.dims = [all[1], all[2], 1];
            to.strides = [to.strides[1], to.strides[2], 0];
        }
        let last = tail.maps.last().copied().unwrap_or(tail.v);
        let sum = match tail.maps.is_empty() {
            true => self.as_result(kernel, sum, self.dtype(last), hi),
            false => self.emit_maps(kernel, &tail.maps, &[(tail.v, sum)], &[], hi)?,
        };
        kernel.write(sum, at.0, to, self.dtype(last), hi);
        kernel.dims = all;
        Ok(())
    }

    /// Records that a tail is done.
    pub fn finish_tail(&mut self, tail: Option<Tail>) {
        if let Some(Tail { v, mut maps, home, .. }) = tail {
            let last = maps.last().copied().unwrap_or(v);
            maps.push(v);
            self.finish(&maps, last, home);
        }
    }

    /// A reduce and the maps that follow it.
    pub fn lower_reduce(&mut self, v: ValueId) -> Result<(), CompileError> {
        let data = &self.ir.values[v];
        let Op::Reduce { op, axes } = &data.op else {
            return Ok(());
        };
        let (alu, axes, u) = (alu_op(*op), axes.clone(), data.inputs[0]);
        let chip = self.chip(v);
        let in_dtype = self.dtype(u);
        let mapped = self.mapped_operands(u);
        let home = self.reducible_home(mapped.first().copied().unwrap_or(u), &axes)?;
        let others = mapped
            .iter()
            .skip(1)
            .filter_map(|&w| Some((w, self.homes[w.index()].clone()?)));
        let operands = mapped.first().map(|&w| (w, home.clone())).into_iter().chain(others);
        let prologue = Some(Prologue {
            map: u,
            operands: operands.collect(),
        });
        let prologue = prologue.as_ref().filter(|p| !p.operands.is_empty());
        let from = &home.layout;
        let reduced = |a: u8| axes.contains(&a);
        let segment: usize = from
            .lanes
            .iter()
            .filter(|d| d.axis.is_some_and(reduced))
            .map(|d| d.extent)
            .product();
        // Reduced lanes outside the others: groups of lanes are brought over each other one by one.
        let groups = outer_groups(from, &axes);
        let layout = reduced_layout(from, &axes);
        let mut maps = self.epilogue(v, EPILOGUE_ALUS);
        let out = maps.last().copied().unwrap_or(v);
        let out_home = self.new_home(chip, self.dtype(out), layout.clone(), |_| BufKind::Temp);
        for (p, part) in out_home.parts.iter().enumerate() {
            let Some(dest) = out_home.bufs[p] else { continue };
            let side = part.side;
            let mut sources = self.operand_sources(&maps, &[v], &layout, chip, side)?;
            let bases = layout.bases(part);
            let mut steps = Vec::new();
            for base in &bases {
                steps.push(inner_boxes(&home, base, &axes)?);
            }
            let mut start = 0;
            while start < steps.len() {
                let shape: Vec<&Inner> = steps[start].iter().map(|s| &s.0).collect();
                let same =
                    |s: &Vec<(Inner, u32)>| s.len() == shape.len() && s.iter().zip(&shape).all(|(a, b)| a.0 == **b);
                let end = steps[start..]
                    .iter()
                    .position(|s| !same(s))
                    .map_or(steps.len(), |n| start + n);
                let inner: Vec<Inner> = steps[start].iter().map(|s| s.0.clone()).collect();
                let mut tracks: Vec<Vec<At>> = vec![(start..end).map(|i| (dest, i as u32)).collect()];
                for (k, i) in inner.iter().enumerate() {
                    tracks.push(steps[start..end].iter().map(|s| (i.buf, s[k].1)).collect());
                }
                let operands = self.operand_tracks(&mut sources, &layout, &bases[start..end], &tracks[1..])?;
                tracks.extend(operands);
                let n_inner = inner.iter().map(Inner::n_dims).max().unwrap_or(0);
                let volume = inner.iter().map(|i| i.dims[0] * i.dims[1]).max().unwrap_or(1) as usize;
                let n_dims = if groups > 1 { 2 } else { 3 }.min(3 - n_inner);
                for piece in fit(&tracks, (MOST / volume).max(1), n_dims) {
                    let (mut kernel, mut acc) = self.combine(
                        chip,
                        alu,
                        (in_dtype, prologue),
                        &inner,
                        &piece.at[1..],
                        piece.dims,
                        part.hi,
                        side,
                    )?;
                    let hi = part.hi as u16;
                    if groups > 1 {
                        (kernel, acc) =
                            self.fold_groups(chip, alu, kernel, acc, in_dtype, piece.dims, hi, groups, side);
                    } else if segment > 1 {
                        let narrow =
                            matches!(acc, NodeArg::Node { node, .. } if kernel.nodes[node as usize].dtype.bytes() < 4);
                        if narrow {
                            acc = kernel.push(NodeOp::Alu(AluOp::Copy), in_dtype.widened(), hi, vec![acc]);
                        }
                        let hemi = side.unwrap_or(Dir::East);
                        let op = NodeOp::Reduce {
                            op: alu,
                            segment: segment as u16,
                            hemi,
                        };
                        acc = kernel.push(op, in_dtype.widened(), hi, vec![acc]);
                    }
                    let reads = self.read_operands(&mut kernel, &sources, &piece.at[1 + inner.len()..]);
                    let result = if maps.is_empty() {
                        self.as_result(&mut kernel, acc, self.dtype(v), hi)
                    } else {
                        self.emit_maps(&mut kernel, &maps, &[(v, acc)], &reads, hi)?
                    };
                    kernel.write(result, dest, piece.at[0].1, self.dtype(out), hi);
                    self.add_chain(chip, kernel.nodes);
                }
                start = end;
            }
        }
        maps.push(v);
        self.finish(&maps, out, out_home);
        Ok(())
    }

    /// Nodes that combine the vectors of all sources into one per result; partial results of many sources go through
    /// temporaries.
    #[allow(clippy::too_many_arguments)]
    fn combine(
        &mut self,
        chip: u16,
        alu: AluOp,
        (dtype, prologue): (DType, Option<&Prologue>),
        inner: &[Inner],
        at: &[(BufId, Affine)],
        dims: [u32; 3],
        hi: usize,
        side: Option<Dir>,
    ) -> Result<(Kernel, NodeArg), CompileError> {
        let hi = hi as u16;
        let wide = dtype.widened();
        let most = if prologue.is_some() { MAPPED_SOURCES } else { SOURCES };
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (k, i) in inner.iter().enumerate() {
            match groups.last_mut() {
                Some(g) if g.len() < most && inner[g[0]].dims == i.dims && g.iter().all(|&j| inner[j].buf != i.buf) => {
                    g.push(k);
                }
                _ => groups.push(vec![k]),
            }
        }
        let mut temps = Vec::new();
        let mut last = None;
        let n_groups = groups.len();
        for group in groups {
            let mut kernel = Kernel::new(dims);
            let mut acc: Option<NodeArg> = None;
            for k in group {
                let x = self.read_folded(&mut kernel, alu, (dtype, prologue), &inner[k], at[k], dims, hi)?;
                acc = Some(match acc {
                    None => x,
                    Some(a) => kernel.push(NodeOp::Alu(alu), wide, hi, vec![a, x]),
                });
            }
            let acc = acc.unwrap_or(NodeArg::Imm(0));
            if n_groups == 1 {
                last = Some((kernel, acc));
            } else {
                let (buf, affine) = self.temp(chip, wide, dims, hi, side);
                let result = self.as_result(&mut kernel, acc, wide, hi);
                kernel.write(result, buf, affine, wide, hi);
                self.add_chain(chip, kernel.nodes);
                temps.push(buf);
            }
        }
        if let Some(done) = last {
            return Ok(done);
        }
        // Combine the partial results, a few at a time.
        while temps.len() > SOURCES {
            let some: Vec<BufId> = temps.drain(..SOURCES).collect();
            let (mut kernel, acc) = combine_temps(alu, wide, &some, dims, hi);
            let (buf, affine) = self.temp(chip, wide, dims, hi, side);
            kernel.write(acc, buf, affine, wide, hi);
            self.add_chain(chip, kernel.nodes);
            temps.insert(0, buf);
        }
        Ok(combine_temps(alu, wide, &temps, dims, hi))
    }

    /// Reads one source, mapped, folded over its inner dimensions.
    #[allow(clippy::too_many_arguments)]
    fn read_folded(
        &self,
        kernel: &mut Kernel,
        alu: AluOp,
        (dtype, prologue): (DType, Option<&Prologue>),
        inner: &Inner,
        at: (BufId, Affine),
        dims: [u32; 3],
        hi: u16,
    ) -> Result<NodeArg, CompileError> {
        let n = inner.n_dims();
        let (mut all, mut strides) = (dims, at.1.strides);
        if n > 0 {
            for d in (n..3).rev() {
                all[d] = dims[d - n];
                strides[d] = at.1.strides[d - n];
            }
            all[..n].copy_from_slice(&inner.dims[..n]);
            strides[..n].copy_from_slice(&inner.strides[..n]);
        }
        let affine = Affine {
            base: at.1.base,
            strides,
        };
        let read = |kernel: &mut Kernel, buf: BufId| {
            let b = &self.prog.bufs[buf];
            kernel.push_dims(NodeOp::Read(buf, affine), b.dtype, all, b.lo, b.hi, Vec::new())
        };
        let mut x = read(kernel, at.0);
        if let Some(prologue) = prologue {
            let outer = std::mem::replace(&mut kernel.dims, all);
            let mut reads = Vec::with_capacity(prologue.operands.len());
            for (n, (operand, _)) in prologue.operands.iter().enumerate() {
                let x = match (n, prologue.buf(n, at.0)) {
                    (0, _) => x,
                    (_, Some(buf)) => read(kernel, buf),
                    _ => return Err(CompileError::internal("chains", format!("{operand} has no vector"))),
                };
                reads.push((Operand::Value(*operand), x));
            }
            x = self.emit_maps(kernel, &[prologue.map], &[], &reads, hi)?;
            kernel.dims = outer;
        }
        if n == 0 {
            return Ok(x);
        }
        let fold = NodeOp::Fold {
            op: alu,
            dims: n as u8,
            every: false,
        };
        Ok(kernel.push_dims(fold, dtype.widened(), all, 0, hi, vec![x]))
    }

    /// The operands of a map that its only user, a reduction, computes on the way; none where it does not.
    pub fn mapped_operands(&self, v: ValueId) -> Vec<ValueId> {
        let [r] = self.users[v.index()][..] else {
            return Vec::new();
        };
        let (Op::Map { .. }, Op::Reduce { axes, .. }) = (&self.ir.values[v].op, &self.ir.values[r].op) else {
            return Vec::new();
        };
        let apart = self.chip(r) != self.chip(v) || self.homes[v.index()].is_some() || self.is_observed(v);
        let operands = self.operands(&[v], &[]).into_iter().map(|o| match o {
            Operand::Value(w) => Some(w),
            Operand::Iota(_) => None,
        });
        let (false, Some(operands)) = (apart, operands.collect::<Option<Vec<_>>>()) else {
            return Vec::new();
        };
        let home = |w: &ValueId| {
            let alike = !self.is_const(*w) && self.chip(*w) == self.chip(v) && self.shape(*w) == self.shape(v);
            self.homes[w.index()].as_ref().filter(|_| alike)
        };
        let homes: Option<Vec<_>> = operands.iter().map(home).collect();
        let Some([first, others @ ..]) = homes.as_deref() else {
            return Vec::new();
        };
        let few = first.parts.iter().all(|p| p.n_vectors() <= MAPPED_VECTORS) && operands.len() <= MAPPED_OPERANDS;
        let alike = others.iter().all(|o| o.layout == first.layout) && is_reducible(&first.layout, axes);
        let most = MAPPED_ALUS + others.len() as u32;
        match (others.is_empty() || few && alike) && self.alu_cost(v) <= most {
            true => operands,
            false => Vec::new(),
        }
    }

    /// Combines `n` equal groups of lanes into each of them: `acc` goes through SRAM, is read once per group with that group's
    /// lanes moved into all, and folded.
    #[allow(clippy::too_many_arguments)]
    fn fold_groups(
        &mut self,
        chip: u16,
        alu: AluOp,
        mut kernel: Kernel,
        acc: NodeArg,
        dtype: DType,
        dims: [u32; 3],
        hi: u16,
        n: usize,
        side: Option<Dir>,
    ) -> (Kernel, NodeArg) {
        let wide = dtype.widened();
        kernel.dims = dims;
        let (temp, at) = self.temp(chip, wide, dims, hi, side);
        let result = self.as_result(&mut kernel, acc, wide, hi);
        kernel.write(result, temp, at, wide, hi);
        self.add_chain(chip, kernel.nodes);
        let width = hi as usize / n;
        let maps =
            (0..n).flat_map(|g| (0..hi as usize).flat_map(move |l| ((g * width + l % width) as u16).to_le_bytes()));
        let maps = self.prog.bufs.push(crate::chain::Buf {
            chip,
            dtype: DType::U16,
            n_vectors: n as u32,
            lo: 0,
            hi,
            kind: BufKind::Rows(maps.collect::<Vec<u8>>().into()),
            side,
        });
        let mut kernel = Kernel::new([n as u32, dims[0], dims[1]]);
        let stepped = Affine {
            base: 0,
            strides: [0, at.strides[0], at.strides[1]],
        };
        let x = kernel.read(temp, stepped, wide, 0, hi);
        let along = Affine {
            base: 0,
            strides: [1, 0, 0],
        };
        let map = kernel.read(maps, along, DType::U16, 0, hi);
        let hemi = side.unwrap_or(Dir::East);
        let x = kernel.push(NodeOp::Permute { fill: 0, hemi }, wide, hi, vec![x, map]);
        let op = NodeOp::Fold {
            op: alu,
            dims: 1,
            every: false,
        };
        let sum = kernel.push(op, wide, hi, vec![x]);
        kernel.dims = dims;
        (kernel, sum)
    }

    /// A home of `u` whose lanes can be reduced.
    fn reducible_home(&mut self, u: ValueId, axes: &[u8]) -> Result<Rc<Home>, CompileError> {
        let home = self.any_home(u)?;
        let reduced = |a: u8| axes.contains(&a);
        if is_reducible(&home.layout, axes) {
            return Ok(home);
        }
        let shape = self.shape(u).to_vec();
        let last_is_reduced = shape.iter().rposition(|&n| n > 1).is_some_and(|a| reduced(a as u8));
        let order: Vec<usize> = (0..shape.len())
            .rev()
            .filter(|&a| reduced(a as u8) == last_is_reduced)
            .collect();
        let rows = self.rows(u);
        let mut lanes = self.lanes();
        if let (true, Some(&a)) = (last_is_reduced, order.iter().find(|&&a| shape[a] > 1)) {
            // Equal pieces only.
            lanes = (1..=lanes.min(shape[a]))
                .rev()
                .find(|&p| shape[a].is_multiple_of(p))
                .unwrap_or(1);
        }
        let want = with_lanes(&shape, &order, lanes, &rows, |_| false);
        self.relayout(u, &want)
    }
}

/// Whether lanes of vectors that lie so can be reduced: reduced lane digits innermost, and no piece of a reduced axis cut short.
fn is_reducible(layout: &Layout, axes: &[u8]) -> bool {
    if outer_groups(layout, axes) > 1 {
        return true;
    }
    let reduced = |a: u8| axes.contains(&a);
    let lanes: Vec<&LaneDigit> = layout.lanes.iter().filter(|d| d.extent > 1).collect();
    let n = lanes.iter().take_while(|d| d.axis.is_some_and(reduced)).count();
    let innermost = lanes[n..].iter().all(|d| !d.axis.is_some_and(reduced));
    let cut = lanes[..n].iter().any(|d| {
        d.axis
            .is_some_and(|a| !layout.shape[a as usize].is_multiple_of(d.extent))
    });
    innermost && !cut
}

/// The layout of the result of a reduction over `axes`: replicas in the reduced lanes, reduced vector digits gone.
fn reduced_layout(from: &Layout, axes: &[u8]) -> Layout {
    let shape: Vec<usize> = from
        .shape
        .iter()
        .enumerate()
        .map(|(a, &n)| if axes.contains(&(a as u8)) { 1 } else { n })
        .collect();
    from.restrict(&shape)
}

/// Number of groups of lanes to combine where the reduced digits are all outside the others, more than one vector's lanes
/// whole; 1 elsewhere.
fn outer_groups(layout: &Layout, axes: &[u8]) -> usize {
    let reduced = |d: &&LaneDigit| d.axis.is_some_and(|a| axes.contains(&a));
    let lanes: Vec<&LaneDigit> = layout.lanes.iter().filter(|d| d.extent > 1).collect();
    let kept = lanes.iter().take_while(|d| !reduced(d)).count();
    let even = |d: &LaneDigit| {
        let n = d.axis.map_or(1, |a| layout.shape[a as usize]);
        n.is_multiple_of(d.div.max(1) * d.extent)
    };
    if kept == 0 || !lanes[kept..].iter().all(|d| reduced(d) && even(d)) {
        return 1;
    }
    lanes[kept..].iter().map(|d| d.extent).product()
}

/// The boxes of vectors that are reduced into the result at `base`, each with its first vector.
fn inner_boxes(home: &Home, base: &[usize], axes: &[u8]) -> Result<Vec<(Inner, u32)>, CompileError> {
    let layout = &home.layout;
    // Coordinates in lane 0.
    let starts = |a: u8, x: usize| {
        let mut digits = layout.lanes.iter().filter(|d| d.axis == Some(a));
        digits.all(|d| (x / d.div).is_multiple_of(d.extent))
    };
    let mut coords = vec![base.to_vec()];
    for &a in axes {
        let n = layout.shape[a as usize];
        coords = coords
            .into_iter()
            .flat_map(|c| {
                (0..n).filter(move |&x| starts(a, x)).map(move |x| {
                    let mut c = c.clone();
                    c[a as usize] = x;
                    c
                })
            })
            .collect();
    }
    let mut track = Vec::new();
    for c in &coords {
        let (buf, index, _) = home.at(c)?;
        track.push((buf, index));
    }
    Ok(fit_by_buffers(&[track], usize::MAX, 2)
        .into_iter()
        .map(|p| {
            let (buf, at) = p.at[0];
            (
                Inner {
                    buf,
                    dims: [p.dims[0], p.dims[1]],
                    strides: [at.strides[0], at.strides[1]],
                },
                at.base,
            )
        })
        .collect())
}

/// Nodes that combine temporaries.
fn combine_temps(alu: AluOp, wide: DType, temps: &[BufId], dims: [u32; 3], hi: u16) -> (Kernel, NodeArg) {
    let mut kernel = Kernel::new(dims);
    let mut acc: Option<NodeArg> = None;
    for &t in temps {
        let x = kernel.read(t, dense(dims), wide, 0, hi);
        acc = Some(match acc {
            None => x,
            Some(a) => kernel.push(NodeOp::Alu(alu), wide, hi, vec![a, x]),
        });
    }
    (kernel, acc.unwrap_or(NodeArg::Imm(0)))
}

fn alu_op(op: ReduceOp) -> AluOp {
    match op {
        ReduceOp::Add => AluOp::Add,
        ReduceOp::Mul => AluOp::Mul,
        ReduceOp::Min => AluOp::Min,
        ReduceOp::Max => AluOp::Max,
    }
}
