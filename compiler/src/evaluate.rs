//! What a graph gives, without a chip: the interpreter that is the oracle of the tests.

use crate::CompileError;
use crate::lower::lower;
use crate::passes::precision;
use crate::tir::eval::{Tensor, eval};
use lockstep_graph::{Graph, Verified};
use lockstep_isa::DType;

/// Runs a graph once: name and elements of every output, row-major. States begin as zeros. With a `precision`, what a compile with it stores
/// in 16 bits is rounded here too.
///
/// # Errors
/// Inputs that are not those of the graph; what lowering reports.
pub fn evaluate(
    graph: &Verified<Graph>,
    precision: Option<DType>,
    inputs: &[Tensor],
) -> Result<Vec<(String, Vec<f32>)>, CompileError> {
    let mut ir = lower(graph)?;
    if let Some(dtype) = precision {
        precision::run(&mut ir, dtype)?;
    }
    let mut states: Vec<Tensor> = ir.states.values().map(|s| Tensor::zeros(&s.ty)).collect();
    let outputs = eval(&ir, inputs, &mut states)?;
    let named = ir.outputs.iter().zip(outputs);
    Ok(named
        .map(|(port, tensor)| (port.name.clone(), tensor.to_f32()))
        .collect())
}
