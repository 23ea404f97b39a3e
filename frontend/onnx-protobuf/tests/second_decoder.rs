//! An independently written decoder must agree with ours on every field that both schemas have.
//!
//! What ours decodes and encodes again must mean the same to the other, field for field, and the reverse. A field with a wrong number or
//! wire type, or one that is missing, breaks one of the two.

use lockstep_onnx_protobuf::{Message as _, ModelProto, TensorProto};
use protobuf::Message as _;

/// Checks one message in both directions, by encoded bytes, which tell NaNs apart; the name is for the report.
fn agree<Ours, Theirs>(name: &str, bytes: &[u8])
where
    Ours: prost::Message + Default,
    Theirs: protobuf::Message,
{
    let ours = |bytes: &[u8]| {
        Ours::decode(bytes)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .encode_to_vec()
    };
    let theirs = |bytes: &[u8]| {
        let message = Theirs::parse_from_bytes(bytes).and_then(|message| message.write_to_bytes());
        message.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(
        theirs(&ours(bytes)) == theirs(bytes),
        "{name}: our decoder loses or changes a field"
    );
    assert!(
        ours(&theirs(bytes)) == ours(bytes),
        "{name}: our decoder sees what the other does not"
    );
}

#[test]
fn built_models() {
    for (name, build) in lockstep_testkit::onnx_cases::CASES {
        agree::<ModelProto, onnx_protobuf::ModelProto>(name, &build().build());
    }
}

#[test]
fn a_lost_field_is_noticed() {
    let tensor = TensorProto {
        name: "w".into(),
        dims: vec![2],
        doc_string: "x".into(),
        ..TensorProto::default()
    };
    let theirs = onnx_protobuf::TensorProto::parse_from_bytes(&tensor.encode_to_vec());
    let less = TensorProto {
        doc_string: String::new(),
        ..tensor
    };
    let theirs_less = onnx_protobuf::TensorProto::parse_from_bytes(&less.encode_to_vec());
    assert!(theirs.is_ok() && theirs_less.is_ok() && theirs.ok() != theirs_less.ok());
}

/// Every model and tensor of the fetched ONNX test data and every fetched model.
#[cfg(feature = "models")]
#[test]
fn fetched_files() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let (mut todo, mut models, mut tensors) = (vec![root], 0, 0);
    while let Some(directory) = todo.pop() {
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.display().to_string();
            let read = || std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => todo.push(path),
                Some("onnx") => {
                    agree::<ModelProto, onnx_protobuf::ModelProto>(&name, &read());
                    models += 1;
                }
                Some("pb") if tensor_file(&name) => {
                    agree::<TensorProto, onnx_protobuf::TensorProto>(&name, &read());
                    tensors += 1;
                }
                _ => {}
            }
        }
    }
    assert!(models > 1000 && tensors > 3000, "{models} models and {tensors} tensors");
}

/// Files of sequence and optional operators hold other messages than tensors.
#[cfg(feature = "models")]
fn tensor_file(name: &str) -> bool {
    ![
        "sequence",
        "optional",
        "identity_opt",
        "loop",
        "if_seq",
        "if_opt",
        "range_float",
    ]
    .iter()
    .any(|kind| name.contains(kind))
}
