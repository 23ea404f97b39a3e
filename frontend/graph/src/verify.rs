//! What holds of every graph that the compiler accepts.
//!
//! - G1: value names, input names and output names are each unique and not empty
//! - G2: nodes are in topological order: an operand is an input, a constant or a result of an earlier node
//! - G3: definitions match: every value is defined once, where its [`ValueDef`] says
//! - G4: the stored types of a node's results are the inferred ones
//! - G5: a constant has data, as long as its type says
//! - G6: at least one output; every output is a value
//! - G7: a state joins an output and an input of the same type, each input at most once
//! - G8: every id of a node's origin is in the table

use crate::infer::infer;
use crate::print::{node_text, value_text};
use crate::{Graph, ValueDef, ValueId, Verify, VerifyErrors};
use std::collections::BTreeSet;

impl Verify<()> for Graph {
    fn verify(&self, _: &(), errors: &mut VerifyErrors) {
        names(self, errors);
        definitions(self, errors);
        for (id, node) in self.nodes.iter() {
            if self.origins.get(node.origin).is_none() {
                errors.push("G8", id, "", format!("origin {} is not in the table", node.origin));
            }
            let mut known = true;
            for &input in &node.inputs {
                let earlier = match self.values.get(input).map(|data| data.def) {
                    Some(ValueDef::Node(def, _)) => def < id,
                    Some(_) => true,
                    None => {
                        known = false;
                        false
                    }
                };
                if !earlier {
                    errors.push(
                        "G2",
                        id,
                        line(self, id, known),
                        format!("operand {input} is not defined before the node"),
                    );
                }
            }
            known &= node.outputs.iter().all(|&value| self.values.get(value).is_some());
            if !known {
                continue;
            }
            let operands: Vec<_> = node
                .inputs
                .iter()
                .map(|&v| (self.values[v].dtype, &self.values[v].shape))
                .collect();
            let stored: Vec<_> = node
                .outputs
                .iter()
                .map(|&v| (self.values[v].dtype, self.values[v].shape.clone()))
                .collect();
            match infer(&node.op, &operands) {
                Err(error) => errors.push("G4", id, node_text(self, id), error.to_string()),
                Ok(types) if types != stored => errors.push(
                    "G4",
                    id,
                    node_text(self, id),
                    "stored result types differ from the inferred ones",
                ),
                Ok(_) => {}
            }
        }
        ends(self, errors);
    }
}

fn line(graph: &Graph, id: crate::NodeId, known: bool) -> String {
    if known { node_text(graph, id) } else { String::new() }
}

fn names(graph: &Graph, errors: &mut VerifyErrors) {
    let mut check = |what: &str, names: &mut dyn Iterator<Item = &String>| {
        let mut seen = BTreeSet::new();
        for name in names {
            if name.is_empty() {
                errors.push("G1", what, "", "the name is empty");
            } else if !seen.insert(name) {
                errors.push(
                    "G1",
                    what,
                    "",
                    format!("the name \"{}\" is taken twice", name.escape_debug()),
                );
            }
        }
    };
    check("value", &mut graph.values.values().map(|value| &value.name));
    check("input", &mut graph.inputs.iter().map(|input| &input.name));
    check("output", &mut graph.outputs.iter().map(|output| &output.name));
}

fn definitions(graph: &Graph, errors: &mut VerifyErrors) {
    for (id, data) in graph.values.iter() {
        let defined = match data.def {
            ValueDef::Input(index) => graph.inputs.get(index).is_some_and(|input| input.value == id),
            ValueDef::Const => graph.consts.contains_key(&id),
            ValueDef::Node(node, index) => graph
                .nodes
                .get(node)
                .is_some_and(|node| node.outputs.get(index) == Some(&id)),
        };
        if !defined {
            errors.push(
                "G3",
                id,
                value_text(graph, id),
                format!("its definition {:?} does not define it", data.def),
            );
        }
    }
    let mut expect = |value: ValueId, def: ValueDef| {
        if graph.values.get(value).map(|data| data.def) != Some(def) {
            errors.push("G3", value, "", format!("{def:?} is not its definition"));
        }
    };
    graph
        .inputs
        .iter()
        .enumerate()
        .for_each(|(index, input)| expect(input.value, ValueDef::Input(index)));
    graph.consts.keys().for_each(|&value| expect(value, ValueDef::Const));
    for (id, node) in graph.nodes.iter() {
        node.outputs
            .iter()
            .enumerate()
            .for_each(|(index, &value)| expect(value, ValueDef::Node(id, index)));
    }
    for (&id, constant) in &graph.consts {
        if let Some(data) = graph.values.get(id) {
            let expected = data.shape.n_elements().checked_mul(data.dtype.size());
            if expected != Some(constant.data.len()) {
                errors.push(
                    "G5",
                    id,
                    value_text(graph, id),
                    format!("{} has {} bytes of data", graph.type_text(id), constant.data.len()),
                );
            }
        }
    }
}

fn ends(graph: &Graph, errors: &mut VerifyErrors) {
    if graph.outputs.is_empty() {
        errors.push("G6", "graph", "", "there is no output");
    }
    for output in &graph.outputs {
        if graph.values.get(output.value).is_none() {
            errors.push(
                "G6",
                output.value,
                "",
                format!("output \"{}\" is no value", output.name.escape_debug()),
            );
        }
    }
    let mut fed = BTreeSet::new();
    for state in &graph.states {
        let types = graph.outputs.get(state.output).zip(graph.inputs.get(state.input));
        let types = types.and_then(|(output, input)| graph.values.get(output.value).zip(graph.values.get(input.value)));
        match types {
            None => errors.push("G7", "state", "", format!("{state:?} names no output or input")),
            Some((from, to)) if (from.dtype, &from.shape) != (to.dtype, &to.shape) => {
                errors.push(
                    "G7",
                    "state",
                    "",
                    format!("{}{} cannot feed {}{}", from.dtype, from.shape, to.dtype, to.shape),
                );
            }
            Some((_, to)) if !fed.insert(state.input) => errors.push(
                "G7",
                "state",
                "",
                format!("input \"{}\" is fed twice", to.name.escape_debug()),
            ),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::op::Unary;
    use crate::*;

    fn graph() -> Graph {
        let mut b = GraphBuilder::new("t", "main");
        let x = b.input("x", DType::F32, [2, 3]).unwrap();
        let w = b
            .constant("w", DType::F32, [3, 1], [1.0f32, 2.0, 3.0].as_slice().into())
            .unwrap();
        let h = b.matmul(x, w).unwrap();
        let y = b.unary(Unary::Relu, h).unwrap();
        b.output("y", y);
        b.finish()
    }

    /// The invariants that `change` breaks.
    fn broken(change: impl FnOnce(&mut Graph)) -> Vec<&'static str> {
        let mut graph = graph();
        change(&mut graph);
        let mut errors = VerifyErrors::new();
        graph.verify(&(), &mut errors);
        errors.iter().map(|e| e.invariant).collect()
    }

    fn v(index: usize) -> ValueId {
        ValueId::from_index(index)
    }

    fn n(index: usize) -> NodeId {
        NodeId::from_index(index)
    }

    #[test]
    fn a_good_graph_is_verified() {
        assert!(Verified::new(graph(), &()).is_ok());
    }

    #[test]
    fn every_invariant_can_fail() {
        assert_eq!(broken(|g| g.values[v(1)].name = "x".into()), ["G1"]);
        assert_eq!(broken(|g| g.outputs[0].name.clear()), ["G1"]);
        assert_eq!(broken(|g| g.nodes[n(0)].inputs[0] = v(2)), ["G2", "G4"]);
        assert_eq!(broken(|g| g.nodes[n(0)].inputs[0] = v(9)), ["G2"]);
        assert_eq!(broken(|g| g.values[v(3)].def = ValueDef::Node(n(0), 0)), ["G3", "G3"]);
        assert_eq!(broken(|g| g.values[v(3)].shape = Shape::from([3])), ["G4"]);
        assert_eq!(broken(|g| g.values[v(1)].shape = Shape::from([3, 2]))[0], "G5");
        assert_eq!(broken(|g| g.outputs.clear()), ["G6"]);
        assert_eq!(broken(|g| g.outputs[0].value = v(9)), ["G6"]);
        assert_eq!(
            broken(|g| g.states.push(State {
                output: 0,
                input: 0,
                private: false
            })),
            ["G7"]
        );
        assert_eq!(broken(|g| g.nodes[n(0)].origin = OriginId::from_index(7)), ["G8"]);
    }

    #[test]
    fn dead_code_goes_and_text_is_stable() {
        let mut b = GraphBuilder::new("t", "main");
        let x = b.input("in 0", DType::F32, [2]).unwrap();
        let _unused = b.unary(Unary::Exp, x).unwrap();
        b.set_origin(Origin {
            node_name: "act".into(),
            op_type: "Relu".into(),
            ..Origin::default()
        });
        let half = b.binary_scalar(op::Binary::Mul, x, 0.5).unwrap();
        let y = b.unary(Unary::Relu, half).unwrap();
        b.name(y, "y");
        b.output("y", y);
        let expected = "graph v1 \"t\" entry \"main\"\nin  %\"in 0\" : f32[2]\nw   @k1 : f32[] = [0.5]\n\
            %v2 = Mul(%\"in 0\", @k1) : f32[2]  ; n0 \"act\" Relu\n%y = Relu(%v2) : f32[2]  ; n1 \"act\" Relu\nout %y\n";
        assert_eq!(print::print(&b.finish()), expected);
    }
}
