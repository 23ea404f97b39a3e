//! How and about when each buffer is used: what the choice of banks goes by.

use super::group::{self, Members};
use crate::CompileError;
use crate::chain::{BufId, BufKind, ChainId, ChainKind, ChainProgram, Node, NodeArg, NodeOp};
use lockstep_graph::EntityId;
use lockstep_isa::{Dir, Target};
use std::collections::BTreeMap;

/// One use of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Access {
    /// The group of runs.
    pub group: usize,
    /// Estimated first cycle.
    pub start: u64,
    /// Estimated length.
    pub cycles: u64,
    /// The bank's own part of that: first cycle and length.
    pub own: (u64, u64),
    /// Position of the unit that gives or takes the vectors, where it is known.
    pub unit: Option<i32>,
    /// Words that a read takes of the belts of its hemisphere where they reach the VXM.
    pub inward: u32,
}

/// Where a buffer must lie for gathers and scatters to reach it.
#[derive(Clone, Copy, Default)]
pub(super) struct Need {
    /// The hemisphere.
    pub hemi: Option<Dir>,
    /// A table: not in the outermost group.
    pub table: bool,
    /// An index: in the outermost group.
    pub index: bool,
}

/// How the buffers of a program are used.
pub(super) struct Uses {
    /// Per buffer.
    pub accesses: Vec<Vec<Access>>,
    /// First chain per buffer.
    pub first_chain: Vec<usize>,
    /// Last chain per buffer.
    pub last_chain: Vec<usize>,
    /// Per buffer.
    pub needs: Vec<Need>,
    /// Words that matrix and switch units send to the VXM, per group of runs and hemisphere.
    pub inward: Vec<[u32; 2]>,
}

/// Buffers of a compute node.
fn buffer(op: &NodeOp) -> Option<BufId> {
    match op {
        NodeOp::Read(buf, _) | NodeOp::Write(buf, _) => Some(*buf),
        NodeOp::Gather { buf, .. } | NodeOp::Scatter { buf, .. } => Some(*buf),
        _ => None,
    }
}

/// First cycle and length of every group of runs of a schedule, by chain and first node.
pub(super) type Seen = BTreeMap<(ChainId, Option<u32>), (u64, u64)>;

/// When each buffer is used: as `seen` in a schedule, else by one that knows only dependences and the matrix units.
pub(super) fn uses_of(
    program: &ChainProgram,
    split: &[Vec<Members>],
    target: &Target,
    first_group: usize,
    seen: Option<&Seen>,
) -> Result<Uses, CompileError> {
    let n = program.bufs.len();
    let mut uses = Uses {
        accesses: vec![Vec::new(); n],
        first_chain: vec![usize::MAX; n],
        last_chain: vec![0; n],
        needs: vec![Need::default(); n],
        inward: Vec::new(),
    };
    let storage = |buf: BufId| match program.bufs.get(buf).map(|b| &b.kind) {
        Some(BufKind::NextState(state)) => state.index(),
        _ => buf.index(),
    };
    let exists = |chain: ChainId, buf: BufId| match program.bufs.get(buf) {
        Some(_) => Ok(()),
        None => Err(group::bad(chain, format_args!("buffer {buf} does not exist"))),
    };
    let mut ready = vec![0u64; n];
    let mut clocks: BTreeMap<(u16, Dir, u8), u64> = BTreeMap::new();
    for ((id, chain), split) in program.chains.iter().zip(split) {
        let note = |uses: &mut Uses, buf: usize, access: Access| {
            uses.accesses[buf].push(access);
            uses.first_chain[buf] = uses.first_chain[buf].min(id.index());
            uses.last_chain[buf] = uses.last_chain[buf].max(id.index());
        };
        match &chain.kind {
            ChainKind::Transfer {
                from, to, n_vectors, ..
            } => {
                exists(id, *from)?;
                exists(id, *to)?;
                let estimated = *n_vectors as u64 * 4 * target.c2c.cycles_per_word as u64;
                let known = seen.and_then(|s| s.get(&(id, None)));
                let (start, cycles) = known.copied().unwrap_or((ready[storage(*from)], estimated));
                for buf in [from, to] {
                    let group = first_group + uses.inward.len();
                    note(
                        &mut uses,
                        storage(*buf),
                        Access {
                            group,
                            start,
                            cycles,
                            own: (start, cycles),
                            unit: None,
                            inward: 0,
                        },
                    );
                    uses.inward.push([0; 2]);
                }
                ready[storage(*to)] = start + cycles.min(1024) + target.c2c.latency as u64;
            }
            ChainKind::Compute { chip, nodes } => {
                if *chip >= program.n_chips {
                    return Err(group::bad(
                        id,
                        format_args!("runs on chip {chip} of {}", program.n_chips),
                    ));
                }
                needs(program, nodes, &storage, &mut uses.needs);
                let mut load_after = 0u64;
                for members in split {
                    for &v in &members.nodes {
                        if let Some(buf) = buffer(&nodes[v as usize].op) {
                            exists(id, buf)?;
                        }
                    }
                    let of = |v: &u32| nodes.get(*v as usize);
                    let issues = members.nodes.iter().filter_map(of).map(Node::issues).max().unwrap_or(1) as u64;
                    let mut start = members
                        .nodes
                        .iter()
                        .filter_map(of)
                        .filter_map(|node| buffer(&node.op))
                        .map(|b| ready[storage(b)])
                        .max()
                        .unwrap_or(0);
                    let (mut cycles, mut period) = (issues, 1);
                    if let Some(NodeOp::Mul { hemi, plane, .. }) = members.mul.and_then(|m| of(&m)).map(|node| &node.op)
                    {
                        let dtype = members
                            .mul
                            .and_then(|m| of(&m))
                            .map_or(lockstep_isa::DType::F32, |m| m.dtype);
                        period = target.occupancy(lockstep_isa::Opcode::Mul, dtype) as u64;
                        cycles *= period;
                        let clock = clocks.entry((*chip, *hemi, *plane)).or_insert(0);
                        load_after = *clock;
                        start = start.max(*clock);
                        *clock = start + cycles;
                    } else if members.load.is_some() {
                        // Loads come first in the list; they run under the product before theirs.
                        let unit = members.load.and_then(|l| of(&l)).and_then(|node| match node.op {
                            NodeOp::Load { hemi, plane, .. } => Some((*chip, hemi, plane)),
                            _ => None,
                        });
                        let clock = unit.and_then(|u| clocks.get(&u)).copied().unwrap_or(load_after);
                        start = start.max(clock.saturating_sub(1024).max(load_after.min(clock)));
                    }
                    let known = seen.and_then(|s| s.get(&(id, members.nodes.first().copied())));
                    let (start, cycles) = known.copied().unwrap_or((start, cycles));
                    let group = first_group + uses.inward.len();
                    let mut inward = [0; 2];
                    for &v in &members.nodes {
                        let unit = other_end(target, nodes, &members.nodes, v);
                        let words = match unit {
                            Some(0) if !is_write(&nodes[v as usize].op) => nodes[v as usize].dtype.words() as u32,
                            _ => 0,
                        };
                        let Some(buf) = buffer(&nodes[v as usize].op) else {
                            if let Some(hemi) = hemisphere(&nodes[v as usize].op) {
                                inward[hemi as usize] += words;
                            }
                            continue;
                        };
                        note(
                            &mut uses,
                            storage(buf),
                            Access {
                                group,
                                start,
                                cycles,
                                own: own(&nodes[v as usize], period, (start, cycles)),
                                unit,
                                inward: words,
                            },
                        );
                        if is_write(&nodes[v as usize].op) {
                            let done = start + 150;
                            ready[storage(buf)] = ready[storage(buf)].max(done);
                        }
                    }
                    uses.inward.push(inward);
                }
            }
        }
    }
    Ok(uses)
}

/// The hemisphere of a matrix or switch unit.
fn hemisphere(op: &NodeOp) -> Option<Dir> {
    match op {
        NodeOp::Load { hemi, .. } | NodeOp::Mul { hemi, .. } => Some(*hemi),
        NodeOp::Permute { hemi, .. } | NodeOp::Transpose { hemi, .. } | NodeOp::Reduce { hemi, .. } => Some(*hemi),
        _ => None,
    }
}

fn is_write(op: &NodeOp) -> bool {
    matches!(op, NodeOp::Write(..) | NodeOp::Scatter { .. })
}

/// When a node of a group has its bank, if the group runs in `cycles` from `start` on: reads come first, writes last.
fn own(node: &Node, period: u64, (start, cycles): (u64, u64)) -> (u64, u64) {
    let busy = (node.issues() as u64 * period).min(cycles).max(1);
    match is_write(&node.op) {
        true => (start + cycles.saturating_sub(busy), busy),
        false => (start, busy),
    }
}

/// The position of the unit that reads what node `v` reads, or that makes what it writes; `None` for another bank.
fn other_end(target: &Target, nodes: &[Node], members: &[u32], v: u32) -> Option<i32> {
    let from = |arg: Option<&NodeArg>| match arg {
        Some(NodeArg::Node { node, .. }) => Some(*node),
        _ => None,
    };
    let node = nodes.get(v as usize)?;
    let unit = match is_write(&node.op) {
        true => from(node.args.first())?,
        false => {
            let takes = |u: &&u32| {
                nodes
                    .get(**u as usize)
                    .is_some_and(|n| n.args.iter().any(|a| from(Some(a)) == Some(v)))
            };
            *members.iter().find(takes)?
        }
    };
    match nodes.get(unit as usize)?.op {
        NodeOp::Load { hemi, .. } | NodeOp::Mul { hemi, .. } => Some(target.mxm_position(hemi)),
        NodeOp::Permute { hemi, .. } | NodeOp::Transpose { hemi, .. } | NodeOp::Reduce { hemi, .. } => {
            Some(target.sxm_position(hemi))
        }
        NodeOp::Alu(_) | NodeOp::Fold { .. } => Some(0),
        _ => None,
    }
}

/// Notes which buffers are tables of gathers and scatters, and which are their indices.
fn needs(program: &ChainProgram, nodes: &[Node], storage: &dyn Fn(BufId) -> usize, needs: &mut [Need]) {
    let mut next = 0usize;
    for node in nodes {
        let (buf, index, gather) = match &node.op {
            NodeOp::Gather { buf, .. } => (*buf, node.args.first(), true),
            NodeOp::Scatter { buf, .. } => (*buf, node.args.get(1), false),
            _ => continue,
        };
        if program.bufs.get(buf).is_none() {
            continue;
        }
        let Some(NodeArg::Node { node: source, .. }) = index else {
            continue;
        };
        let Some(source) = nodes.get(*source as usize) else {
            continue;
        };
        let table = storage(buf);
        match &source.op {
            NodeOp::Read(index, _) if program.bufs.get(*index).is_some() => {
                let index = storage(*index);
                if gather {
                    let wish = |b: usize| program.bufs.as_slice().get(b).and_then(|b| b.side);
                    let known = needs[index].hemi.or(needs[table].hemi);
                    let hemi = known.or(wish(table)).or(wish(index)).unwrap_or_else(|| {
                        next += 1;
                        Dir::BOTH[(table + next) % 2]
                    });
                    needs[index].hemi = Some(hemi);
                    needs[table].hemi = Some(hemi);
                }
                needs[index].index = true;
                needs[table].table = true;
            }
            NodeOp::Permute { hemi, .. } | NodeOp::Transpose { hemi, .. } | NodeOp::Reduce { hemi, .. } if gather => {
                needs[table].hemi = Some(*hemi);
            }
            _ => {}
        }
    }
}
