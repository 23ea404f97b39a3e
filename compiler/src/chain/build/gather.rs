//! Rows chosen at run time.
//!
//! A bank holds few rows, so a long table lies in several buffers. Each buffer but a single one ends in a row of -0; the index
//! relative to the buffer, taken as unsigned, is clamped to that row where it belongs elsewhere, and the results of all
//! buffers are added.

use super::fit::{At, fit};
use super::moves::{Kernel, dense, minus_zero};
use super::{Builder, Home};
use crate::chain::contents::{self, Picked};
use crate::chain::{Affine, BufId, BufKind, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::choose::{Rows, default_layout, with_lanes};
use crate::layout::{Layout, VecDigit};
use crate::tir::{ValueId, row_major};
use lockstep_isa::{AluOp, DType, Dir, Target};
use std::rc::Rc;
use std::sync::Arc;

/// Buffers gathered from in one chain, and index vectors made in one chain: these lie in the outermost groups.
const AT_ONCE: usize = 3;

/// Partial results added in one chain.
const ADDED_AT_ONCE: usize = 6;

/// A stretch of table rows in one buffer (for one piece of the lanes).
struct Stretch {
    buf: BufId,
    /// Vector of its first row, and vectors from row to row.
    base: u32,
    step: u32,
    first: usize,
    /// Rows that an index may reach: with the row of -0.
    limit: usize,
    side: Dir,
}

impl Builder<'_> {
    /// A gather of rows.
    pub fn lower_gather(&mut self, v: ValueId) -> Result<(), CompileError> {
        let (table, indices) = (self.ir.values[v].inputs[0], self.ir.values[v].inputs[1]);
        let chip = self.chip(v);
        let shape = self.shape(v).to_vec();
        let (table_shape, index_shape) = (self.shape(table).to_vec(), self.shape(indices).to_vec());
        let n_index = index_shape.len();
        // Result: lanes from the row, index axes count vectors.
        let order: Vec<usize> = (n_index..shape.len()).rev().collect();
        let limit = self.lanes() / 4;
        let layout = with_lanes(&shape, &order, self.lanes(), &self.rows(v), |used| used <= limit);
        let dtype = self.dtype(v);
        let home = self.new_home(chip, dtype, layout.clone(), |_| BufKind::Temp);
        // Pieces of a row: coordinates of lane 0 in the row's own axes.
        let mut pieces: Vec<Vec<usize>> = Vec::new();
        for part in &home.parts {
            for base in layout.bases(part) {
                let row = base[n_index..].to_vec();
                if !pieces.contains(&row) {
                    pieces.push(row);
                }
            }
        }
        let index_home = self.index_home(indices)?;
        // Indices relative to the stretches of a piece, which the other pieces share.
        let mut relative: Vec<Rc<Home>> = Vec::new();
        let mut made_for: Vec<(usize, Dir)> = Vec::new();
        for piece in pieces {
            let stretches = self.stretches(table, &table_shape, &layout, n_index, &piece, chip)?;
            let wanted: Vec<(usize, Dir)> = stretches.iter().map(|s| (s.first, s.side)).collect();
            if made_for != wanted {
                relative = self.relative_indices(chip, &index_home, &stretches, table_shape[0])?;
                made_for = wanted;
            }
            for (p, part) in home.parts.iter().enumerate() {
                let Some(dest) = home.bufs[p] else { continue };
                let bases = layout.bases(part);
                let steps: Vec<usize> = (0..bases.len()).filter(|&i| bases[i][n_index..] == piece[..]).collect();
                if steps.is_empty() {
                    continue;
                }
                let mut tracks: Vec<Vec<At>> = vec![steps.iter().map(|&i| (dest, i as u32)).collect()];
                for home in &relative {
                    let track = steps
                        .iter()
                        .map(|&i| home.at(&bases[i][..n_index]).map(|(b, i, _)| (b, i)));
                    tracks.push(track.collect::<Result<_, _>>()?);
                }
                for fitted in fit(&tracks, 1024, 3) {
                    self.gather_chains(
                        chip,
                        dtype,
                        &stretches,
                        &fitted.at,
                        fitted.dims,
                        part.hi as u16,
                        part.side,
                    );
                }
            }
        }
        self.finish(&[v], v, home);
        Ok(())
    }

    /// The indices, one vector each, in lane 0.
    pub fn index_home(&mut self, indices: ValueId) -> Result<Rc<Home>, CompileError> {
        let want = lane_zero(self.shape(indices));
        if self.is_const(indices) {
            let chip = self.chip(indices);
            return self.const_home(indices, chip, None, &want);
        }
        if !self.is_lazy(indices) {
            let home = self.home_or(indices, &want)?;
            if home.layout == want {
                return Ok(home);
            }
        }
        self.relayout(indices, &want)
    }

    /// The table rows of one piece of the lanes, in as many buffers as they need.
    fn stretches(
        &mut self,
        table: ValueId,
        shape: &[usize],
        result: &Layout,
        n_index: usize,
        piece: &[usize],
        chip: u16,
    ) -> Result<Vec<Stretch>, CompileError> {
        let dtype = self.dtype(table);
        let n = shape[0];
        // Lanes of the row as the result has them.
        let mut base = vec![0; n_index];
        base.extend_from_slice(piece);
        let at = result.locate(&base);
        let hi = result.part(at.part).hi;
        let lanes: Vec<Vec<usize>> = (0..hi)
            .map(|l| {
                let mut c = base.clone();
                result.add_lane(l, &mut c);
                c[n_index..].to_vec()
            })
            .collect();
        if !self.is_const(table) {
            return self.run_time_table(table, result, n_index, piece, n, hi);
        }
        let from = self.constant(table);
        let size = dtype.bytes();
        let strides = row_major(shape);
        let offsets = lanes
            .iter()
            .map(|c| c.iter().zip(&strides[1..]).map(|(a, b)| a * b).sum());
        let offsets: Arc<[contents::Stretch]> = contents::stretches(offsets).into();
        let room = room(self.target, dtype) - 1;
        let count = n.div_ceil(room);
        let per = n.div_ceil(count);
        let zero: Vec<u8> = (0..hi)
            .flat_map(|_| minus_zero(dtype).to_le_bytes()[..size].to_vec())
            .collect();
        let mut out = Vec::new();
        for s in 0..count {
            let (first, rows) = (s * per, per.min(n - s * per));
            let picked = Picked {
                from: from.clone(),
                size,
                lead: 0,
                vectors: (first..first + rows).map(|r| r * strides[0]).collect(),
                stretches: offsets.clone(),
                tail: if count > 1 { zero.clone() } else { Vec::new() },
            };
            let limit = rows + (count > 1) as usize;
            let side = if s % 2 == 0 { Dir::East } else { Dir::West };
            let kind = BufKind::Rows(picked.into());
            let buf = crate::chain::Buf {
                chip,
                dtype,
                n_vectors: limit as u32,
                lo: 0,
                hi: hi as u16,
                kind,
                side: Some(side),
            };
            out.push(Stretch {
                buf: self.prog.bufs.push(buf),
                base: 0,
                step: 1,
                first,
                limit,
                side,
            });
        }
        Ok(out)
    }

    /// A table computed at run time: one buffer per piece of the lanes.
    fn run_time_table(
        &mut self,
        table: ValueId,
        result: &Layout,
        n_index: usize,
        piece: &[usize],
        n: usize,
        hi: usize,
    ) -> Result<Vec<Stretch>, CompileError> {
        let shape = self.shape(table).to_vec();
        let to_table = |a: u8| (a as usize).checked_sub(n_index).map(|a| a as u8 + 1);
        let mut lanes = result.lanes.clone();
        for d in &mut lanes {
            d.axis = d.axis.and_then(to_table);
        }
        let high: Vec<VecDigit> = result.vecs[..result.parts]
            .iter()
            .filter_map(|d| to_table(d.axis).map(|axis| VecDigit { axis, ..*d }))
            .filter(|d| lanes.iter().any(|l| l.axis == Some(d.axis)))
            .collect();
        // Every vector of a row has a buffer of its own, with the rows one after another.
        let in_lanes = |a: usize| lanes.iter().any(|l| l.axis == Some(a as u8));
        let open = (1..shape.len()).filter(|&a| shape[a] > 1 && !in_lanes(a));
        let digit = |a: usize| VecDigit {
            axis: a as u8,
            div: 1,
            extent: shape[a],
        };
        let mut vecs = high;
        vecs.extend(open.map(digit));
        let parts = vecs.len();
        vecs.extend((n > 1).then(|| digit(0)));
        let want = Layout {
            shape: shape.clone(),
            lanes,
            vecs,
            parts,
            side: None,
        };
        let home = self.relayout(table, &want)?;
        let mut c = vec![0];
        c.extend_from_slice(piece);
        let (buf, base, _) = home.at(&c)?;
        let mut step = 1;
        let mut regular = self.prog.bufs[buf].hi as usize == hi;
        for r in 1..n {
            c[0] = r;
            let (other, index, _) = home.at(&c)?;
            if r == 1 {
                step = index.wrapping_sub(base);
            }
            regular &= other == buf && index == base.wrapping_add(step.wrapping_mul(r as u32));
        }
        if !regular {
            return Err(CompileError::internal(
                "chains",
                format!("{table} is no table of rows in {want:?}"),
            ));
        }
        Ok(vec![Stretch {
            buf,
            base,
            step,
            first: 0,
            limit: n,
            side: Dir::East,
        }])
    }

    /// Index vectors relative to each stretch (the indices themselves where there is only one).
    fn relative_indices(
        &mut self,
        chip: u16,
        index: &Rc<Home>,
        stretches: &[Stretch],
        n: usize,
    ) -> Result<Vec<Rc<Home>>, CompileError> {
        if stretches.len() == 1 {
            return Ok(vec![index.clone()]);
        }
        let layout = index.layout.clone();
        let mut out = Vec::new();
        for group in stretches.chunks(AT_ONCE) {
            let homes: Vec<Rc<Home>> = group
                .iter()
                .map(|s| {
                    let home = self.new_home(chip, DType::I32, layout.clone(), |_| BufKind::Temp);
                    for buf in home.bufs.iter().flatten() {
                        self.prog.bufs[*buf].side = Some(s.side);
                    }
                    home
                })
                .collect();
            for (p, part) in index.parts.iter().enumerate() {
                let Some(from) = index.bufs[p] else { continue };
                let dims = [part.n_vectors() as u32, 1, 1];
                let mut k = Kernel::new(dims);
                let i32s = DType::I32;
                let b = &self.prog.bufs[from];
                let x = k.read(from, dense(dims), i32s, b.lo, b.hi);
                // min(idx as u32, n - 1)
                let top = NodeArg::Imm(n as u32 - 1);
                let least = k.push(NodeOp::Alu(AluOp::Min), i32s, 1, vec![x, top]);
                let negative = k.push(NodeOp::Alu(AluOp::Lt), i32s, 1, vec![x, NodeArg::Imm(0)]);
                let clamped = k.push(NodeOp::Alu(AluOp::Select), i32s, 1, vec![negative, top, least]);
                for (s, home) in group.iter().zip(&homes) {
                    let Some(dest) = home.bufs[p] else { continue };
                    let r = k.push(
                        NodeOp::Alu(AluOp::Sub),
                        i32s,
                        1,
                        vec![clamped, NodeArg::Imm(s.first as u32)],
                    );
                    k.write(r, dest, dense(dims), i32s, 1);
                }
                self.add_chain(chip, k.nodes);
            }
            out.extend(homes);
        }
        Ok(out)
    }

    /// Chains that gather from all stretches and add the results. `at` is the destination and the index of each stretch.
    #[allow(clippy::too_many_arguments)]
    fn gather_chains(
        &mut self,
        chip: u16,
        dtype: DType,
        stretches: &[Stretch],
        at: &[(BufId, Affine)],
        dims: [u32; 3],
        hi: u16,
        side: Option<Dir>,
    ) {
        let n_chains = stretches.len().div_ceil(AT_ONCE);
        let mut partial: Vec<(BufId, Affine)> = Vec::new();
        for (n, group) in stretches.chunks(AT_ONCE).enumerate() {
            let mut k = Kernel::new(dims);
            let mut rows = Vec::new();
            for (s, index) in group.iter().zip(&at[1 + n * AT_ONCE..]) {
                let i = k.read(index.0, index.1, DType::I32, 0, 1);
                let at = Affine {
                    base: s.base,
                    ..Affine::default()
                };
                let op = NodeOp::Gather {
                    buf: s.buf,
                    at,
                    row_stride: s.step,
                    limit: s.limit as u32,
                };
                rows.push(k.push(op, dtype, hi, vec![i]));
            }
            let to = match n_chains {
                1 => at[0],
                _ => self.temp(chip, dtype, dims, hi, side),
            };
            self.write_sum(k, &rows, dtype, hi, to, chip);
            partial.push(to);
        }
        // Partial results are added a few at a time, the earliest first.
        while partial.len() > 1 {
            let n = partial.len().min(ADDED_AT_ONCE);
            let mut k = Kernel::new(dims);
            let some: Vec<(BufId, Affine)> = partial.drain(..n).collect();
            let rows: Vec<NodeArg> = some.iter().map(|&(buf, a)| k.read(buf, a, dtype, 0, hi)).collect();
            let to = match partial.is_empty() {
                true => at[0],
                false => self.temp(chip, dtype, dims, hi, side),
            };
            self.write_sum(k, &rows, dtype, hi, to, chip);
            if partial.is_empty() {
                break;
            }
            partial.push(to);
        }
    }

    /// Ends a chain: the sum of rows of which all but one are absent.
    fn write_sum(&mut self, mut k: Kernel, rows: &[NodeArg], dtype: DType, hi: u16, to: (BufId, Affine), chip: u16) {
        let Some((&first, rest)) = rows.split_first() else {
            return;
        };
        let mut sum = first;
        for &row in rest {
            sum = k.push(NodeOp::Alu(AluOp::Add), dtype.widened(), hi, vec![sum, row]);
        }
        let sum = match (dtype.bytes() == 4, rest.is_empty()) {
            (true, false) => sum,
            (true, true) => k.push(NodeOp::Alu(AluOp::Copy), dtype, hi, vec![sum]),
            (false, _) => k.push(NodeOp::Alu(AluOp::Cvt), dtype, hi, vec![sum]),
        };
        k.write(sum, to.0, to.1, dtype, hi);
        self.add_chain(chip, k.nodes);
    }
}

/// Most vectors of a table in one bank; some room is left for others.
pub(crate) fn room(target: &Target, dtype: DType) -> usize {
    (target.bank_words() as usize / dtype.words() as usize * 7 / 8).max(2)
}

/// One vector per element, in lane 0.
pub(crate) fn lane_zero(shape: &[usize]) -> Layout {
    let mut l = default_layout(shape, 1, &Rows::single(usize::MAX));
    l.lanes.clear();
    let vecs = (0..shape.len()).filter(|&a| shape[a] > 1).map(|a| VecDigit {
        axis: a as u8,
        div: 1,
        extent: shape[a],
    });
    Layout {
        vecs: vecs.collect(),
        parts: 0,
        side: None,
        ..l
    }
}
