//! Tensor data as a byte range of a shared buffer.

use bytes::Bytes;
use std::fmt;

/// Little-endian tensor data: a cheap slice of a shared buffer (often a memory map). Cloning copies no data. The start may be unaligned.
#[derive(Clone, PartialEq, Eq)]
pub struct Weights(Bytes);

impl Weights {
    /// Wraps a shared buffer or a slice of one.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The raw bytes, row-major, little-endian, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The shared buffer behind it, for slicing without a copy.
    pub fn shared(&self) -> &Bytes {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checksum shown in text forms (crc32).
    pub fn checksum(&self) -> u32 {
        crc32fast::hash(&self.0)
    }
}

impl From<Vec<u8>> for Weights {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
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
