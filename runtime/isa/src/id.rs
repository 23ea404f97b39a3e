//! Small value types shared by all of the ISA: dtypes, directions, streams, places, cycles.

use std::fmt;

/// A point in time, in cycles since the start of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cycle(pub u64);

/// A length of time in cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cycles(pub u64);

impl std::ops::Add<Cycles> for Cycle {
    type Output = Cycle;
    fn add(self, rhs: Cycles) -> Cycle {
        Cycle(self.0 + rhs.0)
    }
}

impl std::ops::Sub for Cycle {
    type Output = Cycles;
    fn sub(self, rhs: Cycle) -> Cycles {
        Cycles(self.0 - rhs.0)
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// Element type of a vector on a belt or in SRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// bfloat16.
    BF16 = 2,
    /// Two's complement 32-bit integer; also truth values (0 or 1).
    I32 = 3,
    /// Two's complement 8-bit integer.
    I8 = 4,
    /// Unsigned 8-bit integer.
    U8 = 5,
    /// Unsigned 16-bit integer: lane maps of `permute` only.
    U16 = 6,
    /// Two 4-bit two's complement integers in a byte, the first in its low half: weights of scaled tile loads only.
    I4 = 7,
}

impl DType {
    /// All dtypes, in encoding order.
    pub const ALL: [DType; 8] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I8,
        DType::U8,
        DType::U16,
        DType::I4,
    ];

    /// Rows of a tile that one vector of a `load.row` fills.
    #[inline]
    pub const fn load_rows(self) -> usize {
        match self {
            DType::I4 => 2,
            _ => 1,
        }
    }

    /// Size of one element (of a pair of i4) in bytes; also the number of words (and of streams) of one vector.
    #[inline]
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::I4 => 1,
        }
    }

    /// Words of one vector of this dtype: 1, 2 or 4.
    #[inline]
    pub const fn words(self) -> u16 {
        self.bytes() as u16
    }

    /// Whether the dtype is a floating-point type.
    #[inline]
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// The type in which the VXM computes on this dtype: F32 for floats, I32 for integers.
    #[inline]
    pub const fn widened(self) -> DType {
        if self.is_float() { DType::F32 } else { DType::I32 }
    }

    /// Whether every value of `other` is a value of this dtype.
    pub const fn holds(self, other: DType) -> bool {
        match (self, other) {
            (DType::F32, DType::F16 | DType::BF16 | DType::U16) => true,
            (DType::F32 | DType::F16 | DType::BF16 | DType::I32, DType::I8 | DType::U8 | DType::I4) => true,
            (DType::I8, DType::I4) => true,
            (DType::I32, DType::U16) | (DType::U16, DType::U8) => true,
            _ => self as u8 == other as u8,
        }
    }

    /// Decodes the `repr(u8)` value.
    pub fn from_u8(v: u8) -> Option<DType> {
        DType::ALL.get(v as usize).copied()
    }

    /// Lower-case name as printed (`f32`).
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::I4 => "i4",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A belt direction, and equally the hemisphere at that end of the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dir {
    /// Towards (or in) the positive positions.
    East = 0,
    /// Towards (or in) the negative positions.
    West = 1,
}

impl Dir {
    /// Both, east first.
    pub const BOTH: [Dir; 2] = [Dir::East, Dir::West];

    /// The other direction.
    pub const fn flip(self) -> Dir {
        match self {
            Dir::East => Dir::West,
            Dir::West => Dir::East,
        }
    }

    /// +1 for east, -1 for west.
    pub const fn sign(self) -> i32 {
        match self {
            Dir::East => 1,
            Dir::West => -1,
        }
    }

    /// The direction in which a belt leads from position `from` to position `to`; `None` where they are equal.
    pub fn between(from: i32, to: i32) -> Option<Dir> {
        match to.cmp(&from) {
            std::cmp::Ordering::Greater => Some(Dir::East),
            std::cmp::Ordering::Less => Some(Dir::West),
            std::cmp::Ordering::Equal => None,
        }
    }

    /// `e` or `w`.
    pub const fn letter(self) -> char {
        match self {
            Dir::East => 'e',
            Dir::West => 'w',
        }
    }
}

/// The first of the aligned streams that carry a vector. A vector of `w` words occupies streams
/// `index .. index + w`, and `index` is a multiple of `w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// Direction of the belt.
    pub dir: Dir,
    /// First stream, `0 .. streams_per_direction`.
    pub index: u8,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "st{}.{}", self.index, self.dir.letter())
    }
}

/// A bank of an aligned slice group on one chip: the home of a contiguous range of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Hemisphere of the slice group.
    pub hemi: Dir,
    /// Slice group in the hemisphere, 0 nearest to the centre.
    pub group: u8,
    /// Bank, `0 .. banks`.
    pub bank: u8,
}

impl Place {
    /// Dense index over all banks of a chip: `((hemi * groups) + group) * banks + bank`; the number printed as
    /// `memG` is `hemi * groups + group`.
    pub fn dense(self, groups_per_hemisphere: u8, banks: u8) -> usize {
        ((self.hemi as usize * groups_per_hemisphere as usize) + self.group as usize) * banks as usize
            + self.bank as usize
    }

    /// Inverse of [`Place::dense`]; `None` where `dense` is out of range.
    pub fn from_dense(dense: usize, groups_per_hemisphere: u8, banks: u8) -> Option<Place> {
        let (groups, banks) = (groups_per_hemisphere as usize, banks as usize);
        if banks == 0 || groups == 0 || dense >= 2 * groups * banks {
            return None;
        }
        let bank = (dense % banks) as u8;
        let g = dense / banks;
        let hemi = if g / groups == 0 { Dir::East } else { Dir::West };
        Some(Place {
            hemi,
            group: (g % groups) as u8,
            bank,
        })
    }
}
