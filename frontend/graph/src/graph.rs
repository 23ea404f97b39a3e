//! The graph itself: values, nodes in topological order, constants, inputs, outputs and states.

use crate::{DType, IdVec, Op, Origin, OriginId, Shape, Weights};
use std::collections::BTreeMap;

crate::entity_id!(
    /// A tensor: an input, a constant or a node's result.
    pub ValueId, "v"
);
crate::entity_id!(
    /// An operator application.
    pub NodeId, "n"
);

/// A model of one entry: every shape static, every weight a byte range. See [`crate::verify`] for what holds.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// Name of the entry that this graph becomes, such as `main`.
    pub entry: String,
    /// Arguments in order.
    pub inputs: Vec<Input>,
    /// Results in order.
    pub outputs: Vec<Output>,
    /// Outputs that feed an input in the next run; those inputs are no arguments of the entry, they start at zero.
    pub states: Vec<State>,
    /// All tensors.
    pub values: IdVec<ValueId, ValueData>,
    /// All operator applications; a node's operands are defined by inputs, constants or earlier nodes.
    pub nodes: IdVec<NodeId, Node>,
    /// Data of the constants.
    pub consts: BTreeMap<ValueId, Const>,
    /// Places in the model that nodes come from.
    pub origins: IdVec<OriginId, Origin>,
}

/// Type and definition of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueData {
    /// Unique in the graph; the model's own name where it has one.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// What defines it.
    pub def: ValueDef,
}

/// What defines a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueDef {
    /// `Graph::inputs[index]`.
    Input(usize),
    /// `Graph::consts`.
    Const,
    /// Result `index` of a node.
    Node(NodeId, usize),
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Name in the model.
    pub name: String,
    /// Its tensor.
    pub value: ValueId,
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name in the model.
    pub name: String,
    /// Its tensor; may be an input, a constant, or the value of several outputs.
    pub value: ValueId,
}

/// `--state OUT=IN`: the output's tensor is the input's in the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Index into [`Graph::outputs`].
    pub output: usize,
    /// Index into [`Graph::inputs`].
    pub input: usize,
    /// The output only feeds the state: the host never sees it.
    pub private: bool,
}

/// Data of a constant; dtype and shape are the value's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Const {
    /// Row-major little-endian elements; as long as the type says.
    pub data: Weights,
}

/// An operator application.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results; as many as the operator has, whether used or not.
    pub outputs: Vec<ValueId>,
    /// Where it comes from.
    pub origin: OriginId,
}

impl Graph {
    /// The type of a value as text, such as `f32[1,64]`.
    pub fn type_text(&self, value: ValueId) -> String {
        let data = &self.values[value];
        format!("{}{}", data.dtype, data.shape)
    }

    /// The place a node comes from.
    pub fn origin(&self, node: NodeId) -> &Origin {
        &self.origins[self.nodes[node].origin]
    }

    /// The constant's data, if the value is one.
    pub fn const_data(&self, value: ValueId) -> Option<&Weights> {
        self.consts.get(&value).map(|c| &c.data)
    }

    /// Bytes of all constants.
    pub fn const_bytes(&self) -> u64 {
        self.consts.values().map(|c| c.data.len() as u64).sum()
    }
}
