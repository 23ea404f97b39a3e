//! Joins the products of a chain.
//!
//! A chip multiplies what fits its tiles and accumulators: window after window of a sum, a few rows at a time, and one copy of
//! the weights for every pixel beside another. Here a sum stays in registers from the first window to the last, and weights
//! are read once for all rows that they multiply:
//!
//! ```text
//! mul x0 by V -> a0; mul x1 by W -> a0     one product of two windows
//! mul x0 by W -> a0; tape a0; mul x1 by W -> a1; tape a1     before
//! mul x0, x1 by W -> a0, a1; tape a0; tape a1                after
//! columns 0..8 by W, columns 8..16 by W     one block in two places
//! ```
//!
//! A product moves only past steps that touch none of its scratch; rows of memory that a fused chain writes it reads nowhere
//! but in the same step. None of it changes the order in which an element is summed.

use crate::plan::{Arg, BlockStep, FactorStep, Multiply, Rows, Space, Step};
use lockstep_isa::artifact::PANEL_COLUMNS;

/// How many steps back the product is looked for that another goes on from.
const REACH: usize = 64;
/// How many steps back the product is looked for that has the same weights.
const JOIN_REACH: usize = 512;

/// Joins what can be joined. `row_bytes` is the size of a scratch row.
pub fn join(mut steps: Vec<Step>, row_bytes: usize) -> Vec<Step> {
    let products = steps.iter().filter(|s| matches!(s, Step::Multiply(_))).count();
    if products > 1 {
        steps = join_products(steps, row_bytes);
    }
    for step in &mut steps {
        if let Step::Multiply(m) = step {
            place_together(m);
        }
    }
    steps
}

/// As [`join`], but for blocks with the same weights.
fn join_products(steps: Vec<Step>, row_bytes: usize) -> Vec<Step> {
    let mut placed: Vec<Placed> = Vec::with_capacity(steps.len());
    for step in steps {
        let touched = touched(&step, row_bytes);
        let mut last = Placed { step, touched };
        continue_sum(&mut placed, &mut last);
        placed.push(last);
    }
    let mut out: Vec<Placed> = Vec::with_capacity(placed.len());
    for b in placed {
        if let Step::Multiply(next) = &b.step
            && let Some(i) = target(&out, next, &b.touched, row_bytes)
            && let Some(Placed {
                step: Step::Multiply(a),
                touched,
            }) = out.get_mut(i)
        {
            a.x.extend(&next.x);
            a.rows += next.rows;
            touched.extend(&b.touched);
            continue;
        }
        out.push(b);
    }
    out.into_iter().map(|p| p.step).collect()
}

/// A step with the scratch that it touches.
struct Placed {
    step: Step,
    touched: Vec<(Range, bool)>,
}

/// Whether one of two steps writes scratch that the other touches.
fn conflict(a: &[(Range, bool)], b: &[(Range, bool)]) -> bool {
    a.iter()
        .any(|x| b.iter().any(|y| (x.1 || y.1) && x.0.0 < y.0.1 && y.0.0 < x.0.1))
}

/// Lets a product that comes last take in the one before it that sums the same rows, if there is one.
fn continue_sum(steps: &mut Vec<Placed>, last: &mut Placed) {
    let Step::Multiply(b) = &mut last.step else { return };
    for i in (steps.len().saturating_sub(REACH)..steps.len()).rev() {
        if let Step::Multiply(a) = &steps[i].step
            && a.acc == b.acc
        {
            let between = &steps[i + 1..];
            if between.iter().any(|s| conflict(&s.touched, &steps[i].touched)) {
                return;
            }
            let Some(sum) = summed(a, b) else { return };
            *b = sum;
            let a = steps.remove(i);
            last.touched.extend(a.touched);
            return;
        }
    }
}

/// The product that does `a` and then `b`, if one block has room for the windows of both.
fn summed(a: &Multiply, b: &Multiply) -> Option<Multiply> {
    let one = |m: &Multiply| m.x.len() == 1 && m.each == m.rows && m.places == [(0, 0)];
    if a.rows != b.rows || b.copy.is_some() || !one(a) || !one(b) {
        return None;
    }
    let (x, y) = (a.x.first()?, b.x.first()?);
    let step = y.at(0) - x.at(0);
    let alike = (x.first, x.counts, x.strides) == (y.first, y.counts, y.strides);
    if x.space != y.space || !alike && (1..a.rows).any(|n| y.at(n) - x.at(n) != step) {
        return None;
    }
    let overlaps = |p: &BlockStep, q: &BlockStep| p.n0 < q.n0 + q.n && q.n0 < p.n0 + p.n;
    let same = |p: &BlockStep, q: &BlockStep| (p.n0, p.n, p.dtype) == (q.n0, q.n, q.dtype);
    for q in &b.blocks {
        if a.blocks.iter().any(|p| overlaps(p, q) && (q.zero || !same(p, q))) {
            return None;
        }
    }
    let mut sum = Multiply {
        blocks: Vec::with_capacity(a.blocks.len()),
        factors: Vec::with_capacity(a.factors.len() + b.factors.len()),
        ..a.clone()
    };
    let later = |f: &FactorStep| FactorStep { x: f.x + step, ..*f };
    for p in &a.blocks {
        let first = sum.factors.len() as u32;
        sum.factors.extend_from_slice(a.factors_of(p));
        if let Some(q) = b.blocks.iter().find(|q| same(p, q)) {
            sum.factors.extend(b.factors_of(q).iter().map(later));
        }
        sum.blocks.push(BlockStep {
            factors: (first, sum.factors.len() as u32),
            ..*p
        });
    }
    for q in &b.blocks {
        if !a.blocks.iter().any(|p| same(p, q)) {
            let first = sum.factors.len() as u32;
            sum.factors.extend(b.factors_of(q).iter().map(later));
            sum.blocks.push(BlockStep {
                factors: (first, sum.factors.len() as u32),
                ..*q
            });
        }
    }
    Some(sum)
}

/// Makes blocks with the same weights one block in several places.
fn place_together(m: &mut Multiply) {
    if m.blocks.len() < 2 || m.places != [(0, 0)] {
        return;
    }
    let mut groups: Vec<(BlockStep, Vec<(i64, i64)>)> = Vec::new();
    for b in &m.blocks {
        let windows = m.factors_of(b);
        let like = |g: &&mut (BlockStep, Vec<(i64, i64)>)| {
            let others = m.factors_of(&g.0);
            let shift = match (windows.first(), others.first()) {
                (Some(a), Some(b)) => a.x - b.x,
                _ => 0,
            };
            let same = |(a, b): (&FactorStep, &FactorStep)| *a == FactorStep { x: b.x + shift, ..*b };
            (b.n, b.dtype, b.zero, windows.len()) == (g.0.n, g.0.dtype, g.0.zero, others.len())
                && windows.iter().zip(others).all(same)
        };
        match groups.iter_mut().find(like) {
            Some((first, places)) => {
                let shift = match (windows.first(), m.factors_of(first).first()) {
                    (Some(a), Some(b)) => a.x - b.x,
                    _ => 0,
                };
                places.push((shift, (b.n0 as i64 - first.n0 as i64) * 4));
            }
            None => groups.push((*b, vec![(0, 0)])),
        }
    }
    let factors = std::mem::take(&mut m.factors);
    m.blocks.clear();
    m.places.clear();
    for (b, places) in groups {
        let (first, at) = (m.factors.len() as u32, m.places.len() as u32);
        m.factors
            .extend(factors.get(b.factors.0 as usize..b.factors.1 as usize).unwrap_or(&[]));
        m.places.extend(places);
        m.blocks.push(BlockStep {
            factors: (first, m.factors.len() as u32),
            places: (at, m.places.len() as u32),
            ..b
        });
    }
}

/// The step that product `b`, which would come last, can be joined to.
fn target(steps: &[Placed], b: &Multiply, own: &[(Range, bool)], row_bytes: usize) -> Option<usize> {
    for (i, placed) in steps.iter().enumerate().rev().take(JOIN_REACH) {
        if let Step::Multiply(a) = &placed.step
            && joins(a, b, row_bytes)
        {
            return Some(i);
        }
        if conflict(&placed.touched, own) {
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
        && a.factors == b.factors
        && a.places == b.places
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
            for b in &m.blocks {
                for f in m.factors_of(b).iter().filter(|f| f.space == Space::Scratch) {
                    let at = f.offset as i64;
                    let panels = (b.n as usize).div_ceil(PANEL_COLUMNS);
                    let bytes = (panels * f.panel_step).max(f.k as usize * f.w_step) as i64;
                    list.push(((at, at + bytes), false));
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_isa::DType;

    /// A product of four rows at `x` into scratch rows `acc..`, in blocks of 8 columns: first column, lane of x, weights.
    fn product(x: i64, acc: usize, blocks: &[(u32, i64, usize)], zero: bool) -> Step {
        let mut m = Multiply {
            rows: 4,
            x: vec![Rows::linear(Space::Memory, x as usize, 1280)],
            each: 4,
            blocks: Vec::new(),
            factors: Vec::new(),
            places: vec![(0, 0)],
            acc: Rows::linear(Space::Scratch, acc * 1280, 1280),
            copy: None,
            follow: None,
        };
        for (i, &(n0, lane, offset)) in blocks.iter().enumerate() {
            let i = i as u32;
            m.blocks.push(BlockStep {
                n0,
                n: 8,
                dtype: DType::F32,
                integer: false,
                zero,
                factors: (i, i + 1),
                places: (0, 1),
            });
            m.factors.push(FactorStep {
                x: lane * 4,
                k: 8,
                space: Space::Weights,
                offset,
                w_step: 128,
                panel_step: 1024,
                scales: None,
            });
        }
        Step::Multiply(m)
    }

    fn only(steps: &[Step]) -> &Multiply {
        match steps {
            [Step::Multiply(m)] => m,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn windows_of_a_sum_and_rows_of_the_same_weights_become_one_product() {
        let steps = vec![
            product(0, 0, &[(0, 0, 0), (8, 8, 0)], true),
            product(1280, 0, &[(0, 0, 4096), (8, 8, 4096)], false),
            product(64000, 4, &[(0, 0, 0), (8, 8, 0)], true),
            product(65280, 4, &[(0, 0, 4096), (8, 8, 4096)], false),
        ];
        let steps = join(steps, 1280);
        let m = only(&steps);
        assert_eq!((m.rows, m.each, m.x.len(), m.blocks.len()), (8, 4, 2, 1));
        let b = &m.blocks[0];
        assert!(b.zero);
        assert_eq!(m.places_of(b), [(0, 0), (32, 32)]);
        let windows: Vec<_> = m.factors_of(b).iter().map(|f| (f.x, f.offset)).collect();
        assert_eq!(windows, [(0, 0), (1280, 4096)]);
        assert_eq!(m.widest(), 16);
    }

    #[test]
    fn blocks_that_take_no_part_keep_their_own_windows() {
        let steps = vec![
            product(0, 0, &[(0, 0, 0), (8, 8, 0)], true),
            product(1280, 0, &[(8, 0, 4096)], false),
            product(2560, 0, &[(16, 0, 0)], true),
        ];
        let steps = join(steps, 1280);
        let m = only(&steps);
        let windows: Vec<_> = m.blocks.iter().map(|b| (b.n0, m.factors_of(b).len())).collect();
        assert_eq!(windows, [(0, 1), (8, 2)]);
        assert_eq!(m.places_of(&m.blocks[0]), [(0, 0), (2560, 64)]);
    }

    #[test]
    fn a_sum_that_starts_again_is_another_product() {
        let steps = vec![product(0, 0, &[(0, 0, 0)], true), product(0, 0, &[(0, 0, 4096)], true)];
        assert_eq!(join(steps, 1280).len(), 2);
    }
}
