//! Tile loads of contracts: weight tiles made from constants, and tiles loaded from values computed at run time.

use super::Builder;
use super::contract::{Axis, Spec};
use super::fit::{At, fit};
use super::source::Resolved;
use crate::chain::contents::{Picked, Stretch, stretches};
use crate::chain::{Affine, Buf, BufId, BufKind, Tile};
use crate::error::CompileError;
use crate::layout::choose::{Rows, finish, whole_axis};
use crate::layout::{Few, LaneDigit, Layout, VecDigit};
use crate::partition::cost::{extents, stored_type};
use crate::tir::{Op, TensorIr, ValueId, row_major};
use lockstep_graph::EntityId;
use lockstep_isa::run::Window;
use lockstep_isa::{DType, Dir, Target};
use smallvec::SmallVec;
use std::sync::Arc;

/// What makes two weight tiles the same: the constant, the chip, the hemisphere that alone loads it, the window, and the elements of rows
/// and columns.
pub(crate) type TileKey = (ValueId, u16, Option<Dir>, Window, Vec<u32>, Vec<u32>);

/// How a weight tile is stored.
#[derive(Clone)]
pub(crate) struct TileBufs {
    /// Belts, with their vectors.
    pub belts: Vec<(BufId, u32)>,
    /// Of integers that are multiplied on their way: the scales, and the address and the steps of their read.
    pub scales: Option<(BufId, Affine, [u32; 3])>,
}

/// Finds an element of a value: buffer, vector, lane, and how many elements from it on, one after the other along an axis, lie one
/// lane after the other. Takes the builder, the element's coordinates, the axis, and the most that are of interest.
type Find<'a> =
    dyn Fn(&Builder<'_>, &[usize], usize, usize) -> Result<Option<(BufId, u32, u16, usize)>, CompileError> + 'a;

/// Words per cycle that the load of one tile takes where products take longer than loads.
const LOAD_WORDS: u16 = 16;
/// Words per cycle left to activations where loads take longer than products: one vector of four bytes.
const LEFT_WORDS: u16 = 4;

/// Banks of a hemisphere left to activations, sums and the scales of a load.
const LEFT_BANKS: u16 = 4;

/// How the weight tiles of a program are stored and loaded; entries that share them agree.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loads {
    /// Words per cycle that a hemisphere takes.
    pub most: u16,
    /// Belts of one load: each takes a bank of the hemisphere for as long as the load takes.
    pub belts: u16,
    /// Words per cycle of the load of one tile: where few rows are multiplied, almost all that a hemisphere takes.
    pub words: u16,
    /// Whether tiles with fewer columns than rows are stored column by column: they take fewer vectors so, which counts where
    /// the SRAM is short.
    pub by_column: bool,
    /// Whether the tiles that both hemispheres load for windows lie in each of them: they take no banks from each other so.
    pub per_side: bool,
}

impl Loads {
    /// The loads of a program on so many chips.
    pub fn of(ir: &TensorIr, is_const: &dyn Fn(ValueId) -> bool, target: &Target, n_chips: u16) -> Loads {
        let (mut products, mut loads, mut stored) = (0u64, 0u64, 0u64);
        for (_, data) in ir.values.iter() {
            let (Op::Contract { batch, contracted, .. }, &[left, right]) = (&data.op, &data.inputs[..]) else {
                continue;
            };
            let (left, right) = (&ir.values[left].ty, &stored_type(ir, right));
            let rate = target.mxm_rate(left.dtype).map(|r| r.cycles_per_vector as u64);
            let (Some(rate), true) = (rate, is_const(data.inputs[1])) else {
                continue;
            };
            let x = extents(batch, contracted, left, right);
            let lanes = (target.lanes as u64).max(1);
            products += x.batch * x.rows * x.columns * x.depth * rate / (lanes * lanes);
            loads += (right.elements() * right.dtype.bytes()) as u64 / (lanes * LOAD_WORDS as u64);
            stored += x.batch * x.depth * x.columns.div_ceil(lanes) * right.dtype.words() as u64 * lanes;
        }
        let most = (target.mxm.load_words_per_cycle as u16).min(target.streams as u16);
        Loads {
            most,
            belts: (u16::from(target.groups) * u16::from(target.banks))
                .saturating_sub(LEFT_BANKS)
                .max(1),
            words: match loads > products {
                true => most.saturating_sub(LEFT_WORDS).max(LOAD_WORDS),
                false => LOAD_WORDS,
            },
            by_column: stored > target.sram_bytes() * u64::from(n_chips) / 2,
            per_side: stored <= target.sram_bytes() * u64::from(n_chips) / PER_SIDE_SHARE,
        }
    }
}

/// Share of the SRAM that weights may take for tiles to lie in both hemispheres: windows hold each weight several times.
const PER_SIDE_SHARE: u64 = 6;

/// Rows per column from which a tile is stored by columns.
const LEAST_SAVED: usize = 2;

/// Most belts of a load of vectors computed at run time.
pub(crate) fn most_belts(dtype: DType) -> usize {
    (LOAD_WORDS / dtype.words()).clamp(1, 4) as usize
}

/// One tile load of a pass.
#[derive(Clone, Debug)]
pub(crate) struct BlockLoad {
    pub window: Window,
    pub by_column: bool,
    /// Belts: buffer, address, steps.
    pub belts: Vec<(BufId, Affine, [u32; 3])>,
    /// What the rows are multiplied by on their way, likewise.
    pub scales: Option<(BufId, Affine, [u32; 3])>,
}

impl Builder<'_> {
    /// Tile loads that fill one block: `rows` are left coordinates per k, `columns` result coordinates per column. A weight tile
    /// takes at most `most_belts` belts and lies in the hemisphere `side`, if one alone multiplies by it.
    #[allow(clippy::too_many_arguments)]
    pub fn block_loads(
        &mut self,
        spec: &Spec,
        rhs: ValueId,
        rows: &[Vec<usize>],
        columns: &[&Vec<usize>],
        window: Window,
        chip: u16,
        layout: &Layout,
        most_belts: usize,
        side: Option<Dir>,
    ) -> Result<Vec<BlockLoad>, CompileError> {
        if !self.is_const(rhs) {
            return self.run_time_loads(spec, rhs, rows, columns, window, layout);
        }
        let strides = row_major(self.shape(rhs));
        let of_row: Vec<u32> = rows
            .iter()
            .map(|c| spec.contracted.iter().map(|&(l, r)| c[l] * strides[r]).sum::<usize>() as u32)
            .collect();
        let of_column: Vec<u32> = columns
            .iter()
            .map(|c| {
                let axes = spec.axes.iter().enumerate();
                axes.map(|(a, axis)| match axis {
                    Axis::Batch { rhs, .. } | Axis::Column { rhs } => c[a] * strides[*rhs],
                    Axis::Row { .. } => 0,
                })
                .sum::<usize>() as u32
            })
            .collect();
        let by_column = self.loads.by_column && of_column.len() * LEAST_SAVED <= of_row.len();
        let key = (rhs, chip, side, window, of_row, of_column);
        let TileBufs { belts, scales } = match self.tiles.get(&key) {
            Some(known) => known.clone(),
            None => {
                let made = self.tile_bufs(&key, by_column, most_belts)?;
                self.tiles.insert(key, made.clone());
                made
            }
        };
        let belts = belts
            .into_iter()
            .map(|(buf, n)| {
                (
                    buf,
                    Affine {
                        base: 0,
                        strides: [(n > 1) as i32, 0, 0],
                    },
                    [n, 1, 1],
                )
            })
            .collect();
        Ok(vec![BlockLoad {
            window,
            by_column: by_column && scales.is_none(),
            scales,
            belts,
        }])
    }

    /// The buffers of a weight tile: as integers with their scales where it is made of them and they allow it.
    fn tile_bufs(&mut self, key: &TileKey, by_column: bool, most_belts: usize) -> Result<TileBufs, CompileError> {
        let (rhs, chip, side, window, of_row, of_column) = key;
        if let Some(scaled) = self.scaled.get(rhs).cloned() {
            let columns = stretches(of_column.iter().map(|&c| c as usize)).into();
            let rows = (&of_row[..], &of_column[..]);
            let tile = self.scaled_tile(&scaled, (*chip, *window), rows, columns, most_belts, *side);
            if let Some(tile) = tile {
                return Ok(tile);
            }
        }
        let dtype = self.dtype(*rhs);
        let count = if by_column { of_column.len() } else { of_row.len() } as u16;
        let n_belts = (self.loads.words / dtype.words())
            .min(count)
            .min(most_belts.min(u16::MAX as usize) as u16)
            .max(1);
        let belts = self.weight_belts(key, dtype, n_belts, by_column)?;
        Ok(TileBufs { belts, scales: None })
    }

    /// The buffers of a weight tile, one per belt, with their vectors: columns of the tile or rows of it.
    fn weight_belts(
        &mut self,
        key: &TileKey,
        dtype: DType,
        n_belts: u16,
        by_column: bool,
    ) -> Result<Vec<(BufId, u32)>, CompileError> {
        let (rhs, chip, side, window, of_row, of_column) = key;
        let from = self.constant(*rhs);
        let picked = |lead: u16, vectors: Vec<usize>, stretches: Arc<[Stretch]>| Picked {
            from: from.clone(),
            size: dtype.bytes(),
            lead: lead as usize,
            vectors,
            stretches,
            tail: Vec::new(),
        };
        let (count, lo, hi, kinds): (_, _, _, Vec<BufKind>) = if by_column {
            let rows: Arc<[Stretch]> = stretches(of_row.iter().map(|&r| r as usize)).into();
            let kind = |b: u16| {
                let columns = of_column.iter().skip(b as usize).step_by(n_belts as usize);
                let columns = columns.map(|&c| c as usize).collect();
                BufKind::Rows(picked(window.k0, columns, rows.clone()).into())
            };
            (of_column.len() as u16, 0, window.k1, (0..n_belts).map(kind).collect())
        } else {
            let columns = stretches(of_column.iter().map(|&c| c as usize));
            let rows = of_row.iter().map(|&r| r as usize).collect();
            let tile = self.prog.tiles.push(Tile {
                rows: of_row.len() as u16,
                lo: window.n0,
                columns: of_column.len() as u16,
                dtype,
                data: picked(0, rows, columns.into()).into(),
            });
            let kind = |first: u16| BufKind::Tile {
                tile,
                first,
                step: n_belts,
            };
            let kinds = (0..n_belts).map(kind).collect();
            (of_row.len() as u16, window.n0, window.n1, kinds)
        };
        let push = |(b, kind): (u16, BufKind)| {
            let n_vectors = (count - b).div_ceil(n_belts) as u32;
            let buf = Buf {
                chip: *chip,
                dtype,
                n_vectors,
                lo,
                hi,
                kind,
                side: *side,
            };
            (self.prog.bufs.push(buf), n_vectors)
        };
        Ok((0..n_belts).zip(kinds).map(push).collect())
    }

    /// Loads of a block from a value computed at run time, as rows or as columns, whichever its lanes allow.
    fn run_time_loads(
        &mut self,
        spec: &Spec,
        rhs: ValueId,
        rows: &[Vec<usize>],
        columns: &[&Vec<usize>],
        window: Window,
        layout: &Layout,
    ) -> Result<Vec<BlockLoad>, CompileError> {
        if self.is_lazy(rhs)
            && let Some(loads) = self.loads_from(spec, rhs, rows, columns, window, &|b, c, axis, most| {
                b.run_behind(rhs, c, axis, most)
            })?
        {
            return Ok(loads);
        }
        let home = self.any_home(rhs)?;
        if let Some(loads) = self.loads_from(spec, rhs, rows, columns, window, &|_, c, axis, most| {
            home.run_along(c, axis, most).map(Some)
        })? {
            return Ok(loads);
        }
        let want = rhs_layout(spec, self.shape(rhs), layout, &self.rows(rhs));
        let home = self.relayout(rhs, &want)?;
        match self.loads_from(spec, rhs, rows, columns, window, &|_, c, axis, most| {
            home.run_along(c, axis, most).map(Some)
        })? {
            Some(loads) => Ok(loads),
            None => Err(CompileError::internal(
                "chains",
                format!("{rhs} cannot be loaded as a tile from {want:?}"),
            )),
        }
    }

    /// Where an element behind moves lies, if it is in memory on the same chip.
    pub fn behind(&self, v: ValueId, c: &[usize]) -> Result<Option<(BufId, u32, u16)>, CompileError> {
        let found = self.run_behind(v, c, 0, 1)?;
        Ok(found.map(|(buf, index, lane, _)| (buf, index, lane)))
    }

    /// The same for the elements from `c` on along an axis, of which at most `most` are of interest.
    fn run_behind(
        &self,
        v: ValueId,
        c: &[usize],
        axis: usize,
        most: usize,
    ) -> Result<Option<(BufId, u32, u16, usize)>, CompileError> {
        let (Resolved::Element(u, at), n) = self.resolve_run(v, c, axis, most)? else {
            return Ok(None);
        };
        match &self.homes[u.index()] {
            Some(home) if !self.is_const(u) && self.chip(u) == self.chip(v) => home.run_at(&at, n).map(Some),
            _ => Ok(None),
        }
    }

    /// The loads of a block of `rhs`, whose elements lie where `find` says; `None` where their lanes allow neither kind.
    fn loads_from(
        &self,
        spec: &Spec,
        rhs: ValueId,
        rows: &[Vec<usize>],
        columns: &[&Vec<usize>],
        window: Window,
        find: &Find<'_>,
    ) -> Result<Option<Vec<BlockLoad>>, CompileError> {
        let coordinates = |row: &[usize], column: &[usize]| {
            let mut c: Few<usize> = SmallVec::from_elem(0, self.shape(rhs).len());
            for &(l, r) in &spec.contracted {
                c[r] = row[l];
            }
            for (a, axis) in spec.axes.iter().enumerate() {
                match axis {
                    Axis::Batch { rhs, .. } | Axis::Column { rhs } => c[*rhs] = column[a],
                    Axis::Row { .. } => {}
                }
            }
            c
        };
        for by_column in [true, false] {
            let outer = if by_column { columns.len() } else { rows.len() };
            let inner = if by_column { rows.len() } else { columns.len() };
            let first = if by_column { window.k0 } else { window.n0 };
            let at = |o: usize, i: usize| match by_column {
                true => coordinates(&rows[i], columns[o]),
                false => coordinates(&rows[o], columns[i]),
            };
            let runs = runs(inner, |i| at(0, i));
            let mut track: Vec<At> = Vec::with_capacity(outer);
            let mut fits = true;
            'vectors: for o in 0..outer {
                let mut vector: Option<At> = None;
                let mut i = 0;
                while i < inner {
                    let (axis, most) = runs[i];
                    let Some((buf, index, lane, n)) = find(self, &at(o, i), axis, most)? else {
                        return Ok(None);
                    };
                    if lane != first + i as u16 || vector.is_some_and(|v| v != (buf, index)) {
                        fits = false;
                        break 'vectors;
                    }
                    vector = Some((buf, index));
                    i += n.clamp(1, most);
                }
                track.extend(vector);
            }
            if !fits || track.len() != outer {
                continue;
            }
            let most = most_belts(self.dtype(rhs));
            let belts = (1..=most).rev().find(|&n| n == 1 || apart(&track, n)).unwrap_or(1);
            let tracks: Vec<Vec<At>> = (0..belts)
                .map(|b| track.iter().skip(b).step_by(belts).copied().collect())
                .collect();
            let mut loads = Vec::new();
            for piece in fit(&tracks, usize::MAX, 3) {
                let n = (piece.len() * belts) as u16;
                let at = (piece.start * belts) as u16;
                let window = if by_column {
                    Window {
                        n0: window.n0 + at,
                        n1: window.n0 + at + n,
                        ..window
                    }
                } else {
                    Window {
                        k0: window.k0 + at,
                        k1: window.k0 + at + n,
                        ..window
                    }
                };
                loads.push(BlockLoad {
                    window,
                    by_column,
                    scales: None,
                    belts: piece.at.iter().map(|&(buf, at)| (buf, at, piece.dims)).collect(),
                });
            }
            return Ok(Some(loads));
        }
        Ok(None)
    }
}

/// For each of `n` elements: an axis along which those after it follow one by one, and how many do, itself included.
fn runs(n: usize, at: impl Fn(usize) -> Few<usize>) -> Vec<(usize, usize)> {
    let mut all = vec![(0, 1); n];
    let mut after = n.checked_sub(1).map(&at).unwrap_or_default();
    for i in (0..n.saturating_sub(1)).rev() {
        let c = at(i);
        let mut moved = (0..c.len()).filter(|&a| c[a] != after[a]);
        if let (Some(axis), None) = (moved.next(), moved.next())
            && after[axis] == c[axis] + 1
        {
            let (next, count) = all[i + 1];
            all[i] = (axis, if next == axis || count == 1 { count + 1 } else { 2 });
        }
        after = c;
    }
    all
}

/// Whether `n` neighbouring vectors always lie in different buffers, those `n` apart mostly in one.
fn apart(track: &[At], n: usize) -> bool {
    let different = |v: &[At]| (0..v.len()).all(|i| (0..i).all(|j| v[i].0 != v[j].0));
    let changes = track
        .iter()
        .zip(&track[n.min(track.len())..])
        .filter(|(a, b)| a.0 != b.0)
        .count();
    track.len().is_multiple_of(n) && track.chunks(n).all(different) && changes * 4 <= track.len()
}

/// A layout of the right operand whose lanes are the columns of the result.
fn rhs_layout(spec: &Spec, shape: &[usize], result: &Layout, rows: &Rows) -> Layout {
    let to_rhs = |a: u8| match spec.axes[a as usize] {
        Axis::Batch { rhs, .. } | Axis::Column { rhs } => Some(rhs as u8),
        Axis::Row { .. } => None,
    };
    let mut lanes = Vec::new();
    for d in &result.lanes {
        lanes.push(LaneDigit {
            axis: d.axis.and_then(to_rhs),
            ..*d
        });
    }
    let mut high = Vec::new();
    for d in &result.vecs {
        if let (Some(axis), true) = (to_rhs(d.axis), lanes.iter().any(|l| l.axis == to_rhs(d.axis))) {
            high.push(VecDigit { axis, ..*d });
        }
    }
    let open: Vec<VecDigit> = (0..shape.len())
        .filter(|&a| shape[a] > 1 && !lanes.iter().any(|l| l.axis == Some(a as u8)))
        .map(|a| whole_axis(shape, a))
        .collect();
    finish(shape, lanes, high, &open, rows)
}
