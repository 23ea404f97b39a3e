//! Joins the products of a chain that multiply by the same weights.
//!
//! A chip multiplies a few rows, lets the results go on to other units, and multiplies the next rows by the same tile:
//!
//! ```text
//! mul x0 by W -> a0; tape a0; mul x1 by W -> a1; tape a1     before
//! mul x0, x1 by W -> a0, a1; tape a0; tape a1                after
//! ```
//!
//! Joined, each panel of weights is read once for all rows. A product moves up only past steps that touch none of its
//! scratch; rows of memory that a fused chain writes it reads nowhere but in the same step.

use crate::cpu::plan::{Arg, Multiply, Rows, Space, Step};
use lockstep_isa::artifact::PANEL_COLUMNS;

/// Joins what can be joined. `row_bytes` is the size of a scratch row.
pub fn join(steps: Vec<Step>, row_bytes: usize) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps {
        if let Step::Multiply(b) = &step
            && let Some(i) = target(&out, b, row_bytes)
            && let Some(Step::Multiply(a)) = out.get_mut(i)
        {
            a.x.extend(&b.x);
            a.rows += b.rows;
            continue;
        }
        out.push(step);
    }
    out
}

/// The step that product `b`, which would come last, can be joined to.
fn target(steps: &[Step], b: &Multiply, row_bytes: usize) -> Option<usize> {
    let own = touched(&Step::Multiply(b.clone()), row_bytes);
    for (i, step) in steps.iter().enumerate().rev() {
        if let Step::Multiply(a) = step
            && joins(a, b, row_bytes)
        {
            return Some(i);
        }
        let other = touched(step, row_bytes);
        let conflict = |x: &(Range, bool)| own.iter().any(|y| (x.1 || y.1) && x.0.0 < y.0.1 && y.0.0 < x.0.1);
        if other.iter().any(conflict) {
            return None;
        }
    }
    None
}

/// Whether `b` goes on where `a` ends, by the same weights, and takes nothing from it.
fn joins(a: &Multiply, b: &Multiply, row_bytes: usize) -> bool {
    let apart = |r: &Rows| r.space != Space::Scratch;
    a.each == b.each
        && a.blocks == b.blocks
        && a.copy.is_none()
        && b.copy.is_none()
        && b.x.iter().all(apart)
        && a.acc.space == b.acc.space
        && (a.acc.first, a.acc.counts, a.acc.strides) == (0, [u32::MAX, 1], [row_bytes as i64, 0, 0])
        && b.acc
            == Rows {
                offset: a.acc.offset + a.rows as i64 * row_bytes as i64,
                ..a.acc
            }
}

type Range = (i64, i64);

/// Byte ranges of scratch that a step touches, and whether it writes them.
fn touched(step: &Step, row_bytes: usize) -> Vec<(Range, bool)> {
    let mut list = Vec::new();
    let mut add = |rows: &Rows, n: u32, write: bool| {
        if rows.space == Space::Scratch && n > 0 {
            let step = if rows.counts[0] == u32::MAX { (n - 1).max(1) } else { 1 };
            let each = (0..n).step_by(step as usize).map(|i| rows.at(i));
            let (low, high) = each.fold((i64::MAX, i64::MIN), |(l, h), at| (l.min(at), h.max(at)));
            list.push(((low, high + row_bytes as i64), write));
        }
    };
    match step {
        Step::Tape(t) => {
            for op in &t.ops {
                for (arg, write) in [(op.a, false), (op.b, false), (op.c, true), (op.out, true)] {
                    if let Arg::Rows(rows) = arg {
                        add(&rows, t.rows, write);
                    }
                }
            }
        }
        Step::Multiply(m) => {
            m.x.iter().for_each(|x| add(x, m.each, false));
            add(&m.acc, m.rows, true);
            if let Some((from, ..)) = &m.copy {
                add(from, m.rows, false);
            }
            for b in m.blocks.iter().filter(|b| b.space == Space::Scratch) {
                let at = b.offset as i64;
                let panels = (b.n as usize).div_ceil(PANEL_COLUMNS);
                list.push((
                    (at, at + (panels * b.panel_step).max(b.k as usize * b.w_step) as i64),
                    false,
                ));
            }
        }
        Step::Pack(p) => {
            for belt in &p.belts {
                add(belt, p.vectors, false);
            }
            let panels = (if p.columns { p.vectors } else { p.n } as usize).div_ceil(PANEL_COLUMNS);
            let depth = if p.columns { p.n } else { p.vectors } as usize;
            let bytes = panels * depth * PANEL_COLUMNS * 4;
            list.push(((p.out as i64, (p.out + bytes) as i64), true));
        }
        Step::Transpose(t) => {
            add(&t.a, t.rows, false);
            add(&t.out, t.n, true);
        }
    }
    list
}
