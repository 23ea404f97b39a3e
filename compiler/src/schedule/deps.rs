//! Dependences over rows: when each vector of a buffer may be read, and when it may be written again.

use super::group::{self, Group, Step, StepOp, bad};
use super::report::{Cause, Wait};
use crate::CompileError;
use crate::chain::{Affine, BufId, BufKind, ChainId, ChainProgram, NodeOp};
use lockstep_graph::EntityId;
use lockstep_isa::Target;

/// What a dependence says: not before this cycle, because of this chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// The cycle.
    pub cycle: u64,
    /// The reason.
    pub cause: Cause,
}

impl Bound {
    /// No bound.
    pub const START: Bound = Bound {
        cycle: 0,
        cause: Cause::START,
    };

    /// Keeps the later of two bounds.
    pub fn raise(&mut self, cycle: u64, cause: Cause) {
        if cycle > self.cycle {
            *self = Bound { cycle, cause };
        }
    }
}

/// Per vector of a buffer that programs write.
#[derive(Clone, Debug, Default)]
struct Rows {
    /// Cycle from which it may be read.
    ready: Vec<u64>,
    /// First cycle at which it may be written.
    writable: Vec<u64>,
    /// Group that wrote it.
    writer: Vec<u32>,
    /// Group that touched it last.
    toucher: Vec<u32>,
}

/// The rows of a program.
pub(super) struct Deps<'a> {
    program: &'a ChainProgram,
    target: &'a Target,
    rows: Vec<Rows>,
}

impl<'a> Deps<'a> {
    /// Everything readable from cycle 0.
    pub fn new(program: &'a ChainProgram, target: &'a Target) -> Self {
        Deps {
            program,
            target,
            rows: vec![Rows::default(); program.bufs.len()],
        }
    }

    /// The buffer whose rows these are: a next state lies in the rows of its state.
    fn storage(&self, buf: BufId) -> BufId {
        match self.program.bufs.get(buf).map(|b| &b.kind) {
            Some(BufKind::NextState(state)) => *state,
            _ => buf,
        }
    }

    /// Calls `f(offset in cycles from the step's first issue, vector)` for every vector the step touches: with the first
    /// and the last issue for rows chosen at run time.
    fn touch(&self, id: ChainId, step: &Step, f: &mut dyn FnMut(u64, u64, usize)) -> Result<(), CompileError> {
        let (buf, at, width, rows) = match &step.op {
            StepOp::Node(NodeOp::Read(buf, at) | NodeOp::Write(buf, at)) => (*buf, at, 1, None),
            StepOp::Node(
                NodeOp::Gather {
                    buf,
                    at,
                    row_stride,
                    limit,
                }
                | NodeOp::Scatter {
                    buf,
                    at,
                    row_stride,
                    limit,
                },
            ) => (*buf, at, 1, Some((*row_stride, *limit))),
            StepOp::Words { buf, at, .. } => (*buf, at, step.dtype.words() as i64, None),
            _ => return Ok(()),
        };
        let n = self.program.bufs.get(buf).map_or(0, |b| b.n_vectors) as i64;
        let mut issue = 0u64;
        let mut seen = Vec::new();
        for i2 in 0..step.dims[2] as i64 {
            for i1 in 0..step.dims[1] as i64 {
                for i0 in 0..step.dims[0] as i64 {
                    let s: &Affine = at;
                    let element =
                        s.base as i64 + i0 * s.strides[0] as i64 + i1 * s.strides[1] as i64 + i2 * s.strides[2] as i64;
                    let vector = element.div_euclid(width);
                    if vector < 0 || vector >= n {
                        return Err(bad(
                            id,
                            format_args!("node {:?} touches vector {vector} of {buf}, which has {n}", step.node),
                        ));
                    }
                    match rows {
                        None => f(issue * step.period, issue * step.period, vector as usize),
                        Some(_) => seen.push(vector),
                    }
                    issue += 1;
                }
            }
        }
        if let Some((stride, limit)) = rows {
            seen.sort_unstable();
            seen.dedup();
            for first in seen {
                let last = first + limit.max(1).saturating_sub(1) as i64 * stride as i64;
                if limit == 0 || last >= n {
                    return Err(bad(
                        id,
                        format_args!("node {:?} may touch vector {last} of {buf}, which has {n}", step.node),
                    ));
                }
                for row in 0..limit as i64 {
                    f(0, step.last(), (first + row * stride as i64) as usize);
                }
            }
        }
        Ok(())
    }

    /// Earliest anchor, not before `floor`, by the rows that the group reads and writes.
    pub fn bound(&self, group: &Group, floor: Bound) -> Result<Bound, CompileError> {
        let mut bound = floor;
        for step in &group.steps {
            let Some((buf, writes)) = memory(step) else {
                continue;
            };
            let rows = &self.rows[self.storage(buf).index()];
            // The vectors' range must be checked even where nothing has been written.
            self.touch(group.chain, step, &mut |first, _, v| {
                let Some(&ready) = rows.ready.get(v) else {
                    return;
                };
                let cause = |group| Cause {
                    wait: Wait::Rows,
                    group: Some(group),
                };
                bound.raise(ready.saturating_sub(step.offset + first), cause(rows.writer[v]));
                if writes {
                    bound.raise(
                        rows.writable[v].saturating_sub(step.offset + first),
                        cause(rows.toucher[v]),
                    );
                }
            })?;
        }
        Ok(bound)
    }

    /// Records what a step reads or writes when its group, number `group`, is anchored at `at`.
    pub fn note(&mut self, chain: ChainId, group: u32, step: &Step, at: u64) -> Result<(), CompileError> {
        let Some((buf, writes)) = memory(step) else {
            return Ok(());
        };
        let storage = self.storage(buf);
        let Some(data) = self.program.bufs.get(storage) else {
            return Ok(());
        };
        match data.kind {
            BufKind::Rows(_) | BufKind::Tile { .. } if writes => {
                return Err(bad(
                    chain,
                    format_args!("node {:?} writes the constant {buf}", step.node),
                ));
            }
            BufKind::Rows(_) | BufKind::Tile { .. } => return Ok(()),
            _ => {}
        }
        let mut rows = std::mem::take(&mut self.rows[storage.index()]);
        if rows.ready.is_empty() {
            let n = data.n_vectors as usize;
            rows = Rows {
                ready: vec![0; n],
                writable: vec![0; n],
                writer: vec![0; n],
                toucher: vec![0; n],
            };
        }
        let latency = group::latency(self.target, step);
        let result = self.touch(chain, step, &mut |_, last, v| {
            let cycle = at + step.offset + last;
            if writes {
                rows.ready[v] = rows.ready[v].max(cycle + latency);
                rows.writer[v] = group;
            }
            rows.writable[v] = rows.writable[v].max(cycle + 1);
            rows.toucher[v] = group;
        });
        self.rows[storage.index()] = rows;
        result
    }
}

/// Which buffer a step touches, and whether it writes.
pub(super) fn memory(step: &Step) -> Option<(BufId, bool)> {
    match &step.op {
        StepOp::Node(NodeOp::Read(buf, _) | NodeOp::Gather { buf, .. }) => Some((*buf, false)),
        StepOp::Node(NodeOp::Write(buf, _) | NodeOp::Scatter { buf, .. }) => Some((*buf, true)),
        StepOp::Words { buf, write, .. } => Some((*buf, *write)),
        _ => None,
    }
}
