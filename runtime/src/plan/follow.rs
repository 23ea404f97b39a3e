//! Lets what takes the results of a product follow it block by block.
//!
//! A product of many rows leaves more results than the first-level cache holds. The tapes after it that take each row of the
//! results by itself run on a few rows as soon as the product has done these:
//!
//! ```text
//! mul 512 rows -> a; tape a                                   before
//! mul rows 0..22 -> a; tape rows 0..22; mul rows 22..44 -> a; ...   after
//! ```

use crate::plan::{Arg, Follow, Multiply, Rows, Space, Step, Tape};

/// Bytes of results that should still be in the first-level cache when they are taken.
const RESULT_BYTES: usize = 28 << 10;
/// Most bytes of weights that are worth going through once for every block.
const WEIGHT_BYTES: usize = 1 << 20;

/// Finds the tapes that can follow each product of a chain. `row_bytes` is the size of a scratch row.
pub fn follow(steps: &mut [Step], row_bytes: usize) {
    for i in 0..steps.len() {
        let (before, after) = steps.split_at_mut(i + 1);
        let Some(Step::Multiply(m)) = before.last_mut() else {
            continue;
        };
        let block = block_rows(m);
        if m.rows as usize <= block || m.x.iter().any(|x| x.space == Space::Scratch) {
            continue;
        }
        let starts: Vec<u32> = after
            .iter()
            .map_while(|step| match step {
                Step::Tape(t) => start(m, t, row_bytes),
                _ => None,
            })
            .collect();
        if !starts.is_empty() {
            m.follow = Some(Follow {
                block: block as u32,
                starts,
            });
        }
    }
}

/// Rows of a block.
fn block_rows(m: &Multiply) -> usize {
    let (mut columns, mut weights) = (0, 0);
    for b in &m.blocks {
        let k: usize = m.factors_of(b).iter().map(|f| f.k as usize).sum();
        columns += b.n as usize * m.places_of(b).len();
        weights += b.n as usize * k * b.dtype.bytes();
    }
    let rows = (RESULT_BYTES / (columns * 4).max(1)).max(1);
    if weights > WEIGHT_BYTES { rows * 4 } else { rows }
}

/// The row of the product that row 0 of a tape takes, if row n of it takes row n from there on and no other scratch.
fn start(m: &Multiply, t: &Tape, row_bytes: usize) -> Option<u32> {
    let in_scratch = |arg: &Arg| match arg {
        Arg::Rows(r) if r.space == Space::Scratch => Some(*r),
        _ => None,
    };
    let mut from: Option<i64> = None;
    for rows in t
        .ops
        .iter()
        .flat_map(|o| [o.a, o.b, o.c, o.out])
        .filter_map(|a| in_scratch(&a))
    {
        let Rows { first, offset, .. } = rows;
        let row_by_row = rows.counts[0] == u32::MAX && rows.strides[0] == row_bytes as i64;
        let at = offset + first as i64 * row_bytes as i64;
        if !row_by_row || *from.get_or_insert(at) != at {
            return None;
        }
    }
    let distance = from? - m.acc.at(0);
    let start = u32::try_from(distance / row_bytes.max(1) as i64).ok()?;
    let inside = distance % row_bytes.max(1) as i64 == 0 && start.checked_add(t.rows)? <= m.rows;
    (inside && t.grain <= 1).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BlockStep, FactorStep, OpKind, TapeOp};
    use lockstep_isa::DType;

    fn product(rows: u32) -> Step {
        Step::Multiply(Multiply {
            rows,
            x: vec![Rows::linear(Space::Memory, 0, 1280)],
            each: rows,
            blocks: vec![BlockStep {
                n0: 0,
                n: 320,
                dtype: DType::F32,
                integer: false,
                zero: true,
                factors: (0, 1),
                places: (0, 1),
            }],
            factors: vec![FactorStep {
                x: 0,
                k: 320,
                space: Space::Weights,
                offset: 0,
                w_step: 128,
                panel_step: 40960,
                scales: None,
            }],
            places: vec![(0, 0)],
            acc: Rows::linear(Space::Scratch, 1280, 1280),
            copy: None,
            follow: None,
        })
    }

    fn tape(rows: u32, from: usize) -> Step {
        Step::Tape(Tape {
            rows,
            block: 8,
            grain: 1,
            slots: 0,
            ops: vec![TapeOp {
                kind: OpKind::Copy { size: 4 },
                a: Arg::Rows(Rows::linear(Space::Scratch, from, 1280)),
                b: Arg::None,
                c: Arg::None,
                out: Arg::Rows(Rows::linear(Space::Memory, 0, 1280)),
                lo: 0,
                n: 1280,
            }],
        })
    }

    fn starts(mut steps: Vec<Step>) -> Option<Vec<u32>> {
        follow(&mut steps, 1280);
        match steps.remove(0) {
            Step::Multiply(m) => m.follow.map(|f| f.starts),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tapes_over_rows_of_the_product_follow_it() {
        let steps = vec![product(80), tape(40, 1280), tape(40, 1280 * 41), tape(40, 0)];
        assert_eq!(starts(steps), Some(vec![0, 40]));
    }

    #[test]
    fn few_rows_and_other_rows_do_not() {
        assert_eq!(starts(vec![product(8), tape(8, 1280)]), None);
        assert_eq!(starts(vec![product(80), tape(80, 2560)]), None);
        assert_eq!(starts(vec![product(80), product(80), tape(80, 1280)]), None);
    }
}
