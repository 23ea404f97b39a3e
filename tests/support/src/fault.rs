//! A deterministic fault injector: changes one field that a run uses, or one field of its claims, to another value that
//! looks legal, and can take the change back.
//!
//! Faults leave opcodes, immediates and lane segments alone: no claim can tell `add` from `sub`, the section checksum
//! does. They also avoid changes without effect: dimensions of count 1, and the ALU of a result that nobody forwards.

use crate::asm::splitmix;
use lockstep_isa::artifact::Artifact;
use lockstep_isa::claim::{Claims, RunId};
use lockstep_isa::run::{AccIn, Addr, Src};
use lockstep_isa::{Dir, Opcode, Operand, Queue, Run, Stream, Target};

macro_rules! classes {
    ($($name:ident, $text:literal;)*) => {
        /// What a fault changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultClass {
            $(#[doc = $text] $name,)*
        }

        impl FaultClass {
            /// All classes.
            pub const ALL: &'static [FaultClass] = &[$(FaultClass::$name,)*];

            /// What it changes, in words.
            pub fn name(self) -> &'static str {
                match self { $(FaultClass::$name => $text,)* }
            }
        }
    };
}

classes! {
    Cycle, "cycle of the first issue";
    Count, "count of a dimension";
    CycleStride, "cycle stride of a dimension";
    AddressBase, "address";
    AddressStride, "address stride of a dimension";
    Stream, "result stream";
    Operand, "source of an operand";
    Delay, "delay of an operand";
    Lanes, "live lanes";
    Columns, "columns of a tile load";
    KWindow, "rows of a tile load";
    Swap, "swap of a product";
    Limit, "limit of a gather or scatter";
    RowStride, "row stride of a gather or scatter";
    Link, "link of a send or recv";
    Queue, "queue";
    ClaimRun, "claimed producer";
    ClaimResult, "claimed result of a producer";
    ClaimBlock, "claimed tile block";
    ClaimAcc, "claimed accumulator row";
    ClaimValue, "claimed value";
    ClaimElement, "claimed element";
    ClaimStride, "claimed element stride";
    ClaimLimit, "claimed limit";
    ClaimChain, "claimed chain";
}

/// A fault in place, with what it replaced.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What it changes.
    pub class: FaultClass,
    /// Entry, chip and run.
    pub at: (usize, u16, RunId),
    /// What it changed, in words.
    pub what: String,
    program: usize,
    run: Run,
    claims: Claims,
}

impl Fault {
    /// Takes the fault back.
    pub fn undo(self, art: &mut Artifact) {
        let (e, c, r) = self.at;
        art.programs[self.program].runs[r as usize] = self.run;
        art.entries[e].chips[c as usize].claims[r as usize] = self.claims;
    }
}

/// A stream of numbers.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        splitmix(self.0)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A small step up or down, never 0.
    fn step(&mut self) -> i64 {
        let by = [1, 1, 1, 2, 3, 8][self.below(6)];
        if self.next() & 1 == 0 { by } else { -by }
    }
}

/// Injects a fault of a class drawn from `seed`; `None` where no run of the artifact has any field to change.
pub fn inject(art: &mut Artifact, seed: u64) -> Option<Fault> {
    let mut rng = Rng(splitmix(seed));
    let first = rng.below(FaultClass::ALL.len());
    (0..FaultClass::ALL.len()).find_map(|i| {
        let class = FaultClass::ALL[(first + i) % FaultClass::ALL.len()];
        inject_class(art, class, rng.next())
    })
}

/// Injects a fault of one class into a run drawn from `seed`; `None` where no run has such a field.
pub fn inject_class(art: &mut Artifact, class: FaultClass, seed: u64) -> Option<Fault> {
    let mut rng = Rng(splitmix(seed));
    let places: Vec<(usize, u16, usize)> = art
        .entries
        .iter()
        .enumerate()
        .flat_map(|(e, entry)| {
            let chips = entry.chips.iter().enumerate();
            chips.map(move |(c, chip)| (e, c as u16, chip.claims.len()))
        })
        .collect();
    let total: usize = places.iter().map(|p| p.2).sum();
    let start = rng.below(total);
    for i in 0..total {
        let mut n = (start + i) % total;
        let place = places.iter().find(|p| {
            let here = n < p.2;
            if !here {
                n -= p.2;
            }
            here
        });
        let &(e, c, _) = place?;
        // Several tries: a step may lead out of what looks legal.
        for _ in 0..4 {
            if let Some(fault) = change(art, class, (e, c, n as RunId), &mut rng) {
                return Some(fault);
            }
        }
    }
    None
}

fn change(art: &mut Artifact, class: FaultClass, at: (usize, u16, RunId), rng: &mut Rng) -> Option<Fault> {
    let (e, c, r) = at;
    let program = art.entries[e].chips[c as usize].program as usize;
    let run = art.programs[program].runs[r as usize];
    let claims = art.entries[e].chips[c as usize].claims[r as usize].clone();
    let (mut new, mut new_claims) = (run, claims.clone());
    let what = if (class as usize) < FaultClass::ClaimRun as usize {
        let forwarded = || {
            let chip = &art.entries[e].chips[c as usize];
            let runs = &art.programs[program].runs;
            runs.iter().zip(&chip.claims).any(|(other, claims)| {
                let mut slots = [other.a, other.b, other.c]
                    .into_iter()
                    .filter(|o| matches!(o.src, Src::Stream(_) | Src::Alu(_)))
                    .zip(&claims.operands);
                slots.any(|(o, p)| matches!(o.src, Src::Alu(_)) && p.run == r)
            })
        };
        change_run(&art.target, class, &mut new, forwarded, rng)?
    } else {
        let entry = &art.entries[e];
        let counts = (art.programs[program].runs.len(), entry.values.len(), entry.chains.len());
        change_claims(class, &run, &mut new_claims, counts, rng)?
    };
    if new == run && new_claims == claims {
        return None;
    }
    art.programs[program].runs[r as usize] = new;
    art.entries[e].chips[c as usize].claims[r as usize] = new_claims;
    Some(Fault {
        class,
        at,
        what,
        program,
        run,
        claims,
    })
}

/// `value + step` where it stays within `range` and differs.
fn moved(value: i64, step: i64, range: std::ops::Range<i64>) -> Option<i64> {
    let new = value + step;
    range.contains(&new).then_some(new)
}

/// A dimension with more than one step.
fn dimension(run: &Run, rng: &mut Rng) -> Option<usize> {
    let used: Vec<usize> = (0..3).filter(|&d| run.dims[d].count > 1).collect();
    (!used.is_empty()).then(|| used[rng.below(used.len())])
}

/// The addresses that a run uses, and the words that they step by.
fn addresses(run: &mut Run) -> Vec<(&mut Addr, i64)> {
    let mut out = Vec::new();
    match run.op {
        Opcode::Read | Opcode::Write => out.push((&mut run.addr, run.words as i64)),
        Opcode::Gather | Opcode::Scatter => out.push((&mut run.addr, run.dtype.words() as i64)),
        Opcode::Mul => {
            if run.acc_in == AccIn::Row {
                out.push((&mut run.addr, 1));
            }
            if run.out.is_none() {
                out.push((&mut run.addr2, 1));
            }
        }
        _ => {}
    }
    out
}

fn other_stream(t: &Target, s: Stream, words: u16, rng: &mut Rng) -> Option<Stream> {
    if rng.below(4) == 0 {
        let dir = s.dir.flip();
        return Some(Stream { dir, ..s });
    }
    let n = t.streams as usize / words.max(1) as usize;
    let index = rng.below(n) * words as usize;
    (index != s.index as usize).then_some(Stream {
        index: index as u8,
        ..s
    })
}

fn change_run(
    t: &Target,
    class: FaultClass,
    run: &mut Run,
    forwarded: impl Fn() -> bool,
    rng: &mut Rng,
) -> Option<String> {
    let step = rng.step();
    let told = |from: i64, to: i64| format!("{} {from} -> {to}", class.name());
    Some(match class {
        FaultClass::Cycle => {
            let new = moved(run.cycle as i64, step, 0..1 << 31)?;
            let old = std::mem::replace(&mut run.cycle, new as u32);
            told(old as i64, new)
        }
        FaultClass::Count => {
            let d = dimension(run, rng)?;
            let new = moved(run.dims[d].count as i64, step, 1..1 << 16)?;
            let old = std::mem::replace(&mut run.dims[d].count, new as u16);
            if new == 1 {
                run.dims[d].stride = 0;
            }
            told(old as i64, new)
        }
        FaultClass::CycleStride => {
            let d = dimension(run, rng)?;
            let new = moved(run.dims[d].stride as i64, step, 1..1 << 16)?;
            let old = std::mem::replace(&mut run.dims[d].stride, new as u16);
            told(old as i64, new)
        }
        FaultClass::AddressBase => {
            let mut all = addresses(run);
            let n = all.len();
            let (addr, words) = all.get_mut(rng.below(n))?;
            let new = moved(addr.base as i64, step * *words, 0..1 << 16)?;
            let old = std::mem::replace(&mut addr.base, new as u16);
            told(old as i64, new)
        }
        FaultClass::AddressStride => {
            let d = dimension(run, rng)?;
            let mut all = addresses(run);
            let n = all.len();
            let (addr, words) = all.get_mut(rng.below(n))?;
            let range = i16::MIN as i64..1 << 15;
            let new = moved(addr.strides[d] as i64, step * *words, range)?;
            let old = std::mem::replace(&mut addr.strides[d], new as i16);
            told(old as i64, new)
        }
        FaultClass::Stream => {
            let old = run.out?;
            let words = match run.op {
                Opcode::Read => run.words as u16,
                Opcode::Mul => 4,
                Opcode::Recv => 1,
                _ => run.dtype.words(),
            };
            let new = other_stream(t, old, words, rng)?;
            run.out = Some(new);
            format!("{} {old} -> {new}", class.name())
        }
        FaultClass::Operand => {
            let o = operand(run, rng)?;
            let old = o.src;
            o.src = match o.src {
                Src::Stream(s) => Src::Stream(other_stream(t, s, o.dtype.words(), rng)?),
                Src::Alu(i) => {
                    let n = rng.below(t.vxm.alus as usize) as u8;
                    (n != i).then_some(Src::Alu(n))?
                }
                _ => return None,
            };
            format!("{} {old:?} -> {:?}", class.name(), o.src)
        }
        FaultClass::Delay => {
            if !matches!(run.op, Opcode::Alu | Opcode::Fold) {
                return None;
            }
            let o = operand(run, rng)?;
            let new = moved(o.delay as i64, step, 0..t.vxm.max_delay as i64 + 1)?;
            let old = std::mem::replace(&mut o.delay, new as u8);
            told(old as i64, new)
        }
        FaultClass::Lanes => {
            if rng.below(2) == 0 {
                let new = moved(run.lo as i64, step, 0..run.hi as i64)?;
                told(std::mem::replace(&mut run.lo, new as u16) as i64, new)
            } else {
                let new = moved(run.hi as i64, step, run.lo as i64 + 1..t.lanes as i64 + 1)?;
                told(std::mem::replace(&mut run.hi, new as u16) as i64, new)
            }
        }
        FaultClass::Columns | FaultClass::KWindow => {
            if !matches!(run.op, Opcode::LoadRow | Opcode::LoadCol) {
                return None;
            }
            let w = &mut run.window;
            let (lo, hi) = match class {
                FaultClass::Columns => (&mut w.n0, &mut w.n1),
                _ => (&mut w.k0, &mut w.k1),
            };
            let old = (*lo, *hi);
            if rng.below(2) == 0 {
                *lo = moved(*lo as i64, step, 0..*hi as i64)? as u16;
            } else {
                *hi = moved(*hi as i64, step, *lo as i64 + 1..t.lanes as i64 + 1)? as u16;
            }
            format!("{} {old:?} -> {:?}", class.name(), (*lo, *hi))
        }
        FaultClass::Swap => {
            if run.op != Opcode::Mul {
                return None;
            }
            run.swap = !run.swap;
            format!("{} {} -> {}", class.name(), !run.swap, run.swap)
        }
        FaultClass::Limit => {
            let indexed = matches!(run.op, Opcode::Gather | Opcode::Scatter);
            let limit = indexed.then_some(run.limit as i64)?;
            run.limit = moved(limit, step, 1..1 << 16)? as u32;
            told(limit, run.limit as i64)
        }
        FaultClass::RowStride => {
            let indexed = matches!(run.op, Opcode::Gather | Opcode::Scatter) && run.limit > 1;
            let stride = indexed.then_some(run.row_stride as i64)?;
            let step = step * run.dtype.words() as i64;
            run.row_stride = moved(stride, step, 0..1 << 16)? as u16;
            told(stride, run.row_stride as i64)
        }
        FaultClass::Link => {
            let old = run.queue;
            run.queue = match old {
                Queue::Send(l) => Queue::Send(other(l, t.n_links(), rng)?),
                Queue::Recv(l) => Queue::Recv(other(l, t.n_links(), rng)?),
                _ => return None,
            };
            format!("{} {old:?} -> {:?}", class.name(), run.queue)
        }
        FaultClass::Queue => {
            let old = run.queue;
            let planes = t.mxm_rate(run.dtype).map_or(1, |r| r.planes.max(1));
            let units = t.mxm.planes_per_hemisphere / planes;
            let mut plane = |h: Dir, p: u8| {
                if rng.below(2) == 0 {
                    Some((h.flip(), p))
                } else {
                    Some((h, other(p / planes, units, rng)? * planes))
                }
            };
            run.queue = match old {
                Queue::Mem(mut p) => {
                    match rng.below(3) {
                        0 => p.hemi = p.hemi.flip(),
                        1 => p.group = other(p.group, t.groups, rng)?,
                        _ => p.bank = other(p.bank, t.banks, rng)?,
                    }
                    Queue::Mem(p)
                }
                Queue::MxmLoad(h, p) => {
                    let (h, p) = plane(h, p)?;
                    Queue::MxmLoad(h, p)
                }
                Queue::MxmMul(h, p) => {
                    let (h, p) = plane(h, p)?;
                    Queue::MxmMul(h, p)
                }
                Queue::Alu(i) => {
                    let cost = if run.op == Opcode::Alu { run.alu.cost() } else { 1 };
                    let n = other(i / cost, t.vxm.alus / cost, rng)?;
                    forwarded().then_some(Queue::Alu(n * cost))?
                }
                Queue::Sxm(h) => Queue::Sxm(h.flip()),
                Queue::Send(_) | Queue::Recv(_) => return None,
            };
            format!("{} {old:?} -> {:?}", class.name(), run.queue)
        }
        _ => return None,
    })
}

/// Another number below `n`.
fn other(i: u8, n: u8, rng: &mut Rng) -> Option<u8> {
    let new = rng.below(n as usize) as u8;
    (new != i).then_some(new)
}

/// A stream or ALU operand of the run.
fn operand<'a>(run: &'a mut Run, rng: &mut Rng) -> Option<&'a mut Operand> {
    let mut used: Vec<&mut Operand> = [&mut run.a, &mut run.b, &mut run.c]
        .into_iter()
        .filter(|o| matches!(o.src, Src::Stream(_) | Src::Alu(_)))
        .collect();
    if used.is_empty() {
        return None;
    }
    let i = rng.below(used.len());
    Some(used.swap_remove(i))
}

fn change_claims(
    class: FaultClass,
    run: &Run,
    claims: &mut Claims,
    (runs, values, chains): (usize, usize, usize),
    rng: &mut Rng,
) -> Option<String> {
    let step = rng.step();
    let told = |from: i64, to: i64| format!("{} {from} -> {to}", class.name());
    let another = |old: u32, n: usize, rng: &mut Rng| {
        let new = rng.below(n) as u32;
        (new != old).then_some(new)
    };
    let n_operands = claims.operands.len();
    Some(match class {
        FaultClass::ClaimRun => {
            let p = claims.operands.get_mut(rng.below(n_operands))?;
            let old = p.run;
            p.run = another(old, runs, rng)?;
            told(old as i64, p.run as i64)
        }
        FaultClass::ClaimResult => {
            let p = claims.operands.get_mut(rng.below(n_operands))?;
            let old = p.first;
            p.first = moved(old as i64, step, 0..1 << 24)? as u32;
            told(old as i64, p.first as i64)
        }
        FaultClass::ClaimBlock => {
            let n = claims.blocks.len();
            let b = claims.blocks.get_mut(rng.below(n))?;
            let old = *b;
            let w = &mut b.window;
            match rng.below(5) {
                0 => b.load = another(b.load, runs, rng)?,
                1 => w.n0 = moved(w.n0 as i64, step, 0..w.n1 as i64)? as u16,
                2 => w.n1 = moved(w.n1 as i64, step, w.n0 as i64 + 1..1 << 16)? as u16,
                3 => w.k0 = moved(w.k0 as i64, step, 0..w.k1 as i64)? as u16,
                _ => w.k1 = moved(w.k1 as i64, step, w.k0 as i64 + 1..1 << 16)? as u16,
            }
            format!("{} {old:?} -> {b:?}", class.name())
        }
        FaultClass::ClaimAcc => {
            let p = claims.acc.as_mut()?;
            let old = *p;
            if rng.below(2) == 0 {
                p.run = another(p.run, runs, rng)?;
            } else {
                p.first = moved(p.first as i64, step, 0..1 << 24)? as u32;
            }
            format!("{} {old:?} -> {p:?}", class.name())
        }
        FaultClass::ClaimValue => {
            let m = claims.mem.as_mut()?;
            let old = m.value;
            m.value = another(old, values, rng)?;
            told(old as i64, m.value as i64)
        }
        FaultClass::ClaimElement => {
            let m = claims.mem.as_mut()?;
            let old = m.base;
            m.base = moved(old as i64, step, 0..1 << 24)? as u32;
            told(old as i64, m.base as i64)
        }
        FaultClass::ClaimStride => {
            let m = claims.mem.as_mut()?;
            let d = dimension(run, rng)?;
            let old = m.strides[d];
            m.strides[d] = old + step as i32;
            told(old as i64, m.strides[d] as i64)
        }
        FaultClass::ClaimLimit => {
            let m = claims.mem.as_mut()?;
            let old = (m.limit, m.row_stride);
            if rng.below(2) == 0 {
                m.limit = moved(m.limit as i64, step, 0..1 << 24)? as u32;
            } else {
                m.row_stride = moved(m.row_stride as i64, step, 0..1 << 24)? as u32;
            }
            format!("{} {old:?} -> {:?}", class.name(), (m.limit, m.row_stride))
        }
        FaultClass::ClaimChain => {
            let old = claims.chain;
            claims.chain = another(old, chains, rng)?;
            told(old as i64, claims.chain as i64)
        }
        _ => return None,
    })
}
