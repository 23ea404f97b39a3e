//! What holds of every tensor IR.
//!
//! - T1: values are in topological order: an operand comes before its user
//! - T2: the stored type of a value is the inferred one
//! - T3: constants, states and maps that operations name are in their tables, and constants have the bytes that their type needs
//! - T4: the successor of a state is a value of the state's type; every state is read by at most one operation
//! - T5: every input operation has exactly one port; a port's shape has as many elements as its value, and the value of an output without
//!   elements has one, which nobody sees
//! - T6: origins of a value are in the table, ascending and without duplicates
//! - T7: operations are legal for the phase: `transfer` only when partitioned, no extent of 0 once legalised
//! - T8: there is at least one output

use super::op::{Op, infer};
use super::print::value_line;
use super::{TensorIr, ValueId};
use lockstep_graph::{EntityId, Verify, VerifyErrors};

/// How far a program has come; what is legal grows narrower and then wider again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As lowering leaves it.
    Lowered,
    /// After the passes: no extent is 0.
    Legal,
    /// With transfers between chips.
    Partitioned,
}

/// Whether an operation may occur in a phase.
pub fn legal(op: &Op, phase: Phase) -> bool {
    !matches!(op, Op::Transfer) || phase == Phase::Partitioned
}

impl Verify<Phase> for TensorIr {
    fn verify(&self, phase: &Phase, errors: &mut VerifyErrors) {
        for (id, value) in self.values.iter() {
            let known = self.known(id, errors);
            if !known {
                continue;
            }
            let types: Vec<_> = value.inputs.iter().map(|&v| &self.values[v].ty).collect();
            match infer(&value.op, &types, &value.ty, &self.maps) {
                Ok(ty) if ty == value.ty => {}
                Ok(ty) => errors.push(
                    "T2",
                    id,
                    value_line(self, id),
                    format!("stored type {}, inferred {ty}", value.ty),
                ),
                Err(message) => errors.push("T2", id, value_line(self, id), message),
            }
            if !legal(&value.op, *phase) {
                errors.push(
                    "T7",
                    id,
                    value_line(self, id),
                    format!("{} in phase {phase:?}", value.op.name()),
                );
            }
            if *phase >= Phase::Legal && value.ty.shape.contains(&0) {
                errors.push("T7", id, value_line(self, id), "an extent is 0");
            }
            let ascending = value.origins.windows(2).all(|w| w[0] < w[1]);
            if !ascending || value.origins.iter().any(|&o| self.origins.get(o).is_none()) {
                errors.push(
                    "T6",
                    id,
                    value_line(self, id),
                    "origins are not ascending ids of the table",
                );
            }
        }
        self.verify_tables(errors);
    }
}

impl TensorIr {
    /// Checks what a value refers to (T1, T3); false if it cannot be printed.
    fn known(&self, id: ValueId, errors: &mut VerifyErrors) -> bool {
        let value = &self.values[id];
        let mut known = true;
        for &v in &value.inputs {
            if v >= id {
                errors.push("T1", id, "", format!("operand {v} does not come before it"));
                known = false;
            }
        }
        let missing = match &value.op {
            Op::Const(k) => self.consts.get(*k).is_none(),
            Op::State(s) => self.states.get(*s).is_none(),
            Op::Move { parts, .. } => parts.iter().any(|m| m.index() >= self.maps.len()),
            _ => false,
        };
        if missing {
            errors.push(
                "T3",
                id,
                "",
                format!("{} names what is not in its table", value.op.name()),
            );
        }
        known && !missing
    }

    fn verify_tables(&self, errors: &mut VerifyErrors) {
        for (id, data) in self.consts.iter() {
            let needed = data.ty.elements() * data.stored.bytes();
            if data.bytes.len() != needed {
                let message = format!("{} has {} bytes, its type needs {needed}", data.name, data.bytes.len());
                errors.push("T3", id, "", message);
            }
        }
        for (id, state) in self.states.iter() {
            if self.values.get(state.next).is_none_or(|v| v.ty != state.ty) {
                errors.push(
                    "T4",
                    id,
                    "",
                    format!("{}: the next contents are not of type {}", state.name, state.ty),
                );
            }
            if self.values.values().filter(|v| v.op == Op::State(id)).count() > 1 {
                errors.push(
                    "T4",
                    id,
                    "",
                    format!("{} is read by more than one operation", state.name),
                );
            }
        }
        for (id, value) in self.values.iter().filter(|(_, v)| v.op == Op::Input) {
            let ports = self.inputs.iter().filter(|p| p.value == id).count();
            if ports != 1 {
                errors.push(
                    "T5",
                    id,
                    "",
                    format!("an input of type {} with {ports} ports", value.ty),
                );
            }
        }
        let is_input = |v: ValueId| self.values.get(v).is_some_and(|d| d.op == Op::Input);
        for port in
            self.inputs
                .iter()
                .filter(|p| !is_input(p.value))
                .chain(self.inputs.iter().chain(&self.outputs).filter(|p| {
                    self.values
                        .get(p.value)
                        .is_none_or(|v| v.ty.elements() != p.shape.iter().product::<usize>().max(1))
                }))
        {
            let message = format!("port {} of shape {:?} does not fit its value", port.name, port.shape);
            errors.push("T5", port.value, "", message);
        }
        if self.outputs.is_empty() {
            errors.push("T8", &self.name, "", "no output");
        }
    }
}
