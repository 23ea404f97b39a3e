//! Accumulator rows of a chain.

use super::group::bad;
use crate::CompileError;
use crate::chain::{Acc, ChainId, Node, NodeOp};
use lockstep_isa::Target;

/// First accumulator row of each mul: sequences alive at the same time get ranges of their own.
pub(super) fn acc_rows(target: &Target, id: ChainId, nodes: &[Node]) -> Result<Vec<u16>, CompileError> {
    struct Sequence {
        first: usize,
        last: usize,
        rows: u32,
        base: u32,
    }
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut of = vec![usize::MAX; nodes.len()];
    for (m, node) in nodes.iter().enumerate() {
        let NodeOp::Mul { acc, to_rows, .. } = &node.op else {
            continue;
        };
        match acc {
            Acc::Rows(before) => {
                let s = of.get(*before as usize).copied().unwrap_or(usize::MAX);
                let Some(sequence) = sequences.get_mut(s) else {
                    return Err(bad(
                        id,
                        format_args!("mul {m} accumulates on node {before}, which fills no rows"),
                    ));
                };
                sequence.last = m;
                if node.issues() != sequence.rows {
                    return Err(bad(
                        id,
                        format_args!("mul {m} has {} rows, its accumulator {}", node.issues(), sequence.rows),
                    ));
                }
                of[m] = s;
            }
            Acc::Zero if *to_rows => {
                of[m] = sequences.len();
                sequences.push(Sequence {
                    first: m,
                    last: m,
                    rows: node.issues(),
                    base: 0,
                });
            }
            Acc::Zero => {}
        }
    }
    for s in 0..sequences.len() {
        let (first, last, rows) = (sequences[s].first, sequences[s].last, sequences[s].rows);
        let mut base = 0;
        // Ranges of sequences still alive, by base: the first gap that is wide enough.
        let mut alive: Vec<(u32, u32)> = sequences[..s]
            .iter()
            .filter(|o| o.last > first && o.first < last)
            .map(|o| (o.base, o.base + o.rows))
            .collect();
        alive.sort_unstable();
        for (low, high) in alive {
            if base + rows <= low {
                break;
            }
            base = base.max(high);
        }
        if base + rows > target.mxm.acc_rows as u32 {
            return Err(bad(
                id,
                format_args!(
                    "needs {} accumulator rows, a matrix unit has {}",
                    base + rows,
                    target.mxm.acc_rows
                ),
            ));
        }
        sequences[s].base = base;
    }
    Ok(of
        .into_iter()
        .map(|s| sequences.get(s).map_or(0, |s| s.base as u16))
        .collect())
}
