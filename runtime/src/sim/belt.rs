//! Belts: what every slot of every stream carries.
//!
//! A slot is named by its diagonal: cycle - position eastward, cycle + position westward. Since a slot meets positions
//! in the order of time, its content is whatever was put last. Slots that have left the chip are overwritten in a ring.

use super::vector::{Live, Step, Words, fault};
use crate::error::HazardKind;
use lockstep_isa::{Dir, Stream, Target};
use zerocopy::FromZeros;

/// What one slot carries: one word of a vector.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
struct Slot {
    /// Number of the put, counted over the session; 0 where nothing was ever put.
    put: u64,
    diagonal: i64,
    /// Cycle of the put.
    cycle: u64,
    lo: u16,
    hi: u16,
    /// Words of the vector, and which of them this is.
    words: u8,
    index: u8,
}

/// A vector seen on a belt.
pub(super) struct Seen<'a> {
    pub bytes: &'a [u8],
    pub live: Words,
}

/// All belts of a chip.
pub(super) struct Belts {
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    lanes: usize,
    streams: usize,
    ring: usize,
    puts: u64,
    first_put: u64,
}

/// Slots of one belt that are on the chip at a time, rounded up to a power of two.
fn ring_of(target: &Target) -> usize {
    let p = &target.position;
    let last_mem = p.mem_first as usize + p.mem_step as usize * target.groups as usize;
    let far = [p.sxm, p.mxm, p.c2c].map(usize::from);
    let far = far.into_iter().fold(last_mem, usize::max);
    (2 * far + 2).next_power_of_two()
}

impl Belts {
    /// Bytes that the belts of one chip take.
    pub fn memory(target: &Target) -> u64 {
        let slots = 2 * target.streams as u64 * ring_of(target) as u64;
        slots.saturating_mul(target.word_bytes() as u64 + size_of::<Slot>() as u64)
    }

    /// Empty belts; `None` where the memory does not suffice.
    pub fn new(target: &Target) -> Option<Belts> {
        let ring = ring_of(target);
        let streams = target.streams as usize;
        let n = 2 * streams * ring;
        Some(Belts {
            slots: Slot::new_vec_zeroed(n).ok()?,
            bytes: u8::new_vec_zeroed(n * target.word_bytes()).ok()?,
            lanes: target.word_bytes(),
            streams,
            ring,
            puts: 0,
            first_put: 1,
        })
    }

    /// Empties all belts: cycles start again.
    pub fn clear(&mut self) {
        self.first_put = self.puts + 1;
    }

    fn locate(&self, stream: Stream, position: i32, cycle: u64) -> (i64, usize) {
        let diagonal = cycle as i64 - (stream.dir.sign() * position) as i64;
        let slot = diagonal.rem_euclid(self.ring as i64) as usize;
        let belt = (stream.dir == Dir::West) as usize * self.ring + slot;
        (diagonal, belt * self.streams + stream.index as usize)
    }

    /// The `words` words that pass a position in a cycle on aligned streams. With `single`, one word of a vector of any
    /// width; otherwise all words of one vector of this width.
    pub fn see(&self, stream: Stream, words: u8, single: bool, position: i32, cycle: u64) -> Step<Seen<'_>> {
        let (diagonal, at) = self.locate(stream, position, cycle);
        let mut live = Words::default();
        let mut put = 0;
        let slots = &self.slots[at..at + words as usize];
        for (w, (s, live)) in slots.iter().zip(&mut live).enumerate() {
            if s.put < self.first_put || s.diagonal != diagonal {
                let dir = stream.dir.letter();
                let index = stream.index as usize + w;
                let what = format!("nothing passes position {position} on st{index}.{dir}");
                return fault(HazardKind::OperandAbsent, what);
            }
            let whole = s.words == words && s.index as usize == w && (w == 0 || s.put == put);
            if !single && !whole {
                let (n, i) = (s.words, s.index);
                let what = format!("{stream} carries word {i} of a vector of {n} words, word {w} of {words} is needed");
                return fault(HazardKind::WrongType, what);
            }
            put = s.put;
            *live = Live { lo: s.lo, hi: s.hi };
        }
        let bytes = &self.bytes[at * self.lanes..(at + words as usize) * self.lanes];
        Ok(Seen { bytes, live })
    }

    /// Puts a vector onto aligned streams at a position.
    pub fn put(
        &mut self,
        stream: Stream,
        words: u8,
        bytes: &[u8],
        live: &Words,
        position: i32,
        cycle: u64,
    ) -> Step<()> {
        let (diagonal, at) = self.locate(stream, position, cycle);
        self.puts += 1;
        let n = words as usize;
        for (w, s) in self.slots[at..at + n].iter_mut().enumerate() {
            if s.put >= self.first_put && s.diagonal == diagonal && s.cycle == cycle {
                let (index, dir) = (stream.index as usize + w, stream.dir.letter());
                let what = format!("st{index}.{dir} is driven twice at position {position}");
                return fault(HazardKind::PortTaken, what);
            }
            *s = Slot {
                put: self.puts,
                diagonal,
                cycle,
                lo: live[w].lo,
                hi: live[w].hi,
                words,
                index: w as u8,
            };
        }
        let len = n * self.lanes;
        self.bytes[at * self.lanes..][..len].copy_from_slice(&bytes[..len]);
        Ok(())
    }
}
