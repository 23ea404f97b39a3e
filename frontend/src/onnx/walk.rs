//! The walk over a model's nodes: scopes of names, the notes of what is not supported, outputs and states.

use super::cx::{Cx, Fail};
use super::{inputs, ops, tensor};
use crate::error::{ImportError, ImportErrorKind, UnsupportedOp};
use crate::fold::fold;
use crate::{ImportOptions, Source};
use bytes::Bytes;
use lockstep_graph::{Graph, GraphBuilder, Origin, ValueDef, ValueId};
use lockstep_onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most nodes that the walk visits, inlined bodies and unrolled loops included.
const MAX_NODES: usize = 1_000_000;

/// A name's value, or `None` if a node that cannot be imported defines it.
pub(super) type Scope = BTreeMap<String, Option<ValueId>>;

/// The state of an import.
pub(crate) struct Walk<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) file: Arc<str>,
    pub(super) b: GraphBuilder,
    /// Versions of the operator sets in force; a function body brings its own.
    pub(super) opsets: BTreeMap<String, i64>,
    pub(super) functions: BTreeMap<(String, String), &'a FunctionProto>,
    /// Names in force, innermost last.
    pub(super) scopes: Vec<Scope>,
    /// Values whose elements have so few bits in the model; they are stored in a byte each.
    pub(super) packed: BTreeMap<ValueId, u32>,
    /// External data files read so far.
    pub(super) files: BTreeMap<String, Bytes>,
    /// Functions being expanded, to refuse recursion.
    pub(super) expanding: BTreeSet<(String, String)>,
    unsupported: Vec<UnsupportedOp>,
    visited: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        file: Arc<str>,
        name: &str,
        entry: &str,
        opsets: BTreeMap<String, i64>,
    ) -> Self {
        Self {
            source,
            file,
            b: GraphBuilder::new(name, entry).fold_with(fold),
            opsets,
            functions: BTreeMap::new(),
            scopes: vec![Scope::new()],
            packed: BTreeMap::new(),
            files: BTreeMap::new(),
            expanding: BTreeSet::new(),
            unsupported: Vec::new(),
            visited: 0,
        }
    }

    /// Imports the main graph.
    pub(super) fn graph(mut self, graph: &'a GraphProto, options: &ImportOptions) -> Result<Graph, ImportError> {
        let file = self.file.clone();
        self.initializers(graph)?;
        inputs::bind(&mut self, graph, options)?;
        self.nodes(&graph.node)?;
        let mut outputs = Vec::new();
        for output in &graph.output {
            match self.lookup(&output.name) {
                Some(Some(value)) => outputs.push((&output.name, value)),
                Some(None) => {}
                None => {
                    return Err(self.malformed(format!("output \"{}\" is defined nowhere", output.name.escape_debug())));
                }
            }
        }
        if !self.unsupported.is_empty() {
            return Err(ImportError::new(
                ImportErrorKind::Unsupported(self.unsupported),
                Origin::file(file),
            ));
        }
        if outputs.is_empty() {
            return Err(self.malformed("the graph has no output".into()));
        }
        let mut names = BTreeSet::new();
        for (name, value) in outputs {
            if name.is_empty() || !names.insert(name) {
                return Err(self.malformed(format!(
                    "the output name \"{}\" is empty or taken twice",
                    name.escape_debug()
                )));
            }
            self.b.name(value, name);
            self.b.output(name, value);
        }
        crate::bind::bind_states(&mut self.b, options, &file)?;
        Ok(self.b.finish())
    }

    /// Binds the initialisers of a graph in the innermost scope.
    pub(super) fn initializers(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            self.note(
                "sparse initializer",
                "",
                name,
                "sparse tensors are not supported".into(),
                "store it dense".into(),
            );
        }
        for proto in &graph.initializer {
            self.b.set_origin(Origin::file(self.file.clone()));
            let value = match tensor::import(self, proto) {
                Ok((dtype, shape, data)) => Some(
                    self.b
                        .constant(&proto.name, dtype, shape, data)
                        .map_err(|error| self.malformed(error.to_string()))?,
                ),
                Err(Fail::Unsupported { reason, help }) => {
                    self.note("initializer", "", &proto.name, reason, help);
                    None
                }
                Err(Fail::Malformed(message)) => {
                    return Err(self.malformed(format!("tensor \"{}\": {message}", proto.name.escape_debug())));
                }
                Err(Fail::Import(error)) => return Err(*error),
            };
            if let (Some(value), Some(bits)) = (value, tensor::packed_bits(proto.data_type)) {
                self.packed.insert(value, bits as u32);
            }
            self.bind(&proto.name, value);
        }
        Ok(())
    }

    /// Imports nodes in order in the innermost scope.
    pub(super) fn nodes(&mut self, nodes: &[NodeProto]) -> Result<(), ImportError> {
        for (index, node) in nodes.iter().enumerate() {
            self.visited += 1;
            let origin = Origin {
                file: self.file.clone(),
                node_name: node.name.clone(),
                op_type: node.op_type.clone(),
                node_index: Some(index),
            };
            if self.visited > MAX_NODES {
                let message = format!("more than {MAX_NODES} nodes after inlining and unrolling");
                return Err(ImportError::new(ImportErrorKind::Malformed(message), origin));
            }
            let results = match self.node(node, &origin) {
                Ok(results) => results,
                Err(Fail::Malformed(message)) => {
                    return Err(ImportError::new(ImportErrorKind::Malformed(message), origin));
                }
                Err(Fail::Import(error)) => return Err(*error),
                Err(Fail::Unsupported { reason, help }) => {
                    self.note(&node.op_type, &node.domain, &node_label(node, index), reason, help);
                    None
                }
            };
            let results: Vec<Option<ValueId>> = match results {
                Some(results) => results.into_iter().map(Some).collect(),
                None => vec![None; node.output.len()],
            };
            for (at, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                let Some(&value) = results.get(at) else {
                    let reason = format!("its result number {at} is not supported");
                    self.note(
                        &node.op_type,
                        &node.domain,
                        &node_label(node, index),
                        reason,
                        String::new(),
                    );
                    self.bind(name, None);
                    continue;
                };
                if let Some(value) = value {
                    self.b.name(value, name);
                }
                self.bind(name, value);
            }
        }
        Ok(())
    }

    /// The results of a node, or `None` if an operand is unknown because an earlier node could not be imported.
    fn node(&mut self, node: &NodeProto, origin: &Origin) -> Result<Option<Vec<ValueId>>, Fail> {
        let mut operands = Vec::with_capacity(node.input.len());
        let mut known = true;
        for name in &node.input {
            if name.is_empty() {
                operands.push(None);
                continue;
            }
            match self.lookup(name) {
                Some(Some(value)) => operands.push(Some(value)),
                Some(None) => known = false,
                None => {
                    return Err(Fail::Malformed(format!(
                        "operand \"{}\" is defined by no earlier node, input or initializer",
                        name.escape_debug()
                    )));
                }
            }
        }
        let domain = if node.domain == "ai.onnx" {
            ""
        } else {
            node.domain.as_str()
        };
        let function = self.functions.get(&(domain.to_string(), node.op_type.clone())).copied();
        let entry = ops::lookup(domain, &node.op_type);
        if function.is_none() && entry.is_none() && !super::control::is_control(domain, &node.op_type) {
            return Err(ops::unknown(domain, &node.op_type));
        }
        if !known {
            self.note_unknown_below(node);
            return Ok(None);
        }
        self.b.set_origin(origin.clone());
        if function.is_none() && super::control::is_control(domain, &node.op_type) {
            return super::control::import(self, node, &operands);
        }
        if let (Some(function), None) = (function, entry) {
            return super::control::expand_function(self, function, node, &operands);
        }
        let Some(run) = entry else {
            return Err(ops::unknown(domain, &node.op_type));
        };
        let opset = self.opsets.get(domain).copied().unwrap_or(1);
        run(&mut Cx::new(self, node, operands, opset)).map(Some)
    }

    /// Notes operators without an importer in the bodies of a node that is skipped.
    fn note_unknown_below(&mut self, node: &NodeProto) {
        let bodies = node
            .attribute
            .iter()
            .flat_map(|attr: &AttributeProto| attr.g.iter().chain(&attr.graphs));
        for (index, inner) in bodies.flat_map(|body| body.node.iter().enumerate()) {
            let domain = if inner.domain == "ai.onnx" {
                ""
            } else {
                inner.domain.as_str()
            };
            let known = ops::lookup(domain, &inner.op_type).is_some()
                || super::control::is_control(domain, &inner.op_type)
                || self
                    .functions
                    .contains_key(&(domain.to_string(), inner.op_type.clone()));
            if let (false, Fail::Unsupported { reason, help }) = (known, ops::unknown(domain, &inner.op_type)) {
                self.note(&inner.op_type, &inner.domain, &node_label(inner, index), reason, help);
            }
            self.note_unknown_below(inner);
        }
    }

    /// Notes what cannot be imported, grouped by operator and reason.
    pub(super) fn note(&mut self, op: &str, domain: &str, node: &str, reason: String, help: String) {
        let same = |item: &&mut UnsupportedOp| item.op == op && item.domain == domain && item.reason == reason;
        if let Some(item) = self.unsupported.iter_mut().find(same) {
            item.nodes.push(node.into());
            return;
        }
        let opset = self.opsets.get(domain).copied().unwrap_or(1);
        let (op, domain, nodes) = (op.to_string(), domain.to_string(), vec![node.to_string()]);
        self.unsupported.push(UnsupportedOp {
            op,
            domain,
            opset,
            nodes,
            reason,
            help,
        });
    }

    /// The value of a name: outer `None` if nothing defines it, inner `None` if it is unknown.
    pub(super) fn lookup(&self, name: &str) -> Option<Option<ValueId>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    /// Binds a name in the innermost scope.
    pub(super) fn bind(&mut self, name: &str, value: Option<ValueId>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.into(), value);
        }
    }

    pub(super) fn malformed(&self, message: String) -> ImportError {
        ImportError::new(ImportErrorKind::Malformed(message), Origin::file(self.file.clone()))
    }

    /// Names of the graph inputs that a value is computed from, ascending.
    pub(super) fn sources_of(&self, value: ValueId) -> Vec<String> {
        let graph = self.b.graph();
        let mut seen = BTreeSet::from([value]);
        let mut todo = vec![value];
        let mut inputs = BTreeSet::new();
        while let Some(value) = todo.pop() {
            match graph.values[value].def {
                ValueDef::Const => {}
                ValueDef::Input(_) => {
                    inputs.insert(graph.values[value].name.clone());
                }
                ValueDef::Node(node, _) => todo.extend(graph.nodes[node].inputs.iter().filter(|&&v| seen.insert(v))),
            }
        }
        inputs.into_iter().collect()
    }
}

/// A node's name, or `#N` if it has none.
pub(super) fn node_label(node: &NodeProto, index: usize) -> String {
    if node.name.is_empty() {
        format!("#{index}")
    } else {
        node.name.clone()
    }
}
