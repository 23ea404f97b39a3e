//! Builds a [`Graph`] node by node; result shapes are inferred and checked at every step.

use crate::infer::{check_size, infer};
use crate::op::{Binary, Range, Reduce, Scalar, Unary};
use crate::{
    Const, DType, Graph, Input, Node, Op, OpError, Origin, OriginId, Output, Shape, State, ValueData, ValueDef,
    ValueId, Weights,
};
use half::{bf16, f16};
use std::collections::{BTreeMap, BTreeSet};

/// A constant operand of a node about to be made.
#[derive(Clone, Copy, Debug)]
pub struct ConstRef<'a> {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: &'a Shape,
    /// Row-major little-endian elements, at any alignment.
    pub bytes: &'a [u8],
}

/// What stands in for absent data while it is found out whether a folder takes it.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Evaluates an operator on constants of checked types into the data of its results, or declines.
pub type FoldFn = fn(&Op, &[ConstRef<'_>], &[(DType, Shape)]) -> Option<Vec<Weights>>;

/// A graph under construction. Values get unique names; [`GraphBuilder::finish`] drops what no output needs.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
    origin: Option<OriginId>,
    names: BTreeMap<String, usize>,
    named: BTreeSet<ValueId>,
    fold: Option<FoldFn>,
}

type Built = Result<ValueId, OpError>;

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: impl Into<String>, entry: impl Into<String>) -> Self {
        Self {
            graph: Graph {
                name: name.into(),
                entry: entry.into(),
                ..Graph::default()
            },
            ..Self::default()
        }
    }

    /// Offers every node whose operands are all constants to `fold` first; what it evaluates becomes constants.
    pub fn fold_with(mut self, fold: FoldFn) -> Self {
        self.fold = Some(fold);
        self
    }

    /// Sets the place that the nodes made from now on come from.
    pub fn set_origin(&mut self, origin: Origin) -> OriginId {
        let last = self
            .graph
            .origins
            .iter()
            .next_back()
            .filter(|(_, same)| **same == origin)
            .map(|(last, _)| last);
        let id = last.unwrap_or_else(|| self.graph.origins.push(origin));
        self.origin = Some(id);
        id
    }

    /// Adds an argument.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Built {
        let shape = shape.into();
        check_size(&shape).map_err(|message| OpError {
            op: "input".into(),
            message,
        })?;
        let def = ValueDef::Input(self.graph.inputs.len());
        let value = self.value(Some(name), dtype, shape, def);
        self.graph.inputs.push(Input {
            name: name.into(),
            value,
        });
        Ok(value)
    }

    /// Adds a constant; `name` may be empty.
    ///
    /// # Errors
    /// If the data is not as long as the type says.
    pub fn constant(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>, data: Weights) -> Built {
        let shape = shape.into();
        let message = match check_size(&shape) {
            Err(message) => message,
            Ok(()) if data.len() != shape.n_elements() * dtype.size() => {
                format!(
                    "{dtype}{shape} needs {} bytes, the data has {}",
                    shape.n_elements() * dtype.size(),
                    data.len()
                )
            }
            Ok(()) => {
                let value = self.value(Some(name).filter(|n| !n.is_empty()), dtype, shape, ValueDef::Const);
                self.graph.consts.insert(value, Const { data });
                return Ok(value);
            }
        };
        Err(OpError {
            op: "constant".into(),
            message,
        })
    }

    /// A constant scalar of the given dtype.
    pub fn scalar(&mut self, dtype: DType, value: Scalar) -> ValueId {
        let data = scalar_bytes(dtype, value);
        let id = self.value(None, dtype, Shape::scalar(), ValueDef::Const);
        self.graph.consts.insert(id, Const { data: data.into() });
        id
    }

    /// A constant scalar of a value's dtype.
    pub fn scalar_like(&mut self, like: ValueId, value: f64) -> ValueId {
        let dtype = self.dtype(like);
        let value = if dtype.is_float() {
            Scalar::Float(value)
        } else {
            Scalar::Int(value as i128)
        };
        self.scalar(dtype, value)
    }

    /// A constant i64 vector.
    pub fn i64s(&mut self, values: &[i64]) -> ValueId {
        let id = self.value(None, DType::I64, Shape::from([values.len()]), ValueDef::Const);
        self.graph.consts.insert(id, Const { data: values.into() });
        id
    }

    /// Applies an operator with one result.
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Built {
        Ok(self.ops(op, inputs)?[0])
    }

    /// Applies an operator; all its results.
    ///
    /// # Errors
    /// If the operands do not fit.
    pub fn ops(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, OpError> {
        let operands: Vec<_> = inputs
            .iter()
            .map(|&value| (self.dtype(value), &self.graph.values[value].shape))
            .collect();
        let types = infer(&op, &operands)?;
        if let Some(folded) = self.folded(&op, inputs, &types) {
            let consts = types.into_iter().zip(folded);
            return consts
                .map(|((dtype, shape), data)| self.constant("", dtype, shape, data))
                .collect();
        }
        let origin = match self.origin {
            Some(origin) => origin,
            None => self.set_origin(Origin::default()),
        };
        let node = self.graph.nodes.next_id();
        let mut outputs = Vec::with_capacity(types.len());
        for (index, (dtype, shape)) in types.into_iter().enumerate() {
            outputs.push(self.value(None, dtype, shape, ValueDef::Node(node, index)));
        }
        self.graph.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            origin,
        });
        Ok(outputs)
    }

    /// Elementwise function of one operand.
    pub fn unary(&mut self, kind: Unary, x: ValueId) -> Built {
        self.op(Op::Unary(kind), &[x])
    }

    /// Elementwise function of two operands with broadcasting.
    pub fn binary(&mut self, kind: Binary, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Binary(kind), &[a, b])
    }

    /// `x` with a scalar of its dtype as the second operand.
    pub fn binary_scalar(&mut self, kind: Binary, x: ValueId, scalar: f64) -> Built {
        let scalar = self.scalar_like(x, scalar);
        self.binary(kind, x, scalar)
    }

    /// `a` where `cond`, else `b`.
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Where, &[cond, a, b])
    }

    /// Conversion; nothing if the dtype is right already.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Built {
        if self.dtype(x) == to {
            Ok(x)
        } else {
            self.op(Op::Cast { to }, &[x])
        }
    }

    /// Matrix product.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.op(Op::MatMul, &[a, b])
    }

    /// Same elements in another shape; nothing if the shape is right already.
    pub fn reshape(&mut self, x: ValueId, shape: impl Into<Shape>) -> Built {
        let shape = shape.into();
        if *self.shape(x) == shape {
            Ok(x)
        } else {
            self.op(Op::Reshape { shape }, &[x])
        }
    }

    /// Permutes axes; nothing if the permutation is the identity.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Built {
        let identity = perm.len() == self.shape(x).rank() && perm.iter().enumerate().all(|(at, &axis)| at == axis);
        if identity {
            Ok(x)
        } else {
            self.op(Op::Transpose { perm: perm.to_vec() }, &[x])
        }
    }

    /// Broadcasts; nothing if the shape is right already.
    pub fn expand(&mut self, x: ValueId, shape: impl Into<Shape>) -> Built {
        let shape = shape.into();
        if *self.shape(x) == shape {
            Ok(x)
        } else {
            self.op(Op::Expand { shape }, &[x])
        }
    }

    /// Takes a range of one axis; nothing if it is all of it.
    pub fn narrow(&mut self, x: ValueId, axis: usize, range: Range) -> Built {
        let mut ranges: Vec<Range> = self.shape(x).iter().map(|&dim| Range::all(dim)).collect();
        match ranges.get_mut(axis) {
            Some(slot) if *slot == range => return Ok(x),
            Some(slot) => *slot = range,
            None => {
                return Err(OpError {
                    op: "Narrow".into(),
                    message: format!("axis {axis} is not one of {}", self.shape(x)),
                });
            }
        }
        self.op(Op::Narrow { ranges }, &[x])
    }

    /// Joins values along an axis; nothing if there is one.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Built {
        if let [one] = parts {
            Ok(*one)
        } else {
            self.op(Op::Concat { axis }, parts)
        }
    }

    /// Reduces axes, which must ascend.
    pub fn reduce(&mut self, kind: Reduce, x: ValueId, axes: &[usize], keepdims: bool) -> Built {
        self.op(
            Op::Reduce {
                kind,
                axes: axes.to_vec(),
                keepdims,
            },
            &[x],
        )
    }

    /// Names a result (made unique if need be) unless the value has a name of its own already.
    pub fn name(&mut self, value: ValueId, name: &str) {
        if !name.is_empty() && self.named.insert(value) {
            let unique = unique(&mut self.names, name);
            self.graph.values[value].name = unique;
        }
    }

    /// Adds a result.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.outputs.push(Output {
            name: name.into(),
            value,
        });
    }

    /// Declares that output `output` feeds input `input` in the next run (positions in [`Graph::outputs`] and [`Graph::inputs`]).
    pub fn state(&mut self, output: usize, input: usize) {
        let private = false;
        self.graph.states.push(State { output, input, private });
    }

    /// Adds a result that feeds input `input` in the next run and that the host does not see.
    pub fn private_state(&mut self, name: &str, value: ValueId, input: usize) {
        let output = self.graph.outputs.len();
        self.output(name, value);
        let private = true;
        self.graph.states.push(State { output, input, private });
    }

    /// Element type of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.graph.values[value].dtype
    }

    /// Shape of a value.
    pub fn shape(&self, value: ValueId) -> &Shape {
        &self.graph.values[value].shape
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph without nodes and constants that no output needs, densely numbered.
    pub fn finish(self) -> Graph {
        let mut graph = self.graph;
        graph.compact();
        graph
    }

    /// The results' data if every operand is a constant and the folder takes the operator; absent where data of an operand is.
    fn folded(&self, op: &Op, inputs: &[ValueId], types: &[(DType, Shape)]) -> Option<Vec<Weights>> {
        let fold = self.fold?;
        let absent = |value: &ValueId| self.graph.consts.get(value).is_some_and(|c| c.data.is_absent());
        let operand = |value: &ValueId| match self.graph.consts.get(value) {
            Some(constant) if constant.data.is_absent() => {
                let data = &self.graph.values[*value];
                Some(ConstRef {
                    dtype: data.dtype,
                    shape: &data.shape,
                    bytes: ZEROS.get(..constant.data.len())?,
                })
            }
            _ => self.const_ref(*value),
        };
        let operands: Option<Vec<ConstRef<'_>>> = inputs.iter().map(operand).collect();
        let mut results = fold(op, &operands?, types).filter(|results| results.len() == types.len())?;
        if inputs.iter().any(absent) {
            results.iter_mut().for_each(|r| *r = Weights::absent(r.len()));
        }
        Some(results)
    }

    /// Type and data of a value that is a constant whose data is there.
    pub fn const_ref(&self, value: ValueId) -> Option<ConstRef<'_>> {
        let data = &self.graph.values[value];
        let weights = &self.graph.consts.get(&value)?.data;
        if weights.is_absent() {
            return None;
        }
        let bytes = weights.bytes();
        Some(ConstRef {
            dtype: data.dtype,
            shape: &data.shape,
            bytes,
        })
    }

    fn value(&mut self, name: Option<&str>, dtype: DType, shape: Shape, def: ValueDef) -> ValueId {
        let id = self.graph.values.next_id();
        let name = match name {
            Some(name) => {
                self.named.insert(id);
                unique(&mut self.names, name)
            }
            None => String::new(),
        };
        self.graph.values.push(ValueData {
            name,
            dtype,
            shape,
            def,
        })
    }
}

/// `name`, or `name.1`, `name.2`, .. if it is taken; the table holds the last number tried for each name.
fn unique(names: &mut BTreeMap<String, usize>, name: &str) -> String {
    let Some(mut count) = names.get(name).copied() else {
        names.insert(name.to_string(), 0);
        return name.to_string();
    };
    loop {
        count += 1;
        let candidate = format!("{name}.{count}");
        if !names.contains_key(&candidate) {
            names.insert(candidate.clone(), 0);
            names.insert(name.to_string(), count);
            return candidate;
        }
    }
}

/// The little-endian bytes of one element; out-of-range integers wrap, floats round.
pub fn scalar_bytes(dtype: DType, value: Scalar) -> Vec<u8> {
    let (int, float) = match value {
        Scalar::Int(int) => (int, int as f64),
        Scalar::Float(float) => (float as i128, float),
    };
    match dtype {
        DType::F64 => float.to_le_bytes().to_vec(),
        DType::F32 => (float as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(float).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f64(float).to_le_bytes().to_vec(),
        DType::Bool => vec![u8::from(int != 0 || (float != 0.0 && !float.is_nan()))],
        _ => int.to_le_bytes()[..dtype.size()].to_vec(),
    }
}

impl Graph {
    /// Drops nodes, constants and values that no output needs and renumbers the rest in order; unnamed values get names. Inputs and outputs stay.
    pub fn compact(&mut self) {
        use crate::{EntityId, IdSet, IdVec, NodeId, SideTable};
        let mut live: IdSet<ValueId> = self.outputs.iter().map(|output| output.value).collect();
        let mut kept: IdSet<NodeId> = IdSet::new();
        for (id, node) in self.nodes.iter().rev() {
            if node.outputs.iter().any(|&value| live.contains(value)) {
                kept.insert(id);
                for &value in node.inputs.iter().chain(&node.outputs) {
                    live.insert(value);
                }
            }
        }
        for input in &self.inputs {
            live.insert(input.value);
        }
        let mut new_value: SideTable<ValueId, Option<ValueId>> = SideTable::new();
        let mut new_node: SideTable<NodeId, Option<NodeId>> = SideTable::new();
        for (at, id) in kept.iter().enumerate() {
            new_node[id] = Some(NodeId::from_index(at));
        }
        let mut names: BTreeMap<String, usize> = self.values.values().map(|value| (value.name.clone(), 0)).collect();
        let mut values = IdVec::new();
        let old_values = std::mem::take(&mut self.values);
        for (id, data) in old_values.iter().filter(|(id, _)| live.contains(*id)) {
            let mut data = data.clone();
            if let ValueDef::Node(node, index) = data.def
                && let Some(node) = new_node[node]
            {
                data.def = ValueDef::Node(node, index);
            }
            if data.name.is_empty() {
                let prefix = if data.def == ValueDef::Const { "k" } else { "v" };
                data.name = unique(&mut names, &format!("{prefix}{}", values.len()));
            }
            new_value[id] = Some(values.push(data));
        }
        self.values = values;
        let renumber = |value: &mut ValueId| {
            if let Some(new) = new_value[*value] {
                *value = new;
            }
        };
        let nodes = std::mem::take(&mut self.nodes);
        self.nodes = nodes
            .iter()
            .filter(|(id, _)| kept.contains(*id))
            .map(|(_, node)| node.clone())
            .collect();
        for (_, node) in self.nodes.iter_mut() {
            node.inputs.iter_mut().chain(&mut node.outputs).for_each(renumber);
        }
        self.inputs.iter_mut().for_each(|input| renumber(&mut input.value));
        self.outputs.iter_mut().for_each(|output| renumber(&mut output.value));
        self.consts = std::mem::take(&mut self.consts)
            .into_iter()
            .filter_map(|(id, c)| Some((new_value[id]?, c)))
            .collect();
    }
}
