//! What an operator's importer sees: operands, attributes and the builder.

use super::walk::Walk;
use crate::error::ImportError;
use crate::tensor::Tensor;
use lockstep_graph::{DType, GraphBuilder, OpError, Shape, ValueId};
use lockstep_onnx_protobuf::{AttributeProto, NodeProto};

/// Why a node was not imported.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The model breaks the operator's rules.
    Malformed(String),
    /// It is legal, but not supported.
    Unsupported {
        /// Why.
        reason: String,
        /// What the user can do.
        help: String,
    },
    /// An error with a place of its own.
    Import(Box<ImportError>),
}

impl From<OpError> for Fail {
    fn from(error: OpError) -> Self {
        Fail::Malformed(error.to_string())
    }
}

impl From<ImportError> for Fail {
    fn from(error: ImportError) -> Self {
        Fail::Import(Box::new(error))
    }
}

/// Result of an importer: the node's results in order; trailing optional ones may be missing.
pub(crate) type Imported = Result<Vec<ValueId>, Fail>;

pub(crate) fn malformed<T>(message: impl Into<String>) -> Result<T, Fail> {
    Err(Fail::Malformed(message.into()))
}

pub(crate) fn unsupported<T>(reason: impl Into<String>) -> Result<T, Fail> {
    Err(Fail::Unsupported {
        reason: reason.into(),
        help: String::new(),
    })
}

/// A node being imported.
pub(crate) struct Cx<'w, 'a> {
    pub(super) walk: &'w mut Walk<'a>,
    node: &'w NodeProto,
    operands: Vec<Option<ValueId>>,
    /// Version of the operator set of the node's domain.
    pub opset: i64,
}

impl<'w, 'a> Cx<'w, 'a> {
    pub(super) fn new(walk: &'w mut Walk<'a>, node: &'w NodeProto, operands: Vec<Option<ValueId>>, opset: i64) -> Self {
        Self {
            walk,
            node,
            operands,
            opset,
        }
    }

    /// The builder.
    pub fn b(&mut self) -> &mut GraphBuilder {
        &mut self.walk.b
    }

    /// The node's operator type.
    pub fn op_type(&self) -> &str {
        &self.node.op_type
    }

    /// Number of results, counting only up to the last that has a name.
    pub fn n_outputs(&self) -> usize {
        self.node
            .output
            .iter()
            .rposition(|name| !name.is_empty())
            .map_or(0, |at| at + 1)
    }

    /// An operand, if present.
    pub fn opt(&self, index: usize) -> Option<ValueId> {
        self.operands.get(index).copied().flatten()
    }

    /// An operand that must be present.
    pub fn x(&self, index: usize) -> Result<ValueId, Fail> {
        self.opt(index)
            .ok_or_else(|| Fail::Malformed(format!("operand {index} is missing")))
    }

    /// Puts a value in the place of an operand that is present.
    pub fn set(&mut self, index: usize, value: ValueId) {
        if let Some(operand) = self.operands.get_mut(index) {
            *operand = Some(value);
        }
    }

    /// All operands, which must be present.
    pub fn all(&self) -> Result<Vec<ValueId>, Fail> {
        if self.operands.is_empty() {
            return malformed("there is no operand");
        }
        (0..self.operands.len()).map(|index| self.x(index)).collect()
    }

    pub fn dtype(&self, value: ValueId) -> DType {
        self.walk.b.dtype(value)
    }

    pub fn shape(&self, value: ValueId) -> Shape {
        self.walk.b.shape(value).clone()
    }

    /// The shape of an operand that must have this rank.
    pub fn shape_of_rank(&self, value: ValueId, rank: usize, name: &str) -> Result<Shape, Fail> {
        let shape = self.shape(value);
        match shape.rank() == rank {
            true => Ok(shape),
            false => malformed(format!("{name} is {shape}, allowed: rank {rank}")),
        }
    }

    pub fn rank(&self, value: ValueId) -> usize {
        self.walk.b.shape(value).rank()
    }

    /// The elements of a value if they are known now.
    pub fn known_value(&self, value: ValueId) -> Option<Tensor> {
        let constant = self.walk.b.const_ref(value)?;
        Tensor::decode(constant.dtype, constant.shape, constant.bytes)
    }

    /// The bytes of a value's elements if they are known now.
    pub fn const_bytes(&self, value: ValueId) -> Option<&[u8]> {
        self.walk.b.const_ref(value).map(|constant| constant.bytes)
    }

    /// The elements of an operand if it is present and they are known now.
    pub fn known(&self, index: usize) -> Option<Tensor> {
        self.known_value(self.opt(index)?)
    }

    /// The elements of an operand that must be known now; `what` names it in the message.
    pub fn need(&self, index: usize, what: &str) -> Result<Tensor, Fail> {
        let value = self.x(index)?;
        self.known_value(value).ok_or_else(|| self.data_dependent(value, what))
    }

    /// The integers of an operand that must be known now.
    pub fn need_ints(&self, index: usize, what: &str) -> Result<Vec<i64>, Fail> {
        let tensor = self.need(index, what)?;
        let Some(ints) = tensor.as_ints() else {
            return malformed(format!("{what} is {}, allowed: integers", tensor.dtype));
        };
        ints.iter()
            .map(|&v| i64::try_from(v).or_else(|_| malformed(format!("{what} holds {v}, which is too large"))))
            .collect()
    }

    /// The one integer of an operand that must be known now.
    pub fn need_int(&self, index: usize, what: &str) -> Result<i64, Fail> {
        match self.need_ints(index, what)?.as_slice() {
            [one] => Ok(*one),
            many => malformed(format!("{what} has {} elements, allowed: 1", many.len())),
        }
    }

    /// The one number of an operand that must be known now.
    pub fn need_float(&self, index: usize, what: &str) -> Result<f64, Fail> {
        match self.need(index, what)?.to_floats().as_slice() {
            [one] => Ok(*one),
            many => malformed(format!("{what} has {} elements, allowed: 1", many.len())),
        }
    }

    /// The failure of a node whose result shape depends on a run-time value.
    pub fn data_dependent(&self, value: ValueId, what: &str) -> Fail {
        let inputs = self.walk.sources_of(value);
        let flags = inputs
            .iter()
            .map(|name| format!("--const-input {name}=.."))
            .collect::<Vec<_>>()
            .join(" ");
        let help = if inputs.is_empty() {
            "compute it from constants".to_string()
        } else {
            format!("fix what it is computed from: {flags}")
        };
        Fail::Unsupported {
            reason: format!("{what} is computed at run time, but decides a shape"),
            help,
        }
    }

    /// An attribute, if present.
    pub fn attr(&self, name: &str) -> Option<&'w AttributeProto> {
        self.node.attribute.iter().find(|attr| attr.name == name)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attr(name).map_or(default, |attr| attr.i)
    }

    /// An integer attribute as a flag.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, i64::from(default)) != 0
    }

    /// An integer attribute, if present.
    pub fn opt_int(&self, name: &str) -> Option<i64> {
        self.attr(name).map(|attr| attr.i)
    }

    /// A float attribute.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attr(name).map_or(default, |attr| attr.f)
    }

    /// A list of integers, if present.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attr(name).map(|attr| attr.ints.clone())
    }

    /// A list of floats, if present.
    pub fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.attr(name).map(|attr| attr.floats.clone())
    }

    /// A string attribute.
    pub fn string(&self, name: &str, default: &str) -> String {
        self.attr(name).map_or_else(
            || default.to_string(),
            |attr| String::from_utf8_lossy(&attr.s).into_owned(),
        )
    }

    /// A list of strings, if present.
    pub fn strings(&self, name: &str) -> Option<Vec<String>> {
        self.attr(name).map(|attr| {
            attr.strings
                .iter()
                .map(|s| String::from_utf8_lossy(s).into_owned())
                .collect()
        })
    }

    /// A dtype attribute.
    pub fn dtype_attr(&self, name: &str) -> Result<Option<DType>, Fail> {
        self.attr(name)
            .filter(|attr| attr.i != 0)
            .map(|attr| super::tensor::dtype(attr.i as i32))
            .transpose()
    }

    /// Bits per element that the model gives a value, if fewer than 8.
    pub fn packed_bits(&self, value: ValueId) -> Option<u32> {
        self.walk.packed.get(&value).copied()
    }

    /// Bits per element of the type that an attribute names, if fewer than 8.
    pub fn packed_bits_attr(&self, name: &str) -> Option<u32> {
        let data_type = i32::try_from(self.attr(name)?.i).ok()?;
        super::tensor::packed_bits(data_type).map(|bits| bits as u32)
    }

    /// Notes that the model gives a value fewer than 8 bits per element.
    pub fn set_packed_bits(&mut self, value: ValueId, bits: Option<u32>) {
        if let Some(bits) = bits {
            self.walk.packed.insert(value, bits);
        }
    }

    /// A list that is an attribute in old opsets and an operand in new ones; `None` if absent.
    pub fn ints_attr_or_input(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Fail> {
        match (self.ints(name), self.opt(index)) {
            (Some(ints), _) => Ok(Some(ints)),
            (None, Some(_)) => self.need_ints(index, name).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// An axis counted from the end if negative.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Fail> {
        let from_start = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_start) {
            Ok(at) if at < rank => Ok(at),
            _ => malformed(format!("axis {axis} is not in -{rank}..{rank}")),
        }
    }

    /// Distinct axes, ascending.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Fail> {
        let mut out = axes
            .iter()
            .map(|&axis| self.axis(axis, rank))
            .collect::<Result<Vec<_>, _>>()?;
        out.sort_unstable();
        if out.windows(2).any(|pair| pair[0] == pair[1]) {
            return malformed(format!("axes {axes:?} name one twice"));
        }
        Ok(out)
    }

    /// The one result of a body that an attribute holds, with its inputs bound.
    pub fn inline(&mut self, attr: &str, bound: &[ValueId]) -> Result<ValueId, Fail> {
        match super::control::inline_attribute(self.walk, self.node, attr, bound)?.as_deref() {
            Some([one]) => Ok(*one),
            Some(many) => malformed(format!("the body {attr} has {} results, allowed: 1", many.len())),
            None => unsupported(format!("the body {attr} has operators that are not supported")),
        }
    }

    /// A constant made from elements known now.
    pub fn constant(&mut self, tensor: &Tensor) -> Result<ValueId, Fail> {
        Ok(self
            .b()
            .constant("", tensor.dtype, tensor.shape.clone(), tensor.encode())?)
    }

    /// A constant whose elements are all this number, converted to the dtype.
    pub fn filled(&mut self, dtype: DType, shape: impl Into<Shape>, value: f64) -> Result<ValueId, Fail> {
        let scalar = if dtype.is_float() {
            lockstep_graph::op::Scalar::Float(value)
        } else {
            lockstep_graph::op::Scalar::Int(value as i128)
        };
        let value = self.b().scalar(dtype, scalar);
        Ok(self.b().expand(value, shape)?)
    }
}
