//! ONNX models to [`Graph`], with statically known shapes.
//!
//! `walk` imports nodes in order into a [`GraphBuilder`](lockstep_graph::GraphBuilder) that folds small constants, so that shape operands
//! are known when an operator asks for them. Operators are in [`ops`], one file per family; control flow with a known condition or trip count
//! is inlined by `control`. A node that cannot be imported is noted and its results are unknown from there on; the walk goes on, so that
//! one error names everything.

mod control;
mod cx;
mod external;
mod inputs;
pub mod ops;
pub mod tensor;
mod walk;

use crate::error::{ImportError, ImportErrorKind, read_error};
use crate::{ImportOptions, Source};
use lockstep_graph::{Graph, Origin};
use lockstep_onnx_protobuf::decode_model;
use std::collections::BTreeMap;
use std::sync::Arc;
use walk::Walk;

/// Oldest supported version of ONNX's own operator set.
pub const MIN_OPSET: i64 = 1;
/// Newest version of ONNX's own operator set whose operators were checked against their definition.
pub const MAX_OPSET: i64 = 27;

/// Imports the ONNX file with this name.
///
/// # Errors
/// See [`ImportErrorKind`].
pub fn import(source: &dyn Source, file: &str, options: &ImportOptions) -> Result<Graph, ImportError> {
    let at = || Origin::file(file);
    let malformed = |message: String| ImportError::new(ImportErrorKind::Malformed(message), at());
    let bytes = source.read(file).map_err(|error| read_error(file, &error))?;
    let model = decode_model(bytes).map_err(|error| malformed(error.to_string()))?;
    let Some(graph) = &model.graph else {
        return Err(malformed("the file holds no graph; an ONNX model is expected".into()));
    };
    let mut opsets: BTreeMap<String, i64> = BTreeMap::new();
    for import in &model.opset_import {
        let domain = if import.domain == "ai.onnx" { "" } else { &import.domain };
        opsets.insert(domain.into(), import.version);
    }
    let version = *opsets.entry(String::new()).or_insert(1);
    let uses_onnx = graph
        .node
        .iter()
        .any(|node| matches!(node.domain.as_str(), "" | "ai.onnx"));
    if uses_onnx && !(MIN_OPSET..=MAX_OPSET).contains(&version) {
        let message = format!(
            "the model uses opset {version}, allowed: {MIN_OPSET} to {MAX_OPSET}; convert it with onnx.version_converter"
        );
        return Err(malformed(message));
    }
    let file: Arc<str> = file.into();
    let stem = file
        .strip_suffix(".onnx")
        .unwrap_or(&file)
        .rsplit('/')
        .next()
        .unwrap_or("model");
    let entry = if options.entry.is_empty() {
        "main"
    } else {
        &options.entry
    };
    let mut walk = Walk::new(source, file.clone(), stem, entry, opsets);
    for function in &model.functions {
        walk.functions
            .insert((function.domain.clone(), function.name.clone()), function);
    }
    walk.graph(graph, options)
}
