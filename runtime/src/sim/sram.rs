//! SRAM: the rows of all chips, with what the machine knows of each word: which bytes are defined and from when on it may
//! be read.

use super::vector::{Live, Step, Words, fault, live_words};
use crate::error::HazardKind;
use crate::memory::Memory;
use lockstep_isa::artifact::{Value, ValueKind};
use lockstep_isa::{Place, Target};
use std::ops::Range;

#[derive(Clone, Copy, Default)]
struct Word {
    /// First cycle in which the word may be read.
    ready: u64,
    lo: u16,
    hi: u16,
}

/// An access of aligned words of one row: bytes in [`Memory::bytes`], words in the word table.
pub(super) struct Access {
    pub bytes: Range<usize>,
    word: usize,
    n: usize,
}

/// The rows of all chips.
pub(super) struct Sram {
    pub memory: Memory,
    words: Vec<Word>,
}

impl Sram {
    pub fn new(memory: Memory) -> Sram {
        let words = vec![Word::default(); memory.n_words()];
        Sram { memory, words }
    }

    /// Starts a run of an entry: constants, states and inputs are defined, everything else is not.
    pub fn start(&mut self, values: &[Value]) {
        self.words.fill(Word::default());
        for v in values {
            let held = match v.kind {
                ValueKind::Const(_) | ValueKind::Input | ValueKind::State(_) => true,
                ValueKind::Computed | ValueKind::NextState(_) => false,
            };
            let n = v.dtype.words() as usize;
            let total = v.n_vectors * n as u32;
            let Some(first) = self.memory.word(v.chip, v.place, v.base as u32, total) else {
                continue;
            };
            if held {
                let live = live_words(v.lo, v.hi, n, self.memory.lanes());
                for (i, w) in self.words[first..first + total as usize].iter_mut().enumerate() {
                    let Live { lo, hi } = live[i % n];
                    *w = Word { ready: 0, lo, hi };
                }
            }
        }
    }

    /// Checks an address against its bank and the rows that exist.
    pub fn access(&self, target: &Target, chip: u32, place: Place, addr: i64, words: u8) -> Step<Access> {
        let bank = target.bank_words() as i64;
        let n = words as i64;
        if addr < 0 || addr + n > bank || addr % n != 0 {
            let what = format!("address {addr:#06x} is no {n}-word row part of a bank of {bank} words");
            return fault(HazardKind::Address, what);
        }
        let (addr, n) = (addr as u32, words as u32);
        let chip = chip as u16;
        let found = (
            self.memory.span(chip, place, addr, n),
            self.memory.word(chip, place, addr, n),
        );
        let (Some(bytes), Some(word)) = found else {
            let what = format!("address {addr:#06x} belongs to no value of the artifact");
            return fault(HazardKind::Address, what);
        };
        Ok(Access {
            bytes,
            word,
            n: words as usize,
        })
    }

    /// Defined bytes of the words read; a hazard where a write to one of them has not landed.
    pub fn read(&self, access: &Access, cycle: u64) -> Step<Words> {
        let mut live = Words::default();
        for (l, w) in live.iter_mut().zip(&self.words[access.word..][..access.n]) {
            if w.ready > cycle {
                let what = format!("the row is readable from cycle {} on", w.ready);
                return fault(HazardKind::RowNotReady, what);
            }
            *l = Live { lo: w.lo, hi: w.hi };
        }
        Ok(live)
    }

    /// Writes words, readable from cycle `ready` on.
    pub fn write(&mut self, access: &Access, bytes: &[u8], live: &Words, ready: u64) {
        for (w, l) in self.words[access.word..][..access.n].iter_mut().zip(live) {
            let Live { lo, hi } = *l;
            *w = Word { ready, lo, hi };
        }
        let n = access.bytes.len();
        self.memory.bytes_mut()[access.bytes.clone()].copy_from_slice(&bytes[..n]);
    }

    /// The first vector of a value whose live lanes are not all defined and landed at a cycle.
    pub fn incomplete(&self, v: &Value, cycle: u64) -> Option<u32> {
        let n = v.dtype.words() as usize;
        let total = v.n_vectors * n as u32;
        let first = self.memory.word(v.chip, v.place, v.base as u32, total)?;
        let need = live_words(v.lo, v.hi, n, self.memory.lanes());
        let missing = self.words[first..first + total as usize]
            .iter()
            .enumerate()
            .find(|(i, w)| !Live { lo: w.lo, hi: w.hi }.covers(need[i % n]) || w.ready > cycle);
        missing.map(|(i, _)| (i / n) as u32)
    }
}
