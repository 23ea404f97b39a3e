//! Products and where their weights come from.
//!
//! Weights that `load.row` takes from a weight tile of the artifact are used where they are. Other constants are packed
//! into panels at load. Weights computed at run time are packed when the first product needs them, or used in place
//! where few rows are multiplied and their rows are evenly spaced.

use crate::plan::build::{Building, Chain};
use crate::plan::link::{Linked, Source};
use crate::plan::pool::{Content, packed_dtype};
use crate::plan::{Arg, BlockStep, FactorStep, Multiply, OpKind, Pack, Rows, ScaleStep, Space, Step, Tape, TapeOp};
use lockstep_isa::artifact::PANEL_COLUMNS;
use lockstep_isa::run::AccIn;
use lockstep_isa::{DType, Opcode};

/// Up to this many rows, evenly spaced run-time weights are multiplied where they are.
const IN_PLACE_ROWS: u32 = 4;

/// Panels of a tile block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    space: Space,
    offset: usize,
    w_step: usize,
    panel_step: usize,
    dtype: DType,
    scales: Option<ScaleStep>,
}

impl Weights {
    /// Panels with `k` rows each.
    fn packed(space: Space, offset: usize, k: u32, dtype: DType) -> Weights {
        let w_step = PANEL_COLUMNS * dtype.bytes();
        Weights {
            space,
            offset,
            w_step,
            panel_step: w_step * k as usize,
            dtype,
            scales: None,
        }
    }
}

/// Bytes of a weight tile, where they lie within the weights section.
pub fn tile_bytes(linked: &Linked<'_>, tile: u32) -> Option<usize> {
    let image = linked.artifact.tiles.get(tile as usize)?;
    let panels = (image.columns as usize).div_ceil(PANEL_COLUMNS);
    let bytes = panels * image.rows as usize * PANEL_COLUMNS * image.dtype.bytes();
    let end = usize::try_from(image.offset).ok()?.checked_add(bytes)?;
    (end <= linked.artifact.weight_bytes().len()).then_some(bytes)
}

impl Chain<'_, '_> {
    /// Whether every vector of a tile load is constant.
    pub fn is_static_load(&self, load: usize) -> bool {
        self.facts[self.b.linked.nodes[load].rank].constant
    }

    /// As [`Chain::is_static_load`], from the claims.
    pub fn is_constant_load(&self, load: usize) -> bool {
        let linked = self.b.linked;
        let run = linked.nodes[load].run;
        let belts = (run.belts as u32).max(1).min(run.load_vectors());
        (0..belts as usize).all(|g| {
            let p = linked.producer(load, g, 0);
            p.is_ok_and(|(id, _)| linked.is_constant(id))
        })
    }

    /// The panels of a tile load, in place. `None` where the load does not take consecutive rows of one weight tile.
    fn tile_weights(&mut self, load: usize) -> Building<Option<Weights>> {
        let linked = self.b.linked;
        let run = linked.nodes[load].run;
        let (vectors, belts) = (run.load_vectors(), (run.belts as u32).max(1));
        let decoded = run.is_scaled() && self.b.decode;
        if run.op != Opcode::LoadRow || decoded || !self.is_static_load(load) {
            return Ok(None);
        }
        let mut start = None;
        for g in 0..belts.min(vectors) {
            let count = (vectors - g).div_ceil(belts);
            let (read, first) = linked.producer(load, g as usize, count)?;
            let Some((tile, rows)) = linked.tile_rows_of(read) else {
                return Ok(None);
            };
            let rows = rows.skip(first);
            let (tile0, row0) = *start.get_or_insert((tile, rows.at(0)));
            let from = row0 + g as i64;
            let even = match rows.even(0) {
                (n, step) if n >= count => rows.at(0) == from && (count == 1 || step == belts as i64),
                _ => (0..count).all(|j| rows.at(j) == from + j as i64 * belts as i64),
            };
            if tile != tile0 || !even {
                return Ok(None);
            }
        }
        let Some((tile, row)) = start else {
            return Ok(None);
        };
        let image = linked.artifact.tiles[tile as usize];
        let columns = run.window.n0.checked_sub(image.lo);
        let inside = run.window.n1 <= image.lo.saturating_add(image.columns);
        let Some(column) = columns.filter(|c| (*c as usize).is_multiple_of(PANEL_COLUMNS) && inside) else {
            return Ok(None);
        };
        if image.dtype != run.a.dtype || tile_bytes(linked, tile).is_none() {
            return Ok(None);
        }
        let size = image.dtype.bytes();
        let w_step = PANEL_COLUMNS * size;
        let panel_step = w_step * image.rows as usize;
        let panel = column as usize / PANEL_COLUMNS;
        Ok(Some(Weights {
            space: Space::Weights,
            offset: image.offset as usize + panel * panel_step + row as usize * w_step,
            w_step,
            panel_step,
            dtype: image.dtype,
            scales: self.scales_of(load)?,
        }))
    }

    /// The panels of a tile load, packed at load or by a step where need be. `rows` is how many rows of x they multiply.
    fn weights_of(&mut self, load: usize, rows: u32) -> Building<Weights> {
        let rank = self.b.linked.nodes[load].rank;
        if let Some(w) = self.facts[rank].weights {
            return Ok(w);
        }
        let weights = match self.tile_weights(load)? {
            Some(w) => w,
            None => self.packed_weights(load, rows)?,
        };
        self.facts[rank].weights = Some(weights);
        Ok(weights)
    }

    /// Bytes of memory at which the scales of each issue of a load lie, lane 0.
    fn scale_rows(&self, load: usize) -> Building<Vec<usize>> {
        let linked = self.b.linked;
        let run = linked.nodes[load].run;
        let slot = (run.belts as u32).min(run.load_vectors()) as usize;
        let (read, first) = linked.producer(load, slot, run.issues())?;
        if !linked.is_constant(read) || linked.width(read) != run.b.dtype.bytes() {
            return Err(linked.error(load, "scales that are no constants").into());
        }
        let rows = linked.memory_rows(read)?.skip(first);
        Ok((0..run.issues()).map(|j| rows.at(j) as usize).collect())
    }

    /// The scales of a load in panels of the pool.
    fn scales_of(&mut self, load: usize) -> Building<Option<ScaleStep>> {
        let linked = self.b.linked;
        let run = linked.nodes[load].run;
        if !run.is_scaled() {
            return Ok(None);
        }
        let rows = self.scale_rows(load)?;
        let alike = rows.iter().take_while(|r| Some(*r) == rows.first()).count().max(1);
        let even = rows.chunks(alike).all(|c| c.iter().all(|r| r == &c[0]));
        let each = if even { alike } else { 1 };
        let blocks: Vec<usize> = rows.iter().step_by(each).copied().collect();
        let (size, n) = (run.b.dtype.bytes(), (run.window.n1 - run.window.n0) as usize);
        let panels = n.div_ceil(PANEL_COLUMNS);
        let bytes = panels * blocks.len() * PANEL_COLUMNS * size;
        self.check_limit(self.b.pool.len() as u64 + bytes as u64)?;
        let n_blocks = blocks.len() as u32;
        let first = run.window.n0 as usize * size;
        let rows = blocks.iter().map(|row| row + first).collect();
        let offset = self.b.pool.add(bytes, Content::Panels { rows, n, size });
        Ok(Some(ScaleStep {
            offset,
            blocks: n_blocks,
            rows: each as u32 * run.belts as u32 * run.load_rows(),
            dtype: run.b.dtype,
        }))
    }

    fn packed_weights(&mut self, load: usize, rows: u32) -> Building<Weights> {
        let linked = self.b.linked;
        let run = linked.nodes[load].run;
        let columns = run.op == Opcode::LoadCol;
        let vectors = run.load_vectors();
        let (k, n) = (run.window.k1 - run.window.k0, run.window.n1 - run.window.n0);
        let (lo, lanes) = match columns {
            true => (run.window.k0, k),
            false => (run.window.n0, n),
        };
        let mut belts = Vec::new();
        for (source, width) in self.belt_sources(load)? {
            if width != run.a.dtype.bytes() {
                let what = format!("a belt of {width} bytes per lane");
                return Err(linked.error(load, what).into());
            }
            belts.push(self.rows_of(source)?);
        }
        let bytes = PANEL_COLUMNS * 4 * k as usize * (n as usize).div_ceil(PANEL_COLUMNS);
        let mut pack = Pack {
            belts,
            vectors,
            columns,
            dtype: run.a.dtype,
            lo: lo as u32,
            n: lanes as u32,
            out: 0,
        };
        if run.is_scaled() {
            if !self.is_static_load(load) {
                return Err(linked.error(load, "scaled rows that are computed at run time").into());
            }
            let scales = self.scale_rows(load)?;
            self.check_limit(self.b.pool.len() as u64 + bytes as u64)?;
            let content = Content::Scaled {
                pack,
                scales,
                dtype: run.b.dtype,
                depth: k as usize,
            };
            let at = self.b.pool.add(bytes, content);
            return Ok(Weights::packed(Space::Pool, at, k as u32, DType::F32));
        }
        if self.is_static_load(load) {
            let dtype = packed_dtype(run.a.dtype);
            let bytes = bytes / 4 * dtype.bytes();
            self.check_limit(self.b.pool.len() as u64 + bytes as u64)?;
            let at = self.b.pool.add(bytes, Content::Packed(pack));
            return Ok(Weights::packed(Space::Pool, at, k as u32, dtype));
        }
        if let Some(w) = in_place(&pack, rows, n) {
            return Ok(w);
        }
        pack.out = self.reserve_bytes(bytes as u64)?;
        self.b.plan.pointers = self.b.plan.pointers.max(PANEL_COLUMNS);
        let weights = Weights::packed(Space::Scratch, pack.out, k as u32, run.a.dtype.widened());
        self.steps.push((Step::Pack(pack), load));
        Ok(weights)
    }

    /// Adds a product.
    pub fn multiply(&mut self, id: usize) -> Building<()> {
        let linked = self.b.linked;
        let node = linked.nodes[id];
        let run = node.run;
        let rows = run.issues();
        let operands = self.sources(id);
        let sources = operands.as_slice();
        let n_blocks = node.claims.blocks.len();
        let mut loads = Vec::with_capacity(n_blocks);
        for block in &node.claims.blocks {
            loads.push(linked.block_load(id, block.load)?);
        }
        let mut blocks = Vec::with_capacity(n_blocks);
        let (mut k_low, mut k_high) = (u16::MAX, 0);
        for &load in &loads {
            let w = self.weights_of(load, rows)?;
            let window = linked.nodes[load].run.window;
            let tile = linked.nodes[load].run.dtype;
            if tile.is_float() != run.a.dtype.is_float() {
                let what = format!("x of {} by a tile of {tile}", run.a.dtype);
                return Err(linked.error(id, what).into());
            }
            (k_low, k_high) = (k_low.min(window.k0), k_high.max(window.k1));
            blocks.push((window, w));
        }
        let Some(&(x, width)) = sources.first() else {
            return Err(linked.error(id, "no claim for x").into());
        };
        // Only these reach the matrix units; sums of their products are exact in f32.
        if !matches!(
            run.a.dtype,
            DType::F32 | DType::F16 | DType::BF16 | DType::I8 | DType::U8
        ) {
            return Err(linked.error(id, format!("x of {}", run.a.dtype)).into());
        }
        if blocks.is_empty() || width != run.a.dtype.bytes() {
            let what = format!("{} blocks, x of {width} bytes per lane", blocks.len());
            return Err(linked.error(id, what).into());
        }
        let mut x = self.rows_of(x)?;
        if run.a.dtype.bytes() != 4 {
            x = self.to_float(id, x, rows, run.a.dtype, (k_low, k_high))?;
        }
        let (acc, mut copy, mut defined) = self.start(id, sources)?;
        // Blocks that share columns go by ascending k; the first of them starts what no accumulator defines.
        blocks.sort_by_key(|(window, _)| (window.k0, window.n0));
        let mut clear = Vec::new();
        let mut parts: Vec<(BlockStep, FactorStep)> = Vec::with_capacity(blocks.len());
        for (window, w) in blocks {
            let (n0, n1) = (window.n0 as u32, window.n1 as u32);
            let zero = !defined.iter().any(|&(a, b)| a < n1 && n0 < b);
            if !zero && !defined.iter().any(|&(a, b)| a <= n0 && n1 <= b) {
                clear.extend((n0..n1).filter(|&l| !has(&defined, l)));
            }
            defined.push((n0, n1));
            let block = BlockStep {
                n0,
                n: n1 - n0,
                dtype: w.dtype,
                integer: !run.a.dtype.is_float(),
                zero,
                factors: (0, 0),
                places: (0, 0),
            };
            let factor = FactorStep {
                x: window.k0 as i64 * 4,
                k: (window.k1 - window.k0) as u32,
                space: w.space,
                offset: w.offset,
                w_step: w.w_step,
                panel_step: w.panel_step,
                scales: w.scales,
            };
            parts.push((block, factor));
        }
        if !clear.is_empty() {
            // Some columns of a block go on from the accumulator and others start from zero: a case of its own that
            // no fused form has. Zero the latter first.
            let zeros = self.b.pool.row(false, 0, self.b.row_bytes);
            if let Some((from, lo, hi)) = copy.take() {
                self.copy(id, from, acc, rows, (lo, hi - lo));
            }
            for lane in clear {
                self.copy(id, zeros, acc, rows, (lane * 4, 4));
            }
        }
        merge(&mut defined);
        self.facts[node.rank].columns = Some(defined);
        self.facts[node.rank].place = Some(acc);
        let plan = &mut self.b.plan;
        let deepest = parts.iter().map(|(_, f)| f.k).max().unwrap_or(0) as usize;
        plan.local = plan.local.max(deepest * PANEL_COLUMNS * 4);
        // Blocks that share columns are steps of their own, one after the other.
        while !parts.is_empty() {
            let mut step = Multiply {
                rows,
                x: vec![x],
                each: rows,
                blocks: Vec::with_capacity(parts.len()),
                factors: Vec::with_capacity(parts.len()),
                places: vec![(0, 0)],
                acc,
                copy: copy.take(),
                follow: None,
            };
            let mut later = Vec::new();
            for (mut b, f) in parts {
                let shared = |other: &BlockStep| b.n0 < other.n0 + other.n && other.n0 < b.n0 + b.n;
                if !later.is_empty() || step.blocks.iter().any(shared) {
                    later.push((b, f));
                    continue;
                }
                let at = step.factors.len() as u32;
                (b.factors, b.places) = ((at, at + 1), (0, 1));
                step.blocks.push(b);
                step.factors.push(f);
            }
            self.steps.push((Step::Multiply(step), id));
            parts = later;
        }
        Ok(())
    }

    /// The accumulator rows of a product, what to copy into them first, and which columns that defines.
    #[allow(clippy::type_complexity)]
    fn start(
        &mut self,
        id: usize,
        sources: &[(Source, usize)],
    ) -> Building<(Rows, Option<(Rows, u32, u32)>, Vec<(u32, u32)>)> {
        let linked = self.b.linked;
        let run = linked.nodes[id].run;
        let rows = run.issues();
        let source = match run.acc_in {
            AccIn::Zero => return Ok((self.reserve(rows)?, None, Vec::new())),
            AccIn::Row => {
                let (p, first) = linked.accumulator(id, rows)?;
                Source::Node(p, first)
            }
            AccIn::Stream => match sources.get(1) {
                Some(&(s, 4)) => s,
                _ => {
                    return Err(linked.error(id, "no accumulator of 4 bytes per lane").into());
                }
            },
        };
        let from = self.rows_of(source)?;
        let (lo, hi) = (run.lo as u32, run.hi as u32);
        let Source::Node(p, first) = source else {
            let acc = self.reserve(rows)?;
            return Ok((acc, Some((from, lo * 4, hi * 4)), vec![(lo, hi)]));
        };
        let product = linked.nodes[p].run.op == Opcode::Mul;
        let rank = linked.nodes[p].rank;
        let defined = match &self.facts[rank].columns {
            Some(c) => c.clone(),
            None => {
                let r = linked.nodes[p].run;
                vec![(r.lo as u32, r.hi as u32)]
            }
        };
        let overlaps = |&&(f, n): &&(u32, u32)| f < first + rows && first < f + n;
        let shared = self.facts[rank].uses.iter().filter(overlaps).count() > 1;
        if product && !shared {
            return Ok((from, None, defined));
        }
        let acc = self.reserve(rows)?;
        let bytes = linked.artifact.target.lanes as u32 * 4;
        Ok((acc, Some((from, 0, bytes)), defined))
    }

    /// Copies `n` bytes from byte `lo` on of rows.
    fn copy(&mut self, id: usize, from: Rows, to: Rows, rows: u32, (lo, n): (u32, u32)) {
        let op = TapeOp {
            kind: OpKind::Copy { size: 4 },
            a: Arg::Rows(from),
            b: Arg::None,
            c: Arg::None,
            out: Arg::Rows(to),
            lo,
            n,
        };
        let tape = Tape {
            rows,
            block: 1,
            grain: 1,
            slots: 0,
            ops: vec![op],
        };
        self.steps.push((Step::Tape(tape), id));
    }
}

/// Joins ranges that overlap or touch.
fn merge(ranges: &mut Vec<(u32, u32)>) {
    ranges.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for &(a, b) in ranges.iter() {
        match joined.last_mut() {
            Some(last) if a <= last.1 => last.1 = last.1.max(b),
            _ => joined.push((a, b)),
        }
    }
    *ranges = joined;
}

fn has(ranges: &[(u32, u32)], lane: u32) -> bool {
    ranges.iter().any(|&(a, b)| (a..b).contains(&lane))
}

/// Evenly spaced rows of whole panels that few rows multiply need no packing.
fn in_place(pack: &Pack, rows: u32, n: u16) -> Option<Weights> {
    if pack.columns || rows > IN_PLACE_ROWS || !(n as usize).is_multiple_of(PANEL_COLUMNS) {
        return None;
    }
    let belts = pack.belts.len() as u32;
    let at = |i: u32| pack.belts[(i % belts) as usize].at(i / belts);
    let space = pack.belts.first()?.space;
    let step = if pack.vectors > 1 { at(1) - at(0) } else { 0 };
    let even = (1..pack.vectors).all(|i| at(i) - at(i - 1) == step);
    if step < 0 || !even || pack.belts.iter().any(|b| b.space != space) {
        return None;
    }
    let size = pack.dtype.bytes();
    Some(Weights {
        space,
        offset: usize::try_from(at(0) + pack.lo as i64 * size as i64).ok()?,
        w_step: step as usize,
        panel_step: PANEL_COLUMNS * size,
        dtype: pack.dtype,
        scales: None,
    })
}
