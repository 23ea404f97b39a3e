//! The run: the one instruction format of the machine.
//!
//! A run is an instruction issued on one queue over up to three nested dimensions. Issue number
//! `(i2 * n1 + i1) * n0 + i0` (dimension 0 innermost) happens in cycle
//! `cycle + i0 * stride0 + i1 * stride1 + i2 * stride2`; cycles ascend strictly with the issue number. Addresses step
//! by their own stride per dimension. A run holds its queue from its first issue to its last issue plus occupancy.
//!
//! # Live lanes
//! Lanes outside a run's `[lo, hi)` are undefined. The range is a function of the operands, so that a wrong one cannot
//! pass unseen:
//! - read, gather: the live lanes of the value. Write, scatter: equal to those of the operand and of the value.
//! - A word access (`words` 1 of a wider dtype), send and recv: all lanes, `[0, lanes)`. Of a value only the words that
//!   hold live lanes exist; words beyond them need not be sent.
//! - alu: the intersection of the live lanes of its stream and ALU operands; `iota`: all lanes. Fold: those of its operand.
//! - permute: those of its map vector; every mapped lane of a constant map is live in x.
//! - transpose: `[lo, hi)` is that of its operands; `n_out = hi - lo`, `y_i[j] = x_j[lo + i]`, results have lanes `[0, issues)`.
//! - reduce: those of its operand; segments `[i * segment, (i + 1) * segment)` count from lane 0, and `lo` and `hi` are
//!   multiples of `segment`.
//! - load.row: `[n0, n1)`; load.col: `[k0, k1)`; either within the live lanes of the loaded vectors.
//! - mul: the hull of the columns defined in its result, that is of all loaded columns and those of the accumulator it
//!   starts from. From zero, columns that no block loads are undefined. A result on a stream has no gaps. The k windows of all
//!   blocks lie within the live lanes of x.
//!
//! Every result vector is consumed at least once, every accumulator row written is read, every tile block loaded is
//! multiplied by.

use crate::id::{DType, Dir, Place, Stream};
use crate::op::{AluOp, Opcode};

/// A queue of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// The one queue of a bank of a slice group.
    Mem(Place),
    /// Tile loads of the matrix unit that starts at this plane of the hemisphere. A dtype that needs `p` planes uses
    /// planes `plane .. plane + p`, with `plane` a multiple of `p`.
    MxmLoad(Dir, u8),
    /// Products of that matrix unit.
    MxmMul(Dir, u8),
    /// An ALU, `0 .. alus`.
    Alu(u8),
    /// Lane moves of a hemisphere.
    Sxm(Dir),
    /// Sending end of a link of this chip (the link number is relative: see [`crate::topology`]).
    Send(u8),
    /// Receiving end of a link of this chip: words that the peer on this link sends to this chip.
    Recv(u8),
}

/// One dimension of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim {
    /// Number of steps, at least 1.
    pub count: u16,
    /// Cycles from one step to the next; 0 where `count` is 1.
    pub stride: u16,
}

impl Dim {
    /// The dimension that does nothing.
    pub const ONE: Dim = Dim { count: 1, stride: 0 };
}

/// Source of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Src {
    /// No operand.
    #[default]
    None,
    /// The vector passing on these streams.
    Stream(Stream),
    /// The result that ALU `i` forwards (VXM only).
    Alu(u8),
    /// Immediate `imm[i]`, the same on every lane (VXM only).
    Imm(u8),
}

/// An operand of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operand {
    /// Where it comes from.
    pub src: Src,
    /// Cycles that the VXM holds it before use: the operand is taken `delay` cycles before the issue. 0 outside the VXM.
    pub delay: u8,
    /// Dtype of the vector taken. The VXM widens narrow types to f32 or i32 at the port.
    pub dtype: DType,
}

impl Default for Operand {
    fn default() -> Self {
        Operand {
            src: Src::None,
            delay: 0,
            dtype: DType::F32,
        }
    }
}

/// An address: a word address within the bank, `row * slices_per_group + slice`, and its step per dimension in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    /// Word address of the first issue. Accumulator rows count in rows.
    pub base: u16,
    /// Step per dimension, in words (in rows for accumulators).
    pub strides: [i16; 3],
}

impl Addr {
    /// The address of the issue with these dimension indices, unchecked against any bank size.
    pub fn at(&self, i: [u32; 3]) -> i64 {
        self.base as i64 + (0..3).map(|d| i[d] as i64 * self.strides[d] as i64).sum::<i64>()
    }
}

/// Where a `mul` takes its accumulator from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AccIn {
    /// Zero; columns that no block loads are undefined.
    #[default]
    Zero,
    /// Accumulator row `addr`.
    Row,
    /// Operand `b`, an f32 or i32 vector.
    Stream,
}

/// A window of a tile: columns [n0, n1) and rows [k0, k1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Window {
    /// First column.
    pub n0: u16,
    /// One past the last column.
    pub n1: u16,
    /// First row (lane of x).
    pub k0: u16,
    /// One past the last row.
    pub k1: u16,
}

impl Window {
    /// Whether blocks with these windows may be in one tile: they share no column, or they have the same columns and share no row
    /// (a product then takes them by ascending rows).
    pub fn may_join(&self, other: &Window) -> bool {
        let apart = |a0: u16, a1: u16, b0: u16, b1: u16| a1 <= b0 || b1 <= a0;
        apart(self.n0, self.n1, other.n0, other.n1)
            || ((self.n0, self.n1) == (other.n0, other.n1) && apart(self.k0, self.k1, other.k0, other.k1))
    }
}

/// One instruction. Fields that the opcode does not use are at their default, and decode enforces it.
///
/// | opcode | dtype | a | b | c | out | addr | addr2 | other |
/// |---|---|---|---|---|---|---|---|---|
/// | read | of the vector | | | | stream | word | | `words` = words moved |
/// | write | of the vector | stream | | | | word | | `words` |
/// | gather | of the vector | idx (i32) | | | stream | base word + affine part | | `row_stride` words, `limit` |
/// | scatter | of the vector | data | idx (i32) | | | as gather | | `row_stride`, `limit` |
/// | load.row, load.col | of the tile | first belt group; a dtype that the tile's holds, widened on the way in | scales of the issue's rows, floats, or none (load.row of f32) | | | | | `belts`, `window` |
/// | mul | of x and weights | x | acc stream | | stream, or none | acc row in | acc row out | `acc_in`, `swap` |
/// | alu | of the result | a | b | c | stream or none | | | `alu`, `imm` |
/// | fold | of the result | a | | | stream or none | | | `alu`, `fold_dims`, `emit_every` |
/// | permute | of x | x | map (u16) | | stream | | | `imm[0]` = fill bits |
/// | transpose | of x | x | | | stream | | | `n_out` |
/// | reduce | f32 or i32 | x | | | stream | | | `alu`, `segment` |
/// | send | u8 | word | | | | | | |
/// | recv | u8 | | | | word stream | | | |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// What it does.
    pub op: Opcode,
    /// Operation of an alu, fold or reduce.
    pub alu: AluOp,
    /// Dtype as in the table above.
    pub dtype: DType,
    /// Queue that issues it.
    pub queue: Queue,
    /// First issue, in cycles from the start of the program.
    pub cycle: u32,
    /// Dimensions, innermost first.
    pub dims: [Dim; 3],
    /// First live lane.
    pub lo: u16,
    /// One past the last live lane. A word access of a link transfer has all lanes live.
    pub hi: u16,
    /// First operand.
    pub a: Operand,
    /// Second operand.
    pub b: Operand,
    /// Third operand.
    pub c: Operand,
    /// Result stream.
    pub out: Option<Stream>,
    /// First address.
    pub addr: Addr,
    /// Second address.
    pub addr2: Addr,
    /// Words moved per access of read and write: `dtype.words()`, or 1 for a link transfer.
    pub words: u8,
    /// Words between rows of a gather or scatter.
    pub row_stride: u16,
    /// Number of rows that a gather or scatter may touch.
    pub limit: u32,
    /// Window of a tile load.
    pub window: Window,
    /// Belt groups of a tile load: issue j takes vectors `j * belts .. j * belts + belts` from consecutive groups that
    /// start at operand `a`; the last issue may take fewer.
    pub belts: u8,
    /// Accumulator source of a mul.
    pub acc_in: AccIn,
    /// A mul with `swap` makes the shadow tile active in its first issue, leaving the shadow empty.
    pub swap: bool,
    /// Dimensions (1 to 3, innermost first) that a fold runs over.
    pub fold_dims: u8,
    /// Whether a fold emits after every vector (a scan) or only after the last of the folded dimensions.
    pub emit_every: bool,
    /// Output vectors of a transpose.
    pub n_out: u16,
    /// Lanes per segment of a reduce.
    pub segment: u16,
    /// Immediates, as bits.
    pub imm: [u32; 3],
}

impl Run {
    /// A run with every optional field at its default.
    pub fn new(op: Opcode, dtype: DType, queue: Queue) -> Run {
        Run {
            op,
            alu: AluOp::Add,
            dtype,
            queue,
            cycle: 0,
            dims: [Dim::ONE; 3],
            lo: 0,
            hi: 0,
            a: Operand::default(),
            b: Operand::default(),
            c: Operand::default(),
            out: None,
            addr: Addr::default(),
            addr2: Addr::default(),
            words: 0,
            row_stride: 0,
            limit: 0,
            window: Window::default(),
            belts: 0,
            acc_in: AccIn::Zero,
            swap: false,
            fold_dims: 0,
            emit_every: false,
            n_out: 0,
            segment: 0,
            imm: [0; 3],
        }
    }

    /// Number of issues.
    pub fn issues(&self) -> u32 {
        self.dims.iter().map(|d| d.count as u32).product()
    }

    /// Dimension indices of issue number `n`.
    pub fn index(&self, n: u32) -> [u32; 3] {
        let (c0, c1) = (self.dims[0].count as u32, self.dims[1].count as u32);
        [n % c0, n / c0 % c1, n / c0 / c1]
    }

    /// Cycle offset of issue number `n` from the first issue.
    pub fn offset(&self, n: u32) -> u32 {
        let i = self.index(n);
        (0..3).map(|d| i[d] * self.dims[d].stride as u32).sum()
    }

    /// Cycle offset of the last issue from the first issue.
    pub fn last_offset(&self) -> u32 {
        self.dims.iter().map(|d| (d.count as u32 - 1) * d.stride as u32).sum()
    }

    /// Number of result vectors: one per issue, except for folds that emit at the end and for transposes; 0 for
    /// opcodes that put nothing on a belt and forward nothing.
    pub fn results(&self) -> u32 {
        match self.op {
            Opcode::Write | Opcode::Scatter | Opcode::LoadRow | Opcode::LoadCol | Opcode::Send => 0,
            Opcode::Fold if !self.emit_every => self
                .dims
                .iter()
                .skip(self.fold_dims as usize)
                .map(|d| d.count as u32)
                .product(),
            Opcode::Transpose => self.n_out as u32,
            _ => self.issues(),
        }
    }

    /// Number of vectors that a tile load consumes: rows of the window for load.row, columns for load.col.
    pub fn load_vectors(&self) -> u32 {
        match self.op {
            Opcode::LoadCol => self.window.n1.saturating_sub(self.window.n0) as u32,
            _ => (self.window.k1.saturating_sub(self.window.k0) as u32).div_ceil(self.load_rows()),
        }
    }

    /// Rows of the tile that one vector of a `load.row` fills.
    pub fn load_rows(&self) -> u32 {
        self.a.dtype.load_rows() as u32
    }

    /// Whether the rows of a tile load are multiplied by scales.
    pub fn is_scaled(&self) -> bool {
        matches!(self.op, Opcode::LoadRow | Opcode::LoadCol) && self.b.src != Src::None
    }
}
