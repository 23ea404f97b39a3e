//! Elementwise chains, and the maps that other chains take in as their epilogue.

use super::fit::{At, fit_by_buffers};
use super::moves::Kernel;
use super::source::Source;
use super::{Builder, Home};
use crate::chain::contents::Constant;
use crate::chain::{Affine, BufId, BufKind, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::Layout;
use crate::layout::choose::{default_layout, with_lanes};
use crate::tir::eval::alu;
use crate::tir::op::compute_dtype;
use crate::tir::{Arg, Op, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::{AluOp, DType, Dir};
use std::rc::Rc;
use std::sync::Arc;

/// Most steps of one elementwise chain.
const MOST: usize = 2048;

/// Most ALUs that an epilogue takes, so that both hemispheres' chains run at the same time.
pub(crate) const EPILOGUE_ALUS: u32 = 8;

/// Most operands that an epilogue reads, and that a map with its epilogue reads.
const EPILOGUE_OPERANDS: usize = 4;
const MAP_OPERANDS: usize = 6;

/// Most operands for which constants lie in the hemisphere of the values.
const SAME_SIDE: usize = 4;

/// Most vectors of an operand that gets a copy in each hemisphere.
const SHARED: usize = 16;

/// What a chain of maps reads besides the result it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    Value(ValueId),
    /// The coordinate along this axis.
    Iota(u8),
}

/// Operands with the vectors that hold them, for one hemisphere.
pub(crate) type Sources = Vec<(Operand, Vec<usize>, Source)>;

impl Builder<'_> {
    /// ALUs that a map takes.
    pub fn alu_cost(&self, v: ValueId) -> u32 {
        match &self.ir.values[v].op {
            Op::Map { nodes } => nodes
                .iter()
                .filter(|n| n.op != AluOp::Iota)
                .map(|n| n.op.cost() as u32)
                .sum::<u32>()
                .max(1),
            _ => 0,
        }
    }

    /// Whether a value must exist although a single operation uses it.
    pub fn is_observed(&self, v: ValueId) -> bool {
        self.ir.is_observed(v)
    }

    /// The maps that can follow `root` in its own chain: each the only user of the one before, with operands that are ready.
    pub fn epilogue(&self, root: ValueId, budget: u32) -> Vec<ValueId> {
        let mut maps = Vec::new();
        let (mut last, mut cost) = (root, 0);
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            let mut users = self.users[last.index()].clone();
            users.dedup();
            let [user] = users[..] else { break };
            if self.is_observed(last)
                || !matches!(self.ir.values[user].op, Op::Map { .. })
                || self.shape(user) != self.shape(root)
                || self.chip(user) != self.chip(root)
            {
                break;
            }
            cost += self.alu_cost(user);
            let more = self.operands(&[user], &[last]);
            operands.extend(
                more.iter()
                    .filter(|o| !operands.contains(o))
                    .copied()
                    .collect::<Vec<_>>(),
            );
            let ready = more.iter().all(|o| match o {
                Operand::Value(v) => self.is_ready(*v),
                Operand::Iota(_) => true,
            });
            if cost > budget || operands.len() > EPILOGUE_OPERANDS || !ready {
                break;
            }
            maps.push(user);
            last = user;
        }
        maps
    }

    /// What the maps read besides each other and `hot`.
    pub fn operands(&self, maps: &[ValueId], hot: &[ValueId]) -> Vec<Operand> {
        let mut out = Vec::new();
        for &m in maps {
            let data = &self.ir.values[m];
            let Op::Map { nodes } = &data.op else { continue };
            for n in nodes {
                let found = if n.op == AluOp::Iota {
                    vec![Operand::Iota(n.axis)]
                } else {
                    let args = n.args[..n.op.arity()].iter();
                    args.filter_map(|a| match a {
                        Arg::Operand(i) => data.inputs.get(*i as usize).copied(),
                        _ => None,
                    })
                    .filter(|v| !hot.contains(v) && !maps.contains(v))
                    .map(Operand::Value)
                    .collect()
                };
                for o in found {
                    if !out.contains(&o) {
                        out.push(o);
                    }
                }
            }
            if nodes.is_empty() {
                out.extend(
                    data.inputs
                        .first()
                        .filter(|v| !hot.contains(v))
                        .map(|&v| Operand::Value(v)),
                );
            }
        }
        out
    }

    /// The vectors of the maps' operands for results in `layout`.
    pub fn operand_sources(
        &mut self,
        maps: &[ValueId],
        hot: &[ValueId],
        layout: &Layout,
        chip: u16,
        side: Option<Dir>,
    ) -> Result<Sources, CompileError> {
        let mut out = Vec::new();
        let operands = self.operands(maps, hot);
        let values_side = side;
        // Where there are many, constants come from the other hemisphere, over the belts that the values leave free.
        let side = if operands.len() > SAME_SIDE {
            side.map(Dir::flip)
        } else {
            side
        };
        for operand in operands {
            let (shape, source) = match operand {
                Operand::Value(v) => {
                    let shape = self.shape(v).to_vec();
                    let want = layout.restrict(&shape);
                    let mut source = self.source(v, &want, chip, side)?;
                    // What both hemispheres read all the time, each reads from a bank of its own.
                    let shared = want.side.is_none() && layout.side.is_some() && !self.is_const(v);
                    if shared && values_side == Some(Dir::West) && want.n_vectors() <= SHARED {
                        source = Source::Home(self.copy_beside(v, &want, Dir::West)?);
                    }
                    (shape, source)
                }
                Operand::Iota(axis) => {
                    let mut shape = vec![1; layout.shape.len()];
                    let n = layout.shape[axis as usize];
                    shape[axis as usize] = n;
                    let bytes: Vec<u8> = (0..n as i32).flat_map(i32::to_le_bytes).collect();
                    let iota = Arc::new(Constant::Given(bytes));
                    let home = self.const_from(iota, DType::I32, chip, side, &layout.restrict(&shape));
                    (shape, Source::Home(home))
                }
            };
            out.push((operand, shape, source));
        }
        Ok(out)
    }

    /// Operands of which the small constants have buffers of their own: for another matrix unit, which reads them at the same time.
    pub fn own_copies(&mut self, sources: &Sources) -> Sources {
        let mut own = sources.clone();
        for (_, _, source) in &mut own {
            let Source::Home(home) = source else { continue };
            let small = |b: &BufId| {
                let buf = &self.prog.bufs[*b];
                matches!(buf.kind, BufKind::Rows(_)) && buf.n_vectors as usize <= SHARED
            };
            if home.bufs.iter().flatten().all(small) {
                let mut copy = (**home).clone();
                for buf in copy.bufs.iter_mut().flatten() {
                    let data = self.prog.bufs[*buf].clone();
                    *buf = self.prog.bufs.push(data);
                }
                *source = Source::Home(Rc::new(copy));
            }
        }
        own
    }

    /// The tracks of the operands over vectors with these base coordinates, none in the same buffer at the same step as another
    /// (unless they are the same track) or as one of `busy`: a bank serves one read at a time. An operand in the way of
    /// another is copied, and `sources` then names the copy.
    pub fn operand_tracks(
        &mut self,
        sources: &mut Sources,
        layout: &Layout,
        bases: &[Vec<usize>],
        busy: &[Vec<At>],
    ) -> Result<Vec<Vec<At>>, CompileError> {
        let mut tracks: Vec<Vec<At>> = Vec::with_capacity(sources.len());
        for (operand, shape, source) in sources.iter_mut() {
            let mut track = track(source, shape, bases)?;
            let apart =
                |a: &Vec<At>, b: &Vec<At>, same: bool| a.iter().zip(b).all(|(x, y)| x.0 != y.0 || same && x == y);
            let free = |track: &Vec<At>| {
                busy.iter().all(|b| apart(b, track, false)) && tracks.iter().all(|t| apart(t, track, true))
            };
            let most = track.iter().filter_map(|at| self.twins.get(&at.0)).map(Vec::len).max();
            let twin = (0..=most.unwrap_or(0)).map(|n| self.twin(&track, n)).find(free);
            if let Some(twin) = twin {
                track = twin;
            } else if let Operand::Value(v) = operand {
                let want = layout.restrict(shape);
                *source = Source::Home(self.relayout(*v, &want)?);
                track = self::track(source, shape, bases)?;
            }
            tracks.push(track);
        }
        Ok(tracks)
    }

    /// The same vectors in the `n`-th copy of each buffer that has copies; 0 is the buffer itself.
    fn twin(&self, track: &[At], n: usize) -> Vec<At> {
        track
            .iter()
            .map(|&(buf, index)| (self.twin_of(buf, n), index))
            .collect()
    }

    /// Reads of operands: one node per distinct address.
    pub fn read_operands(
        &self,
        kernel: &mut Kernel,
        sources: &Sources,
        at: &[(BufId, Affine)],
    ) -> Vec<(Operand, NodeArg)> {
        let mut reads: Vec<(Operand, NodeArg)> = Vec::new();
        for (n, (operand, _, _)) in sources.iter().enumerate() {
            let (buf, affine) = at[n];
            let arg = match at[..n].iter().position(|a| *a == at[n]) {
                Some(same) => reads[same].1,
                None => {
                    let b = &self.prog.bufs[buf];
                    kernel.read(buf, affine, b.dtype, b.lo, b.hi)
                }
            };
            reads.push((*operand, arg));
        }
        reads
    }

    /// ALU nodes of the maps; the result is an ALU node of the last map's dtype (or the first of `hot` itself without maps).
    pub fn emit_maps(
        &self,
        kernel: &mut Kernel,
        maps: &[ValueId],
        hot: &[(ValueId, NodeArg)],
        reads: &[(Operand, NodeArg)],
        hi: u16,
    ) -> Result<NodeArg, CompileError> {
        let mut values: Vec<(ValueId, NodeArg)> = hot.to_vec();
        let mut result = hot.first().map_or(NodeArg::Imm(0), |h| h.1);
        for &m in maps {
            let data = &self.ir.values[m];
            let Op::Map { nodes } = &data.op else { continue };
            let lookup = |o: Operand| {
                reads.iter().find(|r| r.0 == o).map(|r| r.1).or_else(|| match o {
                    Operand::Value(v) => values.iter().find(|x| x.0 == v).map(|x| x.1),
                    Operand::Iota(_) => None,
                })
            };
            let missing = || CompileError::internal("chains", format!("operand of {m} has no vector"));
            let mut results: Vec<NodeArg> = Vec::new();
            let dtypes: Vec<DType> = data.inputs.iter().map(|&v| self.dtype(v)).collect();
            for (at, n) in nodes.iter().enumerate() {
                if n.op == AluOp::Iota {
                    results.push(lookup(Operand::Iota(n.axis)).ok_or_else(missing)?);
                    continue;
                }
                let mut args = Vec::new();
                for a in &n.args[..n.op.arity()] {
                    args.push(match a {
                        Arg::Operand(i) => {
                            let v = data.inputs.get(*i as usize).copied().ok_or_else(missing)?;
                            lookup(Operand::Value(v)).ok_or_else(missing)?
                        }
                        Arg::Node(i) => results.get(*i as usize).copied().ok_or_else(missing)?,
                        Arg::Imm(bits) => NodeArg::Imm(*bits),
                    });
                }
                // What is computed from immediates alone is one.
                let mut bits = [0; 3];
                let constant = bits.iter_mut().zip(&args).all(|(slot, arg)| match arg {
                    NodeArg::Imm(value) => {
                        *slot = *value;
                        true
                    }
                    NodeArg::Node { .. } => false,
                });
                if constant {
                    results.push(NodeArg::Imm(alu(
                        n.op,
                        compute_dtype(nodes, at, &dtypes),
                        n.dtype,
                        bits,
                    )));
                    continue;
                }
                results.push(kernel.push(NodeOp::Alu(n.op), n.dtype, hi, args));
            }
            result = match results.last() {
                Some(r) => *r,
                None => lookup(Operand::Value(*data.inputs.first().ok_or_else(missing)?)).ok_or_else(missing)?,
            };
            values.push((m, result));
        }
        let Some(&last) = maps.last() else { return Ok(result) };
        Ok(self.as_result(kernel, result, self.dtype(last), hi))
    }

    /// Makes sure that a result comes from a unit (not from a read or an immediate) and has this dtype.
    pub fn as_result(&self, kernel: &mut Kernel, arg: NodeArg, dtype: DType, hi: u16) -> NodeArg {
        let NodeArg::Node { node, .. } = arg else {
            // An immediate is in all lanes.
            return kernel.push(NodeOp::Alu(AluOp::Copy), dtype, self.lanes() as u16, vec![arg]);
        };
        let (from, is_read, dims) = {
            let n = &kernel.nodes[node as usize];
            let from = match n.op {
                NodeOp::Mul { .. } => n.dtype.widened(),
                _ => n.dtype,
            };
            (from, matches!(n.op, NodeOp::Read(..)), kernel.dims)
        };
        if from == dtype && !is_read {
            return arg;
        }
        let op = if from == dtype && dtype.bytes() == 4 {
            AluOp::Copy
        } else {
            AluOp::Cvt
        };
        kernel.push_dims(NodeOp::Alu(op), dtype, dims, 0, hi, vec![arg])
    }

    /// A result with no lanes beyond `hi`: what is the same in all lanes may come with more of them than `dest` has.
    fn trimmed(
        &mut self,
        kernel: &mut Kernel,
        arg: NodeArg,
        dtype: DType,
        (dest, side): (BufId, Option<Dir>),
        hi: u16,
    ) -> NodeArg {
        let NodeArg::Node { node, .. } = arg else { return arg };
        if kernel.nodes[node as usize].hi <= hi {
            return arg;
        }
        let ones: Vec<u8> = (0..hi).flat_map(|_| 1i32.to_le_bytes()).collect();
        let chip = self.prog.bufs[dest].chip;
        let ones = self.const_vector(Some(dest), chip, side, DType::I32, ones);
        let ones = kernel.read(ones, Affine::default(), DType::I32, 0, hi);
        let wide = kernel.push(NodeOp::Alu(AluOp::Select), dtype.widened(), hi, vec![ones, arg, arg]);
        self.as_result(kernel, wide, dtype, hi)
    }

    /// A map and the maps that follow it, as chains over the vectors of its result.
    pub fn lower_maps(&mut self, v: ValueId) -> Result<(), CompileError> {
        if !self.mapped_operands(v).is_empty() {
            return Ok(());
        }
        let budget = self.target.vxm.alus as u32;
        if self.alu_cost(v) > budget {
            return Err(CompileError::internal(
                "chains",
                format!("{v} needs more than {budget} ALUs"),
            ));
        }
        let mut maps = vec![v];
        for next in self.epilogue(v, (budget * 3 / 4).saturating_sub(self.alu_cost(v))) {
            maps.push(next);
            let (constant, other): (Vec<_>, Vec<_>) = self
                .operands(&maps, &[])
                .into_iter()
                .partition(|o| matches!(o, Operand::Value(v) if self.is_const(*v)));
            let planned = self.planned[v.index()].is_some() && self.prog.n_chips == 1;
            if other.len() > MAP_OPERANDS || constant.len() + if planned { 0 } else { other.len() } > MAP_OPERANDS {
                maps.pop();
                break;
            }
        }
        let out = *maps.last().unwrap_or(&v);
        let layout = self.leader_layout(v)?;
        let chip = self.chip(v);
        let home = self.result_home(out, &layout);
        let tail = self.tail(out, &layout);
        let mut by_side: Vec<(Option<Dir>, Sources)> = Vec::new();
        for (p, part) in home.parts.iter().enumerate() {
            let Some(dest) = home.bufs[p] else { continue };
            if !by_side.iter().any(|s| s.0 == part.side) {
                let sources = self.operand_sources(&maps, &[], &layout, chip, part.side)?;
                by_side.push((part.side, sources));
            }
            let Some((_, sources)) = by_side.iter_mut().find(|s| s.0 == part.side) else {
                continue;
            };
            let bases = layout.bases(part);
            let mut tracks: Vec<Vec<At>> = vec![(0..bases.len()).map(|i| (dest, i as u32)).collect()];
            tracks.extend(self.operand_tracks(sources, &layout, &bases, &[])?);
            if let Some(tail) = &tail {
                tracks.push(bases.iter().map(|c| tail.at(c)).collect::<Result<_, _>>()?);
            }
            let hi = part.hi as u16;
            for piece in fit_by_buffers(&tracks, MOST, 3) {
                let mut kernel = Kernel::new(piece.dims);
                let reads = self.read_operands(&mut kernel, sources, &piece.at[1..]);
                let result = self.emit_maps(&mut kernel, &maps, &[], &reads, hi)?;
                let result = self.trimmed(&mut kernel, result, self.dtype(out), (dest, part.side), hi);
                self.write_all(&mut kernel, result, dest, piece.at[0].1, self.dtype(out), hi);
                if let (Some(tail), Some(&at)) = (&tail, piece.at.last()) {
                    self.emit_tail(&mut kernel, tail, out, result, at, (hi, part.side))?;
                }
                self.add_chain(chip, kernel.nodes);
            }
        }
        self.finish(&maps, out, home);
        self.finish_tail(tail);
        Ok(())
    }

    /// Records the home of `out` and that all of `ops` are done.
    pub fn finish(&mut self, ops: &[ValueId], out: ValueId, home: Rc<Home>) {
        ops.iter().for_each(|o| self.done[o.index()] = true);
        self.homes[out.index()] = Some(home);
    }

    /// The layout of a map's result: that of an operand of the same shape which has one, else the default.
    fn leader_layout(&mut self, v: ValueId) -> Result<Layout, CompileError> {
        if let Some(layout) = &self.planned[v.index()] {
            return Ok(layout.clone());
        }
        let shape = self.shape(v).to_vec();
        let inputs = self.ir.values[v].inputs.clone();
        let same: Vec<ValueId> = inputs
            .into_iter()
            .filter(|&i| self.shape(i) == shape && !self.is_const(i))
            .collect();
        if let Some(home) = same.iter().find_map(|i| self.homes[i.index()].as_ref()) {
            return Ok(home.layout.clone());
        }
        if let Some(layout) = self.wanted[v.index()].as_ref().filter(|_| same.is_empty()) {
            return Ok(layout.clone());
        }
        let default = default_layout(&shape, self.lanes(), &self.rows(v));
        let Some(&lazy) = same.iter().find(|&&i| self.is_lazy(i)) else {
            return Ok(default);
        };
        // Lanes as the values behind the moves have them, so that vectors are copied and not permuted.
        let last = shape.len().saturating_sub(1);
        let last_only = with_lanes(&shape, &[last], self.lanes(), &self.rows(v), |_| false);
        let whole = !self.keeps_lanes(lazy, &default)? && self.keeps_lanes(lazy, &last_only)?;
        Ok(if whole { last_only } else { default })
    }
}

/// The vectors of an operand for results with these base coordinates.
fn track(source: &Source, shape: &[usize], bases: &[Vec<usize>]) -> Result<Vec<At>, CompileError> {
    let coordinate = |c: &Vec<usize>| {
        c.iter()
            .zip(shape)
            .map(|(&c, &n)| if n == 1 { 0 } else { c })
            .collect::<Vec<_>>()
    };
    bases.iter().map(|c| source.at(&coordinate(c))).collect()
}
