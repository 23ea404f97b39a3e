//! Links an artifact's chains to steps over rows, with every address resolved: what an executor runs.
//!
//! [`load()`] links every chain's instructions through their claims ([`link`]) and derives a [`Plan`] from them ([`build`],
//! [`matrix`], [`tape`]): products over weight panels that are used where the artifact has them, and tapes of vector operations
//! over rows. Belts, tiles and accumulators do not exist; data flows from rows through registers to rows.
//!
//! A step works on a range of rows. Row n stands for issue n of the runs that the step was derived from, so a step can
//! be cut anywhere between rows: into blocks that stay in cache, or over threads.

pub mod build;
pub mod depend;
pub mod follow;
pub mod join;
pub mod link;
pub mod load;
pub mod matrix;
pub mod pool;
pub mod tape;

pub use load::{Loaded, load};
use lockstep_isa::{AluOp, DType};
use std::collections::BTreeSet;

/// What an offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Chip memory.
    Memory = 0,
    /// Scratch of the session, reused by every chain.
    Scratch = 1,
    /// Constants made at load.
    Pool = 2,
    /// The weights section of the artifact.
    Weights = 3,
}

/// Number of spaces.
pub const SPACES: usize = 4;

/// Where the vectors of a run lie: up to three nested dimensions of byte strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rows {
    /// What `offset` counts from.
    pub space: Space,
    /// Byte of issue 0.
    pub offset: i64,
    /// Issue that row 0 stands for.
    pub first: u32,
    /// Steps of the two inner dimensions; `u32::MAX` for the inner one where there is no other.
    pub counts: [u32; 2],
    /// Bytes per step.
    pub strides: [i64; 3],
}

impl Rows {
    /// Equidistant rows.
    pub fn linear(space: Space, offset: usize, stride: usize) -> Rows {
        Rows {
            space,
            offset: offset as i64,
            first: 0,
            counts: [u32::MAX, 1],
            strides: [stride as i64, 0, 0],
        }
    }

    /// Rows from row `n` on.
    pub fn skip(self, n: u32) -> Rows {
        Rows {
            first: self.first + n,
            ..self
        }
    }

    /// Byte of row `n`.
    #[inline]
    pub fn at(&self, n: u32) -> i64 {
        let n = self.first + n;
        if self.counts[0] == u32::MAX {
            return self.offset + n as i64 * self.strides[0];
        }
        let (i0, rest) = (n % self.counts[0], n / self.counts[0]);
        let (i1, i2) = (rest % self.counts[1], rest / self.counts[1]);
        self.offset + i0 as i64 * self.strides[0] + i1 as i64 * self.strides[1] + i2 as i64 * self.strides[2]
    }

    /// How many rows from row `n` on are equidistant, at least one, and the bytes from one to the next.
    #[inline]
    pub fn even(&self, n: u32) -> (u32, i64) {
        let n = self.first + n;
        let [inner, middle] = self.counts;
        if inner == u32::MAX {
            (u32::MAX, self.strides[0])
        } else if inner > 1 {
            (inner - n % inner, self.strides[0])
        } else if middle > 1 {
            (middle - n % middle, self.strides[1])
        } else {
            (u32::MAX, self.strides[2])
        }
    }
}

/// Operand or result of a tape operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Absent.
    None,
    /// Rows addressed by the row number.
    Rows(Rows),
    /// A buffer of the tape that holds the rows of the current block.
    Slot(u32),
}

/// What a tape operation does with its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// An ALU operation on widened operands a, b, c; lanes `lo .. lo + n`.
    Map {
        /// The operation.
        op: AluOp,
        /// Type of the operands, of a select that of its condition.
        ty: DType,
    },
    /// Widens a.
    Widen(DType),
    /// Converts a, of type F32 or I32, to a dtype.
    Narrow {
        /// Type of a.
        ty: DType,
        /// Type of the result.
        dtype: DType,
    },
    /// Reduces segments of a.
    Reduce {
        /// The operation.
        op: AluOp,
        /// F32 or I32.
        ty: DType,
        /// Lanes per segment.
        segment: u32,
    },
    /// Permutes a by the map b.
    Permute {
        /// Bytes per lane.
        size: u32,
        /// Lanes of a.
        lanes: u32,
        /// Bits of the fill.
        fill: u32,
    },
    /// Permutes a by a map that is known: pieces of it are copied, the rest is filled.
    Pieces {
        /// First of [`Plan::pieces`].
        first: u32,
        /// How many.
        count: u32,
        /// Bytes per lane.
        size: u32,
        /// Bits of the fill.
        fill: u32,
    },
    /// `c + a0 * b0 + a1 * b1 + ...`, each product added to the sum of those before it.
    MultiplyAdd {
        /// First of [`Plan::terms`].
        first: u32,
        /// How many.
        count: u32,
    },
    /// Copies bytes `lo .. lo + n` of row `c + min(index, limit - 1) * stride`, the index being lane 0 of a.
    Gather {
        /// Rows that may be touched.
        limit: u32,
        /// Bytes between them.
        stride: u32,
        /// Bytes per lane.
        size: u32,
    },
    /// Gathers from a weight tile: vector `base + row number * step + min(index, limit - 1) * stride` of a value.
    GatherTile {
        /// Index into [`Plan::tiles`].
        tile: u32,
        /// Index into [`Plan::tile_rows`]: tile row of each issue at index 0.
        rows: u32,
        /// Rows that may be touched.
        limit: u32,
        /// Tile rows between them.
        stride: u32,
    },
    /// Copies bytes `lo .. lo + n` of a.
    Copy {
        /// Bytes per lane.
        size: u32,
    },
    /// Copies bytes `lo .. lo + n` of a into row `out + min(index, limit - 1) * stride`, the index being lane 0 of b.
    Scatter {
        /// Rows that may be touched.
        limit: u32,
        /// Bytes between them.
        stride: u32,
        /// Bytes per lane.
        size: u32,
    },
    /// Folds `len` rows of a at a time into slot c; writes the result after every row or after the last.
    Fold {
        /// The operation.
        op: AluOp,
        /// F32 or I32.
        ty: DType,
        /// Rows folded into one result.
        len: u32,
        /// Whether every row gives a result.
        every: bool,
    },
}

/// A range of bytes of a permuted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte of the result.
    pub to: u32,
    /// First byte of the operand; none for what is filled.
    pub from: Option<u32>,
    /// Bytes.
    pub bytes: u32,
}

/// Most terms of a [`OpKind::MultiplyAdd`].
pub const MAX_TERMS: usize = 32;

/// One operation on every row of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapeOp {
    /// What it does.
    pub kind: OpKind,
    /// First operand.
    pub a: Arg,
    /// Second operand.
    pub b: Arg,
    /// Third operand.
    pub c: Arg,
    /// Result.
    pub out: Arg,
    /// First lane (or byte, where the kind says so).
    pub lo: u32,
    /// Lanes (or bytes).
    pub n: u32,
}

/// Elementwise, lane and memory operations, evaluated block by block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tape {
    /// Rows.
    pub rows: u32,
    /// Rows of one block.
    pub block: u32,
    /// Rows that must stay on one thread together: those that one fold folds.
    pub grain: u32,
    /// Buffers of `block` rows.
    pub slots: u32,
    /// Operations in order.
    pub ops: Vec<TapeOp>,
}

impl Tape {
    /// Whether no two rows write the same place, so that their order does not matter.
    pub fn writes_each_row_once(&self) -> bool {
        self.ops.iter().all(|o| match (&o.kind, &o.out) {
            (OpKind::Scatter { .. }, _) => false,
            (OpKind::Fold { every: false, .. }, _) => true,
            (_, Arg::Rows(r)) if r.counts[0] == u32::MAX => r.strides[0] != 0 || self.rows == 1,
            (_, Arg::Rows(r)) => {
                let places: BTreeSet<i64> = (0..self.rows).map(|n| r.at(n)).collect();
                places.len() == self.rows as usize
            }
            _ => true,
        })
    }
}

/// One window of a column block: lanes of x and the weights that they are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FactorStep {
    /// Bytes from a row of x of the product to the first lane that this window takes.
    pub x: i64,
    /// Lanes of x.
    pub k: u32,
    /// What `offset` counts from.
    pub space: Space,
    /// Byte of the first panel.
    pub offset: usize,
    /// Bytes from row k to row k + 1.
    pub w_step: usize,
    /// Bytes from a panel to the next.
    pub panel_step: usize,
    /// What its rows are multiplied by.
    pub scales: Option<ScaleStep>,
}

/// Scales of the rows of a window, in panels of the pool: `blocks` rows of 32 columns each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScaleStep {
    /// Byte of the first panel in the pool.
    pub offset: usize,
    /// Rows of each panel.
    pub blocks: u32,
    /// Rows of the window that share a row of scales.
    pub rows: u32,
    /// Type of a scale.
    pub dtype: DType,
}

/// One column block of a product, and others that multiply by the same weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStep {
    /// First column.
    pub n0: u32,
    /// Columns.
    pub n: u32,
    /// Type of the weights.
    pub dtype: DType,
    /// Whether the tile has integers, so that the accumulators do.
    pub integer: bool,
    /// Whether these columns start from zero.
    pub zero: bool,
    /// First and end of its windows in [`Multiply::factors`], which are summed in this order.
    pub factors: (u32, u32),
    /// First and end of its places in [`Multiply::places`].
    pub places: (u32, u32),
}

/// Where a block applies its weights: bytes from its lanes of x and from its columns.
pub type Shift = (i64, i64);

/// A product of rows by the blocks of a tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multiply {
    /// Rows.
    pub rows: u32,
    /// x as f32: row n is row `n % each` of item `n / each`.
    pub x: Vec<Rows>,
    /// Rows of each item of x.
    pub each: u32,
    /// Blocks; no two have a column in common.
    pub blocks: Vec<BlockStep>,
    /// Windows of the blocks.
    pub factors: Vec<FactorStep>,
    /// Places of the blocks.
    pub places: Vec<Shift>,
    /// Accumulators and result: equidistant rows.
    pub acc: Rows,
    /// Where the accumulators start from, if elsewhere: bytes `.1 .. .2` of these rows are copied first.
    pub copy: Option<(Rows, u32, u32)>,
    /// The tapes that take its results block by block.
    pub follow: Option<Follow>,
}

/// How the steps after a product follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Rows of a block.
    pub block: u32,
    /// For each of the next steps, which are tapes, the row of the product that its row 0 takes.
    pub starts: Vec<u32>,
}

impl Multiply {
    /// Windows of a block.
    pub fn factors_of(&self, b: &BlockStep) -> &[FactorStep] {
        let (first, end) = b.factors;
        self.factors.get(first as usize..end as usize).unwrap_or(&[])
    }

    /// Places of a block.
    pub fn places_of(&self, b: &BlockStep) -> &[Shift] {
        let (first, end) = b.places;
        self.places.get(first as usize..end as usize).unwrap_or(&[])
    }

    /// Most rows that the product of one block takes, over all its places.
    pub fn widest(&self) -> usize {
        let places = self.blocks.iter().map(|b| b.places.1 - b.places.0);
        self.rows as usize * places.max().unwrap_or(0) as usize
    }
}

/// Packing of weights into panels, widened where they are of run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Vector i comes from belt `i % belts.len()`, its row `i / belts.len()`.
    pub belts: Vec<Rows>,
    /// Vectors.
    pub vectors: u32,
    /// Whether a vector is a column (lanes are k) or a row.
    pub columns: bool,
    /// Type of the weights.
    pub dtype: DType,
    /// First lane.
    pub lo: u32,
    /// Lanes.
    pub n: u32,
    /// Byte in scratch of the panels.
    pub out: usize,
}

/// A transpose of `rows` vectors into `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transpose {
    /// Operands.
    pub a: Rows,
    /// How many.
    pub rows: u32,
    /// Results.
    pub out: Rows,
    /// How many.
    pub n: u32,
    /// First lane of the operands.
    pub lo: u32,
    /// Bytes per lane.
    pub size: u32,
}

/// One step of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Tape.
    Tape(Tape),
    /// Product.
    Multiply(Multiply),
    /// Packing.
    Pack(Pack),
    /// Transpose.
    Transpose(Transpose),
}

impl Step {
    /// What it is called where its time is reported.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Tape(_) => "map",
            Step::Multiply(_) => "product",
            Step::Pack(_) => "pack",
            Step::Transpose(_) => "transpose",
        }
    }

    /// Rows, and how many of them must stay together on one thread.
    pub fn rows(&self) -> (u32, u32) {
        match self {
            Step::Tape(s) => (s.rows, s.grain),
            Step::Multiply(s) => (s.rows, 1),
            Step::Pack(_) => (1, 1),
            Step::Transpose(s) => (s.n, 1),
        }
    }
}

/// Steps of one chain.
#[derive(Clone, Debug, Default)]
pub struct ChainPlan {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// For a chain that no fused form fits: (step, row) in the order of issue, instead of whole steps.
    pub events: Vec<(u32, u32)>,
    /// Bytes of memory read and written, as ranges: first, end, written.
    pub accesses: Vec<(i64, i64, bool)>,
    /// Bytes of scratch.
    pub scratch: usize,
}

/// A chain, or one of equal parts of its rows, in the list of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chain.
    pub chain: u32,
    /// Which part.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// First and end of what it waits for in [`Plan::waits`].
    pub waits: (u32, u32),
}

/// Something to wait for: another thread has done this many of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The other thread.
    pub thread: u32,
    /// Parts that it must have done.
    pub count: u32,
}

/// A weight tile as `gather` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileView {
    /// Byte in the weights section.
    pub offset: usize,
    /// Rows.
    pub rows: u32,
    /// Lane of column 0.
    pub lo: u32,
    /// Columns.
    pub columns: u32,
    /// Bytes per element.
    pub size: u32,
}

/// An entry, ready to run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Chains in order.
    pub chains: Vec<ChainPlan>,
    /// What every thread does, in order.
    pub threads: Vec<Vec<Part>>,
    /// What parts wait for.
    pub waits: Vec<Wait>,
    /// Tiles that gathers read in place.
    pub tiles: Vec<TileView>,
    /// Tile rows of gathers.
    pub tile_rows: Vec<u32>,
    /// Pieces of permutes.
    pub pieces: Vec<Piece>,
    /// Products of [`OpKind::MultiplyAdd`].
    pub terms: Vec<(Arg, Arg)>,
    /// Bytes of scratch.
    pub scratch: usize,
    /// Most rows of the product of a block, or vectors of a pack or transpose.
    pub pointers: usize,
    /// Most windows of a block.
    pub factors: usize,
    /// Bytes of each thread's buffers.
    pub local: usize,
}

impl Plan {
    /// Reserves room for the products of a chain.
    pub fn note_products(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Multiply(m) = step {
                self.pointers = self.pointers.max(m.widest());
                let factors = m.blocks.iter().map(|b| b.factors.1 - b.factors.0);
                self.factors = self.factors.max(factors.max().unwrap_or(0) as usize);
            }
        }
    }

    /// Adds the chains of another plan after its own; what that plan has in the pool now lies `pool` bytes further on.
    pub fn append(&mut self, mut other: Plan, pool: usize) {
        let tables = Tables {
            tiles: self.tiles.len() as u32,
            tile_rows: self.tile_rows.len() as u32,
            pieces: self.pieces.len() as u32,
            terms: self.terms.len() as u32,
        };
        for step in other.chains.iter_mut().flat_map(|c| &mut c.steps) {
            step.shift(pool, &tables);
        }
        for (a, b) in &mut other.terms {
            a.shift(pool);
            b.shift(pool);
        }
        self.pieces.append(&mut other.pieces);
        self.terms.append(&mut other.terms);
        self.chains.append(&mut other.chains);
        self.tiles.append(&mut other.tiles);
        self.tile_rows.append(&mut other.tile_rows);
        self.scratch = self.scratch.max(other.scratch);
        self.pointers = self.pointers.max(other.pointers);
        self.factors = self.factors.max(other.factors);
        self.local = self.local.max(other.local);
    }
}

/// Lengths of the tables of a plan.
struct Tables {
    tiles: u32,
    tile_rows: u32,
    pieces: u32,
    terms: u32,
}

impl Rows {
    /// Moves what lies in the pool.
    fn shift(&mut self, pool: usize) {
        if self.space == Space::Pool {
            self.offset += pool as i64;
        }
    }
}

impl Arg {
    /// Moves what lies in the pool.
    fn shift(&mut self, pool: usize) {
        if let Arg::Rows(r) = self {
            r.shift(pool);
        }
    }
}

impl Step {
    /// Moves what lies in the pool, and the indices of tables.
    fn shift(&mut self, pool: usize, tables: &Tables) {
        let rows = |r: &mut Rows| r.shift(pool);
        match self {
            Step::Tape(t) => {
                for op in &mut t.ops {
                    for arg in [&mut op.a, &mut op.b, &mut op.c, &mut op.out] {
                        arg.shift(pool);
                    }
                    match &mut op.kind {
                        OpKind::GatherTile { tile, rows, .. } => {
                            (*tile, *rows) = (*tile + tables.tiles, *rows + tables.tile_rows);
                        }
                        OpKind::Pieces { first, .. } => *first += tables.pieces,
                        OpKind::MultiplyAdd { first, .. } => *first += tables.terms,
                        _ => {}
                    }
                }
            }
            Step::Multiply(m) => {
                m.x.iter_mut().for_each(rows);
                rows(&mut m.acc);
                if let Some((from, ..)) = &mut m.copy {
                    rows(from);
                }
                for f in m.factors.iter_mut().filter(|f| f.space == Space::Pool) {
                    f.offset += pool;
                }
                for s in m.factors.iter_mut().filter_map(|f| f.scales.as_mut()) {
                    s.offset += pool;
                }
            }
            Step::Pack(p) => p.belts.iter_mut().for_each(rows),
            Step::Transpose(t) => {
                rows(&mut t.a);
                rows(&mut t.out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_rows_are_equidistant() {
        for counts in [[u32::MAX, 1], [3, 2], [1, 4], [1, 1], [4, 1]] {
            for first in 0..5 {
                let rows = Rows {
                    space: Space::Memory,
                    offset: 7,
                    first,
                    counts,
                    strides: [10, 100, 1000],
                };
                for n in 0..12 {
                    let (count, step) = rows.even(n);
                    for i in 0..count.min(6) {
                        assert_eq!(
                            rows.at(n + i),
                            rows.at(n) + i as i64 * step,
                            "{counts:?} {first} {n} {i}"
                        );
                    }
                }
            }
        }
    }
}
