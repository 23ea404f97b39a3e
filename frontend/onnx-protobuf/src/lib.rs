//! The messages of ONNX's protobuf schema (IR version 13) for prost, written from the published field numbers.
//!
//! Bulk data (`raw_data`, `string_data`, attribute strings) is [`bytes::Bytes`]: decoding from a [`Bytes`] that wraps a memory map copies none of it.
//! Enumerations stay `i32`, so that values newer than this schema survive decoding; unknown fields are skipped. Nesting deeper than prost's limit is an error.

mod graph;
mod model;
mod tensor;

pub use graph::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, NodeProto, TensorAnnotation, TrainingInfoProto,
};
pub use model::{
    DeviceConfigurationProto, IntIntListEntryProto, ModelProto, NodeDeviceConfigurationProto, OperatorSetIdProto,
    ShardedDimProto, ShardingSpecProto, SimpleShardedDimProto, StringStringEntryProto, simple_sharded_dim,
};
pub use prost::Message;
pub use tensor::{
    DataLocation, DataType, Dimension, MapType, Segment, SequenceType, SparseTensorProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto, dimension, type_proto,
};

use bytes::Bytes;

/// Bytes that are no protobuf message of the expected type; one short line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid protobuf message: {0}")]
pub struct DecodeError(String);

/// Decodes a model without copying its tensors.
///
/// # Errors
/// If the bytes are no `ModelProto` or nest too deeply.
pub fn decode_model(bytes: Bytes) -> Result<ModelProto, DecodeError> {
    decode(bytes)
}

/// Decodes a single tensor, as the ONNX test data stores them.
///
/// # Errors
/// If the bytes are no `TensorProto`.
pub fn decode_tensor(bytes: Bytes) -> Result<TensorProto, DecodeError> {
    decode(bytes)
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|error| DecodeError(shorten(&error.to_string())))
}

/// Keeps the end of prost's message path (which lists every level of nesting) readable.
fn shorten(message: &str) -> String {
    const LIMIT: usize = 160;
    if message.len() <= LIMIT {
        return message.replace('\n', " ");
    }
    let head: String = message.chars().take(60).collect();
    let tail: Vec<char> = message.chars().rev().take(80).collect();
    format!("{} .. {}", head, tail.into_iter().rev().collect::<String>()).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_data_is_not_copied() {
        let tensor = TensorProto {
            raw_data: Bytes::from(vec![7u8; 1000]),
            ..TensorProto::default()
        };
        let bytes = Bytes::from(tensor.encode_to_vec());
        let back = decode_tensor(bytes.clone()).unwrap();
        let (outer, inner) = (bytes.as_ptr() as usize, back.raw_data.as_ptr() as usize);
        assert_eq!(back.raw_data.len(), 1000);
        assert!(inner >= outer && inner + 1000 <= outer + bytes.len());
    }

    /// A model whose graph holds a node with a graph attribute that holds a node, `depth` times; encoded by hand since encoding recurses.
    fn nested(depth: usize) -> Vec<u8> {
        fn wrap(field: u32, body: &[u8]) -> Vec<u8> {
            let mut out = Vec::new();
            prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut out);
            prost::encoding::encode_varint(body.len() as u64, &mut out);
            out.extend_from_slice(body);
            out
        }
        let mut body = Vec::new();
        for _ in 0..depth {
            body = wrap(1, &wrap(5, &wrap(6, &body)));
        }
        wrap(7, &body)
    }

    #[test]
    fn deep_nesting_is_a_short_error() {
        assert!(decode_model(nested(5).into()).is_ok());
        let error = decode_model(nested(3000).into()).unwrap_err().to_string();
        assert!(error.contains("recursion limit") && error.len() < 250, "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode_model(Bytes::from_static(b"\x0a\xff\xff\xff\xff\x7f")).is_err());
        assert!(decode_model(Bytes::from(vec![0x3b; 4096])).is_err());
    }
}
