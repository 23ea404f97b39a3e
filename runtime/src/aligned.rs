//! Bytes that begin at a cache line.

use zerocopy::FromZeros;

const LINE: usize = 64;

/// A fixed number of bytes, the first at a multiple of 64. The host has pages for them once they are written.
#[derive(Default)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    first: usize,
    n: usize,
}

impl Aligned {
    /// So many zeros; `None` where the host has no room.
    pub fn zeroed(n: u64) -> Option<Aligned> {
        let n = usize::try_from(n).ok()?;
        let bytes = u8::new_vec_zeroed(n.checked_add(LINE)?).ok()?;
        let first = bytes.as_ptr().align_offset(LINE).min(LINE);
        Some(Aligned { bytes, first, n })
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.first..self.first + self.n]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.first..self.first + self.n]
    }
}
