//! A9 to A12: what lies in every row, replayed once by cycle and once chain by chain.
//!
//! A value has one place, so the tag of a word is the value's number: value and address give element and word. Each bank
//! has one queue, so its accesses happen run after run; banks are replayed one by one.

use super::report::Sink;
use super::walk::Walk;
use super::{ChipCx, Invariant};
use crate::artifact::{Value, ValueKind};
use crate::claim::MemClaim;
use crate::op::Opcode;
use crate::run::{Queue, Run};

const NONE: u32 = u32::MAX;
/// A word of a constant or state that this entry does not use.
const FOREIGN: u32 = u32::MAX - 1;

/// Rows of constants and states that other entries rely on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protected {
    pub chip: u16,
    pub place: usize,
    pub base: u32,
    pub words: u32,
}

/// In which order the runs of a bank are replayed.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Time,
    Chains,
}

/// Room for one bank at a time: for each word the value that it holds and since when it may be read, a cycle or a chain.
pub(super) struct Bank {
    order: Order,
    owner: Vec<u32>,
    since: Vec<u64>,
    /// Words that were written, per value, since values may share rows; value v begins at `defined_at[v]`.
    defined: Vec<bool>,
    defined_at: Vec<usize>,
    /// Values that were read.
    seen: Vec<bool>,
}

/// A memory run with its claim, resolved.
struct Access<'a> {
    id: u32,
    run: &'a Run,
    claim: MemClaim,
    value: &'a Value,
    /// Words of one access.
    words: usize,
    /// First and last word of a vector that hold live lanes.
    live: (u32, u32),
}

/// Range of words of a vector that hold live lanes, first and one past the last.
fn live_words(lanes: u16, v: &Value) -> (u32, u32) {
    let size = v.dtype.bytes() as u32;
    let lanes = lanes.max(1) as u32;
    let last = (v.hi as u32 * size).div_ceil(lanes);
    (v.lo as u32 * size / lanes, last)
}

/// Replays all banks of a chip.
pub(super) fn check(cx: &ChipCx<'_>, bank: &mut Bank, protected: &[Protected], wanted: &[bool], sink: &mut Sink) {
    let n_places = cx.t.n_places();
    let mut banks: Vec<Vec<u32>> = vec![Vec::new(); n_places];
    for (i, run) in cx.sound() {
        let Queue::Mem(p) = run.queue else { continue };
        if let Err((invariant, what)) = address(cx, i, run) {
            sink.report(invariant, || cx.violation(invariant, i, None, what));
            continue;
        }
        if let Some(bank) = banks.get_mut(p.dense(cx.t.groups, cx.t.banks)) {
            bank.push(i);
        }
    }
    let mut values: Vec<Vec<u32>> = vec![Vec::new(); n_places];
    for &v in cx.values {
        let place = cx.entry.values[v as usize].place;
        if let Some(list) = values.get_mut(place.dense(cx.t.groups, cx.t.banks)) {
            list.push(v);
        }
    }
    for place in 0..n_places {
        let (runs, values) = (&mut banks[place], &values[place]);
        if runs.is_empty() && values.is_empty() {
            continue;
        }
        let foreign = protected.iter().filter(|p| p.chip == cx.chip && p.place == place);
        let before = sink.total();
        runs.sort_unstable_by_key(|&i| (cx.first(i), i));
        bank.replay(cx, Order::Time, runs, values, foreign.clone(), wanted, sink);
        // A bank that is wrong in time would mostly repeat the same violations in the order of chains.
        if sink.total() == before {
            runs.sort_by_key(|&i| (cx.chain(i), cx.first(i), i));
            bank.replay(cx, Order::Chains, runs, values, foreign, wanted, sink);
        }
    }
}

/// A9: the addresses of a memory run are those of the elements that it claims, and these are part of the value.
fn address(cx: &ChipCx<'_>, i: u32, run: &Run) -> Result<(), (Invariant, String)> {
    let fail = |what: String| Err((Invariant::Addresses, what));
    let Some(a) = access(cx, i) else {
        return fail("claims no value".into());
    };
    let (m, v) = (a.claim, a.value);
    if v.chip != cx.chip || run.queue != Queue::Mem(v.place) {
        return fail(format!("v{} lies in another bank", m.value));
    }
    if v.dtype != run.dtype {
        return fail(format!("v{} is {}, not {}", m.value, v.dtype, run.dtype));
    }
    let indexed = matches!(run.op, Opcode::Gather | Opcode::Scatter);
    let unit = a.words as i64;
    if run.addr.base as i64 != v.base as i64 + m.base as i64 * unit {
        return fail(format!(
            "address 0x{:04x} is not element {} of v{}",
            run.addr.base, m.base, m.value
        ));
    }
    for d in 0..3 {
        let (found, claimed) = (run.addr.strides[d] as i64, m.strides[d] as i64 * unit);
        if run.dims[d].count > 1 && found != claimed {
            return fail(format!(
                "address stride {found} in dimension {d}, the claim needs {claimed}"
            ));
        }
    }
    let mut reach = 0;
    if indexed {
        if m.limit != run.limit || m.row_stride as i64 * unit != run.row_stride as i64 {
            return fail(format!(
                "limit {} and row stride {}, claimed are {} and {} words",
                run.limit,
                run.row_stride,
                m.limit,
                m.row_stride as i64 * unit
            ));
        }
        reach = (m.limit as i64 - 1) * m.row_stride as i64;
    } else if m.limit != 0 || m.row_stride != 0 {
        return fail("claims a limit or row stride, which only gather and scatter have".into());
    }
    let per_vector = v.dtype.words() as i64 / unit;
    let (lo, hi) = Walk::over(run, m.base as i64, m.strides.map(i64::from)).bounds();
    if lo < 0 || hi + reach >= v.n_vectors as i64 * per_vector {
        return fail(format!(
            "elements {lo}..={} of v{}, which has {}",
            hi + reach,
            m.value,
            v.n_vectors as i64 * per_vector
        ));
    }
    let writable = matches!(
        (run.op, v.kind),
        (Opcode::Read | Opcode::Gather, _)
            | (Opcode::Write, ValueKind::Computed | ValueKind::NextState(_))
            | (Opcode::Scatter, ValueKind::NextState(_))
    );
    if !writable {
        let what = format!("v{} is {:?}, {} cannot define it", m.value, v.kind, run.op.mnemonic());
        return Err((Invariant::Definitions, what));
    }
    Ok(())
}

fn access<'a>(cx: &ChipCx<'a>, i: u32) -> Option<Access<'a>> {
    let run = cx.runs.get(i as usize)?;
    let claim = cx.claims.get(i as usize)?.mem?;
    let value = cx.entry.values.get(claim.value as usize)?;
    let words = match run.op {
        Opcode::Gather | Opcode::Scatter => run.dtype.words() as usize,
        _ => run.words.max(1) as usize,
    };
    Some(Access {
        id: i,
        run,
        claim,
        value,
        words,
        live: live_words(cx.t.lanes, value),
    })
}

impl Bank {
    /// Room for the banks of an entry with this many values.
    pub(super) fn new(n_values: usize) -> Bank {
        Bank {
            order: Order::Time,
            owner: Vec::new(),
            since: Vec::new(),
            defined: Vec::new(),
            defined_at: vec![0; n_values],
            seen: vec![false; n_values],
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn replay<'p>(
        &mut self,
        cx: &ChipCx<'_>,
        order: Order,
        runs: &[u32],
        values: &[u32],
        protected: impl Iterator<Item = &'p Protected>,
        wanted: &[bool],
        sink: &mut Sink,
    ) {
        self.order = order;
        self.owner.clear();
        self.since.clear();
        self.defined.clear();
        let extent = |v: u32| {
            let value = &cx.entry.values[v as usize];
            let start = value.base as usize;
            start..start + value.n_vectors as usize * value.dtype.words() as usize
        };
        let used = values.iter().map(|&v| extent(v).end).max().unwrap_or(0);
        self.owner.resize(used, NONE);
        self.since.resize(used, 0);
        for p in protected {
            let end = (p.base + p.words) as usize;
            if let Some(words) = self.owner.get_mut(p.base as usize..end.min(used)) {
                words.fill(FOREIGN);
            }
        }
        for &v in values {
            self.seen[v as usize] = false;
            let kind = cx.entry.values[v as usize].kind;
            if !matches!(kind, ValueKind::Const(_) | ValueKind::Input | ValueKind::State(_)) {
                self.defined_at[v as usize] = self.defined.len();
                self.defined.resize(self.defined.len() + extent(v).len(), false);
                continue;
            }
            let words = &mut self.owner[extent(v)];
            if let Some(other) = words.iter().find(|&&w| w != NONE)
                && order == Order::Time
            {
                let other = name(*other);
                sink.global(
                    Invariant::Definitions,
                    &cx.entry.name,
                    Some(cx.chip),
                    format!("v{v} and {other} share rows before cycle 0"),
                );
            }
            words.fill(v);
        }
        for &i in runs {
            if let Some(a) = access(cx, i)
                && let Err((invariant, cycle, what)) = self.run(cx, &a)
            {
                let (invariant, what) = match (order, invariant) {
                    (Order::Chains, Invariant::Rows) => {
                        (Invariant::ChainOrder, format!("in the order of chains, {what}"))
                    }
                    _ => (invariant, what),
                };
                sink.report(invariant, || cx.violation(invariant, i, Some(cycle), what));
            }
        }
        self.finish(cx, values, wanted, sink);
    }

    /// Replays one run; stops at its first violation.
    fn run(&mut self, cx: &ChipCx<'_>, a: &Access<'_>) -> Result<(), (Invariant, u64, String)> {
        let (run, m) = (a.run, a.claim);
        let info = &cx.info[a.id as usize];
        let first = cx.first(a.id);
        let mut cycles = Walk::issues(run, first as i64).from(0);
        let mut elements = Walk::over(run, m.base as i64, m.strides.map(i64::from)).from(0);
        let per_vector = a.value.dtype.words() as usize / a.words;
        let chain = cx.chain(a.id) as u64;
        let mut region = None;
        let mut sound = Ok(());
        for _ in 0..info.issues {
            let cycle = cycles.step() as u64;
            let e = elements.step();
            let now = match self.order {
                Order::Time => cycle,
                Order::Chains => chain,
            };
            let then = match self.order {
                Order::Time => cycle + info.latency as u64,
                Order::Chains => chain + 1,
            };
            let start = e as usize * a.words;
            let part = start % (per_vector * a.words);
            sound = match run.op {
                Opcode::Read => self.read(a, start, part, now),
                Opcode::Write => self.write(cx, a, start, part, then),
                Opcode::Gather | Opcode::Scatter if region == Some(e) => Ok(()),
                Opcode::Gather => {
                    region = Some(e);
                    (0..m.limit as usize).try_for_each(|r| {
                        let at = start + r * m.row_stride as usize * a.words;
                        self.read(a, at, 0, now)
                    })
                }
                _ => {
                    region = Some(e);
                    let then = match self.order {
                        Order::Time => first + info.last as u64 + info.latency as u64,
                        Order::Chains => then,
                    };
                    (0..m.limit as usize).try_for_each(|r| {
                        let at = start + r * m.row_stride as usize * a.words;
                        self.write(cx, a, at, 0, then)
                    })
                }
            }
            .map_err(|(invariant, what)| (invariant, cycle, what));
            if sound.is_err() {
                break;
            }
        }
        sound
    }

    /// The words at `start` (from the value's base), of which the first is word `part` of its vector, hold the value.
    #[inline]
    fn read(&mut self, a: &Access<'_>, start: usize, part: usize, now: u64) -> Result<(), (Invariant, String)> {
        let v = a.claim.value;
        self.seen[v as usize] = true;
        let base = a.value.base as usize + start;
        let (lo, hi) = (a.live.0 as usize, a.live.1 as usize);
        let end = a.words.min(hi.saturating_sub(part));
        let begin = lo.saturating_sub(part);
        if begin >= end {
            return Err((
                Invariant::Addresses,
                format!("word {part} of a vector of v{v} holds no live lane"),
            ));
        }
        let words = base + begin..base + end;
        let (Some(owners), Some(since)) = (self.owner.get(words.clone()), self.since.get(words)) else {
            return Err((Invariant::Addresses, "outside of the bank".into()));
        };
        for (&owner, &since) in owners.iter().zip(since) {
            if owner != v {
                return Err((Invariant::Rows, format!("reads v{v}, the row holds {}", name(owner))));
            }
            if since > now {
                return Err((
                    Invariant::Rows,
                    match self.order {
                        Order::Time => format!("reads v{v}, which is readable from @{since}"),
                        Order::Chains => format!("v{v} is read in the chain that defines it"),
                    },
                ));
            }
        }
        Ok(())
    }

    /// The words at `start` may be defined, and are.
    fn write(
        &mut self,
        cx: &ChipCx<'_>,
        a: &Access<'_>,
        start: usize,
        part: usize,
        then: u64,
    ) -> Result<(), (Invariant, String)> {
        let v = a.claim.value;
        let fail = |what: String| Err((Invariant::Definitions, what));
        if a.words == 1 && !(a.live.0..a.live.1).contains(&(part as u32)) {
            return Err((
                Invariant::Addresses,
                format!("word {part} of a vector of v{v} holds no live lane"),
            ));
        }
        let scatter = a.run.op == Opcode::Scatter;
        if scatter && self.seen[v as usize] {
            return fail(format!("v{v} is changed after it was read"));
        }
        let base = a.value.base as usize + start;
        let words = base..base + a.words;
        let (Some(owners), Some(since)) = (self.owner.get_mut(words.clone()), self.since.get_mut(words)) else {
            return Err((Invariant::Addresses, "outside of the bank".into()));
        };
        for owner in owners.iter_mut() {
            let old = *owner;
            if old == v && scatter {
                continue;
            }
            let state = match a.value.kind {
                ValueKind::NextState(s) => s,
                _ => NONE,
            };
            let free = match cx.entry.values.get(old as usize).map(|o| o.kind) {
                None => old == NONE && state == NONE,
                Some(ValueKind::Computed | ValueKind::Input) => old != v && state == NONE,
                Some(ValueKind::State(_) | ValueKind::NextState(_)) => old == state,
                Some(ValueKind::Const(_)) => false,
            };
            if !free {
                return fail(format!("defines v{v} over {}", name(old)));
            }
            *owner = v;
        }
        since.fill(then);
        let at = self.defined_at[v as usize] + start;
        if let Some(defined) = self.defined.get_mut(at..at + a.words) {
            if !scatter && defined.contains(&true) {
                return fail(format!("defines v{v} twice"));
            }
            defined.fill(true);
        }
        Ok(())
    }

    /// What must outlive the program is whole.
    fn finish(&self, cx: &ChipCx<'_>, values: &[u32], wanted: &[bool], sink: &mut Sink) {
        for &v in values {
            if !wanted[v as usize] {
                continue;
            }
            let value = &cx.entry.values[v as usize];
            let (lo, hi) = live_words(cx.t.lanes, value);
            let words = value.dtype.words() as usize;
            for n in 0..value.n_vectors as usize {
                let at = value.base as usize + n * words;
                let live = self.owner.get(at + lo as usize..at + hi as usize);
                let other = live.and_then(|l| l.iter().find(|&&o| o != v));
                if let Some(&other) = other {
                    let order = match self.order {
                        Order::Time => "",
                        Order::Chains => " in the order of chains",
                    };
                    sink.global(
                        Invariant::Definitions,
                        &cx.entry.name,
                        Some(cx.chip),
                        format!(
                            "vector {n} of v{v} must be there at the end{order}, its row holds {}",
                            name(other)
                        ),
                    );
                    break;
                }
            }
        }
    }
}

/// Prints the tag of a word.
fn name(owner: u32) -> String {
    match owner {
        NONE => "nothing".into(),
        FOREIGN => "a constant or state of another entry".into(),
        v => format!("v{v}"),
    }
}
