//! The ONNX protobuf messages for prost, zero-copy.
