//! Text form of a partitioned program: one line per operation, with its chip.

use super::Partitioned;
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use std::fmt::{self, Write};

impl Partitioned {
    /// The line of one operation, such as `c1 v7: f32[1,32] = transfer v3 from c0`.
    pub fn line(&self, v: ValueId) -> String {
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_line(v, &mut line);
        line
    }

    fn write_line(&self, v: ValueId, f: &mut impl Write) -> fmt::Result {
        let Some(data) = self.ir.values.get(v) else {
            return write!(f, "{v}");
        };
        write!(f, "c{} {v}: {}[", self.chip[v], data.ty.dtype)?;
        for (d, n) in data.ty.shape.iter().enumerate() {
            write!(f, "{}{n}", if d == 0 { "" } else { "," })?;
        }
        write!(f, "] = {}", data.op.name())?;
        match &data.op {
            Op::Const(k) => write!(f, " @{}", self.ir.consts[*k].name)?,
            Op::State(s) => write!(f, " @{}", self.ir.states[*s].name)?,
            _ => {}
        }
        for (j, u) in data.inputs.iter().enumerate() {
            write!(f, "{}{u}", if j == 0 { " " } else { ", " })?;
        }
        match (&data.op, data.inputs.first()) {
            (Op::Transfer, Some(&u)) => write!(f, " from c{}", self.chip[u]),
            (Op::Contract { batch, contracted, .. }, _) => {
                write!(f, " over")?;
                contracted.iter().try_for_each(|(l, r)| write!(f, " {l}:{r}"))?;
                if !batch.is_empty() {
                    write!(f, " batch")?;
                    batch.iter().try_for_each(|(l, r)| write!(f, " {l}:{r}"))?;
                }
                Ok(())
            }
            (Op::Reduce { op, axes }, _) => write!(f, " {} {axes:?}", format!("{op:?}").to_lowercase()),
            (Op::Map { nodes }, _) => {
                write!(f, " :")?;
                nodes.iter().try_for_each(|n| write!(f, " {}", n.op.name()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Partitioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "part v1 @{} chips={} ; {}",
            self.ir.name, self.n_chips, self.description
        )?;
        let mut collectives = self.collectives.iter().peekable();
        let mut stages = self.stages.iter().enumerate().peekable();
        for v in self.ir.values.ids() {
            while let Some((n, stage)) = stages.next_if(|(_, s)| s.ops.start <= v.index()) {
                write!(f, "stage s{n} {{")?;
                for (i, chip) in stage.chips.clone().enumerate() {
                    write!(f, "{}c{chip}", if i == 0 { "" } else { ", " })?;
                }
                writeln!(f, "}}")?;
            }
            while let Some(c) = collectives.next_if(|c| c.ops.start <= v.index()) {
                let last = c.ops.end.saturating_sub(1).max(c.ops.start);
                write!(f, "  {} {{", c.kind.name())?;
                for (i, chip) in c.members.iter().enumerate() {
                    write!(f, "{}c{chip}", if i == 0 { "" } else { ", " })?;
                }
                writeln!(f, "}} {} bytes ; v{}..v{last}", c.bytes, c.ops.start)?;
            }
            write!(f, "  ")?;
            self.write_line(v, f)?;
            writeln!(f)?;
        }
        for port in &self.ir.inputs {
            writeln!(f, "input \"{}\" = {}", port.name, port.value)?;
        }
        for (port, v) in &self.input_copies {
            writeln!(f, "input \"{}\" = {v}", self.ir.inputs[*port].name)?;
        }
        for state in self.ir.states.values() {
            writeln!(f, "state \"{}\" = {}", state.name, state.next)?;
        }
        for port in &self.ir.outputs {
            writeln!(f, "output \"{}\" = {}", port.name, port.value)?;
        }
        Ok(())
    }
}
