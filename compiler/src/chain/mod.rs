//! Chains: what the scheduler places. The contract between layout (which makes chains) and schedule (which times them).
//!
//! A [`ChainProgram`] is a list of chains in their total order over buffers. Executing the chains whole, in this order, computes
//! the model. A chain is a small dataflow graph of vector operations: a [`Node`] is one future run.
//!
//! # Streams and groups
//! Nodes linked by [`NodeArg::Node`] pass vectors over belts or ALU forwards: result `first + n` of the producer is what
//! issue `n` of the consumer takes. Nodes so linked form a *group*; all nodes of a group have the same `dims` and issue in
//! lock-step (issue n of each at the same distance from issue 0), with two exceptions: what comes after a [`NodeOp::Fold`]
//! has only the outer dims, and a tile load with its reads is a group of its own, where belt `g` of `B` carries vectors
//! g, g + B, g + 2B, ... of the block. A `mul` is linked to its tile loads by [`NodeOp::Mul::loads`], and to the mul that
//! filled its accumulator rows by [`Acc::Rows`]; those links are order, not streams: the scheduler may place a load group any
//! number of cycles earlier, and the muls of a chain one after another on their unit.
//!
//! # What the builder of chains guarantees
//! At most 16 ALUs' worth of VXM nodes in a chain, at most one SXM node per hemisphere, at most six f32 operands per
//! direction at a time; a read feeds only VXM, only MXM or only SXM nodes; a gather feeds a VXM node; muls of a chain all
//! run on one matrix unit in the order of their nodes, the accumulator rows of all its sequences together stay within
//! `acc_rows`; every node's result is used; every
//! temporary buffer is written once per vector, by chains before those that read it.

use contents::Contents;
use lockstep_graph::{IdVec, entity_id};
use lockstep_isa::artifact::{HostTensor, OriginInfo, State};
use lockstep_isa::run::Window;
use lockstep_isa::{AluOp, DType, Dir};

pub mod build;
pub mod contents;
#[cfg(test)]
mod eval;
#[cfg(test)]
mod tests;

entity_id!(
    /// A buffer.
    pub BufId, "b"
);
entity_id!(
    /// A chain.
    pub ChainId, "h"
);
entity_id!(
    /// A weight tile.
    pub TileId, "t"
);

/// A buffer: vectors that will lie contiguously in one bank of one chip. Becomes an artifact value of the same index.
#[derive(Clone, Debug)]
pub struct Buf {
    /// The chip.
    pub chip: u16,
    /// Element type.
    pub dtype: DType,
    /// Number of vectors.
    pub n_vectors: u32,
    /// First live lane.
    pub lo: u16,
    /// One past the last live lane.
    pub hi: u16,
    /// What it holds.
    pub kind: BufKind,
    /// Hemisphere in which it should lie; a preference.
    pub side: Option<Dir>,
}

/// What a buffer holds.
#[derive(Clone, Debug)]
pub enum BufKind {
    /// Written by chains.
    Temp,
    /// Placed by the host before cycle 0.
    Input,
    /// Constant rows: the live lanes of each vector, row-major, little-endian.
    Rows(Contents),
    /// Constant rows of a weight tile: vector i is row `first + i * step` of the tile. Read by load.row alone.
    Tile {
        /// The tile.
        tile: TileId,
        /// Row of vector 0.
        first: u16,
        /// Rows between vectors.
        step: u16,
    },
    /// State, by index into [`ChainProgram::states`]: its contents before the run.
    State(u32),
    /// The contents of this state buffer after the run; must be placed in the same rows.
    NextState(BufId),
}

/// A constant weight tile: `rows` rows of `columns` elements, row-major, little-endian.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Rows (k).
    pub rows: u16,
    /// First lane of the columns.
    pub lo: u16,
    /// Columns.
    pub columns: u16,
    /// Element type.
    pub dtype: DType,
    /// The elements.
    pub data: Contents,
}

/// Vectors of a buffer: issue with indices i touches vector `base + sum i_d * strides[d]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Affine {
    /// Vector of the first issue.
    pub base: u32,
    /// Step per dimension, in vectors.
    pub strides: [i32; 3],
}

/// A stream operand of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeArg {
    /// Results of an earlier node of the chain, from result `first`.
    Node {
        /// Index of the node in the chain.
        node: u32,
        /// Result that issue 0 takes.
        first: u32,
    },
    /// An immediate, as bits; VXM only.
    Imm(u32),
}

/// Accumulator of a mul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acc {
    /// Zero.
    Zero,
    /// The rows filled by this earlier mul of the chain, row n for issue n. Muls linked so, one after another, use one range
    /// of accumulator rows, which the scheduler assigns: a chain may have several such sequences alive at a time.
    Rows(u32),
}

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeOp {
    /// Reads vectors of a buffer.
    Read(BufId, Affine),
    /// Writes its operand into a buffer.
    Write(BufId, Affine),
    /// Reads vector `affine + min(idx as u32, limit - 1) * row_stride` of a buffer; the operand is the index (i32, lane 0).
    Gather {
        /// The table.
        buf: BufId,
        /// Affine part.
        at: Affine,
        /// Vectors per row.
        row_stride: u32,
        /// Number of rows.
        limit: u32,
    },
    /// Writes operand 0 at the vector that a gather with index operand 1 would read.
    Scatter {
        /// The table.
        buf: BufId,
        /// Affine part.
        at: Affine,
        /// Vectors per row.
        row_stride: u32,
        /// Number of rows.
        limit: u32,
    },
    /// Tile load from its operands, one per belt, of i4 two rows in a vector: reads of a const tile, or of run-time vectors.
    Load {
        /// Vectors are rows (load.row) or columns (load.col).
        by_column: bool,
        /// The window they fill.
        window: Window,
        /// Hemisphere of the matrix unit.
        hemi: Dir,
        /// First plane of the matrix unit.
        plane: u8,
        /// Whether its last operand is what the rows of each issue are multiplied by.
        scaled: bool,
    },
    /// Product of its operand with the tile that `loads` fill. The tile is swapped in at the first issue when `swap`;
    /// without it, the tile of the mul before stays, and `loads` repeats that mul's.
    Mul {
        /// Load nodes, by first column.
        loads: Vec<u32>,
        /// Whether it swaps.
        swap: bool,
        /// Accumulator.
        acc: Acc,
        /// Whether results go to the sequence's accumulator rows (then a later mul takes them) or to a stream.
        to_rows: bool,
        /// Hemisphere of the matrix unit.
        hemi: Dir,
        /// First plane of the matrix unit.
        plane: u8,
    },
    /// One ALU operation.
    Alu(AluOp),
    /// Running reduction over the innermost `dims` dimensions.
    Fold {
        /// Add, mul, min or max.
        op: AluOp,
        /// Number of dimensions folded.
        dims: u8,
        /// Emit after every vector.
        every: bool,
    },
    /// Lane move by operand 1, a u16 map read from a buffer.
    Permute {
        /// Bits of the fill element.
        fill: u32,
        /// Which SXM.
        hemi: Dir,
    },
    /// Transposes the `issues` vectors of its operand into `n_out`.
    Transpose {
        /// Results.
        n_out: u16,
        /// Which SXM.
        hemi: Dir,
    },
    /// Reduction over lane segments.
    Reduce {
        /// Add, mul, min or max.
        op: AluOp,
        /// Lanes per segment.
        segment: u16,
        /// Which SXM.
        hemi: Dir,
    },
}

/// One future run.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: NodeOp,
    /// Dtype of the result (of the operand for writes and scatters; of the tile for loads, whose belts may bring a dtype that it
    /// holds; of x for a mul, whose result is f32 or i32).
    pub dtype: DType,
    /// Steps per dimension, innermost first; each at least 1 and at most 65535.
    pub dims: [u32; 3],
    /// First live lane.
    pub lo: u16,
    /// One past the last live lane.
    pub hi: u16,
    /// Operands.
    pub args: Vec<NodeArg>,
}

impl Node {
    /// Number of issues.
    pub fn issues(&self) -> u32 {
        self.dims.iter().product()
    }
}

/// What kind of chain.
#[derive(Clone, Debug, PartialEq)]
pub enum ChainKind {
    /// Work on one chip.
    Compute {
        /// The chip.
        chip: u16,
        /// Nodes; operands come before users.
        nodes: Vec<Node>,
    },
    /// Vectors of one buffer over a direct link into a buffer of another chip (same dtype and live lanes).
    Transfer {
        /// Source buffer; names the sending chip.
        from: BufId,
        /// First vector.
        from_base: u32,
        /// Destination buffer; names the receiving chip.
        to: BufId,
        /// First vector.
        to_base: u32,
        /// Number of vectors.
        n_vectors: u32,
    },
}

/// A chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// What it does.
    pub kind: ChainKind,
    /// Index into [`ChainProgram::origins`].
    pub origin: u32,
}

/// What the scheduler gets.
#[derive(Clone, Debug, Default)]
pub struct ChainProgram {
    /// Name of the entry.
    pub name: String,
    /// Chips in use.
    pub n_chips: u16,
    /// Buffers.
    pub bufs: IdVec<BufId, Buf>,
    /// Weight tiles.
    pub tiles: IdVec<TileId, Tile>,
    /// Chains in total order.
    pub chains: IdVec<ChainId, Chain>,
    /// Provenance.
    pub origins: Vec<OriginInfo>,
    /// Signature; `value` of a nest is the index of a buffer.
    pub inputs: Vec<HostTensor>,
    /// Signature.
    pub outputs: Vec<HostTensor>,
    /// States.
    pub states: Vec<State>,
}

impl Chain {
    /// Its instructions, about.
    pub fn n_nodes(&self) -> usize {
        match &self.kind {
            ChainKind::Compute { nodes, .. } => nodes.len(),
            ChainKind::Transfer { .. } => 2,
        }
    }
}

impl ChainProgram {
    /// Instructions of all chains, about.
    pub fn n_nodes(&self) -> usize {
        self.chains.values().map(Chain::n_nodes).sum()
    }
}
