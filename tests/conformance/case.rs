//! A test of the ONNX backend suite: a model, inputs and expected outputs, from a folder or from the committed archive.

use lockstep::HostTensor;
use lockstep::isa::artifact::HostDType;
use lockstep_onnx_protobuf::{ModelProto, decode_model};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// One test.
pub struct Case {
    /// Name of its folder, such as `test_abs`.
    pub name: String,
    /// The .onnx file.
    pub model: Vec<u8>,
    /// Its messages.
    pub proto: ModelProto,
    /// Inputs that decide a shape: operands of the kind that [`OF_SHAPE`] lists.
    pub of_shape: BTreeSet<String>,
    /// Inputs and expected outputs, named as in the model; several where the test has several data sets.
    pub sets: Vec<(Vec<HostTensor>, Vec<HostTensor>)>,
    /// Largest relative difference, of the official runner.
    pub rtol: f64,
    /// Largest absolute difference.
    pub atol: f64,
}

/// Operands that decide the shape of a result, or which axes an operator works on, by operator.
const OF_SHAPE: &[(&str, &[usize])] = &[
    ("AffineGrid", &[1]),
    ("BlackmanWindow", &[0]),
    ("CenterCropPad", &[1]),
    ("Col2Im", &[1, 2]),
    ("Compress", &[1]),
    ("ConstantOfShape", &[0]),
    ("CumProd", &[1]),
    ("CumSum", &[1]),
    ("DFT", &[1, 2]),
    ("Dropout", &[1, 2]),
    ("Expand", &[1]),
    ("GRU", &[4]),
    ("HammingWindow", &[0]),
    ("HannWindow", &[0]),
    ("LSTM", &[4]),
    ("MaxUnpool", &[2]),
    ("MelWeightMatrix", &[0, 1, 2, 3, 4]),
    ("OneHot", &[1]),
    ("Pad", &[1, 3]),
    ("RNN", &[4]),
    ("Range", &[0, 1, 2]),
    ("ReduceL1", &[1]),
    ("ReduceL2", &[1]),
    ("ReduceLogSum", &[1]),
    ("ReduceLogSumExp", &[1]),
    ("ReduceMax", &[1]),
    ("ReduceMean", &[1]),
    ("ReduceMin", &[1]),
    ("ReduceProd", &[1]),
    ("ReduceSum", &[1]),
    ("ReduceSumSquare", &[1]),
    ("Reshape", &[1]),
    ("Resize", &[1, 2, 3]),
    ("STFT", &[1, 3]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Squeeze", &[1]),
    ("Tile", &[1]),
    ("TopK", &[1]),
    ("Trilu", &[1]),
    ("Unsqueeze", &[1]),
    ("Upsample", &[1]),
];

/// Graph inputs that are such operands of one of the nodes.
fn of_shape(proto: &ModelProto) -> BTreeSet<String> {
    let Some(graph) = &proto.graph else {
        return BTreeSet::new();
    };
    let mut names = BTreeSet::new();
    for node in &graph.node {
        let found = OF_SHAPE.iter().find(|(op, _)| *op == node.op_type);
        let operands = found.map_or(&[][..], |(_, at)| at);
        names.extend(operands.iter().filter_map(|&at| node.input.get(at)).cloned());
    }
    let inputs: BTreeSet<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    names.intersection(&inputs).cloned().collect()
}

/// Where tests come from: file contents by path `SUITE/TEST/...`.
pub enum Store {
    /// The folder that tests/fetch_models.py fills.
    Folder(PathBuf),
    /// The archive in the repository.
    Archive(BTreeMap<String, Vec<u8>>),
}

impl Store {
    /// The committed archive.
    pub fn archive(path: &Path) -> Result<Store, String> {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|e| e.to_string())?;
        let mut files = BTreeMap::new();
        for i in 0..zip.len() {
            let mut file = zip.by_index(i).map_err(|e| e.to_string())?;
            let mut data = Vec::new();
            file.read_to_end(&mut data).map_err(|e| e.to_string())?;
            files.insert(file.name().to_string(), data);
        }
        Ok(Store::Archive(files))
    }

    /// Names of the tests of a suite, ascending.
    pub fn tests(&self, suite: &str) -> Vec<String> {
        let mut names = BTreeSet::new();
        match self {
            Store::Folder(root) => {
                for entry in std::fs::read_dir(root.join(suite)).into_iter().flatten().flatten() {
                    if entry.path().join("model.onnx").is_file() || entry.path().join("data.json").is_file() {
                        names.insert(entry.file_name().to_string_lossy().into_owned());
                    }
                }
            }
            Store::Archive(files) => {
                for path in files.keys() {
                    let mut parts = path.split('/');
                    if parts.next() == Some(suite) {
                        names.extend(parts.next().map(str::to_string));
                    }
                }
            }
        }
        names.into_iter().collect()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        match self {
            Store::Folder(root) => std::fs::read(root.join(path)).map_err(|e| format!("{path}: {e}")),
            Store::Archive(files) => files.get(path).cloned().ok_or_else(|| format!("{path}: no such file")),
        }
    }

    /// Reads a test.
    pub fn case(&self, suite: &str, name: &str) -> Result<Case, String> {
        let base = format!("{suite}/{name}");
        if let Ok(text) = self.read(&format!("{base}/data.json")) {
            return self.light(name, &text);
        }
        let model = self.read(&format!("{base}/model.onnx"))?;
        let proto = decode_model(model.clone().into()).map_err(|e| e.to_string())?;
        let graph = proto.graph.as_ref().ok_or("no graph")?;
        let names = |ports: &[lockstep_onnx_protobuf::ValueInfoProto]| -> Vec<String> {
            ports.iter().map(|p| p.name.clone()).collect()
        };
        let (inputs, outputs) = (names(&graph.input), names(&graph.output));
        let mut sets = Vec::new();
        for set in 0.. {
            let folder = format!("{base}/test_data_set_{set}");
            let ins = self.tensors(&folder, "input", &inputs)?;
            let outs = self.tensors(&folder, "output", &outputs)?;
            if outs.is_empty() {
                break;
            }
            sets.push((ins, outs));
        }
        // The body of an expanded test takes the inputs of the test that it expands.
        let whole = name.split("_expanded").next().unwrap_or(name);
        let whole = self.read(&format!("{suite}/{whole}/model.onnx")).ok();
        let whole = whole.and_then(|bytes| decode_model(bytes.into()).ok());
        Ok(Case {
            name: name.to_string(),
            of_shape: of_shape(whole.as_ref().unwrap_or(&proto)),
            model,
            proto,
            sets,
            rtol: 1e-3,
            atol: if name.starts_with("test_dft") { 1e-6 } else { 1e-7 },
        })
    }

    /// A whole network of the suite: its input is an arithmetic sequence, as the official runner makes it.
    fn light(&self, name: &str, text: &[u8]) -> Result<Case, String> {
        let data: serde_json::Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let url = data["url"].as_str().ok_or("no url")?;
        let file = url.rsplit('/').next().unwrap_or(url);
        let stem = file.trim_end_matches(".onnx");
        let model = self.read(&format!("light/{file}"))?;
        let proto = decode_model(model.clone().into()).map_err(|e| e.to_string())?;
        let graph = proto.graph.as_ref().ok_or("no graph")?;
        let weights: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let port = graph.input.iter().find(|p| !weights.contains(p.name.as_str()));
        let port = port.ok_or("no input")?;
        let shape = shape_of(port).ok_or("an input without a shape")?;
        let n: u64 = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| (i as f64 / n as f64) as f32).collect();
        let mut output = tensor(self.read(&format!("light/{stem}_output_0.pb"))?)?;
        output.name = graph.output.first().map(|p| p.name.clone()).unwrap_or_default();
        Ok(Case {
            name: name.to_string(),
            of_shape: BTreeSet::new(),
            sets: vec![(vec![HostTensor::from_f32(&port.name, &shape, &values)], vec![output])],
            rtol: data["rtol"].as_f64().unwrap_or(1e-3),
            atol: data["atol"].as_f64().unwrap_or(1e-7),
            proto,
            model,
        })
    }

    fn tensors(&self, folder: &str, kind: &str, names: &[String]) -> Result<Vec<HostTensor>, String> {
        let mut out = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let Ok(bytes) = self.read(&format!("{folder}/{kind}_{i}.pb")) else {
                continue;
            };
            let mut tensor = tensor(bytes).map_err(|e| format!("{kind} {name}: {e}"))?;
            tensor.name = name.clone();
            out.push(tensor);
        }
        Ok(out)
    }
}

impl Case {
    /// Operator that the test is about: that of its only node, or the name that its nodes share.
    pub fn operator(&self) -> Option<String> {
        let graph = self.proto.graph.as_ref()?;
        let [node] = graph.node.as_slice() else {
            return None;
        };
        Some(match node.domain.as_str() {
            "" | "ai.onnx" => node.op_type.clone(),
            domain => format!("{domain}:{}", node.op_type),
        })
    }

    /// Version of ONNX's own operator set.
    pub fn opset(&self) -> i64 {
        let own = |d: &str| d.is_empty() || d == "ai.onnx";
        let found = self.proto.opset_import.iter().find(|o| own(&o.domain));
        found.map_or(1, |o| o.version)
    }
}

/// Static shape of a graph input.
fn shape_of(port: &lockstep_onnx_protobuf::ValueInfoProto) -> Option<Vec<u64>> {
    use lockstep_onnx_protobuf::{dimension, type_proto};
    let Some(type_proto::Value::TensorType(ty)) = &port.r#type.as_ref()?.value else {
        return None;
    };
    let dims = &ty.shape.as_ref()?.dim;
    dims.iter()
        .map(|d| match d.value {
            Some(dimension::Value::DimValue(n)) => u64::try_from(n).ok(),
            _ => None,
        })
        .collect()
}

/// A tensor file as a host tensor.
fn tensor(bytes: Vec<u8>) -> Result<HostTensor, String> {
    use lockstep::graph::DType;
    let (name, dtype, shape, data) = lockstep_frontend::onnx::tensor::read(bytes.into())?;
    let dtype = match dtype {
        DType::F32 => HostDType::F32,
        DType::F16 => HostDType::F16,
        DType::Bf16 => HostDType::BF16,
        DType::F64 => HostDType::F64,
        DType::I8 => HostDType::I8,
        DType::I16 => HostDType::I16,
        DType::I32 => HostDType::I32,
        DType::I64 => HostDType::I64,
        DType::U8 => HostDType::U8,
        DType::U16 => HostDType::U16,
        DType::U32 => HostDType::U32,
        DType::U64 => HostDType::U64,
        DType::Bool => HostDType::Bool,
    };
    Ok(HostTensor {
        name,
        dtype,
        shape: shape.iter().map(|&n| n as u64).collect(),
        bytes: data.bytes().to_vec(),
    })
}
