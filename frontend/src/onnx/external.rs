//! Tensor data in files beside the model: safe paths, ranges inside the file.

use super::cx::{Fail, malformed};
use super::walk::Walk;
use crate::error::{ImportError, ImportErrorKind};
use lockstep_graph::{Origin, Weights};
use lockstep_onnx_protobuf::TensorProto;

/// The `bytes` bytes of a tensor's external data, not copied.
pub(super) fn read(walk: &mut Walk<'_>, proto: &TensorProto, bytes: usize) -> Result<Weights, Fail> {
    let entry = |key: &str| {
        proto
            .external_data
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    };
    let Some(location) = entry("location") else {
        return malformed("its external data has no location");
    };
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text.trim().parse::<usize>().map(Some).or_else(|_| {
            malformed(format!(
                "its external {key} is \"{}\", allowed: a number",
                text.escape_debug()
            ))
        }),
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?;
    check_path(location)?;
    if !walk.files.contains_key(location) {
        let file = walk.source.read(location).map_err(|source| {
            let kind = ImportErrorKind::ReadTensor {
                tensor: proto.name.clone(),
                file: location.into(),
                source,
            };
            ImportError::new(kind, Origin::file(walk.file.clone()))
        })?;
        walk.files.insert(location.into(), file);
    }
    let Some(file) = walk.files.get(location) else {
        return malformed("its external file is gone");
    };
    let length = length.unwrap_or(file.len().saturating_sub(offset).min(bytes));
    match offset.checked_add(length) {
        Some(end) if end <= file.len() && length == bytes => Ok(Weights::new(file.slice(offset..end))),
        Some(end) if end <= file.len() => {
            malformed(format!("its external data has {length} bytes, its type needs {bytes}"))
        }
        _ => malformed(format!(
            "its external data is {length} bytes at offset {offset}, but \"{}\" has {} bytes",
            location.escape_debug(),
            file.len()
        )),
    }
}

/// Refuses paths that could leave the model's directory.
fn check_path(path: &str) -> Result<(), Fail> {
    let absolute = path.starts_with('/') || path.contains('\\') || path.contains(':');
    let relative = path.split('/').all(|part| !part.is_empty() && part != "..");
    if absolute || !relative || path.contains('\0') {
        return malformed(format!(
            "its external file is \"{}\", allowed: a path below the model's directory",
            path.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_model() {
        for path in [
            "",
            "/etc/passwd",
            "../w.bin",
            "a/../../w",
            "C:/w",
            "a\\b",
            "a//b",
            "a\0b",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("weights/part-1.bin").is_ok() && check_path("./w.bin").is_ok());
    }
}
