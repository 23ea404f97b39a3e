//! Invariants of a partitioned program:
//!
//! - P1: every operation is placed once, on a chip of the system, after its operands.
//! - P2: operands lie on the operation's chip; the operand of a transfer lies on a directly linked other chip.
//! - P3: a transfer has one operand and its type.
//! - P4: stages hold disjoint chips in ascending order and disjoint operations in program order.
//! - P5: collectives are disjoint and in program order, so every member sees them in one order; members are distinct.
//! - P6: input ports and their further copies are `input` operations of one type, at most one per chip.
//! - P7: a state is fed on its own chip, with its own type.
//! - P8: the bytes that a chip needs are at most its SRAM.

use super::fabric::Fabric;
use super::{Partitioned, usage};
use crate::tir::{Op, ValueId};
use lockstep_graph::{Verify, VerifyErrors};
use lockstep_isa::Target;

impl Verify<Target> for Partitioned {
    fn verify(&self, target: &Target, errors: &mut VerifyErrors) {
        let fabric = Fabric::new(target, self.n_chips);
        for (v, data) in self.ir.values.iter() {
            let chip = self.chip[v];
            let mut report = |invariant, message: String| errors.push(invariant, v, self.line(v), message);
            if chip >= self.n_chips {
                report("P1", format!("is on c{chip} of {} chips", self.n_chips));
                continue;
            }
            for &u in &data.inputs {
                if u >= v {
                    report("P1", format!("comes before its operand {u}"));
                } else if data.op == Op::Transfer && fabric.links(self.chip[u], chip) == 0 {
                    report("P2", format!("no link from c{} of {u} to c{chip}", self.chip[u]));
                } else if data.op != Op::Transfer && self.chip[u] != chip {
                    report("P2", format!("is on c{chip}, its operand {u} on c{}", self.chip[u]));
                }
            }
            if data.op == Op::Transfer && !matches!(data.inputs[..], [u] if u < v && self.ir.values[u].ty == data.ty) {
                report("P3", "a transfer has one operand of its own type".into());
            }
        }
        let mut chips = 0;
        let mut ops = 0;
        for (n, stage) in self.stages.iter().enumerate() {
            if stage.chips.start < chips || stage.chips.end > self.n_chips || stage.ops.start < ops {
                errors.push("P4", format!("s{n}"), "", "overlaps another stage or leaves the system");
            }
            (chips, ops) = (stage.chips.end, stage.ops.end);
        }
        let mut after = 0;
        for (n, c) in self.collectives.iter().enumerate() {
            let mut members = c.members.clone();
            members.sort_unstable();
            members.dedup();
            if c.ops.start < after || members.len() != c.members.len() || c.ops.end > self.ir.values.len() {
                errors.push(
                    "P5",
                    format!("collective {n}"),
                    "",
                    "overlaps another or names a member twice",
                );
            }
            after = c.ops.end;
        }
        for (n, port) in self.ir.inputs.iter().enumerate() {
            let copies = self.input_copies.iter().filter(|c| c.0 == n).map(|c| c.1);
            let all: Vec<ValueId> = std::iter::once(port.value).chain(copies).collect();
            let is_input = |v: &ValueId| self.ir.values.get(*v).is_some_and(|d| d.op == Op::Input);
            let mut on: Vec<u16> = all.iter().map(|&v| self.chip[v]).collect();
            on.sort_unstable();
            on.dedup();
            let one_type = all
                .windows(2)
                .all(|w| self.ir.values[w[0]].ty == self.ir.values[w[1]].ty);
            if !all.iter().all(is_input) || on.len() != all.len() || !one_type {
                errors.push(
                    "P6",
                    &port.name,
                    "",
                    "names what is no input, or two inputs on one chip",
                );
            }
        }
        for (v, data) in self.ir.values.iter() {
            let Op::State(s) = data.op else { continue };
            let next = self.ir.states[s].next;
            if self.chip[next] != self.chip[v] || self.ir.values[next].ty != data.ty {
                errors.push(
                    "P7",
                    v,
                    self.line(v),
                    format!("is fed by {next} of another chip or type"),
                );
            }
        }
        if errors.is_empty() {
            for (chip, used) in usage(self, target).iter().enumerate() {
                if used.total() > target.sram_bytes() {
                    let message = format!("needs {} bytes, has {}", used.total(), target.sram_bytes());
                    errors.push("P8", format!("c{chip}"), "", message);
                }
            }
        }
    }
}
