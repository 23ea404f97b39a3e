//! Tensor data as a byte range of a shared buffer.

use bytes::Bytes;
use std::fmt;

/// Little-endian tensor data: a cheap slice of a shared buffer (often a memory map). Cloning copies no data. The start may be unaligned.
///
/// Data may be absent: then its length is all that is known of it. Nothing that is made of it can be evaluated, folded or written; it can
/// be placed, scheduled and counted.
#[derive(Clone, PartialEq, Eq)]
pub struct Weights(Data);

#[derive(Clone, PartialEq, Eq)]
enum Data {
    Held(Bytes),
    /// So many bytes that nobody has.
    Absent(usize),
}

impl Weights {
    /// Wraps a shared buffer or a slice of one.
    pub fn new(bytes: Bytes) -> Self {
        Self(Data::Held(bytes))
    }

    /// Data of which the length in bytes alone is known.
    pub fn absent(len: usize) -> Self {
        Self(Data::Absent(len))
    }

    /// Whether there is a length and no data.
    pub fn is_absent(&self) -> bool {
        matches!(self.0, Data::Absent(_))
    }

    /// The raw bytes, row-major, little-endian, at any alignment; none where they are absent.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Data::Held(bytes) => bytes,
            Data::Absent(_) => &[],
        }
    }

    /// The data from one byte to before another as a slice that shares the buffer; `None` outside it.
    pub fn slice(&self, bytes: std::ops::Range<usize>) -> Option<Self> {
        let inside = bytes.start <= bytes.end && bytes.end <= self.len();
        inside.then(|| match &self.0 {
            Data::Held(held) => Self::new(held.slice(bytes)),
            Data::Absent(_) => Self::absent(bytes.len()),
        })
    }

    /// Length in bytes, absent ones included.
    pub fn len(&self) -> usize {
        match &self.0 {
            Data::Held(bytes) => bytes.len(),
            Data::Absent(len) => *len,
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checksum shown in text forms (crc32).
    pub fn checksum(&self) -> u32 {
        crc32fast::hash(self.bytes())
    }
}

impl From<Vec<u8>> for Weights {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes.into())
    }
}

impl From<&[f32]> for Weights {
    fn from(values: &[f32]) -> Self {
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

impl From<&[i64]> for Weights {
    fn from(values: &[i64]) -> Self {
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

impl From<&[i32]> for Weights {
    fn from(values: &[i32]) -> Self {
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} bytes)", self.len())
    }
}
