//! Claims: what a run says about where its operands come from. The verifier proves them; executors may rely on them.
//!
//! Claims lie beside the program, take no SRAM, and are per chip.

use crate::run::Window;
use smallvec::SmallVec;

/// Index of a run in the chip's program.
pub type RunId = u32;

/// Index of a value in the entry's value table.
pub type ValueId = u32;

/// Index of a chain in the entry's total order of chains.
pub type ChainId = u32;

/// Producer of one operand. Issue `n` of the claiming run takes result number `first + n` of the producer; issue `j` of
/// a tile load takes, on belt group `g`, result `first + j` of the producer claimed for that group.
///
/// A `recv` claims the `send` on the chip at the other end of its link; everything else claims a run on its own chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// The producing run.
    pub run: RunId,
    /// Its result taken by the first issue.
    pub first: u32,
}

/// A tile block that a `mul` multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The load that put the block into the tile.
    pub load: RunId,
    /// Its window.
    pub window: Window,
}

/// The elements of a value that a memory run touches: issue with dimension indices i touches element
/// `base + i0 * strides[0] + i1 * strides[1] + i2 * strides[2]`.
///
/// Elements count in accesses of the run's width: vectors of the value, or its words where `words` is 1 and the dtype
/// has more (link transfers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemClaim {
    /// The value read or defined.
    pub value: ValueId,
    /// Element of the first issue.
    pub base: u32,
    /// Step per dimension, in elements.
    pub strides: [i32; 3],
    /// Rows that a gather or scatter may touch, from `base`; 0 for read and write.
    pub limit: u32,
    /// Elements between the rows of a gather or scatter; 0 for read and write.
    pub row_stride: u32,
}

/// All claims of one run.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Claims {
    /// The chain it belongs to.
    pub chain: ChainId,
    /// Producers of stream and ALU operands in the order a, b, c; for a tile load, of its belt groups in order; for a
    /// recv, of its word. Immediates have none.
    pub operands: SmallVec<[Producer; 3]>,
    /// Tile blocks of a mul, by first column, then first row.
    pub blocks: Vec<Block>,
    /// For a mul that starts from accumulator rows: the run that wrote them.
    pub acc: Option<Producer>,
    /// For memory runs.
    pub mem: Option<MemClaim>,
}
