//! Cuts an expression that is too large for the vector unit at one of its nodes.
//!
//! A chain passes through the 16 ALUs of a lane once, and conversions and write-backs take some; a larger expression becomes several
//! maps, each of which gives one value that the next reads.

use super::expr::prune;
use super::op::{Arg, MapNode};

/// Most ALUs of the expression of one map.
pub const MAX_ALUS: usize = 12;

/// ALUs that an expression occupies.
pub fn alus(nodes: &[MapNode]) -> usize {
    nodes.iter().map(|n| usize::from(n.op.cost())).sum()
}

/// The expression of the node whose result is best computed before the rest, and the rest with that node as operand `operand`. `None` if the
/// expression is small enough or nothing that fits would make it smaller.
pub fn split(nodes: &[MapNode], operand: u32) -> Option<(Vec<MapNode>, Vec<MapNode>)> {
    if alus(nodes) <= MAX_ALUS {
        return None;
    }
    let mut best: Option<(usize, Vec<MapNode>, Vec<MapNode>)> = None;
    for at in 0..nodes.len().saturating_sub(1) {
        let first = prune(&nodes[..=at]);
        if alus(&first) > MAX_ALUS {
            continue;
        }
        let rest = prune(&without(nodes, at, operand));
        let left = alus(&rest);
        if left < alus(nodes) && best.as_ref().is_none_or(|b| left < b.0) {
            best = Some((left, first, rest));
        }
    }
    best.map(|(_, first, rest)| (first, rest))
}

/// The nodes with every use of node `at` replaced by an operand.
fn without(nodes: &[MapNode], at: usize, operand: u32) -> Vec<MapNode> {
    let replace = |node: &MapNode| {
        let mut node = *node;
        let arity = node.op.arity();
        for arg in &mut node.args[..arity] {
            if *arg == Arg::Node(at as u32) {
                *arg = Arg::Operand(operand);
            }
        }
        node
    };
    nodes.iter().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::expr::Expr;
    use lockstep_isa::DType;

    #[test]
    fn a_large_expression_is_cut_until_it_fits() {
        let e = Expr::new(&[DType::F32]);
        let x = e.operand(0);
        let mut sum = x;
        for _ in 0..5 {
            let log = e.log(sum);
            sum = e.mul(log, x);
        }
        let mut nodes = e.finish(sum);
        let (mut parts, mut operand) = (0, 1);
        while let Some((first, rest)) = split(&nodes, operand) {
            assert!(alus(&first) <= MAX_ALUS && alus(&rest) < alus(&nodes));
            (nodes, operand, parts) = (rest, operand + 1, parts + 1);
        }
        assert!(parts == 2 && alus(&nodes) <= MAX_ALUS, "{parts} cuts leave {nodes:?}");
    }
}
