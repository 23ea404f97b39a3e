//! The model's inputs as the file declares them.

use super::cx::Fail;
use super::walk::Walk;
use crate::ImportOptions;
use crate::bind::{Bound, Declared, Dim, resolve};
use crate::error::ImportError;
use lockstep_onnx_protobuf::{GraphProto, ValueInfoProto, dimension, type_proto};
use std::collections::{BTreeMap, BTreeSet};

/// Adds the graph's inputs to the builder, in order.
pub(super) fn bind(walk: &mut Walk<'_>, graph: &GraphProto, options: &ImportOptions) -> Result<(), ImportError> {
    let initialized: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut declared = Vec::new();
    for info in graph
        .input
        .iter()
        .filter(|info| !initialized.contains(info.name.as_str()))
    {
        match declaration(info) {
            Ok(input) => declared.push(input),
            Err(Fail::Unsupported { reason, help }) => {
                walk.note("input", "", &info.name, reason, help);
                walk.bind(&info.name, None);
            }
            Err(Fail::Malformed(message)) => {
                return Err(walk.malformed(format!("input \"{}\": {message}", info.name.escape_debug())));
            }
            Err(Fail::Import(error)) => return Err(*error),
        }
    }
    let packed = packed_inputs(graph);
    for input in resolve(&declared, options, &walk.file)? {
        let (name, value) = match input {
            Bound::Argument { name, dtype, shape } => {
                let value = walk.b.input(&name, dtype, shape);
                (name, value)
            }
            Bound::Constant {
                name,
                dtype,
                shape,
                data,
            } => {
                let value = walk.b.constant(&name, dtype, shape, data);
                (name, value)
            }
        };
        let value = value.map_err(|error| walk.malformed(error.to_string()))?;
        if name.is_empty() || walk.lookup(&name).is_some() {
            return Err(walk.malformed(format!(
                "the input name \"{}\" is empty or taken twice",
                name.escape_debug()
            )));
        }
        if let Some(&bits) = packed.get(&name) {
            walk.packed.insert(value, bits);
        }
        walk.bind(&name, Some(value));
    }
    Ok(())
}

/// Bits per element of the inputs that have fewer than 8.
fn packed_inputs(graph: &GraphProto) -> BTreeMap<String, u32> {
    let bits = |info: &ValueInfoProto| match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => super::tensor::packed_bits(tensor.elem_type),
        _ => None,
    };
    let named = |info: &ValueInfoProto| Some((info.name.clone(), bits(info)? as u32));
    graph.input.iter().filter_map(named).collect()
}

fn declaration(info: &ValueInfoProto) -> Result<Declared, Fail> {
    let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        None => return Err(Fail::Malformed("it has no type".into())),
        Some(_) => {
            return Err(Fail::Unsupported {
                reason: "only tensors can be inputs".into(),
                help: String::new(),
            });
        }
    };
    let dim = |dim: &lockstep_onnx_protobuf::Dimension| match &dim.value {
        Some(dimension::Value::DimValue(size)) => usize::try_from(*size).map_or(Dim::Unnamed, Dim::Size),
        Some(dimension::Value::DimParam(symbol)) if usable(symbol) => Dim::Symbol(symbol.clone()),
        _ => Dim::Unnamed,
    };
    let dims = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(dim).collect());
    Ok(Declared {
        name: info.name.clone(),
        dtype: super::tensor::dtype(tensor.elem_type)?,
        dims,
    })
}

/// Whether a symbol can be given on a command line and means one dimension.
fn usable(symbol: &str) -> bool {
    symbol.chars().any(char::is_alphanumeric) && !symbol.contains('=') && symbol.parse::<i64>().is_err()
}
