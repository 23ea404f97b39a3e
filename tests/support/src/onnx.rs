//! Builds small ONNX models in memory.
//!
//! ```
//! use lockstep_testkit::onnx::{OnnxBuilder, attr};
//! let bytes = OnnxBuilder::new("act")
//!     .input_f32("x", &["batch", "4"])
//!     .node_with("LeakyRelu", &["x"], &["y"], vec![attr::float("alpha", 0.1)])
//!     .output("y")
//!     .build();
//! assert!(lockstep_onnx_protobuf::decode_model(bytes.into()).is_ok());
//! ```

use lockstep_onnx_protobuf::{
    AttributeProto, DataLocation, DataType, Dimension, FunctionProto, GraphProto, Message, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
    dimension, type_proto,
};

/// A model, or the body of a control-flow attribute, under construction. Nodes are named `n0`, `n1`, .. unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct OnnxBuilder {
    graph: GraphProto,
    functions: Vec<FunctionProto>,
    opset: i64,
}

impl OnnxBuilder {
    /// An empty graph of opset 17.
    pub fn new(name: &str) -> Self {
        Self {
            graph: GraphProto {
                name: name.into(),
                ..GraphProto::default()
            },
            functions: Vec::new(),
            opset: 17,
        }
    }

    /// Sets the version of ONNX's operator set.
    pub fn opset(mut self, version: i64) -> Self {
        self.opset = version;
        self
    }

    /// Adds an input; a dimension that is no number is a symbol, `?` has no name.
    pub fn input(mut self, name: &str, dtype: DataType, dims: &[&str]) -> Self {
        self.graph.input.push(value_info(name, dtype, dims));
        self
    }

    /// Adds an f32 input.
    pub fn input_f32(self, name: &str, dims: &[&str]) -> Self {
        self.input(name, DataType::Float, dims)
    }

    /// Adds an i64 input.
    pub fn input_i64(self, name: &str, dims: &[&str]) -> Self {
        self.input(name, DataType::Int64, dims)
    }

    /// Adds an output; its type is left out.
    pub fn output(mut self, name: &str) -> Self {
        self.graph.output.push(ValueInfoProto {
            name: name.into(),
            ..ValueInfoProto::default()
        });
        self
    }

    /// Adds an initialiser.
    pub fn init(mut self, tensor: TensorProto) -> Self {
        self.graph.initializer.push(tensor);
        self
    }

    /// Adds an f32 initialiser with these elements.
    pub fn init_f32(self, name: &str, dims: &[i64], data: &[f32]) -> Self {
        self.init(tensor_f32(name, dims, data))
    }

    /// Adds an f32 initialiser whose elements count up in steps of 1/8 and start again at 1 after 15: small, exact, not symmetric.
    pub fn init_ramp(self, name: &str, dims: &[i64]) -> Self {
        let n: i64 = dims.iter().product();
        let data: Vec<f32> = (0..n).map(|at| (at % 15 - 7) as f32 / 8.0).collect();
        self.init_f32(name, dims, &data)
    }

    /// Adds an i64 initialiser with these elements.
    pub fn init_i64(self, name: &str, dims: &[i64], data: &[i64]) -> Self {
        self.init(tensor_i64(name, dims, data))
    }

    /// Adds a node without attributes.
    pub fn node(self, op_type: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.node_with(op_type, inputs, outputs, Vec::new())
    }

    /// Adds a node.
    pub fn node_with(self, op_type: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> Self {
        self.node_of("", op_type, inputs, outputs, attribute)
    }

    /// Adds a node of another domain.
    pub fn node_of(
        mut self,
        domain: &str,
        op_type: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> Self {
        let strings = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        self.graph.node.push(NodeProto {
            name: format!("n{}", self.graph.node.len()),
            op_type: op_type.into(),
            domain: domain.into(),
            input: strings(inputs),
            output: strings(outputs),
            attribute,
            ..NodeProto::default()
        });
        self
    }

    /// Renames the node added last.
    pub fn named(mut self, name: &str) -> Self {
        if let Some(node) = self.graph.node.last_mut() {
            node.name = name.into();
        }
        self
    }

    /// Adds a local function: the nodes of `body` with its inputs, outputs and opset.
    pub fn function(mut self, domain: &str, name: &str, attributes: &[&str], body: OnnxBuilder) -> Self {
        let names = |infos: &[ValueInfoProto]| infos.iter().map(|info| info.name.clone()).collect();
        self.functions.push(FunctionProto {
            name: name.into(),
            domain: domain.into(),
            input: names(&body.graph.input),
            output: names(&body.graph.output),
            attribute: attributes.iter().map(|name| name.to_string()).collect(),
            node: body.graph.node,
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: body.opset,
            }],
            ..FunctionProto::default()
        });
        self
    }

    /// The graph, for attributes of control-flow nodes.
    pub fn graph(self) -> GraphProto {
        self.graph
    }

    /// The model.
    pub fn model(self) -> ModelProto {
        let mut opset_import = vec![OperatorSetIdProto {
            domain: String::new(),
            version: self.opset,
        }];
        opset_import.extend(self.functions.iter().map(|function| OperatorSetIdProto {
            domain: function.domain.clone(),
            version: 1,
        }));
        ModelProto {
            ir_version: 10,
            producer_name: "lockstep-testkit".into(),
            graph: Some(self.graph),
            opset_import,
            functions: self.functions,
            ..ModelProto::default()
        }
    }

    /// The model as the bytes of a file.
    pub fn build(self) -> Vec<u8> {
        self.model().encode_to_vec()
    }
}

/// Name and type of a value; a dimension that is no number is a symbol, `?` has no name.
pub fn value_info(name: &str, dtype: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| {
        let value = match (text.parse::<i64>(), *text) {
            (Ok(size), _) => Some(dimension::Value::DimValue(size)),
            (Err(_), "?") => None,
            (Err(_), symbol) => Some(dimension::Value::DimParam(symbol.into())),
        };
        Dimension {
            value,
            ..Dimension::default()
        }
    };
    let shape = TensorShapeProto {
        dim: dims.iter().map(dim).collect(),
    };
    let tensor = TensorType {
        elem_type: dtype as i32,
        shape: Some(shape),
    };
    let r#type = Some(TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..TypeProto::default()
    });
    ValueInfoProto {
        name: name.into(),
        r#type,
        ..ValueInfoProto::default()
    }
}

/// A tensor with raw data.
pub fn tensor_f32(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    raw(
        name,
        DataType::Float,
        dims,
        data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

/// A tensor with raw data.
pub fn tensor_i64(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    raw(
        name,
        DataType::Int64,
        dims,
        data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

/// A tensor with raw data of any type.
pub fn raw(name: &str, dtype: DataType, dims: &[i64], data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: dtype as i32,
        dims: dims.to_vec(),
        raw_data: data.into(),
        ..TensorProto::default()
    }
}

/// A tensor whose data lies in another file.
pub fn external(name: &str, dtype: DataType, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: key.to_string(),
        value: value.to_string(),
    };
    TensorProto {
        name: name.into(),
        data_type: dtype as i32,
        dims: dims.to_vec(),
        data_location: DataLocation::External as i32,
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

/// Makes attributes.
pub mod attr {
    use lockstep_onnx_protobuf::{AttributeProto, AttributeType, GraphProto, TensorProto};

    fn of(name: &str, kind: AttributeType, rest: AttributeProto) -> AttributeProto {
        AttributeProto {
            name: name.into(),
            r#type: kind as i32,
            ..rest
        }
    }

    /// An integer.
    pub fn int(name: &str, i: i64) -> AttributeProto {
        of(
            name,
            AttributeType::Int,
            AttributeProto {
                i,
                ..AttributeProto::default()
            },
        )
    }

    /// A list of integers.
    pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
        of(
            name,
            AttributeType::Ints,
            AttributeProto {
                ints: ints.to_vec(),
                ..AttributeProto::default()
            },
        )
    }

    /// A float.
    pub fn float(name: &str, f: f32) -> AttributeProto {
        of(
            name,
            AttributeType::Float,
            AttributeProto {
                f,
                ..AttributeProto::default()
            },
        )
    }

    /// A list of floats.
    pub fn floats(name: &str, floats: &[f32]) -> AttributeProto {
        of(
            name,
            AttributeType::Floats,
            AttributeProto {
                floats: floats.to_vec(),
                ..AttributeProto::default()
            },
        )
    }

    /// A string.
    pub fn string(name: &str, s: &str) -> AttributeProto {
        of(
            name,
            AttributeType::String,
            AttributeProto {
                s: s.as_bytes().to_vec().into(),
                ..AttributeProto::default()
            },
        )
    }

    /// A tensor.
    pub fn tensor(name: &str, t: TensorProto) -> AttributeProto {
        of(
            name,
            AttributeType::Tensor,
            AttributeProto {
                t: Some(t),
                ..AttributeProto::default()
            },
        )
    }

    /// A graph.
    pub fn graph(name: &str, g: GraphProto) -> AttributeProto {
        of(
            name,
            AttributeType::Graph,
            AttributeProto {
                g: Some(g),
                ..AttributeProto::default()
            },
        )
    }

    /// In a function body: the value of the function's own attribute.
    pub fn reference(name: &str, function_attribute: &str, like: AttributeProto) -> AttributeProto {
        AttributeProto {
            name: name.into(),
            ref_attr_name: function_attribute.into(),
            r#type: like.r#type,
            ..AttributeProto::default()
        }
    }
}
