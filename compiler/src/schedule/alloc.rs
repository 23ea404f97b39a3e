//! Rows: where in its bank each buffer lies, by lifetime.
//!
//! Two buffers may share rows if one is over before the other begins, both in cycles and in the order of chains: the
//! program run chain by chain is then the same as the timed one. First fit by first write.

use super::list::Timed;
use super::place::{self, Places, does_not_fit};
use super::{Home, SramUse};
use crate::CompileError;
use crate::chain::{BufKind, ChainProgram};
use lockstep_graph::EntityId;
use lockstep_isa::{Opcode, Run, Target};

/// First and last use, in cycles and in chains.
#[derive(Clone, Copy, Debug)]
struct Life {
    cycles: (i64, i64),
    chains: (i64, i64),
}

impl Life {
    fn before(&self, other: &Life) -> bool {
        self.cycles.1 < other.cycles.0 && self.chains.1 < other.chains.0
    }
}

/// Bytes of instruction text of a run.
pub(super) fn text_bytes(run: &Run) -> u64 {
    run.encoded_len() as u64
}

/// Gives every buffer of every entry its rows; also the SRAM use per chip.
#[allow(clippy::type_complexity)]
pub(super) fn rows(
    programs: &[&ChainProgram],
    places: &Places,
    timed: &[Timed],
    target: &Target,
) -> Result<Vec<(Vec<Home>, Vec<SramUse>)>, CompileError> {
    let n_chips = places.used.len();
    let mut text = vec![0u64; n_chips];
    for timed in timed {
        for placed in &timed.runs {
            text[placed.chip as usize] += text_bytes(&placed.run);
        }
    }
    let share = target.word_bytes() as u64 * target.n_places() as u64;
    let capacity: Vec<u32> = text
        .iter()
        .map(|t| target.bank_words().saturating_sub(t.div_ceil(share) as u32))
        .collect();
    let mut out = Vec::with_capacity(programs.len());
    for (e, (program, timed)) in programs.iter().zip(timed).enumerate() {
        let lives = lives(program, timed, target);
        let mut homes: Vec<Home> = places.entries[e].iter().map(|&place| Home { place, base: 0 }).collect();
        let mut sram = vec![
            SramUse {
                total_bytes: target.sram_bytes(),
                ..SramUse::default()
            };
            n_chips
        ];
        for (chip, s) in sram.iter_mut().enumerate() {
            s.text_bytes = text[chip];
        }
        let n_banks = target.n_places();
        let mut banks: Vec<Vec<(i64, usize)>> = vec![Vec::new(); n_chips * n_banks];
        for (id, buf) in program.bufs.iter() {
            let i = id.index();
            let bytes = buf.n_vectors as u64 * buf.hi.saturating_sub(buf.lo) as u64 * buf.dtype.bytes() as u64;
            let all = place::words(program, id) * target.word_bytes() as u64;
            let use_of = &mut sram[buf.chip as usize];
            match buf.kind {
                BufKind::Rows(_) | BufKind::Tile { .. } => use_of.const_bytes += bytes,
                BufKind::State(_) => use_of.state_bytes += bytes,
                BufKind::NextState(_) => {}
                BufKind::Temp | BufKind::Input => {
                    let dense = homes[i].place.dense(target.groups, target.banks);
                    banks[buf.chip as usize * n_banks + dense].push((lives[i].cycles.0, i));
                    continue;
                }
            }
            if !matches!(buf.kind, BufKind::NextState(_)) {
                use_of.padding_bytes += all.saturating_sub(bytes);
                if matches!(buf.kind, BufKind::State(_)) {
                    use_of.state_padding_bytes += all.saturating_sub(bytes);
                }
            }
            homes[i].base = places.fixed[e][i].unwrap_or(0);
        }
        for (at, bank) in banks.iter_mut().enumerate() {
            let (chip, dense) = (at / n_banks, at % n_banks);
            bank.sort_unstable();
            let first = places.used[chip][dense] as u64;
            let mut placed: Vec<(u64, u64, usize)> = Vec::new();
            let mut top = first;
            for &(_, i) in bank.iter() {
                let Some(buf) = program.bufs.as_slice().get(i) else {
                    continue;
                };
                let width = buf.dtype.words() as u64;
                let size = buf.n_vectors as u64 * width;
                let mut base = first.next_multiple_of(width);
                // `placed` is sorted by address.
                for &(low, high, other) in &placed {
                    let (a, b) = (&lives[other], &lives[i]);
                    if a.before(b) || b.before(a) || high <= base {
                        continue;
                    }
                    if base + size <= low {
                        break;
                    }
                    base = high.next_multiple_of(width);
                }
                let fits = base + size <= capacity[chip] as u64;
                let Some(word) = u16::try_from(base).ok().filter(|_| fits) else {
                    return Err(does_not_fit(&[program], target, chip, size, "temporaries"));
                };
                homes[i].base = word;
                top = top.max(base + size);
                let at = placed.partition_point(|p| *p < (base, base + size, i));
                placed.insert(at, (base, base + size, i));
            }
            sram[chip].scratch_bytes += (top - first) * target.word_bytes() as u64;
        }
        for (id, buf) in program.bufs.iter() {
            if let BufKind::NextState(state) = buf.kind {
                homes[id.index()] = homes[state.index()];
            }
        }
        out.push((homes, sram));
    }
    Ok(out)
}

fn lives(program: &ChainProgram, timed: &Timed, target: &Target) -> Vec<Life> {
    let never = Life {
        cycles: (i64::MAX, -1),
        chains: (i64::MAX, -1),
    };
    let mut lives = vec![never; program.bufs.len()];
    for (id, buf) in program.bufs.iter() {
        if matches!(buf.kind, BufKind::Input) {
            lives[id.index()] = Life {
                cycles: (-1, 0),
                chains: (-1, -1),
            };
        }
    }
    for placed in &timed.runs {
        let Some(mem) = placed.claims.mem else {
            continue;
        };
        let Some(life) = lives.get_mut(mem.value as usize) else {
            continue;
        };
        let run = &placed.run;
        let (first, mut last) = (run.cycle as i64, run.cycle as i64 + run.last_offset() as i64);
        if matches!(run.op, Opcode::Write | Opcode::Scatter) {
            last += target.latency_of(run) as i64;
        }
        let chain = placed.chain.index() as i64;
        life.cycles = (life.cycles.0.min(first), life.cycles.1.max(last));
        life.chains = (life.chains.0.min(chain), life.chains.1.max(chain));
    }
    for nest in program.outputs.iter().flat_map(|t| &t.nests) {
        if let Some(life) = lives.get_mut(nest.value as usize) {
            (life.cycles.1, life.chains.1) = (i64::MAX, i64::MAX);
        }
    }
    for life in &mut lives {
        if life.cycles.0 == i64::MAX {
            *life = Life {
                cycles: (0, 0),
                chains: (0, 0),
            };
        }
    }
    lives
}
