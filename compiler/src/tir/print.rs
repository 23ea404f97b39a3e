//! The `.tir` text form; see [`super::parse`] for the grammar.

use super::op::{Arg, Combiner, MapNode, Op, arg_dtype, compute_dtype};
use super::{IndexMap, Port, TensorIr, Type, ValueId, View};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{AluOp, DType};
use std::fmt::{self, Write};

/// Constants of at most this many elements are printed with their elements.
pub const INLINE_ELEMENTS: usize = 8;

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, list(&self.shape))
    }
}

impl fmt::Display for TensorIr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tir v1 @{}", name(&self.name))?;
        for id in self.values.ids() {
            writeln!(f, "  {}", value_line(self, id))?;
        }
        for state in self.states.values() {
            writeln!(f, "  next {} = {}", quoted(&state.name), state.next)?;
        }
        for port in &self.outputs {
            writeln!(
                f,
                "  output {}{} = {}",
                quoted(&port.name),
                host(self, port),
                port.value
            )?;
        }
        Ok(())
    }
}

/// The line that defines a value, with the model nodes it came from as a comment.
pub fn value_line(ir: &TensorIr, id: ValueId) -> String {
    let value = &ir.values[id];
    let mut line = format!("{id}: {} = {}", value.ty, op_text(ir, id));
    let origins: Vec<String> = value
        .origins
        .iter()
        .filter_map(|&o| ir.origins.get(o))
        .filter(|o| !o.is_unknown())
        .map(|o| format!("{} {}", quoted(&o.node_name), o.op_type))
        .collect();
    if !origins.is_empty() {
        let shown = origins.len().min(3);
        let rest = origins.len() - shown;
        let more = if rest > 0 {
            format!(" and {rest} more")
        } else {
            String::new()
        };
        let _ = write!(line, " ; {}{more}", origins[..shown].join(", "));
    }
    line
}

/// The operation and its operands as text.
pub fn op_text(ir: &TensorIr, id: ValueId) -> String {
    let value = &ir.values[id];
    let inputs = value
        .inputs
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    match &value.op {
        Op::Input => match ir.inputs.iter().find(|p| p.value == id) {
            Some(port) => format!("input {}{}", quoted(&port.name), host(ir, port)),
            None => "input".into(),
        },
        Op::Const(k) => const_text(ir, *k),
        Op::State(s) => match ir.states.get(*s) {
            Some(state) => format!("state {} from {}", quoted(&state.name), quoted(&state.from)),
            None => format!("state {s}"),
        },
        Op::Move { parts, fill } => {
            let parts = parts.iter().zip(&value.inputs).map(|(&part, &input)| {
                let operand = ir.values.get(input).map_or(&[][..], |v| &v.ty.shape);
                format!("{input}{{{}}}", map_text(ir.maps.get(part), operand))
            });
            let fill = if *fill == 0 {
                String::new()
            } else {
                format!(" fill {fill:#x}")
            };
            format!("move {}{fill}", parts.collect::<Vec<_>>().join(", "))
        }
        Op::Map { nodes } => format!("map {}", expression(ir, nodes, &value.inputs)),
        Op::Reduce { op, axes } => format!("reduce.{} {inputs} over{}", op.name(), tuple(axes)),
        Op::Contract { batch, contracted, .. } => {
            let pairs = |p: &[(u8, u8)]| p.iter().map(|(l, r)| format!("{l}:{r}")).collect::<Vec<_>>().join(",");
            let batch = if batch.is_empty() {
                String::new()
            } else {
                format!(" batch({})", pairs(batch))
            };
            format!("contract {inputs}{batch} over({})", pairs(contracted))
        }
        Op::Gather => format!("gather {inputs}"),
        Op::Scatter { combiner } => match combiner {
            Combiner::Replace => format!("scatter {inputs}"),
            Combiner::Reduce(r) => format!("scatter.{} {inputs}", r.name()),
        },
        Op::Sort { axis, descending } => {
            format!("sort.{} {inputs} axis {axis}", if *descending { "down" } else { "up" })
        }
        Op::Transfer => format!("transfer {inputs}"),
    }
}

fn const_text(ir: &TensorIr, k: super::ConstId) -> String {
    let Some(data) = ir.consts.get(k) else {
        return format!("const {k}");
    };
    let mut text = format!("const @{}", name(&data.name));
    if data.ty.elements() <= INLINE_ELEMENTS {
        if let Ok(tensor) = super::consteval::read_const(data) {
            let dtype = data.ty.dtype.widened();
            let elements: Vec<String> = tensor.bits().iter().map(|&b| literal(b, dtype)).collect();
            let _ = write!(text, " [{}]", elements.join(","));
        }
    } else if data.stored != host_dtype(data.ty.dtype) {
        let _ = write!(text, " as {}", data.stored.name());
    }
    text
}

/// The host dtype with the same elements.
pub fn host_dtype(dtype: DType) -> HostDType {
    match dtype {
        DType::F32 => HostDType::F32,
        DType::F16 => HostDType::F16,
        DType::BF16 => HostDType::BF16,
        DType::I32 => HostDType::I32,
        DType::I8 => HostDType::I8,
        DType::U8 => HostDType::U8,
        DType::U16 => HostDType::U16,
        DType::I4 => HostDType::I8,
    }
}

fn host(ir: &TensorIr, port: &Port) -> String {
    let same = ir
        .values
        .get(port.value)
        .is_some_and(|v| v.ty.shape == port.shape && host_dtype(v.ty.dtype) == port.host);
    if same {
        String::new()
    } else {
        format!(" as {}{}", port.host.name(), list(&port.shape))
    }
}

fn map_text(map: &IndexMap, operand: &[usize]) -> String {
    if map.is_reshape(operand.iter().product()) {
        return "reshape".into();
    }
    if let Some(perm) = map.as_transpose(operand) {
        return format!("perm {}", join(&perm));
    }
    map.views.iter().map(view_text).collect::<Vec<_>>().join(" | ")
}

fn view_text(view: &View) -> String {
    let mut text = format!("{}:{}+{}", list(&view.shape), tuple(&view.strides), view.offset);
    if !view.is_total() {
        let boxes: Vec<String> = view
            .lo
            .iter()
            .zip(&view.hi)
            .map(|(lo, hi)| format!("{lo}:{hi}"))
            .collect();
        let _ = write!(text, " box({})", boxes.join(","));
    }
    text
}

/// An expression; nodes used more than once are named first.
fn expression(ir: &TensorIr, nodes: &[MapNode], inputs: &[ValueId]) -> String {
    let dtypes: Vec<DType> = inputs
        .iter()
        .map(|&v| ir.values.get(v).map_or(DType::F32, |d| d.ty.dtype))
        .collect();
    let mut uses = vec![0u32; nodes.len()];
    for node in nodes {
        for arg in &node.args[..node.op.arity()] {
            if let Arg::Node(i) = arg
                && let Some(count) = uses.get_mut(*i as usize)
            {
                *count += 1;
            }
        }
    }
    let mut texts: Vec<String> = Vec::with_capacity(nodes.len());
    let mut lines = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let compute = compute_dtype(nodes, at, &dtypes);
        let args: Vec<String> = node.args[..node.op.arity()]
            .iter()
            .enumerate()
            .map(|(n, &arg)| match arg {
                Arg::Operand(i) => inputs.get(i as usize).map_or("?".into(), ToString::to_string),
                Arg::Node(i) => texts.get(i as usize).cloned().unwrap_or("?".into()),
                Arg::Imm(bits) if node.op == AluOp::Select && n == 0 => literal(bits, DType::I32),
                Arg::Imm(bits) => literal(bits, arg_dtype(arg, nodes, &dtypes).unwrap_or(compute)),
            })
            .collect();
        let text = match node.op {
            AluOp::Cvt => format!("cvt.{}({})", node.dtype, args.join(", ")),
            AluOp::Iota => format!("iota({})", node.axis),
            op => format!("{}({})", op.name(), args.join(", ")),
        };
        if uses[at] > 1 {
            let label = format!("n{}", lines.len());
            lines.push(format!("{label} = {text}"));
            texts.push(label);
        } else {
            texts.push(text);
        }
    }
    lines.push(texts.pop().unwrap_or_default());
    lines.join(", ")
}

/// An element: floats always with a point, an exponent or a letter, a NaN that is not canonical as its bits.
fn literal(bits: u32, dtype: DType) -> String {
    let float = f32::from_bits(bits);
    match dtype.is_float() {
        true if float.is_nan() && bits != 0x7fc0_0000 => format!("{bits:#x}f"),
        true => format!("{float:?}"),
        false => (bits as i32).to_string(),
    }
}

/// A name after `@`: quoted unless it is plain.
pub(crate) fn name(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/:-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        quoted(text)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    format!("[{}]", join(items))
}

fn tuple<T: fmt::Display>(items: &[T]) -> String {
    format!("({})", join(items))
}
