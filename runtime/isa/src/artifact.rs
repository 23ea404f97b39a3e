//! The artifact in memory: what the compiler hands to the encoder, and what the decoder hands to executors.
//!
//! The file format is described in docs/ARTIFACT.md. [`Artifact::to_bytes`] and [`Artifact::from_bytes`] convert between
//! this and bytes; [`Artifact::check`] states what every index and bound must satisfy, and both of them demand it.

pub(crate) mod check;
pub mod container;
pub mod error;
mod read;
pub(crate) mod record;
mod runs;
pub mod weights;
mod write;

use crate::claim::{ChainId, Claims, ValueId};
use crate::id::{DType, Place};
use crate::target::Target;
use std::sync::Arc;

pub use container::{SectionInfo, check_hashes, sections};
pub use error::{ArtifactError, ArtifactErrorKind, At};
pub use runs::Runs;
pub use weights::WeightsBuilder;

/// Bytes behind a reference count: a memory map or a vector. The artifact owns its bytes through it.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Dtype of a tensor at the host boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HostDType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// bfloat16.
    BF16 = 2,
    /// IEEE binary64.
    F64 = 3,
    /// 8-bit integer.
    I8 = 4,
    /// 16-bit integer.
    I16 = 5,
    /// 32-bit integer.
    I32 = 6,
    /// 64-bit integer.
    I64 = 7,
    /// Unsigned 8-bit integer.
    U8 = 8,
    /// Unsigned 16-bit integer.
    U16 = 9,
    /// Unsigned 32-bit integer.
    U32 = 10,
    /// Unsigned 64-bit integer.
    U64 = 11,
    /// One byte, 0 or 1.
    Bool = 12,
}

impl HostDType {
    /// All, in encoding order.
    pub const ALL: [HostDType; 13] = [
        HostDType::F32,
        HostDType::F16,
        HostDType::BF16,
        HostDType::F64,
        HostDType::I8,
        HostDType::I16,
        HostDType::I32,
        HostDType::I64,
        HostDType::U8,
        HostDType::U16,
        HostDType::U32,
        HostDType::U64,
        HostDType::Bool,
    ];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            HostDType::F64 | HostDType::I64 | HostDType::U64 => 8,
            HostDType::F32 | HostDType::I32 | HostDType::U32 => 4,
            HostDType::F16 | HostDType::BF16 | HostDType::I16 | HostDType::U16 => 2,
            HostDType::I8 | HostDType::U8 | HostDType::Bool => 1,
        }
    }

    /// Name as in numpy (`float32`, `int64`, `bool`).
    pub const fn name(self) -> &'static str {
        match self {
            HostDType::F32 => "float32",
            HostDType::F16 => "float16",
            HostDType::BF16 => "bfloat16",
            HostDType::F64 => "float64",
            HostDType::I8 => "int8",
            HostDType::I16 => "int16",
            HostDType::I32 => "int32",
            HostDType::I64 => "int64",
            HostDType::U8 => "uint8",
            HostDType::U16 => "uint16",
            HostDType::U32 => "uint32",
            HostDType::U64 => "uint64",
            HostDType::Bool => "bool",
        }
    }
}

/// A value of an entry: a contiguous range of vectors in one bank of one chip, all with the same live lanes.
///
/// Two values may share rows at different times. A value is defined once: by its initial contents, or by one write per
/// vector. `successor` links the versions of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The chip that holds it.
    pub chip: u16,
    /// The bank that holds it.
    pub place: Place,
    /// Word address of vector 0; vector i is at `base + i * dtype.words()`.
    pub base: u16,
    /// Number of vectors.
    pub n_vectors: u32,
    /// Element type.
    pub dtype: DType,
    /// First live lane.
    pub lo: u16,
    /// One past the last live lane.
    pub hi: u16,
    /// Where its first contents come from.
    pub kind: ValueKind,
}

/// Where the contents of a value come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Constant: loaded once, never written; index into [`Artifact::consts`].
    Const(u32),
    /// Placed by the host before cycle 0.
    Input,
    /// Contents persist between runs; zero before the first run. Index into [`Artifact::states`].
    State(u32),
    /// Defined by writes of the program.
    Computed,
    /// Defined by writes of the program into the rows of this state value, which it replaces for the next run: same
    /// chip, place, base, size and dtype; every read of the old version precedes these writes, in time and chain order.
    NextState(ValueId),
}

/// How the bytes of a constant are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstForm {
    /// `n_vectors` rows, each of the live lanes only, row-major.
    Rows,
    /// A part of a tile that `load.row` (or gather) alone reads: see [`TileImage`].
    Tile {
        /// The tile, an index into [`Artifact::tiles`].
        tile: u32,
        /// Vector i of the value is row `first + i * step` of the tile.
        first: u16,
        /// Rows of the tile between consecutive vectors of the value.
        step: u16,
    },
}

/// A constant's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Const {
    /// Byte offset in the weights section (of the rows; unused for tiles).
    pub offset: u64,
    /// Length in bytes (of the rows; unused for tiles).
    pub length: u64,
    /// Layout of these bytes.
    pub form: ConstForm,
}

/// A weight tile in the weights section: 32-column panels, each k-major (`panel p` holds columns 32p..32p+32 of all
/// rows, row after row), the last panel zero-padded, 64-byte aligned. Rows that no load touches are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TileImage {
    /// Byte offset in the weights section.
    pub offset: u64,
    /// Rows (k) of the tile.
    pub rows: u16,
    /// Live lanes (columns): `lo` of the values, which is where panel 0 starts.
    pub lo: u16,
    /// Columns from `lo`.
    pub columns: u16,
    /// Element type.
    pub dtype: DType,
}

/// Columns of one panel of a [`TileImage`].
pub const PANEL_COLUMNS: usize = 32;

/// One nest of a host map: moves a box of elements between a row-major host tensor and a value.
///
/// For every index vector i: host element `element + sum i_d * dims[d].element` is lane `lane + sum i_d * dims[d].lane` of
/// vector `vector + sum i_d * dims[d].vector` of `value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNest {
    /// The value.
    pub value: ValueId,
    /// First host element.
    pub element: u64,
    /// First vector.
    pub vector: u32,
    /// First lane.
    pub lane: u16,
    /// Dimensions.
    pub dims: Vec<HostDim>,
}

/// One dimension of a [`HostNest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostDim {
    /// Steps.
    pub count: u32,
    /// Host elements per step.
    pub element: i64,
    /// Vectors per step.
    pub vector: i32,
    /// Lanes per step.
    pub lane: i32,
}

/// A tensor of the signature and its static index map.
///
/// Inputs: each host element is placed once on every chip that has the input; every live lane of an input value that no nest covers is filled with
/// `fill`. Outputs: each host element is taken from exactly one lane. Conversion between host and chip dtype: integers
/// saturate into i32 (i64, u32, u64), bool is 0 or 1 (non-zero is 1), f64 rounds to f32, floats convert exactly or round
/// to nearest even; NaN is canonical at outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    /// Name in the model.
    pub name: String,
    /// Dtype at the host.
    pub dtype: HostDType,
    /// Shape at the host.
    pub shape: Vec<u64>,
    /// Bits of the fill element in the value's dtype.
    pub fill: u32,
    /// Which elements lie where.
    pub nests: Vec<HostNest>,
}

/// A program: runs in canonical order (queue, cycle), with cycles from its own start. Stored once, however many chips use it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Program {
    /// The runs.
    pub runs: Runs,
}

impl Program {
    /// Bytes of the program's instruction text, which is also what it takes of SRAM.
    pub fn text_bytes(&self) -> u64 {
        self.runs.iter().map(|r| r.encoded_len() as u64).sum()
    }
}

/// What one chip does in one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChipProgram {
    /// Index into [`Artifact::programs`].
    pub program: u32,
    /// Cycle at which the program starts.
    pub start: u64,
    /// Claims, parallel to the program's runs.
    pub claims: Vec<Claims>,
    /// Provenance per run: index into [`Entry::origins`].
    pub origins: Vec<u32>,
}

/// One chain in the total order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainInfo {
    /// The chip; for a transfer, the sender.
    pub chip: u16,
    /// The receiver of a transfer.
    pub to: Option<u16>,
    /// Index into [`Entry::origins`].
    pub origin: u32,
}

/// Provenance: an IR operation and the model nodes it came from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OriginInfo {
    /// What the compiler calls it (`contract v12`).
    pub op: String,
    /// Names of the model nodes.
    pub nodes: Vec<String>,
}

/// One entry: a static program over all chips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name (`main`, or the bound dimensions such as `sequence=128`).
    pub name: String,
    /// Values. Constants and states of all entries agree in place, base, size and dtype.
    pub values: Vec<Value>,
    /// Per chip.
    pub chips: Vec<ChipProgram>,
    /// Total order of chains.
    pub chains: Vec<ChainInfo>,
    /// Provenance table.
    pub origins: Vec<OriginInfo>,
    /// Inputs in model order.
    pub inputs: Vec<HostTensor>,
    /// Outputs in model order.
    pub outputs: Vec<HostTensor>,
    /// Cycles from 0 to the end of the last run: see [`Target::run_end`].
    pub makespan: u64,
}

/// A state that persists between runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Name of the input that reads it.
    pub name: String,
    /// Name of the output that feeds it.
    pub from: String,
}

/// A whole artifact.
#[derive(Clone)]
pub struct Artifact {
    /// Name of the model.
    pub name: String,
    /// The target it was compiled for.
    pub target: Target,
    /// Number of chips.
    pub n_chips: u16,
    /// Programs, each stored once.
    pub programs: Vec<Program>,
    /// Entries.
    pub entries: Vec<Entry>,
    /// States.
    pub states: Vec<State>,
    /// Constants.
    pub consts: Vec<Const>,
    /// Weight tiles.
    pub tiles: Vec<TileImage>,
    /// Bytes that `consts` and `tiles` point into.
    pub weights: SharedBytes,
    /// Byte range of the weights section within `weights`.
    pub weights_range: (u64, u64),
    /// The compile report: canonical JSON, sorted keys.
    pub report: String,
    /// Of a language model: what turns text into tokens and back, as a JSON object with the fields `tokenizer` (as in tokenizer.json),
    /// `stop` (token ids) and, where the model has them, `chat_template`, `bos_token`, `eos_token`, `add_bos`. Empty for other models.
    pub tokenizer: String,
}

impl Artifact {
    /// The weights section.
    pub fn weight_bytes(&self) -> &[u8] {
        let (offset, length) = self.weights_range;
        let all: &[u8] = (*self.weights).as_ref();
        all.get(offset as usize..(offset + length) as usize).unwrap_or(&[])
    }

    /// Number of chains in an entry, as chain ids go.
    pub fn n_chains(&self, entry: usize) -> ChainId {
        self.entries.get(entry).map_or(0, |e| e.chains.len() as ChainId)
    }
}
