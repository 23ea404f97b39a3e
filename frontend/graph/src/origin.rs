//! Where an operator comes from in the user's model.

use std::fmt;
use std::sync::Arc;

crate::entity_id!(
    /// A row of [`Graph::origins`](crate::Graph::origins); travels with every operator to the artifact.
    pub OriginId, "o"
);

/// A place in a model file, for messages and provenance.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// File name of the model, empty if it is not known.
    pub file: Arc<str>,
    /// Name of the node in the model (or a path such as `encoder.layer.0`), empty if it has none.
    pub node_name: String,
    /// Operator type as the model spells it, empty if the place is no node.
    pub op_type: String,
    /// Position of the node in its graph.
    pub node_index: Option<usize>,
}

impl Origin {
    /// A whole file.
    pub fn file(file: impl Into<Arc<str>>) -> Self {
        Self {
            file: file.into(),
            ..Self::default()
        }
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Origin {
    /// `model.onnx: node "conv3" (Conv)`; an unnamed node prints its number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = match (self.node_name.is_empty(), self.node_index) {
            (false, _) => format!("node \"{}\"", self.node_name.escape_debug()),
            (true, Some(index)) => format!("node #{index}"),
            (true, None) => String::new(),
        };
        f.write_str(&self.file)?;
        if !node.is_empty() {
            write!(f, "{}{node}", if self.file.is_empty() { "" } else { ": " })?;
            if !self.op_type.is_empty() {
                write!(f, " ({})", self.op_type)?;
            }
        }
        Ok(())
    }
}
