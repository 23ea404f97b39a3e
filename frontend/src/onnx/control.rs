//! Control flow and functions, inlined: `If` with a known condition, `Loop` and `Scan` with a known trip count, local functions.
//!
//! An `If` whose condition is known only at run time computes both branches and selects, provided their results have equal types.

use super::cx::{Cx, Fail, malformed, unsupported};
use super::walk::{Scope, Walk};
use lockstep_graph::op::Range;
use lockstep_graph::{DType, Op, ValueId};
use lockstep_onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet};

/// Most iterations that a loop is unrolled to.
const MAX_TRIPS: usize = 10_000;

/// Results of a control node; `None` if one of them is unknown.
type Results = Result<Option<Vec<ValueId>>, Fail>;

/// Whether [`import`] takes the operator.
pub(super) fn is_control(domain: &str, op_type: &str) -> bool {
    domain.is_empty() && matches!(op_type, "If" | "Loop" | "Scan")
}

/// Imports a control node.
pub(super) fn import(walk: &mut Walk<'_>, node: &NodeProto, operands: &[Option<ValueId>]) -> Results {
    match node.op_type.as_str() {
        "If" => branch(walk, node, operands),
        "Loop" => iterate(walk, node, operands),
        _ => scan(walk, node, operands),
    }
}

fn body<'n>(node: &'n NodeProto, name: &str) -> Result<&'n GraphProto, Fail> {
    let found = node
        .attribute
        .iter()
        .find(|attr| attr.name == name)
        .and_then(|attr| attr.g.as_ref());
    found.ok_or_else(|| Fail::Malformed(format!("the attribute {name} is missing")))
}

/// Imports the body that an attribute holds, with `bound` as its inputs.
pub(super) fn inline_attribute(walk: &mut Walk<'_>, node: &NodeProto, attr: &str, bound: &[ValueId]) -> Results {
    inline(walk, body(node, attr)?, bound)
}

/// Imports a body in a scope of its own, in which `bound` are its inputs; its outputs in order.
fn inline(walk: &mut Walk<'_>, graph: &GraphProto, bound: &[ValueId]) -> Results {
    if walk.scopes.len() > 64 {
        return unsupported("bodies nest more than 64 deep");
    }
    if bound.len() > graph.input.len() {
        return malformed(format!(
            "the body has {} inputs, expected {}",
            graph.input.len(),
            bound.len()
        ));
    }
    let scope: Scope = graph
        .input
        .iter()
        .zip(bound)
        .map(|(info, &value)| (info.name.clone(), Some(value)))
        .collect();
    walk.scopes.push(scope);
    let done = walk.initializers(graph).and_then(|()| walk.nodes(&graph.node));
    let outputs: Result<Option<Vec<ValueId>>, Fail> = graph
        .output
        .iter()
        .map(|output| match walk.lookup(&output.name) {
            Some(value) => Ok(value),
            None => malformed(format!(
                "the body's output \"{}\" is defined nowhere",
                output.name.escape_debug()
            )),
        })
        .collect::<Result<Option<Vec<_>>, _>>();
    walk.scopes.pop();
    done?;
    outputs
}

fn branch(walk: &mut Walk<'_>, node: &NodeProto, operands: &[Option<ValueId>]) -> Results {
    let (then, other) = (body(node, "then_branch")?, body(node, "else_branch")?);
    let &[Some(cond)] = operands else {
        return malformed(format!("there are {} operands, allowed: 1", operands.len()));
    };
    let cx = Cx::new(walk, node, operands.to_vec(), 0);
    let known = cx.known_value(cond).map(|tensor| tensor.to_floats());
    match known.as_deref() {
        Some([value]) => return inline(walk, if *value != 0.0 { then } else { other }, &[]),
        Some(many) => {
            return malformed(format!("the condition has {} elements, allowed: 1", many.len()));
        }
        None => {}
    }
    let (a, b) = (inline(walk, then, &[])?, inline(walk, other, &[])?);
    let (Some(a), Some(b)) = (a, b) else {
        return Ok(None);
    };
    let types =
        |walk: &Walk<'_>, values: &[ValueId]| values.iter().map(|&v| walk.b.graph().type_text(v)).collect::<Vec<_>>();
    if types(walk, &a) != types(walk, &b) {
        let Fail::Unsupported { help, .. } =
            Cx::new(walk, node, operands.to_vec(), 0).data_dependent(cond, "the condition")
        else {
            return Ok(None);
        };
        let reason =
            "the condition is computed at run time and the branches have results of different types".to_string();
        return Err(Fail::Unsupported { reason, help });
    }
    let scalar = walk.b.reshape(cond, Vec::new())?;
    let selected: Result<Vec<ValueId>, _> = a.into_iter().zip(b).map(|(a, b)| walk.b.select(scalar, a, b)).collect();
    Ok(Some(selected?))
}

fn iterate(walk: &mut Walk<'_>, node: &NodeProto, operands: &[Option<ValueId>]) -> Results {
    let graph = body(node, "body")?;
    let cx = Cx::new(walk, node, operands.to_vec(), 0);
    let trips = if cx.opt(0).is_some() {
        Some(cx.need_int(0, "the trip count")?)
    } else {
        None
    };
    let mut go = if cx.opt(1).is_some() {
        cx.need(1, "the loop condition")?.to_floats().first() != Some(&0.0)
    } else {
        true
    };
    let mut carried = (2..operands.len()).map(|at| cx.x(at)).collect::<Result<Vec<_>, _>>()?;
    let Some(n_scans) = graph.output.len().checked_sub(1 + carried.len()) else {
        return malformed("the body has too few outputs");
    };
    let mut scans: Vec<Vec<ValueId>> = vec![Vec::new(); n_scans];
    let mut trip = 0;
    while go && trips.is_none_or(|trips| trip < trips) {
        if trip as usize >= MAX_TRIPS {
            return unsupported(format!("the loop runs for more than {MAX_TRIPS} iterations"));
        }
        let count = walk.b.scalar(DType::I64, lockstep_graph::op::Scalar::Int(trip.into()));
        let cond = walk.b.scalar(DType::Bool, lockstep_graph::op::Scalar::Int(1));
        let bound: Vec<ValueId> = [count, cond].into_iter().chain(carried.iter().copied()).collect();
        let Some(results) = inline(walk, graph, &bound)? else {
            return Ok(None);
        };
        let cx = Cx::new(walk, node, vec![Some(results[0])], 0);
        go = cx.need(0, "the loop condition")?.to_floats().first() != Some(&0.0);
        carried = results[1..=carried.len()].to_vec();
        for (parts, &value) in scans.iter_mut().zip(&results[1 + carried.len()..]) {
            parts.push(value);
        }
        trip += 1;
    }
    for parts in scans {
        carried.push(stack(walk, &parts, 0, false)?);
    }
    Ok(Some(carried))
}

fn scan(walk: &mut Walk<'_>, node: &NodeProto, operands: &[Option<ValueId>]) -> Results {
    let graph = body(node, "body")?;
    let opset = walk.opsets.get("").copied().unwrap_or(1);
    if opset < 9 {
        return unsupported("Scan of opset 8 is not supported");
    }
    let cx = Cx::new(walk, node, operands.to_vec(), opset);
    let all = cx.all()?;
    let n_scans = usize::try_from(cx.int("num_scan_inputs", 0)).unwrap_or(0);
    let Some(n_states) = all.len().checked_sub(n_scans).filter(|_| n_scans > 0) else {
        return malformed("num_scan_inputs is wrong");
    };
    let list = |name: &str| cx.ints(name).unwrap_or_default();
    let (in_axes, in_directions, out_axes, out_directions) = (
        list("scan_input_axes"),
        list("scan_input_directions"),
        list("scan_output_axes"),
        list("scan_output_directions"),
    );
    let mut axes = Vec::new();
    let mut trips = None;
    for (at, &value) in all[n_states..].iter().enumerate() {
        let axis = cx.axis(in_axes.get(at).copied().unwrap_or(0), cx.rank(value))?;
        let len = cx.shape(value)[axis];
        if *trips.get_or_insert(len) != len {
            return malformed("scan inputs have different lengths");
        }
        axes.push(axis);
    }
    let trips = trips.unwrap_or(0);
    if trips > MAX_TRIPS {
        return unsupported(format!("the scan runs for more than {MAX_TRIPS} iterations"));
    }
    let mut carried = all[..n_states].to_vec();
    let Some(n_outputs) = graph.output.len().checked_sub(n_states) else {
        return malformed("the body has too few outputs");
    };
    let mut outputs: Vec<Vec<ValueId>> = vec![Vec::new(); n_outputs];
    for trip in 0..trips {
        let mut bound = carried.clone();
        for (at, (&value, &axis)) in all[n_states..].iter().zip(&axes).enumerate() {
            let backwards = in_directions.get(at) == Some(&1);
            let index = if backwards { trips - 1 - trip } else { trip };
            let part = walk.b.narrow(value, axis, Range::of(index, index + 1))?;
            let mut shape = walk.b.shape(part).clone();
            shape.0.remove(axis);
            bound.push(walk.b.reshape(part, shape)?);
        }
        let Some(results) = inline(walk, graph, &bound)? else {
            return Ok(None);
        };
        carried = results[..n_states].to_vec();
        for (parts, &value) in outputs.iter_mut().zip(&results[n_states..]) {
            parts.push(value);
        }
    }
    for (at, parts) in outputs.into_iter().enumerate() {
        carried.push(stack(
            walk,
            &parts,
            out_axes.get(at).copied().unwrap_or(0),
            out_directions.get(at) == Some(&1),
        )?);
    }
    Ok(Some(carried))
}

/// Joins the per-iteration values along a new axis.
fn stack(walk: &mut Walk<'_>, parts: &[ValueId], axis: i64, reverse: bool) -> Result<ValueId, Fail> {
    let Some(&first) = parts.first() else {
        return unsupported("a loop without iterations has scan outputs of unknown shape");
    };
    let rank = walk.b.shape(first).rank() as i64 + 1;
    let at = if axis < 0 { axis + rank } else { axis };
    let Some(axis) = usize::try_from(at).ok().filter(|&at| at < rank as usize) else {
        return malformed(format!("scan output axis {axis} is out of range"));
    };
    let mut slices = Vec::with_capacity(parts.len());
    for &part in parts {
        let mut shape = walk.b.shape(part).clone();
        if axis > shape.rank() {
            return malformed("scan outputs differ in rank");
        }
        shape.0.insert(axis, 1);
        slices.push(walk.b.reshape(part, shape)?);
    }
    if reverse {
        slices.reverse();
    }
    Ok(walk.b.op(Op::Concat { axis }, &slices)?)
}

/// Expands a call of a local function.
pub(super) fn expand_function(
    walk: &mut Walk<'_>,
    function: &FunctionProto,
    node: &NodeProto,
    operands: &[Option<ValueId>],
) -> Results {
    let key = (function.domain.clone(), function.name.clone());
    if !walk.expanding.insert(key.clone()) {
        return malformed(format!("the function {} calls itself", function.name));
    }
    let mut attrs: BTreeMap<&str, &AttributeProto> = function
        .attribute_proto
        .iter()
        .map(|attr| (attr.name.as_str(), attr))
        .collect();
    attrs.extend(node.attribute.iter().map(|attr| (attr.name.as_str(), attr)));
    let given = |at: usize| operands.get(at).copied().flatten();
    let absent: BTreeSet<&str> = function
        .input
        .iter()
        .enumerate()
        .filter(|(at, _)| given(*at).is_none())
        .map(|(_, name)| name.as_str())
        .collect();
    let scope: Scope = function
        .input
        .iter()
        .enumerate()
        .filter_map(|(at, name)| given(at).map(|value| (name.clone(), Some(value))))
        .collect();
    let nodes: Vec<NodeProto> = function
        .node
        .iter()
        .map(|inner| substitute(inner, &attrs, &absent))
        .collect();
    let opsets = function.opset_import.iter().map(|import| {
        (
            if import.domain == "ai.onnx" {
                String::new()
            } else {
                import.domain.clone()
            },
            import.version,
        )
    });
    let opsets: BTreeMap<String, i64> = opsets.collect();
    let outer_scopes = std::mem::replace(&mut walk.scopes, vec![scope]);
    let outer_opsets = if opsets.is_empty() {
        walk.opsets.clone()
    } else {
        std::mem::replace(&mut walk.opsets, opsets)
    };
    let done = walk.nodes(&nodes);
    let outputs: Result<Option<Vec<ValueId>>, Fail> = function
        .output
        .iter()
        .map(|name| {
            walk.lookup(name).ok_or_else(|| {
                Fail::Malformed(format!(
                    "the function's output \"{}\" is defined nowhere",
                    name.escape_debug()
                ))
            })
        })
        .collect::<Result<Option<Vec<_>>, _>>();
    walk.scopes = outer_scopes;
    walk.opsets = outer_opsets;
    walk.expanding.remove(&key);
    done?;
    outputs
}

/// A node of a function body with attribute references resolved and absent parameters removed; also in the bodies it holds.
fn substitute(node: &NodeProto, attrs: &BTreeMap<&str, &AttributeProto>, absent: &BTreeSet<&str>) -> NodeProto {
    let mut node = node.clone();
    for input in &mut node.input {
        if absent.contains(input.as_str()) {
            input.clear();
        }
    }
    node.attribute = std::mem::take(&mut node.attribute)
        .into_iter()
        .filter_map(|mut attr| {
            if !attr.ref_attr_name.is_empty() {
                let value = attrs.get(attr.ref_attr_name.as_str())?;
                return Some(AttributeProto {
                    name: attr.name,
                    ref_attr_name: String::new(),
                    ..(*value).clone()
                });
            }
            for graph in attr.g.iter_mut().chain(&mut attr.graphs) {
                graph.node = graph
                    .node
                    .iter()
                    .map(|inner| substitute(inner, attrs, absent))
                    .collect();
            }
            Some(attr)
        })
        .collect();
    node
}
