//! Vectors in flight, and which of their bytes are defined.
//!
//! Definedness is kept per word as a byte range, since words of a vector may travel alone over links. A vector whose live
//! lanes are `[lo, hi)` has the bytes `[lo * size, hi * size)` defined, cut at word boundaries.

use crate::error::HazardKind;
use lockstep_isa::{DType, scalar};

/// A broken rule, without its place: the engine adds cycle, queue and instruction.
#[derive(Debug)]
pub(super) struct Fault {
    pub kind: HazardKind,
    pub what: String,
}

/// Result of a step of the machine.
pub(super) type Step<T> = Result<T, Fault>;

/// A fault of this kind.
pub(super) fn fault<T>(kind: HazardKind, what: impl Into<String>) -> Step<T> {
    Err(Fault {
        kind,
        what: what.into(),
    })
}

/// Defined bytes `[lo, hi)` of one word; empty where `lo >= hi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub lo: u16,
    pub hi: u16,
}

/// Defined bytes of up to four words of a vector.
pub(super) type Words = [Live; 4];

impl Live {
    pub fn is_empty(self) -> bool {
        self.lo >= self.hi
    }

    pub fn covers(self, need: Live) -> bool {
        need.is_empty() || (self.lo <= need.lo && need.hi <= self.hi)
    }
}

/// The words of a vector of elements of `size` bytes whose live lanes are `[lo, hi)`.
pub(super) fn live_words(lo: u16, hi: u16, size: usize, lanes: usize) -> Words {
    let (lo, hi) = (lo as usize * size, hi as usize * size);
    let mut words = Words::default();
    for (w, word) in words.iter_mut().enumerate().take(size) {
        let start = w * lanes;
        let a = lo.clamp(start, start + lanes) - start;
        let b = hi.clamp(start, start + lanes) - start;
        if a < b {
            *word = Live {
                lo: a as u16,
                hi: b as u16,
            };
        }
    }
    words
}

/// Whether lanes `[lo, hi)` of a vector are defined.
pub(super) fn has_lanes(have: &Words, lo: u16, hi: u16, dtype: DType, lanes: usize) -> bool {
    let need = live_words(lo, hi, dtype.bytes(), lanes);
    have.iter().zip(&need).all(|(h, &n)| h.covers(n))
}

/// Checks that lanes `[lo, hi)` of a vector are defined.
pub(super) fn need_lanes(have: &Words, lo: u16, hi: u16, dtype: DType, lanes: usize) -> Step<()> {
    if has_lanes(have, lo, hi, dtype, lanes) {
        return Ok(());
    }
    let missing = (lo..hi).find(|&l| !has_lanes(have, l, l + 1, dtype, lanes));
    let lane = missing.unwrap_or(lo);
    fault(
        HazardKind::Undefined,
        format!("lane {lane} of lanes {lo}..{hi} is undefined in the {dtype} operand"),
    )
}

/// Widens lanes `[lo, hi)` of a vector's bytes into `out[lo..hi]` as bits of f32 or i32.
pub(super) fn widen_lanes(bytes: &[u8], dtype: DType, lo: u16, hi: u16, out: &mut [u32]) {
    let (lo, hi) = (lo as usize, hi as usize);
    let size = dtype.bytes();
    let from = bytes[lo * size..hi * size].chunks_exact(size);
    let to = &mut out[lo..hi];
    match dtype {
        DType::F32 | DType::I32 => {
            for (o, b) in to.iter_mut().zip(from) {
                *o = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        DType::F16 | DType::BF16 | DType::U16 => {
            for (o, b) in to.iter_mut().zip(from) {
                *o = scalar::widen(u16::from_le_bytes([b[0], b[1]]) as u32, dtype);
            }
        }
        DType::I8 | DType::U8 | DType::I4 => {
            for (o, b) in to.iter_mut().zip(from) {
                *o = scalar::widen(b[0] as u32, dtype);
            }
        }
    }
}

/// Turns integers that [`widen_lanes`] gave into floats, for a tile of floats that is stored as integers.
pub(super) fn decode_lanes(stored: DType, tile: DType, lo: u16, hi: u16, lanes: &mut [u32]) {
    if tile.is_float() && !stored.is_float() {
        for x in &mut lanes[lo as usize..hi as usize] {
            *x = (*x as i32 as f32).to_bits();
        }
    }
}

/// Stores the low bytes of `lanes[lo..hi]` as elements `lo..hi` of a vector.
pub(super) fn store_lanes(bytes: &mut [u8], dtype: DType, lo: u16, hi: u16, lanes: &[u32]) {
    let (lo, hi) = (lo as usize, hi as usize);
    let size = dtype.bytes();
    let to = bytes[lo * size..hi * size].chunks_exact_mut(size);
    for (b, x) in to.zip(&lanes[lo..hi]) {
        b.copy_from_slice(&x.to_le_bytes()[..size]);
    }
}

/// A vector in flight.
pub(super) struct Vector {
    /// Room for four words.
    pub bytes: Vec<u8>,
    pub live: Words,
    /// Words of the vector: 1, 2 or 4.
    pub words: u8,
    /// The chip and the run of its program that made it.
    pub chip: u32,
    pub run: u32,
    users: u32,
}

/// Buffers of vectors in flight, with a use count each.
#[derive(Default)]
pub(super) struct Pool {
    vectors: Vec<Vector>,
    free: Vec<u32>,
    lanes: usize,
}

impl Pool {
    pub fn new(lanes: usize) -> Pool {
        Pool {
            lanes,
            ..Pool::default()
        }
    }

    /// A vector with one user and stale bytes.
    pub fn take(&mut self, chip: u32, run: u32, words: u8, live: Words) -> u32 {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.vectors.push(Vector {
                    bytes: vec![0; 4 * self.lanes],
                    live,
                    words,
                    chip,
                    run,
                    users: 0,
                });
                (self.vectors.len() - 1) as u32
            }
        };
        let v = &mut self.vectors[id as usize];
        (v.live, v.words, v.chip, v.run, v.users) = (live, words, chip, run, 1);
        id
    }

    pub fn get(&self, id: u32) -> &Vector {
        &self.vectors[id as usize]
    }

    pub fn bytes_mut(&mut self, id: u32) -> &mut [u8] {
        &mut self.vectors[id as usize].bytes
    }

    pub fn retain(&mut self, id: u32) {
        self.vectors[id as usize].users += 1;
    }

    pub fn release(&mut self, id: u32) {
        let v = &mut self.vectors[id as usize];
        v.users -= 1;
        if v.users == 0 {
            self.free.push(id);
        }
    }

    /// Hands a vector with one user over to another run.
    pub fn reuse(&mut self, id: u32, chip: u32, run: u32) -> u32 {
        let v = &mut self.vectors[id as usize];
        (v.chip, v.run) = (chip, run);
        id
    }

    /// Takes every vector back, whoever used it.
    pub fn clear(&mut self) {
        self.free.clear();
        self.free.extend((0..self.vectors.len() as u32).rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_words_cut_at_word_boundaries() {
        let words = live_words(4, 20, 4, 32);
        let of = |lo, hi| Live { lo, hi };
        assert_eq!(words, [of(16, 32), of(0, 32), of(0, 16), of(0, 0)]);
        assert!(need_lanes(&words, 4, 20, DType::F32, 32).is_ok());
        let err = need_lanes(&words, 4, 21, DType::F32, 32).map_err(|f| f.what);
        let want = "lane 20 of lanes 4..21 is undefined in the f32 operand";
        assert_eq!(err, Err(want.to_owned()));
    }

    #[test]
    fn lanes_survive_a_round_trip_in_every_dtype() {
        for dtype in DType::ALL {
            let mut bytes = vec![0u8; 4 * 32];
            let bits: Vec<u32> = (0..32).map(|i| scalar::narrow_i32(i - 7, dtype)).collect();
            store_lanes(&mut bytes, dtype, 3, 30, &bits);
            let mut out = vec![0; 32];
            widen_lanes(&bytes, dtype, 3, 30, &mut out);
            for i in 3..30 {
                assert_eq!(out[i], scalar::widen(bits[i], dtype), "{dtype} lane {i}");
            }
        }
    }
}
