//! One access per bank and cycle: a chain whose runs issue together must not touch a buffer twice.
//!
//! Where a chain reads a buffer beside another access to it (or to the state that its rows hold), the vectors that it reads
//! are copied first, by a chain of their own.

use super::Builder;
use super::moves::{Kernel, dense};
use crate::chain::{Affine, Buf, BufId, BufKind, Node, NodeArg, NodeOp};
use std::collections::BTreeMap;

impl Builder<'_> {
    /// Replaces reads that would meet another access to their buffer by reads of copies.
    pub fn keep_apart(&mut self, chip: u16, mut nodes: Vec<Node>) -> Vec<Node> {
        // Accesses that may meet: of one group, to one buffer.
        let mut beside: BTreeMap<(usize, BufId), Vec<usize>> = BTreeMap::new();
        let group = groups(&nodes);
        for (n, node) in nodes.iter().enumerate() {
            if let Some(storage) = self.storage(&node.op) {
                beside.entry((group[n], storage)).or_default().push(n);
            }
        }
        let mut copied: Vec<(BufId, (i64, i64), BufId)> = Vec::new();
        for n in (0..nodes.len()).rev() {
            let NodeOp::Read(buf, at) = nodes[n].op else { continue };
            let Some(storage) = self.storage(&nodes[n].op) else {
                continue;
            };
            let Some(others) = beside.get_mut(&(group[n], storage)) else {
                continue;
            };
            if !others.iter().any(|&m| m != n && nodes[m] != nodes[n]) {
                continue;
            }
            let range = range(&at, nodes[n].dims);
            let known = copied.iter().find(|c| (c.0, c.1) == (buf, range)).map(|c| c.2);
            let copy = known.or_else(|| self.copy(chip, buf, range));
            let Some(copy) = copy else { continue };
            copied.push((buf, range, copy));
            let base = (at.base as i64 - range.0) as u32;
            nodes[n].op = NodeOp::Read(copy, Affine { base, ..at });
            others.retain(|&m| m != n);
        }
        nodes
    }

    /// The buffer whose rows a node touches.
    fn storage(&self, op: &NodeOp) -> Option<BufId> {
        let (NodeOp::Read(buf, _) | NodeOp::Write(buf, _) | NodeOp::Gather { buf, .. } | NodeOp::Scatter { buf, .. }) =
            op
        else {
            return None;
        };
        match self.prog.bufs.get(*buf)?.kind {
            BufKind::NextState(state) => Some(state),
            _ => Some(*buf),
        }
    }

    /// A copy of these vectors of a buffer.
    fn copy(&mut self, chip: u16, buf: BufId, (first, last): (i64, i64)) -> Option<BufId> {
        let b = self.prog.bufs.get(buf)?;
        let n = u32::try_from(last - first + 1).ok()?;
        if b.lo != 0 || first < 0 || last >= b.n_vectors as i64 {
            return None;
        }
        let (dtype, hi) = (b.dtype, b.hi);
        let copy = Buf {
            n_vectors: n,
            kind: BufKind::Temp,
            ..b.clone()
        };
        let copy = self.prog.bufs.push(copy);
        let mut k = Kernel::new([n, 1, 1]);
        let to = dense(k.dims);
        let from = Affine {
            base: first as u32,
            ..to
        };
        let x = k.read(buf, from, dtype, 0, hi);
        let x = self.as_result(&mut k, x, dtype, hi);
        k.write(x, copy, to, dtype, hi);
        self.push_chain(chip, k.nodes);
        Some(copy)
    }
}

/// First and last vector that an address reaches.
fn range(at: &Affine, dims: [u32; 3]) -> (i64, i64) {
    let mut range = (at.base as i64, at.base as i64);
    for (&n, &s) in dims.iter().zip(&at.strides) {
        let reach = (n as i64 - 1) * s as i64;
        if reach < 0 {
            range.0 += reach;
        } else {
            range.1 += reach;
        }
    }
    range
}

/// Per node, the first node of those that it is linked to by streams.
fn groups(nodes: &[Node]) -> Vec<usize> {
    let mut first: Vec<usize> = (0..nodes.len()).collect();
    let root = |first: &mut [usize], mut n: usize| {
        while first[n] != n {
            first[n] = first[first[n]];
            n = first[n];
        }
        n
    };
    for (n, node) in nodes.iter().enumerate() {
        for arg in &node.args {
            let NodeArg::Node { node: u, .. } = arg else { continue };
            let (a, b) = (root(&mut first, n), root(&mut first, *u as usize));
            first[a.max(b)] = a.min(b);
        }
    }
    (0..nodes.len()).map(|n| root(&mut first, n)).collect()
}
