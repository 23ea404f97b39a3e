//! The timing table: how long each instruction occupies its unit and when its result is on the belt.
//!
//! Compiler, simulator and verifier all read this table; they share nothing else about time.

use crate::id::DType;
use crate::op::Opcode;
use crate::run::{Queue, Run};
use crate::target::Target;

/// Latency class of an ALU operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyKey {
    /// add, sub, min, max, compare, select, logic, shift, convert.
    AluSimple,
    /// mul, fma.
    AluMul,
    /// div, sqrt, rsqrt.
    AluDiv,
    /// exp, log, tanh, erf, sin, cos.
    AluExp,
}

impl Target {
    /// Latency of a class of ALU operations, in cycles.
    pub fn alu_latency(&self, key: LatencyKey) -> u16 {
        match key {
            LatencyKey::AluSimple => self.latency.alu_simple,
            LatencyKey::AluMul => self.latency.alu_mul,
            LatencyKey::AluDiv => self.latency.alu_div,
            LatencyKey::AluExp => self.latency.alu_exp,
        }
    }

    /// Cycles from the issue of a vector to its result: on the belt at the unit's position, forwarded to another ALU,
    /// readable from the row (write, scatter), usable as accumulator row (mul), usable by a swap (tile load).
    ///
    /// A transpose's first result counts from its last issue, result `j` comes `j` cycles later. A fold's result counts
    /// from the last issue folded into it. A send's result is the recv on the far side.
    pub fn latency_of(&self, run: &Run) -> u16 {
        let l = &self.latency;
        match run.op {
            Opcode::Read => l.read,
            Opcode::Write => l.write,
            Opcode::Gather => l.read + l.index,
            Opcode::Scatter => l.write + l.index,
            Opcode::LoadRow | Opcode::LoadCol => l.load,
            Opcode::Mul => l.mul,
            Opcode::Alu => self.alu_latency(run.alu.latency_key()),
            Opcode::Fold => l.fold,
            Opcode::Permute => l.permute,
            Opcode::Transpose => l.transpose,
            Opcode::Reduce => l.reduce,
            Opcode::Send => self.c2c.latency,
            Opcode::Recv => 0,
        }
    }

    /// Cycles that one issue holds its queue; the least distance between two issues of a run.
    pub fn occupancy(&self, op: Opcode, dtype: DType) -> u16 {
        match op {
            Opcode::Mul => self.mxm_rate(dtype).map_or(1, |r| r.cycles_per_vector),
            Opcode::Send | Opcode::Recv => self.c2c.cycles_per_word,
            _ => 1,
        }
    }

    /// Cycles after its first issue at which a run is over: its last issue plus the larger of occupancy and latency
    /// (for a transpose, until its last result).
    ///
    /// The makespan of an entry is the largest `start + cycle + run_end` over all runs of all chips.
    pub fn run_end(&self, run: &Run) -> u32 {
        let tail = self.latency_of(run).max(self.occupancy(run.op, run.dtype)) as u32;
        let extra = if run.op == Opcode::Transpose {
            run.n_out.saturating_sub(1) as u32
        } else {
            0
        };
        run.last_offset() + tail + extra
    }

    /// Position of the unit that a queue belongs to.
    pub fn queue_position(&self, queue: Queue) -> i32 {
        match queue {
            Queue::Mem(place) => self.mem_position(place),
            Queue::MxmLoad(hemi, _) | Queue::MxmMul(hemi, _) => self.mxm_position(hemi),
            Queue::Alu(_) => 0,
            Queue::Sxm(hemi) => self.sxm_position(hemi),
            Queue::Send(link) | Queue::Recv(link) => self.link_position(link),
        }
    }
}

/// Cycle offset (from the run's first issue) at which result number `n` of the run is available: see
/// [`Target::latency_of`]. `n` counts results, which for folds and transposes are not issues.
pub fn result_offset(target: &Target, run: &Run, n: u32) -> u32 {
    let latency = target.latency_of(run) as u32;
    match run.op {
        Opcode::Transpose => run.last_offset() + latency + n,
        Opcode::Fold if !run.emit_every => {
            let folded: u32 = run.dims[..run.fold_dims as usize]
                .iter()
                .map(|d| d.count as u32)
                .product();
            run.offset(n * folded + folded - 1) + latency
        }
        _ => run.offset(n) + latency,
    }
}
