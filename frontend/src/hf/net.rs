//! What architectures share: weights by name, linear layers, bound inputs, places for messages.

use super::weights::{Blank, SCALE, outputs_last};
use crate::ImportOptions;
use crate::bind::{Bound, Declared, bind_states, resolve};
use crate::error::{ImportError, ImportErrorKind};
use crate::fold::fold;
use crate::safetensors::Tensors;
use lockstep_graph::op::Binary;
use lockstep_graph::{DType, Graph, GraphBuilder, Op, OpError, Origin, Shape, ValueId, Weights};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A matrix as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub value: ValueId,
    /// Factors of its output channels, f32, where it is stored as integers that share one per channel.
    pub scale: Option<ValueId>,
}

/// A model under construction.
pub(super) struct Net<'a> {
    pub b: GraphBuilder,
    file: Arc<str>,
    /// The weights; where they have shapes alone, how they would be stored.
    tensors: Result<&'a Tensors, Blank>,
    /// Weights made so far, so that a shared one is one constant.
    made: BTreeMap<String, ValueId>,
    prefix: String,
    place: String,
}

impl<'a> Net<'a> {
    /// An empty model; names of weights that start with `prefix` may leave it out.
    pub fn new(name: &str, options: &ImportOptions, tensors: Result<&'a Tensors, Blank>, prefix: &str) -> Self {
        let entry = if options.entry.is_empty() {
            "main"
        } else {
            &options.entry
        };
        let stem = name.trim_end_matches('/').rsplit('/').next().unwrap_or("model");
        let prefixed = |tensors: &Tensors| tensors.keys().any(|key| key.starts_with(prefix));
        let prefix = if tensors.as_ref().map_or(true, |t| prefixed(t)) {
            prefix
        } else {
            ""
        };
        Self {
            b: GraphBuilder::new(stem, entry).fold_with(fold),
            file: name.into(),
            tensors,
            made: BTreeMap::new(),
            prefix: prefix.into(),
            place: String::new(),
        }
    }

    /// Says which module the next operators belong to.
    pub fn at(&mut self, module: &str, kind: &str) {
        self.place = module.into();
        let origin = Origin {
            file: self.file.clone(),
            node_name: module.into(),
            op_type: kind.into(),
            node_index: None,
        };
        self.b.set_origin(origin);
    }

    /// Adds the model's inputs.
    pub fn inputs(&mut self, declared: &[Declared], options: &ImportOptions) -> Result<Vec<ValueId>, ImportError> {
        let mut values = Vec::new();
        for input in resolve(declared, options, &self.file)? {
            let value = match input {
                Bound::Argument { name, dtype, shape } => self.b.input(&name, dtype, shape),
                Bound::Constant {
                    name,
                    dtype,
                    shape,
                    data,
                } => self.b.constant(&name, dtype, shape, data),
            };
            values.push(value.map_err(|error| self.fail(error))?);
        }
        Ok(values)
    }

    /// An error at the current module.
    pub fn error(&self, kind: ImportErrorKind) -> ImportError {
        ImportError::new(
            kind,
            Origin {
                file: self.file.clone(),
                node_name: self.place.clone(),
                ..Origin::default()
            },
        )
    }

    /// An operator that does not fit is a config that does not fit the weights.
    pub fn fail(&self, error: OpError) -> ImportError {
        self.error(ImportErrorKind::Malformed(error.to_string()))
    }

    /// A weight of the current module with the shape that the config implies.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, ImportError> {
        let full = format!("{}{name}", self.prefix);
        self.weight_at(&full, shape)
    }

    /// A matrix of the current module as it is stored.
    pub fn matrix(&mut self, name: &str, shape: &[usize]) -> Result<Matrix, ImportError> {
        let full = format!("{}{name}", self.prefix);
        self.matrix_at(&full, shape)
    }

    /// Whether a matrix is stored as integers.
    pub fn is_scaled(&self, full: &str) -> bool {
        match &self.tensors {
            Ok(tensors) => tensors.contains_key(&format!("{full}{SCALE}")),
            Err(blank) => blank.is_scaled(full),
        }
    }

    /// A matrix by its full name, as it is stored; f32 where integers share scales in blocks.
    pub fn matrix_at(&mut self, full: &str, shape: &[usize]) -> Result<Matrix, ImportError> {
        let value = self.stored(full, shape)?;
        let name = format!("{full}{SCALE}");
        let scales = match &self.tensors {
            Ok(tensors) => tensors.get(&name).map(|stored| stored.shape.0.to_vec()),
            Err(blank) => blank.scales(full, shape),
        };
        let Some(scales) = scales else {
            return Ok(Matrix { value, scale: None });
        };
        let channels = usize::from(outputs_last(full));
        let &[a, b] = &scales[..] else {
            let scale = Some(self.stored(&name, &[shape[channels]])?);
            return Ok(Matrix { value, scale });
        };
        let blocks = if channels == 1 { a } else { b };
        let size = shape[1 - channels] / blocks.max(1);
        let (of, wide, by) = match channels {
            1 => ([blocks, shape[1]], [blocks, size, shape[1]], [blocks, 1, shape[1]]),
            _ => ([shape[0], blocks], [shape[0], blocks, size], [shape[0], blocks, 1]),
        };
        let scale = self.stored(&name, &of)?;
        let b = &mut self.b;
        let scaled = b.reshape(value, wide).and_then(|value| {
            let value = b.cast(value, DType::F32)?;
            let scale = b.reshape(scale, by)?;
            let scale = b.cast(scale, DType::F32)?;
            let product = b.binary(Binary::Mul, value, scale)?;
            b.reshape(product, shape)
        });
        let value = scaled.map_err(|error| self.fail(error))?;
        Ok(Matrix { value, scale: None })
    }

    /// A weight by its full name; f32 where it is stored as integers with scales.
    pub fn weight_at(&mut self, full: &str, shape: &[usize]) -> Result<ValueId, ImportError> {
        if shape.len() != 2 {
            return self.stored(full, shape);
        }
        let Matrix { value, scale } = self.matrix_at(full, shape)?;
        let Some(scale) = scale else { return Ok(value) };
        let wide = if outputs_last(full) {
            [1, shape[1]]
        } else {
            [shape[0], 1]
        };
        let b = &mut self.b;
        let scaled = b.cast(value, DType::F32).and_then(|value| {
            let scale = b.reshape(scale, wide)?;
            b.binary(Binary::Mul, value, scale)
        });
        scaled.map_err(|error| self.fail(error))
    }

    /// A tensor of the file.
    fn stored(&mut self, full: &str, shape: &[usize]) -> Result<ValueId, ImportError> {
        if let Some(&value) = self.made.get(full) {
            return Ok(value);
        }
        let malformed = |message: String| ImportErrorKind::Malformed(message);
        let tensors = match self.tensors {
            Ok(tensors) => tensors,
            Err(blank) => {
                let dtype = blank.dtype(full, shape);
                let bytes = shape.iter().fold(dtype.size(), |n, &s| n.saturating_mul(s));
                return self.make(full, dtype, shape, Weights::absent(bytes));
            }
        };
        let Some(stored) = tensors.get(full) else {
            return Err(self.error(malformed(format!("the weight \"{}\" is missing", full.escape_debug()))));
        };
        let Some(dtype) = stored.dtype else {
            return Err(self.error(malformed(format!(
                "the weight \"{}\" is {}, which is not supported",
                full.escape_debug(),
                stored.dtype_name
            ))));
        };
        if stored.shape.0 != shape {
            let expected = Shape::from(shape);
            return Err(self.error(malformed(format!(
                "the weight \"{}\" has shape {}, the config says {expected}",
                full.escape_debug(),
                stored.shape
            ))));
        }
        self.make(full, dtype, shape, stored.data.clone())
    }

    fn make(&mut self, full: &str, dtype: DType, shape: &[usize], data: Weights) -> Result<ValueId, ImportError> {
        let value = self.b.constant(full, dtype, shape, data);
        let value = value.map_err(|error| self.fail(error))?;
        self.made.insert(full.into(), value);
        Ok(value)
    }

    /// x · weightᵀ + bias, with the weight stored as [outputs, inputs].
    pub fn linear(&mut self, x: ValueId, name: &str, inputs: usize, outputs: usize) -> Result<ValueId, ImportError> {
        self.at(name, "Linear");
        let weight = self.weight(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        let build = |b: &mut GraphBuilder| {
            let weight = b.transpose(weight, &[1, 0])?;
            let product = b.matmul(x, weight)?;
            b.binary(Binary::Add, product, bias)
        };
        build(&mut self.b).map_err(|error| self.fail(error))
    }

    /// Layer normalisation over the last axis.
    pub fn layer_norm(&mut self, x: ValueId, name: &str, size: usize, eps: f32) -> Result<ValueId, ImportError> {
        self.at(name, "LayerNorm");
        let scale = self.weight(&format!("{name}.weight"), &[size])?;
        let bias = self.weight(&format!("{name}.bias"), &[size])?;
        let axis = self.b.shape(x).rank().saturating_sub(1);
        self.b
            .op(Op::LayerNorm { axis, eps }, &[x, scale, bias])
            .map_err(|error| self.fail(error))
    }

    /// The finished graph with the states of the options.
    pub fn finish(mut self, options: &ImportOptions) -> Result<Graph, ImportError> {
        bind_states(&mut self.b, options, &self.file)?;
        Ok(self.b.finish())
    }
}
