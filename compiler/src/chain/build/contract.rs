//! Contracts: tile passes over the matrix units.
//!
//! The lanes of the left operand hold contracted coordinates (and, packed beside them, batch coordinates); the lanes of the
//! result are the columns of the tile. For each group of columns that share a result vector, one *pass* multiplies each
//! left vector that holds some of the contracted coordinates; inside a pass, neighbouring columns that need the same
//! lanes of it form a block with its own window. Constant right operands become weight tiles; others are loaded from where
//! they lie, as rows where their lanes are columns, as columns where their lanes are contracted.
//!
//! One chain does all passes for one group of columns and the rows of one hemisphere, in blocks of rows as the result is
//! laid out, or of both where a tile is soon through with them, and ends in the epilogue. Where passes are short, several groups of
//! columns take turns in one chain. Where tiles are loaded at run time, the hemispheres share the batches rather than the rows:
//! each tile is then loaded once. Convolutions find their passes in `windows.rs`.

use super::epilogue::Epilogue;
use super::fit::{At, Piece, fit};
use super::kernel::Sources;
use super::moves::Kernel;
use super::source::Source;
use super::tiles::BlockLoad;
use super::{Builder, Home};
use crate::chain::{Acc, BufId, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::Layout;
use crate::layout::choose::with_lanes;
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::Dir;
use lockstep_isa::run::Window;
use std::collections::BTreeMap;

/// What an axis of the result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Batch { lhs: usize, rhs: usize },
    Row { lhs: usize },
    Column { rhs: usize },
}

/// The parts of a contract.
pub(crate) struct Spec {
    pub axes: Vec<Axis>,
    pub contracted: Vec<(usize, usize)>,
    pub batch: Vec<(usize, usize)>,
}

/// Result vectors of one group of columns in one hemisphere: coordinates of the group, hemisphere, and by part the vectors.
pub(crate) type Job = (Vec<usize>, Dir, Vec<(usize, Vec<usize>)>);

/// Rows that take part in the same passes of a chain.
pub(crate) struct Work {
    /// Addresses: the result, the left vector of each pass, the operands of the epilogue.
    pub piece: Piece,
    /// The passes, ascending.
    pub passes: Vec<usize>,
}

/// Rows of the result in one buffer: the buffer, base coordinates, vectors.
type Block = (BufId, Vec<Vec<usize>>, Vec<u32>);

/// Columns that share a result vector, over some rows.
struct Columns {
    passes: Vec<Pass>,
    blocks: Vec<Block>,
    rows: usize,
}

/// Cycles of a pass over all rows up to which its tile is loaded in one hemisphere alone: MiniLM in f16 on one chip of tsp-2020 takes
/// 40,865 cycles so, 44,497 with every tile loaded in both.
const SHORT: usize = 256;

/// Cycles of a pass below which column tiles take turns: about what the statistics of a row take.
const BRIEF: usize = 256;

/// One pass: the coordinates of the left vector (row axes zero), and the tile.
#[derive(Clone, Debug)]
struct Pass {
    x: Vec<usize>,
    loads: Vec<BlockLoad>,
}

impl Builder<'_> {
    /// A contract and the maps that follow it.
    pub fn lower_contract(&mut self, v: ValueId) -> Result<(), CompileError> {
        let Some(spec) = self.spec(v) else { return Ok(()) };
        let (lhs, rhs) = (self.ir.values[v].inputs[0], self.ir.values[v].inputs[1]);
        let chip = self.chip(v);
        if self.target.mxm_rate(self.dtype(lhs)).is_none() {
            let what = format!("target {} has no matrix unit for {}", self.target.name, self.dtype(lhs));
            return Err(CompileError::options(what));
        }
        if self.is_windowed(v, &spec) {
            return self.lower_windowed(v, &spec);
        }
        let layout = self.contract_layout(v, &spec);
        let before = self.prog.chains.len();
        let x = self.left_source(lhs, &spec, rhs, chip)?;
        let mut epilogue = self.product_epilogue(v, &layout)?;
        let out = epilogue.out(v);
        let home = self.result_home(out, &layout);
        let mut plans: BTreeMap<Vec<usize>, Vec<Pass>> = BTreeMap::new();
        let mut by_side: Vec<(Dir, Sources)> = Vec::new();
        let mut ready: Vec<(Dir, Vec<Columns>)> = Vec::new();
        let jobs = self.by_columns(self.jobs(&home, &spec, self.idle_side(chip)), lhs, rhs);
        self.note_work(&jobs, lhs, &spec);
        let both: Vec<bool> = jobs
            .iter()
            .map(|job| jobs.iter().any(|j| j.0 == job.0 && j.1 != job.1))
            .collect();
        for ((key, side, segments), both) in jobs.into_iter().zip(both) {
            if !plans.contains_key(&key) {
                let part = &home.parts[segments[0].0];
                let alone = Some(side).filter(|_| !both);
                let plan = self.passes(&spec, rhs, &x.0, &layout, &key, part.hi, chip, alone)?;
                plans.insert(key.clone(), plan);
            }
            if !by_side.iter().any(|s| s.0 == side) {
                let sources = self.operand_sources(&epilogue.maps, &epilogue.hot(v), &layout, chip, Some(side))?;
                by_side.push((side, sources));
            }
            let Some(passes) = plans.get(&key) else { continue };
            // Blocks of rows, as many in one chain as there are accumulator rows.
            let most = self.target.mxm.acc_rows as usize;
            let mut pending: Vec<Block> = Vec::new();
            let mut chains = Vec::new();
            let mut held = 0;
            for (p, indices) in segments {
                let Some(dest) = home.bufs[p] else { continue };
                let all = layout.bases(&home.parts[p]);
                for chunk in indices.chunks(most) {
                    if held + chunk.len() > most {
                        chains.push(std::mem::take(&mut pending));
                        held = 0;
                    }
                    held += chunk.len();
                    let bases = chunk.iter().map(|&i| all[i].clone()).collect();
                    pending.push((dest, bases, chunk.iter().map(|&i| i as u32).collect()));
                }
            }
            chains.push(pending);
            for blocks in chains.into_iter().filter(|b| !b.is_empty()) {
                let columns = Columns {
                    passes: passes.clone(),
                    rows: blocks.iter().map(|b| b.1.len()).sum(),
                    blocks,
                };
                let last = ready.iter_mut().rev().find(|r| r.0 == side);
                match last.filter(|l| self.joins(lhs, rhs, &l.1, &columns)) {
                    Some(last) => last.1.push(columns),
                    None => ready.push((side, vec![columns])),
                }
            }
        }
        if !self.is_const(rhs) {
            self.bring_forward(before);
        }
        // Vectors are folded in one chain or not at all.
        if epilogue.folded().is_some() && ready.len() != 1 {
            epilogue.tail = None;
        }
        for (side, columns) in ready {
            if let Some((_, sources)) = by_side.iter_mut().find(|s| s.0 == side) {
                self.contract_chain(v, &spec, &mut epilogue, &x.1, &columns, sources, &layout, side, chip)?;
            }
        }
        match epilogue.folded().is_some() {
            true => epilogue.values(v).iter().for_each(|m| self.done[m.index()] = true),
            false => self.finish(&epilogue.values(v), out, home),
        }
        self.finish_tail(epilogue.tail);
        self.finish_updates(epilogue.updates);
        Ok(())
    }

    /// The hemisphere whose matrix units have had less to do.
    pub fn idle_side(&self, chip: u16) -> Dir {
        match self.work.get(&chip) {
            Some([east, west]) if west < east => Dir::West,
            _ => Dir::East,
        }
    }

    /// Notes about how long each hemisphere's matrix units are busy with a product: a tile takes its rows, or as long as it loads.
    fn note_work(&mut self, jobs: &[Job], lhs: ValueId, spec: &Spec) {
        let shape = self.shape(lhs);
        let depth: usize = spec.contracted.iter().map(|&(l, _)| shape[l]).product();
        let tiles = depth.div_ceil(self.lanes()) as u64;
        let (rate, load) = (self.target.mxm_rate(self.dtype(lhs)), self.target.latency.load);
        let cycles = rate.map_or(1, |r| u64::from(r.cycles_per_vector));
        let work = self.work.entry(self.chip(lhs)).or_default();
        for (_, side, segments) in jobs {
            let rows: usize = segments.iter().map(|s| s.1.len()).sum();
            work[usize::from(*side == Dir::West)] += tiles * (rows as u64 * cycles).max(2 * u64::from(load));
        }
    }

    /// Vectors of the result by column group and hemisphere, in order of appearance; groups take turns, from hemisphere `first` on.
    pub fn jobs(&self, home: &Home, spec: &Spec, first: Dir) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (p, part) in home.parts.iter().enumerate() {
            for (i, base) in home.layout.bases(part).iter().enumerate() {
                let key: Vec<usize> = base
                    .iter()
                    .zip(&spec.axes)
                    .map(|(&c, a)| if matches!(a, Axis::Row { .. }) { 0 } else { c })
                    .collect();
                let group = groups.iter().position(|g| *g == key).unwrap_or_else(|| {
                    groups.push(key.clone());
                    groups.len() - 1
                });
                let side = part.side.unwrap_or(if group % 2 == 0 { first } else { first.flip() });
                let job = match jobs.iter().position(|j| j.0 == key && j.1 == side) {
                    Some(j) => &mut jobs[j],
                    None => {
                        jobs.push((key, side, Vec::new()));
                        let last = jobs.len() - 1;
                        &mut jobs[last]
                    }
                };
                match job.2.last_mut() {
                    Some((last, indices)) if *last == p => indices.push(i),
                    _ => job.2.push((p, vec![i])),
                }
            }
        }
        jobs.sort_by_key(|j| (groups.iter().position(|g| *g == j.0), j.1));
        jobs
    }

    /// Of weights whose tiles are soon through with the rows of one hemisphere, each tile goes to one hemisphere for all rows, as far
    /// as there are pairs of column groups: it is then read once, and has twice the time to be loaded.
    pub fn by_columns(&self, jobs: Vec<Job>, lhs: ValueId, rhs: ValueId) -> Vec<Job> {
        let cycles = self
            .target
            .mxm_rate(self.dtype(lhs))
            .map_or(1, |r| r.cycles_per_vector as usize);
        let rows = |j: &Job| j.2.iter().map(|s| s.1.len()).sum::<usize>();
        let shared = |i: usize| {
            jobs.get(i)
                .zip(jobs.get(i + 1))
                .is_some_and(|(a, b)| a.0 == b.0 && (rows(a) + rows(b)) * cycles <= SHORT)
        };
        if !self.is_const(rhs) {
            return jobs;
        }
        let mut out: Vec<Job> = Vec::with_capacity(jobs.len());
        let mut i = 0;
        while i < jobs.len() {
            if !(shared(i) && shared(i + 2)) {
                out.push(jobs[i].clone());
                i += 1;
                continue;
            }
            for (at, side) in [(i, Dir::East), (i + 2, Dir::West)] {
                let mut all = jobs[at].2.clone();
                all.extend(jobs[at + 1].2.iter().cloned());
                all.sort();
                out.push((jobs[at].0.clone(), side, all));
            }
            i += 4;
        }
        out
    }

    /// Whether columns are multiplied in turns with others: where a pass is shorter than what an epilogue waits for, the first
    /// pass of all comes before the second of any.
    fn joins(&self, lhs: ValueId, rhs: ValueId, with: &[Columns], columns: &Columns) -> bool {
        let rows = columns.rows + with.iter().map(|c| c.rows).sum::<usize>();
        let cycles = self
            .target
            .mxm_rate(self.dtype(lhs))
            .map_or(1, |r| r.cycles_per_vector as usize);
        self.is_const(rhs)
            && columns.passes.len() > 1
            && with.iter().all(|c| c.passes.len() == columns.passes.len())
            && columns.rows * cycles < BRIEF
            && rows <= self.target.mxm.acc_rows as usize
    }

    /// One chain: all passes over these columns and rows. The tail is dropped where the vectors that it folds do not come one after the
    /// other.
    #[allow(clippy::too_many_arguments)]
    fn contract_chain(
        &mut self,
        v: ValueId,
        spec: &Spec,
        epilogue: &mut Epilogue,
        x: &Source,
        columns: &[Columns],
        sources: &mut Sources,
        layout: &Layout,
        hemi: Dir,
        chip: u16,
    ) -> Result<(), CompileError> {
        let folded = epilogue.folded().map(|(n, axes)| (n, axes.to_vec()));
        // Pieces: boxes of rows over which every operand moves affinely. The first pass of all columns comes before the second of any.
        let n_columns = columns.len();
        let mut work: Vec<Work> = Vec::new();
        let blocks = columns.iter().enumerate();
        for (of, (dest, bases, indices)) in blocks.flat_map(|(n, c)| c.blocks.iter().map(move |b| (n, b))) {
            let ordered = folded.as_ref().map(|(_, axes)| with_fastest(axes, bases, indices));
            let (bases, indices) = ordered.as_ref().map_or((bases, indices), |(b, i)| (b, i));
            let passes = &columns[of].passes;
            let mut tracks: Vec<Vec<At>> = vec![indices.iter().map(|&i| (*dest, i)).collect()];
            for pass in passes {
                let mut track = Vec::with_capacity(bases.len());
                for base in bases {
                    let mut c = pass.x.clone();
                    for (a, axis) in spec.axes.iter().enumerate() {
                        if let Axis::Row { lhs } = axis {
                            c[*lhs] = base[a];
                        }
                    }
                    track.push(x.at(&c)?);
                }
                tracks.push(track);
            }
            // What the epilogue reads passes while the last left vectors do.
            let last = tracks.len() - 1;
            let operands = self.operand_tracks(sources, layout, bases, &tracks[last..])?;
            tracks.extend(operands);
            if let Some(tail) = &epilogue.tail {
                tracks.push(bases.iter().map(|c| tail.at(c)).collect::<Result<_, _>>()?);
            }
            for update in epilogue.updates.iter().rev() {
                tracks.push(bases.iter().map(|c| update.row(c)).collect::<Result<_, _>>()?);
            }
            let turns = |piece| Work {
                piece,
                passes: (0..passes.len()).map(|p| p * n_columns + of).collect(),
            };
            let pieces = fit(&tracks, self.target.mxm.acc_rows as usize, 3);
            work.extend(pieces.into_iter().map(turns));
        }
        if folded.is_some_and(|(n, _)| work.iter().any(|w| w.piece.dims[0] != n)) {
            epilogue.tail = None;
        }
        let n_passes = columns.first().map_or(0, |c| c.passes.len());
        let turns = (0..n_passes).flat_map(|p| columns.iter().filter_map(move |c| c.passes.get(p)));
        let tiles: Vec<Vec<BlockLoad>> = turns.map(|p| p.loads.clone()).collect();
        self.emit_chain(v, epilogue, &tiles, &work, sources, (hemi, 0), chip)
    }

    /// One chain: the tiles in order, each multiplied by the rows that take part in its pass, and the epilogue of rows after their
    /// last pass.
    #[allow(clippy::too_many_arguments)]
    pub fn emit_chain(
        &mut self,
        v: ValueId,
        epilogue: &Epilogue,
        tiles: &[Vec<BlockLoad>],
        work: &[Work],
        sources: &Sources,
        (hemi, plane): (Dir, u8),
        chip: u16,
    ) -> Result<(), CompileError> {
        let dtype = self.dtype(self.ir.values[v].inputs[0]);
        let (maps, out) = (&epilogue.maps[..], epilogue.out(v));
        let result_dtype = if maps.is_empty() {
            self.dtype(v)
        } else {
            self.dtype(out)
        };
        let mut kernel = Kernel::new([1; 3]);
        // Per piece: passes done, accumulator, columns so far.
        let mut state: Vec<(usize, Option<u32>, u16, u16)> = vec![(0, None, u16::MAX, 0); work.len()];
        for (t, tile) in tiles.iter().enumerate() {
            let takes = |n: usize, done: usize| work[n].passes.get(done) == Some(&t);
            if !(0..work.len()).any(|n| takes(n, state[n].0)) {
                continue;
            }
            let (mut n0, mut n1) = (u16::MAX, 0);
            let mut loads = Vec::new();
            for load in tile {
                n0 = n0.min(load.window.n0);
                n1 = n1.max(load.window.n1);
                let mut belts = Vec::new();
                for &(buf, at, dims) in &load.belts {
                    let (b_lo, b_hi) = (self.prog.bufs[buf].lo, self.prog.bufs[buf].hi);
                    let stored = self.prog.bufs[buf].dtype;
                    belts.push(kernel.push_dims(NodeOp::Read(buf, at), stored, dims, b_lo, b_hi, Vec::new()));
                }
                let w = load.window;
                let count = if load.by_column { w.n1 - w.n0 } else { w.k1 - w.k0 } as u32;
                let stored = self.prog.bufs[load.belts[0].0].dtype;
                let issues = count.div_ceil(stored.load_rows() as u32).div_ceil(belts.len() as u32);
                if let Some((buf, at, dims)) = load.scales {
                    let (b_lo, b_hi) = (self.prog.bufs[buf].lo, self.prog.bufs[buf].hi);
                    let scales = self.prog.bufs[buf].dtype;
                    belts.push(kernel.push_dims(NodeOp::Read(buf, at), scales, dims, b_lo, b_hi, Vec::new()));
                }
                let (l, h) = if load.by_column { (w.k0, w.k1) } else { (w.n0, w.n1) };
                let op = NodeOp::Load {
                    by_column: load.by_column,
                    window: w,
                    hemi,
                    plane,
                    scaled: load.scales.is_some(),
                };
                let NodeArg::Node { node, .. } = kernel.push_dims(op, dtype, [issues, 1, 1], l, h, belts) else {
                    continue;
                };
                loads.push(node);
            }
            let mut swap = true;
            for (n, Work { piece, passes }) in work.iter().enumerate() {
                let (done, acc, mut lo, mut hi) = state[n];
                if !takes(n, done) {
                    continue;
                }
                (lo, hi) = (lo.min(n0), hi.max(n1));
                let last = done + 1 == passes.len();
                kernel.dims = piece.dims;
                let (buf, at) = piece.at[1 + done];
                let (b_lo, b_hi) = (self.prog.bufs[buf].lo, self.prog.bufs[buf].hi);
                let row = kernel.read(buf, at, dtype, b_lo, b_hi);
                let op = NodeOp::Mul {
                    loads: loads.clone(),
                    swap,
                    acc: acc.map_or(Acc::Zero, Acc::Rows),
                    to_rows: !last,
                    hemi,
                    plane,
                };
                swap = false;
                let result = kernel.push_dims(op, dtype, piece.dims, lo, hi, vec![row]);
                let NodeArg::Node { node, .. } = result else { continue };
                state[n] = (done + 1, Some(node), lo, hi);
                if !last {
                    continue;
                }
                let reads = self.read_operands(&mut kernel, sources, &piece.at[1 + passes.len()..]);
                let (dest, dest_at) = piece.at[0];
                let result = if maps.is_empty() {
                    result
                } else {
                    let mut hot = vec![(v, result)];
                    if let Some(turn) = &epilogue.turn {
                        let turned = self.emit_turn(&mut kernel, turn, result, (dest, hemi), hi);
                        hot.push((turn.value, turned));
                    }
                    self.emit_maps(&mut kernel, maps, &hot, &reads, hi)?
                };
                if epilogue.updates.is_empty() && epilogue.folded().is_none() {
                    self.write_all(&mut kernel, result, dest, dest_at, result_dtype, hi);
                }
                for (update, &at) in epilogue.updates.iter().zip(piece.at.iter().rev()) {
                    self.emit_update(&mut kernel, update, result, at, result_dtype, hi);
                }
                if let (Some(tail), Some(&at)) = (&epilogue.tail, piece.at.last()) {
                    self.emit_tail(&mut kernel, tail, out, result, at, (hi, Some(hemi)))?;
                }
            }
        }
        self.add_chain(chip, kernel.nodes);
        Ok(())
    }

    pub fn spec(&self, v: ValueId) -> Option<Spec> {
        let data = &self.ir.values[v];
        let Op::Contract { batch, contracted, .. } = &data.op else {
            return None;
        };
        let pairs = |p: &[(u8, u8)]| p.iter().map(|&(a, b)| (a as usize, b as usize)).collect::<Vec<_>>();
        let (batch, contracted) = (pairs(batch), pairs(contracted));
        let taken = |a: usize, left: bool| {
            batch
                .iter()
                .chain(&contracted)
                .any(|&(l, r)| a == if left { l } else { r })
        };
        let mut axes: Vec<Axis> = batch.iter().map(|&(lhs, rhs)| Axis::Batch { lhs, rhs }).collect();
        let (l, r) = (self.shape(data.inputs[0]).len(), self.shape(data.inputs[1]).len());
        axes.extend((0..l).filter(|&a| !taken(a, true)).map(|lhs| Axis::Row { lhs }));
        axes.extend((0..r).filter(|&a| !taken(a, false)).map(|rhs| Axis::Column { rhs }));
        Some(Spec {
            axes,
            contracted,
            batch,
        })
    }

    /// The left operand with contracted (and batch) coordinates in its lanes; `rhs` is the right one.
    fn left_source(
        &mut self,
        lhs: ValueId,
        spec: &Spec,
        rhs: ValueId,
        chip: u16,
    ) -> Result<(Layout, Source), CompileError> {
        let run_time = !self.is_const(rhs);
        let shape = self.shape(lhs).to_vec();
        let contracted = |a: usize| spec.contracted.iter().any(|p| p.0 == a);
        let batch = |a: usize| spec.batch.iter().any(|p| p.0 == a);
        let legal = |layout: &Layout| {
            let lanes: Vec<_> = layout.lanes.iter().filter(|d| d.extent > 1).collect();
            let n = lanes
                .iter()
                .take_while(|d| d.axis.is_some_and(|a| contracted(a as usize)))
                .count();
            lanes[n..].iter().all(|d| d.axis.is_some_and(|a| batch(a as usize)))
        };
        if !self.is_const(lhs) && !self.is_lazy(lhs) {
            let order: Vec<usize> = spec.contracted.iter().rev().map(|p| p.0).collect();
            let want = with_lanes(&shape, &order, self.lanes(), &self.rows(lhs), |u| u <= self.lanes() / 4);
            let home = self.home_or(lhs, &want)?;
            if legal(&home.layout) {
                return Ok((home.layout.clone(), Source::Home(home)));
            }
        }
        let order: Vec<usize> = spec.contracted.iter().rev().map(|p| p.0).collect();
        let limit = self.lanes() / 4;
        let rows = self.rows(lhs);
        let one_axis = with_lanes(&shape, &order, self.lanes(), &rows, |_| false);
        let packed = with_lanes(&shape, &order, self.lanes(), &rows, |used| used <= limit);
        // Re-arranged as what is loaded lies, or as it lies itself, with lanes and vectors exchanged.
        let crosswise = match self.as_loaded(lhs, spec, rhs) {
            Some(layout) => Some(layout),
            None => self.crosswise_layout(lhs),
        };
        let crosswise = crosswise.filter(legal);
        let mut wanted = vec![packed, one_axis];
        let wide = order.iter().filter(|&&a| shape[a] > 1).count();
        if wide == 1 && spec.batch.iter().any(|p| shape[p.0] > 1) {
            // Batches beside the one contracted axis, as the default layout would pack them.
            let mut with_batch = order.clone();
            with_batch.extend(spec.batch.iter().rev().map(|p| p.0));
            wanted.insert(
                0,
                with_lanes(&shape, &with_batch, self.lanes(), &rows, |used| {
                    run_time || used <= limit
                }),
            );
        }
        if self.is_lazy(lhs) {
            wanted.extend(self.beside_others(lhs, spec)?);
            wanted.extend(crosswise.clone());
            for want in &wanted {
                if let Some(at) = self.in_place_among(lhs, want, chip, run_time)? {
                    return Ok((
                        want.clone(),
                        Source::Table {
                            layout: want.clone(),
                            at,
                        },
                    ));
                }
            }
        }
        let want = crosswise.as_ref().unwrap_or(&wanted[0]);
        let source = self.source(lhs, want, chip, None)?;
        let layout = match &source {
            Source::Home(home) => home.layout.clone(),
            Source::Table { layout, .. } => layout.clone(),
        };
        Ok((layout, source))
    }

    /// The passes for one group of columns: `key` has the group's batch and column coordinates.
    #[allow(clippy::too_many_arguments)]
    fn passes(
        &mut self,
        spec: &Spec,
        rhs: ValueId,
        left: &Layout,
        layout: &Layout,
        key: &[usize],
        hi: usize,
        chip: u16,
        side: Option<Dir>,
    ) -> Result<Vec<Pass>, CompileError> {
        // Contracted lanes of a left vector.
        let contracted = |a: u8| spec.contracted.iter().any(|p| p.0 == a as usize);
        let in_lanes: Vec<_> = left
            .lanes
            .iter()
            .filter(|d| d.axis.is_some_and(contracted))
            .copied()
            .collect();
        // First contracted coordinates of each left vector, slowest axis first.
        let mut starts = vec![vec![0usize; left.shape.len()]];
        for &(a, _) in &spec.contracted {
            let digits = in_lanes.iter().filter(|d| d.axis == Some(a as u8));
            let first = |k: &usize| digits.clone().all(|d| (k / d.div).is_multiple_of(d.extent));
            let firsts: Vec<usize> = (0..left.shape[a]).filter(first).collect();
            let with = |c: Vec<usize>| {
                let set = move |&k: &usize| {
                    let mut c = c.clone();
                    c[a] = k;
                    c
                };
                firsts.iter().map(set).collect::<Vec<_>>()
            };
            starts = starts.into_iter().flat_map(with).collect();
        }
        // Columns: lane, batch coordinates of the left operand.
        let columns: Vec<Vec<usize>> = (0..hi)
            .map(|l| {
                let mut c = key.to_vec();
                layout.add_lane(l, &mut c);
                c
            })
            .collect();
        let mut passes = Vec::new();
        for start in &starts {
            // Contracted lanes that exist in this vector.
            let mut rows: Vec<Vec<usize>> = Vec::new();
            let n: usize = in_lanes.iter().map(|d| d.extent).product();
            for l in 0..n {
                let mut c = start.clone();
                left.add_lane(l, &mut c);
                if c.iter().zip(&left.shape).all(|(a, b)| a < b) {
                    rows.push(c);
                }
            }
            // Blocks by left vector: columns of one batch share a window.
            let mut vectors: BTreeMap<Vec<usize>, Vec<(u16, u16, u16)>> = BTreeMap::new();
            for (l, column) in columns.iter().enumerate() {
                let mut c = start.clone();
                for (a, axis) in spec.axes.iter().enumerate() {
                    if let Axis::Batch { lhs, .. } = axis {
                        c[*lhs] = column[a];
                    }
                }
                let lane = left.locate(&c).lane;
                let mut base = c;
                let mut rest = lane as usize;
                for d in &left.lanes {
                    let digit = rest % d.extent;
                    rest /= d.extent;
                    if let Some(a) = d.axis {
                        base[a as usize] -= digit * d.div;
                    }
                }
                vectors
                    .entry(base)
                    .or_default()
                    .push((l as u16, lane, lane + rows.len() as u16));
            }
            for (x, columns_here) in vectors {
                let mut loads = Vec::new();
                let mut at = 0;
                while at < columns_here.len() {
                    let (n0, k0, k1) = columns_here[at];
                    let mut end = at + 1;
                    while end < columns_here.len() && columns_here[end] == (n0 + (end - at) as u16, k0, k1) {
                        end += 1;
                    }
                    let window = Window {
                        n0,
                        n1: n0 + (end - at) as u16,
                        k0,
                        k1,
                    };
                    let block: Vec<&Vec<usize>> = (n0..window.n1).map(|l| &columns[l as usize]).collect();
                    loads.extend(self.block_loads(spec, rhs, &rows, &block, window, chip, layout, usize::MAX, side)?);
                    at = end;
                }
                passes.push(Pass { x, loads });
            }
        }
        Ok(passes)
    }
}

/// Vectors in the order in which coordinates along `axes` run fastest.
fn with_fastest(axes: &[u8], bases: &[Vec<usize>], indices: &[u32]) -> (Vec<Vec<usize>>, Vec<u32>) {
    let mut all: Vec<(&Vec<usize>, u32)> = bases.iter().zip(indices.iter().copied()).collect();
    let key = |c: &Vec<usize>| {
        let fast = |&a: &usize| axes.contains(&(a as u8));
        let (fast, slow): (Vec<usize>, Vec<usize>) = (0..c.len()).partition(fast);
        slow.into_iter().chain(fast).map(|a| c[a]).collect::<Vec<_>>()
    };
    all.sort_by_key(|v| key(v.0));
    all.into_iter().map(|(c, i)| (c.clone(), i)).unzip()
}
