//! Graph to TensorIr: every operator becomes a composition of primitives, one file per family.
//!
//! Dtypes: i64, u64, u32, i16, u16 and bool compute as i32 (bool is 0 or 1), f64 as f32; i8, u8, f16 and bf16 stay as they are stored.
//! What cannot be lowered is collected over the whole graph and reported at once. Lowering follows the operator's own axis order, and
//! leaves it to the passes to find a better one.

mod conv;
mod elementwise;
mod gather;
mod integer;
mod matmul;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod shape;
#[cfg(test)]
mod tests;

use self::integer::Quantised;
use crate::error::{CompileError, CompileErrorKind, Unsupported};
use crate::tir::expr::{Ex, Expr};
use crate::tir::{TensorIr, TirBuilder, Type, ValueId, consteval};
use lockstep_graph::op::Scalar;
use lockstep_graph::{
    DType as GDType, EntityId, Graph, Node, Op as GOp, Origin, ValueId as GValueId, Verified, op as gop,
};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{DType, scalar};
use std::collections::BTreeMap;

/// The tensor IR of a graph.
///
/// # Errors
/// Everything in the graph that cannot be lowered, at once.
pub fn lower(graph: &Verified<Graph>) -> Result<TensorIr, CompileError> {
    let mut cx = Lowering {
        graph,
        b: TirBuilder::new(&graph.name),
        values: vec![None; graph.values.len()],
        bytes: BTreeMap::new(),
        signed: BTreeMap::new(),
    };
    *cx.b.origins_mut() = graph.origins.clone();
    let mut unsupported = cx.inputs()?;
    for (id, node) in graph.nodes.iter() {
        cx.b.set_origins(&[node.origin]);
        match cx.node(node) {
            Ok(()) => {}
            Err(Fail::Operand) => {}
            Err(Fail::Unsupported(what)) => unsupported.push(Unsupported {
                at: graph.origin(id).clone(),
                what,
            }),
            Err(Fail::Error(mut error)) => match &mut error.kind {
                CompileErrorKind::Unsupported(list) => {
                    list.iter_mut()
                        .filter(|u| u.at.is_unknown())
                        .for_each(|u| u.at = graph.origin(id).clone());
                    unsupported.append(list);
                }
                _ => {
                    return Err(CompileError {
                        at: Some(graph.origin(id).clone()),
                        ..*error
                    });
                }
            },
        }
    }
    cx.b.set_origins(&[]);
    cx.outputs()?;
    match unsupported.as_slice() {
        [] => Ok(cx.b.finish()),
        [one] => Err(CompileError {
            at: Some(one.at.clone()),
            kind: CompileErrorKind::Unsupported(unsupported),
        }),
        _ => Err(CompileError {
            at: None,
            kind: CompileErrorKind::Unsupported(unsupported),
        }),
    }
}

/// Why a node was not lowered.
enum Fail {
    /// It cannot be: what was found and what is allowed.
    Unsupported(String),
    /// One of its operands was not lowered; that is reported already.
    Operand,
    /// A constant is bad, or a bug.
    Error(Box<CompileError>),
}

impl From<CompileError> for Fail {
    fn from(error: CompileError) -> Fail {
        Fail::Error(Box::new(error))
    }
}

impl From<String> for Fail {
    fn from(what: String) -> Fail {
        Fail::Unsupported(what)
    }
}

impl From<&str> for Fail {
    fn from(what: &str) -> Fail {
        Fail::Unsupported(what.to_string())
    }
}

type Res<T> = Result<T, Fail>;

struct Lowering<'a> {
    graph: &'a Graph,
    b: TirBuilder,
    values: Vec<Option<ValueId>>,
    /// Quantised results that are not made by a DequantizeLinear.
    bytes: BTreeMap<GValueId, Quantised>,
    /// Unsigned bytes that are made of signed ones, 128 less, and these.
    signed: BTreeMap<ValueId, ValueId>,
}

/// A node with its operands lowered.
struct Site<'a> {
    node: &'a Node,
    graph: &'a Graph,
    /// Lowered operands, of the graph's shapes.
    x: Vec<ValueId>,
}

impl<'a> Site<'a> {
    /// Shape of operand `i`.
    fn shape(&self, i: usize) -> &'a [usize] {
        &self.graph.values[self.node.inputs[i]].shape
    }

    /// Graph dtype of operand `i`.
    fn dtype(&self, i: usize) -> GDType {
        self.graph.values[self.node.inputs[i]].dtype
    }

    /// Shape of result 0.
    fn out_shape(&self) -> &'a [usize] {
        &self.graph.values[self.node.outputs[0]].shape
    }

    /// Graph dtype of result 0.
    fn out_dtype(&self) -> GDType {
        self.graph.values[self.node.outputs[0]].dtype
    }
}

impl<'a> Lowering<'a> {
    fn inputs(&mut self) -> Result<Vec<Unsupported>, CompileError> {
        let mut unsupported = Vec::new();
        for (index, input) in self.graph.inputs.iter().enumerate() {
            let data = &self.graph.values[input.value];
            if data.shape.n_elements() == 0 {
                let what = format!(
                    "input \"{}\" of shape {} has no elements, allowed: at least one",
                    input.name, data.shape
                );
                unsupported.push(Unsupported {
                    at: Origin::default(),
                    what,
                });
                continue;
            }
            let ty = Type::new(dtype(data.dtype), &data.shape);
            let state = self.graph.states.iter().find(|s| s.input == index);
            let value = match state {
                Some(state) => self.b.state(&input.name, &self.graph.outputs[state.output].name, ty)?,
                None => self.b.input(&input.name, host(data.dtype), &data.shape, ty),
            };
            self.values[input.value.index()] = Some(value);
        }
        Ok(unsupported)
    }

    /// Binds the outputs; one without elements is bound to a constant of one, which nobody sees. What feeds a private state is none.
    fn outputs(&mut self) -> Result<(), CompileError> {
        for (index, output) in self.graph.outputs.iter().enumerate() {
            let data = &self.graph.values[output.value];
            let private = self.graph.states.iter().any(|s| s.output == index && s.private);
            match self.value(output.value) {
                Ok(_) if private => {}
                Ok(v) if data.shape.n_elements() > 0 => self.b.output(&output.name, host(data.dtype), &data.shape, v),
                Ok(_) => match self.constant_like(dtype(data.dtype), &[1], 0) {
                    Ok(one) => self.b.output(&output.name, host(data.dtype), &data.shape, one),
                    Err(Fail::Error(error)) => return Err(*error),
                    Err(_) => {}
                },
                Err(Fail::Error(error)) => return Err(*error),
                Err(_) => {}
            }
        }
        let mut number = 0;
        for (index, _) in self.graph.inputs.iter().enumerate() {
            if let Some(state) = self.graph.states.iter().find(|s| s.input == index) {
                if let Some(next) = self.values[self.graph.outputs[state.output].value.index()] {
                    self.b.set_next(number, next);
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// The lowered value; constants enter the program at their first use.
    fn value(&mut self, id: lockstep_graph::ValueId) -> Res<ValueId> {
        if let Some(v) = self.values[id.index()] {
            return Ok(v);
        }
        let data = &self.graph.values[id];
        let Some(weights) = self.graph.const_data(id) else {
            return Err(Fail::Operand);
        };
        let ty = Type::new(dtype(data.dtype), &data.shape);
        let v = self.b.constant(&data.name, ty, host(data.dtype), weights.clone())?;
        self.values[id.index()] = Some(v);
        Ok(v)
    }

    fn node(&mut self, node: &'a Node) -> Res<()> {
        let mut x = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            x.push(self.value(input)?);
        }
        let site = Site {
            node,
            graph: self.graph,
            x,
        };
        let empty = |v: &lockstep_graph::ValueId| self.graph.values[*v].shape.n_elements() == 0;
        let results = if node.outputs.iter().any(empty) || node.inputs.iter().any(empty) {
            self.empty(&site)?
        } else {
            self.dispatch(&site)?
        };
        for (&output, v) in node.outputs.iter().zip(results) {
            let data = &self.graph.values[output];
            let ty = Type::new(dtype(data.dtype), &data.shape);
            if *self.b.ty(v) != ty {
                let message = format!("{} gives {}, the graph says {ty}", node.op.name(), self.b.ty(v));
                return Err(CompileError::internal("lower", message).into());
            }
            self.values[output.index()] = Some(v);
        }
        Ok(())
    }

    /// One row per operator.
    fn dispatch(&mut self, s: &Site<'a>) -> Res<Vec<ValueId>> {
        let one = match &s.node.op {
            GOp::Unary(kind) => self.unary(s, *kind),
            GOp::Binary(kind) => self.binary(s, *kind),
            GOp::Where => self.select(s),
            GOp::Cast { to } => self.cast(s, *to),
            GOp::MatMul => self.matmul(s),
            GOp::Conv(attr) => self.conv(s, attr),
            GOp::ConvTranspose(attr) => self.conv_transpose(s, attr),
            GOp::Pool(attr) => self.pool(s, attr),
            GOp::Softmax { axis, log } => self.softmax(s, *axis, *log),
            GOp::LayerNorm { axis, eps } => self.layer_norm(s, *axis, *eps),
            GOp::RmsNorm { axis, eps } => self.rms_norm(s, *axis, *eps),
            GOp::BatchNorm { eps } => self.batch_norm(s, *eps),
            GOp::Reduce { kind, axes, .. } => self.reduce(s, *kind, axes),
            GOp::Arg { max, axis, last, .. } => self.arg(s, *max, *axis, *last),
            GOp::CumSum {
                axis,
                exclusive,
                reverse,
            } => self.cum_sum(s, *axis, *exclusive, *reverse),
            GOp::TopK { k, axis, largest } => return self.top_k(s, *k, *axis, *largest),
            GOp::Recurrent(attr) => return self.recurrent(s, attr),
            GOp::Reshape { .. } => Ok(self.b.reshape(s.x[0], s.out_shape())?),
            GOp::Transpose { perm } => Ok(self.b.transpose(s.x[0], perm)?),
            GOp::Narrow { ranges } => self.narrow(s, ranges),
            GOp::Concat { axis } => Ok(self.b.concat(&s.x, *axis)?),
            GOp::Pad { pads, mode } => self.pad(s, pads, *mode),
            GOp::Expand { .. } => Ok(self.b.expand(s.x[0], s.out_shape())?),
            GOp::Gather { axis } => self.gather(s, *axis),
            GOp::GatherElements { axis } => self.gather_elements(s, *axis),
            GOp::GatherNd { batch_dims } => self.gather_nd(s, *batch_dims),
            GOp::ScatterElements { axis, combine } => self.scatter_elements(s, *axis, *combine),
            GOp::ScatterNd { combine } => self.scatter_nd(s, *combine),
            GOp::Quantize { to } => self.quantize(s, *to),
            GOp::Dequantize => self.dequantize(s),
        };
        Ok(vec![one?])
    }

    /// A node with an operand or result that has no elements.
    fn empty(&mut self, s: &Site<'a>) -> Res<Vec<ValueId>> {
        if s.out_shape().contains(&0) || s.node.outputs.len() > 1 {
            let mut results = Vec::new();
            for &output in &s.node.outputs {
                let data = &self.graph.values[output];
                if data.shape.n_elements() > 0 {
                    return Err(format!("an operand of shape {:?} has no elements", s.shape(0)).into());
                }
                results.push(self.constant_like(dtype(data.dtype), &data.shape, 0)?);
            }
            return Ok(results);
        }
        let out = dtype(s.out_dtype());
        let fill = match &s.node.op {
            GOp::Concat { axis } => {
                let parts: Vec<ValueId> = (0..s.x.len())
                    .filter(|&i| !s.shape(i).contains(&0))
                    .map(|i| s.x[i])
                    .collect();
                return Ok(vec![self.b.concat(&parts, *axis)?]);
            }
            GOp::Pad {
                mode: gop::PadMode::Constant(value),
                ..
            } => scalar_bits(*value, out),
            GOp::MatMul | GOp::Conv(_) => 0,
            GOp::Reduce {
                kind: gop::Reduce::Sum, ..
            } => 0,
            GOp::Reduce {
                kind: gop::Reduce::Prod,
                ..
            } => scalar_bits(Scalar::Int(1), out),
            GOp::Reduce {
                kind: kind @ (gop::Reduce::Max | gop::Reduce::Min),
                ..
            } => {
                let lowest = *kind == gop::Reduce::Max;
                let end = match (out.is_float(), lowest) {
                    (true, true) => Scalar::Float(f64::NEG_INFINITY),
                    (true, false) => Scalar::Float(f64::INFINITY),
                    (false, true) => Scalar::Int(i128::MIN),
                    (false, false) => Scalar::Int(i128::MAX),
                };
                scalar_bits(end, out)
            }
            GOp::ScatterElements { .. } | GOp::ScatterNd { .. } if !s.shape(0).contains(&0) => {
                return Ok(vec![s.x[0]]);
            }
            _ => {
                return Err(format!(
                    "an operand of shape {:?} has no elements, allowed: at least one",
                    s.shape(0)
                )
                .into());
            }
        };
        Ok(vec![self.constant_like(out, s.out_shape(), fill)?])
    }

    /// A constant of one repeated element, given as bits.
    fn constant_like(&mut self, dtype: DType, shape: &[usize], bits: u32) -> Res<ValueId> {
        let bytes = bits.to_le_bytes()[..dtype.bytes()].to_vec();
        let ty = Type::new(dtype, &vec![1; shape.len()]);
        let stored = crate::tir::print::host_dtype(dtype);
        if shape.contains(&0) {
            return Ok(self
                .b
                .constant("empty", Type::new(dtype, shape), stored, Vec::new().into())?);
        }
        let one = self.b.constant("fill", ty, stored, bytes.into())?;
        Ok(self.b.expand(one, shape)?)
    }

    /// The operand with leading unit axes, of rank `rank`.
    fn align(&mut self, v: ValueId, rank: usize) -> Res<ValueId> {
        let shape = self.b.shape(v);
        if shape.len() >= rank {
            return Ok(v);
        }
        let mut padded = vec![1; rank - shape.len()];
        padded.extend(shape);
        Ok(self.b.reshape(v, &padded)?)
    }

    /// A constant with one element, as bits of f32 or i32.
    fn immediate(&self, v: ValueId) -> Option<u32> {
        if !self.b.is_const(v) || self.b.ty(v).elements() != 1 {
            return None;
        }
        consteval::tensor(self.b.ir(), v).ok()?.bits().first().copied()
    }

    /// An elementwise expression with numpy broadcasting, result of IR dtype `to`; constant scalars become immediates.
    fn elementwise(
        &mut self,
        to: DType,
        shape: &[usize],
        operands: &[ValueId],
        f: impl FnOnce(&Expr, &[Ex]) -> Ex,
    ) -> Res<ValueId> {
        let mut kept = Vec::new();
        let mut slots = Vec::new();
        for &v in operands {
            match self.immediate(v) {
                Some(bits) if self.b.dtype(v).is_float() => slots.push(Err(Ex::f32(f32::from_bits(bits)))),
                Some(bits) => slots.push(Err(Ex::i32(bits as i32))),
                None => {
                    slots.push(Ok(kept.len()));
                    kept.push(self.align(v, shape.len())?);
                }
            }
        }
        let v = self.b.map_to(shape, &kept, |e, x| {
            let args: Vec<Ex> = slots.iter().map(|slot| slot.map_or_else(|imm| imm, |i| x[i])).collect();
            let result = f(e, &args);
            e.cvt(result, to)
        })?;
        Ok(v)
    }
}

/// Divides by a constant: by multiplication where that is exact.
fn div_by(e: &Expr, x: Ex, n: f32) -> Ex {
    let exact = n != 0.0 && n.to_bits() & 0x007f_ffff == 0;
    if exact {
        e.mul(x, Ex::f32(1.0 / n))
    } else {
        e.div(x, Ex::f32(n))
    }
}

/// The dtype in which chips hold what a model holds in `dtype`.
pub fn dtype(dtype: GDType) -> DType {
    match dtype {
        GDType::F32 | GDType::F64 => DType::F32,
        GDType::F16 => DType::F16,
        GDType::Bf16 => DType::BF16,
        GDType::I8 => DType::I8,
        GDType::U8 => DType::U8,
        GDType::I16 | GDType::U16 | GDType::I32 | GDType::I64 | GDType::U32 | GDType::U64 | GDType::Bool => DType::I32,
    }
}

/// The same dtype at the host.
pub fn host(dtype: GDType) -> HostDType {
    match dtype {
        GDType::F32 => HostDType::F32,
        GDType::F64 => HostDType::F64,
        GDType::F16 => HostDType::F16,
        GDType::Bf16 => HostDType::BF16,
        GDType::I8 => HostDType::I8,
        GDType::U8 => HostDType::U8,
        GDType::I16 => HostDType::I16,
        GDType::U16 => HostDType::U16,
        GDType::I32 => HostDType::I32,
        GDType::I64 => HostDType::I64,
        GDType::U32 => HostDType::U32,
        GDType::U64 => HostDType::U64,
        GDType::Bool => HostDType::Bool,
    }
}

/// Bits of an element of `to` that holds an attribute's number.
fn scalar_bits(value: Scalar, to: DType) -> u32 {
    match value {
        Scalar::Float(x) => scalar::narrow_f32(x as f32, to),
        Scalar::Int(x) => scalar::narrow_i32(x.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as i32, to),
    }
}
