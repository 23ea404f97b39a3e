//! Moves that are carried out: relayout of any value, and any static re-arrangement, by lane permutes.
//!
//! Every vector of the destination is put together from the source vectors that hold its elements: one permute each, the
//! results added (an absent lane is -0, which adds exactly). Where the lanes agree, vectors are copied without a permute.

use super::fit::{At, fit, fit_by_buffers};
use super::source::Resolved;
use super::{Builder, Home};
use crate::chain::{Affine, BufId, BufKind, Node, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::choose::with_lanes;
use crate::layout::{Layout, Part};
use crate::tir::ValueId;
use lockstep_graph::EntityId;
use lockstep_isa::{AluOp, DType, Dir};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Steps of one chain.
const MOST: usize = 1024;

/// Chains in the order of the vectors against chains by buffers, from which the latter are taken.
const SCATTERED: usize = 4;

/// How one destination vector is made: what is the same for all vectors of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Recipe {
    /// Lane maps of the sources, in order; `None` for a whole vector copied as it is.
    pub maps: Vec<Option<Vec<u16>>>,
    /// Lanes that hold the fill.
    pub fill: Vec<(u16, u32)>,
}

/// Vectors that one chain puts together.
const MOST_SOURCES: usize = 4;
/// Most vectors of a chain that takes more banks to be done sooner.
const FEW: u32 = 16;

impl Builder<'_> {
    /// A copy of `v` in the wanted layout, kept for later users.
    pub fn relayout(&mut self, v: ValueId, want: &Layout) -> Result<Rc<Home>, CompileError> {
        let key = (v, want.clone());
        if let Some(home) = self.other_homes.get(&key) {
            return Ok(home.clone());
        }
        let home = match self.by_transposition(v, want)? {
            Some(home) => home,
            None => {
                let is_sent = self.transfers(v).next().is_some();
                let home = match is_sent {
                    true => self.result_home(v, want),
                    false => self.new_home(self.chip(v), self.dtype(v), want.clone(), |_| BufKind::Temp),
                };
                self.fill_home(v, &home)?;
                home
            }
        };
        self.other_homes.insert(key, home.clone());
        Ok(home)
    }

    /// A copy of `v` in the wanted layout, in this hemisphere.
    pub fn copy_beside(&mut self, v: ValueId, want: &Layout, side: Dir) -> Result<Rc<Home>, CompileError> {
        let key = (v, side, want.clone());
        if let Some(home) = self.side_homes.get(&key) {
            return Ok(home.clone());
        }
        let home = self.new_home(self.chip(v), self.dtype(v), want.clone(), |_| BufKind::Temp);
        for buf in home.bufs.iter().flatten() {
            self.prog.bufs[*buf].side = Some(side);
        }
        self.fill_home(v, &home)?;
        self.side_homes.insert(key, home.clone());
        Ok(home)
    }

    /// A move that its users read as a value of its own.
    pub fn carry_out(&mut self, v: ValueId) -> Result<(), CompileError> {
        // Windows over other axes than the last stay whole vectors if only the last has lanes.
        let last = self.shape(v).len().saturating_sub(1);
        let layout = with_lanes(self.shape(v), &[last], self.lanes(), &self.rows(v), |_| false);
        let home = self.new_home(self.chip(v), self.dtype(v), layout, |_| BufKind::Temp);
        self.forced[v.index()] = false;
        self.fill_home(v, &home)?;
        self.homes[v.index()] = Some(home);
        Ok(())
    }

    /// Chains that put the elements of `v` into new buffers.
    pub fn fill_home(&mut self, v: ValueId, home: &Home) -> Result<(), CompileError> {
        let chip = self.chip(v);
        for (p, part) in home.parts.iter().enumerate() {
            let Some(dest) = home.bufs[p] else { continue };
            let mut steps: Vec<(Recipe, Vec<At>)> = Vec::new();
            for base in home.layout.bases(part) {
                steps.push(self.recipe(v, home, &base, part)?);
            }
            let mut start = 0;
            while start < steps.len() {
                let recipe = steps[start].0.clone();
                let end = steps[start..]
                    .iter()
                    .position(|s| s.0 != recipe)
                    .map_or(steps.len(), |n| start + n);
                let mut tracks = vec![(start..end).map(|i| (dest, i as u32)).collect::<Vec<At>>()];
                for s in 0..recipe.maps.len() {
                    tracks.push(steps[start..end].iter().map(|(_, at)| at[s]).collect());
                }
                let in_order = fit(&tracks, MOST, 3);
                let by_buffers = fit_by_buffers(&tracks, MOST, 3);
                // Vectors whose buffers change all the time; else those come first that are wanted first.
                let scattered = by_buffers.len() * SCATTERED <= in_order.len();
                for piece in if scattered { by_buffers } else { in_order } {
                    self.move_chain(chip, &recipe, piece.dims, &piece.at, part.hi as u16, part.side);
                }
                start = end;
            }
        }
        Ok(())
    }

    /// The sources of one destination vector.
    fn recipe(
        &mut self,
        v: ValueId,
        home: &Home,
        base: &[usize],
        part: &Part,
    ) -> Result<(Recipe, Vec<At>), CompileError> {
        let (hi, few) = (part.hi, part.n_vectors() <= FEW as usize);
        let mut sources: BTreeMap<At, Vec<u16>> = BTreeMap::new();
        let mut fill = Vec::new();
        let mut lane = 0;
        while lane < hi {
            let mut c = base.to_vec();
            home.layout.add_lane(lane, &mut c);
            let (axis, most) = home.layout.lane_run(lane, hi);
            match self.resolve_run(v, &c, axis, most)? {
                (Resolved::Fill(bits), n) => {
                    fill.extend((lane..lane + n).map(|l| (l as u16, bits)));
                    lane += n;
                }
                (Resolved::Element(u, at), n) => {
                    let from = match (&self.homes[u.index()], self.is_const(u)) {
                        (Some(home), false) => home.clone(),
                        (_, true) => self.any_home(u)?,
                        _ => self.first_home(u, v, &home.layout)?,
                    };
                    let (buf, index, l, n) = from.run_at(&at, n)?;
                    // An element that all lanes hold is where it is wanted.
                    let repeated =
                        few && matches!(&from.layout.pattern()[..], [d] if d.axis.is_none() && d.extent >= hi);
                    let l = if repeated { lane as u16 } else { l };
                    let map = sources.entry((buf, index)).or_insert_with(|| vec![u16::MAX; hi]);
                    for (slot, l) in map[lane..lane + n].iter_mut().zip(l..) {
                        *slot = l;
                    }
                    lane += n;
                }
            }
        }
        let whole = |at: &At, map: &[u16]| {
            fill.is_empty()
                && self.prog.bufs[at.0].hi as usize == hi
                && map.iter().enumerate().all(|(i, &m)| i == m as usize)
        };
        let maps = sources
            .iter()
            .map(|(at, map)| if whole(at, map) { None } else { Some(map.clone()) })
            .collect();
        let at = sources.into_keys().collect();
        Ok((Recipe { maps, fill }, at))
    }

    /// One chain (or several, through temporaries) for a run of vectors with the same recipe. `at[0]` is the destination.
    pub fn move_chain(
        &mut self,
        chip: u16,
        recipe: &Recipe,
        dims: [u32; 3],
        at: &[(BufId, Affine)],
        hi: u16,
        side: Option<Dir>,
    ) {
        let dtype = self.prog.bufs[at[0].0].dtype;
        let mut kernel = Kernel::new(dims);
        let mut sum: Option<NodeArg> = None;
        let n = recipe.maps.len();
        let fill_bits = recipe.fill.first().map(|f| f.1);
        let one_fill = n == 1 && recipe.fill.iter().all(|f| Some(f.1) == fill_bits);
        let mut permutes = 0;
        let mut left: Vec<usize> = (0..n).collect();
        // Of a few vectors, what has its lanes already comes last, over the others; of many it would keep too many banks busy.
        let few = n > 1 && dims.iter().product::<u32>() <= FEW;
        let in_place = |s: usize| {
            let lanes = recipe.maps[s].iter().flatten().enumerate();
            let (lo, live) = (self.prog.bufs[at[s + 1].0].lo, self.prog.bufs[at[s + 1].0].hi);
            few && recipe.fill.is_empty()
                && lo == 0
                && live >= hi
                && lanes.clone().all(|(l, &m)| m == u16::MAX || m as usize == l)
        };
        let beside: Vec<bool> = (0..n).map(in_place).collect();
        left.sort_by_key(|&s| beside[s]);
        let mut used: Vec<BufId> = Vec::new();
        while !left.is_empty() {
            let free = left.iter().position(|&s| !used.contains(&at[s + 1].0));
            let moves = free.is_some_and(|f| !beside[left[f]]);
            if permutes == 2 && moves || used.len() == MOST_SOURCES && few || free.is_none() {
                // Both lane-move units are taken, or the bank is: what is there so far goes through SRAM.
                let temp = self.temp(chip, dtype, dims, hi, side);
                let arg = self.narrowed(&mut kernel, sum.take(), dtype, hi);
                kernel.write(arg, temp.0, temp.1, dtype, hi);
                self.add_chain(chip, kernel.nodes);
                kernel = Kernel::new(dims);
                sum = Some(kernel.read(temp.0, temp.1, dtype, 0, hi));
                permutes = 0;
                used.clear();
            }
            let s = left.remove(free.unwrap_or(0));
            let map = &recipe.maps[s];
            used.push(at[s + 1].0);
            let (buf, affine) = at[s + 1];
            let (lo, src_hi) = (self.prog.bufs[buf].lo, self.prog.bufs[buf].hi);
            let x = kernel.read(buf, affine, dtype, lo, src_hi);
            let y = match map {
                None => x,
                Some(map) if beside[s] => {
                    // The first is in all lanes until others come over it.
                    let acc = match sum {
                        Some(acc) => acc,
                        None if src_hi > hi => x,
                        None => {
                            sum = Some(x);
                            continue;
                        }
                    };
                    let ones = map.iter().flat_map(|&m| i32::from(m != u16::MAX).to_le_bytes());
                    let table = self.const_vector(Some(buf), chip, side, DType::I32, ones.collect());
                    let taken = kernel.read(table, Affine::default(), DType::I32, 0, hi);
                    let over = kernel.push(NodeOp::Alu(AluOp::Select), dtype.widened(), hi, vec![taken, x, acc]);
                    sum = Some(over);
                    continue;
                }
                Some(map) => {
                    let bytes = map.iter().flat_map(|m| m.to_le_bytes()).collect();
                    let hemi = if permutes == 0 {
                        side.unwrap_or(Dir::East)
                    } else {
                        side.unwrap_or(Dir::East).flip()
                    };
                    let table = self.const_vector(Some(buf), chip, Some(hemi), DType::U16, bytes);
                    let m = kernel.read(table, Affine::default(), DType::U16, 0, hi);
                    permutes += 1;
                    let fill = if one_fill {
                        fill_bits.unwrap_or(0)
                    } else {
                        minus_zero(dtype)
                    };
                    kernel.push(NodeOp::Permute { fill, hemi }, dtype, hi, vec![x, m])
                }
            };
            sum = Some(match sum {
                None => y,
                Some(acc) => kernel.push(NodeOp::Alu(AluOp::Add), dtype.widened(), hi, vec![acc, y]),
            });
        }
        if !recipe.fill.is_empty() && !one_fill {
            let mut bytes = Vec::new();
            for lane in 0..hi {
                let bits = recipe
                    .fill
                    .iter()
                    .find(|f| f.0 == lane)
                    .map_or(minus_zero(dtype), |f| f.1);
                bytes.extend_from_slice(&bits.to_le_bytes()[..dtype.bytes()]);
            }
            let table = self.const_vector(Some(at[0].0), chip, side, dtype, bytes);
            let f = kernel.read(table, Affine::default(), dtype, 0, hi);
            sum = Some(match sum {
                None => f,
                Some(acc) => kernel.push(NodeOp::Alu(AluOp::Add), dtype.widened(), hi, vec![acc, f]),
            });
        }
        let arg = self.narrowed(&mut kernel, sum, dtype, hi);
        self.write_all(&mut kernel, arg, at[0].0, at[0].1, dtype, hi);
        self.add_chain(chip, kernel.nodes);
    }

    /// The operand of a write: an ALU or lane-move result of the right dtype.
    fn narrowed(&self, kernel: &mut Kernel, arg: Option<NodeArg>, dtype: DType, hi: u16) -> NodeArg {
        let arg = arg.unwrap_or(NodeArg::Imm(0));
        let NodeArg::Node { node, .. } = arg else { return arg };
        match &kernel.nodes[node as usize] {
            n if matches!(n.op, NodeOp::Permute { .. }) => arg,
            n if n.dtype == dtype && !matches!(n.op, NodeOp::Read(..)) => arg,
            n if n.dtype == dtype && dtype.bytes() == 4 => kernel.push(NodeOp::Alu(AluOp::Copy), dtype, hi, vec![arg]),
            _ => kernel.push(NodeOp::Alu(AluOp::Cvt), dtype, hi, vec![arg]),
        }
    }

    /// A temporary buffer for one chain's results.
    pub fn temp(&mut self, chip: u16, dtype: DType, dims: [u32; 3], hi: u16, side: Option<Dir>) -> (BufId, Affine) {
        let n = dims.iter().product();
        let buf = self.prog.bufs.push(crate::chain::Buf {
            chip,
            dtype,
            n_vectors: n,
            lo: 0,
            hi,
            kind: BufKind::Temp,
            side,
        });
        (buf, dense(dims))
    }
}

/// The address that walks a buffer in issue order.
pub(crate) fn dense(dims: [u32; 3]) -> Affine {
    let s = |d: usize, v: u32| if dims[d] > 1 { v as i32 } else { 0 };
    Affine {
        base: 0,
        strides: [s(0, 1), s(1, dims[0]), s(2, dims[0] * dims[1])],
    }
}

/// Bits of -0 (of 0 for integers): what adds to anything without changing it.
pub(crate) fn minus_zero(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0x8000_0000,
        DType::F16 | DType::BF16 => 0x8000,
        _ => 0,
    }
}

/// Nodes of a chain under construction, all over the same dimensions.
pub(crate) struct Kernel {
    pub nodes: Vec<Node>,
    pub dims: [u32; 3],
}

impl Kernel {
    pub fn new(dims: [u32; 3]) -> Kernel {
        Kernel {
            nodes: Vec::new(),
            dims,
        }
    }

    /// Appends a node with live lanes `[0, hi)`.
    pub fn push(&mut self, op: NodeOp, dtype: DType, hi: u16, args: Vec<NodeArg>) -> NodeArg {
        self.push_dims(op, dtype, self.dims, 0, hi, args)
    }

    /// Appends a node. The live lanes of an ALU node are those that all its operands share, whatever `lo` and `hi` say.
    pub fn push_dims(
        &mut self,
        op: NodeOp,
        dtype: DType,
        dims: [u32; 3],
        lo: u16,
        hi: u16,
        args: Vec<NodeArg>,
    ) -> NodeArg {
        let shared = args.iter().filter_map(|a| match a {
            NodeArg::Node { node, .. } => self.nodes.get(*node as usize).map(|n| (n.lo, n.hi)),
            NodeArg::Imm(_) => None,
        });
        let shared = shared.reduce(|a, b| (a.0.max(b.0), a.1.min(b.1)));
        let (lo, hi) = match (&op, shared) {
            (NodeOp::Alu(_), Some(shared)) => shared,
            _ => (lo, hi),
        };
        self.nodes.push(Node {
            op,
            dtype,
            dims,
            lo,
            hi,
            args,
        });
        NodeArg::Node {
            node: self.nodes.len() as u32 - 1,
            first: 0,
        }
    }

    pub fn read(&mut self, buf: BufId, at: Affine, dtype: DType, lo: u16, hi: u16) -> NodeArg {
        self.push_dims(NodeOp::Read(buf, at), dtype, self.dims, lo, hi, Vec::new())
    }

    pub fn write(&mut self, arg: NodeArg, buf: BufId, at: Affine, dtype: DType, hi: u16) {
        self.push(NodeOp::Write(buf, at), dtype, hi, vec![arg]);
    }
}
