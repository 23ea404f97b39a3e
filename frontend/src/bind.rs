//! Binds a model's inputs by the options: symbolic dimensions, whole shapes, constants and states. Nothing is guessed.

use crate::error::{ImportError, ImportErrorKind, UnboundDim};
use crate::tensor::Tensor;
use crate::{ConstInput, ImportOptions};
use lockstep_graph::op::Scalar;
use lockstep_graph::{DType, GraphBuilder, Origin, Shape, Weights};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A dimension as the model gives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dim {
    Size(usize),
    Symbol(String),
    Unnamed,
}

/// An input as the model declares it; no dims if it does not say.
pub(crate) struct Declared {
    pub name: String,
    pub dtype: DType,
    pub dims: Option<Vec<Dim>>,
}

/// An input with everything bound.
pub(crate) enum Bound {
    Argument {
        name: String,
        dtype: DType,
        shape: Shape,
    },
    Constant {
        name: String,
        dtype: DType,
        shape: Shape,
        data: Weights,
    },
}

/// Binds every declared input by the options.
pub(crate) fn resolve(
    declared: &[Declared],
    options: &ImportOptions,
    file: &Arc<str>,
) -> Result<Vec<Bound>, ImportError> {
    let bad = |message: String| ImportError::new(ImportErrorKind::BadOption(message), Origin::file(file.clone()));
    let names = || {
        declared
            .iter()
            .map(|input| input.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    for (flag, name) in options
        .shapes
        .keys()
        .map(|n| ("--shape", n))
        .chain(options.const_inputs.keys().map(|n| ("--const-input", n)))
    {
        if !declared.iter().any(|input| input.name == *name) {
            return Err(bad(format!(
                "{flag} names \"{}\", the model's inputs are: {}",
                name.escape_debug(),
                names()
            )));
        }
    }
    let symbols: BTreeSet<&str> = declared
        .iter()
        .flat_map(|input| input.dims.iter().flatten())
        .filter_map(|dim| {
            if let Dim::Symbol(s) = dim {
                Some(s.as_str())
            } else {
                None
            }
        })
        .collect();
    if let Some(name) = options.dims.keys().find(|name| !symbols.contains(name.as_str())) {
        let known = if symbols.is_empty() {
            "none".to_string()
        } else {
            symbols.into_iter().collect::<Vec<_>>().join(", ")
        };
        return Err(bad(format!(
            "--dim names \"{}\", the model's symbolic dimensions are: {known}",
            name.escape_debug()
        )));
    }
    let mut sizes: BTreeMap<&str, usize> = options.dims.iter().map(|(name, &size)| (name.as_str(), size)).collect();
    // Whole shapes bind symbols too.
    for input in declared {
        let given = match (options.shapes.get(&input.name), options.const_inputs.get(&input.name)) {
            (Some(shape), _) => Some(shape.clone()),
            (None, Some(ConstInput::Tensor { shape, .. })) => Some(shape.0.clone()),
            _ => None,
        };
        let (Some(given), Some(dims)) = (given, &input.dims) else {
            continue;
        };
        let name = input.name.escape_debug();
        if given.len() != dims.len() {
            return Err(bad(format!(
                "input \"{name}\" has {} dimensions, its given shape {given:?} has {}",
                dims.len(),
                given.len()
            )));
        }
        for (axis, (dim, &size)) in dims.iter().zip(&given).enumerate() {
            let bound = match dim {
                Dim::Size(fixed) => *fixed,
                Dim::Symbol(symbol) => *sizes.entry(symbol).or_insert(size),
                Dim::Unnamed => size,
            };
            if bound != size {
                return Err(bad(format!(
                    "dimension {axis} of input \"{name}\" is {bound}, its given shape {given:?} says {size}"
                )));
            }
        }
    }
    let mut unbound = Vec::new();
    let mut bound = Vec::new();
    for input in declared {
        let constant = options.const_inputs.get(&input.name);
        let mut shape = match (options.shapes.get(&input.name), constant, &input.dims) {
            (Some(shape), ..) => Some(Shape(shape.clone())),
            (None, Some(ConstInput::Tensor { shape, .. }), _) => Some(shape.clone()),
            (None, _, Some(dims)) => known_shape(dims, &sizes),
            (None, ..) => None,
        };
        // A list of numbers says the size of a vector.
        if let (None, Some(ConstInput::Numbers(numbers))) = (&shape, constant)
            && input.dims.as_ref().is_none_or(|dims| dims.len() == 1)
        {
            shape = Some(Shape::from([numbers.len()]));
        }
        let Some(shape) = shape else {
            let dims = input.dims.clone().unwrap_or_default();
            let text = shape_text(input.dims.as_deref());
            for (axis, dim) in dims.iter().enumerate() {
                let symbol = match dim {
                    Dim::Symbol(symbol) if !sizes.contains_key(symbol.as_str()) => Some(symbol.clone()),
                    Dim::Unnamed => None,
                    _ => continue,
                };
                unbound.push(UnboundDim {
                    symbol,
                    input: input.name.clone(),
                    axis,
                    shape: text.clone(),
                });
            }
            if input.dims.is_none() {
                unbound.push(UnboundDim {
                    symbol: None,
                    input: input.name.clone(),
                    axis: 0,
                    shape: text,
                });
            }
            continue;
        };
        let (name, dtype) = (input.name.clone(), input.dtype);
        bound.push(match constant {
            None => Bound::Argument { name, dtype, shape },
            Some(constant) => {
                let data = constant_data(constant, dtype, &shape)
                    .map_err(|message| bad(format!("--const-input {name}: {message}")))?;
                Bound::Constant {
                    name,
                    dtype,
                    shape,
                    data,
                }
            }
        });
    }
    if unbound.is_empty() {
        Ok(bound)
    } else {
        Err(ImportError::new(
            ImportErrorKind::UnboundDims(unbound),
            Origin::file(file.clone()),
        ))
    }
}

fn known_shape(dims: &[Dim], sizes: &BTreeMap<&str, usize>) -> Option<Shape> {
    let size = |dim: &Dim| match dim {
        Dim::Size(size) => Some(*size),
        Dim::Symbol(symbol) => sizes.get(symbol.as_str()).copied(),
        Dim::Unnamed => None,
    };
    dims.iter().map(size).collect::<Option<Vec<_>>>().map(Shape)
}

fn shape_text(dims: Option<&[Dim]>) -> String {
    let text = |dim: &Dim| match dim {
        Dim::Size(size) => size.to_string(),
        Dim::Symbol(symbol) => symbol.clone(),
        Dim::Unnamed => "?".into(),
    };
    dims.map_or_else(
        || "of unknown rank".into(),
        |dims| format!("[{}]", dims.iter().map(text).collect::<Vec<_>>().join(",")),
    )
}

/// The elements of a constant input in the input's type.
fn constant_data(constant: &ConstInput, dtype: DType, shape: &Shape) -> Result<Weights, String> {
    match constant {
        ConstInput::Tensor { dtype: given, .. } if *given != dtype => {
            Err(format!("the tensor is {given}, the input {dtype}"))
        }
        ConstInput::Tensor { shape: given, .. } if given != shape => {
            Err(format!("the tensor is {given}, the input {shape}"))
        }
        ConstInput::Tensor { data, .. } => match shape.n_elements().checked_mul(dtype.size()) {
            Some(bytes) if bytes == data.len() => Ok(data.clone()),
            _ => Err(format!("{dtype}{shape} does not have {} bytes", data.len())),
        },
        ConstInput::Numbers(numbers) => {
            const MAX_FILL: usize = 1 << 24;
            let n = shape.n_elements();
            let numbers: Vec<Scalar> = match numbers.as_slice() {
                [one] if n <= MAX_FILL => vec![*one; n],
                many if many.len() == n => many.to_vec(),
                many => {
                    return Err(format!(
                        "{} numbers are given, the input {dtype}{shape} has {n} elements",
                        many.len()
                    ));
                }
            };
            if dtype.is_float() {
                let floats = numbers.iter().map(|v| {
                    if let Scalar::Float(v) = v {
                        *v
                    } else if let Scalar::Int(v) = v {
                        *v as f64
                    } else {
                        0.0
                    }
                });
                return Ok(Tensor::floats(dtype, shape.clone(), floats.collect()).encode());
            }
            let (low, high) = dtype.int_range().unwrap_or((0, 1));
            let int = |number: &Scalar| match number {
                Scalar::Int(v) if (low..=high).contains(v) => Ok(*v),
                Scalar::Float(v) if v.fract() == 0.0 && (low..=high).contains(&(*v as i128)) => Ok(*v as i128),
                other => Err(format!("{other} is no {dtype}")),
            };
            let ints = numbers.iter().map(int).collect::<Result<Vec<_>, _>>()?;
            Ok(Tensor::ints(dtype, shape.clone(), ints).encode())
        }
    }
}

/// Declares the states of the options once inputs and outputs are complete.
pub(crate) fn bind_states(b: &mut GraphBuilder, options: &ImportOptions, file: &Arc<str>) -> Result<(), ImportError> {
    let bad = |message: String| ImportError::new(ImportErrorKind::BadOption(message), Origin::file(file.clone()));
    for (from, to) in &options.states {
        let graph = b.graph();
        let output = graph
            .outputs
            .iter()
            .position(|output| output.name == *from)
            .ok_or_else(|| {
                let known = graph
                    .outputs
                    .iter()
                    .map(|o| o.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ");
                bad(format!(
                    "--state names the output \"{}\", the model's outputs are: {known}",
                    from.escape_debug()
                ))
            })?;
        let input = graph.inputs.iter().position(|input| input.name == *to).ok_or_else(|| {
            let known = graph
                .inputs
                .iter()
                .map(|i| i.name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            bad(format!(
                "--state names the input \"{}\", the model's inputs are: {known}",
                to.escape_debug()
            ))
        })?;
        let (source, target) = (graph.outputs[output].value, graph.inputs[input].value);
        if graph.type_text(source) != graph.type_text(target) {
            let (source, target) = (graph.type_text(source), graph.type_text(target));
            return Err(bad(format!(
                "--state {from}={to}: the output is {source}, the input {target}"
            )));
        }
        if graph.states.iter().any(|state| state.input == input) {
            return Err(bad(format!("--state feeds the input \"{}\" twice", to.escape_debug())));
        }
        b.state(output, input);
    }
    Ok(())
}
