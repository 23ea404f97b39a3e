//! The fixed little-endian records of the file: one type per section that is an array of records.
//!
//! Strings are stored as their length in bytes, lists as their count: their contents follow each other in the `names`
//! section and in the sections of their own, in the order in which the records mention them.

use zerocopy::little_endian::{I32, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name { $($(#[$fdoc])* pub $field: $ty,)* })*
    };
}

records! {
    /// The first 64 bytes of the file.
    Header {
        magic: [u8; 8],
        version: U32,
        /// crc32 of the header, with this field zero, and the table.
        crc: U32,
        file_length: U64,
        table_offset: U64,
        table_count: U32,
        zero: [u8; 28],
    }
    /// One section.
    TableRow {
        kind: U32,
        align: U32,
        offset: U64,
        length: U64,
        crc: U32,
        zero: U32,
        blake3: [u8; 32],
    }
    Meta { name: U32, n_chips: U16, zero: U16, }
    SourceRow { field: U32, note: U32, }
    StateRow { name: U32, from: U32, }
    ProgramRow { n_runs: U32, text_bytes: U32, }
    EntryRow {
        name: U32,
        n_values: U32,
        n_chains: U32,
        n_origins: U32,
        n_inputs: U32,
        n_outputs: U32,
        makespan: U64,
    }
    ValueRow {
        /// 0 const, 1 input, 2 state, 3 computed, 4 next state.
        kind: u8,
        dtype: u8,
        chip: U16,
        /// Hemisphere in bit 7, group below.
        group: u8,
        bank: u8,
        base: U16,
        n_vectors: U32,
        lo: U16,
        hi: U16,
        /// Const, state or value that `kind` refers to, else 0.
        index: U32,
    }
    ConstRow {
        offset: U64,
        length: U64,
        /// Tile, or [`NONE`] for rows.
        tile: U32,
        first: U16,
        step: U16,
    }
    TileRow { offset: U64, rows: U16, lo: U16, columns: U16, dtype: u8, zero: u8, }
    ChipRow { program: U32, zero: U32, start: U64, }
    ChainRow {
        chip: U16,
        /// Receiver of a transfer, or 0xffff.
        to: U16,
        origin: U32,
    }
    OriginRow { op: U32, n_nodes: U32, }
    ClaimRow {
        chain: U32,
        n_blocks: U16,
        n_operands: u8,
        /// Bit 0: an accumulator claim follows the operands; bit 1: a memory claim.
        flags: u8,
    }
    ProducerRow { run: U32, first: U32, }
    BlockRow { load: U32, n0: U16, n1: U16, k0: U16, k1: U16, }
    MemRow { value: U32, base: U32, strides: [I32; 3], limit: U32, row_stride: U32, }
    TensorRow { name: U32, fill: U32, n_nests: U32, rank: U16, dtype: u8, zero: u8, }
    NestRow { value: U32, vector: U32, element: U64, lane: U16, n_dims: U16, zero: U32, }
    DimRow { element: I64, count: U32, vector: I32, lane: I32, zero: U32, }
}

/// "None" of a 32-bit index.
pub(crate) const NONE: u32 = u32::MAX;

/// "None" of a 16-bit index.
pub(crate) const NONE16: u16 = u16::MAX;

/// Calls a macro with the table of sections: `(Variant, code, "name", bytes of an element, alignment, "contents")`.
macro_rules! for_each_section {
    ($m:ident) => {
        $m! {
            (Meta, 1, "meta", 8, 64, "name of the model, number of chips");
            (Target, 2, "target", 8, 64, "figures of the target, one 64-bit word each; first the length of its name");
            (Sources, 3, "sources", 8, 64, "where the target's figures come from");
            (States, 4, "states", 8, 64, "state tensors");
            (Programs, 5, "programs", 8, 64, "runs and bytes of each program");
            (Text, 6, "text", 32, 64, "encoded runs of all programs");
            (Entries, 7, "entries", 32, 64, "entries");
            (Values, 8, "values", 20, 64, "values of all entries");
            (Consts, 9, "consts", 24, 64, "constants");
            (Tiles, 10, "tiles", 16, 64, "weight tiles");
            (Chips, 11, "chips", 16, 64, "program and start of each chip, per entry");
            (Chains, 12, "chains", 8, 64, "chains in order, per entry");
            (Origins, 13, "origins", 8, 64, "provenance: IR operations");
            (Nodes, 14, "nodes", 4, 64, "provenance: names of model nodes");
            (RunOrigins, 15, "run-origins", 4, 64, "provenance of each run, per chip");
            (Claims, 16, "claims", 8, 64, "claims of each run, per chip");
            (Producers, 17, "producers", 8, 64, "producers of operands, then of the accumulator");
            (Blocks, 18, "blocks", 12, 64, "tile blocks of mul runs");
            (Mem, 19, "mem", 28, 64, "what memory runs touch");
            (Tensors, 20, "tensors", 16, 64, "signature: inputs, then outputs, per entry");
            (Shapes, 21, "shapes", 8, 64, "signature: extents");
            (Nests, 22, "nests", 24, 64, "signature: nests of the host maps");
            (Dims, 23, "dims", 24, 64, "signature: dimensions of the nests");
            (Names, 24, "names", 1, 64, "all strings, one after another");
            (Report, 25, "report", 1, 64, "compile report, JSON");
            (Tokenizer, 26, "tokenizer", 1, 64, "tokenizer, chat template and stop tokens, JSON");
            (Weights, 27, "weights", 64, 4096, "constants and tiles");
        }
    };
}

macro_rules! define_sections {
    ($(($variant:ident, $code:literal, $name:literal, $bytes:literal, $align:literal, $about:literal);)*) => {
        /// A section of the file. Each is there exactly once, in this order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Section {
            $(#[doc = $about] $variant = $code,)*
        }

        impl Section {
            /// All sections in the order of the file.
            pub const ALL: [Section; 27] = [$(Section::$variant,)*];

            /// Name as printed.
            pub const fn name(self) -> &'static str {
                match self { $(Section::$variant => $name,)* }
            }

            /// Bytes of one element: the section's length is a multiple of it.
            pub const fn element_bytes(self) -> usize {
                match self { $(Section::$variant => $bytes,)* }
            }

            /// Alignment of the section in the file, in bytes.
            pub const fn align(self) -> u32 {
                match self { $(Section::$variant => $align,)* }
            }

            /// What it holds.
            pub const fn about(self) -> &'static str {
                match self { $(Section::$variant => $about,)* }
            }
        }
    };
}
for_each_section!(define_sections);
