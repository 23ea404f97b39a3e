//! Groups: the rigid parts of a chain.
//!
//! Nodes of a chain that pass vectors to each other over belts or ALU forwards form a *group*: once the first issue of
//! one of them is fixed, so is that of every other. This module splits a chain into groups and solves the relative
//! timing of one group: the cycle stride of each run, its first issue relative to the group's anchor, the delays of ALU
//! operands, and the belts that results travel on (direction and extent; the stream number is the placer's).
//!
//! The timing itself is solved in `solve.rs`. Where a result is wanted on both sides of the VXM, one more `copy` drives the
//! other direction.

use super::solve;
use crate::chain::{Chain, ChainId, ChainKind, ChainProgram, Node, NodeArg, NodeOp};
use crate::{CompileError, CompileErrorKind};
use lockstep_graph::EntityId;
use lockstep_isa::{AluOp, DType, Dir, Opcode, Place, Queue, Target};

/// Error about one chain.
pub(super) fn bad(chain: ChainId, what: impl std::fmt::Display) -> CompileError {
    CompileError::internal("schedule", format!("chain {chain}: {what}"))
}

/// Nodes of one group, and what kind it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members {
    /// Node indices, ascending.
    pub nodes: Vec<u32>,
    /// The tile load, in a load group.
    pub load: Option<u32>,
    /// The mul, where there is one.
    pub mul: Option<u32>,
}

/// Splits the nodes of a compute chain into groups: load groups, and the others ordered by their mul (or first node).
pub(super) fn split(chain: ChainId, nodes: &[Node]) -> Result<Vec<Members>, CompileError> {
    let n = nodes.len();
    let mut root: Vec<usize> = (0..n).collect();
    fn find(root: &mut [usize], mut i: usize) -> usize {
        while root[i] != i {
            root[i] = root[root[i]];
            i = root[i];
        }
        i
    }
    for (v, node) in nodes.iter().enumerate() {
        for arg in &node.args {
            if let NodeArg::Node { node: u, .. } = arg {
                let u = *u as usize;
                if u >= v {
                    return Err(bad(
                        chain,
                        format_args!("node {v} takes a result of the later node {u}"),
                    ));
                }
                let (a, b) = (find(&mut root, u), find(&mut root, v));
                root[a.max(b)] = a.min(b);
            }
        }
    }
    let mut groups: Vec<Members> = Vec::new();
    let mut index = vec![usize::MAX; n];
    for (v, node) in nodes.iter().enumerate() {
        let r = find(&mut root, v);
        if index[r] == usize::MAX {
            index[r] = groups.len();
            groups.push(Members {
                nodes: Vec::new(),
                load: None,
                mul: None,
            });
        }
        let group = &mut groups[index[r]];
        group.nodes.push(v as u32);
        let slot = match node.op {
            NodeOp::Load { .. } => &mut group.load,
            NodeOp::Mul { .. } => &mut group.mul,
            _ => continue,
        };
        if slot.replace(v as u32).is_some() {
            return Err(bad(
                chain,
                format_args!("node {v} shares its operands with another node on the MXM"),
            ));
        }
    }
    if let Some(g) = groups.iter().find(|g| g.load.is_some() && g.mul.is_some()) {
        return Err(bad(
            chain,
            format_args!("tile load {:?} and mul {:?} share operands", g.load, g.mul),
        ));
    }
    groups.sort_by_key(|g| {
        (
            g.mul.unwrap_or_else(|| g.nodes.first().copied().unwrap_or(0)),
            g.nodes.first().copied(),
        )
    });
    Ok(groups)
}

/// What a step does: a node of the chain, or what the scheduler adds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StepOp {
    /// As the node says.
    Node(NodeOp),
    /// Reads or writes single words of a buffer (element strides in words).
    Words {
        /// Whether it writes.
        write: bool,
        /// The buffer.
        buf: crate::chain::BufId,
        /// First word, and word steps per dimension.
        at: crate::chain::Affine,
    },
    /// Sends a word.
    Send,
    /// Receives a word.
    Recv,
}

/// The queue a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// This very queue.
    Fixed(Queue),
    /// Any ALU, or four aligned ones.
    Alu(u8),
}

/// An operand of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// Results of another step, from result `first`.
    Step {
        /// The producing step.
        step: usize,
        /// Result that issue 0 takes.
        first: u32,
        /// Operand delay.
        delay: u8,
        /// ALU forward rather than belt.
        forward: bool,
    },
    /// Immediate bits.
    Imm(u32),
}

/// The belt that carries a step's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Belt {
    /// Direction.
    pub dir: Dir,
    /// Streams.
    pub words: u16,
    /// Producer's position.
    pub from: i32,
    /// Position of the farthest consumer.
    pub to: i32,
    /// Cycle of the first result at `from`, relative to the anchor.
    pub start: u64,
    /// Cycles between results.
    pub period: u64,
    /// Number of results.
    pub count: u32,
}

/// One future run of a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// Chip.
    pub chip: u16,
    /// Node of the chain, where it is one.
    pub node: Option<u32>,
    /// What it does.
    pub op: StepOp,
    /// Dtype as in [`Node::dtype`].
    pub dtype: DType,
    /// Steps per dimension.
    pub dims: [u32; 3],
    /// First live lane.
    pub lo: u16,
    /// One past the last live lane.
    pub hi: u16,
    /// Operands.
    pub args: Vec<Arg>,
    /// Queue.
    pub unit: Unit,
    /// First issue relative to the anchor.
    pub offset: u64,
    /// Cycles between issues; all dimensions are dense.
    pub period: u64,
    /// Result belt.
    pub belt: Option<Belt>,
}

impl Step {
    /// Number of issues.
    pub fn issues(&self) -> u32 {
        self.dims.iter().product()
    }

    /// Offset of the last issue from the first.
    pub fn last(&self) -> u64 {
        self.period * (self.issues().max(1) as u64 - 1)
    }

    /// Dtype of its results.
    pub fn result_dtype(&self) -> DType {
        match &self.op {
            StepOp::Node(NodeOp::Mul { .. }) => self.dtype.widened(),
            _ => self.dtype,
        }
    }

    /// Whether it runs on the VXM.
    pub fn on_vxm(&self) -> bool {
        matches!(self.op, StepOp::Node(NodeOp::Alu(_) | NodeOp::Fold { .. }))
    }

    /// Issues that make one result.
    pub fn folded(&self) -> u64 {
        match self.op {
            StepOp::Node(NodeOp::Fold { dims, every: false, .. }) => {
                self.dims.iter().take(dims as usize).map(|&d| d as u64).product()
            }
            _ => 1,
        }
    }

    /// Whether its results come after its last issue, one a cycle.
    pub fn is_transpose(&self) -> bool {
        matches!(self.op, StepOp::Node(NodeOp::Transpose { .. }))
    }

    /// Number of results.
    pub fn results(&self) -> u64 {
        match self.op {
            StepOp::Node(NodeOp::Transpose { n_out, .. }) => n_out as u64,
            _ => self.issues() as u64 / self.folded(),
        }
    }

    /// Cycles between results.
    pub fn result_period(&self) -> u64 {
        if self.is_transpose() {
            1
        } else {
            self.period * self.folded()
        }
    }

    /// Cycles from its first issue to result `n` at its own position.
    pub fn result_offset(&self, target: &Target, n: u32) -> u64 {
        let latency = latency(target, self);
        if self.is_transpose() {
            return self.last() + latency + n as u64;
        }
        let folded = self.folded();
        self.period * (n as u64 * folded + folded - 1) + latency
    }
}

/// Opcode of a step.
pub(super) fn opcode(op: &StepOp) -> Opcode {
    match op {
        StepOp::Node(op) => match op {
            NodeOp::Read(..) => Opcode::Read,
            NodeOp::Write(..) => Opcode::Write,
            NodeOp::Gather { .. } => Opcode::Gather,
            NodeOp::Scatter { .. } => Opcode::Scatter,
            NodeOp::Load { by_column: false, .. } => Opcode::LoadRow,
            NodeOp::Load { .. } => Opcode::LoadCol,
            NodeOp::Mul { .. } => Opcode::Mul,
            NodeOp::Alu(_) => Opcode::Alu,
            NodeOp::Fold { .. } => Opcode::Fold,
            NodeOp::Permute { .. } => Opcode::Permute,
            NodeOp::Transpose { .. } => Opcode::Transpose,
            NodeOp::Reduce { .. } => Opcode::Reduce,
        },
        StepOp::Words { write: false, .. } => Opcode::Read,
        StepOp::Words { .. } => Opcode::Write,
        StepOp::Send => Opcode::Send,
        StepOp::Recv => Opcode::Recv,
    }
}

/// Latency of a step, by the isa's own table.
pub(super) fn latency(target: &Target, step: &Step) -> u64 {
    let mut run = lockstep_isa::Run::new(opcode(&step.op), step.dtype, Queue::Alu(0));
    if let StepOp::Node(NodeOp::Alu(op)) = step.op {
        run.alu = op;
    }
    target.latency_of(&run) as u64
}

/// Cycles that a step keeps its queue (all four of a wide ALU operation), from its first issue. ALUs and the SXM's
/// transposer are kept until their last result is out, so that results of two runs never meet.
pub(super) fn hold(target: &Target, step: &Step) -> u64 {
    let tail = match &step.op {
        StepOp::Node(NodeOp::Alu(_) | NodeOp::Fold { .. }) => latency(target, step) + 1,
        StepOp::Node(NodeOp::Transpose { n_out, .. }) => latency(target, step) + *n_out as u64,
        op => target.occupancy(opcode(op), step.dtype) as u64,
    };
    step.last() + tail
}

/// Cycles from a step's first issue to its end, as [`Target::run_end`] counts.
pub(super) fn end(target: &Target, step: &Step) -> u64 {
    let extra = match step.op {
        StepOp::Node(NodeOp::Transpose { n_out, .. }) => (n_out as u64).saturating_sub(1),
        _ => 0,
    };
    let occupancy = target.occupancy(opcode(&step.op), step.dtype) as u64;
    step.last() + latency(target, step).max(occupancy) + extra
}

/// A rigid group, timed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// The chain.
    pub chain: ChainId,
    /// Runs, producers before consumers.
    pub steps: Vec<Step>,
}

/// Position of a step's unit.
pub(super) fn position(target: &Target, step: &Step) -> i32 {
    match step.unit {
        Unit::Fixed(queue) => target.queue_position(queue),
        Unit::Alu(_) => 0,
    }
}

/// Builds and times the group of a compute chain that `members` names. `homes` is the bank of each buffer.
pub(super) fn build(
    program: &ChainProgram,
    target: &Target,
    homes: &[Place],
    chain: ChainId,
    members: &Members,
) -> Result<Group, CompileError> {
    let Some(Chain {
        kind: ChainKind::Compute { chip, nodes },
        ..
    }) = program.chains.get(chain)
    else {
        return Err(bad(chain, "is no compute chain"));
    };
    let mut local = vec![usize::MAX; nodes.len()];
    let mut steps: Vec<Step> = Vec::with_capacity(members.nodes.len() + 2);
    for &v in &members.nodes {
        let node = &nodes[v as usize];
        let args = node
            .args
            .iter()
            .map(|arg| match *arg {
                NodeArg::Node { node, first } => Arg::Step {
                    step: local[node as usize],
                    first,
                    delay: 0,
                    forward: false,
                },
                NodeArg::Imm(bits) => Arg::Imm(bits),
            })
            .collect();
        let home = |buf: crate::chain::BufId| {
            homes
                .get(buf.index())
                .copied()
                .ok_or_else(|| bad(chain, format_args!("buffer {buf} does not exist")))
        };
        let unit = match &node.op {
            NodeOp::Read(buf, _) | NodeOp::Write(buf, _) => Unit::Fixed(Queue::Mem(home(*buf)?)),
            NodeOp::Gather { buf, .. } | NodeOp::Scatter { buf, .. } => Unit::Fixed(Queue::Mem(home(*buf)?)),
            NodeOp::Load { hemi, plane, .. } => Unit::Fixed(Queue::MxmLoad(*hemi, *plane)),
            NodeOp::Mul { hemi, plane, .. } => Unit::Fixed(Queue::MxmMul(*hemi, *plane)),
            NodeOp::Alu(op) => Unit::Alu(op.cost()),
            NodeOp::Fold { .. } => Unit::Alu(1),
            NodeOp::Permute { hemi, .. } | NodeOp::Transpose { hemi, .. } | NodeOp::Reduce { hemi, .. } => {
                Unit::Fixed(Queue::Sxm(*hemi))
            }
        };
        if node.dims.contains(&0) {
            return Err(bad(chain, format_args!("node {v} has a dimension of no steps")));
        }
        local[v as usize] = steps.len();
        steps.push(Step {
            chip: *chip,
            node: Some(v),
            op: StepOp::Node(node.op.clone()),
            dtype: node.dtype,
            dims: node.dims,
            lo: node.lo,
            hi: node.hi,
            args,
            unit,
            offset: 0,
            period: 1,
            belt: None,
        });
    }
    split_directions(target, chain, &mut steps)?;
    solve::time(target, chain, &mut steps)?;
    belts(target, chain, &mut steps)?;
    let alus: u32 = steps
        .iter()
        .map(|s| if let Unit::Alu(cost) = s.unit { cost as u32 } else { 0 })
        .sum();
    if alus > target.vxm.alus as u32 {
        return Err(bad(
            chain,
            format_args!("needs {alus} ALUs, the target has {}", target.vxm.alus),
        ));
    }
    own_queues(target, chain, &steps)?;
    Ok(Group { chain, steps })
}

/// Two runs of a group on one queue must not overlap, since their distance is fixed.
fn own_queues(target: &Target, chain: ChainId, steps: &[Step]) -> Result<(), CompileError> {
    for (i, a) in steps.iter().enumerate() {
        let Unit::Fixed(queue) = a.unit else { continue };
        for b in &steps[..i] {
            if b.unit == a.unit && a.offset < b.offset + hold(target, b) && b.offset < a.offset + hold(target, a) {
                let buf = |s: &Step| super::deps::memory(s).map(|(buf, _)| buf.to_string());
                // Banks are shared within a chain only where all others are full.
                if let (Queue::Mem(_), Some(x), Some(y)) = (queue, buf(a), buf(b))
                    && x != y
                {
                    let summary = format!(
                        "chain {chain} reads and writes {x} and {y} in the same cycles, and one bank alone has room for both; use more chips or narrower weights"
                    );
                    let report = format!("{x}, {y}: both in the bank of {queue:?}");
                    return Err(CompileError {
                        kind: CompileErrorKind::DoesNotFit { summary, report },
                        at: None,
                    });
                }
                return Err(bad(
                    chain,
                    format_args!(
                        "nodes {:?} ({:?}) and {:?} ({:?}) need the queue {queue:?} at the same time",
                        b.node,
                        buf(b),
                        a.node,
                        buf(a)
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Appends a `copy` of the results of step `of`.
pub(super) fn push_copy(steps: &mut Vec<Step>, of: usize, first: u32) -> usize {
    let p = &steps[of];
    let mut dims = p.dims;
    if let StepOp::Node(NodeOp::Fold {
        dims: folded,
        every: false,
        ..
    }) = p.op
    {
        dims = [1; 3];
        for (d, slot) in dims.iter_mut().zip(p.dims.iter().skip(folded as usize)) {
            *d = *slot;
        }
    }
    if let StepOp::Node(NodeOp::Transpose { n_out, .. }) = p.op {
        dims = [n_out as u32, 1, 1];
    }
    let copy = Step {
        chip: p.chip,
        node: None,
        op: StepOp::Node(NodeOp::Alu(AluOp::Copy)),
        dtype: p.result_dtype().widened(),
        dims,
        lo: p.lo,
        hi: p.hi,
        args: vec![Arg::Step {
            step: of,
            first,
            delay: 0,
            forward: false,
        }],
        unit: Unit::Alu(1),
        offset: 0,
        period: 1,
        belt: None,
    };
    steps.push(copy);
    steps.len() - 1
}

/// Words that a tile load of this group takes in a cycle.
pub(super) fn load_words(group: &Group, load: &Step) -> u32 {
    let belts = load.args.iter().map(|arg| match arg {
        Arg::Step { step, .. } => group.steps[*step].dtype.words() as u32,
        Arg::Imm(_) => 0,
    });
    belts.sum()
}

/// Gives every VXM result that is wanted on both sides a `copy` that drives the second side.
fn split_directions(target: &Target, chain: ChainId, steps: &mut Vec<Step>) -> Result<(), CompileError> {
    for u in 0..steps.len() {
        let from = position(target, &steps[u]);
        let mut sides: [Vec<(usize, usize)>; 2] = [Vec::new(), Vec::new()];
        for (v, step) in steps.iter().enumerate() {
            for (a, arg) in step.args.iter().enumerate() {
                let Arg::Step { step: producer, .. } = *arg else {
                    continue;
                };
                if producer != u || (steps[u].on_vxm() && step.on_vxm()) {
                    continue;
                }
                match Dir::between(from, position(target, step)) {
                    Some(dir) => sides[dir as usize].push((v, a)),
                    None => {
                        return Err(bad(
                            chain,
                            format_args!("nodes {:?} and {:?} share a position", steps[u].node, step.node),
                        ));
                    }
                }
            }
        }
        let [east, west] = &sides;
        if east.is_empty() || west.is_empty() {
            continue;
        }
        if !steps[u].on_vxm() {
            return Err(bad(
                chain,
                format_args!("the result of node {:?} is wanted in both directions", steps[u].node),
            ));
        }
        let writes = |side: &[(usize, usize)]| {
            side.iter()
                .all(|&(v, _)| matches!(steps[v].op, StepOp::Node(NodeOp::Write(..))))
        };
        let moved = if writes(east) && !writes(west) {
            east.clone()
        } else {
            west.clone()
        };
        let dtype = steps[u].dtype;
        let copy = push_copy(steps, u, 0);
        if dtype != dtype.widened() {
            // Narrow results are those of conversions alone.
            steps[copy].op = StepOp::Node(NodeOp::Alu(AluOp::Cvt));
        }
        steps[copy].dtype = dtype;
        for (v, a) in moved {
            if let Some(Arg::Step { step, .. }) = steps[v].args.get_mut(a) {
                *step = copy;
            }
        }
    }
    Ok(())
}

/// Sets the result belts.
fn belts(target: &Target, chain: ChainId, steps: &mut [Step]) -> Result<(), CompileError> {
    for u in 0..steps.len() {
        let from = position(target, &steps[u]);
        let mut dir = None;
        let mut far = from;
        let mut used = false;
        for step in steps.iter() {
            for arg in &step.args {
                let Arg::Step {
                    step: producer,
                    forward,
                    ..
                } = *arg
                else {
                    continue;
                };
                if producer != u {
                    continue;
                }
                used = true;
                if forward {
                    continue;
                }
                let to = position(target, step);
                dir = Dir::between(from, to);
                if (to - from).abs() > (far - from).abs() {
                    far = to;
                }
            }
        }
        let step = &steps[u];
        let rows = matches!(step.op, StepOp::Node(NodeOp::Mul { to_rows: true, .. }));
        let silent = matches!(
            step.op,
            StepOp::Node(NodeOp::Write(..) | NodeOp::Scatter { .. } | NodeOp::Load { .. })
        );
        if !used && !rows && !silent {
            return Err(bad(
                chain,
                format_args!("the result of node {:?} is not used", step.node),
            ));
        }
        if let (Some(dir), StepOp::Node(NodeOp::Gather { .. })) = (dir, &step.op) {
            let index = step.args.iter().find_map(|a| match a {
                Arg::Step { step, .. } => Some(position(target, &steps[*step])),
                Arg::Imm(_) => None,
            });
            if index.and_then(|p| Dir::between(p, from)) != Some(dir) {
                return Err(bad(
                    chain,
                    format_args!(
                        "the index and the result of gather {:?} do not flow in one direction",
                        step.node
                    ),
                ));
            }
        }
        let belt = dir.map(|dir| Belt {
            dir,
            words: step.result_dtype().words(),
            from,
            to: far,
            start: step.offset + step.result_offset(target, 0),
            period: step.result_period(),
            count: step.results() as u32,
        });
        steps[u].belt = belt;
    }
    Ok(())
}
