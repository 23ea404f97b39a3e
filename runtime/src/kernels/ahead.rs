//! Fetches into the cache what the next parts of a thread need.
//!
//! Networks of many small layers make thousands of chains of a microsecond or less, each with its own steps and its own rows of
//! memory. To wait for these from the second-level cache or beyond takes longer than to work on them. While a part runs, the
//! description of those after it and the first rows of the next one are fetched.

use super::drive::Machine;
use crate::plan::{Arg, ChainPlan, OpKind, Part, Plan, Step};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Lines of each row that are asked for; the processor goes on by itself.
const ROW_LINES: usize = 4;
/// Operations of a tape whose rows are asked for.
const OPS: usize = 3;

/// Asks for a line. Any address will do.
#[inline(always)]
fn fetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on the cache, and every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks for the lines of some items.
#[inline(always)]
fn fetch_all<T>(items: &[T]) {
    let (first, bytes) = (items.as_ptr().cast::<u8>(), size_of_val(items));
    for at in (0..bytes.min(12 * LINE)).step_by(LINE) {
        fetch(first.wrapping_add(at));
    }
}

/// Asks for what the parts of a list after number `done` need, each a step earlier than it is used.
#[inline(always)]
pub fn look_ahead(m: &Machine, plan: &Plan, list: &[Part], done: usize) {
    let chain = |distance: usize| -> Option<&ChainPlan> {
        let part = list.get(done + distance)?;
        plan.chains.get(part.chain as usize)
    };
    if let Some(chain) = chain(4) {
        fetch(std::ptr::from_ref(chain).cast());
    }
    if let Some(chain) = chain(3) {
        fetch_all(chain.steps.get(..1).unwrap_or(&[]));
    }
    if let Some(Step::Tape(tape)) = chain(2).and_then(|c| c.steps.first()) {
        fetch_all(tape.ops.get(..tape.ops.len().min(OPS)).unwrap_or(&[]));
    }
    let Some(Step::Tape(tape)) = chain(1).and_then(|c| c.steps.first()) else {
        return;
    };
    let row = |arg: &Arg| {
        if let Arg::Rows(rows) = arg {
            let at = m.first(rows);
            for line in 0..ROW_LINES {
                fetch(at.wrapping_add(line * LINE));
            }
        }
    };
    for op in tape.ops.iter().take(OPS) {
        if let OpKind::MultiplyAdd { first, count } = op.kind {
            let terms = plan.terms.get(first as usize..(first + count) as usize);
            for (a, b) in terms.unwrap_or(&[]) {
                row(a);
                row(b);
            }
        }
        for arg in [&op.a, &op.b, &op.c, &op.out] {
            row(arg);
        }
    }
}
