//! The resolved target: every figure of one chip and of how chips are wired.
//!
//! A target comes from a TOML file (feature `toml`, folder `targets/`) or from the `target` section of an artifact.
//! Everything the compiler decides about the machine, it reads here.

use crate::id::{DType, Dir, Place};
use crate::topology::Topology;

/// Cost of one dtype on the MXM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MxmRate {
    /// Planes that one matrix unit of this dtype occupies: a divisor of `planes_per_hemisphere`.
    pub planes: u8,
    /// Cycles between two vectors.
    pub cycles_per_vector: u16,
}

/// The matrix units of a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mxm {
    /// Planes in each hemisphere; a plane is a `lanes` x `lanes` tile of i8.
    pub planes_per_hemisphere: u8,
    /// Accumulator rows per matrix unit.
    pub acc_rows: u16,
    /// Words per cycle that tile loads of one hemisphere may take together.
    pub load_words_per_cycle: u8,
    /// Rate per dtype; `None` where the chip does not offer it.
    pub f32: Option<MxmRate>,
    /// Rate of f16.
    pub f16: Option<MxmRate>,
    /// Rate of bf16.
    pub bf16: Option<MxmRate>,
    /// Rate of i8 (and u8).
    pub i8: Option<MxmRate>,
}

/// The vector unit of a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxm {
    /// ALUs per lane, each with a queue.
    pub alus: u8,
    /// Longest operand delay in cycles.
    pub max_delay: u8,
}

/// Latencies in cycles from issue to result, skew included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// MEM read.
    pub read: u16,
    /// MEM write: readable this many cycles after its issue.
    pub write: u16,
    /// Extra for gather and scatter.
    pub index: u16,
    /// Tile load: usable this many cycles after its last issue.
    pub load: u16,
    /// Product.
    pub mul: u16,
    /// ALU: add, sub, min, max, compare, select, logic, shift, convert.
    pub alu_simple: u16,
    /// ALU: mul, fma.
    pub alu_mul: u16,
    /// ALU: div, sqrt, rsqrt.
    pub alu_div: u16,
    /// ALU: exp, log, tanh, erf, sin, cos.
    pub alu_exp: u16,
    /// Fold.
    pub fold: u16,
    /// Permute.
    pub permute: u16,
    /// Transpose: the first output comes this many cycles after the last input.
    pub transpose: u16,
    /// Lane reduce.
    pub reduce: u16,
}

/// Positions of the units on the east side; the west side mirrors them with negative sign. The VXM is at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Position of slice group 0.
    pub mem_first: u16,
    /// Distance between neighbouring slice groups.
    pub mem_step: u16,
    /// SXM.
    pub sxm: u16,
    /// MXM.
    pub mxm: u16,
    /// C2C links.
    pub c2c: u16,
}

/// Links of a chip. Link numbers 0 .. local are local, local .. local + global are global.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct C2c {
    /// Links to chips of the same node.
    pub local_links: u8,
    /// Links to other nodes.
    pub global_links: u8,
    /// Cycles that one word occupies a link.
    pub cycles_per_word: u16,
    /// Cycles from send to recv.
    pub latency: u16,
}

/// Energy per event, in picojoules.
#[derive(Clone, Debug, PartialEq)]
pub struct Energy {
    /// One i8 multiply-add.
    pub mac_i8: f64,
    /// One f16 or bf16 multiply-add.
    pub mac_f16: f64,
    /// One f32 multiply-add.
    pub mac_f32: f64,
    /// One ALU operation on one lane.
    pub alu_lane: f64,
    /// One bit read from or written to SRAM.
    pub sram_bit: f64,
    /// One bit moved by one position.
    pub hop_bit: f64,
    /// One bit over a link.
    pub link_bit: f64,
}

/// Where a figure of the target comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Field path in the file (`mxm.f32.cycles_per_vector`).
    pub field: String,
    /// Citation, or `assumed: ` and the reason.
    pub note: String,
}

/// A resolved target.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Name, as given on the command line or in the file.
    pub name: String,
    /// Clock in hertz.
    pub clock_hz: u64,
    /// Lanes: a word is this many bytes, a vector this many elements.
    pub lanes: u16,
    /// Streams in each direction, one word each.
    pub streams: u8,
    /// Slice groups in each hemisphere.
    pub groups: u8,
    /// Slices per group: words per row.
    pub slices: u8,
    /// Banks per slice.
    pub banks: u8,
    /// Rows per bank.
    pub rows: u16,
    /// Matrix units.
    pub mxm: Mxm,
    /// Vector unit.
    pub vxm: Vxm,
    /// Latencies.
    pub latency: Latencies,
    /// Positions.
    pub position: Positions,
    /// Links.
    pub c2c: C2c,
    /// How chips are wired.
    pub topology: Topology,
    /// Energy table.
    pub energy: Energy,
    /// Most chips that may work together.
    pub max_chips: u16,
    /// Where the figures come from.
    pub sources: Vec<Source>,
}

impl Target {
    /// Bytes of a word.
    pub fn word_bytes(&self) -> usize {
        self.lanes as usize
    }

    /// Words of one bank, over the whole slice group.
    pub fn bank_words(&self) -> u32 {
        self.rows as u32 * self.slices as u32
    }

    /// Banks of a chip.
    pub fn n_places(&self) -> usize {
        2 * self.groups as usize * self.banks as usize
    }

    /// All banks of a chip in dense order.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        (0..self.n_places()).filter_map(|i| Place::from_dense(i, self.groups, self.banks))
    }

    /// SRAM of a chip in bytes.
    pub fn sram_bytes(&self) -> u64 {
        self.n_places() as u64 * self.bank_words() as u64 * self.word_bytes() as u64
    }

    /// Rate of a dtype on the MXM; `None` where the chip does not multiply it.
    pub fn mxm_rate(&self, dtype: DType) -> Option<MxmRate> {
        match dtype {
            DType::F32 => self.mxm.f32,
            DType::F16 => self.mxm.f16,
            DType::BF16 => self.mxm.bf16,
            DType::I8 | DType::U8 => self.mxm.i8,
            DType::I32 | DType::U16 | DType::I4 => None,
        }
    }

    /// Matrix units of a dtype in each hemisphere.
    pub fn mxm_units(&self, dtype: DType) -> u8 {
        self.mxm_rate(dtype)
            .map_or(0, |r| self.mxm.planes_per_hemisphere / r.planes.max(1))
    }

    /// Position of a slice group.
    pub fn mem_position(&self, place: Place) -> i32 {
        let p = self.position.mem_first as i32 + self.position.mem_step as i32 * place.group as i32;
        place.hemi.sign() * p
    }

    /// Position of a hemisphere's SXM.
    pub fn sxm_position(&self, hemi: Dir) -> i32 {
        hemi.sign() * self.position.sxm as i32
    }

    /// Position of a hemisphere's MXM.
    pub fn mxm_position(&self, hemi: Dir) -> i32 {
        hemi.sign() * self.position.mxm as i32
    }

    /// Number of links.
    pub fn n_links(&self) -> u8 {
        self.c2c.local_links + self.c2c.global_links
    }

    /// The end of the chip at which a link sits: of the local links 0..=3, of the global links the first two at the
    /// east end, the rest at the west end.
    pub fn link_side(&self, link: u8) -> Dir {
        let east = if link < self.c2c.local_links {
            link < 4
        } else {
            link - self.c2c.local_links < 2
        };
        if east { Dir::East } else { Dir::West }
    }

    /// Position of a link.
    pub fn link_position(&self, link: u8) -> i32 {
        self.link_side(link).sign() * self.position.c2c as i32
    }
}
