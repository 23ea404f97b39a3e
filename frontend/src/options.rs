//! What the user fixes at import.

use lockstep_graph::op::Scalar;
use lockstep_graph::{DType, Shape, Weights};
use std::collections::BTreeMap;

/// Options of [`import`](crate::import); the default binds nothing.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// `--dim NAME=VALUE`: sizes of symbolic dimensions.
    pub dims: BTreeMap<String, usize>,
    /// `--shape INPUT=1x3x48x192`: whole shapes of inputs.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// `--const-input INPUT=..`: inputs that become constants.
    pub const_inputs: BTreeMap<String, ConstInput>,
    /// `--state OUT=IN`: outputs that feed an input in the next run.
    pub states: Vec<(String, String)>,
    /// Name of the entry; empty means `main`.
    pub entry: String,
}

/// The value of an input that is fixed at import.
#[derive(Clone, Debug, PartialEq)]
pub enum ConstInput {
    /// Numbers in row-major order, converted to the input's dtype: one that fills the input, or as many as it has elements.
    Numbers(Vec<Scalar>),
    /// A whole tensor, whose dtype must be the input's and whose shape binds the input's symbolic dimensions.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Dimensions.
        shape: Shape,
        /// Row-major little-endian elements.
        data: Weights,
    },
}

impl ConstInput {
    /// Reads a literal as the command line takes it: numbers (or `true`, `false`) with commas between them.
    ///
    /// # Errors
    /// If a part is no number; one line that says which.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part {
            "true" => Ok(Scalar::Int(1)),
            "false" => Ok(Scalar::Int(0)),
            _ => part
                .parse::<i128>()
                .map(Scalar::Int)
                .or_else(|_| part.parse::<f64>().map(Scalar::Float))
                .map_err(|_| format!("\"{}\" is no number", part.escape_debug())),
        };
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
        inner
            .split(',')
            .map(|part| number(part.trim()))
            .collect::<Result<Vec<_>, _>>()
            .map(ConstInput::Numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        assert_eq!(
            ConstInput::parse("16000"),
            Ok(ConstInput::Numbers(vec![Scalar::Int(16000)]))
        );
        assert_eq!(
            ConstInput::parse("[1, 0.5]"),
            Ok(ConstInput::Numbers(vec![Scalar::Int(1), Scalar::Float(0.5)]))
        );
        assert_eq!(ConstInput::parse("1,x"), Err("\"x\" is no number".into()));
    }
}
