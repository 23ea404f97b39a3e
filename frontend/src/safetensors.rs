//! Reads safetensors files, one or sharded by an index, without copying tensors.

use crate::Source;
use crate::error::{ImportError, ImportErrorKind, read_error};
use lockstep_graph::{DType, Origin, Shape, Weights};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// A stored tensor; `None` for an element type that graphs do not have.
#[derive(Clone)]
pub(crate) struct Stored {
    pub dtype: Option<DType>,
    pub dtype_name: String,
    pub shape: Shape,
    pub data: Weights,
}

/// All tensors of a directory by name.
pub(crate) type Tensors = BTreeMap<String, Stored>;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads model.safetensors, or the shards that model.safetensors.index.json lists.
pub(crate) fn read_all(source: &dyn Source, files: &[String]) -> Result<Tensors, ImportError> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let has = |name: &str| files.iter().any(|file| file == name);
    if has(SINGLE) {
        return read_file(source, SINGLE);
    }
    if !has(INDEX) {
        let message = format!("the directory holds neither {SINGLE} nor {INDEX}");
        return Err(ImportError::new(
            ImportErrorKind::NotAModel(message),
            Origin::file(source.name()),
        ));
    }
    let bytes = source.read(INDEX).map_err(|error| read_error(INDEX, &error))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| malformed(INDEX, error.to_string()))?;
    let mut shards: BTreeMap<&str, Tensors> = BTreeMap::new();
    let mut tensors = Tensors::new();
    for (name, shard) in &index.weight_map {
        if shard.contains(['/', '\\', ':']) || shard == ".." {
            return Err(malformed(
                INDEX,
                format!("the shard \"{}\" is no file of the directory", shard.escape_debug()),
            ));
        }
        if !shards.contains_key(shard.as_str()) {
            shards.insert(shard, read_file(source, shard)?);
        }
        match shards.get_mut(shard.as_str()).and_then(|tensors| tensors.remove(name)) {
            Some(tensor) => tensors.insert(name.clone(), tensor),
            None => {
                return Err(malformed(
                    INDEX,
                    format!(
                        "\"{}\" holds no tensor \"{}\"",
                        shard.escape_debug(),
                        name.escape_debug()
                    ),
                ));
            }
        };
    }
    Ok(tensors)
}

fn malformed(file: &str, message: String) -> ImportError {
    ImportError::new(ImportErrorKind::Malformed(message), Origin::file(file))
}

fn read_file(source: &dyn Source, file: &str) -> Result<Tensors, ImportError> {
    let bytes = source.read(file).map_err(|error| read_error(file, &error))?;
    let parsed = SafeTensors::deserialize(&bytes)
        .map_err(|error| malformed(file, format!("no valid safetensors file: {error}")))?;
    let mut tensors = Tensors::new();
    for (name, view) in parsed.tensors() {
        let stored = Stored {
            dtype: dtype(view.dtype()),
            dtype_name: format!("{:?}", view.dtype()),
            shape: Shape::from(view.shape()),
            data: Weights::new(bytes.slice_ref(view.data())),
        };
        tensors.insert(name, stored);
    }
    Ok(tensors)
}

fn dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::U16 => DType::U16,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::U64 => DType::U64,
        _ => return None,
    })
}
