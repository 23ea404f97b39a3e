//! Order: which chains the list scheduler places first.
//!
//! Program order is by operation. Chains that were ready earlier in a schedule found go first in the next one, so that what
//! a product finishes first is taken on first; a chain follows every chain before it in the program that shares a
//! buffer with it, unless both only read.

use crate::chain::{BufId, BufKind, Chain, ChainId, ChainKind, ChainProgram, NodeOp};
use lockstep_graph::EntityId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A topological order of the chains, those with the least `ready` first.
pub(super) fn by_ready(program: &ChainProgram, ready: &[u64]) -> Vec<ChainId> {
    let n = program.chains.len();
    let mut after: Vec<Vec<u32>> = vec![Vec::new(); n];
    let mut open = vec![0u32; n];
    let mut writers: Vec<Vec<u32>> = vec![Vec::new(); program.bufs.len()];
    let mut readers: Vec<Vec<u32>> = vec![Vec::new(); program.bufs.len()];
    for (id, chain) in program.chains.iter() {
        let own = id.index() as u32;
        let touched = touched(program, chain);
        let mut before: Vec<u32> = Vec::new();
        for &(buf, writes) in &touched {
            before.extend(&writers[buf]);
            if writes {
                before.extend(&readers[buf]);
            }
        }
        before.sort_unstable();
        before.dedup();
        open[id.index()] = before.len() as u32;
        for b in before {
            after[b as usize].push(own);
        }
        for (buf, writes) in touched {
            let list = if writes { &mut writers[buf] } else { &mut readers[buf] };
            list.push(own);
        }
    }
    let key = |i: u32| Reverse((ready.get(i as usize).copied().unwrap_or(0), i));
    let mut heap: BinaryHeap<_> = (0..n as u32).filter(|&i| open[i as usize] == 0).map(key).collect();
    let ids: Vec<ChainId> = program.chains.ids().collect();
    let mut order = Vec::with_capacity(n);
    while let Some(Reverse((_, i))) = heap.pop() {
        order.push(ids[i as usize]);
        for &next in &after[i as usize] {
            open[next as usize] -= 1;
            if open[next as usize] == 0 {
                heap.push(key(next));
            }
        }
    }
    order
}

/// Buffers that a chain reads (false) or writes (true), each once; constants are left out, a next state counts as its state.
fn touched(program: &ChainProgram, chain: &Chain) -> Vec<(usize, bool)> {
    let storage = |buf: BufId| match program.bufs.get(buf).map(|b| &b.kind) {
        Some(BufKind::NextState(state)) => Some(state.index()),
        Some(BufKind::Rows(_) | BufKind::Tile { .. }) | None => None,
        Some(BufKind::Input | BufKind::State(_) | BufKind::Temp) => Some(buf.index()),
    };
    let mut all: Vec<(usize, bool)> = match &chain.kind {
        ChainKind::Compute { nodes, .. } => nodes
            .iter()
            .filter_map(|node| match node.op {
                NodeOp::Read(buf, _) | NodeOp::Gather { buf, .. } => Some((storage(buf)?, false)),
                NodeOp::Write(buf, _) | NodeOp::Scatter { buf, .. } => Some((storage(buf)?, true)),
                _ => None,
            })
            .collect(),
        ChainKind::Transfer { from, to, .. } => {
            let ends = [(storage(*from), false), (storage(*to), true)];
            ends.into_iter()
                .filter_map(|(buf, writes)| Some((buf?, writes)))
                .collect()
        }
    };
    all.sort_unstable();
    all.dedup();
    all
}
