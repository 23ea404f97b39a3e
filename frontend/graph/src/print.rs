//! The `.graph` text form: one definition per line, types on every value, large data as a checksum.
//!
//! ```text
//! graph v1 "mlp" entry "main"
//! in  %x : f32[1,64]
//! w   @fc.w : f32[64,32] #9c1f04ab
//! %h = MatMul(%x, @fc.w) : f32[1,32]  ; n0 "fc" MatMul
//! out %h
//! ```
//! Constants of at most eight elements print their values. A name that is no plain word is quoted.

use crate::{DType, EntityId, Graph, NodeId, ValueDef, ValueId};
use half::{bf16, f16};
use std::fmt::Write;

/// Most elements of a constant that print as values.
const INLINE_ELEMENTS: usize = 8;

/// The whole graph as text.
pub fn print(graph: &Graph) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "graph v1 \"{}\" entry \"{}\"",
        graph.name.escape_debug(),
        graph.entry.escape_debug()
    );
    for input in &graph.inputs {
        let _ = writeln!(
            out,
            "in  {} : {}",
            value_text(graph, input.value),
            type_text(graph, input.value)
        );
    }
    for (&id, constant) in &graph.consts {
        let _ = write!(out, "w   {} : {} ", value_text(graph, id), type_text(graph, id));
        match graph.values.get(id) {
            _ if constant.data.is_absent() => {
                let _ = writeln!(out, "absent");
            }
            Some(data) if data.shape.n_elements() <= INLINE_ELEMENTS => {
                let _ = writeln!(out, "= {}", elements(data.dtype, constant.data.bytes()));
            }
            _ => {
                let _ = writeln!(out, "#{:08x}", constant.data.checksum());
            }
        }
    }
    for id in graph.nodes.ids() {
        let _ = writeln!(out, "{}", node_text(graph, id));
    }
    for state in &graph.states {
        let name = |name: Option<&String>| name.map_or_else(|| "?".into(), |n| word(n));
        let output = name(graph.outputs.get(state.output).map(|o| &o.name));
        let input = name(graph.inputs.get(state.input).map(|i| &i.name));
        let _ = writeln!(out, "state {output} -> {input}");
    }
    for output in &graph.outputs {
        let text = value_text(graph, output.value);
        let same = graph
            .values
            .get(output.value)
            .is_some_and(|data| data.name == output.name);
        let _ = if same {
            writeln!(out, "out {text}")
        } else {
            writeln!(out, "out {} = {text}", word(&output.name))
        };
    }
    out
}

/// One node as its line of text.
pub fn node_text(graph: &Graph, id: NodeId) -> String {
    let node = &graph.nodes[id];
    let list = |values: &[ValueId], text: &dyn Fn(ValueId) -> String| {
        values.iter().map(|&v| text(v)).collect::<Vec<_>>().join(", ")
    };
    let mut out = format!(
        "{} = {}({}) : {}  ; {id}",
        list(&node.outputs, &|v| value_text(graph, v)),
        node.op,
        list(&node.inputs, &|v| value_text(graph, v)),
        list(&node.outputs, &|v| type_text(graph, v))
    );
    if let Some(origin) = graph.origins.get(node.origin) {
        if !origin.node_name.is_empty() {
            let _ = write!(out, " \"{}\"", origin.node_name.escape_debug());
        } else if let Some(index) = origin.node_index {
            let _ = write!(out, " #{index}");
        }
        if !origin.op_type.is_empty() {
            let _ = write!(out, " {}", origin.op_type);
        }
    }
    out
}

/// `%name`, or `@name` for a constant.
pub fn value_text(graph: &Graph, value: ValueId) -> String {
    match graph.values.get(value) {
        Some(data) => format!(
            "{}{}",
            if data.def == ValueDef::Const { '@' } else { '%' },
            word(&data.name)
        ),
        None => format!("%?{}", value.index()),
    }
}

fn type_text(graph: &Graph, value: ValueId) -> String {
    if graph.values.get(value).is_some() {
        graph.type_text(value)
    } else {
        "?".into()
    }
}

/// The name itself if it is a plain word, else quoted.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:-".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.into()
    } else {
        format!("\"{}\"", name.escape_debug())
    }
}

fn elements(dtype: DType, bytes: &[u8]) -> String {
    let items: Vec<String> = bytes
        .chunks_exact(dtype.size())
        .map(|chunk| element(dtype, chunk))
        .collect();
    format!("[{}]", items.join(", "))
}

/// One element as text; `bytes` has the dtype's size.
fn element(dtype: DType, bytes: &[u8]) -> String {
    let mut wide = [0u8; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    match dtype {
        DType::F32 => format!("{:?}", f32::from_bits(bits as u32)),
        DType::F16 => format!("{:?}", f16::from_bits(bits as u16).to_f32()),
        DType::Bf16 => format!("{:?}", bf16::from_bits(bits as u16).to_f32()),
        DType::F64 => format!("{:?}", f64::from_bits(bits)),
        DType::I8 => (bits as i8).to_string(),
        DType::I16 => (bits as i16).to_string(),
        DType::I32 => (bits as i32).to_string(),
        DType::I64 => (bits as i64).to_string(),
        DType::Bool => (bits != 0).to_string(),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => bits.to_string(),
    }
}
