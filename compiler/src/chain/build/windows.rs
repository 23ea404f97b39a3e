//! Contracts over windows and packed pixels: convolutions.
//!
//! The left operand is read where its elements lie, through the moves that form the windows. For every group of lanes of a
//! result vector that share a pixel (a *block*), the contracted elements lie in runs of neighbouring lanes of some vectors; a
//! *pass* multiplies one of these vectors by a tile that has, for each block that takes part, the rows of its run. Passes
//! follow the order of the contracted axes in every block. Result vectors with the same tiles are rows of the same products;
//! those at a border take part in fewer passes, or in others, and share the tiles that they have in common.
//!
//! Elements that a move fills with zero take no part: adding their products changes no sum.

use super::contract::{Axis, Spec, Work};
use super::epilogue::Epilogue;
use super::fit::{At, fit};
use super::kernel::{EPILOGUE_ALUS, Sources};
use super::source::Resolved;
use super::tiles::BlockLoad;
use super::{Builder, Home};
use crate::chain::BufId;
use crate::error::CompileError;
use crate::layout::Layout;
use crate::layout::choose::with_lanes;
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::run::Window;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Fewest rows for which another matrix unit loads the same tiles.
const LEAST_SHARE: usize = 48;

/// Contracted elements of one pixel that lie side by side in one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// First of them, counted over the contracted axes.
    k: usize,
    n: usize,
    at: At,
    lane: u16,
}

/// A block of a tile: columns `n0..n1` take contracted elements `k..k + n` from lanes `lane..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    n0: u16,
    n1: u16,
    lane: u16,
    n: usize,
    k: usize,
}

/// The blocks of one tile.
type Tile = Vec<Block>;

/// Where the left operand lies, pixel by pixel.
struct Reader {
    lhs: ValueId,
    /// Homes of the values behind its moves.
    homes: BTreeMap<ValueId, Rc<Home>>,
    /// Contracted axes of the left operand, slowest first, with their extents.
    axes: Vec<(usize, usize)>,
    /// A vector of what the moves fill with.
    fill: Option<At>,
    pixels: BTreeMap<Vec<usize>, Rc<Vec<Run>>>,
}

impl Builder<'_> {
    /// Whether a contract reads windows, or packed pixels, by a constant operand.
    pub fn is_windowed(&self, v: ValueId, spec: &Spec) -> bool {
        let (lhs, rhs) = (self.ir.values[v].inputs[0], self.ir.values[v].inputs[1]);
        if !self.is_const(rhs) || self.is_const(lhs) || !spec.batch.is_empty() || spec.contracted.is_empty() {
            return false;
        }
        let here = |u: ValueId| self.chip(u) == self.chip(v);
        if !self.origins_of(lhs).iter().all(|&u| here(u) && !self.is_const(u)) {
            return false;
        }
        let Op::Move { parts, .. } = &self.ir.values[lhs].op else {
            return self.planned[v.index()].is_some() || self.planned[lhs.index()].is_some();
        };
        let planned = |u: &ValueId| self.planned[u.index()].is_some();
        if !self.is_lazy(lhs) {
            return false;
        }
        if planned(&v) || self.origins_of(lhs).iter().any(planned) {
            return true;
        }
        let from: usize = self.ir.values[lhs]
            .inputs
            .iter()
            .map(|&u| self.ir.values[u].ty.elements())
            .sum();
        let repeats = self.ir.values[lhs].ty.elements() > from;
        parts.len() == 1
            && self.keeps_channels(lhs)
            && (repeats || parts.iter().any(|&m| !self.ir.maps.get(m).is_total()))
    }

    /// Values that a value is made of behind moves that are not carried out.
    fn origins_of(&self, v: ValueId) -> Vec<ValueId> {
        if !self.is_lazy(v) {
            return vec![v];
        }
        let mut all: Vec<ValueId> = self.ir.values[v]
            .inputs
            .iter()
            .flat_map(|&u| self.origins_of(u))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether coordinate c of the last axis is coordinate c of the last axis behind the moves that are not carried out.
    pub fn keeps_channels(&self, v: ValueId) -> bool {
        if !self.is_lazy(v) {
            return true;
        }
        let data = &self.ir.values[v];
        let Op::Move { parts, .. } = &data.op else { return false };
        let Some(&c) = data.ty.shape.last() else { return false };
        parts.iter().zip(&data.inputs).all(|(&m, &u)| {
            self.shape(u).last() == Some(&c)
                && self.ir.maps.get(m).views.iter().all(|v| v.keeps_last(c))
                && self.keeps_channels(u)
        })
    }

    /// A convolution and the maps that follow it.
    pub fn lower_windowed(&mut self, v: ValueId, spec: &Spec) -> Result<(), CompileError> {
        let (lhs, rhs) = (self.ir.values[v].inputs[0], self.ir.values[v].inputs[1]);
        let chip = self.chip(v);
        let layout = self.contract_layout(v, spec);
        let plain =
            spec.contracted.last().is_some_and(|p| p.0 + 1 == self.shape(lhs).len()) && self.keeps_channels(lhs);
        let mut homes = BTreeMap::new();
        for u in self.origins_of(lhs) {
            let mut home = self.any_home(u)?;
            let last = self.shape(u).len().saturating_sub(1);
            let innermost = home.layout.lanes.iter().find(|d| d.extent > 1).and_then(|d| d.axis);
            if plain && self.shape(u)[last] > 1 && innermost != Some(last as u8) {
                let want = with_lanes(self.shape(u), &[last], self.lanes(), &self.rows(u), |_| false);
                home = self.relayout(u, &want)?;
            }
            homes.insert(u, home);
        }
        let mut reader = Reader {
            lhs,
            homes,
            axes: spec.contracted.iter().map(|p| (p.0, self.shape(lhs)[p.0])).collect(),
            fill: None,
            pixels: BTreeMap::new(),
        };
        let epilogue = Epilogue {
            maps: self.epilogue(v, EPILOGUE_ALUS),
            ..Epilogue::default()
        };
        let out = epilogue.out(v);
        let home = self.result_home(out, &layout);
        let most = self.target.mxm.acc_rows as usize;
        let units = (self.target.mxm_units(self.dtype(lhs)) as usize).max(1);
        let planes = self.target.mxm_rate(self.dtype(lhs)).map_or(1, |r| r.planes);
        // Operands of the epilogue, and the fill, of each matrix unit.
        let mut by_unit: BTreeMap<(lockstep_isa::Dir, usize), Sources> = BTreeMap::new();
        let mut fills: BTreeMap<(lockstep_isa::Dir, usize), BufId> = BTreeMap::new();
        for (key, side, segments) in self.by_columns(self.jobs(&home, spec, lockstep_isa::Dir::East), lhs, rhs) {
            // Vectors in order, each with its part, its tiles and the left vectors that they multiply.
            let mut vectors = Vec::new();
            for (p, indices) in &segments {
                let bases = layout.bases(&home.parts[*p]);
                for &i in indices {
                    let (tiles, left) = self.tiles_of(&mut reader, spec, &layout, &bases[i], home.parts[*p].hi)?;
                    vectors.push((*p, i as u32, bases[i].clone(), tiles, left));
                }
            }
            // Every matrix unit of the hemisphere has its share, in as few parts as its accumulators hold.
            let shared = if vectors.len().div_ceil(units) < LEAST_SHARE {
                1
            } else {
                units
            };
            let parts = vectors.len().div_ceil(most * shared) * shared;
            let share = vectors.len().div_ceil(parts.max(1)).max(1);
            for (unit, chunk) in vectors.chunks(share).enumerate() {
                let unit = unit % units;
                let mut sources = match by_unit.remove(&(side, unit)) {
                    Some(sources) => sources,
                    None => {
                        let sources = self.operand_sources(&epilogue.maps, &[v], &layout, chip, Some(side))?;
                        if unit == 0 { sources } else { self.own_copies(&sources) }
                    }
                };
                let mut kinds: Vec<&Vec<Tile>> = Vec::new();
                let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
                for (n, (p, _, _, tiles, _)) in chunk.iter().enumerate() {
                    let kind = kinds.iter().position(|k| *k == tiles).unwrap_or_else(|| {
                        kinds.push(tiles);
                        kinds.len() - 1
                    });
                    groups.entry((*p, kind)).or_default().push(n);
                }
                let (order, places) = merged(&kinds);
                // A tile is loaded while the one before it multiplies.
                let mut rows = vec![0; order.len()];
                for ((_, kind), members) in &groups {
                    places[*kind].iter().for_each(|&t| rows[t] += members.len());
                }
                let own = self.loads.per_side.then_some(side);
                let mut passes = Vec::new();
                for (t, tile) in order.iter().enumerate() {
                    let rows = rows[t.saturating_sub(1)];
                    passes.push(self.tile_loads(spec, rhs, &reader, tile, &key, &layout, chip, rows, own)?);
                }
                let mut work = Vec::new();
                for ((p, kind), members) in groups {
                    let Some(dest) = home.bufs[p] else { continue };
                    let mut tracks: Vec<Vec<At>> = vec![members.iter().map(|&n| (dest, chunk[n].1)).collect()];
                    for t in 0..kinds[kind].len() {
                        let mut track: Vec<At> = members.iter().map(|&n| chunk[n].4[t]).collect();
                        if let Some((fill, _)) = reader.fill {
                            for at in track.iter_mut().filter(|at| at.0 == fill) {
                                at.0 = *fills.entry((side, unit)).or_insert_with(|| {
                                    let own = self.prog.bufs[fill].clone();
                                    self.prog.bufs.push(own)
                                });
                            }
                        }
                        tracks.push(track);
                    }
                    let bases: Vec<Vec<usize>> = members.iter().map(|&n| chunk[n].2.clone()).collect();
                    let last = tracks.len() - 1;
                    let operands = self.operand_tracks(&mut sources, &layout, &bases, &tracks[last..])?;
                    tracks.extend(operands);
                    for piece in fit(&tracks, most, 3) {
                        let passes = places[kind].clone();
                        work.push(Work { piece, passes });
                    }
                }
                let plane = unit as u8 * planes;
                self.emit_chain(v, &epilogue, &passes, &work, &sources, (side, plane), chip)?;
                by_unit.insert((side, unit), sources);
            }
        }
        self.finish(&epilogue.values(v), out, home);
        Ok(())
    }

    /// Loads of all blocks of a tile, on as few belts as the products of `rows` rows hide.
    #[allow(clippy::too_many_arguments)]
    fn tile_loads(
        &mut self,
        spec: &Spec,
        rhs: ValueId,
        reader: &Reader,
        tile: &Tile,
        key: &[usize],
        layout: &Layout,
        chip: u16,
        rows: usize,
        side: Option<lockstep_isa::Dir>,
    ) -> Result<Vec<BlockLoad>, CompileError> {
        let rate = self
            .target
            .mxm_rate(self.dtype(rhs))
            .map_or(1, |r| r.cycles_per_vector as usize);
        let vectors: usize = tile.iter().map(|b| b.n).sum();
        let hidden = (rows * rate).saturating_sub(self.target.latency.load as usize);
        let belts = vectors.div_ceil(hidden.max(1));
        let mut loads = Vec::new();
        for b in tile {
            let rows: Vec<Vec<usize>> = (b.k..b.k + b.n)
                .map(|k| reader.coordinates(k, self.shape(reader.lhs).len()))
                .collect();
            let columns: Vec<Vec<usize>> = (b.n0..b.n1)
                .map(|l| {
                    let mut c = key.to_vec();
                    layout.add_lane(l as usize, &mut c);
                    c
                })
                .collect();
            let columns: Vec<&Vec<usize>> = columns.iter().collect();
            let window = Window {
                n0: b.n0,
                n1: b.n1,
                k0: b.lane,
                k1: b.lane + b.n as u16,
            };
            loads.extend(self.block_loads(spec, rhs, &rows, &columns, window, chip, layout, belts, side)?);
        }
        Ok(loads)
    }

    /// The passes of one result vector: tiles, and the vectors that they multiply.
    fn tiles_of(
        &mut self,
        reader: &mut Reader,
        spec: &Spec,
        layout: &Layout,
        base: &[usize],
        hi: usize,
    ) -> Result<(Vec<Tile>, Vec<At>), CompileError> {
        let column = |a: Option<u8>| a.is_some_and(|a| matches!(spec.axes[a as usize], Axis::Column { .. }));
        let width: usize = layout
            .lanes
            .iter()
            .take_while(|d| column(d.axis))
            .map(|d| d.extent)
            .product();
        let mut blocks = Vec::new();
        for n0 in (0..hi).step_by(width.max(1)) {
            let mut c = base.to_vec();
            layout.add_lane(n0, &mut c);
            let mut x = vec![0; self.shape(reader.lhs).len()];
            for (a, axis) in spec.axes.iter().enumerate() {
                if let Axis::Row { lhs } = axis {
                    x[*lhs] = c[a];
                }
            }
            let runs = match reader.pixels.get(&x) {
                Some(runs) => runs.clone(),
                None => {
                    let runs = Rc::new(self.runs(reader, &x)?);
                    reader.pixels.insert(x, runs.clone());
                    runs
                }
            };
            blocks.push((n0 as u16, hi.min(n0 + width) as u16, runs, 0));
        }
        let (mut tiles, mut left) = (Vec::new(), Vec::new());
        loop {
            let next = blocks.iter().filter_map(|b| b.2.get(b.3)).min_by_key(|r| r.k);
            let Some(at) = next.map(|r| r.at) else { break };
            let mut tile: Tile = Vec::new();
            for (n0, n1, runs, done) in &mut blocks {
                let Some(r) = runs.get(*done).filter(|r| r.at == at) else {
                    continue;
                };
                *done += 1;
                let block = Block {
                    n0: *n0,
                    n1: *n1,
                    lane: r.lane,
                    n: r.n,
                    k: r.k,
                };
                match tile.last_mut() {
                    Some(b) if (b.n1, b.lane, b.n, b.k) == (*n0, r.lane, r.n, r.k) => b.n1 = *n1,
                    _ => tile.push(block),
                }
            }
            tiles.push(tile);
            left.push(at);
        }
        Ok((tiles, left))
    }

    /// Where the contracted elements of a pixel lie, in order.
    fn runs(&mut self, reader: &mut Reader, pixel: &[usize]) -> Result<Vec<Run>, CompileError> {
        let mut runs: Vec<Run> = Vec::new();
        let axes = reader.axes.clone();
        let Some((&(last, channels), outer)) = axes.split_last() else {
            return Ok(runs);
        };
        let n_outer: usize = outer.iter().map(|a| a.1).product();
        let mut c = pixel.to_vec();
        for position in 0..n_outer {
            let mut rest = position;
            for &(a, n) in outer.iter().rev() {
                c[a] = rest % n;
                rest /= n;
            }
            let mut channel = 0;
            while channel < channels {
                c[last] = channel;
                let k = position * channels + channel;
                let (found, along) = self.resolve_run(reader.lhs, &c, last, channels - channel)?;
                let (at, lane, n) = match found {
                    // Zeros change no sum.
                    Resolved::Fill(0) => {
                        channel += along;
                        continue;
                    }
                    Resolved::Fill(bits) => (self.filled(reader, bits), 0, along.min(self.lanes())),
                    Resolved::Element(u, e) => {
                        let Some(home) = reader.homes.get(&u) else {
                            return Err(CompileError::internal("chains", format!("{u} has no home")));
                        };
                        let (buf, index, lane, n) = home.run_at(&e, along)?;
                        ((buf, index), lane, n)
                    }
                };
                channel += n;
                match runs.last_mut() {
                    Some(r) if r.at == at && r.k + r.n == k && r.lane as usize + r.n == lane as usize => r.n += n,
                    _ => runs.push(Run { k, n, at, lane }),
                }
            }
        }
        if runs.is_empty() {
            // A window that lies in the border altogether.
            let (at, n) = (self.filled(reader, 0), channels.min(self.lanes()));
            runs.push(Run { k: 0, n, at, lane: 0 });
        }
        Ok(runs)
    }

    /// A vector of the fill of the left operand.
    fn filled(&mut self, reader: &mut Reader, bits: u32) -> At {
        if let Some(at) = reader.fill {
            return at;
        }
        let (chip, dtype) = (self.chip(reader.lhs), self.dtype(reader.lhs));
        let bytes = bits.to_le_bytes()[..dtype.bytes()].repeat(self.lanes());
        let at = (self.const_vector(None, chip, None, dtype, bytes), 0);
        reader.fill = Some(at);
        at
    }
}

impl Reader {
    /// Coordinates of contracted element `k` of the left operand, other axes zero.
    fn coordinates(&self, k: usize, rank: usize) -> Vec<usize> {
        let mut c = vec![0; rank];
        let mut rest = k;
        for &(a, n) in self.axes.iter().rev() {
            c[a] = rest % n;
            rest /= n;
        }
        c
    }
}

/// One order of tiles of which each kind is a subsequence, and the places of the tiles of each kind in it.
fn merged(kinds: &[&Vec<Tile>]) -> (Vec<Tile>, Vec<Vec<usize>>) {
    let mut by_length: Vec<usize> = (0..kinds.len()).collect();
    by_length.sort_by_key(|&k| std::cmp::Reverse(kinds[k].len()));
    let mut order: Vec<Tile> = Vec::new();
    for &k in &by_length {
        let mut at = 0;
        for tile in kinds[k] {
            match order[at..].iter().position(|t| t == tile) {
                Some(n) => at += n + 1,
                None => {
                    // Beside the tiles of the same contracted elements.
                    let first = |t: &Tile| t.iter().map(|b| b.k).min();
                    let n = order[at..].iter().position(|t| first(t) >= first(tile));
                    at += n.unwrap_or(order.len() - at);
                    order.insert(at, tile.clone());
                    at += 1;
                }
            }
        }
    }
    let places = |kind: &Vec<Tile>| {
        let mut at = 0;
        let mut places = Vec::with_capacity(kind.len());
        for tile in kind {
            if let Some(n) = order[at..].iter().position(|t| t == tile) {
                places.push(at + n);
                at += n + 1;
            }
        }
        places
    };
    let places = kinds.iter().map(|k| places(k)).collect();
    (order, places)
}
